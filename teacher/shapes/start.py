"""An earlier teacher of the shapes world to start from: in a changed world, or to train it longer."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from torch import nn

from fewstep.teacher.files.atomic import whole_file
from fewstep.teacher.shapes.linear_code import LINEAR_CODE
from fewstep.teacher.source import find_teacher_folder


def copy_code(start: str, path: Path) -> None:
    """Brings the earlier teacher's linear code to `path`, as its latents stay what they are.

    Raises ValueError when `start` is no teacher of the shapes world.
    """
    source = _folder(start) / LINEAR_CODE
    if not source.is_file():
        raise ValueError(
            f"{source} is missing: `start` must be shapes or a pipeline that `fewstep teacher train` wrote"
        )
    with whole_file(path) as part:
        shutil.copyfile(source, part)


def load_start(start: str, part: str, network: nn.Module) -> None:
    """Copies the earlier teacher's weights of this part (vae, transformer or text_encoder) into `network`.

    Raises ValueError when it was made in other sizes.
    """
    network_class: Any = type(network)
    earlier = network_class.from_pretrained(_folder(start) / part).float()
    try:
        network.load_state_dict(earlier.state_dict())
    except RuntimeError as error:
        raise ValueError(
            f"the {part} of {start} has other sizes than the recipe's: use its own sizes, or leave out `start`"
        ) from error


def _folder(start: str) -> Path:
    return find_teacher_folder(start, ("WanPipeline",))[0]
