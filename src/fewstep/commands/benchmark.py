"""`fewstep benchmark`: how long a teacher and its students take, and where the time goes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from fewstep.commands.benchmark_training import FAILED, Overrides, StageNames, Timing, Training, time_training
from fewstep.commands.evaluate import models_of
from fewstep.commands.options import (
    LEVELS,
    DecodersOption,
    DeviceOption,
    DType,
    DTypeOption,
    FramesOption,
    HeightOption,
    PipelineStepsOption,
    ShiftOption,
    WidthOption,
    named_sources,
    optional_guidance_of,
    parse_source,
    resolve_dtype,
)
from fewstep.commands.progress import Screen
from fewstep.commands.tuning_options import (
    Attention,
    ChannelsLast,
    Compile,
    CompileBlocks,
    CudaGraphs,
    MaxError,
    Optimise,
    Overlap,
    QuantiseOption,
    QuantiseText,
    Slicing,
    Tiling,
    take_tuning,
)
from fewstep.teacher.limits import MOST_CLIPS, MOST_ITEMS

if TYPE_CHECKING:
    import torch

    from fewstep.eval.latency.benchmark import Benchmark, BenchmarkPlan
    from fewstep.eval.latency.optimise import OptionTrial
    from fewstep.eval.latency.timing import TimedModel
    from fewstep.eval.latency.tuning import Tuning
    from fewstep.eval.models import Model
    from fewstep.student.sampler import Sampler, SamplingOptions
    from fewstep.teacher.base import Teacher
_OF_TRAINING = {"training", "settings", "stages"}
_OF_BOTH = {"repetitions", "warmup", "dtype", "device", "out"}


def benchmark_command(
    ctx: typer.Context,
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TEACHER STUDENT...",
            help="Runs, stages, pipelines' folders, hub ids or shapes, as [NAME=]SOURCE[@STEPS[:GUIDANCE]]; of a run, "
            "@STEPS picks the stage with that many steps.",
        ),
    ] = None,
    training: Training = None,
    settings: Overrides = None,
    stages: StageNames = None,
    steps: PipelineStepsOption = None,
    guidance: Annotated[
        str | None,
        typer.Option(
            help=f"The teacher's guidance scale; by default the first student's, else its own, usually 5; {LEVELS}."
        ),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, max=MOST_CLIPS, help="Clips per batch.")] = 1,
    repetitions: Annotated[int, typer.Option(min=1, max=MOST_ITEMS, help="Timed passes of every model or stage.")] = 10,
    warmup: Annotated[
        int,
        typer.Option(min=1, max=MOST_ITEMS, help="Untimed passes before them; peak memory is measured in the last."),
    ] = 2,
    dtype: DTypeOption = "auto",
    device: DeviceOption = None,
    decoder: DecodersOption = None,
    shift: ShiftOption = None,
    frames: FramesOption = None,
    height: HeightOption = None,
    width: WidthOption = None,
    optimise: Optimise = None,
    max_error: MaxError = None,
    compile: Compile = False,
    compile_blocks: CompileBlocks = False,
    cuda_graphs: CudaGraphs = False,
    attention: Attention = None,
    quantise: QuantiseOption = None,
    quantise_text: QuantiseText = None,
    channels_last: ChannelsLast = False,
    tiling: Tiling = False,
    slicing: Slicing = False,
    overlap: Overlap = False,
    random_weights: Annotated[
        str | None,
        typer.Option(
            metavar="CONFIG",
            help="Random weights of this architecture for all models: wan2.1-t2v-1.3b, or a folder with a pipeline's "
            "configs. Models are then written as [NAME=]@STEPS[:GUIDANCE]; the first is the teacher, the others are "
            "not guided by default.",
        ),
    ] = None,
    text: Annotated[
        bool, typer.Option(help="Time the text encoder, too; without it, random weights have none.")
    ] = True,
    out: Annotated[
        Path | None,
        typer.Option(help="JSON to write; by default benchmark.json or training.json of the run directory, if any."),
    ] = None,
) -> None:
    """Time a teacher and its students, in turn, and compare the speed-up with the ideal; or a recipe's training steps.

    Missing or incomplete models are refused before any is loaded. Exit code 3 means that a model or a stage failed
    later and the others were measured.
    """
    typed = _check_mode(ctx)
    if training is not None:
        # a recipe states its device and precision, so that these options become settings of it
        changed = {"device": device, "precision": dtype if "dtype" in typed else None}
        given = [f"{name}={value}" for name, value in changed.items() if value is not None]
        time_training(training, [*(settings or ()), *given], stages, Timing(repetitions, warmup, out), Screen())
        return
    results = benchmark_models(
        models, steps, guidance, batch, repetitions, warmup, dtype, device, decoder, shift, frames, height, width,
        optimise, max_error, lambda: take_tuning(dict(ctx.params)), random_weights, text, out, Screen(),
    )  # fmt: skip
    if results["failed"]:
        raise typer.Exit(FAILED)


def benchmark_models(
    models: list[str] | None,
    steps: int | None,
    guidance: str | None,
    batch: int,
    repetitions: int,
    warmup: int,
    dtype: DType,
    device: str | None,
    decoder: list[str] | None,
    shift: float | None,
    frames: int | None,
    height: int | None,
    width: int | None,
    optimise: Literal["auto"] | None,
    max_error: float | None,
    tuning_of: Callable[[], Tuning],
    random_weights: str | None,
    text: bool,
    out: Path | None,
    screen: Screen,
) -> dict[str, Any]:
    """What `benchmark_command` does with models, under the same names; returns what it writes to `out`.

    `tuning_of` gives the options of tuning. It needs torch, whose import comes after the first line.
    """
    screen.say(f"timing {', '.join(models or [f'random weights of {random_weights}'])}")
    from fewstep.eval.latency.benchmark import BenchmarkPlan
    from fewstep.student.sampler import SamplingOptions

    options = SamplingOptions(steps, optional_guidance_of(guidance), shift, "", frames, height, width)
    tuning = tuning_of()
    _check_optimised(optimise is not None, max_error, tuning, repetitions, text)
    plan = BenchmarkPlan(batch, repetitions, warmup, dtype, tuning, optimise is not None, max_error)
    return time_models(models or [], options, plan, screen, out, device, random_weights, text, decoder or ())


def _check_optimised(optimise: bool, max_error: float | None, tuning: Tuning, repetitions: int, text: bool) -> None:
    """Raises ValueError for options that do not go with --optimise auto, or with its absence."""
    from fewstep.eval.latency.optimise import FEWEST

    if tuning.quantise_text is not None and not text:
        raise ValueError("--quantise-text needs the text encoder, which --no-text leaves out: leave one of them out")
    if not optimise and max_error is not None:
        raise ValueError("--max-error is the limit of --optimise auto: leave it out, or add that")
    if optimise and tuning.as_options:
        raise ValueError(f"--optimise auto chooses the options itself: leave {tuning.as_options} out")
    if optimise and repetitions < FEWEST:
        raise ValueError(
            f"--optimise auto compares gains with the spread of passes: use --repetitions {FEWEST} or more"
        )


def _check_mode(ctx: typer.Context) -> set[str]:
    """The names of what was typed. Raises ValueError for options of models with --training, and the other way."""
    # what was typed: defaults of options that belong to the other way do not matter
    typed = {p for p in ctx.params if getattr(ctx.get_parameter_source(p), "name", "") == "COMMANDLINE"}
    if {"training", "models"} <= typed:
        raise ValueError("--training times a recipe's stages, not models: leave out one or the other")
    wrong = typed - _OF_TRAINING - _OF_BOTH if "training" in typed else typed & _OF_TRAINING
    if wrong:
        names = ", ".join(" or ".join((*p.opts, *p.secondary_opts)) for p in ctx.command.params if p.name in wrong)
        if "training" not in typed:
            raise ValueError(f"{names} can only be used with --training RECIPE")
        raise ValueError(
            f"{names} cannot be used with --training: the recipe says how it trains, and --set NAME=VALUE changes it"
        )
    return typed


def time_models(
    models: list[str],
    options: SamplingOptions,
    plan: BenchmarkPlan,
    screen: Screen,
    out: Path | None = None,
    device: str | None = None,
    random_weights: str | None = None,
    text: bool = True,
    decoders: Sequence[str] = (),
) -> dict[str, Any]:
    """Times the models as asked: what it writes to `out`."""
    import torch

    from fewstep.eval.latency.benchmark import Benchmark, check_replaceable
    from fewstep.eval.latency.random_weights import random_teacher
    from fewstep.eval.latency.timing import TimedModel
    from fewstep.eval.latency.tuning import check_tuning
    from fewstep.eval.models import last_run
    from fewstep.teacher.loading import find_device

    if random_weights is not None and decoders:
        raise ValueError("--decoder takes a distilled decoder, which cannot be used with --random-weights")
    opened = models_of(models, decoders) if random_weights is None else []
    out = out or (last_run(opened) or Path("runs")) / "benchmark.json"
    # the file and the options first, before a weight is loaded
    check_replaceable(out)
    check_tuning(plan.tuning, find_device(device), plan.batch)
    plan = replace(plan, dtype=resolve_dtype(screen, cast("DType", plan.dtype), device))
    precision, tuning, failed = getattr(torch, plan.dtype), plan.tuning, dict[str, str]()
    screen.say(f"loading the models ({plan.dtype}{', compiled in the first pass of each' if tuning.compiles else ''})")
    if random_weights is None:
        samplers = _open(opened, options, precision, device, failed, tuning)
    else:
        # one teacher of random weights stands for all models, which differ by steps and guidance alone
        ways = named_sources(models or [f"teacher=@{options.steps or 50}:{options.guidance or 5}", "student=@4"])
        _check_ways(ways)
        samplers = _ask(ways, options, random_teacher(random_weights, precision, device, text))
    timed = [TimedModel.of(name, sampler, plan.batch, text) for name, sampler in samplers.items()]
    plan, tried, likenesses = _tuned(timed, plan, screen)
    if plan.warmup < 2 and any(model.background is not None for model in timed):
        screen.say("--overlap: two warm-up passes, as the first of each model decodes its clips alone")
        plan = replace(plan, warmup=2)
    num_passes = len(timed) * (plan.warmup + plan.repetitions)
    with screen:
        benchmark = Benchmark(timed, plan, screen.command, out, failed, tried, likenesses)
        return _show(benchmark, num_passes, out, screen)


def _tuned(
    models: list[TimedModel], plan: BenchmarkPlan, screen: Screen
) -> tuple[BenchmarkPlan, list[OptionTrial], dict[str, Mapping[str, float | None]]]:
    """Tunes the models in place, as planned or as pays on the last one that can be sampled: the plan with what was
    done, all that was tried, and by name how like each model's clips still are to its own."""
    from fewstep.eval.latency.likeness import Likenesses
    from fewstep.eval.latency.optimise import MAX_ERROR, Optimiser
    from fewstep.eval.latency.timing import synchronised
    from fewstep.eval.latency.tuning import tune
    from fewstep.teacher.loading import quiet_libraries

    tried: list[OptionTrial] = []
    if not (plan.optimise or plan.tuning.as_options):
        return plan, tried, {}
    # before anything is changed: what clips of tuned models are compared with
    screen.say("making a clip of each model to compare with")
    likenesses = Likenesses(models, plan.batch)
    if plan.optimise and (last := next((m for m in reversed(models) if m.failure is None), None)) is not None:
        # options are tried on the last model; those that pay are then used for all
        limit = MAX_ERROR if plan.max_error is None else plan.max_error
        clock = synchronised(last.sampler.teacher.device)
        screen.say(f"trying options on {last.name}, kept where they pay and its clip differs by at most {limit:g}")
        optimizer = Optimiser(last, plan.batch, plan.repetitions, clock, limit)
        with quiet_libraries():
            kept, tried = optimizer.run(lambda one: screen.say(one.summary))
        plan = replace(plan, tuning=kept, max_error=limit)
        screen.say(f"timing with {kept.as_options or 'no option, as none pays here'}")
    tune([model.sampler for model in models], plan.tuning)
    if plan.tuning.overlap:
        for model in models:
            model.overlap()
    return plan, tried, likenesses.measure() if plan.tuning.as_options else {}


def _open(
    models: Sequence[Model],
    options: SamplingOptions,
    dtype: torch.dtype,
    device: str | None,
    failed: dict[str, str],
    tuning: Tuning,
) -> dict[str, Sampler]:
    """All models at the size of the first; `failed` gets those that cannot be opened, name -> why.

    Raises ValueError, before one is loaded, for all models that can be seen to fail; later only when the first does:
    nothing could be compared with it.
    """
    from fewstep.eval.latency.timing import one_sentence
    from fewstep.eval.latency.tuning import check_models
    from fewstep.eval.models import open_model, with_student_defaults
    from fewstep.eval.outlines import outline_models

    if not models:
        raise ValueError("there is nothing to time: pass a TEACHER and STUDENTs, or --random-weights")
    options = with_student_defaults(models, options)
    # all models without their weights: what cannot work is seen before minutes of loading
    check_models([outlined.sampler for outlined in outline_models(models, options)], tuning)
    first = open_model(models[0], options, None, dtype, device)
    options = replace(options, **first.size._asdict())
    samplers = {models[0].name: first}
    # a student that cannot be loaded costs its own row alone
    for model in models[1:]:
        try:
            samplers[model.name] = open_model(model, options, first.teacher, dtype, device)
        except (ValueError, OSError) as error:
            failed[model.name] = one_sentence(error)
    return samplers


def _check_ways(ways: dict[str, str]) -> None:
    """Raises ValueError for a model that has a source of its own."""
    for text in ways.values():
        if parse_source(text)[0]:
            raise ValueError(f"{text} is a model of its own: with --random-weights pass [NAME=]@STEPS[:GUIDANCE] only")


def _ask(ways: dict[str, str], options: SamplingOptions, teacher: Teacher) -> dict[str, Sampler]:
    """One teacher, asked in several ways: as itself, then as its students, which have their guidance inside."""
    from fewstep.student.sampler import teacher_sampler

    samplers: dict[str, Sampler] = {}
    for name, text in ways.items():
        _, steps, guidance = parse_source(text)
        usual = 1.0 if samplers else options.guidance
        way = replace(options, steps=steps or options.steps, guidance=usual if guidance is None else guidance)
        samplers[name] = teacher_sampler(teacher, text, way)
    return samplers


def _show(benchmark: Benchmark, num_passes: int, out: Path, screen: Screen) -> dict[str, Any]:
    """Measures, then prints the table."""
    from rich.box import SIMPLE

    from fewstep.commands.tables import written_tables
    from fewstep.eval.latency.benchmark import benchmark_notes, shown_columns
    from fewstep.eval.results import results_table

    if (out.parent / "recipe.yaml").is_file():  # else it is no run directory: nothing but the table belongs there
        screen.log_to(out.parent)
    with screen.bar("benchmark", "pass") as bar:
        bar.begin("benchmark", num_passes)
        results = benchmark.run(lambda name: bar.update(bar.done + 1, note=name))
    table = results_table(results["rows"], shown_columns(results["rows"]), "median seconds")
    table.box, table.padding = SIMPLE, 0  # eleven columns in eighty letters
    screen.table(table)
    for note in benchmark_notes(results):
        screen.result(note)
    screen.result(written_tables(out))
    return results
