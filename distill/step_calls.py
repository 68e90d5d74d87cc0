"""Which forwards and backwards the steps of a stage make, and how long each of them takes on its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fewstep.distill.around import Method, around
from fewstep.distill.estimate import Calls
from fewstep.distill.objectives.adversarial import AdversarialObjective
from fewstep.distill.player import Player
from fewstep.distill.trainer import Trainer
from fewstep.teacher.base import Teacher
from fewstep.teacher.conditions import Conditions
from fewstep.teacher.guidance import Guidance

Part = Literal["supervisor", "student", "backbone", "head", "adam"]
Backward = Literal["none", "input", "weights", "both"]
Clock = Callable[[], float]  # seconds, once the device has done all it was asked to


@dataclass(frozen=True, order=True)
class Kind:
    """One kind of call. `which` tells heads, and players for Adam, apart; a guided clip counts twice."""

    part: Part
    which: str
    clips: int
    backward: Backward  # what its gradients reach; "none" is a forward alone


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

    Student and supervisor are asked through `Teacher.denoise`, a discriminator's backbone through its `read`, its heads
    one by one. Of each kind the first call's inputs are kept, so that `seconds` can make it again.
    """

    def __init__(self, trainer: Trainer, clock: Clock) -> None:
        self.counts = Counter[Kind]()
        self._trainer, self._clock = trainer, clock
        self._samples: dict[Kind, _Sample] = {}
        self._device = trainer.roles.teacher.device.type

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Inside the `with` block `counts` grow with every call."""
        trainer, objective = self._trainer, self._trainer.objective
        with ExitStack() as stack:
            stack.enter_context(around(trainer.roles.teacher, "denoise", self._denoise))
            if isinstance(objective, AdversarialObjective):
                heads = list(objective.discriminator.heads)
                others = [p for n, p in objective.discriminator.named_parameters() if not n.startswith("heads.")]
                stack.enter_context(around(objective.discriminator, "read", self._noting("backbone", "", others)))
                for number, head in enumerate(heads):
                    noting = self._noting("head", str(number), list(head.parameters()))
                    stack.enter_context(around(head, "forward", noting))
            for name, player in trainer.players.items():
                stack.enter_context(around(player, "move", self._moving(name, player)))
            yield

    def seconds(self, kind: Kind) -> float:
        """How long the kind's first call takes when it is made again, with its backward, if it has one.

        Moments of Adam and weights may move; gradients are gone afterwards.
        """
        return self._adam(kind) if kind.part == "adam" else self._again(kind)

    # --- counting

    def _denoise(self, original: Method) -> Method:
        roles = self._trainer.roles
        parameters = list(roles.parameters.values())

        def denoise(z_t: Tensor, t: Any, conditions: Conditions, guidance: Any = 1.0, network: Any = None) -> Tensor:
            found: Tensor = original(z_t, t, conditions, guidance, network)
            guided = guided_clips(roles.teacher, len(z_t), t, guidance)
            part: Part = "student" if network is roles.student else "supervisor"
            weights = parameters if part == "student" else []
            self._note(part, "", len(z_t) + guided, original, (z_t, t, conditions, guidance, network), [found], weights)
            return found

        return denoise

    def _noting(self, part: Part, which: str, weights: Sequence[nn.Parameter]) -> Callable[[Method], Method]:
        def wrap(original: Method) -> Method:
            def call(*inputs: Any) -> Any:
                found = original(*inputs)
                self._note(part, which, len(inputs[0]), original, inputs, _tensors(found), weights)
                return found

            return call

        return wrap

    def _note(
        self,
        part: Part,
        which: str,
        clips: int,
        run: Method,
        inputs: tuple[Any, ...],
        outputs: Sequence[Tensor],
        weights: Sequence[nn.Parameter],
    ) -> None:
        wants = tuple(isinstance(x, Tensor) and x.requires_grad for x in inputs)
        trained = any(p.requires_grad for p in weights)
        backward: Backward = "none"
        if any(x.requires_grad for x in outputs):
            backward = "both" if trained and any(wants) else "weights" if trained else "input"
        kind = Kind(part, which, clips, backward)
        self.counts[kind] += 1
        if kind not in self._samples:
            plain = tuple(x.detach() if isinstance(x, Tensor) else x for x in inputs)
            self._samples[kind] = _Sample(run, plain, wants, torch.is_autocast_enabled(self._device), weights)

    def _moving(self, name: str, player: Player) -> Callable[[Method], Method]:
        def wrap(original: Method) -> Method:
            def move(scale: float) -> None:
                self.counts[Kind("adam", name, 0, "none")] += 1
                original(scale)

            return move

        return wrap

    # --- once more

    def _again(self, kind: Kind) -> float:
        sample, backward = self._samples[kind], kind.backward != "none"
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

    def _adam(self, kind: Kind) -> float:
        player = self._trainer.players[kind.which]
        for p in player.parameters:
            p.grad = torch.zeros_like(p)
        began = self._clock()
        player.optimizer.step()
        seconds = self._clock() - began
        player.optimizer.zero_grad(set_to_none=True)
        return seconds


def clips_of(counts: Mapping[Kind, int], gradient_checkpointing: bool) -> Calls:
    """What was counted, as `estimate.stage_calls` has it: in clips, and what is computed again for gradient
    checkpointing counts for the student only."""
    found = Calls()
    for kind, count in counts.items():
        clips, back = count * kind.clips, count * kind.clips * (kind.backward != "none")
        if kind.part == "supervisor":
            found += Calls(supervisor=clips)
        elif kind.part == "student":
            found += Calls(student_forward=clips + (back if gradient_checkpointing else 0), student_backward=back)
        elif kind.part == "backbone":
            found += Calls(discriminator_forward=clips, discriminator_backward=back)
    return found


def guided_clips(teacher: Teacher, clips: int, t: Any, guidance: Guidance | float) -> int:
    """How many of a batch of clips at times t, () or (clips,), are guided, and so go through the network twice."""
    return int(Guidance.of(guidance).applies(teacher.schedule, t).expand(clips).sum())


def _tensors(found: Any) -> list[Tensor]:
    return [found] if isinstance(found, Tensor) else list(found)
