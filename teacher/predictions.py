"""What a network predicts where that is not what its teacher's schedule says, recorded on the network itself.

A student of a teacher that predicts eps may have been converted to v or x0. The record is a plain attribute of the
module, so copies, shared copies and networks with adapters have it as well; files have it in the student's contract.
"""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from fewstep.teacher.schedule import NoiseSchedule, Prediction

_RECORD = "fewstep_prediction"
_N = TypeVar("_N", bound=nn.Module)


def record_prediction(network: _N, prediction: Prediction) -> _N:
    """The network itself, which from now on is read as predicting `prediction`."""
    setattr(network, _RECORD, prediction)
    return network


def recorded_as(network: _N, other: nn.Module) -> _N:
    """The network itself, read as predicting what the other does."""
    prediction = getattr(other, _RECORD, None)
    return network if prediction is None else record_prediction(network, prediction)


def schedule_of(network: nn.Module | None, schedule: NoiseSchedule) -> NoiseSchedule:
    """The teacher's `schedule` with what the network predicts; as it is where nothing is recorded.

    Raises ValueError for a prediction that the schedule cannot have, such as v of a flow.
    """
    return schedule.predicting(getattr(network, _RECORD, schedule.prediction))
