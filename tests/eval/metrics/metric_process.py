"""Run by every process of a group: metrics updated with a share of clips, and what each process computes of all.

python metric_process.py SHARES.json OUT, with the clips of each process as [start, stop].
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch import Tensor, distributed
from torchmetrics import MetricCollection

from fewstep.metrics import PSNR, Broken, Distance, Diversity, Motion, PromptAccuracy, open_features, rms

PROMPTS = ["a large red ring moves left", "a small blue square moves up"]


def clips(seed: int, count: int = 8) -> Tensor:
    """(B, 3, 17, 64, 64), as the judge of the shapes world reads them."""
    return torch.rand(count, 3, 17, 64, 64, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def collection() -> MetricCollection:
    """A metric of every kind that needs no weights."""
    judge = open_features("shapes-fd")
    return MetricCollection(
        [
            Motion(), Broken(), PSNR(), Diversity("diversity-rms", rms, seeds=2), PromptAccuracy(), Distance(judge),
        ]
    )  # fmt: skip


def update(metrics: MetricCollection, start: int, stop: int) -> None:
    """With the clips from start to stop, two at a time."""
    own, teacher, real = (clips(seed) for seed in range(3))
    for first in range(start, stop, 2):
        part = slice(first, first + 2)
        metrics.update(own[part], prompts=PROMPTS, teacher=teacher[part])
        metrics["Distance"].update(real[part], real=True)


def figures(metrics: MetricCollection) -> dict[str, float]:
    """As JSON holds them."""
    return {name: float(value) for name, value in metrics.compute().items()}


def main() -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    rank, (shares, out) = distributed.get_rank(), sys.argv[1:]
    results = []
    for each in json.loads(shares):
        metrics = collection()
        update(metrics, *each[rank])
        results.append(figures(metrics))
        metrics["Motion"].update(clips(0)[:0])  # what was computed is forgotten
        assert figures(metrics) == results[-1]  # its own clips and no others are there again, to be gathered anew
    Path(out, f"{rank}.json").write_text(json.dumps(results))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
