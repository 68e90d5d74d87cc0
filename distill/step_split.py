"""Where the seconds of a training step go: by turn, and in each turn by network, optimizer and the rest."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor

from fewstep.distill.around import Method, around, role_lookup
from fewstep.distill.calls import SUPERVISOR
from fewstep.distill.objectives.base import STUDENT
from fewstep.distill.trainer import Trainer
from fewstep.teacher.conditions import Conditions
from fewstep.teacher.loading import Clock

LESSON = "lesson"  # clips, noise, the supervisor's endpoints, and the student's forward where all turns share it
OPTIMISER, OTHER = "optimizer", "other"  # parts besides the roles that networks are asked in


class StepSplit:
    """A stopwatch that runs through a trainer's steps and always belongs to one turn and one part.

    So the parts sum to the whole: supervisor, student, what else is trained (a discriminator, say), optimizer and
    other. Forwards are the time inside `Teacher.denoise`, and inside what a trainee says is `timed`. A backward pass
    belongs to a network from when gradients reach what it returned until they reach another's; what comes before is
    `other`. So the few elementwise operations between a discriminator and the student are the discriminator's. The
    optimizer is gathering and clipping of gradients, Adam and the EMA. At every change of part the device is waited
    for.
    """

    def __init__(self, trainer: Trainer, clock: Clock) -> None:
        self.seconds = defaultdict[tuple[str, str], float](float)  # (turn, part)
        self.turns = Counter[str]()
        self.parts = (SUPERVISOR, *trainer.optimizer_groups, OPTIMISER, OTHER)
        self._trainer, self._clock = trainer, clock
        self._turn, self._parts = LESSON, [OTHER]
        self._since = 0.0

    def run(self, num_steps: int) -> None:
        """Makes this many steps of the trainer, and adds them to `seconds` and `turns`."""
        with self._watching():
            self._since = self._clock()
            for _ in range(num_steps):
                self._to_turn(LESSON)
                self._trainer.one_step()
            self._charge()

    @contextmanager
    def _watching(self) -> Iterator[None]:
        trainer, objective = self._trainer, self._trainer.objective
        with ExitStack() as stack:

            def watch(owner: object, name: str, wrap: Callable[[Method], Method]) -> None:
                stack.enter_context(around(owner, name, wrap))

            # whose turn it is shows in the lesson or loss that was asked for last
            watch(objective, "lesson", self._in_lesson)
            watch(objective, "loss", self._in_turn)
            # within each: forwards by role, the backward pass, then gradients and Adam
            watch(trainer.roles.teacher, "denoise", self._denoise)
            watch(trainer.accelerator, "backward", self._within(OTHER))
            for name, trainee in objective.trainees().items():
                for timed in trainee.timed:
                    watch(timed.owner, timed.method, self._of_trainee(name))
            for group in trainer.optimizer_groups.values():
                watch(group, "gather", self._within(OPTIMISER))
                watch(group, "step", self._optimizer_step)
            watch(trainer.roles, "update_average", self._average)
            yield

    # --- the stopwatch

    def _charge(self) -> None:
        now = self._clock()
        self.seconds[self._turn, self._parts[-1]] += now - self._since
        self._since = now

    def _to_turn(self, turn: str) -> None:
        self._charge()
        self._turn = turn

    def _to_part(self, part: str) -> None:
        self._charge()
        self._parts[-1] = part

    @contextmanager
    def _inside(self, part: str) -> Iterator[None]:
        self._charge()
        self._parts.append(part)
        yield
        self._charge()
        self._parts.pop()

    def _on_gradient(self, output: Tensor, part: str) -> None:
        if output.requires_grad:
            output.register_hook(lambda gradient: self._to_part(part))

    # --- calls by the trainer

    def _within(self, part: str) -> Callable[[Method], Method]:
        def wrap(original: Method) -> Method:
            def call(*args: Any, **kwargs: Any) -> Any:
                with self._inside(part):
                    return original(*args, **kwargs)

            return call

        return wrap

    def _in_lesson(self, original: Method) -> Method:
        def lesson(*args: Any, **kwargs: Any) -> Any:
            self.turns[LESSON] += 1
            self._to_turn(LESSON)
            return original(*args, **kwargs)

        return lesson

    def _in_turn(self, original: Method) -> Method:
        def loss(turn: str, *args: Any) -> Any:
            self._to_turn(turn)
            return original(turn, *args)

        return loss

    def _denoise(self, original: Method) -> Method:
        role = role_lookup(self._trainer)

        def denoise(z_t: Tensor, t: Any, conditions: Conditions, guidance: Any = 1.0, network: Any = None) -> Tensor:
            part = role(network)
            with self._inside(part):
                x0: Tensor = original(z_t, t, conditions, guidance, network)
            # once gradients reach x0, the backward pass is this network's
            self._on_gradient(x0, part)
            return x0

        return denoise

    def _of_trainee(self, name: str) -> Callable[[Method], Method]:
        def wrap(original: Method) -> Method:
            def call(*args: Any) -> Any:
                with self._inside(name):
                    outputs = original(*args)
                for output in [outputs] if isinstance(outputs, Tensor) else outputs:
                    self._on_gradient(output, name)
                return outputs

            return call

        return wrap

    def _optimizer_step(self, original: Method) -> Method:
        def step(scale: float) -> None:
            self.turns[self._turn] += 1
            with self._inside(OPTIMISER):
                original(scale)

        return step

    def _average(self, original: Method) -> Method:
        def update_average(decay: float) -> None:
            self._to_turn(STUDENT)
            with self._inside(OPTIMISER):
                original(decay)

        return update_average
