"""How long OpenMP's idle threads spin before they sleep: briefly, so that a busy machine keeps its cores."""

from __future__ import annotations

import os

# By default an idle thread spins 300,000 times before it sleeps, on a core that another process or thread may need.
# With 10,000 a loaded machine computes three times as fast and a quiet one as fast as before. Not OMP_WAIT_POLICY=
# PASSIVE: without any spinning a quiet machine is an eighth slower (LOG.md, 2026-11-27).
SPIN_COUNT = ("GOMP_SPINCOUNT", "10000")
# What users may have set themselves: the policy, GNU's number of spins, or the block time of Intel's and LLVM's OpenMP.
_USERS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")


def shorten_spinning() -> None:
    """Sets `SPIN_COUNT` for this process and those it starts, unless the user said how threads wait.

    OpenMP reads it once, as torch loads it: to be called before anything imports torch.
    """
    if not any(name in os.environ for name in _USERS):
        os.environ[SPIN_COUNT[0]] = SPIN_COUNT[1]
