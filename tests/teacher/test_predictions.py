"""A network may predict otherwise than its teacher's schedule says, and copies of it do as well."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fewstep.student.adapters import add_adapter, merge_adapters, shared_copy
from fewstep.teacher.base import Teacher
from fewstep.teacher.load_teacher import load_teacher
from fewstep.teacher.predictions import record_prediction, schedule_of
from fewstep.teacher.schedule import NoiseSchedule, Prediction
from fewstep.teacher.schedulers import prediction_type

CONVERTED: list[Prediction] = ["v", "x0"]


@pytest.fixture(scope="module")
def teacher(tiny_animatediff_folder: Path) -> Teacher:
    return load_teacher(tiny_animatediff_folder, device="cpu")


def predicted(teacher: Teacher, network: nn.Module | None, guidance: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    z, conditions = teacher.noise([1, 2], teacher.latent_shape(2, 16, 16)), teacher.conditions(["a ring", "a dot"])
    return z, teacher.predict(z, 0.7, conditions, network), teacher.denoise(z, 0.7, conditions, guidance, network)


@pytest.mark.parametrize("prediction", CONVERTED)
def test_denoise_reads_a_network_as_it_is_recorded(teacher: Teacher, prediction: Prediction) -> None:
    converted = record_prediction(deepcopy(teacher.network_at(1.0)), prediction)
    z, output, x0 = predicted(teacher, converted)
    alpha, sigma = teacher.schedule.alpha(0.7).float(), teacher.schedule.sigma(0.7).float()
    torch.testing.assert_close(x0, output if prediction == "x0" else alpha * z - sigma * output)
    eps = predicted(teacher, None)
    torch.testing.assert_close(eps[2], (z - sigma * eps[1]) / alpha)  # the teacher's own network is read as before
    assert not torch.allclose(predicted(teacher, converted, 3.0)[2], x0)  # guided, too


def test_copies_keep_the_record_and_the_source_has_none(teacher: Teacher) -> None:
    own = teacher.network_at(1.0)
    adapted = record_prediction(shared_copy(own).requires_grad_(False), "v")
    add_adapter(adapted, "student", 2, 2.0)
    for network in (adapted, deepcopy(adapted), shared_copy(adapted)):
        assert teacher.schedule_of(network).prediction == "v"
    merged = deepcopy(adapted)
    merge_adapters(merged)
    assert teacher.schedule_of(merged).prediction == "v"
    assert teacher.schedule_of(own) is teacher.schedule_of(None) is teacher.schedule
    assert teacher.schedule_of(merged) is teacher.schedule_of(merged)  # made once, not in every forward pass


def test_a_flow_has_no_v() -> None:
    with pytest.raises(ValueError, match="a flow schedule has no v-prediction"):
        schedule_of(record_prediction(nn.Linear(1, 1), "v"), NoiseSchedule("flow", "flow"))


def test_diffusers_names() -> None:
    assert [prediction_type(p) for p in ("v", "x0", "eps")] == ["v_prediction", "sample", "epsilon"]
