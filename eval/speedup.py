"""How much faster few steps are: measured, ideal, and what Amdahl's law leaves of it (method.md, section 5)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fewstep.eval.results import TableRow


def speedups(row: TableRow, teacher: TableRow) -> dict[str, float]:
    """The whole and the denoising against the teacher's; the ideal is N_T g / N_S, all of the time in the denoiser."""
    return {
        "speedup": teacher["total_seconds"] / row["total_seconds"],
        "denoise_speedup": teacher["denoise_seconds"] / row["denoise_seconds"],
        "ideal_speedup": teacher["evaluations"] / row["evaluations"],
    }


def amdahl_fit(rows: Sequence[TableRow]) -> dict[str, float] | None:
    """total = f + c evaluations by least squares over all rows; None when they have one number of evaluations.

    So S = (f + N_T g c) / (f + N_S c): however few the steps, f stays.
    """
    evaluations = np.array([row["evaluations"] for row in rows], dtype=np.float64)
    totals = np.array([row["total_seconds"] for row in rows], dtype=np.float64)
    if len(set(evaluations.tolist())) < 2:
        return None
    design = np.stack([np.ones_like(evaluations), evaluations], axis=1)
    fixed, per_evaluation = np.linalg.lstsq(design, totals, rcond=None)[0]
    return {"fixed_seconds": float(fixed), "seconds_per_evaluation": float(per_evaluation)}
