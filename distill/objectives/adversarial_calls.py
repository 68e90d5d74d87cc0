"""The calls that adversarial distillation makes: in its steps, its warm-up and what fresh heads are trained for.

Where the number of discriminator steps follows its accuracy, the usual number is counted. It reads with a backbone,
whose backward passes reach the endpoint (the student learns) or the backbone itself (if it is trained).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fewstep.distill.calls import Calls, PartCalls
from fewstep.distill.fresh_heads import HELD_OUT, settings_of_heads
from fewstep.distill.objectives.adversarial import DISCRIMINATOR
from fewstep.distill.objectives.base import STUDENT

if TYPE_CHECKING:
    from fewstep.distill.objectives.adversarial_settings import Adversarial
    from fewstep.distill.settings import Stage


def step_calls(settings: Adversarial, stage: Stage, parts: PartCalls) -> Calls:
    """Of all steps of the stage: discriminator and student steps."""
    sides, turn = _sides(settings, stage, parts), _turn(settings, stage)
    samples, anchored = settings.judges == "sample", settings.anchor.weight > 0
    # with one micro-batch z_t is read once, by a frozen backbone, and the student's side made once, for all turns
    step = turn.starts_once + turn.judge * settings.discriminator_steps + turn.learn + sides.learnt
    # the anchor's target, the supervisor's endpoint, may be the real side as well; where samples are judged,
    # the anchor has a step of its own
    step += parts.lesson if anchored and not samples else sides.real
    if anchored and samples:
        step += parts.lesson + parts.learn
    if stage.accumulate > 1:  # its graph does not wait for the student step, see Trainer
        step += sides.forward * settings.discriminator_steps
    counting = -(-stage.steps // settings.penalty_every)  # every n-th step from step 0 on
    return step * stage.steps + turn.penalty * (counting * settings.discriminator_steps)


def warmup_calls(settings: Adversarial, stage: Stage, parts: PartCalls) -> Calls:
    """Of the rounds before the student's first, all of which have penalties."""
    return (_round(settings, stage, parts) + _turn(settings, stage).penalty) * settings.warmup


def probe_calls(settings: Adversarial, stage: Stage, parts: PartCalls) -> Calls:
    """Of fresh heads, which are trained on two students, and asked once more of each."""
    if not settings.probe:
        return Calls()
    settings = settings_of_heads(settings)
    penalties = -(-settings.probe // settings.penalty_every)
    once = _round(settings, stage, parts) * (settings.probe + HELD_OUT)
    return (once + _turn(settings, stage).penalty * penalties) * 2


def _round(settings: Adversarial, stage: Stage, parts: PartCalls) -> Calls:
    """A round in which the discriminator has a turn and the student has none, without penalties."""
    sides, turn = _sides(settings, stage, parts), _turn(settings, stage)
    return sides.real + sides.forward + turn.starts_once + turn.judge


@dataclass(frozen=True)
class _Sides:
    """Calls for what is compared."""

    real: Calls
    forward: Calls  # the student's side without gradients
    learnt: Calls  # with them


def _sides(settings: Adversarial, stage: Stage, parts: PartCalls) -> _Sides:
    supervised = settings.subject.asks_supervisor(stage.student_steps)
    if settings.judges != "sample":
        return _Sides(parts.lesson if supervised else Calls(), parts.forward, parts.learn)
    # samples: all steps of the chain run forwards, and backward passes reach those that `through` names
    steps = stage.student_steps
    through = {"all": steps, "last": 1, "drawn": (steps + 1) / 2}[settings.through]
    again = parts.learn.forward[STUDENT] - stage.batch  # for gradient checkpointing
    learnt = Calls.of(STUDENT, steps * stage.batch + round(through * again), round(through * stage.batch))
    return _Sides(parts.clips if supervised else Calls(), parts.forward * steps, learnt)


@dataclass(frozen=True)
class _Turn:
    """Calls of the discriminator's backbone."""

    starts_once: Calls  # in a round, for z_t
    judge: Calls  # in a turn of its own
    penalty: Calls  # more of them where r1 or r2 count
    learn: Calls  # in the student step


def _turn(settings: Adversarial, stage: Stage) -> _Turn:
    batch, trained = stage.batch, settings.discriminator.backbone != "frozen"
    starts = batch if settings.conditional else 0
    # read anew in every turn: what a trained backbone sees, and what lessons of several micro-batches do not hold
    again = starts if trained or stage.accumulate > 1 else 0

    def read(count: int, backward: bool) -> Calls:
        return Calls.of(DISCRIMINATOR, count, count if backward else 0)

    # in its own turn D reads real and fake, z_t where no turn before it did, and real clips with others' prompts, with
    # which z_t is read as well
    both = read(2 * batch + again + (batch + starts if settings.mismatched else 0), trained)
    penalty = read(2 * batch, trained) if settings.r1 or settings.r2 else Calls()
    compared = settings.loss == "relativistic" or settings.balance is not None  # the real side is read as well
    learn = read(again + (batch if compared else 0), backward=False) + read(batch, backward=True)
    return _Turn(read(starts - again, backward=False), both, penalty, learn)
