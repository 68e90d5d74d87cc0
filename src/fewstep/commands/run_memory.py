"""What `fewstep run --dry-run` says of memory and hours: a step of each stage, counted with its activations."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from fewstep.commands.tables import print_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from fewstep.commands.progress import Screen
    from fewstep.distill.recipe import Recipe
    from fewstep.distill.step_cost import StepCost, StepCounter
    from fewstep.teacher.base import Teacher, VideoSize
    from fewstep.teacher.outline import Outline
    from fewstep.teacher.schedule import NoiseSchedule

_TEXTS = 256  # of a run's texts, whose longest is counted with
_LIBRARIES = "what a GPU's libraries take, some half a GiB, comes on top"


@dataclass(frozen=True)
class Machine:
    """What a run is to fit: GiB of a GPU, and the trillion operations a second that it reaches, None: not said; and how
    many processes share the run, with a GPU each."""

    gib: float | None = None
    tflops: float | None = None
    processes: int = 1


@dataclass(frozen=True)
class ClipsGib:
    """GiB besides weights: while a batch of the run's clips is `made`, and while a `sample` clip is; None where none
    are, or it could not be counted. sampled: whether clips are made in training."""

    made: float | None
    sample: float | None
    sampled: bool


def show_memory(plan: Recipe, outline: Outline, size: VideoSize, machine: Machine, screen: Screen) -> int | None:
    """Prints the table; the outline is used up. Where a family cannot be counted, a line says so.

    Returns how many numbers a clip's text and all else that it is given are; None where that cannot be counted.
    """
    from fewstep.distill.fitting import first_fitting
    from fewstep.distill.step_cost import StepCounter
    from fewstep.teacher.experts import every_network
    from fewstep.teacher.source import size_text

    assert plan.precision != "auto"
    warnings.filterwarnings("ignore", "Mismatch dtype between input and weight")  # as in training, see `follow_stages`
    teacher, data = outline.teacher, _data_line(plan, outline.teacher, size)
    weights = sum(x.numel() for network in every_network(teacher.denoiser) for x in network.parameters())
    screen.say(f"counting the memory of a step of {len(plan.stages)} stages, for clips of {size_text(size)}")
    text_numbers = None
    try:
        counter = StepCounter(teacher, size, plan.precision, _longest(plan, teacher), machine.processes)
        text_numbers = counter.text_numbers
        gib = _device_gib(plan) if machine.gib is None else machine.gib
        loaded, clips = _loaded_gib(plan, counter), _clips_gib(plan, counter, screen)
        whole = sum(loaded.values())
        too_large = None if gib is None else _unmade(plan, counter, whole, clips.made, gib)
        costs = list(counter.costs(plan))
        hours = None if machine.tflops is None else _hours(plan, costs, counter, teacher.schedule, machine)
        print_table(_table(costs, hours, machine, whole, clips.made), stderr=True)
        typer.echo(f"memory of {_whose(plan, machine.processes, weights)}; {_LIBRARIES}; {data}", err=True)
        typer.echo(_loaded_line(loaded, clips), err=True)
        if too_large is not None:
            screen.warn(too_large)
        # for a stage that does not fit: the first settings with which it would
        for cost in costs if gib is not None else ():
            assert gib is not None
            if cost.peak > gib:
                fitting = first_fitting(plan, cost, counter, gib)
                typer.echo(_too_large(cost, gib, fitting), err=True)
    except ValueError as error:
        screen.warn(f"{error}: the tables above leave activations out")
    return text_numbers


def _loaded_gib(plan: Recipe, counter: StepCounter) -> dict[str, float]:
    """Of the whole pipeline, as a run loads it and makes clips with it: GiB by the names of its parts."""
    from fewstep.distill.estimate import BYTES
    from fewstep.teacher.limits import GIB

    assert plan.precision != "auto"
    # autoencoders are kept in float32, see `load_teacher`
    return {name: size * (4 if name == "vae" else BYTES[plan.precision]) / GIB for name, size in counter.parts.items()}


def _clips_gib(plan: Recipe, counter: StepCounter, screen: Screen) -> ClipsGib:
    """To be asked before steps are counted."""
    from fewstep.distill.settings import DatasetData

    sampled = plan.logging.prompts or any(stage.gate and stage.gate.metric != "endpoint_error" for stage in plan.stages)
    made = sample = None
    try:
        made = None if isinstance(plan.data, DatasetData) else counter.clips_peak(plan.data)
        sample = counter.sample_peak() if sampled else None
    except ValueError as error:
        screen.warn(f"{error}: what making clips takes besides the teacher's weights is left out")
    return ClipsGib(made, sample, bool(sampled))


def _loaded_line(loaded: dict[str, float], clips: ClipsGib) -> str:
    kept = "text encoder and autoencoder until clips are made"
    if clips.sampled:
        besides = "" if clips.sample is None else f", and {clips.sample:.2f} more while a sample clip is made"
        vae = loaded.get("vae", 0.0)
        kept = f"the text encoder until clips are made; the autoencoder's {vae:.2f} come on top of every stage{besides}"
    parts = ", ".join(f"{name} {gib:.2f}" for name, gib in loaded.items())
    return (
        f"before the first step the whole teacher is in memory, {sum(loaded.values()):.2f} GiB without activations "
        f"({parts}), {kept}"
    )


def _unmade(plan: Recipe, counter: StepCounter, whole: float, made: float | None, gib: float) -> str | None:
    """What to change where the teacher, or making clips with it, takes more than so many GiB."""
    if whole > gib:
        half = "set precision=bfloat16, or " if plan.precision == "float32" else ""
        return (
            f"the teacher takes {whole:.3g} GiB as it is loaded, and {gib:g} are there: {half}use larger GPUs or a "
            "smaller teacher"
        )
    if made is None or whole + made <= gib:
        return None
    assert plan.data.kind != "dataset"
    takes = f"making clips takes {whole + made:.3g} GiB, and {gib:g} are there"
    least = whole + counter.clips_peak(plan.data.model_copy(update={"batch": 1}))
    if least <= gib:
        return f"{takes}; it takes {least:.3g} with --set data.batch=1"
    return f"{takes}; one clip at a time takes {least:.3g}: use shorter or smaller clips, or larger GPUs"


def _whose(plan: Recipe, processes: int, num_weights: int) -> str:
    """Whose memory the table has, and what else there is."""
    from fewstep.distill.estimate import BYTES
    from fewstep.teacher.limits import GIB

    if processes == 1:
        return "one process, for its batch"
    share = f"each of {processes} processes, for its share of the batch"
    if plan.parallel.context > 1:
        share += ", counted with whole clips, of which parallel.context leaves it a part"
    if not plan.parallel.shards(processes):
        return f"{share}, each with whole networks"
    assert plan.precision != "auto"
    gib = num_weights * BYTES[plan.precision] / GIB
    also = "" if plan.parallel.offload == "none" else "its share of networks and moments, and "
    return f"{share}, with networks sharded; main memory has {also}{gib:.2f} GiB of the teacher in each"


def _hours(
    plan: Recipe, costs: Sequence[StepCost], counter: StepCounter, schedule: NoiseSchedule, machine: Machine
) -> dict[str, float]:
    """Of the data, where the teacher makes it, and of every stage, with what it does once: a conversion before, warm-up
    and fresh heads."""
    from fewstep.distill.estimate import data_calls, relay_work
    from fewstep.distill.settings import conversion_name

    assert machine.tflops is not None
    per_hour, hours = machine.tflops * 1e12 * 3600, dict[str, float]()
    if calls := data_calls(plan, schedule):
        hours["data"] = calls * counter.forward_flops() / per_hour / machine.processes
    # what is done once is counted in calls, and a step in calls and in FLOPs
    works = {work.name: work for work in relay_work(plan, schedule, lambda stage: False)}
    for cost in costs:
        own, before = works[cost.stage], works.get(conversion_name(cost.stage))
        num_steps = (own.whole + (before.whole if before else 0)) / own.each
        hours[cost.stage] = cost.flops * num_steps / per_hour
    return hours


def _table(
    costs: Sequence[StepCost], hours: dict[str, float] | None, machine: Machine, loaded: float, made: float | None
) -> Table:
    from rich.table import Column, Table

    of_time = () if hours is None else (f"hours at {machine.tflops:g} TFLOP/s",)
    table = Table(
        Column("stage", no_wrap=True), "between steps", "at most", "TFLOP / step", *of_time,
        title="GiB of a step, with activations",
    )  # fmt: skip
    if made is not None or (hours is not None and "data" in hours):
        peak = "" if made is None else f"{loaded + made:.3f}"
        of_data = () if hours is None else (f"{hours['data']:.2g}" if "data" in hours else "",)
        table.add_row("data", "", peak, "", *of_data)
    for cost in costs:
        row = [f"{cost.held:.3f}", f"{cost.peak:.3f}", f"{cost.flops / 1e12:.3g}"]
        table.add_row(cost.stage, *row, *(() if hours is None else (f"{hours[cost.stage]:.2g}",)))
    return table


def _too_large(cost: StepCost, gib: float, fitting: tuple[list[str], StepCost] | None) -> str:
    if fitting is None:
        return (
            f"{cost.stage} takes {cost.peak:.3g} GiB and {gib:g} are there; one clip at a time, with gradient "
            "checkpointing, LoRA and weights of few bits where they are possible is not enough either: use shorter or "
            "smaller clips, or larger GPUs"
        )
    settings, less = fitting
    return (
        f"{cost.stage} takes {cost.peak:.3g} GiB and {gib:g} are there; it takes {less.peak:.3g} with "
        f"{' '.join(f'--set {setting}' for setting in settings)}"
    )


def _device_gib(plan: Recipe) -> float | None:
    """Of the GPU that the run would use; None without one."""
    import torch

    from fewstep.teacher.limits import GIB
    from fewstep.teacher.loading import find_device

    device = find_device(plan.device)
    return torch.cuda.get_device_properties(device).total_memory / GIB if device.type == "cuda" else None


def _longest(plan: Recipe, teacher: Teacher) -> int | None:
    """Tokens of the longest of the run's first texts; None where the tokenizer or the texts are not here."""
    from fewstep.distill.data_report import read_data_text
    from fewstep.distill.run_folder import RunFolder

    if not teacher.reads_text or getattr(teacher.pipeline, "tokenizer", None) is None:
        return None
    texts = list(read_data_text(plan.data, RunFolder(plan.out).data).prompts)
    counts = teacher.count_tokens([*texts[:_TEXTS], *texts[-1:]])
    return min(max(counts, default=0), teacher.text_limit) or None


def _data_line(plan: Recipe, teacher: Teacher, size: VideoSize) -> str:
    """What rows of latents take in the main memory."""
    import math

    from fewstep.teacher.dataset.shuffled_rows import WINDOW
    from fewstep.teacher.limits import GIB

    rows = WINDOW * math.prod(teacher.latent_shape(*size)) * 2 / GIB  # stored in half precision
    return f"{WINDOW:,} rows of latents at a time take up to {rows:.2f} GiB of main memory"
