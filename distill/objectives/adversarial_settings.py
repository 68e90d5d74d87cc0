"""The settings of adversarial distillation (`adversarial.py`), and what it costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import model_validator
from torch import nn

from fewstep.distill.calls import Calls, PartCalls
from fewstep.distill.discriminator import DISCRIMINATOR_ADAPTER, Discriminator, DiscriminatorSettings, num_parameters
from fewstep.distill.fresh_heads import FreshHeads
from fewstep.distill.objectives.adversarial import DISCRIMINATOR, AdversarialObjective
from fewstep.distill.objectives.adversarial_calls import probe_calls, step_calls, warmup_calls
from fewstep.distill.objectives.base import Batch, NetworkRoles, Settings
from fewstep.distill.objectives.judged import Judges, Real, Subject, Through
from fewstep.distill.objectives.losses import AdversarialLoss
from fewstep.distill.objectives.objective_settings import HeldParameters, ObjectiveSettings, Probe
from fewstep.distill.objectives.regression import Regression
from fewstep.distill.objectives.renoise import Noise, UniformNoise
from fewstep.distill.objectives.scores import Balance, of_transition
from fewstep.distill.objectives.supervision import Supervision
from fewstep.student.adapters import add_adapter, shared_copy
from fewstep.teacher.base import Teacher
from fewstep.teacher.bases import Kinds
from fewstep.teacher.experts import parts_of
from fewstep.teacher.limited import Amount, Decay, NumSteps, Rate, StepsOrNone, Weight

if TYPE_CHECKING:
    from accelerate import Accelerator

    from fewstep.distill.batches import BatchSource
    from fewstep.distill.settings import Stage
NO_MOMENTUM = (
    0.0,
    0.99,
)  # Adam's betas of student and discriminator: with momentum a game with a moving opponent circles


class Anchor(Settings):
    """A regression of the endpoint besides the adversarial loss, which steadies it."""

    loss: Regression = "mse"
    """Mean squared error, or pseudo-Huber."""
    weight: Weight = 1.0
    """0 is none."""
    huber_c: Amount = 0.1
    """Where pseudo-Huber turns from squared to absolute, in units of the student's prediction."""


class Adversarial(ObjectiveSettings):
    """A discriminator learns to classify the student's steps, or clips, and real ones."""

    default_betas = NO_MOMENTUM
    has_discriminator = True
    splits_clips = True

    kind: Literal["adversarial"] = "adversarial"
    """A discriminator judges the student."""
    real: Real = "supervisor"
    """What counts as real: the supervisor's steps, the clips of the data, or clips_at_data: clips where a step ends in
    data, the supervisor's elsewhere. Clips ask for `conditional: false`."""
    judges: Judges = "endpoint"
    """What the discriminator sees: the endpoint z_s of a step, the clip (x0) that a step stands for, or a sample: the
    end of all the student's own steps from noise (arXiv 2405.14867, 2501.08316)."""
    through: Through = "all"
    """Of samples: whether gradients pass through all steps, the last alone, or from a drawn one on."""
    conditional: bool = True
    """The discriminator sees where a step started, too; false relaxes it to the endpoint alone."""
    loss: AdversarialLoss = "relativistic"
    """relativistic (RpGAN), non_saturating or hinge."""
    weight: Weight = 0.1
    """Weight of the student's adversarial loss next to the anchor."""
    anchor: Anchor = Anchor()
    """Regression of the endpoint."""
    mismatched: Weight = 0.0
    """Weight of real clips with another clip's prompt as additional fakes, so that prompts count (arXiv 1605.05396);
    clips of equal prompts do not take part."""
    r1: Weight = 0.5
    """gamma of gamma/2 |grad D|^2 at what is real; 0 is off."""
    r2: Weight = 0.5
    """gamma of gamma/2 |grad D|^2 at what is the student's; 0 is off."""
    penalty_every: NumSteps = 4
    """r1 and r2 count n times in every n-th step, not in others; in the first step, once in each step of warm-up."""
    penalty_sigma: Amount = 0.01
    """Size of the finite difference that estimates the gradient, in units of the latents."""
    noise: Noise = UniformNoise()
    """How much noise is added to both sides for the discriminator."""
    warmup: StepsOrNone = 50
    """Discriminator steps before the student's first step."""
    discriminator_steps: NumSteps = 1
    """Discriminator steps per student step; all use the same clips, with different noise."""
    balance: Balance | None = None
    """Adapts discriminator steps and the weight of the adversarial loss to its accuracy; null: both are constant."""
    lr: Rate = 2e-4
    """Learning rate of the discriminator, Adam."""
    betas: tuple[Decay, Decay] = NO_MOMENTUM
    """Adam's, of the discriminator."""
    probe: StepsOrNone = 0
    """Steps for which fresh heads are trained on the finished student, and on the one before the stage: their
    accuracy on pairs with other noise, at every step of the student, measures how well real and student can be told
    apart. 0 is none."""
    discriminator: DiscriminatorSettings = DiscriminatorSettings()
    """The network that judges."""

    @model_validator(mode="after")
    def _fits(self) -> Adversarial:
        if self.conditional and (self.real != "supervisor" or self.judges == "sample"):
            what = f"real: {self.real}" if self.real != "supervisor" else "judges: sample"
            raise ValueError(
                f"{what} with a conditional discriminator asks for clips that follow from where a step starts, which "
                "no real clip does (arXiv 2402.13929, Sec. 3.3): set conditional to false, or keep real: supervisor "
                "and judges: endpoint"
            )
        if self.through != "all" and self.judges != "sample":
            raise ValueError(
                f"through: {self.through} is about the steps of a sample, and judges is {self.judges}: leave through "
                "out, or set judges: sample"
            )
        if self.balance is not None and self.balance.most < self.discriminator_steps:
            raise ValueError(
                f"balance.most is {self.balance.most} and discriminator_steps is {self.discriminator_steps}: a "
                "discriminator that lags behind would have no further turns; set most at least as high"
            )
        return self

    @property
    def subject(self) -> Subject:
        """What is compared with what."""
        return Subject(self.real, self.judges, self.through)

    def learns_from_supervisor(self, student_steps: int) -> bool:
        """By the anchor, or by what counts as real: whole samples, and the step of a 1-step student, end in data, where
        `clips_at_data` are clips."""
        return self.anchor.weight > 0 or self.subject.asks_supervisor(student_steps)

    @property
    def through_samples(self) -> Through | None:
        """`through`, where samples are judged."""
        return self.through if self.judges == "sample" else None

    @property
    def samples_supervisor(self) -> bool:
        """Where its samples are the real ones."""
        return self.judges == "sample" and self.real == "supervisor"

    @property
    def trains_copy(self) -> bool:
        """The discriminator's backbone, where it is trained whole."""
        return self.discriminator.backbone == "trained"

    @property
    def phase(self) -> str:
        """What the discriminator sees: where a step started, too, or not."""
        return "conditional" if self.conditional else "relaxed"

    def build(self, supervision: Supervision, roles: NetworkRoles, any_batch: Batch) -> AdversarialObjective:
        """With a discriminator that measures its features on the clips of `any_batch`."""
        return AdversarialObjective(
            self,
            supervision,
            Discriminator(
                roles.teacher, roles.backbone, self.discriminator, any_batch.x0, any_batch.conditions, self.conditional
            ),
        )

    @property
    def first_step(self) -> str:
        """The discriminator's warm-up."""
        return f"trains the discriminator for {self.warmup} turns" if self.warmup else ""

    def probing(
        self, supervision: Supervision, batches: BatchSource, batch: int, micro_batches: int, any_batch: Batch,
        accelerator: Accelerator,
    ) -> Probe | None:  # fmt: skip
        """What fresh heads see, where they are asked for."""
        if not self.probe:
            return None
        heads = FreshHeads(self, supervision, batches, batch, any_batch, accelerator, micro_batches)

        def measure(finished: NetworkRoles, began_as: NetworkRoles) -> dict[str, float]:
            after, before = heads.accuracy(finished), heads.accuracy(began_as)
            figures: dict[str, float] = {
                "fresh_heads_before": before.accuracy,
                "fresh_heads": after.accuracy,
                "fresh_heads_pairs": after.pairs,
            }
            for name, held_out in (("fresh_heads_before", before), ("fresh_heads", after)):
                figures |= {of_transition(name, end): accuracy for end, accuracy in held_out.accuracies.items()}
            return figures

        return Probe("training fresh heads on the student, and on what it began as", measure)

    def check(self, stage: Stage) -> None:
        """Raises ValueError where clips have no others to take prompts from."""
        if self.mismatched and stage.batch == stage.accumulate:
            raise ValueError(
                "objective.mismatched gives clips the prompts of others, and micro-batches of one clip have no other: "
                "choose a larger `batch`, a smaller `accumulate`, or set mismatched to 0"
            )

    def check_network(self, teacher: Teacher, network: nn.Module) -> None:
        """Raises ValueError when the backbone has no blocks to read, or takes no adapters where it should."""
        for part in parts_of(network).values():
            teacher.taps(part, self.discriminator.depths)
        # tried on a copy around the same tensors, so the network itself stays without adapters
        if self.discriminator.backbone == "lora":
            rank = self.discriminator.lora_rank
            add_adapter(shared_copy(network), DISCRIMINATOR_ADAPTER, rank, rank, kinds=teacher.kinds)

    def calls(self, stage: Stage, parts: PartCalls) -> Calls:
        """Discriminator and student steps."""
        return step_calls(self, stage, parts)

    def calls_once(self, stage: Stage, parts: PartCalls) -> Calls:
        """The discriminator's warm-up, and fresh heads."""
        return warmup_calls(self, stage, parts) + probe_calls(self, stage, parts)

    @property
    def period(self) -> int:
        """From one penalty to the next."""
        return self.penalty_every if self.r1 or self.r2 else 1

    def holds(self, network: nn.Module, kinds: Kinds | None = None) -> dict[str, HeldParameters]:
        """The discriminator: its heads, and the trained part of its backbone."""
        return {
            DISCRIMINATOR: HeldParameters(trained=num_parameters(network, self.discriminator, self.conditional, kinds))
        }
