"""Every command with a teacher that reads no text."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewstep.commands import run_cost
from fewstep.student.load_student import load_student
from fewstep.teacher.dataset.manifest import read_manifest
from fewstep.teacher.videos.writing import write_video
from tests.commands.typed import fewstep

SMALL = ("--frames", 4, "--height", 16, "--width", 16, "--device", "cpu", "--dtype", "float32")
SMALLEST = {"steps": 1, "batch": 1, "accumulate": 1, "warmup": 0}
UNREAD = "none of 1 prompts is read: StableVideoDiffusionPipeline makes clips without any text"


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, prompts that only name them, and videos without captions."""
    folder: Path = tmp_path_factory.mktemp("text-free")
    random = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        Image.fromarray(random.integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    lines = [json.dumps({"prompt": "", "first": f"{name}.png"}) for name in ("a", "b", "c")]
    (folder / "prompts.jsonl").write_text("\n".join(lines))
    (folder / "videos").mkdir()
    for i in range(2):
        frames = random.integers(0, 255, (8, 16, 16, 3), dtype=np.uint8)
        write_video(folder / "videos" / f"{i}.mp4", frames, 8.0)
    return folder


@pytest.fixture(scope="module")
def trained(there: Path, tiny_svd_folder: Path) -> Path:
    """The packaged recipe on these videos, a step of each stage, with sample clips on the way."""
    shared = {
        "teacher": tiny_svd_folder,
        "out": there / "run",
        "data.folder": there / "videos",
        "size": json.dumps({"num_frames": 4, "height": 16, "width": 16}),
        "device": "cpu",
        "precision": "float32",
        "logging.tracker": "none",
        "logging.prompts": json.dumps([{"prompt": "", "given": {"first": str(there / "a.png")}}]),
    }
    small: dict[str, object] = {f"stages.{i}.{name}": value for i in range(4) for name, value in SMALLEST.items()}
    small |= {f"stages.{i}.objective.warmup": 1 for i in (2, 3)}
    small |= {f"stages.{i}.objective.discriminator.width": 8 for i in (2, 3)}
    # half of the recipe's sampling steps, and fewer of its first teacher's
    small |= {f"stages.{i}.teacher_steps": 4 for i in (1, 2, 3)} | {"stages.0.teacher_steps": 8}
    small |= {f"stages.{i}.student_steps": 2 for i in (1, 2, 3)} | {"stages.0.student_steps": 4}
    small |= {"stages.3.starts": "[1.0, 0.5]"}
    settings = [part for name, value in (shared | small).items() for part in ("--set", f"{name}={value}")]
    with pytest.MonkeyPatch.context() as patch:
        # its memory and operations are counted in tests/distill/test_step_cost.py, for a quarter of a minute
        patch.setattr(run_cost, "show_cost", lambda *_: None)
        for option in (["--dry-run"], []):
            code, output = fewstep("run", "svd-4step", *settings, *option)
            assert code == 0 and "no caption" not in output and "is read" not in output, output
    assert f"fewstep sample {there / 'run'} --given first=FILE --out clip.mp4" in output.replace("\n", "")
    return there / "run"


def test_videos_without_captions_are_data(there: Path, tiny_svd_folder: Path) -> None:
    code, output = fewstep(
        "data", "videos", there / "videos", "--teacher", tiny_svd_folder, "--out", there / "d", *SMALL
    )
    assert code == 0 and (read_manifest(there / "d").rows, read_manifest(there / "d").skipped) == (2, []), output


def test_a_teacher_that_reads_captions_still_misses_them(there: Path, tiny_wan_folder: Path, tmp_path: Path) -> None:
    data = json.dumps({"kind": "videos", "folder": str(there / "videos")})
    overrides = (f"data={data}", f"teacher={tiny_wan_folder}", f"out={tmp_path / 'run'}", "device=cpu")
    code, output = fewstep("run", "wan2.1-t2v-1.3b-4step", *(part for one in overrides for part in ("--set", one)))
    assert code == 2 and "has a caption in a .txt file next to it: write them first" in output, output


def test_clips_without_a_prompt(there: Path, tiny_svd_folder: Path, tiny_wan_folder: Path) -> None:
    picture, clip = ("--given", f"first={there / 'a.png'}"), ("--out", there / "clip.mp4", "--steps", 1)
    code, output = fewstep("sample", tiny_svd_folder, *picture, *clip, *SMALL)
    assert code == 0 and (there / "clip.mp4").exists() and "is read" not in output, output
    code, output = fewstep("sample", tiny_svd_folder, *clip, *SMALL)
    assert code == 2 and "first is missing: pass --given first=FILE" in output
    code, output = fewstep("sample", tiny_wan_folder, *clip, *SMALL)
    assert code == 2 and "there is nothing to show: pass --prompt" in output


def test_a_prompt_in_vain_is_said(there: Path, tiny_svd_folder: Path) -> None:
    arguments = ("--prompt", "a ring", "--given", f"first={there / 'a.png'}", "--steps", 1)
    code, output = fewstep("sample", tiny_svd_folder, *arguments, "--out", there / "vain.mp4", *SMALL)
    assert code == 0 and UNREAD in output, output


def test_students_need_no_prompt_either(there: Path, trained: Path) -> None:
    assert load_student(trained, device="cpu").contract.given == ("first",)
    code, output = fewstep("sample", trained, "--given", f"first={there / 'b.png'}", "--out", there / "s.mp4")
    assert code == 0 and (there / "s.mp4").exists(), output


def test_an_evaluation_of_pictures_alone(there: Path, trained: Path, tiny_svd_folder: Path) -> None:
    code, output = fewstep(
        "evaluate", f"teacher={tiny_svd_folder}@2:3", f"student={trained}", "--prompts", there / "prompts.jsonl",
        "--num", 3, "--out", there / "evaluation", "--metrics", "motion,psnr", *SMALL[2:],
    )  # fmt: skip
    assert code == 0 and (there / "evaluation" / "results.json").exists(), output


def test_names_of_clips_are_still_asked_for_where_files_are_called_by_them(there: Path, tiny_svd_folder: Path) -> None:
    arguments = ("vbench", "videos", tiny_svd_folder, "--prompts", there / "prompts.jsonl", "--out", there / "vbench")
    code, output = fewstep(*arguments)
    assert code == 2 and "3 clips of different files are called ''" in output, output


def test_its_export_says_how_to_sample_it_without_a_prompt(there: Path, trained: Path) -> None:
    code, output = fewstep("export", trained, "--to", "diffusers", "--out", there / "export", "--device", "cpu")
    card = (there / "export" / "README.md").read_text()
    assert code == 0 and "prompt=" not in card and "image=load_image('first.png')" in card, output
