"""`fewstep sample` on a random teacher."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from diffusers import DiffusionPipeline
from PIL import Image
from typer.testing import CliRunner, Result

from fewstep.commands.sample import sample
from fewstep.teacher.videos import writing as video

app = typer.Typer()
app.command()(sample)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> dict[str, video.Frames]:
    """The frames of every clip that was written, by file name."""
    clips: dict[str, video.Frames] = {}
    write = video.write_video

    def remember(path: Path, frames: video.Frames, fps: float) -> None:
        clips[path.name] = frames
        write(path, frames, fps)

    monkeypatch.setattr(video, "write_video", remember)
    return clips


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_plain_diffusers_gives_the_same_clip(
    tiny_wan_folder: Path, tmp_path: Path, written: dict[str, video.Frames], guidance: float
) -> None:
    out = tmp_path / "clip.mp4"
    result = run(
        tiny_wan_folder,
        "--prompt",
        "a red circle",
        "--steps",
        4,
        "--guidance",
        guidance,
        "--seed",
        3,
        "--out",
        out,
    )
    assert result.exit_code == 0, result.output
    assert out.exists()
    pipeline: Any = DiffusionPipeline.from_pretrained(tiny_wan_folder)
    expected = pipeline(
        "a red circle",
        num_frames=9,
        height=16,
        width=16,
        num_inference_steps=4,
        guidance_scale=guidance,
        generator=torch.Generator().manual_seed(3),
    ).frames[0]
    difference = np.abs(written["clip.mp4"].astype(float) - expected * 255)
    assert difference.max() < 0.51  # nothing but rounding


def test_several_prompts_give_numbered_files_that_do_not_depend_on_the_batch(
    tiny_wan_folder: Path, tmp_path: Path, written: dict[str, video.Frames]
) -> None:
    listed = tmp_path / "prompts.txt"
    listed.write_text("a blue square\n\n  a green star  \n")
    common = (tiny_wan_folder, "--prompts", listed, "--steps", 2, "--prompt", "a red circle")
    assert run(*common, "--out", tmp_path / "one.gif").exit_code == 0
    assert run(*common, "--out", tmp_path / "all.gif", "--batch", 3).exit_code == 0
    assert list(written) == [f"{name}-{i}.gif" for name in ("one", "all") for i in range(3)]
    for i in range(3):
        one, together = written[f"one-{i}.gif"], written[f"all-{i}.gif"]
        assert np.abs(one.astype(int) - together).max() <= 1
    assert not np.array_equal(written["one-0.gif"], written["one-1.gif"])


def test_clips_that_are_tuned_and_decoded_meanwhile_stay_the_same(
    tiny_wan_folder: Path, tmp_path: Path, written: dict[str, video.Frames]
) -> None:
    common: list[object] = [
        tiny_wan_folder,
        *(word for text in ("a ring", "a box", "a cat") for word in ("--prompt", text)),
    ]
    common += ["--steps", 2, "--out", tmp_path / "clip.mp4"]
    assert run(*common).exit_code == 0
    plain = dict(written)
    options = ("--overlap", "--tiling", "--slicing", "--channels-last", "--attention", "_native_math", "--batch", 2)
    result = run(*common, *options)
    assert result.exit_code == 0, result.output
    assert len(plain) == 3 and written.keys() == plain.keys()
    for name, frames in written.items():
        assert np.abs(frames.astype(int) - plain[name]).max() <= 1


def test_clips_have_the_teachers_rate_unless_told_otherwise(
    make_tiny_wan: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    monkeypatch.setattr(video, "write_video", lambda path, frames, fps: rates.append(fps))
    make_tiny_wan(tmp_path / "teacher")
    common = (tmp_path / "teacher", "--prompt", "a", "--steps", 1, "--out", tmp_path / "clip.mp4")
    size = {"num_frames": 9, "height": 16, "width": 16}
    for text, options in (({"fps": 12}, ()), ({}, ()), ({"fps": 12}, ("--fps", 5))):
        (tmp_path / "teacher" / "fewstep.json").write_text(json.dumps(size | text))
        assert run(*common, *options).exit_code == 0
    assert rates == [12, 16, 5]


def test_a_byte_order_mark_is_no_part_of_a_prompt(
    tiny_wan_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captions, draw = list[str](), video.contact_sheet

    def remember(clips: Sequence[video.Frames], text: Sequence[str]) -> Image.Image:
        captions.extend(text)
        return draw(clips, text)

    monkeypatch.setattr(video, "contact_sheet", remember)
    (tmp_path / "prompts.txt").write_text("a blue square\n", "utf-8-sig")
    common = (tiny_wan_folder, "--prompts", tmp_path / "prompts.txt", "--steps", 1)
    assert run(*common, "--out", tmp_path / "sheet.png").exit_code == 0
    assert captions == ["a blue square"]


def test_contact_sheet_and_size(tiny_wan_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    size = ("--frames", 5, "--height", 32, "--width", 16)
    result = run(tiny_wan_folder, "--prompt", "a", "--prompt", "b", "--steps", 1, "--out", out, *size)
    assert result.exit_code == 0, result.output
    with Image.open(out) as image:
        assert image.width == 5 * 16 * 4
        assert image.height > 2 * 32 * 4


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--prompt", "a", "--out", "clip.avi"), "does not end in"),
        (("--prompt", "a", "--out", "none/clip.mp4"), "there is no folder"),
        (("--out", "clip.mp4"), "nothing to show"),
        (("--prompt", "a", "--out", "clip.mp4", "--frames", 8), "8 frames cannot be made"),
        (("--prompt", "a", "--out", "clip.mp4", "--guidance", "nan"), "--guidance is nan; it must be a finite number"),
        (("--prompt", "a", "--out", "clip.mp4", "--fps", "inf"), "use a rate from 0.1 to 1000"),
        (("--prompt", "a", "--out", "clip.mp4", "--device", "foo"), "there is no device foo on this machine"),
        (("--prompts", "none.txt", "--out", "clip.mp4"), "there is no prompts file none.txt"),
        (("--prompt", "a", "--out", "clip.mp4", "--slicing"), "--batch is 1: leave it out"),
        (("--prompt", "a", "--out", "clip.mp4", "--attention", "quick"), "has no attention backend quick"),
    ],
)
def test_mistakes_are_named_before_anything_is_sampled(
    tiny_wan_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[object, ...],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(tiny_wan_folder, *arguments)
    assert isinstance(result.exception, ValueError)
    assert sentence in str(result.exception)
    assert not list(tmp_path.iterdir())


def test_a_seed_beyond_64_bits_is_refused(tiny_wan_folder: Path, tmp_path: Path) -> None:
    common = (tiny_wan_folder, "--prompt", "a", "--steps", 1, "--out", tmp_path / "clip.mp4")
    assert run(*common, "--seed", 2**63).exit_code == 2
    assert not (tmp_path / "clip.mp4").exists()
    assert run(*common, "--seed", 2**63 - 1, "--prompt", "b").exit_code == 0


def test_what_the_text_encoder_does_not_read_is_said(tiny_cogvideox_folder: Path, tmp_path: Path) -> None:
    common = (tiny_cogvideox_folder, "--steps", 1, "--out", tmp_path / "clip.gif", "--prompt", "red ring " * 9)
    result = run(*common, "--prompt", "a zebra", "--negative-prompt", "ring " * 16)
    assert result.exit_code == 0, result.output
    assert "2 of 3 prompts are longer than the text encoder's 16 tokens and are cut there: 'red" in result.stderr
    assert "1 of 3 prompts have words that the tokenizer does not know: 'zebra'" in result.stderr
    result = run(*common[:-2], "--prompt", "a ring", "--negative-prompt", "ring " * 16, "--guidance", 1)
    assert result.exit_code == 0 and "prompts" not in result.output  # without guidance nothing reads it
