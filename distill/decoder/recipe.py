"""The recipe of a small decoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from fewstep.distill.data_recipe import DataRecipe
from fewstep.distill.objectives.base import Fraction, Settings
from fewstep.distill.overrides import apply
from fewstep.distill.packaged import RECIPES, find_recipe, recipe_settings
from fewstep.distill.settings import Size
from fewstep.distill.validation_errors import error_sentences
from fewstep.teacher.files.yaml_text import load_yaml
from fewstep.teacher.limited import Amount, Channels, Decay, Items, NumClips, NumSteps, Rate, Weight

Blocks = Annotated[int, Field(ge=0, le=64)]


class TimeDiscriminator(Settings):
    """A discriminator of clips over space and time, which keeps textures from fading and motion from flickering."""

    weight: Weight = 0.0
    """Of the decoder's adversarial loss; the pixels' weighs 1. 0: there is none."""
    start: Fraction = 0.3
    """Fraction of the steps before it takes part."""
    width: Channels = 24
    """Channels of its first layer."""


class FeatureLoss(Settings):
    """A distance between what a frozen network sees in clips of both decoders: what pixels' errors leave out."""

    weight: Weight = 0.0
    """Of the features' mean absolute difference; the pixels' weighs 1. 0: there is none."""
    network: Literal["encoder", "judge"] = "encoder"
    """encoder: the teacher's own. judge: of the shapes world, clips of 17 frames of 64x64; `shapes-fd` is measured by
    the same features, so look at other figures as well."""
    start: Fraction = 0.5
    """Fraction of the steps before it takes part."""


class DecoderSettings(Settings):
    """The small decoder and how it is trained."""

    widths: tuple[Channels, ...] = (96, 48, 16)
    """Channels of each level from the latents up; each level after the first has twice the resolution."""
    blocks: tuple[Blocks, ...] = (3, 1, 0)
    """Residual blocks of each level."""
    clips: Annotated[Items, Field(ge=2)] = 1024
    """Clips that the teacher's autoencoder decodes once, to be learned from."""
    window: Size | None = None
    """Only a part of each clip of this size, at a random place: what large teachers need. Null: whole clips."""
    noise: Amount = 0.05
    """Standard deviation of noise on the latents, which are of unit variance, before both decoders see them: latents of
    a student are not quite its teacher's."""
    steps: NumSteps = 4000
    """Of the optimizer."""
    batch: NumClips = 8
    """Clips of a step."""
    lr: Rate = 2e-3
    """Learning rate of AdamW and, of filters, Muon, falling to 0 over the last `cooldown` of the steps."""
    cooldown: Fraction = 0.5
    """Fraction of the steps."""
    ema: Decay = 0.999
    """Decay of the EMA, which is kept in the end."""
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    """Of the small decoder's passes in training; its weights are float32. auto: bfloat16 where the device is fast in
    it, else float32."""
    features: FeatureLoss = FeatureLoss()
    """A loss through a network that sees clips of both decoders."""
    discriminator: TimeDiscriminator = TimeDiscriminator()
    """Judges clips of both decoders."""

    @model_validator(mode="after")
    def _levels(self) -> DecoderSettings:
        if len(self.widths) != len(self.blocks) or not self.widths:
            raise ValueError(
                f"decoder.widths has {len(self.widths)} entries and decoder.blocks {len(self.blocks)}: give both one "
                "for each level"
            )
        return self


class DecoderRecipe(DataRecipe):
    """A teacher, clips of it, and the small decoder that learns its autoencoder's."""

    out: Path = Path("runs/decoder")
    """The run directory; a run that stopped there is resumed."""
    decoder: DecoderSettings = DecoderSettings()
    """The small decoder."""


def is_decoder(path: str) -> bool:
    """Whether a recipe is a decoder's. Raises ValueError when there is no such recipe; what is no YAML is not one."""
    settings = recipe_settings(path)
    return "decoder" in settings and "stages" not in settings


def read_decoder_recipe(path: str, overrides: Sequence[str] = ()) -> DecoderRecipe:
    """The recipe of a YAML file, or of a packaged one by its name, with `overrides` as `read_recipe` takes them.

    Raises ValueError naming everything that is wrong.
    """
    file = find_recipe(path)
    values: dict[str, Any] = load_yaml(file.read_text("utf-8-sig"))
    for override in overrides:
        apply(override, values)
    try:
        return DecoderRecipe.model_validate(values, context={"folders": (file.parent, Path.cwd(), RECIPES)})
    except ValidationError as error:
        raise ValueError(f"{file}: {'; '.join(error_sentences(error, DecoderRecipe.model_json_schema()))}") from error
