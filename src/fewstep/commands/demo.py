"""`fewstep demo`: what this project is about, in minutes on a small machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from fewstep.teacher.limits import MOST_ITEMS

if TYPE_CHECKING:
    from fewstep.commands.demo_plan import DemoPlan
    from fewstep.commands.options import DType
    from fewstep.commands.run_screen import RunScreen
    from fewstep.distill.recipe import Recipe

_METRICS = "shapes-fd,prompt-accuracy,psnr,ssim,latent-mse,motion,saturation,contrast,blank"  # none needs more clips
_TIMED_ROUNDS = 5


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the run and its report.")] = Path("runs/demo"),
    minutes: Annotated[
        float, typer.Option(min=1, help="Time limit: training steps and clips are chosen to fit it on this machine.")
    ] = 10,
    num: Annotated[
        int | None, typer.Option(min=3, max=MOST_ITEMS, help="Clips of each model; by default as many as fit.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of training, prompts and noise.")] = 0,
) -> None:
    """Distil the embedded teacher to four steps, and compare it with its student in a report."""
    from fewstep.commands.run_screen import RunScreen

    screen = RunScreen()
    screen.say("reading the recipe shapes-demo")
    from fewstep.commands.benchmark import time_models
    from fewstep.commands.benchmark_training import FAILED
    from fewstep.commands.evaluate import evaluate_command
    from fewstep.commands.progress import Screen
    from fewstep.commands.report import report
    from fewstep.commands.run_stages import follow_stages
    from fewstep.distill.run_folder import RunFolder
    from fewstep.distill.taken_folders import check_not_taken
    from fewstep.eval.evaluation_file import check_begun, recorded_evaluation_dtype
    from fewstep.eval.latency.benchmark import BenchmarkPlan
    from fewstep.student.sampler import SamplingOptions
    from fewstep.teacher.files.atomic import check_writable

    # what cannot work is refused before minutes are spent on it
    check_writable(out)
    check_not_taken(out)
    check_begun(out / "evaluation", {"seed": seed} | ({} if num is None else {"num": num}))
    with screen:
        # a demo that was begun keeps its plan, whatever else the machine does now
        plan, precision = _begun(screen, out) or _chosen(screen, out, minutes, num)
        clips = num or plan.clips
        check_begun(out / "evaluation", {"num": clips, "seed": seed})
        recipe = _recipe(plan, out, seed, precision)
        follow_stages(recipe, screen=screen, option="--out DIR")
    # in the precision of the run, or in that of an evaluation that was begun before
    computed = cast("DType", RunFolder(out).recorded_precision() or "auto")
    dtype = cast("DType", recorded_evaluation_dtype(out / "evaluation") or computed)
    models = ["teacher-50=shapes@50", "teacher-4=shapes@4", f"student-4={out}@4"]
    # the stage of regression that the adversarial part began with, so that its gain can be measured
    regression = [f"regression-4={RunFolder(out).stage(name)}" for name in _regression(recipe)]
    evaluation = out / "evaluation"
    evaluate_command(
        [*models[:2], *regression, models[2]],
        num=clips,
        out=evaluation,
        seed=seed,
        batch=16,
        metrics=_METRICS,
        world_clips=1024,
        dtype=dtype,
    )
    timing = Screen()
    timing.say(f"timing {', '.join(models)}")
    if time_models(
        models,
        SamplingOptions(),
        BenchmarkPlan(repetitions=_TIMED_ROUNDS, dtype=computed),
        timing,
        out / "benchmark.json",
    )["failed"]:
        raise typer.Exit(FAILED)
    report([out], out=out / "report.html")
    screen.result(_verdict(out))


def _begun(screen: RunScreen, out: Path) -> tuple[DemoPlan, str] | None:
    """The plan that a demo was begun with in `out`, whatever a probe would say now; None where none was.

    A run of shapes-demo without a plan has the recipe's own numbers.
    """
    from fewstep.commands.demo_plan import OWN_PLAN, kept_plan
    from fewstep.distill.run_folder import RECIPE

    plan = kept_plan(out) or (OWN_PLAN if (out / RECIPE).exists() else None)
    if plan is None:
        return None
    screen.say(f"resumed with what {out} was begun with: {plan.numbers}; --minutes counts for a new folder")
    return plan, "auto"


def _chosen(screen: RunScreen, out: Path, minutes: float, num: int | None) -> tuple[DemoPlan, str]:
    """What fits into the minutes by a probe of this machine, kept in `out`, and the precision of the probe."""
    from fewstep.commands import demo_speed
    from fewstep.commands.demo_plan import choose_plan, plan_sentences
    from fewstep.commands.run_precision import resolve_precision
    from fewstep.distill.recipe import read_recipe

    recipe, line = resolve_precision(read_recipe("shapes-demo", [f"out={json.dumps(str(out))}"]))
    if line is not None:
        screen.say(line)
    screen.say("timing a few steps on this machine")
    speed = demo_speed.measure_speed(recipe)
    plan = choose_plan(speed, minutes, num)
    for sentence in plan_sentences(plan, speed, minutes):
        screen.say(sentence)
    plan.save(out)
    return plan, recipe.precision


def _recipe(plan: DemoPlan, out: Path, seed: int, precision: str) -> Recipe:
    """shapes-demo with the plan's numbers; as many prompts as it takes lie in `out`."""
    from fewstep.distill.packaged import RECIPES
    from fewstep.distill.recipe import read_recipe
    from fewstep.teacher.files.atomic import whole_file

    prompts = (out / "prompts.txt").absolute()
    if plan.scale != 1:
        every = (RECIPES / "shapes-prompts.txt").read_text("utf-8").splitlines(keepends=True)
        with whole_file(prompts) as part:
            part.write_text("".join(every[: plan.prompts]), "utf-8")
    settings = [f"out={json.dumps(str(out))}", f"seed={seed}", f"precision={precision}"]
    return read_recipe("shapes-demo", [*settings, *plan.overrides(prompts)])


def _regression(recipe: Recipe) -> list[str]:
    """The stage that the adversarial part begins with, which is as quick: it is measured, and need not be timed."""
    index: int | None = len(recipe.stages) - 1
    last = recipe.stages[-1]
    # back along the line, to the stage of regression that it began with
    while index is not None and not recipe.stages[index].objective.is_regression:
        index = recipe.start_of(index)
    if index is None or (stage := recipe.stages[index]) is last or stage.student_steps != last.student_steps:
        return []
    return [stage.name]


def _verdict(out: Path) -> str:
    """The demo in a few sentences, from its own figures."""
    from fewstep.commands.report import read_run
    from fewstep.eval.report.gain import gains
    from fewstep.eval.report.inputs import Comparison, read_evaluation

    evaluation = out / "evaluation"
    measured = gains([read_run(out)], Comparison(evaluation, read_evaluation(evaluation)))
    return " ".join([_on_distances(out), *(gain.words for gain in measured)])


def _on_distances(out: Path) -> str:
    """The teacher at few steps and its student next to the teacher at many."""
    from fewstep.eval.caution import why_inconclusive

    rows = json.loads((out / "evaluation" / "results.json").read_text("utf-8"))["rows"]
    distances = {row["model"]: row["metrics"]["shapes-fd"] for row in rows}
    timed = json.loads((out / "benchmark.json").read_text("utf-8"))["rows"]
    faster = {row["model"]: row["denoise_speedup"] for row in timed}["student-4"]
    best, few, student = (distances[name] for name in ("teacher-50", "teacher-4", "student-4"))
    sentence = (
        f"At 4 steps the teacher is {few['value'] / best['value']:.2f} times as far from real clips as at 50, and its "
        f"student {student['value'] / best['value']:.2f} times, with denoising {faster:.0f} times as fast."
    )
    # neither few clips nor overlapping intervals tell two models apart
    why = why_inconclusive(student)
    if why:
        return f"{sentence} These distances are a first look and no verdict: {why}."
    if student["low"] <= few["high"] and few["low"] <= student["high"]:
        return f"{sentence} The intervals of both at 4 steps overlap, so {student['num']} clips cannot separate them."
    return sentence
