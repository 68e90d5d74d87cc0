"""`fewstep evaluate`: a teacher and its students on the same prompts and noise, measured into one results.json."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fewstep.commands.options import (
    LEVELS,
    Control,
    DecodersOption,
    DeviceOption,
    DType,
    DTypeOption,
    EmbeddedGuidanceOption,
    FramesOption,
    HeightOption,
    PipelineStepsOption,
    ShiftOption,
    WidthOption,
    for_each,
    named_sources,
    optional_control_scale,
    optional_guidance_of,
    parse_chain_source,
    parse_source,
    resolve_dtype,
    say_text_losses,
)
from fewstep.commands.progress import Screen
from fewstep.teacher.limits import MOST_CLIPS, MOST_ITEMS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fewstep.eval.choose_metrics import ChosenMetrics, Setting
    from fewstep.eval.evaluate import Evaluation
    from fewstep.eval.models import Model
    from fewstep.student.sampler import Sampler, SamplingOptions
    from fewstep.teacher.ranks import Ranks

_Num = Annotated[
    int,
    typer.Option("--num", min=3, max=MOST_ITEMS, help="Clips per model; prompts are repeated where there are fewer."),
]
_Batch = Annotated[
    int,
    typer.Option(
        "--batch", min=1, max=MOST_CLIPS, help="Clips per batch; an evaluation may be resumed with another number."
    ),
]

_Prompts = Annotated[
    Path | None,
    typer.Option(
        help="A text file with one prompt per line, or .jsonl that names files as well; by default held-out prompts "
        "where the judge can read clips."
    ),
]
_Guidance = Annotated[
    str | None,
    typer.Option(help=f"The teacher's guidance scale; by default the first student's, else 5; {LEVELS}."),
]
_Reference = Annotated[
    Path | None,
    typer.Option(help="Real videos that fvd and fd-* compare with; by default the teacher's clips from other noise."),
]
_Trunk = Annotated[Path | None, typer.Option(help="torchvision's AlexNet for lpips: alexnet-owt-7be5be79.pth.")]


def evaluate_command(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="TEACHER STUDENT...",
            help="[NAME=]SOURCE[@STEPS[:GUIDANCE]]; the source is shapes, a diffusers folder, a hub id, an export, a "
            "run's or a stage's folder. Of a run, @STEPS picks the stage with that many steps.",
        ),
    ],
    prompts: _Prompts = None,
    num: _Num = 2048,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for results.json and videos; by default RUN/evaluation of the last run."),
    ] = None,
    steps: PipelineStepsOption = None,
    guidance: _Guidance = None,
    negative_prompt: Annotated[
        str, typer.Option(help="The teacher's negative prompt; by default the first student's.")
    ] = "",
    seed: Annotated[int, typer.Option(min=0, max=2**31, help="Seed of noise, and of held-out prompts.")] = 0,
    batch: _Batch = 8,
    metrics: Annotated[
        str | None, typer.Option(help="Metrics, separated by commas; by default all that can be measured.")
    ] = None,
    reference: _Reference = None,
    world_clips: Annotated[
        int, typer.Option(min=3, help="Number of real clips of the shapes world that shapes-fd compares with.")
    ] = 2048,
    fvd_weights: Annotated[Path | None, typer.Option(help="I3D weights for fvd.")] = None,
    lpips_trunk: _Trunk = None,
    decoder: DecodersOption = None,
    shift: ShiftOption = None,
    embedded_guidance: EmbeddedGuidanceOption = None,
    control_scale: Control = None,
    frames: FramesOption = None,
    height: HeightOption = None,
    width: WidthOption = None,
    dtype: DTypeOption = "auto",
    device: DeviceOption = None,
) -> None:
    """Compare students with their teacher on the same prompts and noise; run it again to resume after a stop."""
    evaluate_models(
        models, prompts, num, out, steps, guidance, negative_prompt, seed, batch, metrics, reference, world_clips,
        fvd_weights, lpips_trunk, decoder, shift, embedded_guidance, control_scale, frames, height, width, dtype,
        device, Screen(),
    )  # fmt: skip


def evaluate_models(
    models: list[str],
    prompts: Path | None,
    num: int,
    out: Path | None,
    steps: int | None,
    guidance: str | None,
    negative_prompt: str,
    seed: int,
    batch: int,
    metrics: str | None,
    reference: Path | None,
    world_clips: int,
    fvd_weights: Path | None,
    lpips_trunk: Path | None,
    decoder: list[str] | None,
    shift: float | None,
    embedded_guidance: float | None,
    control_scale: str | None,
    frames: int | None,
    height: int | None,
    width: int | None,
    dtype: DType,
    device: str | None,
    screen: Screen,
) -> Path:
    """What `evaluate_command` does, under the same names: the folder that it writes."""
    screen.say(f"evaluating {', '.join(models)}")
    from fewstep.distill.taken_folders import check_free
    from fewstep.eval.choose_metrics import Setting, check_metric_names
    from fewstep.eval.evaluation_file import recorded_evaluation_dtype
    from fewstep.eval.outlines import check_evaluation_folder, outline_models
    from fewstep.eval.reference import reference_videos
    from fewstep.teacher.dataset.caption_files import read_prompts
    from fewstep.teacher.files.atomic import check_unlocked
    from fewstep.teacher.files.shared_folder import only_writers
    from fewstep.teacher.loading import find_device
    from fewstep.teacher.ranks import launched_ranks

    # names, folders and files first: what is wrong with them is seen at once
    chosen_models = models_of(models, decoder or ())
    folder = _folder(chosen_models) if out is None else out
    check_free(folder)
    given = None if prompts is None else read_prompts(prompts)
    check_metric_names(wanted := [] if metrics is None else [name.strip() for name in metrics.split(",")])
    if reference is not None:
        reference_videos(reference)
    options = _sampling_options(
        chosen_models, given, (frames, height, width), steps, guidance, shift, negative_prompt,
        embedded_guidance, control_scale,
    )  # fmt: skip
    with launched_ranks(device) as ranks:
        # the first process looks at the folder, and decides for all
        if ranks.first:
            check_unlocked(folder)
        dtype = ranks.from_first(lambda: resolve_dtype(screen, dtype, device, recorded_evaluation_dtype(folder)))
        # every model without its weights: mistakes show before hours of measuring
        outlined = outline_models(chosen_models, options)
        first = outlined[0].sampler
        shown = _prompts(given, num, first, seed)
        where = str(find_device(device))
        setting = Setting(first.size, first.fps, shown, seed, where, reference, world_clips, fvd_weights, lpips_trunk)
        chosen = _choose(wanted or None, setting, screen)
        if ranks.first:
            check_evaluation_folder(folder, outlined, setting, chosen, dtype)
        # the teacher first: students are compared with its clips
        teacher = _load_teacher(chosen_models[0], options, dtype, device, shown, screen)
        with only_writers(folder, ranks):
            evaluation = _begin(folder, chosen_models[0], teacher, setting, chosen, dtype, batch, screen.command, ranks)
            screen.log_to(folder)
            with screen:
                _measure(evaluation, chosen_models, teacher, options, dtype, device, screen)
                ranks.wait()
                if ranks.first:
                    _show(evaluation, screen)
    screen.result(f"figures {folder / 'results.json'}, clips {folder / 'videos'}")
    return folder


def _prompts(given: Sequence[str] | None, num: int, sampler: Sampler, seed: int) -> list[str]:
    """As many as are shown. Raises ValueError where what is given with one cannot be read."""
    from fewstep.eval.protocol import prompts_of
    from fewstep.teacher.given import check_given

    shown = prompts_of(given, num, sampler.size, seed)
    check_given(shown, sampler.teacher.given_sizes(sampler.size), sampler.fps)
    return shown


def _sampling_options(
    models: Sequence[Model],
    prompts: Sequence[str] | None,
    size: tuple[int | None, int | None, int | None],
    steps: int | None,
    guidance: str | None,
    shift: float | None,
    negative_prompt: str,
    embedded_guidance: float | None,
    control_scale: str | None,
) -> SamplingOptions:
    """How the models are asked; what comes with the prompts is what clips are made from."""
    from fewstep.eval.models import with_student_defaults
    from fewstep.student.sampler import SamplingOptions
    from fewstep.teacher.given import given_names

    names = None if prompts is None else given_names(prompts)
    weight, scale = optional_guidance_of(guidance), optional_control_scale(control_scale)
    options = SamplingOptions(steps, weight, shift, negative_prompt, *size, False, names, embedded_guidance, scale)
    return with_student_defaults(models, options)


def models_of(texts: list[str], decoders: Sequence[str] = ()) -> list[Model]:
    """The models that [NAME=]SOURCE[@STEPS[:GUIDANCE]] mean, with the decoders that [NAME=]DIR mean.

    Raises ValueError for what is no model, and for the decoder of a model that is not there.
    """
    from dataclasses import replace

    models = [model_of(name, text) for name, text in named_sources(texts).items()]
    for text in decoders:
        name, is_named, folder = text.partition("=")
        if is_named and name not in (model.name for model in models):
            raise ValueError(
                f"--decoder {text}: no model is called {name}; there are {', '.join(model.name for model in models)}"
            )
        # without a name, a decoder is that of all models but the first, which is the teacher
        chosen = {name} if is_named else {model.name for model in models[1:]}
        models = [
            replace(model, decoder=folder if is_named else text) if model.name in chosen else model for model in models
        ]
    return models


def is_chain_source(text: str) -> bool:
    """Whether SOURCE[@STEPS[:GUIDANCE]] means a chain. Raises ValueError for what is neither."""
    from fewstep.student.chain import members_of

    return bool(members_of(parse_chain_source(text)[0]))


def model_of(name: str, text: str, usual_steps: int | None = None) -> Model:
    """The model that SOURCE[@STEPS[:GUIDANCE]] means; of a chain @STEPS may be 4+4, a number for each member.

    usual_steps: of a chain that says none.
    """
    from fewstep.eval.models import Model
    from fewstep.student.chain import members_of

    source, steps, guidance = parse_chain_source(text)
    members = members_of(source)
    if members:
        num = len(members)
        steps = [usual_steps if count is None else count for count in steps]
        return Model.of_chain(name, source, members, for_each(steps, num, text), for_each(guidance, num, text))
    return Model.of(name, *parse_source(text))


def _folder(models: Sequence[Model]) -> Path:
    """In the last run that takes part."""
    from fewstep.eval.models import last_run

    run = last_run(models)
    if run is None:
        raise ValueError("no run takes part, so there is no usual place for the results: pass --out with a folder")
    return run / "evaluation"


def _choose(wanted: list[str] | None, setting: Setting, screen: Screen) -> ChosenMetrics:
    """The metrics, with a line for each that is left out and for options that none of them needs."""
    from fewstep.eval.choose_metrics import choose_metrics, unused_options

    screen.say("looking at the metrics")
    metrics, left_out = choose_metrics(wanted, setting)
    for sentence in (*(f"without {name}: {why}" for name, why in left_out.items()), *unused_options(metrics, setting)):
        screen.warn(sentence)
    return metrics, left_out


def _load_teacher(
    model: Model, options: SamplingOptions, dtype: DType, device: str | None, shown: Sequence[str], screen: Screen
) -> Sampler:
    """The teacher that the others are compared with; says which of the prompts it does not read whole."""
    import torch

    from fewstep.eval.models import open_model

    screen.say(f"loading {model.name} ({dtype})")
    teacher = open_model(model, options, None, getattr(torch, dtype), device)
    negative = [teacher.negative_prompt] if teacher.guidance.guides else []
    say_text_losses(screen, teacher.teacher, dict.fromkeys([*shown, *negative]))
    return teacher


def _begin(
    out: Path,
    model: Model,
    teacher: Sampler,
    setting: Setting,
    chosen: ChosenMetrics,
    dtype: DType,
    batch: int,
    command: str,
    ranks: Ranks,
) -> Evaluation:
    """The evaluation in its folder, new or resumed."""
    from fewstep.eval.evaluate import Evaluation
    from fewstep.eval.evaluation_file import EvaluationFile
    from fewstep.eval.protocol import protocol_of, samples_of

    protocol = protocol_of(model.name, teacher, setting.prompts, setting.seed, *chosen, dtype)
    if not ranks.first:
        ranks.wait()  # for the first one's protocol, which others must share
    file = EvaluationFile(out, command, protocol, list(setting.prompts), ranks.first)
    if ranks.first:
        ranks.wait()
    return Evaluation(out, file, samples_of(setting.prompts, setting.seed), chosen[0], batch, (model, teacher), ranks)


def _measure(
    evaluation: Evaluation,
    models: Sequence[Model],
    teacher: Sampler,
    options: SamplingOptions,
    dtype: DType,
    device: str | None,
    screen: Screen,
) -> None:
    """Model after model; one student at a time is in memory."""
    from dataclasses import replace

    import torch

    from fewstep.eval.models import open_model

    # clips of all models have the teacher's size
    options, precision = replace(options, **teacher.size._asdict()), getattr(torch, dtype)
    with screen.pieces("clip") as progress:
        evaluation.measure(models[0], teacher, progress)
        for model in models[1:]:
            screen.say(f"loading {model.name} ({dtype})")
            evaluation.measure(model, open_model(model, options, teacher.teacher, precision, device), progress)


def _show(evaluation: Evaluation, screen: Screen) -> None:
    from fewstep.commands.evaluate_screen import figures_table, say_warnings

    screen.table(figures_table(evaluation.rows))
    say_warnings(evaluation.rows, evaluation.prompts, screen)
