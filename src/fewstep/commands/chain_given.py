"""What a later member of a chain is distilled on: prompts, with what the members before it make of them, as files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fewstep.commands.progress import Screen
    from fewstep.distill.chain import Chain
    from fewstep.distill.recipe import Recipe
    from fewstep.distill.settings import RolloutData
    from fewstep.student.sampler import Sampler
    from fewstep.teacher.base import VideoSize
    from fewstep.teacher.given import Given

_TABLE = "prompts.jsonl"
PromptFiles = tuple[str, dict[str, Path]]  # a prompt and its files


def made_table(chain: Chain, index: int) -> Path | None:
    """The prompts of a later member with their files, once all are made."""
    table = _folder(chain, index) / _TABLE
    return table if index and table.is_file() else None


def grey_table(folder: Path, names: Mapping[str, str], plan: Recipe, size: VideoSize) -> Path:
    """The same with grey images and videos, for checks before anything is made. Raises ValueError for the prompts."""
    import torch

    from fewstep.teacher.given import IMAGES

    grey = torch.full((1, 3, *size), 128, dtype=torch.uint8)
    files = _write(folder, "grey", {name: grey[:, :, :1] if name in IMAGES else grey for name in names}, 0, 8.0)
    _write_table(folder / _TABLE, [(prompt, files) for prompt in _prompts(plan)])
    return folder / _TABLE


def make_given(chain: Chain, index: int, plan: Recipe, num_frames: int, screen: Screen, elsewhere: str) -> Path:
    """Makes what is missing of it, for clips of `num_frames`. Raises ValueError when another student made the rest."""
    from fewstep.teacher.dataset.sources import batches, item_seed

    if (made := made_table(chain, index)) is not None:
        return made
    name, folder, prompts = chain.members[index].name, _folder(chain, index), _prompts(plan)
    sampler = _open(chain, index, plan, screen, elsewhere)
    rows: list[PromptFiles] = []
    with screen.pieces("clip") as progress:
        for numbers in batches(range(len(prompts)), _data(plan).batch):
            # noise follows from the recipe's seed and the prompt's number, so that a resume makes the same
            seeds = [item_seed(plan.seed, number) for number in numbers]
            some = [prompts[i] for i in numbers]
            rows += _made(sampler, some, seeds, numbers, folder, chain.members[index].given, num_frames)
            progress(f"given to {name}", numbers[-1] + 1, len(prompts))
    _write_table(folder / _TABLE, rows)
    return folder / _TABLE


def _open(chain: Chain, index: int, plan: Recipe, screen: Screen, elsewhere: str) -> Sampler:
    """The members before this one as one sampler, which claims the folder of what it makes."""
    import torch

    from fewstep.commands.run_precision import resolve_precision
    from fewstep.eval.models import ClipClaim, Model, open_model
    from fewstep.student.chain import members_of
    from fewstep.student.sampler import SamplingOptions

    precision = resolve_precision(plan)[0].precision
    screen.say(f"loading what comes before {chain.members[index].name} ({precision})")
    steps = [member.steps for member in chain.members[:index]]
    model = Model.of_chain("before", str(chain.out), members_of(str(chain.out))[:index], steps, [None] * index)
    sampler = open_model(model, SamplingOptions(), None, getattr(torch, precision), plan.device)
    # files of another student must not be mixed with this one's
    try:
        ClipClaim(model, sampler, plan.seed, precision).keep(_folder(chain, index) / "made-by.json")
    except ValueError as error:
        raise ValueError(
            f"{_folder(chain, index)} was made by another student: delete it and {plan.out}, or {elsewhere}"
        ) from error
    return sampler


def _made(
    sampler: Sampler,
    prompts: Sequence[str],
    seeds: Sequence[int],
    numbers: Sequence[int],
    folder: Path,
    frames: Mapping[str, str],
    num_frames: int,
) -> list[PromptFiles]:
    """Rows of a batch, whose files are written unless all are there."""
    from fewstep.student.chain import frames_given

    paths = [_paths(folder, f"{number:05d}", frames) for number in numbers]
    if not all(path.exists() for files in paths for path in files.values()):
        given = frames_given(sampler.clips(prompts, seeds), frames, num_frames)
        for row, number in enumerate(numbers):
            _write(folder, f"{number:05d}", given, row, sampler.fps)
    return list(zip(prompts, paths, strict=True))


def _write(folder: Path, stem: str, given: Given, row: int, fps: float) -> dict[str, Path]:
    """Files of one row of what is given: PNG of images, mp4 of videos."""
    from fewstep.teacher.given import IMAGES, to_pil
    from fewstep.teacher.videos.writing import write_image, write_video

    paths = _paths(folder, stem, given)
    for name, path in paths.items():
        if name in IMAGES:
            write_image(path, to_pil(given[name][row], name))
        else:
            write_video(path, given[name][row].permute(1, 2, 3, 0).numpy(), fps)
    return paths


def _paths(folder: Path, stem: str, names: Mapping[str, object]) -> dict[str, Path]:
    from fewstep.teacher.given import IMAGES

    return {name: folder / f"{stem}-{name}{'.png' if name in IMAGES else '.mp4'}" for name in names}


def _write_table(table: Path, rows: Sequence[PromptFiles]) -> None:
    from fewstep.teacher.files.atomic import whole_file

    lines = [{"prompt": prompt, **{name: path.name for name, path in files.items()}} for prompt, files in rows]
    with whole_file(table) as part:
        part.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")


def _prompts(plan: Recipe) -> list[str]:
    """Of the member's recipe. Raises ValueError when files are given with them, which the members before do."""
    from fewstep.teacher.dataset.caption_files import read_prompts
    from fewstep.teacher.given import given_names

    prompts = read_prompts(_data(plan).prompts)
    if names := given_names(prompts):
        raise ValueError(
            f"{_data(plan).prompts} gives {names[0]} with every prompt, and in a chain the member before makes what is "
            "given: name a file of prompts alone"
        )
    return prompts


def _data(plan: Recipe) -> RolloutData:
    """Of a later member, as `read_chain` saw to it."""
    from fewstep.distill.settings import RolloutData

    assert isinstance(plan.data, RolloutData)
    return plan.data


def _folder(chain: Chain, index: int) -> Path:
    from fewstep.distill.chain import GIVEN_FOLDER

    return chain.out / GIVEN_FOLDER / chain.members[index].name
