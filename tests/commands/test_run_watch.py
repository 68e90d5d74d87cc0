"""What gates ask the judge."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from fewstep.commands import run_watch
from fewstep.distill.recipe import Recipe, read_recipe
from fewstep.eval.metrics.shapes import held_out_prompts
from fewstep.student.contract import SamplingContract
from fewstep.teacher.base import Teacher, VideoSize
from fewstep.teacher.load_teacher import load_teacher
from fewstep.teacher.ranks import ALONE, Ranks
from tests.two_ranks import both


class Still(nn.Module):
    """A denoiser whose clips are grey."""

    def forward(self, z_t: torch.Tensor, *arguments: object, **options: object) -> tuple[torch.Tensor]:
        return (z_t,)  # a flow that leads from noise to 0


@pytest.fixture(scope="module")
def gated() -> Recipe:
    return read_recipe("shapes-4step", ["stages.0.gate={metric: prompt_accuracy, at_least: 0.5}"])


def test_prompt_accuracy_is_of_what_the_student_shows(gated: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_watch, "_JUDGED", 8)
    monkeypatch.setattr(run_watch, "_BATCH", 8)
    teacher = load_teacher("shapes", device="cpu")
    size = teacher.default_size()
    assert size is not None
    contract = SamplingContract.of(teacher, "shapes", 8, "full", size, 1.0, "", 8.0)
    measure = run_watch.gate_metrics(teacher, gated, ALONE)["prompt_accuracy"]
    shown = measure(teacher.network_at(1.0), contract)
    assert 0.3 < shown <= 1 and measure(Still(), contract) < 0.1


class Counted(Still):
    """How often it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.passes = 0

    def forward(self, z_t: torch.Tensor, *arguments: object, **options: object) -> tuple[torch.Tensor]:
        self.passes += 1
        return super().forward(z_t)


def test_processes_share_the_clips_of_a_gate(gated: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many passes in each, which sharded networks need."""
    right = held_out_prompts(3, gated.seed)[1:]

    class Told:
        num_right = 0

        def update(self, videos: torch.Tensor, prompts: Sequence[str]) -> None:
            self.num_right += sum(prompt in right for prompt in prompts)

    monkeypatch.setattr("fewstep.eval.metrics.shapes.ShapesJudgement", Told)
    monkeypatch.setattr(run_watch, "_JUDGED", 3)
    monkeypatch.setattr(run_watch, "_BATCH", 1)
    teacher = load_teacher("shapes", device="cpu")
    contract = SamplingContract.of(teacher, "shapes", 2, "full", VideoSize(17, 64, 64), 1.0, "", 8.0)

    def measured(ranks: Ranks) -> tuple[float, int]:
        network = Counted()
        return run_watch.gate_metrics(teacher, gated, ranks)["prompt_accuracy"](network, contract), network.passes

    first, second = both(measured)
    assert first.result() == second.result() == (2 / 3, 2 * 2) and measured(ALONE) == (2 / 3, 3 * 2)


def test_only_the_shapes_world_has_a_judge(gated: Recipe, tiny_teacher: Teacher, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shapes"):
        run_watch.gate_metrics(tiny_teacher, gated, ALONE)
    assert run_watch.gate_metrics(tiny_teacher, read_recipe("shapes-4step"), ALONE) == {}
