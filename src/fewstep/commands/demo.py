"""`fewstep demo`: what this project is about, in minutes on a small machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the run and its report.")] = Path("runs/demo"),
    num: Annotated[int, typer.Option(min=2, help="Clips per row of the table.")] = 96,
    seed: Annotated[int, typer.Option(min=0, help="Seed of training, prompts and noise.")] = 0,
) -> None:
    """Distil the embedded teacher to four steps, and see what it and its students are worth."""
    from fewstep.commands.run import follow
    from fewstep.commands.student import measure
    from fewstep.distill.recipe import read_recipe
    from fewstep.eval.steps_table import Protocol

    plan = read_recipe("shapes-demo", [f"out={out}", f"seed={seed}"])
    follow(plan)
    command = ["fewstep", "demo", "--out", out, "--num", num, "--seed", seed]
    protocol = Protocol(num, guidance=3.0, seed=seed, reference=1024)
    rows = measure([out], [50, 8, 4], protocol, command, out / "relay.json", to_teacher=False)
    teacher = {row["steps"]: row for row in rows if row["model"] == "teacher"}
    student = [row for row in rows if row["model"] == "student" and row["steps"] == 4][-1]
    best = teacher[50]["shapes_fd"]
    typer.echo(
        f"At 4 steps the teacher is {teacher[4]['shapes_fd'] / best:.2f} times as far from real clips as at 50, and "
        f"its student {student['shapes_fd'] / best:.2f} times, with a 25th of the teacher's forward passes."
    )
