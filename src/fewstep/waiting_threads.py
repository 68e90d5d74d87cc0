"""How OpenMP's threads wait for work: asleep, so that a busy machine keeps its cores."""

from __future__ import annotations

import os

# By default waiting threads spin for a while, on cores that other processes or the other threads need.
POLICY = ("OMP_WAIT_POLICY", "PASSIVE")
# What users may have set themselves: the policy, GNU's number of spins, or the block time of Intel's and LLVM's OpenMP.
_USERS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")


def let_threads_sleep() -> None:
    """Sets `POLICY` for this process and those it starts, unless the user said how threads wait.

    OpenMP reads it once, as torch loads it: to be called before anything imports torch.
    """
    if not any(name in os.environ for name in _USERS):
        os.environ[POLICY[0]] = POLICY[1]
