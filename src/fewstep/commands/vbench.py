"""`fewstep vbench`: videos as VBench wants them, and what it says of them back into an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fewstep.commands.launched import check_alone
from fewstep.commands.options import (
    LEVELS,
    Control,
    DeviceOption,
    DTypeOption,
    EmbeddedGuidanceOption,
    PipelineStepsOption,
    ShiftOption,
    optional_control_scale,
    optional_guidance_of,
    resolve_dtype,
    say_text_losses,
)
from fewstep.commands.progress import Screen
from fewstep.teacher.limits import MOST_CLIPS

vbench_app = typer.Typer(
    help="Make videos for VBench, which needs an environment of its own, and read its results back.",
    no_args_is_help=True,
)


@vbench_app.command("videos")
def make_videos(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="As `fewstep evaluate` takes them.")],
    prompts: Annotated[
        Path, typer.Option(help="A text file with one prompt per line; VBench's own prompts for its standard suite.")
    ],
    out: Annotated[Path, typer.Option(help="Output folder, with a subfolder for each model.")],
    steps: PipelineStepsOption = None,
    guidance: Annotated[
        str | None, typer.Option(help=f"Guidance scale of pipelines; by default the first student's, else 5; {LEVELS}.")
    ] = None,
    embedded_guidance: EmbeddedGuidanceOption = None,
    control_scale: Control = None,
    shift: ShiftOption = None,
    seed: Annotated[
        int, typer.Option(min=0, max=2**31, help="Seed of the first clip; each further clip takes the next number.")
    ] = 0,
    batch: Annotated[int, typer.Option(min=1, max=MOST_CLIPS, help="Clips per batch.")] = 8,
    dtype: DTypeOption = "auto",
    device: DeviceOption = None,
) -> None:
    """Make five clips of every prompt, OUT/NAME/PROMPT-0.mp4 to -4; run it again to resume after a stop.

    Then, in an environment of its own (pip install vbench): vbench evaluate --videos_path OUT/NAME --dimension
    motion_smoothness --mode=custom_input; for VBench's own prompts leave --mode out and take any dimension.
    """
    screen = Screen(stdout_is_data=True)
    screen.say(f"reading prompts from {prompts}")
    import torch

    from fewstep.commands.evaluate import models_of
    from fewstep.distill.taken_folders import check_free
    from fewstep.eval.models import ClipClaim, claimed_dtype, open_model, with_student_defaults
    from fewstep.eval.outlines import outline_models
    from fewstep.eval.vbench import check_prompts, write_videos
    from fewstep.student.sampler import SamplingOptions
    from fewstep.teacher.dataset.caption_files import read_prompts
    from fewstep.teacher.files.atomic import check_unlocked
    from fewstep.teacher.files.shared_folder import only_writers
    from fewstep.teacher.given import given_names
    from fewstep.teacher.loading import find_device
    from fewstep.teacher.ranks import launched_ranks

    # each prompt once, as files are named by prompts
    shown = list(dict.fromkeys(read_prompts(prompts)))
    check_prompts(shown)
    check_free(out)
    chosen = models_of(models)
    find_device(device)
    claims = {model.name: out / f"{model.name}.json" for model in chosen}
    ways = SamplingOptions(
        steps,
        optional_guidance_of(guidance),
        shift,
        given=given_names(shown),
        embedded_guidance=embedded_guidance,
        control_scale=optional_control_scale(control_scale),
    )
    with launched_ranks(device) as ranks:
        if ranks.first:
            check_unlocked(out)
        dtype = ranks.from_first(lambda: resolve_dtype(screen, dtype, device, claimed_dtype([*claims.values()])))
        options, teacher = with_student_defaults(chosen, ways), None
        # clips of other models under these names are found before one is loaded
        for outlined in outline_models(chosen, options, same_size=False):
            if outlined.whole and ranks.first:
                claim = ClipClaim(outlined.model, outlined.sampler, seed, dtype, shown)
                claim.check(claims[outlined.model.name])
        with only_writers(out, ranks), screen.pieces("clip") as progress:
            for model in chosen:
                screen.say(f"loading {model.name} ({dtype})")
                sampler = open_model(model, options, teacher, getattr(torch, dtype), device)
                # the first model's teacher is that of the others, where it fits them
                if teacher is None:
                    teacher = sampler.teacher
                    say_text_losses(screen, teacher, shown)
                if ranks.first:
                    ClipClaim(model, sampler, seed, dtype, shown).keep(claims[model.name])
                write_videos(out / model.name, sampler, shown, seed, batch, progress, ranks)
    for model in chosen:
        screen.result(str(out / model.name))


@vbench_app.command("read")
def read(
    file: Annotated[Path, typer.Argument(help="A *_eval_results.json that VBench wrote.")],
    name: Annotated[str, typer.Option(help="The model's name in results.json.")],
    into: Annotated[Path, typer.Option(help="The folder of `fewstep evaluate`.")],
) -> None:
    """Add VBench's figures of a model to its row in an evaluation's results.json."""
    check_alone("vbench read")
    from fewstep.eval.evaluation_file import add_figures, check_evaluation
    from fewstep.eval.vbench import read_figures
    from fewstep.teacher.files.atomic import only_writer

    figures = read_figures(file)
    check_evaluation(into)
    with only_writer(into, "try again"):
        add_figures(into, name, figures)
    typer.echo(f"{', '.join(figures)} of {name} in {into / 'results.json'}")
