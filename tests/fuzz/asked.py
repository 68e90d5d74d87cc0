"""Who is asked to read a mutated input: what a command calls, or the command's own function."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from html.parser import HTMLParser
from pathlib import Path
from random import Random

import torch

from fewstep.commands import report as report_command
from fewstep.commands.run import run
from fewstep.distill.batches import Batches
from fewstep.distill.data import read_clips
from fewstep.distill.recipe import kept_recipe
from fewstep.distill.run_folder import RunFolder
from fewstep.eval.evaluation_file import joined_protocol, recorded_evaluation_dtype
from fewstep.eval.report.inputs import read_benchmark, read_evaluation
from fewstep.eval.results import ResultsFile, read_results
from fewstep.eval.shapes.chain import chain_rows
from fewstep.eval.shapes.conditioning import conditioning_rows
from fewstep.eval.vbench import read_figures
from fewstep.student.load_student import load_student
from fewstep.student.loading import find_stage
from fewstep.student.outline import outline_sampler
from fewstep.student.sampler import SamplingOptions
from fewstep.teacher.base import Teacher
from fewstep.teacher.dataset.caption_files import read_captions, read_prompts
from fewstep.teacher.dataset.sources import list_files
from fewstep.teacher.given import read_given
from fewstep.teacher.load_teacher import load_teacher
from fewstep.teacher.outline import outline_teacher
from fewstep.teacher.shapes.recipe import read_any_recipe
from fewstep.teacher.source import VideoSize
from fewstep.teacher.videos.decoding import ClipShape, UnreadableVideo, check_video, decode_video
from tests.distill.one_stage import Case
from tests.fuzz.mutations import PLANTED, TAG, odd_values

_SIZE = VideoSize(9, 16, 16)
_ASKED = 0.3  # of the models that load, those that are also asked, which costs more than all else
_SETTINGS = (
    "seed", "out", "teacher", "shift", "size.width", "size", "data.steps", "data.batch", "data.count", "data.prompts",
    "data.guidance", "stages.0.lr", "stages.full.batch", "stages.1.objective.weight", "stages.lora.objective.lr",
    "stages.0.steps", "stages.0.guidance", "stages.1.accumulate", "stages.0.starts", "stages.0.betas", "stages",
    "student.lora.rank", "student.lora.alpha", "watch.motion", "logging.prompts", "logging.every", "stages.9.lr",
    "stages.0.name", "stages.1.objective.noise", "stages.1.objective.discriminator.depths", "a.b.c", "", "stages..lr",
    "stages.-1.lr", "seed.x", "logging.save_seconds", "device", "precision", "bases", "stages.0.objective.kind",
)  # fmt: skip
_VALUES = (
    "1e8", "1e300", "[", "{a: ", "*x", "&x [*x]", "nan", ".inf", "-1", "null", "", "[" * 3000, "2e-4", "0", "yes", "'",
    f"!!python/object/apply:os.system ['touch {PLANTED}']", "{<<: 1}", "1e999", "\t", "100000000", "[1, 1]", "0.5",
)  # fmt: skip


@dataclass
class Asker:
    """What those who read need besides the input: the material, and what else is random about it."""

    root: Path
    random: Random

    @cached_property
    def teacher(self) -> Teacher:
        """The tiny one."""
        return load_teacher(self.root / "teacher", device="cpu")


class _Silly(AssertionError):
    """An input was taken that makes no sense."""


def dry_run(asker: Asker, folder: Path) -> None:
    """As `fewstep run RECIPE --dry-run`."""
    run(str(folder / "recipe.yaml"), None, dry_run=True)


def dry_run_with_override(asker: Asker, folder: Path) -> None:
    """The same with one to three overrides."""
    run(
        str(folder / "recipe.yaml"),
        [_override(asker.random) for _ in range(asker.random.choice((1, 1, 3)))],
        dry_run=True,
    )


def _override(random: Random) -> str:
    value = random.choice(_VALUES) if random.random() < 0.6 else str(random.choice(odd_values(random)))
    return random.choice((f"{random.choice(_SETTINGS)}={value}",) * 9 + (value,))


def chain(asker: Asker, folder: Path) -> None:
    """As `fewstep run CHAIN --dry-run`."""
    run(str(folder / "chain.yaml"), None, dry_run=True)


def teacher_recipe(asker: Asker, folder: Path) -> None:
    """As `fewstep teacher train`, of which only reading is asked."""
    for path in sorted(folder.glob("shapes-*.yaml")):
        read_any_recipe(path)


def dataset(asker: Asker, folder: Path) -> None:
    """What a stage draws its clips from."""
    read_clips(folder, asker.teacher)
    batch = Batches(folder, asker.teacher, seed=0, stage=0).batch(0, 4, 0.0)
    if not torch.isfinite(batch.x0).all():
        raise _Silly("clips that are not finite are trained on")


def student(asker: Asker, folder: Path) -> None:
    """As `fewstep sample`: looked at, opened, asked once."""
    outline_sampler(folder, SamplingOptions())
    sampler = load_student(folder, teacher=None if (folder / "vae").exists() else asker.teacher, device="cpu")
    size = sampler.contract.size
    noise = sampler.teacher.noise([0], sampler.teacher.latent_shape(*size))
    if noise.numel() < 100_000 and sampler.contract.steps < 10 and asker.random.random() < _ASKED:
        sampler.sample(noise, sampler.conditions_of_any(["a ring"]))


def checkpoint(asker: Asker, folder: Path) -> None:
    """A stage that resumes, and its next step."""
    case = Case(asker.teacher, asker.root / "run" / "data", folder)
    trainer = case.trainer()
    if not 0 <= trainer.step <= trainer.stage.steps:
        raise _Silly(f"resumed at step {trainer.step}")
    trainer.one_step()
    held = [*trainer.roles.parameters.values(), *trainer.roles.average.values()]
    if not all(torch.isfinite(tensor).all() for tensor in held) or not math.isfinite(trainer.seconds):
        raise _Silly("resumed with numbers that are not finite")


def captions(asker: Asker, folder: Path) -> None:
    """Every kind of captions, for the videos there."""
    files = list_files(folder, folder / "out")
    tables = (None, folder / "captions.csv", folder / "captions.jsonl", folder / "captions.json")
    refused: list[ValueError] = []
    for table in tables:
        try:
            read_captions(files, folder, table)
        except ValueError as error:
            refused.append(error)
    refused = [error for error in refused if "captions.json is neither" not in str(error)]
    if refused:
        raise refused[0]


def prompts(asker: Asker, folder: Path) -> None:
    """Both kinds of prompts, and what is given with them."""
    read_prompts(folder / "prompts.txt")
    read_given(read_prompts(folder / "prompts.jsonl"), {"first": VideoSize(1, 16, 16)}, 8.0)


def pictures(asker: Asker, folder: Path) -> None:
    """What is given with prompts."""
    read_given(read_prompts(folder / "prompts.jsonl"), {"first": VideoSize(1, 16, 16)}, 8.0)


def videos(asker: Asker, folder: Path) -> None:
    """A folder of videos as a dataset reads it: a broken one is skipped with a reason."""
    for path in list_files(folder, folder / "out"):
        try:
            check_video(path)
            decode_video(path, ClipShape(*_SIZE, fps=8))
        except UnreadableVideo as error:
            if len(str(error)) > 500 or "\n" in str(error):
                raise _Silly(f"a reason that no one reads: {str(error)[:600]}") from error


def evaluation(asker: Asker, folder: Path) -> None:
    """Those who go on with an evaluation, or make a table of it."""
    out = folder / "evaluation"
    recorded_evaluation_dtype(out)
    joined_protocol(out, read_evaluation(out).protocol)
    conditioning_rows({"text": out})


def benchmark(asker: Asker, folder: Path) -> None:
    """A benchmark in a report, and next to an evaluation."""
    read_benchmark(folder / "benchmark.json")
    chain_rows(folder / "evaluation" / "results.json", folder / "benchmark.json")


class _Tags(HTMLParser):
    """The elements of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(tag)


def report(asker: Asker, folder: Path) -> None:
    """As `fewstep report`; no element that a file brought along may reach the page."""
    page = folder / "page.html"
    report_command.report([folder], None, None, 2, page)
    tags = _Tags()
    tags.feed(page.read_text("utf-8"))
    if TAG in tags.found or tags.found.count("script") > 2:
        raise _Silly("HTML of a file is an element of the page")


def resumed(asker: Asker, folder: Path) -> None:
    """What of a finished run is read again: its recipe, its figures, its students."""
    plan = kept_recipe(folder)
    run_folder = RunFolder(folder)
    for stage in plan.stages:
        if run_folder.finished(stage.name):
            run_folder.result(stage.name)
    find_stage(folder)
    run(str(folder / "recipe.yaml"), [f"out={folder}"], dry_run=True)


def teacher(asker: Asker, folder: Path) -> None:
    """As `fewstep sample TEACHER`: looked at, loaded, asked for a step."""
    outline = outline_teacher(folder)
    size = outline.teacher.default_size()
    outline.teacher.default_fps()
    loaded = load_teacher(folder, device="cpu")
    grid = loaded.schedule_for(size).grid(4)
    if not torch.isfinite(grid).all():
        raise _Silly("times that are not finite")
    if size is not None and math.prod(size) <= 9 * 16 * 16 * 4 and asker.random.random() < _ASKED:
        noise = loaded.noise([0], loaded.latent_shape(*size))
        loaded.denoise(noise, grid[0], loaded.conditions_of_any(["a ring"], "", size))


def table(asker: Asker, folder: Path) -> None:
    """A table that goes on, and a result of another tool."""
    read_results(folder / "table.json")
    held = ResultsFile(
        folder / "table.json", "fewstep shapes teacher", {}, {"model": "model", "shapes_fd": "shapes-fd"}
    )
    held.add({"model": "new", "shapes_fd": 1.0})
    read_figures(folder / "vbench.json")
