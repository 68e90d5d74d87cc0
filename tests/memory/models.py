"""Configs of real checkpoints, as their folders on the hub have them: what differs from the packaged Wan 2.1 1.3B."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import fewstep.eval.latency.random_weights as random_weights

_BASE = "wan2.1-t2v-1.3b"
_14B = {"num_attention_heads": 40, "num_layers": 40, "ffn_dim": 13824}
_5B = {"num_attention_heads": 24, "num_layers": 30, "ffn_dim": 14336, "in_channels": 48, "out_channels": 48}
_VAE_2_2 = {
    "base_dim": 160,
    "decoder_base_dim": 256,
    "z_dim": 48,
    "in_channels": 12,
    "out_channels": 12,
    "is_residual": True,
    "patch_size": 2,
    "scale_factor_spatial": 16,
    "latents_mean": [0.0] * 48,  # stand-ins, as their values cost nothing
    "latents_std": [1.0] * 48,
}
MODELS: dict[str, dict[str, dict[str, Any]]] = {  # name -> part of the pipeline -> its settings
    "Wan 2.1 1.3B": {},
    "Wan 2.2 5B": {"transformer": _5B, "vae": _VAE_2_2, "": {"expand_timesteps": True}},
    "Wan 2.1 14B": {"transformer": _14B},
    "Wan 2.2 A14B": {
        "transformer": _14B,
        "transformer_2": _14B,
        "": {"boundary_ratio": 0.875, "transformer_2": ["diffusers", "WanTransformer3DModel"]},
    },
}


def write_configs(folder: Path, name: str) -> str:
    """Writes a pipeline's folder without weights; its class."""
    source = Path(random_weights.__file__).parent / "architectures" / _BASE
    shutil.copytree(source, folder, dirs_exist_ok=True)
    for part, settings in MODELS[name].items():
        if part and not (folder / part).exists():
            shutil.copytree(source / part.split("_")[0], folder / part)
        path = next((folder / part).glob("*config.json")) if part else folder / "model_index.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return str(json.loads((folder / "model_index.json").read_text())["_class_name"])
