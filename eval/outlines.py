"""Every model of a comparison looked at before the first is loaded: none is found missing after hours of measuring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fewstep.eval.choose_metrics import ChosenMetrics, Setting
from fewstep.eval.evaluate import claim_file
from fewstep.eval.evaluation_file import joined_protocol
from fewstep.eval.models import ClipClaim, Model, sampling_options_of, sampling_options_of_members
from fewstep.eval.protocol import protocol_of
from fewstep.student.chain import chained
from fewstep.student.decoder.files import find_decoder
from fewstep.student.outline import outline_sampler
from fewstep.student.sampler import Sampler, SamplingOptions
from fewstep.teacher.given import VIDEOS
from fewstep.teacher.outline import Outline

RESERVED = "real"  # the row of real clips


@dataclass(frozen=True)
class Outlined:
    """A model without its weights. `whole`: the weights of its teacher are on this disk, so their sha256 is known."""

    model: Model
    sampler: Sampler
    whole: bool


def outline_models(models: Sequence[Model], options: SamplingOptions, same_size: bool = True) -> list[Outlined]:
    """All models, in order, around the first one's teacher where that is theirs, and at its size, or each at its own.

    Raises ValueError naming every model that is missing, not whole, of no known teacher, or cannot be asked so.
    """
    if not models:
        raise ValueError("there are no models: pass a TEACHER, then STUDENTs")
    outlined: list[Outlined] = []
    # one mistake does not hide the next: all models are looked at before any error is raised
    wrong: dict[str, str] = {}
    shared: Outline | None = None
    for model in models:
        try:
            if model.name == RESERVED:
                raise ValueError(f"{RESERVED} is the name of real clips: call the model otherwise, NAME={model.source}")
            if model.decoder is not None:
                find_decoder(Path(model.decoder))
            # opened without weights, at a size that its pipeline can make
            sampler, outline, whole = _outline(model, options, shared)
            sampler.teacher.latent_shape(*sampler.size)
        except (ValueError, OSError) as error:
            wrong[model.name] = " ".join(str(error).split())
            continue
        # the first model says which teacher is shared, and the size of all clips
        if model is models[0]:
            shared = outline
            options = replace(options, **sampler.size._asdict()) if same_size else options
        outlined.append(Outlined(model, sampler, whole))
    if wrong:
        sentences = dict.fromkeys(wrong.values())
        raise ValueError(next(iter(sentences)) if len(sentences) == 1 else _list(wrong))
    if same_size:
        _check_rates(outlined)
    return outlined


def _check_rates(outlined: Sequence[Outlined]) -> None:
    """Raises ValueError where models would read the same given videos at several rates, and so see different frames."""
    first = outlined[0]
    for other in outlined[1:]:
        one, fps = first.sampler.fps, other.sampler.fps
        if fps != one and any(name in VIDEOS for name in other.sampler.teacher.given):
            raise ValueError(
                f"{first.model.name} makes clips of {one:g} frames per second, and {other.model.name} of {fps:g}: they "
                "would be given different frames of the same videos, so evaluate them apart"
            )


def _outline(model: Model, options: SamplingOptions, shared: Outline | None) -> tuple[Sampler, Outline, bool]:
    """A model, the outline of its teacher, the last member's of a chain, and whether all weights are on this disk."""
    if not model.members:
        sampler, outline = outline_sampler(model.source, sampling_options_of(model, options), shared)
        return sampler, outline, outline.whole
    pairs = zip(model.members, sampling_options_of_members(model, options), strict=True)
    parts = [_outline(member, way, shared if member is model.members[-1] else None) for member, way in pairs]
    samplers, outlines, whole = zip(*parts, strict=True)
    return chained(samplers, [member.frames for member in model.members[1:]]), outlines[-1], all(whole)


def check_evaluation_folder(
    out: Path, models: Sequence[Outlined], setting: Setting, chosen: ChosenMetrics, dtype: str
) -> None:
    """Raises ValueError when `out` holds an evaluation of another protocol, or clips of other models of these names.

    What depends on weights that are yet to be downloaded is left for later.
    """
    first = models[0]
    if first.whole:
        joined_protocol(
            out, protocol_of(first.model.name, first.sampler, setting.prompts, setting.seed, *chosen, dtype)
        )
    for outlined in models:
        if outlined.whole:
            ClipClaim(outlined.model, outlined.sampler, setting.seed).check(claim_file(out, outlined.model))


def _list(wrong: dict[str, str]) -> str:
    return "; ".join(f"{name}: {why}" for name, why in wrong.items())
