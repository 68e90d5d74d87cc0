"""Which video an entry of a captions file means: exactly one, or none and what may be wrong."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from unicodedata import normalize
from urllib.parse import unquote

from fewstep.teacher.dataset.caption_tables import CaptionEntry
from fewstep.teacher.dataset.manifest import Skip


@dataclass(frozen=True)
class UnmatchedEntry:
    """An entry that describes no video."""

    name: str
    place: str  # in words
    hint: str = ""  # what keeps the name from fitting a video; empty where none is like it

    def __str__(self) -> str:
        name = " ".join(self.name.split())
        return f"{name} ({self.hint})" if self.hint else name

    def skip(self) -> Skip:
        """As skipped.jsonl has it."""
        hint = f"; {self.hint}" if self.hint else ""
        return Skip(file=self.name, reason=f"{self.place}: no video has this name{hint}")


_Names = dict[str, dict[str, Path]]  # a name in Unicode's composed form -> the name as it is on the disk -> its video


def match_entries(
    entries: Sequence[CaptionEntry], videos: Sequence[Path], folder: Path, table_folder: Path
) -> tuple[dict[Path, CaptionEntry], list[UnmatchedEntry]]:
    """The entry of each video that has one, and the entries that fit no video.

    An entry names a video by its path inside `folder`, its whole path, its path from the table, or, where only one
    video has it, its bare file name. Backslashes, ./ and blanks around a name, and composed or decomposed letters make
    no difference; upper and lower case do. Raises ValueError when two entries describe one video, or one fits several.
    """
    names = VideoNames(videos, folder, table_folder)
    matched: dict[Path, CaptionEntry] = {}
    # bare file names are looked at last: the path of one video is not the bare name of another
    bare: list[tuple[CaptionEntry, list[Path]]] = []
    for entry in entries:
        video = names.by_path(entry)
        if video is None:
            bare.append((entry, names.by_bare_name(entry.name)))
        else:
            _describe(matched, video, entry)
    strays, by_path = [], set(matched)
    for entry, named in bare:
        # a video that a path names already is not the one that a bare name means
        fitting = [video for video in named if video not in by_path] or named
        if not fitting:
            strays.append(UnmatchedEntry(entry.name, entry.place, names.hint(entry.name)))
        elif len(fitting) > 1:
            raise ValueError(_several(entry, fitting, folder))
        else:
            _describe(matched, fitting[0], entry)
    return matched, strays


class VideoNames:
    """Everything by which a table may name these videos."""

    def __init__(self, videos: Sequence[Path], folder: Path, table_folder: Path) -> None:
        self._folder = folder
        self._inside, self._whole, self._from_table = _Names(), _Names(), _Names()
        self._bare: dict[str, list[Path]] = {}
        self._names, self._stems = dict[str, str](), dict[str, str]()  # in small letters, for hints
        # the folder as the user wrote it, absolute, and with links resolved: tables have any of these
        roots = {path.as_posix() for path in (folder, folder.absolute(), folder.resolve())}
        below_table = Path(os.path.relpath(folder.resolve(), table_folder.resolve())).as_posix()
        for video in videos:
            inside = video.relative_to(folder).as_posix()
            _add(self._inside, inside, video)
            for root in roots:
                _add(self._whole, posixpath.normpath(f"{root}/{inside}"), video)
            _add(self._from_table, posixpath.normpath(f"{below_table}/{inside}"), video)
            self._bare.setdefault(_composed(video.name), []).append(video)
            # for hints: names in small letters, with their suffix and without
            for name in (inside, video.name):
                self._names.setdefault(_folded(name), inside)
                self._stems.setdefault(_folded(posixpath.splitext(name)[0]), inside)

    def by_path(self, entry: CaptionEntry) -> Path | None:
        """The video that has this path. Raises ValueError when only their Unicode form tells several apart."""
        # as written, then tidied: a file's name may hold a backslash, or end in a blank
        for name in dict.fromkeys((Path(entry.name).as_posix(), _tidy(entry.name))):
            for names in (self._inside, self._whole, self._from_table):
                fitting = names.get(_composed(name), {})
                if name in fitting:
                    return fitting[name]
                if len(fitting) > 1:
                    raise ValueError(_several(entry, list(fitting.values()), self._folder))
                if fitting:
                    return next(iter(fitting.values()))
        return None

    def by_bare_name(self, name: str) -> list[Path]:
        """The videos with this file name, in whichever folder."""
        return self._bare.get(_composed(Path(name).as_posix())) or self._bare.get(_composed(_tidy(name)), [])

    def hint(self, name: str) -> str:
        """What keeps this name from fitting a video, in words; empty where none is like it."""
        tidy = _tidy(name)
        # the usual slips; the first that leads to a video becomes the hint
        for like, names, words in (
            (tidy, self._names, "it differs only in case from {}"),
            (_tidy(unquote(name)), self._names, "percent signs stand for the characters of {}"),
            (tidy, self._stems, "it lacks the suffix of {}"),
            (posixpath.splitext(tidy)[0], self._stems, "it has another suffix than {}"),
            (posixpath.basename(tidy), self._names, "it names another folder than that of {}"),
        ):
            if video := names.get(_folded(like)):
                return words.format(video)
        return ""


def _describe(matched: dict[Path, CaptionEntry], video: Path, entry: CaptionEntry) -> None:
    if video in matched:
        raise ValueError(f"{entry.place}: {entry.name} already has a caption, {matched[video].place}: keep one of them")
    matched[video] = entry


def _several(entry: CaptionEntry, fitting: Sequence[Path], folder: Path) -> str:
    return (
        f"{entry.place}: {len(fitting)} videos are called {entry.name}, such as {fitting[0]} and {fitting[1]}: give "
        f"their paths inside {folder}"
    )


def _add(names: _Names, name: str, video: Path) -> None:
    names.setdefault(_composed(name), {})[name] = video


def _composed(name: str) -> str:
    return normalize("NFC", name)


def _folded(name: str) -> str:
    return _composed(_composed(name).casefold())


def _tidy(name: str) -> str:
    return posixpath.normpath(name.strip().replace("\\", "/"))
