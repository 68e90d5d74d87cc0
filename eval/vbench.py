"""VBench (arXiv 2311.17982), which has to run elsewhere: videos as it wants them, its results read back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fewstep.eval.metrics.clips import Figures, figure, mean_interval
from fewstep.eval.metrics.frechet import Interval
from fewstep.eval.metrics.shapes import Progress
from fewstep.student.sampler import Sampler
from fewstep.teacher.files.json_text import parse_json
from fewstep.teacher.ranks import ALONE, Ranks
from fewstep.teacher.videos.writing import to_uint8, write_video

SAMPLES = 5  # of each prompt
_MAX_NAME = 240  # bytes of a file's name, less what a part file adds


def check_prompts(prompts: Sequence[str]) -> None:
    """Raises ValueError for prompts that cannot be the names of files."""
    for prompt in prompts:
        if "/" in prompt or len(prompt.encode()) > _MAX_NAME:
            raise ValueError(
                f"VBench names videos by their prompts, and no file can be called {prompt[:60]!r}: a prompt may have "
                f"no / and at most {_MAX_NAME} bytes"
            )
    text, count = Counter(map(str, prompts)).most_common(1)[0]
    if count > 1:
        raise ValueError(
            f"VBench names videos by their prompts, and {count} clips of different files are called {text[:60]!r}: "
            "give each a prompt of its own, where no text is read, too"
        )


def write_videos(
    folder: Path,
    sampler: Sampler,
    prompts: Sequence[str],
    seed: int,
    batch: int,
    progress: Progress,
    ranks: Ranks = ALONE,
) -> None:
    """FOLDER/PROMPT-0.mp4 to PROMPT-4.mp4 of each prompt, by all `ranks`; those that are there are not made again."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{prompt}-{i}.mp4" for prompt in prompts for i in range(SAMPLES)]
    # the first process looks, so that all deal out the same list
    missing = ranks.from_first(lambda: [i for i, file in enumerate(files) if not file.exists()])
    done, before = ranks.tally(), len(files) - len(missing)
    for some in ranks.deal([missing[start : start + batch] for start in range(0, len(missing), batch)]):
        videos = sampler.clips([prompts[i // SAMPLES] for i in some], [seed + i for i in some])
        # numbers that are not finite become grey, as in an evaluation
        for i, video in zip(some, videos.nan_to_num(0, 0, 0), strict=True):
            write_video(files[i], to_uint8(video), sampler.fps)
        progress(folder.name, before + done.add(len(some)), len(files))
    ranks.wait(lambda: progress(folder.name, before + done.add(), len(files)))


def read_figures(path: Path) -> Figures:
    """What a *_eval_results.json of VBench says, as vbench-DIMENSION. Raises ValueError when it is none."""
    try:
        content = parse_json(path.read_text())
        return {f"vbench-{name}": _figure(float(score), videos) for name, (score, videos) in content.items()}
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ValueError(f"{path} is no result of VBench: pass the *_eval_results.json that it wrote") from error


def _figure(score: float, videos: list[dict[str, Any]]) -> dict[str, Any]:
    """With an interval where the score is the mean over videos; VBench puts some together in other ways."""
    values = torch.tensor([float(video["video_results"]) for video in videos if "video_results" in video]).double()
    if len(values) == len(videos) > 1 and abs(float(values.mean()) - score) <= 1e-3 * abs(score):
        spread = mean_interval(values)
        return figure(Interval(score, spread.low, spread.high), len(videos), better="higher")
    return {"value": score, "num": len(videos), "better": "higher"}
