"""The samplers of diffusers that suit a schedule, as objects and as code."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
from diffusers import DDIMScheduler

from fewstep.teacher.schedule import NoiseSchedule
from fewstep.teacher.stock import StockScheduler, usual_scheduler

FLOW = NoiseSchedule("flow", "flow", 5.0)
EPS = NoiseSchedule("vp", "eps", 1.0, 2, (0.9, 0.1))


def contract_of(**text: Any) -> Any:
    """A contract, as far as it is read."""
    return SimpleNamespace(**text)


def test_flow_students_take_the_even_nodes_before_the_shift() -> None:
    contract = contract_of(kind="flow", prediction="flow", shift=5.0)
    assert usual_scheduler(FLOW, contract).code == "FlowMapEulerDiscreteScheduler(shift=5.0)"
    other = NoiseSchedule("flow", "flow", 5.0, 500)
    assert usual_scheduler(other, contract).settings == {"shift": 5.0, "num_train_timesteps": 500}


def test_others_take_trailing_nodes_and_say_what_they_predict_where_their_teacher_does_not() -> None:
    same, converted = (contract_of(kind="vp", prediction=prediction, shift=1.0) for prediction in ("eps", "v"))
    settings = {"timestep_spacing": "trailing", "clip_sample": False, "set_alpha_to_one": True}
    assert usual_scheduler(EPS, same) == StockScheduler("DDIMScheduler", settings, from_config=True)
    assert usual_scheduler(EPS, converted).settings == settings | {"prediction_type": "v_prediction"}


@pytest.mark.parametrize(("kind", "prediction", "shift"), [("edm", "v", 1.0), ("vp", "eps", 3.0), ("flow", "x0", 3.0)])
def test_none_is_said_in_a_sentence(kind: str, prediction: str, shift: float) -> None:
    with pytest.raises(ValueError, match=f"nodes of a {kind} student with {prediction}-prediction and shift {shift:g}"):
        usual_scheduler(EPS, contract_of(kind=kind, prediction=prediction, shift=shift))


def test_the_code_makes_the_same_scheduler() -> None:
    pipe = SimpleNamespace(scheduler=DDIMScheduler(num_train_timesteps=50, beta_end=0.03))
    for stock in (
        StockScheduler("DDIMScheduler", {"timestep_spacing": "trailing"}, from_config=True),
        StockScheduler("FlowMapEulerDiscreteScheduler", {"shift": 3.0}, from_config=False),
    ):
        names: dict[str, Any] = {"pipe": pipe, stock.name: getattr(diffusers, stock.name)}
        made = stock.make(pipe)
        assert eval(stock.code, names).config == made.config and type(made).__name__ == stock.name
