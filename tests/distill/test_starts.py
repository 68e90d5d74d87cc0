"""At which times a student is trained, sampled and asked as a supervisor, and whose guidance is inside of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fewstep.distill.objectives.adversarial_settings import Adversarial
from fewstep.distill.recipe import read_recipe
from fewstep.teacher.guidance import Guidance
from tests.distill.test_recipe import RELAY, refused


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A relay of four stages, next to its prompts."""
    (tmp_path / "prompts.txt").write_text("a red ring\n")
    (tmp_path / "relay.yaml").write_text(RELAY)
    return tmp_path / "relay.yaml"


@pytest.mark.parametrize(
    ("overrides", "arguments"),
    [
        (["stages.3.starts=[0.1, 1]"], "would be evaluated at 0.1"),
        (["stages.3.teacher_steps=8", "stages.3.teacher=8-step", "stages.3.starts=[0.3]"], "8-step, which supervises"),
        (["stages.3.starts=[0.5, 0.375]"], "would be evaluated at 0.375"),
    ],
)
def test_starts_that_a_student_has_no_node_for_are_refused(path: Path, overrides: list[str], arguments: str) -> None:
    """The supervisor was not trained there, as at sampling."""
    sentence = refused(path, *overrides)
    assert arguments in sentence and "was not trained at other nodes" in sentence and "start at 1, 0." in sentence


def test_a_student_is_trained_at_every_node_that_it_is_sampled_at(path: Path) -> None:
    """In its own stage, or in the one of the same step count that it starts from."""
    assert refused(path, "stages.3.starts=[0.5]") == (
        "stages.3.starts: 2-step will be sampled at 1, 0.5, but is not trained at 1: add it to starts"
    )
    assert "4-step will be sampled at 1, 0.75, 0.5, 0.25, but is not trained at 0.75, 0.5, 0.25: add them" in refused(
        path, "stages.1.starts=[1]"
    )
    recipe = read_recipe(path, ["stages.2.starts=[1]"])  # the rest was trained before, in 4-step
    assert recipe.stages[2].starts == (1.0,)


@pytest.mark.parametrize("weight", [0.0, 0.5])
@pytest.mark.parametrize(("real", "judges"), [("clips", "endpoint"), ("clips_at_data", "sample")])
def test_guidance_is_that_of_the_start_where_nobody_teaches(path: Path, weight: float, real: str, judges: str) -> None:
    objective = {"real": real, "judges": judges, "conditional": "false"}
    from_clips = [f"stages.2.objective.{name}={value}" for name, value in objective.items()]
    recipe = read_recipe(path, [*from_clips, f"stages.2.objective.anchor.weight={weight}"])
    assert recipe.guidance_in(2) == Guidance(5) and recipe.compared_guidance(2) == Guidance()
    of_base = [*from_clips, "stages.2.teacher=base", f"stages.2.objective.anchor.weight={weight}"]
    if weight:
        assert refused(path, *of_base).startswith("stages.2.guidance is 1, but its student starts with 5 baked in")
        return
    alone = read_recipe(
        path, of_base
    )  # the base teacher teaches nothing: the student is compared with it as guided as itself
    assert alone.guidance_in(2) == alone.compared_guidance(2) == Guidance(5)
    assert refused(path, *of_base, "stages.2.guidance=3") == (
        "stages.2.guidance is 3, but its objective learns from clips alone, so guidance would reach nothing: leave it "
        "out, or set objective.anchor.weight above 0"
    )


@pytest.mark.parametrize(
    ("judges", "weight", "student_steps", "learns"),
    [
        ("endpoint", 0.0, 1, False), ("endpoint", 0.0, 2, True), ("clip", 0.0, 1, False), ("endpoint", 1.0, 1, True),
        ("sample", 0.0, 2, False), ("sample", 1.0, 2, True),
    ],
)  # fmt: skip
def test_where_every_step_ends_in_data_clips_at_data_need_no_supervisor(
    judges: str, weight: float, student_steps: int, learns: bool
) -> None:
    settings = {"real": "clips_at_data", "judges": judges, "conditional": False, "anchor": {"weight": weight}}
    assert Adversarial.model_validate(settings).learns_from_supervisor(student_steps) is learns


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("through=last", "through: last is about the steps of a sample, and judges is endpoint: leave through out"),
        ("discriminator_steps=4", "balance.most is 3 and discriminator_steps is 4: a discriminator that lags behind"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(path: Path, setting: str, sentence: str) -> None:
    assert sentence in refused(path, f"stages.3.objective.{setting}", "stages.3.objective.balance={low: 0.6}")


@pytest.mark.parametrize(
    "overrides",
    [
        ["stages.3.starts=[0.25, 0.5, 0.75, 1]"],  # the nodes of its four-step supervisor
        ["stages.3.teacher=base", "stages.3.starts=[0.1, 0.5, 1]", "stages.3.guidance=5"],
        [
            "stages.2.starts=[0.125, 0.25, 0.5, 0.75, 1]",
            "stages.3.starts=[0.125, 0.5, 1]",
        ],  # taught by starts of its own
    ],
)
def test_starts_are_free_where_the_supervisor_knows_them(path: Path, overrides: list[str]) -> None:
    assert read_recipe(path, overrides).stages[3].starts
