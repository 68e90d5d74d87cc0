"""Random pipelines of CogVideoX that clips are given something by: a first frame, or a control video."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.tiny_pipelines import save_tiny_cogvideox

IMAGE, CONTROL = "CogVideoXImageToVideoPipeline", "CogVideoXFunControlPipeline"
NEWER: dict[str, Any] = {"patch_size_t": 2, "patch_bias": False, "sample_height": 100, "sample_width": 200}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {  # the pipeline, and its denoiser's settings
    "image": (IMAGE, {}),
    "image-5b": (IMAGE, {"use_learned_positional_embeddings": True}),
    "image-1.5": (IMAGE, {**NEWER, "ofs_embed_dim": 16}),  # and its autoencoder's `invert_scale_latents`
    "control": (CONTROL, {}),
    "control-1.5": (CONTROL, NEWER),
}


def save_tiny_cogvideox_given(folder: Path, kind: str) -> None:
    """Writes a random pipeline of one of the kinds above."""
    name, config = KINDS[kind]
    save_tiny_cogvideox(folder, in_channels=8, **config)  # as many channels again for what is given
    _change(folder / "model_index.json", _class_name=name)
    _change(folder / "vae" / "config.json", invert_scale_latents=kind == "image-1.5")


def _change(path: Path, **settings: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
