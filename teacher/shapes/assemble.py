"""Puts the trained parts together: a plain WanPipeline folder, next to it only its clip size and linear code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, FlowMapEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from transformers import UMT5EncoderModel

from fewstep.teacher.shapes.judge import EMBEDDED_JUDGE
from fewstep.teacher.shapes.linear_code import LINEAR_CODE
from fewstep.teacher.shapes.text import make_tokenizer
from fewstep.teacher.shapes.world import WORLD_FPS, WORLD_FRAMES, WORLD_SIDE

SAMPLING_SHIFT = 3.0  # as Wan 2.1 samples small clips; at 50 steps as good as 5, which is Wan's for large ones: LOG.md


def assemble(parts: Path, folder: Path) -> Path:
    """Writes `folder` from the run directory `parts`; transformer and autoencoder in fp16, which halves them.

    Raises ValueError when a part was not trained yet. The scheduler is FlowMapEuler because its nodes are nested:
    those of 4 steps are among those of 8, 16 and 32, as the relay needs; FlowMatchEuler's are not.
    """
    sources = {
        "vae": parts / "autoencoder" / "vae",
        "transformer": parts / "denoiser" / "transformer",
        "text_encoder": parts / "denoiser" / "text_encoder",
    }
    missing = [name for name, source in sources.items() if not source.exists()]
    if missing:
        raise ValueError(f"{parts} has no trained {', '.join(missing)} yet: run `fewstep teacher train` to the end")
    pipeline = WanPipeline(
        tokenizer=make_tokenizer(),
        text_encoder=UMT5EncoderModel.from_pretrained(sources["text_encoder"]),
        vae=AutoencoderKLWan.from_pretrained(sources["vae"], torch_dtype=torch.float16),
        transformer=WanTransformer3DModel.from_pretrained(sources["transformer"], torch_dtype=torch.float16),
        scheduler=FlowMapEulerDiscreteScheduler(shift=SAMPLING_SHIFT),
    )
    pipeline.save_pretrained(folder)
    # what save_pretrained notes of this machine's folders would mean nothing elsewhere
    for config in folder.glob("*/config.json"):
        _forget_origin(config)
    # next to the pipeline: the linear code, and the clips' size and rate, which diffusers does not read
    shutil.copyfile(parts / LINEAR_CODE, folder / LINEAR_CODE)
    size = {"num_frames": WORLD_FRAMES, "height": WORLD_SIDE, "width": WORLD_SIDE, "fps": WORLD_FPS}
    (folder / "fewstep.json").write_text(json.dumps(size) + "\n")
    return folder


def embed_judge(parts: Path) -> None:
    """Makes the run's judge the embedded one."""
    for name in ("judge.safetensors", "judge.json"):
        shutil.copyfile(parts / "judge" / name, EMBEDDED_JUDGE / name)


def _forget_origin(config: Path) -> None:
    """Drops the folder a part was loaded from: a path on the machine that trained it means nothing elsewhere."""
    settings = json.loads(config.read_text())
    settings.pop("_name_or_path", None)
    config.write_text(json.dumps(settings, indent=2) + "\n")
