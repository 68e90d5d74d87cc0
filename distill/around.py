"""Methods that go through something else for a while: how a benchmark looks into a training step from outside."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from fewstep.distill.calls import SUPERVISOR
from fewstep.distill.objectives.base import STUDENT
from fewstep.distill.trainer import Trainer

Method = Callable[..., Any]


@contextmanager
def around(owner: object, name: str, wrap: Callable[[Method], Method]) -> Iterator[None]:
    """Inside the `with` block `owner.name` is what `wrap` makes of it; other objects of its class are left alone."""
    before = vars(owner).get(name)
    setattr(owner, name, wrap(getattr(owner, name)))
    try:
        yield
    finally:
        if before is None:
            delattr(owner, name)
        else:
            setattr(owner, name, before)


def role_lookup(trainer: Trainer) -> Callable[[nn.Module | None], str]:
    """In which role a network is asked through `Teacher.denoise`: as the student, as what the objective trains besides
    it, by its name, else as the supervisor."""
    trained = {id(part): name for name, module in trainer.modules.items() for part in module.modules()}
    trained[id(trainer.roles.student)] = STUDENT
    return lambda network: trained.get(id(network), SUPERVISOR)
