"""What `fewstep run` does with the recipe of a small decoder: data, pairs, training, a folder that diffusers loads."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fewstep import __version__
from fewstep.commands.run_screen import RunScreen

if TYPE_CHECKING:
    from fewstep.commands.run_memory import Machine
    from fewstep.distill.decoder.pairs import Pairs
    from fewstep.distill.decoder.recipe import DecoderRecipe
    from fewstep.distill.run_folder import RunFolder
    from fewstep.student.decoder.video_decoder import SmallVideoDecoder
    from fewstep.teacher.base import Teacher


def run_decoder(
    recipe: str, settings: Sequence[str], again: Sequence[str], dry_run: Machine | None, screen: RunScreen
) -> Path:
    """Follows it, or only checks it; see `fewstep run`. The run directory."""
    import typer

    from fewstep.commands.run_precision import resolve_decoder
    from fewstep.distill.decoder.recipe import read_decoder_recipe
    from fewstep.distill.run_folder import RunFolder
    from fewstep.teacher.ranks import num_launched

    if again:
        raise ValueError(
            f"--again {','.join(again)}: a decoder's recipe has no stages; delete its folder to train it again"
        )
    if (num_launched() if dry_run is None else dry_run.processes) > 1:
        raise ValueError("a decoder is trained in one process: start it without torchrun or accelerate")
    if dry_run is not None and (dry_run.gib, dry_run.tflops) != (None, None):
        raise ValueError(
            "the dry run of a decoder counts neither memory nor hours: leave --device-memory and --tflops out"
        )
    plan, lines = resolve_decoder(read_decoder_recipe(recipe, settings))
    folder = RunFolder(plan.out)
    for line in lines:
        screen.say(line)
    check_decoder_run(plan, folder)
    if dry_run is not None:
        typer.echo(plan.dump_yaml(), nl=False)
        _say_plan(plan, screen)
        return plan.out
    with screen, folder.locked():
        follow_decoder(plan, folder, screen)
    return plan.out


def check_decoder_run(plan: DecoderRecipe, folder: RunFolder) -> None:
    """Raises ValueError, before a weight is loaded, for all that stands in the way of the run."""
    from fewstep.distill.data_checks import check_clip_counts, check_source
    from fewstep.distill.decoder.features import check_features
    from fewstep.distill.size_checks import check_possible, planned_sizes
    from fewstep.distill.taken_folders import check_not_taken
    from fewstep.student.decoder.video_decoder import unfolded_at_last
    from fewstep.teacher.loading import find_device
    from fewstep.teacher.outline import outline_teacher
    from fewstep.teacher.source import size_text

    # what the folder and the machine say comes first, as it costs nothing
    folder.check(plan)
    check_not_taken(folder.path, folder.elsewhere)
    folder.check_unlocked()
    find_device(plan.device)
    check_source(plan, folder)
    outline = outline_teacher(plan.teacher)
    sizes = planned_sizes(plan, outline.teacher)
    check_possible(outline.teacher, sizes)
    for size in sizes:
        per_latent = size.height // outline.teacher.latent_shape(*size)[2]
        unfolded_at_last(per_latent, plan.decoder.widths, plan.decoder.blocks)
    # a window is what a step cuts out of each clip, so that it must fit into all of them
    window = plan.decoder.window
    if window is not None:
        for size in sizes:
            if any(part > whole for part, whole in zip(window.plain, size, strict=True)):
                raise ValueError(f"decoder.window is {window}, and clips are {size_text(size)}: make it smaller")
        check_possible(outline.teacher, [window.plain])
    elif len(sizes) > 1:
        raise ValueError(
            "clips of several sizes make no batch: set decoder.window to a size that fits into all of them"
        )
    check_features(plan.decoder.features, sizes if window is None else [window.plain])
    check_clip_counts(plan, folder, outline.teacher)


def _say_plan(plan: DecoderRecipe, screen: RunScreen) -> None:
    settings = plan.decoder
    screen.say(
        f"{settings.clips} clips decoded once by the autoencoder, then {settings.steps} steps of {settings.batch}; a "
        f"decoder of {', '.join(map(str, settings.widths))} channels"
    )


def follow_decoder(plan: DecoderRecipe, folder: RunFolder, screen: RunScreen) -> None:
    """The run itself, once nothing stands in its way; what is there already is not made again."""
    import torch

    from fewstep.distill.data import read_clips
    from fewstep.distill.data_report import check_usable
    from fewstep.distill.decoder.pairs import Pairs, make_pairs
    from fewstep.distill.decoder.training import held_out_psnr, train_decoder
    from fewstep.student.decoder.files import DECODER_FOLDER
    from fewstep.teacher.dataset.buckets import datasets_in
    from fewstep.teacher.load_teacher import load_teacher

    finished = plan.out / DECODER_FOLDER
    if finished.is_dir():
        screen.say(f"the decoder is in {finished} already")
        return
    screen.say(f"loading the teacher {plan.teacher} ({plan.precision})")
    teacher = load_teacher(plan.teacher, getattr(torch, plan.precision), plan.device)
    folder.begin(plan)
    screen.log_to(plan.out)
    screen.log(f"fewstep {__version__}: {screen.command}, process {os.getpid()}")
    data = _make_data(plan, teacher, folder, screen)
    if line := check_usable(plan.data, data):
        screen.warn(line)
    teacher.use_size(read_clips(data, teacher, plan.sizes).size)
    # captions are in the dataset as embeddings, so that the text encoder may go
    teacher.free_text()
    # each clip is decoded once by the autoencoder: the small decoder learns from these pairs
    with screen.clips() as on_clip:
        make_pairs(plan, teacher, datasets_in(data), plan.out / "pairs", on_clip)
    pairs = Pairs(plan.out / "pairs")
    if not len(pairs):
        raise ValueError(f"{data} has one usable clip, and one is held out to measure on: give it more")
    screen.say(f"{len(pairs)} pairs to learn from, {pairs.num_held_out} held out")
    decoder = train_decoder(plan, teacher, pairs, plan.out, screen)
    _finish(decoder, plan, held_out_psnr(decoder, pairs), pairs, finished)
    screen.say(f"the decoder is in {finished}: `fewstep sample STUDENT --decoder {plan.out} ...`")


def _make_data(plan: DecoderRecipe, teacher: Teacher, folder: RunFolder, screen: RunScreen) -> Path:
    """The dataset of latents, made unless it is there."""
    from fewstep.commands.run_stages import make_run_data
    from fewstep.distill.size_checks import clip_sizes
    from fewstep.teacher.ranks import ALONE

    if plan.data.kind == "dataset":
        return plan.data.folder
    make_run_data(plan, teacher, plan.teacher, clip_sizes(plan, teacher), folder, screen, ALONE)
    return folder.data


def _finish(decoder: SmallVideoDecoder, plan: DecoderRecipe, psnr_db: float, pairs: Pairs, folder: Path) -> None:
    """The folder appears whole, once diffusers has loaded it and decoded the same; then the checkpoint may go."""
    from fewstep.distill.checkpoint import STATE_FILE
    from fewstep.student.decoder.card import decoder_card
    from fewstep.student.decoder.files import check_loads, save_decoder
    from fewstep.student.export.whole_folder import whole_folder

    result = {"psnr_db": psnr_db, "held_out": pairs.num_held_out, "steps": plan.decoder.steps}
    with whole_folder(folder) as part:
        save_decoder(decoder, part, decoder_card(decoder, plan.teacher, plan.precision, result))
        check_loads(part, decoder, pairs.latents[-1:].to(decoder.device))
        (part / "result.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    (plan.out / STATE_FILE).unlink(missing_ok=True)
