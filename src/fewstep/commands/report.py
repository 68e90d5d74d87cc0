"""`fewstep report`: runs, their evaluations and benchmarks as one HTML page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from fewstep.eval.report.inputs import BenchmarkRecord, Comparison, Judging, RunRecord, StageRecord
    from fewstep.eval.report.kept import KeptGate, KeptStage


def report(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="RUN...", help="Run directories; an evaluation's folder works as well."),
    ] = None,
    evaluation: Annotated[
        list[Path] | None, typer.Option(metavar="DIR", help="An evaluation's folder; RUN/evaluation by default.")
    ] = None,
    benchmark: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A benchmark's JSON; RUN/benchmark.json by default.")
    ] = None,
    prompts: Annotated[int, typer.Option(min=1, help="The most prompts whose clips are shown.")] = 6,
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
) -> None:
    """Make one HTML page of clips side by side, quality, latency and training; it needs neither server nor network."""
    from fewstep.eval.report.inputs import read_benchmark
    from fewstep.eval.report.page import ReportInputs, write_report
    from fewstep.teacher.files.atomic import check_writable_file

    if not out.absolute().parent.is_dir():
        raise ValueError(f"there is no folder {out.absolute().parent} to write {out.name} into: make it first")
    check_writable_file(out, [".html", ".htm"])
    if not folders and not evaluation:
        raise ValueError(
            "there is nothing to report: name a run directory, or an evaluation's folder with --evaluation"
        )
    # folders are known by what lies in them, and evaluations inside runs are found
    runs, evaluations = _sorted(folders or [])
    evaluations += evaluation or []
    evaluations += [run / "evaluation" for run in runs if (run / "evaluation" / "results.json").is_file()]
    evaluations = _once(evaluations)
    _check_sources(runs, evaluations, benchmark)
    given = None if benchmark is None else read_benchmark(benchmark)
    measured = {run: given or _benchmark(run) for run in runs}
    comparisons = [_comparison(folder, measured, given) for folder in evaluations]
    benchmarks = [given, *measured.values(), *(comparison.benchmark for comparison in comparisons)]
    # each benchmark once, however many comparisons refer to it
    known: list[BenchmarkRecord] = []
    for timing in benchmarks:
        if timing is not None and timing not in known:
            known.append(timing)
    for sentence in _missing_clips(comparisons):
        typer.secho(sentence, fg="yellow", err=True)
    write_report(out, ReportInputs([read_run(run) for run in runs], comparisons, known), prompts)
    typer.echo(f"{out}: open it in a browser")


def _check_sources(runs: list[Path], evaluations: list[Path], benchmark: Path | None) -> None:
    """Raises ValueError naming every run, evaluation and benchmark that cannot be read."""
    from fewstep.eval.report.inputs import read_benchmark, read_evaluation

    def attempts() -> Iterator[Callable[[], object]]:
        yield from (partial(read_run, run) for run in runs)
        yield from (partial(_benchmark, run) for run in runs if benchmark is None)
        yield from (partial(read_evaluation, folder) for folder in evaluations)
        yield from () if benchmark is None else (partial(read_benchmark, benchmark),)

    wrong: list[str] = []
    for attempt in attempts():
        try:
            attempt()
        except (ValueError, OSError) as error:
            wrong.append(" ".join(str(error).split()))
    if wrong:
        raise ValueError("; ".join(dict.fromkeys(wrong)))


def _missing_clips(comparisons: list[Comparison]) -> list[str]:
    """Sentences about models whose clips went away: the page shows them without."""
    return [
        f"{folder} holds no clips of {row.model}, so the page shows its figures alone"
        for comparison in comparisons
        for row in comparison.evaluation.rows
        if row.videos and not any((folder := comparison.folder / row.videos).glob("*.mp4"))
    ]


def _sorted(folders: list[Path]) -> tuple[list[Path], list[Path]]:
    """Runs and evaluations. Raises ValueError naming every folder that is neither."""
    runs, evaluations, neither = [], [], []
    for folder in _once(folders):
        if (folder / "recipe.yaml").is_file():
            runs.append(folder)
        elif (folder / "results.json").is_file():
            evaluations.append(folder)
        else:
            neither.append(folder)
    if gone := [str(folder) for folder in neither if not folder.exists()]:
        raise ValueError(f"there is no folder {' nor '.join(gone)}: pass a run directory or an evaluation's folder")
    if neither:
        raise ValueError(
            f"{' and '.join(map(str, neither))} is neither a run (it has no recipe.yaml) nor an evaluation (it has no "
            "results.json): pass the folder of a `fewstep run` or a `fewstep evaluate`"
        )
    return runs, evaluations


def _once(folders: list[Path]) -> list[Path]:
    return list({folder.resolve(): folder for folder in reversed(folders)}.values())[::-1]


def _benchmark(run: Path) -> BenchmarkRecord | None:
    from fewstep.eval.report.inputs import read_benchmark

    path = run / "benchmark.json"
    return read_benchmark(path) if path.is_file() else None


def _comparison(
    folder: Path, measured: dict[Path, BenchmarkRecord | None], given: BenchmarkRecord | None
) -> Comparison:
    """With the benchmark of its run, else with one that has measured its models."""
    from fewstep.eval.report.inputs import Comparison, read_evaluation

    evaluation = read_evaluation(folder)
    own = [
        measured_benchmark for run, measured_benchmark in measured.items() if run.resolve() in folder.resolve().parents
    ]
    rows = evaluation.rows
    fitting = [timed for timed in (*own, given) if timed and any(timed.of(row) for row in rows)]
    # a benchmark of another run may have other models of the same names, such as "student"
    fitting += [timed for timed in measured.values() if timed and any(timed.has_timed(row) for row in rows)]
    fitting = [timed for timed in fitting if timed.is_of_size(evaluation)]
    return Comparison(folder, evaluation, fitting[0] if fitting else None)


def read_run(folder: Path) -> RunRecord:
    """What a run directory says; a run of another machine will do, so nothing that its recipe names is looked for."""
    import yaml
    from pydantic import ValidationError

    from fewstep.eval.report.inputs import RunRecord
    from fewstep.eval.report.kept import KeptRecipe
    from fewstep.teacher.files.yaml_text import load_yaml

    path = folder / "recipe.yaml"
    try:
        recipe = KeptRecipe.model_validate(load_yaml(path.read_text("utf-8")))
        judging = [_judging(stage) for stage in recipe.stages]
    except (yaml.YAMLError, UnicodeDecodeError, ValidationError) as error:
        raise ValueError(f"{path} is not the recipe that `fewstep run` keeps: restore it, or run it again") from error
    starts = [None, *(stage.name for stage in recipe.stages)]  # of a stage that names none: the one before it
    stages = [_stage(folder, *arguments) for arguments in zip(recipe.stages, starts, judging, strict=False)]
    prompts = [text if isinstance(text, str) else str(text.get("prompt", "")) for text in recipe.logging.prompts]
    return RunRecord(folder, recipe.teacher, prompts, stages, recipe.seed)


def _judging(stage: KeptStage) -> Judging | None:
    """What the discriminator of a stage judges; None without one."""
    from fewstep.distill.objectives.registry import OBJECTIVES
    from fewstep.eval.report.inputs import Judging

    kind = OBJECTIVES.get(stage.objective.kind)  # None: the run is of a version that has another one
    has_one = kind is not None and kind.has_discriminator
    return Judging.model_validate(stage.objective.settings) if has_one else None


def _stage(folder: Path, kept: KeptStage, before: str | None, judging: Judging | None) -> StageRecord:
    """What is there of a stage; `before` is the one before it."""
    from fewstep.distill.curves import read_curve
    from fewstep.distill.objectives.registry import OBJECTIVES
    from fewstep.distill.run_folder import RunFolder
    from fewstep.distill.settings import BASE_TEACHER
    from fewstep.eval.report.inputs import StageRecord

    run, name, kind = RunFolder(folder), kept.name, OBJECTIVES.get(kept.objective.kind)
    result = run.result(name) if run.finished(name) else None
    # samples of the last step that has any
    samples = sorted(path for path in (run.samples / name).glob("step-*") if path.is_dir())
    return StageRecord(
        name=name,
        teacher_steps=kept.teacher_steps,
        student_steps=kept.student_steps,
        objective=kept.objective.kind + ("" if kept.objective.conditional else ", relaxed"),
        steps=kept.steps,
        gate=_gate(kept.gate, name, result),
        result=result,
        curve=read_curve(folder / "curves" / f"{name}.jsonl"),
        samples=samples[-1] if samples else None,
        # none named: the stage before; the teacher is no stage, so that nothing stands for it
        start={None: before, BASE_TEACHER: None}.get(kept.start, kept.start),
        regression=kind is not None and kind.is_regression,
        judging=judging,
    )


def _gate(kept: KeptGate | None, name: str, result: dict[str, Any] | None) -> str:
    """Why a finished stage's gate did not open; empty when it did, or there is none."""
    from fewstep.distill.settings import Gate

    value = None if kept is None or result is None else result.get(kept.metric)
    if kept is None or value is None or (kept.at_most is None) == (kept.at_least is None):
        return ""
    # not validated: the run may be of a version that has other metrics
    gate = Gate.model_construct(**kept.model_dump())
    if gate.opens(value):
        return ""
    return f"the gate of stage {name} was not reached: {gate.metric} is {value:.3g}, and it requires {gate.limit}"
