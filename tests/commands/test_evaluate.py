"""`fewstep evaluate` and `fewstep vbench`: tiny teachers and students measured, stopped, gone on with and refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from fewstep.eval.clip_store import ClipStore
from fewstep.eval.metrics.teacher_gap import MAX_PSNR
from fewstep.student.sampler import Sampler
from fewstep.teacher.videos.writing import write_video
from tests.commands.typed import fewstep

STAGES: list[dict[str, object]] = [
    {"teacher_steps": 4, "student_steps": 2, "guidance": 2.0},
    {"teacher_steps": 2, "student_steps": 1},
]
SHARED: dict[str, object] = {"steps": 1, "batch": 2, "objective": {"kind": "progressive"}}


def make_run(folder: Path, teacher: Path) -> Path:
    (folder / "prompts.txt").write_text("a ring\na cross\na box\n")
    recipe = {
        "teacher": str(teacher), "out": str(folder / "run"), "device": "cpu", "logging": {"tracker": "none"},
        "data": {"kind": "rollouts", "prompts": "prompts.txt", "steps": 2}, "stages": [SHARED | s for s in STAGES],
    }  # fmt: skip
    (folder / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    code, output = fewstep("run", folder / "tiny.yaml")
    assert code == 0, output
    return folder / "run"


@pytest.fixture(scope="module")
def run(tiny_wan_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a random teacher with a 2-step and a 1-step student; not to be changed."""
    return make_run(tmp_path_factory.mktemp("evaluate"), tiny_wan_folder)


@pytest.fixture
def command(tiny_wan_folder: Path, run: Path, tmp_path: Path) -> list[object]:
    models = [f"teacher={tiny_wan_folder}@4", f"{run}@2", run, f"again={tiny_wan_folder}@4"]
    arguments = ["--prompts", run.parent / "prompts.txt", "--num", 5, "--batch", 2, "--out", tmp_path / "out"]
    return ["evaluate", *models, *arguments]


def read(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "results.json").read_text()))


def values(row: dict[str, Any]) -> dict[str, float]:
    return {name: figure["value"] for name, figure in row["metrics"].items()}


def test_teacher_and_students_share_prompts_and_noise(command: list[object], tmp_path: Path) -> None:
    code, output = fewstep(*command)
    assert code == 0, output
    results = read(tmp_path / "out")
    rows = {row["model"]: row for row in results["rows"]}
    assert [(row["model"], row["role"], row["steps"], row["evaluations"]) for row in results["rows"]] == [
        ("teacher", "teacher", 4, 8), ("run-2", "student", 2, 2), ("run", "student", 1, 1),
        ("again", "teacher", 4, 8),
    ]  # fmt: skip
    assert results["prompts"] == ["a ring", "a cross", "a box", "a ring", "a cross"]
    assert results["protocol"]["guidance"] == 2  # what the student was distilled with
    assert "the judge reads clips" in results["protocol"]["left_out"]["shapes-fd"]
    for row in rows.values():
        assert sorted(p.name for p in (tmp_path / "out" / row["videos"]).iterdir()) == [
            f"{i:05d}.mp4" for i in range(5)
        ]
        assert all(f["low"] <= f["value"] <= f["high"] for f in row["metrics"].values())
    assert not {"psnr", "ssim", "latent-mse", "motion-ratio"} & set(rows["teacher"]["metrics"])
    same, other = values(rows["again"]), values(rows["run"])
    assert same["psnr"] == MAX_PSNR and same["ssim"] == pytest.approx(1) and same["latent-mse"] == 0
    assert all(value == 1 for name, value in same.items() if name.endswith("-ratio")) and not rows["again"]["warnings"]
    assert other["psnr"] < 60 and other["latent-mse"] > 0 and rows["run"]["metrics"]["motion"]["num"] == 5
    assert rows["run"]["metrics"]["diversity-rms"]["num"] == 3


def test_nothing_is_made_twice(command: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [*command[:3], *command[5:]]  # a teacher and a student
    assert fewstep(*command, "--metrics", "psnr")[0] == 0
    written = ("results.json", "log.txt", ".lock")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*") if path.name not in written}
    with monkeypatch.context() as patched:
        patched.setattr(Sampler, "sample", lambda *_: pytest.fail("sampled again"))
        assert fewstep(*command, "--metrics", "psnr", "--batch", 3)[0] == 0
    assert before == {path: path.stat().st_mtime_ns for path in before}
    rows = read(tmp_path / "out")["rows"]
    assert fewstep(*command, "--metrics", "motion")[0] == 0  # another metric joins, what was there stays
    assert [values(row).get("psnr") for row in read(tmp_path / "out")["rows"]] == [values(r).get("psnr") for r in rows]
    assert all("motion" in row["metrics"] for row in read(tmp_path / "out")["rows"])


@pytest.mark.slow
def test_an_evaluation_that_was_stopped_anywhere_ends_as_a_whole_one(
    command: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [*command[:3], *command[5:], "--num", 4]
    assert fewstep(*command)[0] == 0
    whole = read(tmp_path / "out")
    files = {path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*") if path.is_file()}
    shutil.rmtree(tmp_path / "out")
    calls, add, write = [0], ClipStore.add, write_video

    def stops(function: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Any) -> None:
            calls[0] += 1
            if calls[0] % 5 == 0:
                raise KeyboardInterrupt
            function(*arguments)

        return call

    monkeypatch.setattr(ClipStore, "add", stops(add))
    monkeypatch.setattr("fewstep.eval.clip_maker.write_video", stops(write))
    codes = [fewstep(*command)[0] for _ in range(7)]
    assert codes[0] == 130 and codes[-1] == 0 and codes.count(130) > 2
    assert read(tmp_path / "out")["rows"] == whole["rows"]
    assert {path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*") if path.is_file()} == files


def test_another_protocol_or_student_is_refused(command: list[object], run: Path, tmp_path: Path) -> None:
    rest = [*command[5:], "--metrics", "psnr"]
    short = [*command[:2], f"student={run}@2", *rest]
    assert fewstep(*short)[0] == 0
    code, output = fewstep("evaluate", f"other={str(command[1]).removeprefix('teacher=')}", *rest)
    assert code == 2 and "holds an evaluation with teacher 'teacher', not 'other'" in output
    for option, text in (
        ("--seed", "seed 0, not 1"),
        ("--guidance", "guidance 2.0, not 1.0"),
        ("--num", "num 5, not 4"),
    ):
        code, output = fewstep(*short, option, 4 if option == "--num" else 1)
        assert code == 2 and f"holds an evaluation with {text}" in output, output
    code, output = fewstep(*command[:2], f"student={run}", *command[5:], "--metrics", "psnr")
    assert code == 2 and "clips of another model called student" in output


def test_a_stop_between_the_teachers_clips_and_their_latents_loses_neither(
    command: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The teacher has no figure of its own here, so its clips look finished."""
    command = [*command[:3], *command[5:], "--metrics", "psnr"]

    def stops(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as stopped:
        stopped.setattr(ClipStore, "add", stops)
        assert fewstep(*command)[0] == 130
    assert (tmp_path / "out" / "videos" / "teacher" / "00001.mp4").exists()
    code, output = fewstep(*command)
    assert code == 0, output
    assert values(read(tmp_path / "out")["rows"][1]).keys() == {"psnr"}


def test_mistakes_are_told(command: list[object], tiny_wan_folder: Path, run: Path, tmp_path: Path) -> None:
    code, output = fewstep(*command, "--metrics", "psnr,fid")
    assert code == 2 and "there is no metric fid (did you mean fvd?): choose among shapes-fd" in output
    code, output = fewstep(*command, "--metrics", "lpips")
    assert code == 2 and "lpips needs 31 pixels a side" in output
    code, output = fewstep("evaluate", tiny_wan_folder, run)
    assert code == 2 and "pass --prompts" in output
    code, output = fewstep("evaluate", tiny_wan_folder)
    assert code == 2 and "pass --out" in output
    code, output = fewstep("evaluate", f"a={tiny_wan_folder}", f"a={run}")
    assert code == 2 and "two models are called a" in output
    code, output = fewstep("evaluate", tiny_wan_folder, f"{run}@8")
    assert code == 2 and "2-step (2), 1-step (1)" in output
    assert not (tmp_path / "out").exists() and not (run / "evaluation").exists()


def test_the_judge_is_asked_where_it_can_read_the_clips(
    make_tiny_wan: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    make_tiny_wan(tmp_path / "teacher")
    size = {"num_frames": 17, "height": 64, "width": 64, "fps": 8}
    (tmp_path / "teacher" / "fewstep.json").write_text(json.dumps(size))
    arguments = ["--steps", 1, "--num", 4, "--world-clips", 8, "--metrics", "shapes-fd,prompt-accuracy,psnr"]
    code, output = fewstep("evaluate", tmp_path / "teacher", *arguments, "--out", tmp_path / "out")
    assert code == 0, output
    teacher, real = read(tmp_path / "out")["rows"]
    assert (teacher["model"], real["role"], real["videos"]) == ("teacher", "real", None)
    figure = teacher["metrics"]["shapes-fd"]
    assert figure["floor"] == real["metrics"]["shapes-fd"]["value"] < figure["value"]
    assert teacher["metrics"]["prompt-accuracy"]["value"] < 1 and "psnr" not in teacher["metrics"]


def test_videos_for_vbench_and_its_results(command: list[object], run: Path, tmp_path: Path) -> None:
    prompts = ["--prompts", run.parent / "prompts.txt"]
    code, output = fewstep("vbench", "videos", f"student={run}", *prompts, "--out", tmp_path / "vbench")
    assert code == 0, output
    names = {f"{prompt}-{i}.mp4" for prompt in ("a ring", "a cross", "a box") for i in range(5)}
    assert {path.name for path in (tmp_path / "vbench" / "student").iterdir()} == names
    assert len({path.read_bytes() for path in (tmp_path / "vbench" / "student").iterdir()}) == 15

    assert fewstep(*command[:2], f"student={run}", *command[5:], "--metrics", "psnr")[0] == 0
    each = [{"video_path": f"a ring-{i}.mp4", "video_results": 0.9 + 0.01 * i} for i in range(5)]
    text = {"motion_smoothness": [0.92, each], "human_action": [0.5, [{"cor_num_per_video": 1}] * 4]}
    (tmp_path / "x_eval_results.json").write_text(json.dumps(text))
    into = ["--into", tmp_path / "out"]
    assert fewstep("vbench", "read", tmp_path / "x_eval_results.json", "--name", "student", *into)[0] == 0
    figures = read(tmp_path / "out")["rows"][1]["metrics"]
    assert figures["vbench-motion_smoothness"]["low"] < 0.92 < figures["vbench-motion_smoothness"]["high"]
    assert figures["vbench-human_action"] == {"value": 0.5, "num": 4, "better": "higher"} and "psnr" in figures
    code, output = fewstep("vbench", "read", tmp_path / "x_eval_results.json", "--name", "none", *into)
    assert code == 2 and "choose among teacher, student" in output
    code, output = fewstep("vbench", "read", run.parent / "prompts.txt", "--name", "student", *into)
    assert code == 2 and "no result of VBench" in output
    (tmp_path / "slash.txt").write_text("left/right\n")
    code, output = fewstep("vbench", "videos", run, "--prompts", tmp_path / "slash.txt", "--out", tmp_path / "vbench")
    assert code == 2 and "no file can be called 'left/right'" in output


def test_prompts_that_the_text_encoder_does_not_read_whole_are_said_once(
    tiny_cogvideox_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "prompts.txt").write_text("a ring\na zebra\n" + "red ring " * 9)
    prompts = ["--prompts", tmp_path / "prompts.txt", "--steps", 1]
    cut = (
        "are longer than the text encoder's 16 tokens and are cut there: 'red ring red ring red ring red ring r...' (19"
    )
    unknown = "have words that the tokenizer does not know: 'zebra'"
    for models in ([tiny_cogvideox_folder], [f"a={tiny_cogvideox_folder}", f"b={tiny_cogvideox_folder}"]):
        out = ["--num", 3, "--metrics", "psnr", "--out", tmp_path / f"out{len(models)}"]
        code, output = fewstep("evaluate", *models, *prompts, *out)
        assert code == 0 and output.count(f"1 of 3 prompts {cut}") == 1, output
        assert output.count(f"1 of 3 prompts {unknown}") == 1
    code, output = fewstep("vbench", "videos", *models, *prompts, "--out", tmp_path / "vbench")
    assert code == 0 and output.count(f"1 of 3 prompts {cut}") == 1 and output.count(unknown) == 1, output
