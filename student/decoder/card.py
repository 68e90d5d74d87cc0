"""The README.md of a small decoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fewstep.student.contract import UNNAMED
from fewstep.student.decoder.video_decoder import SmallVideoDecoder
from fewstep.student.export.card_use import LOADS_IN_DTYPE, since
from fewstep.student.export.privacy import is_hub_id, published_name
from fewstep.student.export.stock import PUT_IN, base_place

_TEXT = """---
library_name: diffusers
tags: [fewstep, video, autoencoder]
{base}---

# A small decoder for {teacher}

It was distilled from the autoencoder of {teacher}, and decodes its latents in less time. It has no encoder: what a
pipeline encodes, such as a first frame, is still encoded by its own autoencoder.

```sh
pip install {packages}
```

```python
import torch
from diffusers import AutoModel, DiffusionPipeline

{first}pipe = DiffusionPipeline.from_pretrained({place}, dtype=torch.{dtype}).to("cuda")
# runs video_decoder.py, which is in the same folder as the weights
decoder = AutoModel.from_pretrained("THIS_FOLDER", trust_remote_code=True)
decoder = decoder.to(pipe.vae.device, pipe.vae.dtype)
pipe.vae.decode = decoder.decode
```

Long clips can be decoded piece by piece, as soon as latents arrive:

```python
for frames in decoder.stream(latents.split(2, dim=2)):  # (B, 3, F, H, W) in -1..1
    ...
```

| | |
| --- | --- |
| pixels per side of a latent | {spatial} |
| frames per latent frame | {temporal} |
| parameters | {parameters:,} |
| steps of training | {steps} |
| PSNR against the autoencoder, {held_out} held-out clips | {psnr_db:.1f} dB |

It was measured against the autoencoder only on clips like those that it was trained on.
"""


def decoder_card(decoder: SmallVideoDecoder, teacher: str, precision: str, result: Mapping[str, Any]) -> str:
    """Of a finished decoder, for a pipeline in this precision; a teacher in a folder of this machine is not named."""
    name = published_name(teacher)
    imported, place = base_place(name)
    return _TEXT.format(
        base=f"base_model: {name}\n" if is_hub_id(name) else "",
        teacher=name,
        packages="fewstep" if imported else f"'diffusers>={since()[LOADS_IN_DTYPE]}' transformers accelerate",
        dtype=precision,
        first=f"{PUT_IN.strip()}\n" if name == UNNAMED else imported,
        place=place,
        spatial=decoder.config.spatial_factor,
        temporal=decoder.config.temporal_factor,
        parameters=sum(p.numel() for p in decoder.parameters()),
        **result,
    )
