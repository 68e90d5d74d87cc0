"""The recipe of the embedded teacher, and the run that follows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from fewstep.teacher.files.atomic import whole_file
from fewstep.teacher.files.yaml_text import load_yaml
from fewstep.teacher.precision import AUTO, choose_precision
from fewstep.teacher.screen import SILENT, TrainingScreen
from fewstep.teacher.shapes.attribute_watch import attribute_watch
from fewstep.teacher.shapes.autoencoder import (
    AutoencoderRecipe,
    fit_code,
    make_autoencoder,
    train_autoencoder,
)
from fewstep.teacher.shapes.conditioned import ConditionedRecipe
from fewstep.teacher.shapes.denoiser import (
    TEXT_TOKENS,
    DenoiserRecipe,
    fresh_text_encoder,
    make_transformer,
    train_denoiser,
    train_text,
)
from fewstep.teacher.shapes.judge import Judge, JudgeRecipe, load_judge, save_judge, train_judge
from fewstep.teacher.shapes.latents import training_latents
from fewstep.teacher.shapes.linear_code import LINEAR_CODE, LinearCode
from fewstep.teacher.shapes.start import copy_code, load_start

TrainedPart = Literal["judge", "autoencoder", "denoiser"]
TRAINED_PARTS: tuple[TrainedPart, ...] = ("judge", "autoencoder", "denoiser")


class TeacherRecipe(BaseModel):
    """A teacher of the shapes world: what is trained, for how long, from which seed and start, into which folder."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    world: Literal["shapes"] = "shapes"
    seed: int = 0
    out: Path = Path("runs/shapes-teacher")
    start: str | None = None  # an earlier teacher, shapes or a folder, whose weights and latents are gone on with
    judge: JudgeRecipe = JudgeRecipe()
    autoencoder: AutoencoderRecipe = AutoencoderRecipe()
    denoiser: DenoiserRecipe = DenoiserRecipe()


AnyRecipe = TeacherRecipe | ConditionedRecipe
_R = TypeVar("_R", bound=TeacherRecipe | ConditionedRecipe)


def read_any_recipe(path: Path) -> AnyRecipe:
    """Reads the YAML; with `learns` it is a ConditionedRecipe. Raises ValueError naming each key that is wrong."""
    if not path.is_file():
        raise ValueError(f"there is no recipe {path}: name a YAML file such as recipes/shapes-teacher.yaml")
    try:
        # a byte order mark, as some editors write, is passed over
        values = load_yaml(path.read_text("utf-8-sig")) or {}
        kind = ConditionedRecipe if isinstance(values, dict) and "learns" in values else TeacherRecipe
        return kind.model_validate(values)
    except ValidationError as error:
        mistakes = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ValueError(f"{path} is not a teacher recipe: {mistakes}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {error}".replace("\n", " ")) from error


def read_teacher_recipe(path: Path) -> TeacherRecipe:
    """Reads the YAML of a teacher of prompts. Raises ValueError as `read_any_recipe`, and for one with `learns`."""
    recipe = read_any_recipe(path)
    if isinstance(recipe, ConditionedRecipe):
        raise ValueError(f"{path} trains a teacher of {recipe.learns}s: name a recipe of a teacher of prompts")
    return recipe


# What may change between two runs into the same folder; anything else would mix two teachers in one
_MAY_CHANGE = {"out", "steps", "lr", "muon_lr", "cooldown", "ema", "watch_clips", "precision", "compile"}


def resolve_training_precision(recipe: _R, device: torch.device) -> tuple[_R, str | None]:
    """The recipe with fp32 or bf16 in place of auto, and a line for the user where something said auto."""
    if isinstance(recipe, ConditionedRecipe):
        if recipe.precision != AUTO:
            return recipe, None
        choice = choose_precision(AUTO, device)
        return recipe.model_copy(update={"precision": _short(choice.precision)}), choice.line
    # one choice for all parts that leave it open
    parts = {part: getattr(recipe, part) for part in TRAINED_PARTS}
    unresolved = [part for part, settings in parts.items() if settings.precision == AUTO]
    if not unresolved:
        return recipe, None
    choice = choose_precision(AUTO, device)
    resolved: dict[str, Any] = {
        part: parts[part].model_copy(update={"precision": _short(choice.precision)}) for part in unresolved
    }
    return recipe.model_copy(update=resolved), choice.line


def _short(precision: str) -> str:
    return "bf16" if precision == "bfloat16" else "fp32"


def keep_recipe(recipe: AnyRecipe) -> None:
    """Leaves the resolved recipe in the run directory. Raises ValueError when another one was begun there."""
    path = recipe.out / "recipe.yaml"
    # a run directory holds one teacher: what is resumed is what was begun, but for settings that may change
    if path.exists():
        changed = _differences(read_any_recipe(path).model_dump(), recipe.model_dump())
        if changed:
            raise ValueError(
                f"{recipe.out} was begun with another {', '.join(changed)}: name another folder as `out`, or delete it"
            )
    recipe.out.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as part:
        part.write_text(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))


def _differences(before: dict[str, Any], after: dict[str, Any], above: str = "") -> list[str]:
    """The dotted names of the settings that differ and may not."""
    changed: list[str] = []
    for key, value in after.items():
        if isinstance(value, dict):
            changed += _differences(before[key], value, f"{above}{key}.")
        elif key not in _MAY_CHANGE and before[key] != value:
            changed.append(above + key)
    return changed


def run_part(recipe: TeacherRecipe, part: TrainedPart, device: torch.device, screen: TrainingScreen = SILENT) -> None:
    """Trains one part, or resumes it where it was stopped; parts need no other part but the linear code."""
    keep_recipe(recipe)
    torch.manual_seed(recipe.seed)
    folder = recipe.out / part
    folder.mkdir(parents=True, exist_ok=True)
    screen.say(f"{part}: getting ready in {folder}")
    if part == "judge":
        judge = Judge().to(device)
        train_judge(judge, recipe.judge, recipe.seed, folder, screen)
        save_judge(judge, folder)
        return
    # all parts share the linear code that latents are made with; with `start` it is the one of that teacher
    path = recipe.out / LINEAR_CODE
    if recipe.start and not path.exists():
        copy_code(recipe.start, path)
    code = fit_code(recipe.autoencoder, recipe.seed, path)
    if part == "autoencoder":
        autoencoder = make_autoencoder(recipe.autoencoder)
        if recipe.start:
            load_start(recipe.start, "vae", autoencoder)
        autoencoder.to(device)
        train_autoencoder(autoencoder, code, recipe.autoencoder, recipe.seed, folder, screen)
        autoencoder.save_pretrained(folder / "vae")
    else:
        _run_denoiser(recipe, code, folder, device, screen)


def _run_denoiser(
    recipe: TeacherRecipe, code: LinearCode, folder: Path, device: torch.device, screen: TrainingScreen
) -> None:
    settings = recipe.denoiser
    latents = training_latents(code, settings.clips, recipe.seed, recipe.out / "latents.npy", screen)
    text_encoder = fresh_text_encoder()
    transformer = make_transformer(settings, recipe.autoencoder.channels)
    # an earlier teacher's networks are trained further; without one, the text encoder learns captions first
    if recipe.start:
        load_start(recipe.start, "text_encoder", text_encoder)
        load_start(recipe.start, "transformer", transformer)
    else:
        train_text(text_encoder, settings, recipe.seed, recipe.out / "text", screen)
    transformer.to(device)
    text_encoder.to(device)
    trained = (recipe.out / "judge" / "judge.json").exists()  # the judge may still be in training next to this
    judge = load_judge(recipe.out / "judge") if trained else None
    # while it trains: whether captions are followed, by the judge where it is ready
    watch = attribute_watch(transformer, text_encoder, code, judge, settings.watch_clips, TEXT_TOKENS)
    train_denoiser(transformer, text_encoder, latents, settings, recipe.seed, folder, watch, screen)
    transformer.save_pretrained(folder / "transformer")
    text_encoder.save_pretrained(folder / "text_encoder")
