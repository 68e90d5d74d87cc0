"""The EMA has the same numbers wherever it is kept, and none is kept where none is asked for."""

from __future__ import annotations

import torch
from torch import nn

from fewstep.student.average import Average
from fewstep.student.denoiser import Roles
from fewstep.teacher.base import Teacher


def moving(average: Average, parameter: nn.Parameter) -> list[torch.Tensor]:
    averages = []
    generator = torch.Generator().manual_seed(0)
    for step in range(5):
        with torch.no_grad():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
        average.update(0.5 + step / 10)
        if step % 2:  # it may be read at any time, or not for some steps
            averages.append(average.tensors["weight"].clone())
    return [*averages, average.tensors["weight"].clone()]


def test_main_memory_has_the_same_numbers() -> None:
    near, far = nn.Parameter(torch.ones(3, 4)), nn.Parameter(torch.ones(3, 4))
    kept = Average({"weight": near}, "device"), Average({"weight": far}, "cpu")
    beside, away = moving(kept[0], near), moving(kept[1], far)
    assert all(torch.equal(one, other) for one, other in zip(beside, away, strict=True))
    assert kept[1].tensors["weight"].device.type == "cpu" and kept[1].tensors["weight"].dtype == torch.float32
    assert kept[1].tensors["weight"].data_ptr() != far.data_ptr()


def test_it_may_be_filled_between_steps() -> None:
    """As a resume does."""
    parameter = nn.Parameter(torch.zeros(2))
    average = Average({"weight": parameter}, "cpu")
    average.update(0.5)
    average.tensors["weight"].fill_(8)
    average.update(0.5)
    assert average.tensors["weight"].tolist() == [4, 4]


def test_where_none_is_kept_the_parameters_stand_for_it(tiny_teacher: Teacher) -> None:
    roles = Roles(tiny_teacher, "lora", rank=4, average="none")
    with torch.no_grad():
        for parameter in roles.parameters.values():
            parameter.add_(1)
    roles.update_average(0.9)
    assert not roles.keeps_average
    for name, average in roles.average.items():
        assert average.data_ptr() == roles.parameters[name].data_ptr()
    before = {name: parameter.detach().clone() for name, parameter in roles.parameters.items()}
    with roles.averaged():
        assert all(torch.equal(parameter, before[name]) for name, parameter in roles.parameters.items())
