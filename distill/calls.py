"""How often clips go through networks: what training costs, whatever the machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

SUPERVISOR = "supervisor"  # a role besides the student's and those of an objective's own networks


@dataclass(frozen=True)
class Calls:
    """How often one clip goes through a network of the denoiser's size, on one process, by the role it is asked in.

    A guided forward counts twice. The student's forwards include those that are computed again for gradient
    checkpointing. A role that is not named is not asked, and none is named in vain: equal calls compare as equal.
    """

    forward: Mapping[str, int] = field(default_factory=dict)
    backward: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("forward", "backward"):
            object.__setattr__(self, name, {role: count for role, count in getattr(self, name).items() if count})

    @classmethod
    def of(cls, role: str, forward: int, backward: int = 0) -> Calls:
        """Those of one network."""
        return cls({role: forward}, {role: backward})

    def __add__(self, other: Calls) -> Calls:
        return Calls(Counter(self.forward) + Counter(other.forward), Counter(self.backward) + Counter(other.backward))

    def __mul__(self, times: int) -> Calls:
        forward, backward = ({role: times * n for role, n in part.items()} for part in (self.forward, self.backward))
        return Calls(forward, backward)

    @property
    def work(self) -> int:
        """In forwards of one clip: a backward pass counts as two."""
        return sum(self.forward.values()) + 2 * sum(self.backward.values())


@dataclass(frozen=True)
class PartCalls:
    """The calls that steps of a stage are made of, for all clips of one step: what objectives count with.

    With guidance at some noise levels only, `lesson` is that of an average draw of steps. Starts between two nodes
    take fewer of the supervisor's steps than counted here.
    """

    lesson: Calls  # the supervisor's way through one step of the student
    clips: Calls  # the supervisor's whole way from noise to clips
    forward: Calls  # one of the student's predictions without gradients
    learn: Calls  # one with gradients, and backwards
