"""Which forwards and backwards the steps of a stage make, and how long each of them takes on its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fewstep.distill.around import Method, around, role_lookup
from fewstep.distill.calls import Calls
from fewstep.distill.objectives.base import STUDENT, TimedMethod
from fewstep.distill.optimizer_group import OptimizerGroup
from fewstep.distill.trainer import Trainer
from fewstep.teacher.base import Teacher
from fewstep.teacher.conditions import Conditions
from fewstep.teacher.guidance import Guidance
from fewstep.teacher.loading import Clock

ADAM = "adam"  # a part besides the roles that networks are asked in
Backward = Literal["none", "input", "weights", "both"]


@dataclass(frozen=True, order=True)
class CallKind:
    """One kind of call. `which` tells a trainee's calls apart, and for Adam the groups; a guided clip counts twice."""

    part: str
    which: str
    clips: int
    backward: Backward  # what its gradients reach; "none" is a forward alone
    whole: bool = True  # whether it goes through a network of the denoiser's size


@dataclass(frozen=True)
class _Sample:
    """The first call of a kind, to be made again."""

    run: Method
    inputs: tuple[Any, ...]  # without their graphs
    wants_gradient: tuple[bool, ...]
    autocast: bool
    weights: Sequence[nn.Parameter]


class StepCalls:
    """Counts the calls of a trainer's steps by kind. It waits for no device, and so costs steps next to nothing.

    Networks are asked through `Teacher.denoise`, a discriminator's backbone and heads as its trainee says (`timed`). Of
    each kind the first call's inputs are kept, so that `seconds` can make it again.
    """

    def __init__(self, trainer: Trainer, clock: Clock) -> None:
        self.counts = Counter[CallKind]()
        self._trainer, self._clock = trainer, clock
        self._samples: dict[CallKind, _Sample] = {}
        self._device = trainer.roles.teacher.device.type

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Inside the `with` block `counts` grow with every call."""
        trainer, objective = self._trainer, self._trainer.objective
        with ExitStack() as stack:
            stack.enter_context(around(trainer.roles.teacher, "denoise", self._denoise))
            for name, trainee in objective.trainees().items():
                for timed in trainee.timed:
                    if timed.name:
                        stack.enter_context(around(timed.owner, timed.method, self._noting(name, timed)))
            for name, group in trainer.optimizer_groups.items():
                stack.enter_context(around(group, "step", self._moving(name, group)))
            yield

    def seconds(self, kind: CallKind) -> float:
        """How long the kind's first call takes when it is made again, with its backward, if it has one.

        Moments of Adam and weights may move; gradients are gone afterwards.
        """
        return self._adam(kind) if kind.part == ADAM else self._again(kind)

    # --- counting

    def _denoise(self, original: Method) -> Method:
        roles, role = self._trainer.roles, role_lookup(self._trainer)
        trained = {name: group.parameters for name, group in self._trainer.optimizer_groups.items()}

        def denoise(z_t: Tensor, t: Any, conditions: Conditions, guidance: Any = 1.0, network: Any = None) -> Tensor:
            x0: Tensor = original(z_t, t, conditions, guidance, network)
            guided = guided_clips(roles.teacher, len(z_t), t, guidance)
            part, clips = role(network), len(z_t) + guided
            inputs = (z_t, t, conditions, guidance, network)
            self._note(part, "", clips, True, original, inputs, [x0], trained.get(part, []))
            return x0

        return denoise

    def _noting(self, part: str, timed: TimedMethod) -> Callable[[Method], Method]:
        def wrap(original: Method) -> Method:
            def call(*inputs: Any) -> Any:
                output = original(*inputs)
                clips, outputs = len(inputs[0]), _tensors(output)
                self._note(part, timed.name, clips, timed.whole, original, inputs, outputs, timed.trained)
                return output

            return call

        return wrap

    def _note(
        self,
        part: str,
        which: str,
        clips: int,
        whole: bool,
        run: Method,
        inputs: tuple[Any, ...],
        outputs: Sequence[Tensor],
        weights: Sequence[nn.Parameter],
    ) -> None:
        # how far a backward pass must go decides what it costs: to the inputs, the weights, or both
        wants = tuple(isinstance(x, Tensor) and x.requires_grad for x in inputs)
        trained = any(p.requires_grad for p in weights)
        backward: Backward = "none"
        if any(x.requires_grad for x in outputs):
            backward = "both" if trained and any(wants) else "weights" if trained else "input"
        kind = CallKind(part, which, clips, backward, whole)
        self.counts[kind] += 1
        # the first call of each kind is kept without its graph, to be timed on its own
        if kind not in self._samples:
            plain = tuple(x.detach() if isinstance(x, Tensor) else x for x in inputs)
            self._samples[kind] = _Sample(run, plain, wants, torch.is_autocast_enabled(self._device), weights)

    def _moving(self, name: str, group: OptimizerGroup) -> Callable[[Method], Method]:
        def wrap(original: Method) -> Method:
            def step(scale: float) -> None:
                self.counts[CallKind(ADAM, name, 0, "none", whole=False)] += 1
                original(scale)

            return step

        return wrap

    # --- once more

    def _again(self, kind: CallKind) -> float:
        sample, backward = self._samples[kind], kind.backward != "none"
        # new leaves that want gradients where the step's inputs did: the backward pass ends at the same places
        inputs = [
            x.detach().requires_grad_(wanted and backward) if isinstance(x, Tensor) else x
            for x, wanted in zip(sample.inputs, sample.wants_gradient, strict=True)
        ]
        before = [p.requires_grad for p in sample.weights]
        for p in sample.weights:
            p.requires_grad_(kind.backward in ("weights", "both"))
        precision = self._trainer.accelerator.autocast() if sample.autocast else nullcontext()
        began = self._clock()
        with torch.set_grad_enabled(backward), precision:
            outputs = _tensors(sample.run(*inputs))
        if backward:
            reached = [x for x in outputs if x.requires_grad]
            torch.autograd.backward(reached, [torch.ones_like(x) for x in reached])
        seconds = self._clock() - began
        for p, required in zip(sample.weights, before, strict=True):
            p.requires_grad_(required)
            p.grad = None
        return seconds

    def _adam(self, kind: CallKind) -> float:
        group = self._trainer.optimizer_groups[kind.which]
        # a step takes as long with gradients of zero
        for p in group.parameters:
            p.grad = torch.zeros_like(p)
        began = self._clock()
        group.optimizer.step()
        seconds = self._clock() - began
        group.optimizer.zero_grad(set_to_none=True)
        return seconds


def clips_of(counts: Mapping[CallKind, int], gradient_checkpointing: bool) -> Calls:
    """What was counted, as objectives foresee it: in clips through networks of the denoiser's size, and what is
    computed again for gradient checkpointing counts for the student only."""
    calls = Calls()
    for kind, count in counts.items():
        if kind.whole:
            clips, back = count * kind.clips, count * kind.clips * (kind.backward != "none")
            again = back if gradient_checkpointing and kind.part == STUDENT else 0
            calls += Calls.of(kind.part, clips + again, back)
    return calls


def guided_clips(teacher: Teacher, clips: int, t: Any, guidance: Guidance | float) -> int:
    """How many of a batch of clips at times t, () or (clips,), are guided, and so go through the network twice."""
    return int(Guidance.of(guidance).applies(teacher.schedule, t).expand(clips).sum())


def _tensors(output: Any) -> list[Tensor]:
    return [output] if isinstance(output, Tensor) else list(output)
