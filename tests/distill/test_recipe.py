"""Recipes: what they may say, how stages find their teachers, and one clear sentence for each mistake."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from fewstep.distill.objectives.adversarial_settings import Adversarial
from fewstep.distill.objectives.progressive import Progressive
from fewstep.distill.recipe import DatasetData, Recipe, RolloutData, Stage, VideoData, kept_recipe, read_recipe
from fewstep.teacher.guidance import Guidance

RELAY = """
data: {kind: rollouts, prompts: prompts.txt}
stages:
  - {teacher_steps: 32, student_steps: 8, guidance: 5, lr: 2e-4, objective: &mse {kind: progressive}}
  - {teacher_steps: 8, student_steps: 4, objective: *mse}
  - {teacher_steps: 8, student_steps: 4, objective: {kind: adversarial}}
  - {teacher_steps: 4, student_steps: 2, objective: {kind: adversarial, conditional: false}}
"""
NAMES = ["8-step", "4-step", "4-step-adversarial", "2-step"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A relay of four stages, next to its prompts."""
    (tmp_path / "prompts.txt").write_text("a red ring\n")
    (tmp_path / "relay.yaml").write_text(RELAY)
    return tmp_path / "relay.yaml"


def refused(path: Path, *overrides: str) -> str:
    """What the recipe with these overrides is refused for."""
    with pytest.raises(ValueError) as error:
        read_recipe(path, overrides)
    sentence = str(error.value)
    assert "\n" not in sentence
    return sentence.removeprefix(f"{path}: ")


def stage(**changes: Any) -> Stage:
    return Stage(**{"teacher_steps": 8, "student_steps": 4, "objective": Progressive(kind="progressive"), **changes})


# --- reading


def test_what_is_unsaid_has_the_documented_default(path: Path) -> None:
    recipe = read_recipe(path)
    assert (recipe.teacher, recipe.seed, recipe.precision, recipe.student.train) == ("shapes", 0, "auto", "full")
    first = recipe.stages[0]
    assert (first.lr, first.batch, first.betas, first.cooldown) == (2e-4, 16, (0.9, 0.999), 0.3)
    assert (first.guidance, recipe.stages[1].guidance) == (Guidance(5), Guidance())
    relaxed = recipe.stages[3].objective
    assert isinstance(relaxed, Adversarial) and not relaxed.conditional and relaxed.betas == (0.0, 0.99)


@pytest.mark.parametrize("number", ["2e-4", "2E-4", "2.e-4", "0.0002", ".2e-3", "+2e-4"])
def test_numbers_are_read_as_people_write_them(path: Path, number: str) -> None:
    path.write_text(RELAY.replace("2e-4", number))
    assert read_recipe(path, [f"stages.1.lr={number}"]).stages[1].lr == read_recipe(path).stages[0].lr == 2e-4


def test_a_prompt_that_looks_like_a_number_stays_text_in_quotes(path: Path) -> None:
    assert read_recipe(path, ["logging.prompts=['2e-4', none]"]).logging.prompts == ("2e-4", "none")
    assert refused(path, "logging.prompts=[2e-4]") == "logging.prompts.0 must be text: put it in quotes"


@pytest.mark.parametrize(
    "overrides", [(), ("size={num_frames: 9, height: 16, width: 16}", "stages.3.starts=[0.25, 0.5, 1]")]
)
def test_a_saved_recipe_reads_back_equal(path: Path, tmp_path: Path, overrides: tuple[str, ...]) -> None:
    recipe = read_recipe(path, overrides)
    saved = tmp_path / "elsewhere" / "recipe.yaml"
    saved.parent.mkdir()
    recipe.save(saved)
    assert read_recipe(saved) == recipe
    assert saved.read_text() == recipe.dump_yaml() == read_recipe(saved).dump_yaml()
    assert "\nstages:\n" in recipe.dump_yaml()


def test_files_are_found_beside_the_recipe_then_here_then_among_the_packaged(
    path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path_factory.mktemp("here")
    monkeypatch.chdir(here)
    for name in ("prompts.txt", "mine.txt"):
        (here / name).write_text("a blue cross\n")

    def prompts(*overrides: str) -> Path:
        data = read_recipe(path, overrides).data
        assert isinstance(data, RolloutData)
        return data.prompts

    assert prompts() == path.parent / "prompts.txt"
    assert prompts("data.prompts=mine.txt") == here / "mine.txt"
    assert prompts("data.prompts=shapes-prompts.txt").parent.name == "recipes"
    assert prompts(f"data.prompts={here / 'prompts.txt'}") == here / "prompts.txt"
    assert "data.prompts: there is no none.txt in" in refused(path, "data.prompts=none.txt")
    assert refused(path, "data.prompts=/none.txt").startswith("data.prompts: there is no /none.txt: name one")


def test_data_has_three_kinds(path: Path) -> None:
    folder = path.parent
    videos = read_recipe(path, [f"data={{kind: videos, folder: {folder}, batch: 2}}"]).data
    assert isinstance(videos, VideoData) and videos.captions is None and videos.folder == folder
    dataset = read_recipe(path, ["data={kind: dataset, folder: .}"]).data
    assert isinstance(dataset, DatasetData) and dataset.folder == folder


def test_recipes_can_be_written_in_python() -> None:
    data = RolloutData(kind="rollouts", prompts=Path("prompts.txt"))
    recipe = Recipe(data=data, stages=(stage(), stage(objective=Adversarial(kind="adversarial")), stage()))
    assert [s.name for s in recipe.stages] == ["4-step", "4-step-adversarial", "4-step-progressive"]


# --- overrides


def test_overrides_reach_stages_by_index_and_by_name(path: Path) -> None:
    recipe = read_recipe(
        path, ["stages.1.lr=1e-5", "stages.4-step-adversarial.objective.r1=2", "stages.1.betas=[0, 0.9]"]
    )
    assert recipe.stages[1].lr == 1e-5 and recipe.stages[1].betas == (0, 0.9)
    adversarial = recipe.stages[2].objective
    assert isinstance(adversarial, Adversarial) and adversarial.r1 == 2
    assert read_recipe(path, ["stages.0.name=first", "stages.first.steps=3"]).stages[0].steps == 3


def test_overrides_reach_what_the_file_leaves_unsaid(path: Path) -> None:
    recipe = read_recipe(path, ["logging.every=7", "student.lora.rank=4", "stages.0.train=lora", "device=cpu"])
    assert (recipe.logging.every, recipe.student.lora.rank, recipe.device) == (7, 4, "cpu")
    assert (recipe.train_of(0), recipe.train_of(1)) == ("lora", "full")


def test_an_override_leaves_a_part_that_shares_an_anchor_alone(path: Path) -> None:
    first, second = (s.objective for s in read_recipe(path, ["stages.1.objective.loss=huber"]).stages[:2])
    assert first == Progressive(loss="mse") and second == Progressive(loss="huber")


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("stages.4.lr=1", "stages.4 does not exist: use one of 0, 1, 2, 3, 8-step, 4-step, 4-step-adversarial, 2-step"),
        ("stages.5-step.lr=1", "stages.5-step does not exist: use one of 0, 1, 2, 3, 8-step"),
        ("stages.0.lr.fast=1", "stages.0.lr is 0.0002 and has no settings of its own"),
        ("stages.0.lrr=1", "stages.0.lrr is not a setting: did you mean lr?"),
        ("logging.evry=1", "logging.evry is not a setting: did you mean every?"),
        ("lr", "'lr' sets nothing: write it as"),
        ("stages..lr=1", "'stages..lr=1' sets nothing: write it as"),
        ("device=[", "'device=[': the value is not YAML"),
    ],
)
def test_an_override_that_leads_nowhere_is_told(path: Path, override: str, sentence: str) -> None:
    assert refused(path, override).startswith(sentence)


# --- mistakes in the file


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        (
            "stages.2.objective.conditionl=true",
            "stages.2.objective.conditionl is not a setting: did you mean conditional?",
        ),
        ("wandb=true", "wandb is not a setting: use teacher, seed, out,"),
        (
            "stages.0.objective.kind=progresive",
            "stages.0.objective.kind is 'progresive': use adversarial or progressive",
        ),
        (
            "stages.2.objective.noise={low: 0}",
            "stages.2.objective.noise.kind is missing: use levels, logit_normal or uniform",
        ),
        ("stages.2.objective.noise={kind: levels, levls: [1]}", "stages.2.objective.noise.levls is not a setting: did"),
        ("data={kind: dataset}", "data.folder is missing, and has no default"),
        ("data.kind=movies", "data.kind is 'movies': use dataset, rollouts or videos"),
        (
            "logging.tracker=tensorbord",
            "logging.tracker is 'tensorbord': use 'tensorboard', 'wandb', 'trackio' or 'none'",
        ),
        ("precision=float16", "precision: FP16 overflows and adversarial training diverges in it: use bfloat16"),
        ("precision=bf16", "precision is 'bf16': use 'auto', 'float32' or 'bfloat16'"),
        ("stages.0.lr=fast", "stages.0.lr is 'fast': input should be a valid number"),
        ("stages.0.lr=.nan", "stages.0.lr is nan: input should be"),
        ("stages.0.steps=0", "stages.0.steps is 0: input should be greater than 0"),
        ("stages.0.name=8", "stages.0.name must be text: put it in quotes"),
        ("stages.0.name='8'", "stages.0.name: '8' cannot name a stage"),
        ("stages.0.name=a/b", "stages.0.name: 'a/b' cannot name a stage"),
        ("stages.0.name=[a]", "stages.0.name must be text"),
        ("stages.0.betas=0.9", "stages.0.betas must be a list"),
        ("stages.0.betas=[0.9]", "stages.0.betas.1 is missing"),
        ("stages.0.starts=[0, 1]", "stages.0.starts.0 is 0: input should be greater than 0"),
        ("stages.0.starts=[1.5]", "stages.0.starts.0 is 1.5: input should be less than or equal to 1"),
        ("stages.0.starts=[]", "stages.0.starts has too few entries"),
        ("stages.0.student_steps=5", "stages.0: 5 student steps do not divide 32 teacher steps"),
        ("stages.0.accumulate=3", "stages.0: a batch of 16 clips cannot be split into 3 equal micro-batches"),
        ("student=lora", "student must hold settings of its own"),
        ("size.height=64", "size.num_frames is missing, and has no default; size.width is missing"),
        ("stages=3", "stages must be a list"),
        ("stages=[]", "stages is empty: a relay has at least one"),
        ("stages.0={}", "stages.0.teacher_steps is missing, and has no default; stages.0.student_steps is missing"),
        ("stages.0.gate={metric: endpoint_error}", "stages.0.gate: a gate has exactly one limit"),
        ("stages.0.gate={metric: endpoint_error, at_most: 1, at_least: 0}", "stages.0.gate: a gate has exactly one"),
    ],
)
def test_a_mistake_is_told_in_one_sentence(path: Path, override: str, sentence: str) -> None:
    assert refused(path, override).startswith(sentence)


def test_all_mistakes_are_told_at_once(path: Path) -> None:
    facts = refused(path, "seed=-1", "stages.0.lr=0", "stages.3.objective.weigth=1").split("; ")
    assert [sentence.split()[0] for sentence in facts] == ["seed", "stages.0.lr", "stages.3.objective.weigth"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "world: shapes\nseed: 1\n",
            "is the recipe of a teacher, not of a distillation: follow it with `fewstep teacher",
        ),
        ("", "holds no settings"),
        ("- 1\n", "holds no settings"),
        ("stages: [", "is not YAML"),
        ("seed: 1\nseed: 2\n", "is not YAML: seed is said twice"),
    ],
)
def test_what_is_no_recipe_is_told(path: Path, text: str, sentence: str) -> None:
    path.write_text(text)
    assert refused(path).startswith(f"{path} {sentence}")


# --- the relay


def test_each_stage_finds_its_teacher_and_goes_on_with_the_student_before(path: Path) -> None:
    recipe = read_recipe(path)
    assert [s.name for s in recipe.stages] == NAMES
    assert [recipe.teacher_of(i) for i in range(4)] == [None, 0, 0, 2]  # of two 4-step students the last one
    assert [recipe.start_of(i) for i in range(4)] == [None, 0, 1, 2]
    assert [s.substeps for s in recipe.stages] == [4, 2, 2, 2]


def test_a_stage_may_start_elsewhere(path: Path) -> None:
    assert read_recipe(path, [f"stages.3.start={NAMES[0]}"]).start_of(3) == 0
    assert read_recipe(path, ["stages.3.start=base"]).start_of(3) is None
    assert f"stages.1.start: {NAMES[2]} is not an earlier stage" in refused(path, f"stages.1.start={NAMES[2]}")


def test_a_line_of_adapters_ends_in_an_adapter(path: Path) -> None:
    mixed = ["student.train=lora", "stages.1.train=full"]
    assert [read_recipe(path, mixed).keeps_adapters(i) for i in range(4)] == [True, False, False, False]
    assert read_recipe(path, [*mixed, f"stages.2.start={NAMES[0]}"]).keeps_adapters(2)


def test_a_stage_may_name_its_teacher(path: Path) -> None:
    recipe = read_recipe(path, ["stages.3.teacher=4-step", "stages.2.teacher=base", "stages.2.guidance=5"])
    assert [recipe.teacher_of(i) for i in range(4)] == [None, 0, None, 1]
    assert read_recipe(path, ["stages.3.teacher_steps=8"]).teacher_of(3) == 0  # skip-level
    alone = ["stages.3.teacher_steps=16", "stages.3.guidance=5"]
    assert read_recipe(path, alone).teacher_of(3) is None  # no student has 16 steps


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("stages.1.teacher=2-step", "stages.1.teacher: 2-step is not an earlier stage; use base or 8-step"),
        ("stages.1.teacher=4-step", "stages.1.teacher: 4-step is not an earlier stage; use base or 8-step"),
        ("stages.3.teacher=8-step", "stages.3.teacher: 8-step takes 8 steps, not 4; set teacher_steps to 8"),
        ("stages.1.guidance=5", "stages.1.guidance is 5, but its teacher 8-step is a student with guidance baked in;"),
        ("stages.3.teacher_steps=16", "stages.3.guidance is 1, but its student starts with 5 baked in and learns from"),
        ("stages.2.name=4-step-a-b", None),
        ("stages.2.name=2-step", None),  # then the last stage's default moves out of the way
    ],
)
def test_stages_that_do_not_go_together_are_told(path: Path, override: str, sentence: str | None) -> None:
    if sentence is None:
        assert len({s.name for s in read_recipe(path, [override]).stages}) == 4
    else:
        assert refused(path, override).startswith(sentence)


def test_names_of_stages_are_unique(path: Path) -> None:
    facts = refused(path, "stages.0.name=a", "stages.2.name=a", "stages.3.guidance=2")
    assert re.match(r"stages\.2\.name: a is the name of stages\.0 too; choose another; stages\.3\.guidance is 2", facts)


def test_default_names_count_on(path: Path) -> None:
    values = yaml.safe_load(RELAY)
    values["stages"] += [dict(values["stages"][2]), {**values["stages"][2], "name": "mine"}, dict(values["stages"][2])]
    path.write_text(yaml.safe_dump(values))
    names = [s.name for s in read_recipe(path).stages]
    assert names == [*NAMES, "4-step-adversarial-2", "mine", "4-step-adversarial-3"]


def test_a_stage_has_the_phases_that_tables_name(tmp_path: Path) -> None:
    relay = read_recipe("shapes-relay", [f"data.folder={tmp_path}"])
    phases = {stage.name: relay.phases_of(i) for i, stage in enumerate(relay.stages)}
    assert phases["8-step"] == ("mse",)  # nothing else is made of it
    last = {"4-step": "relaxed", "2-step": "relaxed", "1-step": "conditional"}
    for steps, phase in last.items():
        assert phases[steps] == ("start",)
        assert phases[f"{steps}-{phase}"] == (phase, "final")
        assert phases[f"{steps}-mse"] == ("mse",)


def test_with_another_guidance_inside_what_begins_with_a_student_is_no_part_of_its_line(path: Path) -> None:
    values = yaml.safe_load(RELAY)
    first, second = values["stages"][:2]
    other = {"name": "8-other", "start": "8-step", "teacher": "base", "guidance": "7@0.3-0.93"}
    last = {"name": "4-other", "start": "4-step", "teacher": "8-longer"}
    values["stages"] = [first, second, {**first, **other}, {**first, **other, "name": "8-longer", "start": "8-other"}]
    values["stages"].append({**second, **last})
    path.write_text(yaml.safe_dump(values))
    recipe = read_recipe(path)
    assert [str(recipe.guidance_in(i)) for i in range(5)] == ["5", "5", "7@0.3-0.93", "7@0.3-0.93", "7@0.3-0.93"]
    assert [recipe.phases_of(i) for i in range(5)] == [("mse",), ("mse",), ("start",), ("mse",), ("mse",)]


def test_a_stage_carries_those_that_start_from_it_or_learn_from_it(path: Path) -> None:
    recipe = read_recipe(path, ["stages.2.start=8-step", "stages.3.start=8-step", "stages.3.teacher=4-step"])
    names = [stage.name for stage in recipe.stages]
    assert [names[i] for i in recipe.dependent_stages(["8-step"])] == NAMES
    assert [names[i] for i in recipe.dependent_stages(["4-step"])] == ["4-step", "2-step"]  # taught by it alone
    assert [names[i] for i in recipe.dependent_stages(["4-step-adversarial"])] == ["4-step-adversarial"]
    with pytest.raises(ValueError, match="there is no stage 3-step: the recipe has 8-step, 4-step, "):
        recipe.dependent_stages(["3-step"])


def test_the_recipe_in_a_runs_folder_reads_though_its_files_are_gone(path: Path, tmp_path: Path) -> None:
    recipe = read_recipe(path)
    recipe.save(tmp_path / "recipe.yaml")
    (tmp_path / "prompts.txt").unlink()
    assert kept_recipe(tmp_path) == recipe


@pytest.mark.parametrize("setting", ["real=clips", "real=clips_at_data", "judges=sample"])
def test_clips_ask_for_a_relaxed_discriminator(path: Path, setting: str) -> None:
    facts = refused(path, f"stages.2.objective.{setting}")
    assert "set conditional to false" in facts
    stage = read_recipe(path, [f"stages.2.objective.{setting}", "stages.2.objective.conditional=false"]).stages[2]
    assert isinstance(stage.objective, Adversarial) and not stage.objective.conditional
