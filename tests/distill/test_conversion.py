"""Students that predict eps are converted before a stage of one step: when, to what, and what is left of them."""

from __future__ import annotations

import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fewstep.distill.calls import Calls
from fewstep.distill.conversion import ConversionObjective, announcement, conversion_stage
from fewstep.distill.conversion_plan import conversion_of, planned_conversions
from fewstep.distill.draws import Draws
from fewstep.distill.estimate import conversion_calls, relay_work, stage_calls, total_calls
from fewstep.distill.objectives.base import Batch
from fewstep.distill.objectives.supervision import Supervision
from fewstep.distill.recipe import Recipe, read_recipe
from fewstep.distill.settings import Conversion, Stage
from fewstep.student.contract import SamplingContract
from fewstep.student.denoiser import Roles, Train, student_network
from fewstep.teacher.base import Teacher
from fewstep.teacher.load_teacher import load_teacher
from fewstep.teacher.predictions import record_prediction
from fewstep.teacher.schedule import Prediction
from tests.distill import eps_world

DEFAULT = Conversion()


def stage(steps: int, **settings: Any) -> Stage:
    values = {"name": f"{steps}-step", "teacher_steps": 4, "student_steps": steps, "objective": {"kind": "progressive"}}
    return Stage.model_validate(values | settings)


@pytest.mark.parametrize(
    ("steps", "convert", "start", "expected"),
    [
        (1, None, "eps", DEFAULT),
        (2, None, "eps", None),
        (1, None, "v", None),
        (1, None, "flow", None),
        (1, False, "flow", None),
        (2, False, "eps", None),
        (2, {"to": "x0"}, "eps", Conversion(to="x0")),
        (1, {"steps": 7}, "eps", Conversion(steps=7)),
        (1, {"to": "v"}, "v", None),
        (1, {"to": "x0"}, "v", "stage 1-step asks to convert its student to x0, but it starts as predicting v"),
        (4, {}, "flow", "stage 4-step asks to convert its student to v, but it starts as predicting flow"),
        (1, False, "eps", "stage 1-step takes one step with a student that predicts eps.* leave convert out"),
    ],
)
def test_when_a_stage_converts(steps: int, convert: Any, start: Prediction, expected: Conversion | str | None) -> None:
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected):
            conversion_of(stage(steps, convert=convert), start)
    else:
        assert conversion_of(stage(steps, convert=convert), start) == expected


def recipe(*stages: Stage, **settings: Any) -> Recipe:
    data = {"kind": "dataset", "folder": "."}
    return Recipe.model_validate({"data": data, "stages": [*stages], **settings})


def test_a_relay_converts_once_per_line_of_students() -> None:
    line = recipe(stage(4), stage(1), stage(1, name="on"), stage(1, name="other", start="4-step"))
    assert planned_conversions(line, "eps") == [None, DEFAULT, None, DEFAULT]
    assert planned_conversions(line, "flow") == [None] * 4


def test_what_a_conversion_costs_is_counted(tiny_animatediff_folder: Path) -> None:
    schedule = load_teacher(tiny_animatediff_folder, device="cpu").schedule
    line = recipe(stage(2, batch=4), stage(1, batch=4, convert={"steps": 5}))
    calls = conversion_calls(line.stages[1], Conversion(steps=5))
    assert calls == Calls({"supervisor": 20, "student": 20}, {"student": 20})
    assert total_calls(line, schedule) == calls + sum(
        (stage_calls(s, schedule) for s in line.stages[1:]), stage_calls(line.stages[0], schedule)
    )
    names = [work.name for work in relay_work(line, schedule, lambda name: name == "2-step")]
    assert names == ["1-step.conversion", "1-step"]


def test_the_sentences() -> None:
    assert announcement(stage(1), DEFAULT) == (
        "1-step: its student starts as predicting eps, which cannot be sampled in one step: first converting it to v "
        "by 200 steps of regression on its own x0"
    )
    assert "predicting eps: first converting it to x0 by 3" in announcement(stage(2), Conversion(to="x0", steps=3))


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("true", "stages.0.convert must hold settings of its own, indented below it"),
        ("{to: eps}", "stages.0.convert.to is 'eps': use 'v' or 'x0'"),
        ("{lr: 0}", "stages.0.convert.lr is 0: input should be greater than 0"),
        ("{step: 1}", "stages.0.convert.step is not a setting: did you mean steps?"),
    ],
)
def test_a_mistake_is_one_sentence(value: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        "data: {kind: dataset, folder: .}\nstages:\n"
        f"- {{teacher_steps: 2, student_steps: 1, objective: {{kind: progressive}}, convert: {value}}}\n"
    )
    with pytest.raises(ValueError, match=f"r.yaml: {re.escape(sentence)}$"):
        read_recipe(path)


def test_it_can_be_switched_off_and_reads_back(tmp_path: Path) -> None:
    path, line = tmp_path / "r.yaml", recipe(stage(2, convert={"to": "x0"}), stage(1, convert=False))
    line.save(path)
    assert [one.convert for one in read_recipe(path).stages] == [Conversion(to="x0"), False]


# --- what it does


@pytest.fixture(scope="module")
def teacher(tiny_animatediff_folder: Path) -> Teacher:
    """One that predicts eps; its head is small, as a trained one's."""
    loaded = load_teacher(tiny_animatediff_folder, device="cpu")
    head: Any = loaded.network_at(1.0)
    head.conv_out.weight.mul_(0.2)
    head.conv_out.bias.zero_()
    return loaded


def batch(teacher: Teacher, seed: int, size: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    x0 = torch.randn(size, *teacher.latent_shape(2, 16, 16), generator=generator)
    return Batch(x0, teacher.conditions([f"prompt {i}" for i in range(size)]), Draws.seeded(seed, size), 0.0)


def loss(teacher: Teacher, roles: Roles, seed: int, **settings: float) -> Tensor:
    objective = ConversionObjective(roles.backbone, Supervision(2, 1), **settings)
    return objective.loss("student", batch(teacher, seed), roles, 0)["loss"]


@pytest.mark.parametrize(
    ("train", "to"),
    # a relay of tests/commands/test_run_converts.py trains whole networks to predict v
    [("lora", "x0"), *(pytest.param(train, "v", marks=pytest.mark.slow) for train in ("full", "lora"))],
)
def test_the_student_learns_and_its_original_stays(teacher: Teacher, train: Train, to: Prediction) -> None:
    torch.manual_seed(0)
    roles = Roles(teacher, train, rank=8, alpha=8)
    record_prediction(roles.student, to)
    optimizer = torch.optim.Adam(roles.parameters.values(), lr=3e-3)
    own = {name: tensor.clone() for name, tensor in roles.backbone.state_dict().items()}
    losses = []
    for _ in range(6):  # of the same clips and noise
        now = loss(teacher, roles, 0)
        now.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(now.detach()))
    assert losses[-1] < min(losses[:-1])
    assert all(torch.equal(tensor, own[name]) for name, tensor in roles.backbone.state_dict().items())


@pytest.mark.slow
def test_a_converted_student_says_the_same_where_eps_is_good_and_more_where_it_is_not() -> None:
    """LOG.md has a teacher of more training, and what the stage after it makes of it."""
    torch.manual_seed(0)
    world = eps_world.SmallTeacher()
    world.train(500)
    converted, test = eps_world.convert(world, world.network, 150), eps_world.batch(512, 10**6)
    noise, variance = test.noise(), float(test.x0.var())
    for t, furthest in ((0.1, 0.05), (0.3, 0.15), (0.5, 0.2)):
        own, new = (eps_world.x0_of(world, network, t, test, noise) for network in (world.network, converted))
        assert eps_world.mse(new, own) < furthest * variance, t
    own, new = (eps_world.x0_of(world, network, 1.0, test, noise) for network in (world.network, converted))
    assert eps_world.mse(own, test.x0) > 2 * variance and eps_world.mse(new, test.x0) < 1.5 * variance


def test_an_error_of_eps_is_not_learned_as_often_as_the_original_amplifies_it(teacher: Teacher) -> None:
    """At t = 1 the target of a student that is asked there alone is the original's x0 where eps counts 8 times."""
    roles, seen = Roles(teacher), dict[str, Tensor]()
    record_prediction(roles.student, "x0")
    schedule, b = teacher.schedule, batch(teacher, 0)
    arguments: list[Tensor] = []

    class Watched(ConversionObjective):
        def _times(self, *_: Any) -> Tensor:
            return torch.ones(4, dtype=torch.float64)

    usual = teacher.denoise

    def denoise(z: Tensor, t: Tensor, conditions: Any, network: Any) -> Tensor:
        arguments.append(t)
        seen[f"z{len(arguments)}"] = z
        return usual(z, t, conditions, network=network)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teacher, "denoise", denoise)
        Watched(roles.backbone, Supervision(2, 1)).loss("student", b, roles, 0)
    ratio = schedule.sigma(arguments[0]) / schedule.alpha(arguments[0])
    torch.testing.assert_close(ratio, torch.full((4,), 8.0, dtype=torch.float64))
    assert bool((arguments[1] == 1).all()) and torch.equal(seen["z1"], seen["z2"])
    assert not torch.equal(seen["z2"], schedule.add_noise(b.x0, b.noise(), 1.0))  # noise alone


def test_a_conversion_is_a_stage_with_its_own_name_and_rates() -> None:
    before = stage(1, ema=0.9, batch=2, gate={"metric": "endpoint_error", "at_most": 1}, convert={"lr": 1e-3})
    made = conversion_stage(before, Conversion(lr=1e-3, steps=9))
    assert (made.name, made.steps, made.lr, made.ema, made.batch, made.gate) == (
        "1-step.conversion",
        9,
        1e-3,
        0,
        2,
        None,
    )


@pytest.mark.parametrize("train", ["full", pytest.param("lora", marks=pytest.mark.slow)])
def test_a_stages_folder_brings_the_prediction_back(teacher: Teacher, train: Train, tmp_path: Path) -> None:
    roles = Roles(teacher, train, rank=2)
    record_prediction(roles.student, "v")
    roles.save(tmp_path)
    size = teacher.default_size()
    assert size is not None
    SamplingContract.of(teacher, "tiny", 1, train, size, 1.0, "", 8.0, "v").write(tmp_path)
    z, conditions = teacher.noise([0], teacher.latent_shape(2, 16, 16)), teacher.conditions(["a ring"])
    own = teacher.denoise(z, 1.0, conditions, network=roles.student).detach()
    for kind in ("full", "lora"):
        later = Roles(teacher, kind, start=tmp_path, supervisor=tmp_path, rank=2)
        for network in (later.student, later.supervisor, deepcopy(later.student), student_network(teacher, tmp_path)):
            assert teacher.schedule_of(network).prediction == "v"
            torch.testing.assert_close(teacher.denoise(z, 1.0, conditions, network=network).detach(), own)
    assert teacher.schedule_of(later.backbone).prediction == "eps"
