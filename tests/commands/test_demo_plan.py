"""What the demo does in its minutes: pure arithmetic, from seconds that a probe would have found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fewstep.commands.demo_plan import (
    CLIPS,
    LEAST_CLIPS,
    MOST_DEMO_CLIPS,
    MOST_STEPS,
    NUM_PROMPTS,
    OWN_PLAN,
    SAMPLES_EVERY,
    SCALES,
    STEPS,
    WARMUP,
    Speed,
    choose_plan,
    kept_plan,
    plan_sentences,
)
from fewstep.distill.objectives.adversarial_settings import Adversarial
from fewstep.distill.recipe import Recipe, read_recipe
from fewstep.distill.settings import RolloutData
from fewstep.teacher.dataset.caption_files import read_prompts

USUAL = Speed(train=0.9, guided=0.16, decode=1.0)  # two cores with AVX512-BF16 and nothing else running


def slower(times: float) -> Speed:
    return Speed(USUAL.train * times, USUAL.guided * times, USUAL.decode * times)


def recipe_of(times: float, tmp_path: Path) -> Recipe:
    plan = choose_plan(slower(times), 10)
    (tmp_path / "prompts.txt").write_text("a ring\n")
    return read_recipe("shapes-demo", plan.overrides(tmp_path / "prompts.txt"))


def test_the_numbers_are_those_of_the_recipes() -> None:
    recipe, longest = read_recipe("shapes-demo"), read_recipe("shapes-4step")
    assert tuple(stage.steps for stage in recipe.stages) == STEPS
    assert all(stage.warmup == WARMUP for stage in recipe.stages)
    adversarial = recipe.stages[2].objective
    assert isinstance(adversarial, Adversarial) and adversarial.warmup == WARMUP
    assert recipe.logging.samples_every == SAMPLES_EVERY
    assert isinstance(recipe.data, RolloutData) and len(read_prompts(recipe.data.prompts)) == NUM_PROMPTS
    assert tuple(stage.steps for stage in longest.stages[:3]) == MOST_STEPS
    assert (OWN_PLAN.steps, OWN_PLAN.prompts, OWN_PLAN.clips) == (STEPS, NUM_PROMPTS, CLIPS)


@pytest.mark.parametrize("times", [0.75, 0.8, 0.9, 1.0, 1.1, 1.15])
def test_a_machine_like_the_usual_one_gets_the_recipes_own_numbers(times: float, tmp_path: Path) -> None:
    plan = choose_plan(slower(times), 10)
    assert (plan.scale, plan.steps, plan.prompts, plan.clips) == (1.0, STEPS, NUM_PROMPTS, CLIPS)
    assert plan.seconds <= 600
    assert recipe_of(times, tmp_path) == read_recipe("shapes-demo")
    assert len(plan_sentences(plan, slower(times), 10)) == 1


@pytest.mark.parametrize("times", [1.4, 1.7, 2.0, 2.5, 3.0])
def test_a_slower_machine_does_less_and_says_so(times: float, tmp_path: Path) -> None:
    plan = choose_plan(slower(times), 10)
    assert plan.scale < 1 and plan.seconds <= 600 and plan.clips >= LEAST_CLIPS
    text = " ".join(plan_sentences(plan, slower(times), 10))
    assert (
        f"{plan.clips} clips give prompt accuracy within ±" in text
        and "the README's student had 160 + 140 + 40" in text
    )
    recipe = recipe_of(times, tmp_path)
    assert tuple(stage.steps for stage in recipe.stages) == plan.steps
    assert all(stage.warmup < 20 for stage in recipe.stages)


def test_a_machine_too_slow_does_the_least_and_says_so() -> None:
    plan = choose_plan(slower(20), 10)
    assert (plan.scale, plan.steps, plan.prompts, plan.clips) == (0.25, (40, 35, 10), 48, 16)
    assert "this machine is too slow for 10 minutes" in plan_sentences(plan, slower(20), 10)[1]


@pytest.mark.parametrize("times", [0.001, 0.01])
def test_a_fast_machine_never_does_more_than_the_longer_recipe(times: float, tmp_path: Path) -> None:
    plan = choose_plan(slower(times), 10)
    assert (plan.steps, plan.clips, plan.prompts) == (MOST_STEPS, 192, 576) and plan.clips <= MOST_DEMO_CLIPS
    assert tuple(stage.steps for stage in recipe_of(times, tmp_path).stages) == MOST_STEPS


def test_more_minutes_never_mean_less() -> None:
    plans = [choose_plan(slower(3), minutes) for minutes in (1, 2, 5, 10, 15, 20, 30, 60, 600)]
    seconds = [plan.seconds for plan in plans]
    assert seconds == sorted(seconds) and plans[0].scale == SCALES[-1] and plans[-1].scale == SCALES[0]


def test_a_probe_that_varies_a_little_chooses_alike() -> None:
    assert len({choose_plan(slower(1 + i / 100), 10).scale for i in range(-15, 16)}) == 1


def test_clips_that_were_asked_for_stay() -> None:
    plan, usual = choose_plan(slower(2), 10, clips=512), choose_plan(slower(2), 10)
    assert plan.clips == 512 and plan.scale < usual.scale
    assert choose_plan(USUAL, 10, clips=3).clips == 3


@pytest.mark.parametrize("unit", ["train", "guided", "decode"])
def test_every_unit_of_the_probe_counts(unit: str) -> None:
    slow = choose_plan(replace(USUAL, **{unit: 5.0 * getattr(USUAL, unit)}), 10)
    assert slow.scale < choose_plan(USUAL, 10).scale or slow.seconds > choose_plan(USUAL, 10).seconds


def test_minutes_must_be_a_number() -> None:
    with pytest.raises(ValueError, match="--minutes is not a number"):
        choose_plan(USUAL, float("nan"))


def test_a_kept_plan_reads_back(tmp_path: Path) -> None:
    plan = choose_plan(slower(2), 10)
    assert kept_plan(tmp_path) is None
    plan.save(tmp_path / "demo")
    assert kept_plan(tmp_path / "demo") == plan


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"steps": 3}', '{"steps": [1], "more": 2}', "\x00"])
def test_a_damaged_plan_is_told_in_a_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "demo.json").write_text(text)
    with pytest.raises(ValueError, match=r"demo\.json is not what `fewstep demo` wrote: choose another --out"):
        kept_plan(tmp_path)
