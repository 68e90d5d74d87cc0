"""Which rows are compared with which, what a comparison says, and means over seeds, without a network."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fewstep.eval.shapes.relay_clips import Judged
from fewstep.eval.shapes.relay_comparisons import baseline_of, minus_baseline, over_teacher, teacher_row_of
from fewstep.eval.shapes.relay_seeds import rows_over_seeds
from fewstep.teacher.shapes.world import ATTRIBUTES

N = 40
SHARED = {"model": "student", "steps": 1, "guidance": 7.0, "recipe_sha256": "recipe"}


def row(stage: str, phase: str, run: str = "a", **other: Any) -> dict[str, Any]:
    names = {"phase": phase, "stage": stage, "run": run, "weights_sha256": f"{run}/{stage}", "recipe_seed": ord(run)}
    return SHARED | names | other


def teacher(steps: int, guidance: float = 7.0) -> dict[str, Any]:
    return {"model": "teacher", "steps": steps, "guidance": guidance}


def clips(seed: int, shift: float = 0.0, wrong: int = 0, motion: float = 1.0) -> Judged:
    noise = torch.randn(N, 5, generator=torch.Generator().manual_seed(seed))
    shared = torch.randn(N, 5, generator=torch.Generator().manual_seed(99))
    agreements = torch.ones(N, len(ATTRIBUTES), dtype=torch.int8)
    agreements[:wrong, 0], agreements[:, 1] = 0, -1
    reference = torch.randn(200, 5, generator=torch.Generator().manual_seed(98))
    features, apart = shared + 0.1 * noise + shift, 2 + torch.arange(4.0)
    return Judged(features, agreements, torch.full((N,), motion), reference, apart)


MSE, ARM, OTHER_ARM = row("1-mse", "mse"), row("arm", "relaxed"), row("other-arm", "conditional")
ROWS = [{"model": "real"}, teacher(50), teacher(1), teacher(50, 3.0), MSE, row("longer-mse", "mse"), ARM, OTHER_ARM]


def test_an_arm_is_compared_with_the_mse_row_that_was_trained_for_about_as_long() -> None:
    short, long = row("short", "mse", train_seconds=100.0), row("long", "mse", train_seconds=900.0)
    unknown = row("unknown", "mse")
    for seconds, expected in ((120.0, short), (490.0, short), (510.0, long), (2000.0, long)):
        arm = row("arm", "relaxed", train_seconds=seconds)
        assert baseline_of(arm, [short, long]) is expected and baseline_of(arm, [long, short]) is expected
    assert baseline_of(row("arm", "relaxed"), [short, long]) is short
    assert baseline_of(row("arm", "relaxed", train_seconds=900.0), [unknown]) is unknown


def test_every_arm_is_held_against_the_first_mse_row_alike_of_its_own_run() -> None:
    own, elsewhere = row("b-mse", "mse", "b"), row("arm", "relaxed", "c")
    rows = [*ROWS, own, elsewhere]
    assert baseline_of(ARM, rows) is MSE and baseline_of(OTHER_ARM, rows) is MSE
    assert baseline_of(row("arm", "relaxed", "b"), rows) is own
    assert baseline_of(elsewhere, rows) is MSE  # its run has none
    for alone in (MSE, teacher(1), {"model": "real"}, ARM | {"steps": 2}, ARM | {"guidance": 3.0}):
        assert baseline_of(alone, rows) is None


def test_every_row_is_held_against_the_50_step_teacher_of_its_guidance() -> None:
    for each in (ARM, MSE, teacher(1)):
        teacher_row = teacher_row_of(each, ROWS)
        assert teacher_row is not None and (teacher_row["steps"], teacher_row["guidance"]) == (50, 7.0)
    for alone in (teacher(50), teacher(50, 3.0), {"model": "real"}, ARM | {"guidance": 2.0}):
        assert teacher_row_of(alone, ROWS) is None


def test_a_delta_says_what_it_is_to_and_accuracy_is_in_points() -> None:
    own, other = clips(1, 0.2, wrong=8), clips(2, wrong=4)
    figures_of_row = minus_baseline(ARM, own, MSE, other)
    assert figures_of_row["delta"] == pytest.approx(own.distance.value - other.distance.value, abs=1e-3)
    assert figures_of_row["delta_low"] < figures_of_row["delta"] < figures_of_row["delta_high"]
    assert (
        figures_of_row["accuracy_delta"] == -10
        and figures_of_row["accuracy_delta_low"] < -10 < figures_of_row["accuracy_delta_high"]
    )
    assert (figures_of_row["delta_to"], figures_of_row["delta_to_sha256"]) == ("1-mse", "a/1-mse")
    assert minus_baseline(ARM | {"run": "c"}, own, MSE, other)["delta_to"] == "a: 1-mse"


def test_multiples_of_the_teacher_leave_out_what_it_has_nothing_of() -> None:
    own = clips(1, motion=0.5)
    figures_of_row = over_teacher(own, clips(2))
    assert (figures_of_row["motion_to_teacher"], figures_of_row["diversity"]) == (0.5, 1)
    assert figures_of_row["ratio_low"] < figures_of_row["ratio"] < figures_of_row["ratio_high"]
    still = over_teacher(own, clips(2, motion=0.0))
    assert still["motion_to_teacher"] is None and still["ratio"] == figures_of_row["ratio"]


def test_means_over_seeds_are_of_the_same_recipe_only() -> None:
    rows = [MSE, ARM, row("1-mse", "mse", "b"), row("arm", "relaxed", "b"), OTHER_ARM]
    rows += [row("other-arm", "conditional", "b", recipe_sha256="another")]
    judged = {each["weights_sha256"]: clips(i, 0.1 * i, wrong=i) for i, each in enumerate(rows)}
    means = rows_over_seeds(rows, lambda each: judged[each["weights_sha256"]])
    assert [(each["stage"], each["num_seeds"]) for each in means] == [("1-mse", 2), ("arm", 2)]
    deltas = [minus_baseline(ARM, judged[f"{run}/arm"], MSE, judged[f"{run}/1-mse"]) for run in "ab"]
    assert means[1]["delta"] == pytest.approx(sum(each["delta"] for each in deltas) / 2, abs=1e-3)
    assert means[1]["accuracy_delta"] == -2.5 and "delta" not in means[0]

    def gone(each: Any) -> None:
        return None

    assert rows_over_seeds(rows, gone) == [] and rows_over_seeds(rows, gone, means) == means
    assert rows_over_seeds(rows[:2] + rows[4:], lambda each: judged[each["weights_sha256"]]) == []
