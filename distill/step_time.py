"""Seconds of a stage's steps: whole, split, and compared with the bare sum of their forwards and backwards."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from statistics import median, median_low
from typing import Any, Protocol

import numpy as np

from fewstep.distill.calls import Calls
from fewstep.distill.estimate import steady_calls
from fewstep.distill.settings import Stage
from fewstep.distill.step_calls import CallKind, StepCalls, clips_of
from fewstep.distill.step_split import LESSON, StepSplit
from fewstep.distill.trainer import Trainer
from fewstep.teacher.loading import Clock
from fewstep.teacher.schedule import NoiseSchedule

_DRAWS = 1000  # of the bootstrap


class Watched(Protocol):
    """Memory at its highest, once the watching is over."""

    gib: float


@dataclass(frozen=True)
class Round:
    """One round of measurement; seconds are of `num_steps` steps."""

    whole: float
    counts: Mapping[CallKind, int]  # of the calls in them
    each: Mapping[CallKind, float]  # of one call on its own
    split: StepSplit
    num_steps: int

    @property
    def bare(self) -> dict[str, float]:
        """The calls' seconds on their own times how often each was made: by part, of one step."""
        seconds = defaultdict[str, float](float)
        for kind, count in self.counts.items():
            seconds[kind.part] += count * self.each[kind] / self.num_steps
        return seconds

    @property
    def ratio(self) -> float:
        """Whole steps over their bare sum."""
        return self.whole / self.num_steps / sum(self.bare.values())

    @property
    def split_seconds(self) -> float:
        """Of a step that was split, in which the device is waited for again and again."""
        return sum(self.split.seconds.values()) / self.num_steps


@dataclass
class StageTime:
    """Measures one stage: in every round whole steps, each of their calls on its own, and steps that are split.

    Every whole step is followed by each kind of call, once, so that a machine which is busy with something else for
    seconds slows both down alike.
    A round's steps are as many as lie between two penalties of a discriminator, say, so that each has one. `watching`
    opens a context that knows the peak of memory afterwards. The trainer is past its first step.
    """

    trainer: Trainer
    clock: Clock
    rounds: list[Round] = field(default_factory=list)
    peak_gib: float = 0.0

    @property
    def num_steps(self) -> int:
        """Steps of a round."""
        return self.trainer.stage.objective.period

    def run(
        self,
        repetitions: int,
        warmup: int,
        watching: Callable[[], AbstractContextManager[Watched]],
        on_round: Callable[[], None] = lambda: None,
    ) -> None:
        """`warmup` rounds, of which the last is watched for memory instead of timed, and `repetitions` that count."""
        calls = StepCalls(self.trainer, self.clock)
        for left in range(warmup, 0, -1):
            if left == 1:
                with watching() as watched:
                    self._steps()
                self.peak_gib = watched.gib
                self._round(calls)  # what is done for the first time takes longer: nothing of it counts
            else:
                self._steps()
            on_round()
        for _ in range(repetitions):
            self.rounds.append(self._round(calls))
            on_round()

    def _steps(self) -> None:
        for _ in range(self.num_steps):
            self.trainer.one_step()

    def _round(self, calls: StepCalls) -> Round:
        whole, seconds_of_calls, calls.counts = 0.0, defaultdict[CallKind, list[float]](list), Counter()
        for _ in range(self.num_steps):
            with calls.counting():
                began = self.clock()
                self.trainer.one_step()
                whole += self.clock() - began
            # right after the step, so that a machine that is busy for a while slows both alike
            for kind in calls.counts:
                seconds_of_calls[kind].append(calls.seconds(kind))
        # other steps, as waiting for the device at every change of part slows them down
        split = StepSplit(self.trainer, self.clock)
        split.run(self.num_steps)
        means = {kind: sum(seconds) / len(seconds) for kind, seconds in seconds_of_calls.items()}
        return Round(whole, calls.counts, means, split, self.num_steps)

    def row(self, gradient_checkpointing: bool = False) -> dict[str, Any]:
        """All that was found, for a table. Needs a round; gradient_checkpointing is the recipe's."""
        stage, rounds = self.trainer.stage, self.rounds
        whole = [timed.whole / timed.num_steps for timed in rounds]
        # the interval is of ratios within rounds, so that load which changes between rounds cancels
        low, high = median_interval([timed.ratio for timed in rounds])
        return {
            "stage": stage.name,
            "objective": stage.objective.kind,
            "batch": stage.batch,
            "accumulate": stage.accumulate,
            "seconds": median(whole),
            "seconds_p95": float(np.percentile(whole, 95)),
            **_split(self._typical()),
            "bare_seconds": median(sum(timed.bare.values()) for timed in rounds),
            "bare": {part: median(timed.bare.get(part, 0.0) for timed in rounds) for part in rounds[0].bare},
            "ratio": median(timed.ratio for timed in rounds),
            "ratio_low": low,
            "ratio_high": high,
            "ratios": [timed.ratio for timed in rounds],
            "calls": calls_of(rounds),
            "clips": clips_per_step(rounds, gradient_checkpointing),
            "expected_clips": expected_clips(stage, self.trainer.roles.teacher.schedule, gradient_checkpointing),
            "peak_gib": self.peak_gib,
            "rounds": len(rounds),
            "steps_per_round": self.num_steps,
        }

    def _typical(self) -> Round:
        """The round whose split steps took the median time: its parts sum to its whole, as medians would not."""
        middle = median_low(timed.split_seconds for timed in self.rounds)
        return next(timed for timed in self.rounds if timed.split_seconds == middle)


def steps_needed(stage: Stage, repetitions: int, warmup: int) -> int:
    """Steps that `StageTime.run` makes in all."""
    return stage.objective.period * (warmup + 2 * (repetitions + 1))


def clips_per_step(rounds: Sequence[Round], gradient_checkpointing: bool) -> dict[str, float]:
    """How many clips a step sends through each network, on average: forwards and backwards by role."""
    steps = sum(timed.num_steps for timed in rounds)
    return _per_step(sum((clips_of(timed.counts, gradient_checkpointing) for timed in rounds), Calls()), steps)


def expected_clips(stage: Stage, schedule: NoiseSchedule, gradient_checkpointing: bool) -> dict[str, float]:
    """The same as the objective foresees it for steps past the first, penalties spread over all of them."""
    num_steps = stage.objective.period
    one_round = stage.model_copy(update={"steps": num_steps})
    return _per_step(steady_calls(one_round, schedule, gradient_checkpointing), num_steps)


def _per_step(calls: Calls, steps: int) -> dict[str, float]:
    forward = {f"{role}_forward": count / steps for role, count in calls.forward.items()}
    return forward | {f"{role}_backward": count / steps for role, count in calls.backward.items()}


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of a median, by a bootstrap of fixed seed; of few values it is too narrow."""
    drawn = np.random.default_rng(0).choice(values, (_DRAWS, len(values)))
    low, high = np.percentile(np.median(drawn, axis=1), (2.5, 97.5))
    return float(low), float(high)


def calls_of(rounds: Sequence[Round]) -> list[dict[str, Any]]:
    """Of each kind of call: how often a step makes it on average, and its median seconds on its own."""
    kinds = sorted({kind for timed in rounds for kind in timed.counts})
    steps = sum(timed.num_steps for timed in rounds)
    return [
        asdict(kind)
        | {
            "per_step": sum(timed.counts.get(kind, 0) for timed in rounds) / steps,
            "seconds": median(timed.each[kind] for timed in rounds if kind in timed.each),
        }
        for kind in kinds
    ]


def _split(chosen: Round) -> dict[str, Any]:
    """Of one step: seconds by part, by turn, and both."""
    seconds, turns, parts, steps = chosen.split.seconds, chosen.split.turns, chosen.split.parts, chosen.num_steps
    figures: dict[str, Any] = {"split_seconds": chosen.split_seconds}
    for part in parts:
        figures[f"{part}_seconds"] = sum(seconds[turn, part] for turn in turns) / steps
    # per turn that was made, of which a step may have several or none
    figures["turns"] = {
        turn: {"per_step": count / steps}
        | {"seconds": sum(seconds[turn, part] for part in parts) / count}
        | {f"{part}_seconds": seconds[turn, part] / count for part in parts}
        for turn, count in turns.items()
    }
    for turn, count in turns.items():
        name = turn if turn == LESSON else f"{turn}_turn"
        figures[f"{name}_seconds"] = figures["turns"][turn]["seconds"] * count / steps
    return figures
