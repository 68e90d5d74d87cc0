"""Captions in .txt files next to their videos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from unicodedata import normalize

from fewstep.teacher.dataset.caption_names import UnmatchedEntry
from fewstep.teacher.dataset.caption_tables import CaptionEntry, check_caption
from fewstep.teacher.files.text_files import first_few, read_text


def read_sidecars(videos: Sequence[Path], folder: Path) -> tuple[dict[Path, CaptionEntry], list[UnmatchedEntry]]:
    """What `clip.txt` says of `clip.mp4` next to it, and the .txt files next to no video, in folders that hold videos.

    Composed and decomposed letters make no difference. Raises ValueError for a .txt file that cannot be read whole.
    """
    notes = [
        path
        for parent in dict.fromkeys(video.parent for video in videos)
        for path in sorted(parent.iterdir())
        if path.suffix.lower() == ".txt" and not path.name.startswith(".") and path.is_file()
    ]
    # the exact name goes first; else Unicode's form and the case of .txt may differ
    exact = {note.with_suffix(""): note for note in notes if note.suffix == ".txt"}
    alike = {_composed(note.with_suffix("")): note for note in notes}
    sidecars = {
        video: exact.get(video.with_suffix("")) or alike.get(_composed(video.with_suffix(""))) for video in videos
    }
    described = {video: note for video, note in sidecars.items() if note is not None}
    return _read(described), _unmatched_sidecars(set(notes) - set(described.values()), videos, folder)


def _read(notes: Mapping[Path, Path]) -> dict[Path, CaptionEntry]:
    """What each video's .txt file says. Raises ValueError for the first that cannot be read, naming the others."""
    entries: dict[Path, CaptionEntry] = {}
    wrong: dict[Path, ValueError] = {}
    for video, note in notes.items():
        try:
            caption = read_text(note)
            check_caption(caption, str(note))
            entries[video] = CaptionEntry(str(note), note.name, caption)
        except ValueError as error:
            wrong.setdefault(note, error)
    # every file is read before an error is raised, which can then name all that need work
    if wrong:
        first, *others = wrong
        more = f"; nor can {first_few(others)} be read" if others else ""
        raise ValueError(f"{wrong[first]}{more}")
    return entries


def _unmatched_sidecars(notes: set[Path], videos: Sequence[Path], folder: Path) -> list[UnmatchedEntry]:
    hints: dict[str, str] = {}
    for video in videos:
        hints.setdefault(_folded(video.with_suffix("")), f"it differs only in case from {video.name}")
        hints.setdefault(_folded(video), f"{video.name} is described by {video.stem}.txt")
    return [
        UnmatchedEntry(note.relative_to(folder).as_posix(), "a .txt file", hints.get(_folded(note.with_suffix("")), ""))
        for note in sorted(notes)
    ]


def _composed(path: Path) -> str:
    return normalize("NFC", path.as_posix())


def _folded(path: Path) -> str:
    return _composed(path).casefold()
