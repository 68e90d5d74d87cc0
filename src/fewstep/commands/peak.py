"""How much memory this process has taken so far."""

from __future__ import annotations

import sys

from fewstep.teacher.limits import GIB


def peak_text() -> str:
    """`peak 1.2 GiB`: of torch's allocations on the GPU where it has any, else of the process's resident set."""
    return f"peak {_peak_bytes() / GIB:.1f} GiB"


def _peak_bytes() -> int:
    torch = sys.modules.get("torch")  # what has not imported it has not used a GPU either
    if torch is not None and torch.cuda.is_initialized():
        allocated = int(torch.cuda.max_memory_allocated())
        if allocated:
            return allocated
    return _peak_resident_bytes()


def _peak_resident_bytes() -> int:
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return highest if sys.platform == "darwin" else 1024 * highest
