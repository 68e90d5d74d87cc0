"""A command as a user types it."""

from __future__ import annotations

import re

from typer.testing import CliRunner

from fewstep import cli


def fewstep(*arguments: object) -> tuple[int, str]:
    """Exit code, and what stood on a wide screen, without colours. Raises what the command did not catch."""
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments], env={"COLUMNS": "250"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, re.sub(r"\x1b\[[0-9;]*m", "", result.output)
