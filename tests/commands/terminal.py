"""Commands whose standard output and error are a terminal, a file or a pipe each."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

Stream = Literal["terminal", "file", "pipe"]


class Seen(NamedTuple):
    """What came out where; `terminal` still has its control codes."""

    code: int
    terminal: str
    stdout: str
    stderr: str

    @property
    def plain(self) -> str:
        """The terminal's text without colours and cursor movements, each state of a line on its own."""
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.terminal).replace("\r", "\n")


def seen(
    command: Sequence[str], folder: Path, stdout: Stream, stderr: Stream, columns: int = 100, **environment: str
) -> Seen:
    """Runs a command with its two streams joined to these."""
    main, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    clean = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR", "FORCE_COLOR", "RANK")}
    ends: dict[str, Any] = {}
    for name, kind in (("stdout", stdout), ("stderr", stderr)):
        ends[name] = {"terminal": terminal, "pipe": subprocess.PIPE, "file": None}[kind] or (folder / name).open("w")
    process = subprocess.Popen(command, **ends, text=True, env=clean | {"TERM": "xterm-256color"} | environment)
    os.close(terminal)
    content = bytearray()
    with suppress(OSError):  # a terminal that nobody writes to any more
        while part := os.read(main, 65536):
            content += part
    piped = process.communicate(timeout=120)
    os.close(main)
    texts = [
        (folder / name).read_text() if kind == "file" else text or ""
        for name, kind, text in (("stdout", stdout, piped[0]), ("stderr", stderr, piped[1]))
    ]
    return Seen(process.returncode, content.decode(errors="replace"), *texts)
