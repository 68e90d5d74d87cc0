"""`fewstep report`: runs, their evaluations and benchmarks as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from fewstep.eval.report.inputs import Benchmark, Comparison, RunRecord, StageRecord


def report(
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="RUN...", help="Folders of runs; an evaluation's folder will do.")
    ] = None,
    evaluation: Annotated[
        list[Path] | None, typer.Option(metavar="DIR", help="An evaluation's folder; RUN/evaluation by default.")
    ] = None,
    benchmark: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A benchmark's JSON; RUN/benchmark.json by default.")
    ] = None,
    prompts: Annotated[int, typer.Option(min=1, help="How many prompts' clips the page holds, at most.")] = 6,
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
) -> None:
    """Make one HTML page of clips side by side, quality, latency and training; it needs neither server nor network."""
    from fewstep.eval.report.inputs import read_benchmark
    from fewstep.eval.report.page import Material, write_report
    from fewstep.teacher.atomic import check_writable

    if not out.absolute().parent.is_dir():
        raise ValueError(f"there is no folder {out.absolute().parent} to write {out.name} into: make it first")
    check_writable(out.absolute().parent)
    if not folders and not evaluation:
        raise ValueError("there is nothing to report: name the folder of a run, or an evaluation's with --evaluation")
    runs, evaluations = _sorted(folders or [])
    given = None if benchmark is None else read_benchmark(benchmark)
    measured = {run: given or _benchmark(run) for run in runs}
    evaluations += evaluation or []
    evaluations += [run / "evaluation" for run in runs if (run / "evaluation" / "results.json").is_file()]
    comparisons = [_comparison(folder, measured, given) for folder in _once(evaluations)]
    benchmarks = [given, *measured.values(), *(comparison.benchmark for comparison in comparisons)]
    found: list[Benchmark] = []
    for one in benchmarks:
        if one is not None and one not in found:
            found.append(one)
    write_report(out, Material([_run(run) for run in runs], comparisons, found), prompts)
    typer.echo(f"{out}: open it in a browser")


def _sorted(folders: list[Path]) -> tuple[list[Path], list[Path]]:
    """Runs and evaluations. Raises ValueError for a folder that is neither, or without any."""
    runs, evaluations = [], []
    for folder in _once(folders):
        if (folder / "recipe.yaml").is_file():
            runs.append(folder)
        elif (folder / "results.json").is_file():
            evaluations.append(folder)
        else:
            raise ValueError(
                f"{folder} is neither a run (it has no recipe.yaml) nor an evaluation (it has no results.json): pass "
                "the folder of a `fewstep run` or a `fewstep evaluate`"
            )
    return runs, evaluations


def _once(folders: list[Path]) -> list[Path]:
    return list({folder.resolve(): folder for folder in reversed(folders)}.values())[::-1]


def _benchmark(run: Path) -> Benchmark | None:
    from fewstep.eval.report.inputs import read_benchmark

    path = run / "benchmark.json"
    return read_benchmark(path) if path.is_file() else None


def _comparison(folder: Path, measured: dict[Path, Benchmark | None], given: Benchmark | None) -> Comparison:
    """With the benchmark of its run, else with one that has measured its models."""
    from fewstep.eval.report.inputs import Comparison, read_evaluation

    evaluation = read_evaluation(folder)
    own = [found for run, found in measured.items() if run.resolve() in folder.resolve().parents]
    fitting = [one for one in (*own, given, *measured.values()) if one and any(one.of(row) for row in evaluation.rows)]
    return Comparison(folder, evaluation, fitting[0] if fitting else None)


def _run(folder: Path) -> RunRecord:
    """What a run's folder says; a run of another machine will do, so nothing that its recipe names is looked for."""
    import yaml

    from fewstep.distill.overrides import load_yaml
    from fewstep.eval.report.inputs import RunRecord

    path = folder / "recipe.yaml"
    try:
        recipe = load_yaml(path.read_text("utf-8"))
        prompts = list(recipe["logging"]["prompts"])
        return RunRecord(folder, str(recipe["teacher"]), prompts, [_stage(folder, raw) for raw in recipe["stages"]])
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not the recipe that `fewstep run` keeps: restore it, or run it again") from error


def _stage(folder: Path, raw: dict[str, Any]) -> StageRecord:
    from fewstep.distill.curves import read_curve
    from fewstep.distill.run_folder import RunFolder
    from fewstep.eval.report.inputs import StageRecord

    run, name, objective = RunFolder(folder), raw["name"], raw["objective"]
    result = run.result(name) if run.finished(name) else None
    samples = sorted(path for path in (run.samples / name).glob("step-*") if path.is_dir())
    return StageRecord(
        name=name,
        teacher_steps=raw["teacher_steps"],
        student_steps=raw["student_steps"],
        objective=objective["kind"] + (", relaxed" if objective.get("conditional") is False else ""),
        steps=raw["steps"],
        gate=_gate(raw["gate"], name, result),
        result=result,
        curve=read_curve(folder / "curves" / f"{name}.jsonl"),
        samples=samples[-1] if samples else None,
    )


def _gate(raw: dict[str, Any] | None, name: str, result: dict[str, Any] | None) -> str:
    """Why a finished stage's gate did not open; empty when it did, or there is none."""
    if raw is None or result is None:
        return ""
    found, most, least = result.get(raw["metric"]), raw["at_most"], raw["at_least"]
    if found is None or (found <= most if most is not None else found >= least):
        return ""
    limit = f"at most {most:g}" if most is not None else f"at least {least:g}"
    return f"the gate of stage {name} did not open: {raw['metric']} is {found:.3g}, and it asks for {limit}"
