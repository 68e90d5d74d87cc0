"""A small decoder on disk: a folder that diffusers loads without fewstep, and whose autoencoder it stands in for."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.student.decoder import video_decoder
from fewstep.student.decoder.video_decoder import SmallVideoDecoder
from fewstep.teacher.base import Teacher
from fewstep.teacher.files.checksums import sha256_of_all
from fewstep.teacher.files.json_text import parse_json
from fewstep.teacher.loading import without_bars

DECODER_FOLDER = "decoder"  # in a run directory
_CONFIG = "config.json"
_MODULE = Path(video_decoder.__file__)
_CLASS = SmallVideoDecoder.__name__


def autoencoder_sha256(teacher: Teacher) -> str:
    """Of the weights of its autoencoder, wherever they were loaded from."""
    vae: nn.Module = teacher._part("vae")
    digest = hashlib.sha256()
    for name, tensor in sorted(vae.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def save_decoder(decoder: SmallVideoDecoder, folder: Path, card: str) -> None:
    """Weights, config, the module that they are of, and a card, into a folder that is there."""
    decoder.save_pretrained(folder)
    shutil.copyfile(_MODULE, folder / _MODULE.name)
    (folder / "README.md").write_text(card, "utf-8")


def check_loads(folder: Path, decoder: SmallVideoDecoder, z: Tensor) -> float:
    """Loads the folder as people do, through diffusers and its copy of the module, and returns the relative error of
    what it decodes of z (B, C, n, h, w).

    Raises ValueError when it is not the same to 1e-4.
    """
    from diffusers import AutoModel

    with without_bars(), torch.no_grad():
        loaded: Any = AutoModel.from_pretrained(str(folder), trust_remote_code=True).to(z.device).eval()
        other, own = loaded.decode(z, return_dict=False)[0], decoder.decode(z, return_dict=False)[0]
    error = float((other - own).norm() / own.norm().clamp_min(1e-12))
    if not error <= 1e-4:
        raise ValueError(f"{folder}: what diffusers loads decodes otherwise (relative error {error:.2g}): report it")
    return error


def find_decoder(path: Path) -> Path:
    """The folder of a decoder, or of the run that holds one. Raises ValueError when there is none."""
    place = path.expanduser()
    for folder in (place / DECODER_FOLDER, place):
        if (folder / _CONFIG).is_file():
            try:
                if parse_json((folder / _CONFIG).read_text("utf-8")).get("_class_name") == _CLASS:
                    return folder
            except (ValueError, AttributeError, OSError) as error:
                raise ValueError(f"{folder / _CONFIG} cannot be read ({error}): train the decoder again") from error
    raise ValueError(
        f"there is no small decoder in {path}: pass the folder of a finished `fewstep run` of a recipe such as "
        "shapes-decoder, or the folder decoder in it"
    )


def decoder_sha256(path: Path) -> str:
    """Of its weights. Raises ValueError as `find_decoder`."""
    return sha256_of_all(sorted(find_decoder(path).glob("*.safetensors")))


def load_decoder(path: Path, teacher: Teacher) -> SmallVideoDecoder:
    """The decoder in a folder, on the teacher's device.

    Raises ValueError when there is none, its files are broken, or it stands in for another autoencoder.
    """
    folder = find_decoder(path)
    try:
        with without_bars():
            decoder = SmallVideoDecoder.from_pretrained(folder, use_safetensors=True, low_cpu_mem_usage=False)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"the decoder in {folder} cannot be loaded ({reason}): train it again") from error
    if decoder.config.autoencoder_sha256 != autoencoder_sha256(teacher):
        raise ValueError(
            f"the decoder in {folder} was distilled from another autoencoder than that of {teacher.folder}: distil one "
            "from this teacher"
        )
    return decoder.requires_grad_(False).eval().to(teacher.device)
