"""`fewstep demo`: what this project is about, in minutes on a small machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

_METRICS = "shapes-fd,prompt-accuracy,psnr,ssim,latent-mse,motion,saturation,contrast,blank"  # none needs more clips


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the run and its report.")] = Path("runs/demo"),
    num: Annotated[int, typer.Option(min=3, help="Clips of each model.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Seed of training, prompts and noise.")] = 0,
) -> None:
    """Distil the embedded teacher to four steps, and see in a report what it and its student are worth."""
    from fewstep.commands.run_screen import RunScreen

    screen = RunScreen()
    screen.say("reading the recipe shapes-demo")
    from fewstep.commands.benchmark import benchmark
    from fewstep.commands.evaluate import evaluate
    from fewstep.commands.report import report
    from fewstep.commands.run import follow
    from fewstep.distill.recipe import read_recipe
    from fewstep.eval.evaluation_file import check_begun
    from fewstep.teacher.atomic import check_writable

    check_writable(out)
    check_begun(out / "evaluation", {"num": num, "seed": seed})
    with screen:
        follow(read_recipe("shapes-demo", [f"out={out}", f"seed={seed}"]), screen=screen, option="--out DIR")
    models = ["teacher-50=shapes@50", "teacher-4=shapes@4", f"student-4={out}@4"]
    evaluate(models, num=num, out=out / "evaluation", seed=seed, batch=16, metrics=_METRICS, world_clips=1024)
    benchmark(models, repetitions=5, out=out / "benchmark.json")
    report([out], out=out / "report.html")
    screen.result(_verdict(out))


def _verdict(out: Path) -> str:
    """The demo in a sentence or two, from its own figures."""
    from fewstep.eval.caution import unfit

    rows = json.loads((out / "evaluation" / "results.json").read_text("utf-8"))["rows"]
    found = {row["model"]: row["metrics"]["shapes-fd"] for row in rows}
    timed = json.loads((out / "benchmark.json").read_text("utf-8"))["rows"]
    faster = {row["model"]: row["denoise_speedup"] for row in timed}["student-4"]
    best, few, student = (found[name] for name in ("teacher-50", "teacher-4", "student-4"))
    sentence = (
        f"At 4 steps the teacher is {few['value'] / best['value']:.2f} times as far from real clips as at 50, and its "
        f"student {student['value'] / best['value']:.2f} times, with denoising {faster:.0f} times as fast."
    )
    why = unfit(student)
    if why:
        return f"{sentence} These distances are a first look and no verdict: {why}."
    if student["low"] <= few["high"] and few["low"] <= student["high"]:
        return f"{sentence} The intervals of both at 4 steps overlap, so {student['num']} clips do not tell them apart."
    return sentence
