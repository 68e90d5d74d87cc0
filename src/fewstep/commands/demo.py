"""`fewstep demo`: what this project is about, in minutes on a small machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("runs/demo"),
    num: Annotated[int, typer.Option(min=2, help="Clips per step count.")] = 96,
    seed: Annotated[int, typer.Option(min=0, help="Seed of prompts and noise.")] = 0,
) -> None:
    """Sample the embedded teacher at 50, 8, 4 and 2 steps and see it fall apart."""
    from fewstep.commands.teacher import measure
    from fewstep.eval.steps_table import Protocol

    command = ["fewstep", "demo", "--out", out, "--num", num, "--seed", seed]
    rows = measure("shapes", [50, 8, 4, 2], Protocol(num, guidance=5.0, seed=seed), command, out / "teacher.json")
    best, worst = (next(r for r in rows if r.get("steps") == steps) for steps in (50, 2))
    typer.echo(
        f"At 2 steps the teacher is {worst['shapes_fd'] / best['shapes_fd']:.1f} times as far from real clips "
        f"as at 50, and {best['seconds'] / worst['seconds']:.0f} times as fast: a student is to have both."
    )
