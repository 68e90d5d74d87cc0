"""What is given with prompts: read, told apart, or refused with the place that is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fewstep.teacher.dataset.caption_files import read_prompts
from fewstep.teacher.given import (
    Prompt,
    check_given,
    files_of,
    given_error,
    given_names,
    given_of_clips,
    identity_of,
    noise_given,
    parse_given,
    parse_sources,
    read_given,
)
from fewstep.teacher.source import VideoSize
from fewstep.teacher.videos.decoding import ClipShape, decode_video
from fewstep.teacher.videos.writing import write_video

SIZE, PICTURE = VideoSize(5, 16, 24), VideoSize(1, 16, 24)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """32 x 48, red on the left, blue on the right."""
    pixels = np.zeros((32, 48, 3), np.uint8)
    pixels[:, :24, 0], pixels[:, 24:, 2] = 255, 255
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


@pytest.fixture
def film(tmp_path: Path) -> Path:
    frames = np.repeat(np.arange(0, 250, 25, dtype=np.uint8)[:, None, None, None], 16, 1).repeat(24, 2).repeat(3, 3)
    write_video(tmp_path / "film.gif", frames, 10)
    return tmp_path / "film.gif"


def test_a_prompt_is_a_text_that_remembers_its_files(picture: Path) -> None:
    plain, with_file = Prompt("a ring"), Prompt("a ring", {"first": picture})
    assert plain == "a ring" and with_file != "a ring" and with_file != plain
    assert len({"a ring", plain, with_file, Prompt("a ring", {"first": picture})}) == 2
    assert files_of(with_file) == {"first": picture} and files_of("a ring") == {}
    assert json.loads(json.dumps([with_file])) == ["a ring"]


def test_the_identity_is_of_contents_and_not_of_places(picture: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.png"
    copy.write_bytes(picture.read_bytes())
    first, second = (identity_of(Prompt("a ring", {"first": path})) for path in (picture, copy))
    assert first == second != identity_of("a ring") == ["a ring"]
    copy.write_bytes(picture.read_bytes() + b"more")
    assert identity_of(Prompt("a ring", {"first": copy})) != first


def test_pictures_are_cut_like_clips(picture: Path) -> None:
    pixels = read_given([Prompt("a", {"first": picture})], {"first": VideoSize(1, 16, 16)}, 8.0)["first"]
    assert pixels.shape == (1, 3, 1, 16, 16) and pixels.dtype == torch.uint8
    assert pixels[0, :, 0, 8, 2].tolist() == [255, 0, 0] and pixels[0, :, 0, 8, 13].tolist() == [0, 0, 255]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "I;16", "1"])
def test_pictures_of_any_kind(picture: Path, mode: str, tmp_path: Path) -> None:
    suffix = "tiff" if mode in ("CMYK",) else "png"
    image = (
        Image.fromarray(np.full((16, 24), 30000, np.uint16)) if mode == "I;16" else Image.open(picture).convert(mode)
    )
    image.save(tmp_path / f"other.{suffix}")
    pixels = read_given([Prompt("a", {"last": tmp_path / f"other.{suffix}"})], {"last": PICTURE}, 8.0)["last"]
    assert pixels.shape == (1, 3, 1, 16, 24)
    if mode == "I;16":
        assert set(pixels.flatten().tolist()) == {30000 // 257}  # as a viewer shows it, not white


def test_pictures_of_32_bits_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((16, 24), 0.5, np.float32)).save(tmp_path / "depth.tiff")
    with pytest.raises(ValueError, match="its pixels are numbers of 32 bits, of an unknown range, mode F"):
        read_given([Prompt("a", {"control": tmp_path / "depth.tiff"})], {"control": SIZE}, 8.0)


def test_what_is_transparent_is_white(tmp_path: Path) -> None:
    Image.new("RGBA", (24, 16), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (
        int(read_given([Prompt("a", {"first": tmp_path / "clear.png"})], {"first": PICTURE}, 8.0)["first"].min()) == 255
    )


def test_a_photograph_stands_upright(tmp_path: Path) -> None:
    image, tags = Image.new("RGB", (16, 24)), Image.Exif()
    image.paste((255, 255, 255), (0, 0, 8, 24))  # the left half, which a turned camera shows above
    tags[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=tags)
    pixels = read_given([Prompt("a", {"first": tmp_path / "turned.jpg"})], {"first": PICTURE}, 8.0)["first"][
        0, 0, 0
    ].float()
    assert pixels[:6].mean() > 200 and pixels[10:].mean() < 50


def test_videos_have_as_many_frames_as_the_clip(film: Path, picture: Path) -> None:
    pixels = read_given([Prompt("a", {"control": film, "mask": picture})], {"control": SIZE, "mask": SIZE}, 10.0)
    assert pixels["control"][0, 0, :, 0, 0].tolist() == [0, 25, 50, 75, 100]
    later = read_given([Prompt("a", {"control": film})], {"control": SIZE}, 10.0, "centre")["control"]
    assert torch.equal(later, torch.from_numpy(decode_video(film, ClipShape(*SIZE, fps=10.0))).movedim(-1, 0)[None])
    assert later[0, 0, 0, 0, 0] > 0  # the part that a clip of this film is
    assert pixels["mask"].shape == (1, 3, 5, 16, 24) and torch.equal(pixels["mask"][:, :, 0], pixels["mask"][:, :, 4])


def test_frames_of_training_clips() -> None:
    clips = torch.arange(2 * 3 * 5 * 4, dtype=torch.uint8).view(2, 3, 5, 2, 2)
    pixels = given_of_clips(clips, {"first": "FIRST_FRAME", "last": "LAST_FRAME", "control": "column"})
    assert set(pixels) == {"first", "last"}
    assert torch.equal(pixels["first"], clips[:, :, :1]) and torch.equal(pixels["last"], clips[:, :, -1:])


def test_noise_is_the_same_at_every_call() -> None:
    one, other = (noise_given({"first": PICTURE, "control": SIZE}, 2) for _ in range(2))
    assert one["first"].shape == (2, 3, 1, 16, 24) and one["control"].shape == (2, 3, 5, 16, 24)
    assert torch.equal(one["control"], other["control"]) and not torch.equal(one["control"][0], one["control"][1])


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("first", None, "there is no file"),
        ("first", b"not an image", "cannot be read as an image"),
        ("first", b"", "cannot be read as an image"),
        ("control", b"GIF89a", "cannot be read as a"),
    ],
)
def test_files_that_cannot_be_read(name: str, content: bytes | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / ("file.gif" if name == "control" else "file.png")
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=words):
        read_given([Prompt("a", {name: path})], {name: SIZE}, 8.0)


def test_a_broken_picture(picture: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(picture.read_bytes()[:60])
    with pytest.raises(ValueError, match="cannot be read as an image"):
        read_given([Prompt("a", {"first": tmp_path / "cut.png"})], {"first": PICTURE}, 8.0)


def test_a_video_is_no_first_frame_and_must_be_long_enough(film: Path) -> None:
    with pytest.raises(ValueError, match="is a video: give an image"):
        read_given([Prompt("a", {"first": film})], {"first": PICTURE}, 8.0)
    with pytest.raises(ValueError, match="too short"):
        read_given([Prompt("a", {"control": film})], {"control": VideoSize(81, 16, 24)}, 10.0)


def test_files_are_looked_at_before_they_are_read(picture: Path, film: Path, tmp_path: Path) -> None:
    good, table = Prompt("a ring", {"first": picture, "control": film}), tmp_path / "table.jsonl"
    table.write_text("{}")
    sizes = {"first": PICTURE, "control": SIZE}
    check_given([good, good], sizes, 10.0)
    check_given([Prompt("a ring")], sizes, 10.0)  # the first link of a chain makes it
    broken = tmp_path / "broken.png"
    broken.write_bytes(picture.read_bytes()[:80])
    for files, words in (
        ({"first": broken}, "first: .*broken.png cannot be read as an image"),
        ({"first": film}, "first: .* is a video: give an image"),
        ({"control": table}, "control: .*table.jsonl cannot be read as an image"),
        ({"control": tmp_path / "none.mp4"}, "control: there is no file"),
    ):
        wrong = Prompt("a box", {**good.given, **files})
        with pytest.raises(ValueError, match=words):
            check_given([good, wrong], sizes, 10.0)
        assert given_error(wrong, sizes, 10.0) and not given_error(good, sizes, 10.0)
    with pytest.raises(ValueError, match=r"too short: 1.00 s, it needs more than"):
        check_given([good], {"control": SIZE._replace(num_frames=25)}, 10.0)
    assert given_error(Prompt("a box", {"first": picture}), sizes, 10.0) == "no control is given"


def test_options(picture: Path) -> None:
    assert parse_given([f"first={picture}"]) == {"first": picture}
    for texts, words in (
        (["first"], "not of the form NAME=VALUE"),
        (["first="], "not of the form"),
        ([f"frist={picture}"], "'frist' cannot be given: use first, last"),
        (["audio=speech.wav"], "'audio' cannot be given: no pipeline that fewstep distils makes clips from sound; use"),
        ([f"first={picture}"] * 2, "is given twice"),
        (["first=nowhere.png"], "there is no file nowhere.png"),
    ):
        with pytest.raises(ValueError, match=words):
            parse_given(texts)
    assert parse_sources(["first=FIRST_FRAME", "control=depth"]) == {"first": "FIRST_FRAME", "control": "depth"}
    with pytest.raises(ValueError, match="cannot be given"):
        parse_sources(["picture=FIRST_FRAME"])


def test_prompts_with_files(picture: Path, tmp_path: Path) -> None:
    lines = [{"prompt": "a ring", "first": "picture.png"}, {"prompt": " a  cross ", "first": str(picture)}]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    prompts = read_prompts(tmp_path / "prompts.jsonl")
    assert list(map(str, prompts)) == ["a ring", "a cross"] and given_names(prompts) == ("first",)
    assert [files_of(prompt)["first"].resolve() for prompt in prompts] == [picture.resolve()] * 2


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ('{"prompt": "a", "first": "nowhere.png"}', "line 1: there is no file"),
        ('{"prompt": "a"}\n{"prompt": "b", "first": "picture.png"}', "give all prompts the same kinds of files"),
        ('{"prompt": "a", "picture": "picture.png"}', "line 1 has 'picture', which cannot be given: use first"),
        ('{"prompt": "a", "audio": "a.wav"}', "has 'audio', which cannot be given: no pipeline that fewstep distils"),
        ('{"first": "picture.png"}', "one of caption, text, prompt must be among them"),
        ('{"prompt": 3}', "the number 3 for a prompt"),
        ('{"prompt": "a", "first": ["picture.png"]}', "a list for a file"),
        ("prompt\na ring", "is not JSON"),
        ("\n", "holds no prompts"),
    ],
)
def test_prompts_with_files_that_are_wrong(lines: str, words: str, picture: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text(lines)
    with pytest.raises(ValueError, match=words):
        read_prompts(tmp_path / "prompts.jsonl")
