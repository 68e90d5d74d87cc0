"""How much the demo trains and measures, so that it takes the minutes it promises on the machine at hand."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from fewstep.teacher.files.json_text import parse_json

DEMO_FILE = "demo.json"

# shapes-demo's own numbers, which a plan of scale 1 has: steps of its stages, warm-up of the learning rate and of the
# discriminator, prompts, and clips of each model.
STEPS, WARMUP, NUM_PROMPTS, CLIPS = (160, 140, 40), 20, 192, 64
SAMPLES_EVERY = 100  # steps, as its logging has it
# Never more than shapes-4step trains: beyond that the student is that recipe's, and quality falls again where an
# adversarial stage gets longer. Four times the clips halve the intervals; more is what `fewstep evaluate --num` is for.
MOST_STEPS, MOST_DEMO_CLIPS = (480, 240, 50), 256
LEAST_CLIPS = 16
# Round steps, so that a probe that varies by a few percent chooses alike.
SCALES = (3.0, 2.5, 2.0, 1.5, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.25)

_ROOM = 0.8

# What each part costs, in the units of a probe: CPU seconds of the part over those of the unit, with one thread. In
# bfloat16 on AVX512-BF16 and in float32 with ONEDNN_MAX_CPU_ISA=AVX2 they agree to about 15 %, but for
# discriminator steps, which differ by a third.
_STEP = (1.0, 0.52, 2.5)  # a step of each stage, in training steps
_WARMUP = 1.5  # a step of the discriminator's warm-up, in training steps
_ROLLOUTS = 31.0  # 16 clips of the data, in guided steps
_WATCH = (72.0, 16.0, 16.0)  # what each stage measures every 100 steps and as it ends, in guided steps
_CLIPS = (49.3, 9.5)  # 16 clips of all four models, in guided steps and decodes
_BENCHMARK = (34.0, 4.0)  # in guided steps and decodes
_REAL = 6.0  # real clips, drawn and judged, in decodes
_LOADING = 15.0  # seconds


@dataclass(frozen=True)
class Speed:
    """A machine's seconds for 16 clips in the precision chosen."""

    train: float  # a training step of the first stage: supervisor, student, optimizer
    guided: float  # a guided step of the teacher
    decode: float  # latents to clips


@dataclass(frozen=True)
class DemoPlan:
    """What the demo does, and how long that takes by the machine's speed."""

    scale: float  # of shapes-demo's own numbers
    steps: tuple[int, ...]  # of each stage
    prompts: int
    clips: int  # of each model
    seconds: float

    @property
    def numbers(self) -> str:
        """'160 + 140 + 40 training steps on 192 prompts, 64 clips of each model'."""
        return f"{self.steps_text} training steps on {self.prompts} prompts, {self.clips} clips of each model"

    @property
    def steps_text(self) -> str:
        """'160 + 140 + 40'."""
        return " + ".join(map(str, self.steps))

    def overrides(self, prompts: Path) -> list[str]:
        """Settings of shapes-demo, none at scale 1. `prompts` is a file of as many prompts as the plan has."""
        if self.scale == 1:
            return []
        steps = [f"stages.{i}.steps={count}" for i, count in enumerate(self.steps)]
        shorter = min(1.0, self.scale)
        warmups = [f"stages.{i}.warmup={round(WARMUP * shorter)}" for i in range(len(self.steps))]
        return [
            *steps,
            *warmups,
            f"stages.2.objective.warmup={_warmup(self.scale)}",
            f"data.prompts={json.dumps(str(prompts))}",
        ]

    def save(self, folder: Path) -> None:
        """Keeps the plan in the demo's folder: the same command resumes it."""
        from fewstep.teacher.files.atomic import whole_file

        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(folder / DEMO_FILE) as part:
            part.write_text(json.dumps(asdict(self), indent=1) + "\n")


OWN_PLAN = DemoPlan(1.0, STEPS, NUM_PROMPTS, CLIPS, math.nan)  # of a run that no probe was made for


def choose_plan(speed: Speed, minutes: float, clips: int | None = None) -> DemoPlan:
    """The largest plan that fits into `minutes`, else the least; `clips`, if given, are as many as that.

    Raises ValueError for minutes that are no number.
    """
    if math.isnan(minutes):
        raise ValueError("--minutes is not a number: say how long the demo may take, as in --minutes 10")
    plans = [_plan(scale, speed, clips) for scale in SCALES]
    return next((plan for plan in plans if plan.seconds <= _share(plan) * 60 * minutes), plans[-1])


def _share(plan: DemoPlan) -> float:
    """Of the time, what a plan may take: the recipe's own numbers stay unless there is a good deal of time left."""
    return _ROOM if plan.scale > 1 else 1.0


def kept_plan(folder: Path) -> DemoPlan | None:
    """The plan that a demo was begun with; None where none was. Raises ValueError for a file that is none."""
    path = folder / DEMO_FILE
    if not path.exists():
        return None
    try:
        values = parse_json(path.read_text("utf-8"))
        return DemoPlan(**values | {"steps": tuple(values["steps"])})
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not what `fewstep demo` wrote: choose another --out, or delete {folder}"
        ) from error


def plan_sentences(plan: DemoPlan, speed: Speed, minutes: float) -> list[str]:
    """What was chosen, and what that leaves unsaid."""
    lines = [f"{_text(minutes)}: {plan.numbers}; {_about(plan.seconds)} by a probe of this machine"]
    if plan.seconds > 60 * minutes:
        lines.append(
            f"this machine is too slow for {_text(minutes)}, or too busy: that is the least the demo does, since less "
            "would teach a student nothing"
        )
    if plan.scale < 1:
        # what the recipe's own numbers would take on this machine, by the same probe
        whole = _plan(1.0, speed, max(plan.clips, CLIPS))
        enough = math.ceil(whole.seconds / 60)
        lines.append(
            f"the README's student had {whole.steps_text} training steps on {whole.prompts} prompts: with "
            f"{whole.clips} clips that would take {_about(whole.seconds)} here (--minutes {enough} and another --out); "
            "a student of fewer steps is not as good"
        )
    if plan.clips < CLIPS:
        points = 100 * 1.96 * math.sqrt(0.85 * 0.15 / plan.clips)  # a share of 85 % in as many clips
        lines.append(
            f"{plan.clips} clips give prompt accuracy within ±{points:.0f} points; their distances have wide "
            f"intervals and compare only with those of {plan.clips} clips"
        )
    return lines


def _plan(scale: float, speed: Speed, clips: int | None) -> DemoPlan:
    steps = tuple(min(round(own * scale), most) for own, most in zip(STEPS, MOST_STEPS, strict=True))
    prompts = 16 * round(NUM_PROMPTS * scale / 16)
    chosen = min(MOST_DEMO_CLIPS, max(LEAST_CLIPS, 8 * round(CLIPS * scale / 8))) if clips is None else clips
    return DemoPlan(scale, steps, prompts, chosen, _seconds(steps, _warmup(scale), prompts, chosen, speed))


def _warmup(scale: float) -> int:
    return max(1, round(WARMUP * min(1.0, scale)))


def _seconds(steps: tuple[int, ...], warmup: int, prompts: int, clips: int, speed: Speed) -> float:
    train = sum(cost * count for cost, count in zip(_STEP, steps, strict=True)) + _WARMUP * warmup
    watches = sum(cost * (1 + count // SAMPLES_EVERY) for cost, count in zip(_WATCH, steps, strict=True))
    guided = _ROLLOUTS * prompts / 16 + watches + _CLIPS[0] * clips / 16 + _BENCHMARK[0]
    decodes = _CLIPS[1] * clips / 16 + _BENCHMARK[1] + _REAL
    return train * speed.train + guided * speed.guided + decodes * speed.decode + _LOADING


def _about(seconds: float) -> str:
    return f"about {_text(max(1, round(seconds / 60)))}"


def _text(minutes: float) -> str:
    return f"{minutes:g} minute{'' if minutes == 1 else 's'}"
