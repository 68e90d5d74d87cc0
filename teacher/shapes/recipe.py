"""The recipe of the embedded teacher, and the run that follows it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from fewstep.teacher.shapes.autoencoder import (
    AutoencoderRecipe,
    fit_code,
    make_autoencoder,
    train_autoencoder,
)
from fewstep.teacher.shapes.denoiser import (
    DenoiserRecipe,
    fresh_text_encoder,
    make_transformer,
    train_denoiser,
    train_text,
)
from fewstep.teacher.shapes.judge import Judge, JudgeRecipe, save_judge, train_judge
from fewstep.teacher.shapes.latents import training_latents

Part = Literal["judge", "autoencoder", "denoiser"]
PARTS: tuple[Part, ...] = ("judge", "autoencoder", "denoiser")


class TeacherRecipe(BaseModel):
    """A teacher of the shapes world: what is trained, for how long, from which seed, into which folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    world: Literal["shapes"] = "shapes"
    seed: int = 0
    out: Path = Path("runs/shapes-teacher")
    judge: JudgeRecipe = JudgeRecipe()
    autoencoder: AutoencoderRecipe = AutoencoderRecipe()
    denoiser: DenoiserRecipe = DenoiserRecipe()


def read_recipe(path: Path) -> TeacherRecipe:
    """Reads the YAML. Raises ValueError naming each key that is wrong."""
    if not path.is_file():
        raise ValueError(f"there is no recipe {path}: name a YAML file such as recipes/shapes-teacher.yaml")
    try:
        return TeacherRecipe.model_validate(yaml.safe_load(path.read_text()) or {})
    except ValidationError as error:
        found = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ValueError(f"{path} is not a teacher recipe: {found}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}".replace("\n", " ")) from error


def run_part(recipe: TeacherRecipe, part: Part, device: torch.device) -> None:
    """Trains one part, or goes on where it was stopped; parts need no other part but the linear code."""
    torch.manual_seed(recipe.seed)
    folder = recipe.out / part
    folder.mkdir(parents=True, exist_ok=True)
    if part == "judge":
        judge = Judge().to(device)
        train_judge(judge, recipe.judge, recipe.seed, folder)
        save_judge(judge, folder)
        return
    code = fit_code(recipe.autoencoder, recipe.seed, recipe.out / "code.safetensors")
    if part == "autoencoder":
        autoencoder = make_autoencoder(recipe.autoencoder).to(device)
        train_autoencoder(autoencoder, code, recipe.autoencoder, recipe.seed, folder)
        autoencoder.save_pretrained(folder / "vae")
        return
    latents = training_latents(code, recipe.denoiser.clips, recipe.seed, recipe.out / "latents.npy")
    text_encoder = fresh_text_encoder()
    train_text(text_encoder, recipe.denoiser, recipe.seed, recipe.out / "text")
    transformer = make_transformer(recipe.denoiser, recipe.autoencoder.channels).to(device)
    text_encoder.to(device)
    train_denoiser(transformer, text_encoder, latents, recipe.denoiser, recipe.seed, folder)
    transformer.save_pretrained(folder / "transformer")
    text_encoder.save_pretrained(folder / "text_encoder")
