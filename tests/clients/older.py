"""Run by another Python, with an older diffusers: the snippet of a card as far as `pipe`, then our noise through it.

python older.py FOLDER SNIPPET ARGUMENTS LATENTS OUT
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import diffusers
import torch


def main() -> None:
    """Writes latents, and the version of diffusers, to OUT."""
    folder, snippet, arguments, latents, out = sys.argv[1:]
    os.chdir(folder)
    names: dict[str, object] = {}
    exec(Path(snippet).read_text(), names)
    pipe = names["pipe"]
    noise = torch.load(latents, weights_only=True)
    actual = pipe(  # type: ignore[operator]
        **json.loads(Path(arguments).read_text()), latents=noise, output_type="latent", return_dict=False
    )[0]
    torch.save({"latents": actual, "version": diffusers.__version__}, out)


main()
