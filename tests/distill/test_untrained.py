"""Stages for a benchmark: what training would make, without data, finished stages or anything on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from fewstep.distill.untrained import NoiseBatches
from fewstep.teacher.base import Teacher, VideoSize
from fewstep.teacher.load_teacher import load_teacher
from tests.distill.untrained_stage import ADVERSARIAL, one_stage, untrained


def adapted(network: nn.Module) -> bool:
    return any(isinstance(module, BaseTunerLayer) for module in network.modules())


def test_clips_are_noise_that_follows_from_the_position(tiny_teacher: Teacher) -> None:
    conditions = tiny_teacher.conditions(["a red ring", "a star"])
    batches = NoiseBatches(tiny_teacher, VideoSize(9, 16, 16), conditions)
    first, again, other = (batches.batch(position, 3, 0.5) for position in (1, 1, 2))
    assert first.x0.shape == (3, *tiny_teacher.latent_shape(9, 16, 16)) and first.progress == 0.5
    assert torch.equal(first.x0, again.x0) and torch.equal(first.noise(), again.noise())
    assert not torch.equal(first.x0, other.x0)
    expected = [conditions.positive["embeddings"][row] for row in (1, 0, 1)]  # clips 3, 4 and 5
    assert (
        torch.equal(first.conditions.positive["embeddings"], torch.stack(expected))
        and first.conditions.negative is not None
    )


@pytest.mark.parametrize("train", ["full", "lora"])
@pytest.mark.parametrize("objective", [None, ADVERSARIAL])
def test_a_stage_trains_past_its_first_step_and_writes_nothing(
    tiny_teacher: Teacher,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    train: str,
    objective: dict[str, object] | None,
) -> None:
    monkeypatch.chdir(tmp_path)
    trainer = untrained(tiny_teacher, one_stage(objective, train))
    before = {name: p.detach().clone() for name, p in trainer.roles.parameters.items()}
    figures = trainer.one_step()
    assert trainer.step == 2 and trainer.drawn == 1  # no warm-up: one round, whose turns share a batch
    assert figures["student/loss"] > 0
    assert any(not torch.equal(p, before[name]) for name, p in trainer.roles.parameters.items())
    assert not list(tmp_path.iterdir())


def test_supervisors_are_of_the_recipes_kind(tiny_teacher: Teacher) -> None:
    backbone = tiny_teacher.network_at(1.0)
    full, lora = one_stage(), one_stage(train="lora")
    assert untrained(tiny_teacher, full, 0).roles.supervisor is backbone
    copy = untrained(tiny_teacher, full).roles
    assert copy.supervisor is not backbone and not adapted(copy.supervisor)
    ours, theirs = next(copy.supervisor.parameters()), next(backbone.parameters())
    assert ours is not theirs and torch.equal(ours, theirs) and not ours.requires_grad
    adapters = untrained(tiny_teacher, lora).roles.supervisor
    assert adapted(adapters) and not any(p.requires_grad for p in adapters.parameters())
    # adapters on a whole network that teaches them, too: it is their base
    recipe = one_stage()
    mixed = recipe.model_copy(
        update={"stages": (recipe.stages[0], recipe.stages[1].model_copy(update={"train": "lora"}))}
    )
    assert untrained(tiny_teacher, mixed).roles.supervisor is backbone


def test_a_student_that_a_run_would_convert_is_read_as_converted(tiny_animatediff_folder: Path) -> None:
    teacher = load_teacher(tiny_animatediff_folder, device="cpu")
    assert teacher.schedule.prediction == "eps"
    trainer = untrained(teacher, one_stage(student_steps=1))
    roles = trainer.roles
    assert [teacher.schedule_of(n).prediction for n in (roles.student, roles.supervisor)] == ["v", "eps"]
    assert trainer.contract.prediction == "v" and trainer.one_step()["student/loss"] > 0
