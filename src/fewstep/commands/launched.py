"""Which commands several processes share, as `torchrun` starts them, and the refusal of others to be started so."""

from __future__ import annotations

from fewstep.teacher.ranks import num_launched

SHARED_VERBS = ("data rollouts", "data videos", "evaluate", "run", "vbench videos")
GROUPS = {command.split()[0] for command in SHARED_VERBS}  # whose commands check for themselves


def check_alone(command: str) -> None:
    """Raises ValueError when a launcher has started several processes of a command that is the work of one."""
    if (num_processes := num_launched()) > 1:
        raise ValueError(
            f"`fewstep {command}` runs in one process, and {num_processes} were started: start it without a launcher; "
            f"{', '.join(SHARED_VERBS[:-1])} and {SHARED_VERBS[-1]} share their work between processes"
        )
