"""Teaches the embedded teacher to see more than a prompt: a clip's first and last frames, boxes; or to make one frame.

What is trained is small, so that it ships: for frames (`image`) an adapter on the blocks (LoRA, arXiv 2106.09685) and
the layer that reads the channels next to the noise (Wan image-to-video, arXiv 2503.20314); for boxes (`control`) a
branch of a few blocks (VACE, arXiv 2503.07598); for clips of one frame (`frame`) an adapter alone. The rest stays the
embedded teacher's, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fewstep.teacher.base import Teacher
from fewstep.teacher.conditions import EMBEDDINGS, Conditions, Tensors, cut_padding
from fewstep.teacher.files.atomic import whole_file
from fewstep.teacher.given import Given
from fewstep.teacher.limited import Items, NumClips, NumSteps, Rank, Rate, TimeShift
from fewstep.teacher.load_teacher import load_teacher
from fewstep.teacher.schedule import shift_time
from fewstep.teacher.screen import SILENT, TrainingScreen
from fewstep.teacher.shapes.captions import draw_caption, example
from fewstep.teacher.shapes.denoiser import TEXT_TOKENS
from fewstep.teacher.shapes.latents import to_tensor
from fewstep.teacher.shapes.learned import (
    LEARNED_FILE,
    ConditioningKind,
    assemble_learned,
    prepare_training,
    save_learned,
    save_learned_tensors,
    start_tensors,
)
from fewstep.teacher.shapes.precision import TrainingPrecision, autocast
from fewstep.teacher.shapes.text import encode_text, tokenize
from fewstep.teacher.shapes.world import Scene, render_boxes, render_scene
from fewstep.teacher.source import find_teacher_folder
from fewstep.teacher.training_loop import Budget, losses_by_time, train_network

GIVEN_OF_KIND: dict[ConditioningKind, tuple[tuple[str, ...], ...]] = {
    "image": (("first",), ("first", "last")),
    "control": (("control",),),
    "frame": ((),),
}
_CHUNK = 32  # clips that are encoded together
_X0 = "x0"


class ConditionedRecipe(BaseModel):
    """What a teacher learns to see, of which earlier teacher, and for how long."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    world: Literal["shapes"] = "shapes"
    learns: ConditioningKind
    seed: int = 0
    out: Path
    start: str = "shapes"  # a teacher of prompts, shapes or a folder
    rank: Rank = 32  # of the adapter of `image` and `frame`
    layers: tuple[int, ...] = (0, 3)  # whose copies are the branch of `control`; the first must be 0
    clips: Items = 4000
    steps: NumSteps = 2400
    batch: NumClips = 16
    lr: Rate = 1e-3
    cooldown: float = Field(0.4, ge=0, le=1)
    ema: float = Field(0.998, ge=0, lt=1)
    shift: TimeShift = 3.0  # training times are uniform, then shifted towards noise by this much
    drop: float = Field(0.1, ge=0, le=1)  # captions replaced by "": guidance needs an unconditional branch
    precision: TrainingPrecision = "auto"


def given_of_scenes(scenes: list[Scene], names: tuple[str, ...]) -> Given:
    """What these scenes' clips show of these names, as uint8 (B, 3, F, H, W)."""
    makers: dict[str, Callable[[Scene], Any]] = {
        "first": lambda scene: render_scene(scene)[:1],
        "last": lambda scene: render_scene(scene)[-1:],
        "control": render_boxes,
    }
    return {
        name: torch.from_numpy(np.stack([makers[name](scene) for scene in scenes])).permute(0, 4, 1, 2, 3)
        for name in names
    }


@torch.no_grad()
def encode_clips(
    teacher: Teacher, recipe: ConditionedRecipe, path: Path, screen: TrainingScreen = SILENT
) -> dict[str, Tensor]:
    """Latents of the training clips, and what the denoiser sees of what they are given: name -> (N, ...) float16.

    Clip i is given what `GIVEN_OF_KIND` says for i modulo its length. Read from `path` where it is there.
    """
    ways, size = GIVEN_OF_KIND[recipe.learns], teacher.default_size()
    if not path.exists():
        parts: list[dict[str, Tensor]] = []
        with screen.pieces("clip") as report:
            for first in range(0, recipe.clips, _CHUNK):
                rows = range(first, min(first + _CHUNK, recipe.clips))
                parts.append(_encoded(teacher, recipe, rows, ways, size))
                report("encoding", rows.stop, recipe.clips)
        with whole_file(path) as file:
            save_file({name: torch.cat([part[name] for part in parts]) for name in parts[0]}, file)
    return load_file(path)


def _encoded(teacher: Teacher, recipe: ConditionedRecipe, rows: range, ways: Any, size: Any) -> dict[str, Tensor]:
    scenes = [example("train", recipe.seed, i)[0] for i in rows]
    encoded = {
        _X0: teacher.encode(to_tensor([render_scene(scene)[: size.num_frames] for scene in scenes]).to(teacher.device))
    }
    # one dataset for all ways of giving, such as with a last frame and without: each clip has one of them
    for way, names in enumerate(ways):
        mine = [k for k, i in enumerate(rows) if i % len(ways) == way]
        teacher.take(names)
        given = given_of_scenes([scenes[k] for k in mine], names)
        for name, tensor in teacher.encode_given(given, size, len(mine)).items():
            encoded.setdefault(name, tensor.new_zeros(len(rows), *tensor.shape[1:]))[mine] = tensor
    return {name: tensor.half().cpu() for name, tensor in encoded.items()}


def train_conditioned(
    teacher: Teacher,
    network: nn.Module,
    clips: dict[str, Tensor],
    recipe: ConditionedRecipe,
    folder: Path,
    screen: TrainingScreen = SILENT,
) -> None:
    """Flow matching with what is given besides the prompt; trains what of `network` requires gradients."""
    seen = {name: tensor for name, tensor in clips.items() if name != _X0}
    scenes = [example("train", recipe.seed, i)[0] for i in range(recipe.clips)]
    schedule = teacher.schedule

    def losses(step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([recipe.seed, step, 3])
        # everything random follows from seed and step: a resumed run draws the same
        rows = rng.integers(len(scenes), size=recipe.batch)
        captions = ["" if rng.random() < recipe.drop else draw_caption(scenes[i], rng, "train") for i in rows]
        text = _embedded(teacher, captions)
        x0 = clips[_X0][rows].float().to(teacher.device)
        conditions = Conditions(text, shared={n: x[rows].float().to(teacher.device) for n, x in seen.items()})
        # flow matching (arXiv 2210.02747): z_t = (1 - t) x0 + t eps, whose velocity eps - x0 is predicted
        t = shift_time(torch.from_numpy(rng.random(recipe.batch)), recipe.shift)
        eps = torch.from_numpy(rng.standard_normal(x0.shape, dtype=np.float32)).to(teacher.device)
        # what requires gradients learns: an adapter, the input layer or a branch, by kind
        with autocast(recipe.precision, teacher.device):
            velocity = teacher.predict(schedule.add_noise(x0, eps, t), t, conditions, network)
        error = (velocity.float() - (eps - x0)).square().mean(dim=(1, 2, 3, 4))
        return {"loss": error.mean(), **losses_by_time(error, t)}

    budget = Budget(recipe.steps, recipe.lr, warmup=100, cooldown=recipe.cooldown, ema=recipe.ema)
    train_network(recipe.learns, folder, {"network": network}, losses, budget, screen=screen)


@torch.no_grad()
def _embedded(teacher: Teacher, captions: list[str]) -> Tensors:
    """`Teacher.embed`, whose pipeline pads to 512 tokens: of captions this short that is most of the work."""
    ids, mask = tokenize(teacher.pipeline.tokenizer, captions, TEXT_TOKENS)
    text = encode_text(teacher.pipeline.text_encoder, ids.to(teacher.device), mask.to(teacher.device))
    return {EMBEDDINGS: cut_padding(text)}


def run_conditioned(recipe: ConditionedRecipe, device: torch.device, screen: TrainingScreen = SILENT) -> Path:
    """Trains such a teacher, or resumes; its pipeline's folder. What it learned lies next to it, in `LEARNED_FILE`."""
    start = find_teacher_folder(recipe.start, ("WanPipeline",))[0]
    untrained, learned = recipe.out / "untrained", recipe.out / LEARNED_FILE
    # the untrained pipeline answers as the teacher of prompts does, and is what training begins with
    if not untrained.exists():
        tensors = start_tensors(recipe.learns, start, recipe.layers, recipe.seed)
        save_learned_tensors(recipe.learns, tensors, recipe.layers, recipe.out / "start.safetensors")
        assemble_learned(recipe.out / "start.safetensors", start, untrained)
    teacher = load_teacher(untrained, device=device)
    clips = encode_clips(teacher, recipe, recipe.out / "clips.safetensors", screen)
    # a copy is trained, with its adapter; the teacher's own denoiser stays as it is
    network = deepcopy(teacher.denoiser)
    torch.manual_seed(recipe.seed)
    prepare_training(recipe.learns, network, recipe.rank)
    train_conditioned(teacher, network, clips, recipe, recipe.out / recipe.learns, screen)
    save_learned(recipe.learns, network, recipe.layers, learned)
    return assemble_learned(learned, start, recipe.out / "pipeline")
