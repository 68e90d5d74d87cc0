"""torchrun, as tests start it."""

from __future__ import annotations

import sys


def torchrun(count: int, *arguments: object) -> list[str]:
    """The command that starts these, a script or -m MODULE first, in so many processes of this machine."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
    return [*launcher, *map(str, arguments)]
