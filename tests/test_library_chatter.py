"""What libraries say as they are imported stays out of a command's output; what they say otherwise does not."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from fewstep.library_chatter import quiet_imports


def test_a_command_says_its_own_things_alone() -> None:
    """It imports diffusers, transformers and peft, and whatever of the extras is installed."""
    command = [sys.executable, "-m", "fewstep", "run", "shapes-demo", "--dry-run"]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True)
    first, second, third, *_ = result.stdout.splitlines()
    assert first == "reading the recipe shapes-demo"
    assert second.startswith("precision: ") and third == "teacher: shapes"


def test_other_messages_of_the_same_libraries_are_shown(caplog: pytest.LogCaptureFixture) -> None:
    quiet_imports()
    for sentence in ("Failed to load _C_cutlass_90a.abi3.so", "a weight is missing"):
        logging.getLogger("torchao").warning(sentence)
    assert caplog.messages == ["a weight is missing"]
