"""A run directory: begun with one recipe, and finished stages appear whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fewstep.distill import run_folder
from fewstep.distill.checkpoint import forget_checkpoints, save_state
from fewstep.distill.recipe import Recipe, read_recipe
from fewstep.distill.run_folder import RunFolder, enclosing_run
from fewstep.distill.settings import Stage
from fewstep.distill.stage_checks import check_order


def recipe(*overrides: str) -> Recipe:
    return read_recipe("shapes-4step", overrides)


def finish_stages(folder: RunFolder, *names: str) -> None:
    def write(part: Path) -> None:
        (part / "contract.json").write_text("{}")

    for name in names:
        folder.finish(name, write, {})


def stop_amid(folder: RunFolder, stage: str) -> None:
    save_state(folder.path, {"stage": stage, "step": 1, "drawn": 0, "seconds": 1.0})


def test_the_resolved_recipe_is_kept(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run").begin(recipe("stages.1.lr=1e-3"))
    assert read_recipe(tmp_path / "run" / "recipe.yaml") == recipe("stages.1.lr=1e-3")


def test_what_changes_nothing_may_change(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.begin(recipe())
    moved = tmp_path / "prompts.txt"
    moved.write_text("a ring\n")
    folder.begin(recipe("logging.every=3", "device=cpu", f"data.prompts={moved}", "gradient_checkpointing=true"))
    *before, last = (stage.name for stage in recipe().stages)
    finish_stages(folder, *before)
    stop_amid(folder, last)
    for change, name in (
        ("seed=1", "seed"),
        ("stages.0.steps=9", r"stages\.0\.steps"),
        ("data.steps=16", r"data\.steps"),
        ("stages.2.objective.r1=3", r"stages\.2\.objective\.r1"),
    ):
        with pytest.raises(ValueError, match=f"begun with another {name}: "):
            folder.begin(recipe(change))


def test_places_may_change_as_the_data_says_whether_they_hold_the_same(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for place in (here, there):
        place.mkdir()
    videos, dataset = (
        (f"data={{kind: {kind}, folder: {here}}}", f"data.folder={there}") for kind in ("videos", "dataset")
    )
    folder = RunFolder(tmp_path / "videos")
    folder.begin(recipe(videos[0]))
    finish_stages(folder, recipe().stages[-1].name)
    folder.begin(recipe(*videos, "teacher=moved"))
    with pytest.raises(ValueError, match=r"begun with another data\.kind, data\.folder, "):
        folder.begin(recipe(dataset[0]))
    # nothing in the run says what a dataset of the user's own held
    folder = RunFolder(tmp_path / "dataset")
    folder.begin(recipe(dataset[0]))
    with pytest.raises(ValueError, match=r"begun with another data\.folder: "):
        folder.begin(recipe(*dataset))


def test_stages_may_come_to_the_end_but_none_that_began_may_go(tmp_path: Path) -> None:
    whole = recipe()
    fewer = whole.model_copy(update={"stages": whole.stages[:-1]})
    folder = RunFolder(tmp_path / "run")
    for plan in (fewer, whole, fewer, whole):
        folder.begin(plan)
        assert read_recipe(tmp_path / "run" / "recipe.yaml") == plan
    stop_amid(folder, whole.stages[-1].name)
    with pytest.raises(ValueError, match="begun with another stages: "):
        folder.begin(fewer)


def test_what_has_not_begun_may_change(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.begin(recipe())
    first, second, third, *_ = (stage.name for stage in recipe().stages)
    finish_stages(folder, first, third)  # `--stages` trains in any order
    folder.begin(recipe("stages.1.lr=1e-3", "stages.3.lr=1e-3", "stages.3.name=last"))
    assert read_recipe(tmp_path / "run" / "recipe.yaml").stages[3].name == "last"
    for change, name in (("stages.0.lr=1e-3", r"stages\.0\.lr"), ("stages.2.lr=1e-3", r"stages\.2\.lr")):
        with pytest.raises(ValueError, match=f"begun with another {name}: "):
            folder.begin(recipe("stages.1.lr=1e-3", change))
    assert folder.begin(recipe("stages.1.lr=1e-4"), again=[third]) == []  # which is as it was
    for state in (f"{second}.conversion", second):
        stop_amid(folder, state)
        with pytest.raises(ValueError, match=r"begun with another stages\.1\.lr: "):
            folder.begin(recipe("stages.1.lr=1e-3"))
    (folder.path / "state.pt").write_bytes(b"broken")  # of any stage
    (folder.path / "previous.pt").unlink(missing_ok=True)
    with pytest.raises(ValueError, match=r"begun with another stages\.1\.lr: "):
        folder.begin(recipe("stages.1.lr=1e-3"))


def test_a_stage_trained_again_may_have_other_settings_and_what_stands_on_it_goes(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.begin(recipe())
    finish_stages(folder, *(stage.name for stage in recipe().stages))
    save_state(folder.path, {"stage": "4-step"})
    (folder.path / "curves").mkdir()
    curves = [folder.path / "curves" / f"{name}-step.jsonl" for name in (8, 4)]
    for curve in curves:
        curve.write_text("{}\n")
    with pytest.raises(ValueError, match=r"another stages\.1\.lr: .* or train stages again with --again STAGE,STAGE"):
        folder.begin(recipe("stages.1.lr=1e-3"))
    with pytest.raises(ValueError, match=r"another stages\.0\.lr: "):
        folder.begin(recipe("stages.0.lr=1e-3"), again=["4-step"])
    assert all(folder.finished(stage.name) for stage in recipe().stages) and (folder.path / "state.pt").exists()

    folder.begin(recipe("stages.1.lr=1e-3"), again=["4-step"])
    assert [s.name for s in recipe().stages if folder.finished(s.name)] == ["8-step"]
    assert not (folder.path / "state.pt").exists()
    assert [curve.exists() for curve in curves] == [True, False]  # trackers show the stage again
    assert read_recipe(folder.path / "recipe.yaml") == recipe("stages.1.lr=1e-3")

    finish_stages(folder, "4-step")
    save_state(folder.path, {"stage": "4-step-conditional"})
    folder.begin(recipe("stages.1.lr=1e-3"), again=["4-step"])  # the same command, after a stop
    assert folder.finished("4-step") and (folder.path / "state.pt").exists()


def test_who_supervised_a_stage_follows_from_the_recipe_that_was_begun(tmp_path: Path) -> None:
    """b names no teacher: a supervises it as long as a takes as many steps as b's teacher."""
    stages = [
        {"name": "a", "teacher_steps": 32, "student_steps": 8, "objective": {"kind": "progressive"}},
        {"name": "b", "teacher_steps": 8, "student_steps": 4, "start": "base", "objective": {"kind": "progressive"}},
    ]
    begun = recipe().model_copy(update={"stages": tuple(map(Stage.model_validate, stages))})
    folder = RunFolder(tmp_path / "run")
    folder.begin(begun)
    finish_stages(folder, "a", "b")
    stages[0]["student_steps"] = 16
    changed = begun.model_copy(update={"stages": tuple(map(Stage.model_validate, stages))})
    assert begun.teacher_of(1) == 0 and changed.teacher_of(1) is None
    trained_again = folder.check(changed, ["a"])
    assert trained_again == ["a", "b"]
    with pytest.raises(ValueError, match="--again trains b again, which --stages leaves out"):
        check_order(changed, folder, ["a"], trained_again)
    check_order(changed, folder, ["a", "b"], trained_again)


def test_a_checkpoint_is_replaced_by_no_other_stage(tmp_path: Path) -> None:
    folder, (first, second, third, *_) = RunFolder(tmp_path / "run"), [stage.name for stage in recipe().stages]
    folder.begin(recipe())
    check_order(recipe(), folder, None)
    finish_stages(folder, first)
    stop_amid(folder, second)
    check_order(recipe(), folder, None)  # it is the next one
    for stage in (third, f"{third}.conversion"):
        stop_amid(folder, stage)
        for chosen in (None, [second, third]):
            with pytest.raises(
                ValueError, match=f"{second} would replace, .*: end {third} first with --stages {third}"
            ):
                check_order(recipe(), folder, chosen)
        check_order(recipe(), folder, [third])
        with pytest.raises(ValueError, match=f"{third} is left out"):
            check_order(recipe(), folder, [second])
        check_order(recipe(), folder, None, trained_again=[third])  # it begins again
    finish_stages(folder, second)
    stop_amid(folder, third)
    check_order(recipe(), folder, None)
    with pytest.raises(ValueError, match=f"{second} would replace"):
        check_order(recipe(), folder, None, trained_again=[second])


def test_several_stages_may_be_trained_again_and_those_without_changes_stay(tmp_path: Path) -> None:
    folder, changes = RunFolder(tmp_path / "run"), ("stages.1.lr=1e-3", "stages.3.lr=1e-3")
    names = [stage.name for stage in recipe().stages]
    folder.begin(recipe())
    finish_stages(folder, *names)
    with pytest.raises(ValueError, match=r"another stages\.1\.lr: "):
        folder.begin(recipe(*changes), again=[names[3]])
    assert folder.begin(recipe(changes[1]), again=[names[1], names[3]]) == names[3:]
    assert [name for name in names if folder.finished(name)] == names[:3]
    finish_stages(folder, *names[3:])
    assert folder.begin(recipe(*changes), again=[names[3], names[1]]) == names[1:]


def test_another_gate_is_no_other_recipe(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.begin(recipe("stages.0.gate={metric: endpoint_error, at_most: 0.1}"))
    folder.begin(recipe("stages.0.gate={metric: endpoint_error, at_most: 0.2}"))
    folder.begin(recipe())


def test_a_stage_is_on_the_disk_before_its_checkpoint_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut must leave one of the two."""
    order: list[str] = []
    sync, replace, forget = os.fsync, os.replace, forget_checkpoints

    def synced(handle: int) -> None:
        order.append(os.path.basename(os.readlink(f"/proc/self/fd/{handle}")))
        sync(handle)

    def replaced(*paths: Path) -> None:
        order.append("renamed")
        replace(*paths)

    def forgotten(path: Path) -> None:
        order.append("forgotten")
        forget(path)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    monkeypatch.setattr(run_folder, "forget_checkpoints", forgotten)

    def write(part: Path) -> None:
        (part / "student").mkdir()
        (part / "student" / "weights").write_text("weights")

    RunFolder(tmp_path).finish("a", write, {"steps": 3})
    before, after = order[: order.index("renamed")], order[order.index("renamed") + 1 :]
    assert {"weights", "student", "result.json", ".a.part"} <= set(before) and after == ["stages", "forgotten"]


def test_a_stage_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    (tmp_path / "state.pt").write_bytes(b"")

    def fail(part: Path) -> None:
        (part / "weights").write_text("half")
        raise OSError("no room")

    with pytest.raises(OSError):
        folder.finish("a", fail, {})
    assert not folder.stage("a").exists() and not folder.finished("a") and (tmp_path / "state.pt").exists()

    def write(part: Path) -> None:
        assert not any(part.iterdir())
        (part / "contract.json").write_text("{}")

    folder.finish("a", write, {"steps": 3})
    assert folder.finished("a") and folder.result("a") == {"steps": 3} and not (tmp_path / "state.pt").exists()


def test_the_least_usable_fraction_may_change(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    data = f"data={{kind: videos, folder: {tmp_path}"
    folder.begin(recipe(f"{data}}}"))
    kept = (tmp_path / "run" / "recipe.yaml").read_text()
    assert "min_usable: 0.5" in kept
    folder.begin(recipe(f"{data}, min_usable: 0.1}}"))
    (tmp_path / "run" / "recipe.yaml").write_text(kept.replace("  min_usable: 0.5\n", ""))  # of an older version
    folder.begin(recipe(f"{data}}}"))


def test_a_run_is_known_by_what_it_keeps(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "mine"
    RunFolder(run).begin(recipe(f"out={run}"))
    assert enclosing_run(run / "data" / "deep") == enclosing_run(run) == run.resolve()
    assert enclosing_run(tmp_path / "runs") is None and enclosing_run(tmp_path / "runs" / "other") is None
    (tmp_path / "link").symlink_to(run)
    assert enclosing_run(tmp_path / "link" / "data") == run.resolve()
    moved = run.rename(tmp_path / "moved")
    assert enclosing_run(moved) is None  # nothing but a recipe that names another folder
    save_state(moved, {"stage": "4-step"})
    assert enclosing_run(moved / "data") == moved.resolve()


@pytest.mark.parametrize("text", ["", "a: [", "- a list", "teacher: shapes\n", "out: runs/student\n"])
def test_a_recipe_of_ones_own_makes_no_run(tmp_path: Path, text: str) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    assert enclosing_run(tmp_path / "data") is None


def test_one_run_at_a_time(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with folder.locked():
        folder.begin(recipe())  # the run itself is not in its own way
        for attempt in (folder.check_unlocked, lambda: folder.locked().__enter__()):
            with pytest.raises(ValueError, match=r"another process is writing .*--set out=DIR"):
                attempt()
        with folder.locked(is_main_process=False):
            pass
    folder.check_unlocked()


def test_a_command_without_settings_names_its_own_option(tmp_path: Path) -> None:
    RunFolder(tmp_path).begin(recipe())
    with pytest.raises(ValueError, match="begun with another seed: run it with the same settings, or choose another f"):
        RunFolder(tmp_path, "--out DIR").check(recipe("seed=1"))
    with pytest.raises(ValueError) as caught:
        RunFolder(tmp_path, "--out DIR").check(recipe("seed=1"))
    assert str(caught.value).endswith("choose another folder with --out DIR")
