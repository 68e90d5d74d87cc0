"""OpenMP's idle threads spin briefly, unless the user said how they wait; it is resolved before torch is imported."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# Prints what OpenMP's library will read at the moment when anything first asks for torch.
SPY = """
import os, sys

class Spy:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("at torch:", os.environ.get("OMP_WAIT_POLICY"), os.environ.get("GOMP_SPINCOUNT"))
            sys.stdout.flush()
            os._exit(0)

sys.meta_path.insert(0, Spy())
sys.argv = ["fewstep", "sample", "shapes", "--prompt", "a ring", "--out", "never.mp4"]
"""
STARTS = {
    "fewstep": "from fewstep.cli import main; main()",
    "python -m fewstep": "import runpy; runpy.run_module('fewstep', run_name='__main__', alter_sys=False)",
}
NAMES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")


def at_torch(start: str, **text: str) -> str:
    """What the environment holds when the command comes to torch, started with what the user said."""
    environment = {name: value for name, value in os.environ.items() if name not in NAMES} | text
    command = [sys.executable, "-c", SPY + STARTS[start]]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.strip()


@pytest.mark.parametrize("start", STARTS)
def test_threads_spin_briefly_from_the_first_import_of_torch_on(start: str) -> None:
    assert at_torch(start) == "at torch: None 10000"


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE None"),
        ({"OMP_WAIT_POLICY": ""}, " None"),
        ({"GOMP_SPINCOUNT": "1000"}, "None 1000"),
        ({"KMP_BLOCKTIME": "200"}, "None None"),
        ({"KMP_LIBRARY": "turnaround"}, "None None"),
    ],
)
def test_what_the_user_said_stays(text: dict[str, str], printed: str) -> None:
    assert at_torch("fewstep", **text) == f"at torch: {printed}"
