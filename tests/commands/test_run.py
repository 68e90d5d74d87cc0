"""`fewstep run` and `fewstep sample RUN`: relays of tiny teachers of every family, stopped, resumed and refused."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml

import fewstep as fewstep_package
from fewstep.distill.stages import Relay
from fewstep.student.contract import read_contract
from fewstep.student.load_student import load_student
from fewstep.teacher.guidance import Guidance
from tests.cases.child_commands import signalled
from tests.commands.typed import fewstep
from tests.forked import Scripts, run_scripts

MAIN = Path(fewstep_package.__file__).parent / "__main__.py"
RECIPE = {
    "seed": 3,
    "precision": "float32",  # of subprocesses, too
    "data": {"kind": "rollouts", "prompts": "prompts.txt", "steps": 4, "guidance": 2.0},
    "logging": {"every": 1, "samples_every": 2, "prompts": ["a ring"]},
    "stages": [
        {
            "teacher_steps": 8, "student_steps": 4, "guidance": 2.0, "steps": 3, "batch": 2,
            "objective": {"kind": "progressive"},
        },
        {
            "teacher_steps": 4, "student_steps": 2, "steps": 2, "batch": 2, "betas": [0, 0.99],
            "objective": {"kind": "adversarial", "warmup": 1, "discriminator": {"width": 8}},
        },
        {
            "teacher_steps": 4, "student_steps": 1, "steps": 2, "batch": 2, "starts": [0.5, 1.0],
            "objective": {
                "kind": "adversarial", "conditional": False, "warmup": 1, "discriminator": {"width": 8},
                "noise": {"kind": "levels"},
            },
        },
    ],
}  # fmt: skip
SHORT = [word for i in range(3) for word in ("--set", f"stages.{i}.steps=1")]


@pytest.fixture
def recipe(tmp_path: Path, tiny_wan_folder: Path) -> Path:
    return write_recipe(tmp_path, tiny_wan_folder)


@pytest.fixture(scope="module")
def begun(tiny_wan_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that is finished, of a step for each stage; not to be changed."""
    folder: Path = tmp_path_factory.mktemp("finished")
    code, output = fewstep("run", write_recipe(folder, tiny_wan_folder), *SHORT)
    assert code == 0, output
    return folder / "run"


@pytest.fixture
def finished(recipe: Path, begun: Path, tmp_path: Path) -> tuple[object, ...]:
    """What goes on with a copy of that run, in `tmp_path`."""
    shutil.copytree(begun, tmp_path / "run")
    return ("run", recipe, *SHORT)


def write_recipe(folder: Path, teacher: Path) -> Path:
    (folder / "prompts.txt").write_text("".join(f"prompt {i}\n" for i in range(4)))
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(RECIPE | {"teacher": str(teacher), "out": str(folder / "run"), "device": "cpu"}))
    return path


def curves(run: Path) -> dict[str, list[dict[str, float]]]:
    return {path.stem: [json.loads(x) for x in path.read_text().splitlines()] for path in (run / "curves").iterdir()}


def weights(run: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in sorted(run.glob("stages/*/*.safetensors"))}


@pytest.mark.parametrize(
    ("family", "train"),
    [
        pytest.param("tiny_wan_folder", "full", marks=pytest.mark.slow),
        ("tiny_wan_folder", "lora"),
        pytest.param("tiny_cogvideox_folder", "full", marks=pytest.mark.slow),
        pytest.param("tiny_animatediff_folder", "lora", marks=pytest.mark.slow),
    ],
)
def test_every_family_runs_the_same_relay(
    request: pytest.FixtureRequest, tmp_path: Path, family: str, train: str
) -> None:
    path = write_recipe(tmp_path, request.getfixturevalue(family))
    short = ["--set", "stages.1-step.convert.steps=2"] if "animatediff" in family else []
    code, output = fewstep("run", path, "--set", f"student.train={train}", "--set", "student.lora.rank=4", *short)
    assert code == 0, output
    run = tmp_path / "run"
    assert [p.name for p in sorted((run / "stages").iterdir())] == ["1-step", "2-step", "4-step"]
    assert {name: len(points) for name, points in curves(run).items() if name == "4-step"} == {"4-step": 4}
    student = load_student(run, steps=2, device="cpu")
    assert student.contract.weights == train and student.contract.baked_guidance == Guidance(2)
    code, output = fewstep("sample", run, "--steps", 2, "--prompt", "a ring", "--out", tmp_path / "clip.mp4")
    assert code == 0 and (tmp_path / "clip.mp4").stat().st_size > 0, output
    result = json.loads((run / "stages" / "4-step" / "result.json").read_text())
    assert result["steps"] == 3 and result["endpoint_error"] > 0 and result["motion"] > 0
    assert (run / "samples" / "4-step" / "step-000002" / "sheet.png").stat().st_size > 0


@pytest.mark.slow  # tests/student/test_denoiser.py has a stage that merges the adapters of the one before
def test_adapters_may_be_merged_and_trained_fully(recipe: Path, tmp_path: Path) -> None:
    """As arXiv 2402.13929 goes on from LoRA."""
    trains = [f"stages.{i}.train={train}" for i, train in enumerate(("lora", "lora", "full"))]
    rates = ["stages.0.lr=0.1", "stages.1.lr=0.1", "stages.2.lr=1e-5"]
    tiny = ["student.lora.rank=4", *(f"stages.{i}.steps=2" for i in range(3)), *trains, *rates]
    code, output = fewstep("run", recipe, *(word for setting in tiny for word in ("--set", setting)))
    assert code == 0, output
    stages = tmp_path / "run" / "stages"
    assert [read_contract(stages / f"{n}-step").weights for n in (4, 2, 1)] == ["lora", "lora", "full"]
    before, after = (load_student(stages / f"{n}-step", device="cpu") for n in (2, 1))
    z = before.teacher.noise([0], before.teacher.latent_shape(*before.contract.size))
    arguments = before.teacher.conditions(["a ring"])
    with torch.no_grad():
        adapted, merged = (s.teacher.denoise(z, 1.0, arguments, network=s.network) for s in (before, after))
        bare = before.teacher.denoise(z, 1.0, arguments)
    # the last stage went a little further from where the adapters had led, which is far from the teacher
    assert 0 < float((merged - adapted).std()) < 0.1 * float((adapted - bare).std())


def test_a_killed_run_ends_as_an_uninterrupted_one(recipe: Path, tmp_path: Path) -> None:
    """SIGKILL of the real command in its second stage, then the same command again; `make soak` has fifty moments."""
    two = ["run", recipe, "--stages", "2-step", "--set", "stages.1.steps=6"]
    assert fewstep(*two, "--set", f"out={tmp_path / 'whole'}")[0] == 0
    command = [*two, "--set", f"out={tmp_path / 'killed'}", "--set", "logging.save_seconds=0.001"]
    curve = tmp_path / "killed" / "curves" / "2-step.jsonl"
    code, output = signalled(tmp_path / "log", signal.SIGKILL, partial(reached, curve, 3), *command)
    assert code == -signal.SIGKILL, output
    assert fewstep(*command)[0] == 0
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole") and weights(tmp_path / "whole")
    assert curves(tmp_path / "killed") == curves(tmp_path / "whole")


def reached(curve: Path, step: int) -> bool:
    """Whether a stage has made so many steps; the checkpoint is of the step before, at least."""
    return curve.exists() and curve.read_text().count("\n") >= step


def test_several_processes_make_the_data_once_and_train_together(recipe: Path, tmp_path: Path) -> None:
    """Three, since two that ask for the same lock at once may be lucky."""
    short = [setting for i in range(3) for setting in (f"stages.{i}.steps=1", f"stages.{i}.batch=3")]
    words = ["run", recipe, *(word for setting in short for word in ("--set", setting))]
    run_scripts(3, MAIN, *words, logs=tmp_path)
    assert [p.name for p in sorted((tmp_path / "run" / "stages").iterdir())] == ["1-step", "2-step", "4-step"]


@pytest.mark.usefixtures("uncounted")
def test_a_stage_may_be_trained_again_with_other_settings(finished: tuple[object, ...], tmp_path: Path) -> None:
    before = weights(tmp_path / "run")
    changed = (*finished, "--set", "stages.1.lr=1e-3", "--again", "2-step")
    for option in ([], ["--dry-run"]):
        code, output = fewstep(*finished, "--again", "2-step", *option)
        assert code == 0 and "2-step has the settings that it was begun with" in output
    code, output = fewstep(*changed, "--dry-run")
    assert code == 0 and "trained again: 2-step, 1-step" in output and weights(tmp_path / "run") == before
    code, output = fewstep(*changed)
    assert code == 0 and "trained again: 2-step, 1-step" in output
    after = weights(tmp_path / "run")
    assert [name for name in after if after[name] != before[name]] == ["1-step", "2-step"]
    code, output = fewstep(*changed[:-1], "1-step,2-step", "--dry-run")
    assert code == 0 and "1-step has the settings" in output and "2-step has the settings" in output
    code, output = fewstep(*finished, "--again", "3-step")
    assert code == 2 and "there is no stage 3-step: the recipe has 4-step, 2-step, 1-step" in output


@pytest.mark.slow
@pytest.mark.usefixtures("uncounted")
def test_stages_that_are_trained_by_themselves_end_as_in_a_whole_run(recipe: Path, tmp_path: Path) -> None:
    short = [*SHORT, "--set", "stages.2.start=4-step"]
    assert fewstep("run", recipe, *short, "--set", f"out={tmp_path / 'whole'}")[0] == 0
    code, output = fewstep("run", recipe, *short, "--stages", "1-step", "--dry-run")
    assert code == 0 and "trained: 4-step, 1-step of the stages below" in output
    code, output = fewstep("run", recipe, *short, "--stages", "1-step")
    assert code == 0 and "2-step is left out" in output
    whole, apart = weights(tmp_path / "whole"), weights(tmp_path / "run")
    assert apart == {name: whole[name] for name in ("1-step", "4-step")}
    code, output = fewstep("run", recipe, *short)
    assert code == 0 and "1-step is finished" in output and weights(tmp_path / "run") == whole
    code, output = fewstep("run", recipe, *short, "--stages", "1-step,3-step")
    assert code == 2 and "there is no stage 3-step: the recipe has 4-step, 2-step, 1-step" in output
    code, output = fewstep("run", "shapes-chain", "--stages", "4-step")
    assert code == 2 and "shapes-chain has no stages" in output


def test_a_finished_run_is_left_alone_and_another_recipe_refused(finished: tuple[object, ...], tmp_path: Path) -> None:
    before = weights(tmp_path / "run")
    code, output = fewstep(*finished, "--set", "logging.every=5")
    assert code == 0 and "4-step is finished" in output and weights(tmp_path / "run") == before
    code, output = fewstep(*finished, "--set", "stages.0.lr=1")
    assert code == 2 and "was begun with another stages.0.lr" in output


def test_a_teacher_that_moved_is_known_by_its_contents(
    finished: tuple[object, ...], tiny_wan_folder: Path, tmp_path: Path
) -> None:
    before = weights(tmp_path / "run")
    shutil.copytree(tiny_wan_folder, tmp_path / "moved")
    code, output = fewstep(*finished, "--set", f"teacher={tmp_path / 'moved'}")
    assert code == 0 and "4-step is finished" in output and weights(tmp_path / "run") == before
    # a stage that is trained again learns from it there
    code, output = fewstep(
        *finished, "--set", f"teacher={tmp_path / 'moved'}", "--set", "stages.2.steps=2", "--again", "1-step"
    )
    assert code == 0 and read_contract(tmp_path / "run" / "stages" / "1-step").teacher == str(tmp_path / "moved")
    config = json.loads((tmp_path / "moved" / "transformer" / "config.json").read_text())
    (tmp_path / "moved" / "transformer" / "config.json").write_text(json.dumps(config | {"eps": 1e-5}))
    code, output = fewstep(*finished, "--set", f"teacher={tmp_path / 'moved'}")
    assert code == 2 and "teacher" in output.splitlines()[-1], output


@pytest.mark.parametrize(("prompts", "decodes"), [("[]", False), ("[a ring]", True)])
def test_what_encodes_is_gone_before_training(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, prompts: str, decodes: bool
) -> None:
    """The autoencoder stays where sample clips are decoded."""
    held: list[str] = []

    def look(relay: Relay) -> None:
        held.extend(name for name in ("text_encoder", "vae") if getattr(relay.teacher.pipeline, name) is not None)

    monkeypatch.setattr(Relay, "run", look)
    code, output = fewstep("run", recipe, "--set", f"logging.prompts={prompts}")
    assert code == 0, output
    assert held == ["vae"] * decodes


def test_a_gate_stops_the_relay(recipe: Path, tmp_path: Path) -> None:
    gate = ["--set", "stages.0.gate={metric: endpoint_error, at_most: 1e-9}"]
    code, output = fewstep("run", recipe, *gate)
    assert code == 2 and "stage 4-step ended with endpoint_error" in output and "at most 1e-09" in output
    assert [p.name for p in (tmp_path / "run" / "stages").iterdir()] == ["4-step"]


@pytest.mark.usefixtures("finished")
def test_the_contract_is_honoured(tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "clip.mp4"
    arguments = ("sample", run, "--prompt", "a ring", "--out", out)
    code, output = fewstep(*arguments, "--steps", 3)
    assert code == 2 and "no student in" in output and "4-step (4)" in output
    assert "none works at other nodes" in output and "--force" in output
    code, output = fewstep(*arguments, "--guidance", 5)
    assert code == 2 and "into its weights" in output and "--force" in output
    code, output = fewstep(*arguments, "--shift", 3)
    assert code == 2 and "trained for shift 5, not 3" in output
    assert fewstep(*arguments, "--guidance", 5, "--steps", 3, "--force")[0] == 0
    code, output = fewstep(*arguments, "--teacher", "shapes")
    assert code == 2 and "the student's teacher was" in output and "--teacher" in output
    stage = run / "stages" / "4-step"
    contract = read_contract(stage)
    assert contract.times == pytest.approx([1, 0.9375, 0.8333333, 0.625, 0])
    (stage / "contract.json").unlink()
    code, output = fewstep("sample", stage, "--prompt", "a ring", "--out", out)
    assert code == 2


@pytest.mark.usefixtures("uncounted")
@pytest.mark.slow  # tests/teacher/test_ranks.py has what it stands on
def test_a_dry_run_of_several_processes_waits_for_none(recipe: Path, tmp_path: Path) -> None:
    """The first counts what all of them cost, and the others have ended."""
    dry = Scripts(2, MAIN, "run", recipe, "--dry-run", logs=tmp_path)
    assert [code for code, _ in dry.ends(seconds=240)] == [0, 0]


def test_a_dry_run_writes_nothing(recipe: Path, tmp_path: Path) -> None:
    code, output = fewstep("run", recipe, "--dry-run")
    assert code == 0 and "teacher_steps: 8" in output and "GiB" in output and "discriminator" in output
    assert not (tmp_path / "run").exists()


def test_a_tracker_that_is_not_there_is_refused_before_anything_is_made(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # as where it is not installed
    code, output = fewstep("run", recipe, "--set", "logging.tracker=wandb")
    assert code == 2 and "logging.tracker is wandb, which is not installed" in output
    assert not (tmp_path / "run").exists()


def test_a_typo_is_named_with_the_nearest_setting(recipe: Path) -> None:
    code, output = fewstep("run", recipe, "--set", "stages.1.objective.conditionl=true")
    assert code == 2 and "conditional" in output
