"""The training clips' latents, rendered once and kept on disk next to the run."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewstep.teacher.files.atomic import whole_file
from fewstep.teacher.interrupts import ignore_signals
from fewstep.teacher.screen import SILENT, TrainingScreen
from fewstep.teacher.shapes.captions import draw_caption, example
from fewstep.teacher.shapes.linear_code import LinearCode
from fewstep.teacher.shapes.world import Scene, render_scene

_CHUNK = 250


@dataclass(frozen=True)
class SceneLatents:
    """codes (N, C, F, h, w) float16 and the scenes they show."""

    codes: NDArray[np.float16]
    scenes: list[Scene]

    def batch(self, rng: np.random.Generator, size: int, mention_rate: float) -> tuple[Tensor, list[str], Tensor]:
        """Random latents (size, C, F, h, w) float32, each with a freshly written caption and its scene's labels."""
        chosen = rng.integers(len(self.scenes), size=size)
        captions = [draw_caption(self.scenes[i], rng, "train", mention_rate) for i in chosen]
        labels = torch.from_numpy(np.stack([self.scenes[i].labels() for i in chosen]))
        return torch.from_numpy(self.codes[chosen].astype(np.float32)), captions, labels


def to_tensor(clips: list[NDArray[np.uint8]]) -> Tensor:
    """uint8 clips (F, H, W, 3) -> (B, 3, F, H, W) in -1..1."""
    return torch.from_numpy(np.stack(clips)).permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def training_latents(
    code: LinearCode, clips: int, seed: int, path: Path, screen: TrainingScreen = SILENT
) -> SceneLatents:
    """The latents of `clips` training clips; rendered in parallel the first time, then read from `path`."""
    scenes = [example("train", seed, i)[0] for i in range(clips)]
    if not path.exists():
        # rendering is the slow part: chunks in a process per core, kept in one file for later runs
        chunks = [scenes[i : i + _CHUNK] for i in range(0, clips, _CHUNK)]
        pool = ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("fork"), initializer=ignore_signals)
        try:
            parts: list[NDArray[np.float16]] = []
            with screen.pieces("clip") as report:
                for part in pool.map(_encode, [code] * len(chunks), chunks):
                    parts.append(part)
                    report("rendering", sum(map(len, parts)), clips)
        finally:
            pool.shutdown(cancel_futures=True)  # a stop waits for the chunks that are being rendered, not for all
        with whole_file(path) as file:
            np.save(file, np.concatenate(parts))
    codes = np.load(path)
    if len(codes) != clips:
        raise ValueError(
            f"{path} holds {len(codes)} clips and the recipe asks for {clips}: delete it or change the recipe"
        )
    return SceneLatents(codes, scenes)


def _encode(code: LinearCode, scenes: list[Scene]) -> NDArray[np.float16]:
    torch.set_num_threads(1)
    return code.encode(to_tensor([render_scene(scene) for scene in scenes])).numpy().astype(np.float16)
