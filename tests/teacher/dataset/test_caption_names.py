"""Which video an entry of a table means, and which it does not."""

from __future__ import annotations

from pathlib import Path
from unicodedata import normalize

import pytest

from fewstep.teacher.dataset.caption_names import match_entries
from fewstep.teacher.dataset.caption_tables import CaptionEntry

COMPOSED, DECOMPOSED = normalize("NFC", "é.mp4"), normalize("NFD", "é.mp4")


def match(folder: Path, names: list[str], videos: list[str]) -> tuple[dict[str, str], list[str]]:
    """name of a video -> name in the table, and what is said of the other entries; the table lies above the folder."""
    entries = [CaptionEntry(f"line {i}", name, "words") for i, name in enumerate(names, 2)]
    entries_of, strays = match_entries(entries, [folder / video for video in videos], folder, folder.parent)
    return {video.relative_to(folder).as_posix(): entry.name for video, entry in entries_of.items()}, list(
        map(str, strays)
    )


@pytest.mark.parametrize(
    ("name", "video"),
    [
        ("a.mp4", "a.mp4"),
        ("./sub//a.mp4", "sub/a.mp4"),
        ("sub\\a.mp4", "sub/a.mp4"),
        (".\\sub\\a.mp4", "sub/a.mp4"),
        ("other/../a.mp4", "a.mp4"),
        (" a.mp4\t", "a.mp4"),
        ("a.mp4", "sub/a.mp4"),  # no other video is called so
        (DECOMPOSED, COMPOSED),
        (COMPOSED, DECOMPOSED),
        (f"sub/{DECOMPOSED}", f"sub/{COMPOSED}"),
        (DECOMPOSED, f"sub/{COMPOSED}"),
        ("clips/a.mp4", "a.mp4"),  # from the table, as in a dataset's metadata
        ("back\\slash.mp4", "back\\slash.mp4"),
        (" blank.mp4", " blank.mp4"),
    ],
)
def test_names_that_mean_one_video(tmp_path: Path, name: str, video: str) -> None:
    assert match(tmp_path / "clips", [name], [video, "b.mp4"]) == ({video: name}, [])


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("zz.mp4", ""),
        ("A.mp4", " (it differs only in case from a.mp4)"),
        ("a.MP4", " (it differs only in case from a.mp4)"),
        ("sub/C.mp4", " (it differs only in case from sub/c.mp4)"),
        ("a", " (it lacks the suffix of a.mp4)"),
        ("sub/c", " (it lacks the suffix of sub/c.mp4)"),
        ("a.avi", " (it has another suffix than a.mp4)"),
        ("with%20blank.mp4", " (percent signs stand for the characters of with blank.mp4)"),
        ("/data/of/others/a.mp4", " (it names another folder than that of a.mp4)"),
        ("C:\\films\\a.mp4", " (it names another folder than that of a.mp4)"),
        ("other/c.mp4", " (it names another folder than that of sub/c.mp4)"),
    ],
)
def test_names_that_mean_none(tmp_path: Path, name: str, hint: str) -> None:
    videos = ["a.mp4", "sub/c.mp4", "with blank.mp4"]
    matched, strays = match(tmp_path / "clips", [name, "with blank.mp4"], videos)
    assert matched == {"with blank.mp4": "with blank.mp4"} and strays == [f"{name}{hint}"]


def test_a_stray_entry_is_reported_with_its_line(tmp_path: Path) -> None:
    _, (stray,) = match_entries([CaptionEntry("t.csv, line 7", "A.mp4", "x")], [tmp_path / "a.mp4"], tmp_path, tmp_path)
    assert stray.skip().model_dump() == {
        "file": "A.mp4",
        "reason": "t.csv, line 7: no video has this name; it differs only in case from a.mp4",
    }


@pytest.mark.parametrize(
    "names", [["a.mp4", "./a.mp4"], ["a.mp4", "clips/a.mp4"], ["sub/c.mp4", "c.mp4"], ["a.mp4", "a.mp4 "]]
)
def test_two_entries_of_one_video_are_refused(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(ValueError, match=r"line 3: .* already has a caption, line 2: keep one of them"):
        match(tmp_path / "clips", names, ["a.mp4", "sub/c.mp4"])


def test_only_the_form_of_a_letter_tells_two_videos_apart(tmp_path: Path) -> None:
    both = [COMPOSED, DECOMPOSED]
    assert match(tmp_path / "clips", both, both) == ({COMPOSED: COMPOSED, DECOMPOSED: DECOMPOSED}, [])
    mixed = COMPOSED.removesuffix(".mp4") + DECOMPOSED
    forms = [normalize(form, mixed) for form in ("NFC", "NFD")]
    with pytest.raises(ValueError, match="line 2: 2 videos are called"):
        match(tmp_path / "clips", [mixed], forms)
