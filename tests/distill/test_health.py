"""Students that are not healthy: each way is provoked, and the run stops, goes back or warns, as its recipe says."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from fewstep.distill.checkpoint import HEALTHY_FILE, load_state
from fewstep.distill.health import Watch, Watcher
from fewstep.distill.objectives.adversarial import AdversarialObjective
from fewstep.distill.out_of_memory import MemoryRanOut
from fewstep.distill.trainer import Trainer
from fewstep.distill.watch import MotionAndDiversity
from fewstep.teacher.interrupts import Signals
from tests.distill.one_stage import Case, after, ignore

SOUND = {
    "motion": 1.0,
    "contrast": 1.0,
    "colour": 0.1,
    "diversity": 0.9,
    "accuracy_at_most": 0.8,
    "accuracy_at_least": 0.3,
}
EAGER = {"every": 2, "begins": 0.0}
ONLY_CONTRAST = {"motion": None, "colour": None, "diversity": None, "contrast": [0.2, 2.0]}


@pytest.mark.parametrize(
    ("figures", "sentence"),
    [
        ({"motion": 0.5}, "its clips move 0.5 times as much as its supervisor's, and watch.motion allows 0.75 to 1.4"),
        ({"motion": 3.0}, "its clips move 3 times as much"),
        ({"contrast": 272.0}, "its clips have 272 times the contrast of its supervisor's"),
        ({"contrast": 0.63}, "its clips have 0.63 times the contrast"),
        ({"colour": 0.9}, "the mean colours of its clips are 0.9 standard deviations from its supervisor's"),
        ({"diversity": 0.2}, "its clips differ from one another 0.2 times as much"),
        ({"accuracy_at_most": 1.0, "accuracy_at_least": 1.0}, "its discriminator is right in 1 of pairs at every"),
        ({"accuracy_at_most": 0.5}, "its discriminator is right in 0.5 of pairs at best"),
        ({"motion": math.nan}, "its clips are not finite"),
        ({"diversity": math.inf}, "its clips are not finite"),
    ],
)
def test_every_way_to_be_ill_has_its_sentence(figures: dict[str, float], sentence: str) -> None:
    (text,) = Watch().wrong(SOUND | figures)
    assert text.startswith(sentence)
    assert not Watch().wrong(SOUND) and not Watch().wrong({})


def test_null_allows_anything_finite() -> None:
    watch = Watch.model_validate({"motion": None, "contrast": [0.1, 5.0]})
    assert not watch.wrong(SOUND | {"motion": 99.0, "contrast": 4.0})
    assert watch.wrong({"motion": math.nan})


@pytest.mark.parametrize("band", [[2.0, 1.0], [1.0, 1.0], [-1.0, 1.0], [1.0], [0.0, math.nan], "wide"])
def test_what_is_no_band_is_refused(band: Any) -> None:
    with pytest.raises(ValueError, match="motion"):
        Watch.model_validate({"motion": band})


def test_one_bad_measurement_is_forgiven_two_in_a_row_and_the_last_are_not() -> None:
    watcher, ill = Watcher(Watch.model_validate({"every": 10}), 100, dict), {"motion": 0.1}
    assert [step for step in range(101) if watcher.due(step)] == list(range(10, 101, 10))
    assert not watcher.judge(10, ill) and not watcher.judge(20, ill) and watcher.healthy  # too early to judge
    assert not watcher.judge(30, ill) and not watcher.healthy
    assert not watcher.judge(40, SOUND) and not watcher.judge(50, ill) and watcher.judge(60, ill)
    assert Watcher(Watch(), 100, dict).judge(100, ill)
    assert not any(Watcher(Watch(), 20, dict).due(step) for step in range(21))  # a stage of a few steps is not judged


def test_a_measurement_that_a_resume_repeats_counts_once() -> None:
    before, ill = Watcher(Watch.model_validate({"every": 10}), 100, dict), {"motion": 0.1}
    assert not before.judge(50, ill)
    resumed = Watcher(Watch.model_validate({"every": 10}), 100, dict)
    resumed.suspect, resumed.last = before.suspect, before.last
    assert not resumed.judge(50, ill) and resumed.judge(60, ill)


def watched(case: Case, settings: dict[str, Any], kind: str = "progressive", **stage: Any) -> Trainer:
    trainer = case.trainer(kind, **stage)
    objective: Any = trainer.objective
    motion_and_diversity = MotionAndDiversity(
        trainer.roles, trainer.batches.batch(10**9, 4, 0.0), objective.supervision
    )
    trainer.watcher = Watcher(Watch.model_validate(EAGER | settings), trainer.stage.steps, motion_and_diversity.measure)
    return trainer


def blow_up(trainer: Trainer, step: int) -> None:
    """From `step` on the student's output layer is ten times what it was, whatever the optimizer does."""
    one_step = trainer.one_step

    def broken(*stop: Callable[[], bool]) -> dict[str, float]:
        figures = one_step(*stop)
        if trainer.step >= step:
            for name, average in trainer.roles.average.items():
                if name.startswith("proj_out"):
                    average.fill_(1.0)
        return figures

    trainer.one_step = broken  # type: ignore[method-assign, assignment]


def test_a_healthy_stage_is_measured_and_runs_to_its_end(case: Case) -> None:
    trainer = watched(case, {"motion": [0.3, 3.0], "contrast": [0.3, 3.0], "colour": None, "on_trigger": "roll_back"})
    trainer.run(ignore, Signals())
    assert trainer.step == 6 and trainer.rate == 1
    measured = [point for point in case.curve() if "motion" in point]
    assert [point["step"] for point in measured] == [2, 4, 6]
    assert all({"motion", "contrast", "colour", "diversity"} <= point.keys() for point in measured)
    healthy = load_state(case.folder, "s", HEALTHY_FILE)
    assert healthy is not None and healthy["step"] == 6


def test_a_student_that_burns_stops_the_run_and_what_was_trained_is_kept(case: Case) -> None:
    trainer = watched(case, ONLY_CONTRAST)
    blow_up(trainer, 3)
    with pytest.raises(
        ValueError, match=r"stage s is not healthy at step 6: its clips have .* watch.contrast allows 0"
    ):
        trainer.run(ignore, Signals())
    assert case.trainer().step == 6
    wider = watched(case, {"on_trigger": "warn"})
    text: list[str] = []
    wider.run(ignore, Signals(), text.append)
    assert wider.step == 6 and text and text[0].startswith("warning: stage s at step 6: its clips ")


def test_a_bad_measurement_counts_after_a_resume(case: Case) -> None:
    trainer = watched(case, ONLY_CONTRAST, steps=8)
    blow_up(trainer, 4)
    trainer.run(*after(5))
    state = load_state(case.folder, "s")
    assert state is not None and state["step"] == 5 and state["suspect"] == 1
    resumed = watched(case, ONLY_CONTRAST, steps=8)
    resumed._take(state)  # now that it has its watcher
    blow_up(resumed, 5)
    with pytest.raises(ValueError, match="stage s is not healthy at step 6"):  # the second in a row
        resumed.run(ignore, Signals())


def test_a_moving_average_that_is_not_a_number_is_caught_in_its_own_stage(case: Case) -> None:
    trainer = watched(case, {"motion": None, "contrast": None, "colour": None, "diversity": None})
    one_step = trainer.one_step

    def broken(*stop: Callable[[], bool]) -> dict[str, float]:
        figures = one_step(*stop)
        if trainer.step == 5:
            next(iter(trainer.roles.average.values())).fill_(torch.nan)
        return figures

    trainer.one_step = broken  # type: ignore[method-assign, assignment]
    with pytest.raises(ValueError, match="its clips are not finite: a weight, or its EMA"):
        trainer.run(ignore, Signals())


def test_a_stage_rolls_back_to_its_healthy_checkpoint_and_goes_on_at_half_the_rate(case: Case) -> None:
    trainer = watched(case, ONLY_CONTRAST | {"on_trigger": "roll_back"})
    one_step, broke = trainer.one_step, list[int]()

    def once(*stop: Callable[[], bool]) -> dict[str, float]:
        figures = one_step(*stop)
        if trainer.step in (3, 4, 5, 6) and trainer.rate == 1:
            broke.append(trainer.step)
            for name, average in trainer.roles.average.items():
                if name.startswith("proj_out"):
                    average.fill_(1.0)
        return figures

    trainer.one_step = once  # type: ignore[method-assign, assignment]
    text: list[str] = []
    trainer.run(ignore, Signals(), text.append)
    assert broke == [3, 4, 5, 6] and trainer.step == 6 and trainer.rate == 0.5
    assert len(text) == 1 and text[0].endswith("back to step 2, continuing at 0.5 times its learning rates")
    rates = {point["step"]: point["student/lr_scale"] for point in case.curve() if "student/lr_scale" in point}
    assert list(rates) == [1, 2, 3, 4, 5, 6]  # what came after step 2 was taken back
    state = load_state(case.folder, "s")
    assert state is not None and state["rate"] == 0.5
    assert trainer.optimizer_groups["student"].optimizer.param_groups[0]["lr"] == pytest.approx(0.5 * 1e-3 * rates[6])


def test_a_rolled_back_stage_that_is_killed_resumes_at_the_lower_rate(case: Case) -> None:
    trainer = case.trainer()
    trainer.rate = 0.25
    trainer.run(*after(2))
    assert case.trainer().rate == 0.25


def test_where_nothing_was_healthy_there_is_nothing_to_go_back_to(case: Case) -> None:
    trainer = watched(case, {"contrast": [100.0, 200.0], "on_trigger": "roll_back"})
    with pytest.raises(ValueError, match="there is no healthy checkpoint to go back to: change its objective or lr"):
        trainer.run(ignore, Signals())


def test_a_discriminator_that_has_won_stops_the_run(case: Case) -> None:
    anything = dict.fromkeys(("motion", "contrast", "colour", "diversity"))
    trainer = watched(case, anything, "adversarial")
    assert isinstance(trainer.objective, AdversarialObjective) and not trainer.objective.watched()
    scores, objective = trainer.objective.scores, cast("Any", trainer.objective)
    loss = objective.loss

    def certain(*turn: Any) -> dict[str, torch.Tensor]:
        figures = loss(*turn)
        scores.averages[0], scores.weights[:] = 1.0, 1.0
        return figures

    objective.loss = certain
    with pytest.raises(
        ValueError, match="its discriminator is right in 1 of pairs at every transition: the student never fools it"
    ):
        trainer.run(ignore, Signals())


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_memory_that_runs_out_is_one_sentence_and_the_steps_are_kept(case: Case, error: Exception) -> None:
    trainer = case.trainer()
    objective: Any = trainer.objective
    loss = objective.loss

    def full(*turn: Any) -> dict[str, torch.Tensor]:
        if trainer.step == 3:
            raise error
        return loss(*turn)

    objective.loss = full
    with pytest.raises(MemoryRanOut, match=r"^stage s: memory ran out in step 4; its first 3 steps are kept$"):
        trainer.run(ignore, Signals())
    assert case.trainer().step == 3


def test_the_watch_of_a_run_may_change_when_it_is_resumed(tmp_path: Path) -> None:
    from fewstep.distill.recipe import read_recipe
    from fewstep.distill.run_folder import RunFolder

    folder = RunFolder(tmp_path / "run")
    folder.begin(read_recipe("shapes-4step"))
    assert folder.check(read_recipe("shapes-4step", ["watch.motion=null", "watch.on_trigger=warn"])) == []
