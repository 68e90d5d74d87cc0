"""What users write: captions of videos in a table or a .txt next to each, and lists of prompts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fewstep.teacher.dataset.caption_names import UnmatchedEntry, match_entries
from fewstep.teacher.dataset.caption_sidecars import read_sidecars
from fewstep.teacher.dataset.caption_tables import check_caption, read_prompt_table, read_table
from fewstep.teacher.dataset.manifest import Unmatched
from fewstep.teacher.files.text_files import first_few, is_blank, lines_of, read_text
from fewstep.teacher.given import Prompt

_TABLES = {".csv", ".tsv", ".json", ".jsonl", ".yaml", ".yml", ".xlsx", ".parquet"}


@dataclass(frozen=True)
class Captions:
    """The caption of each video that has one, and the entries that describe no video."""

    texts: dict[Path, str] = field(repr=False)
    source: str  # what the entries are, in words
    entries: int
    strays: Sequence[UnmatchedEntry] = ()
    given: frozenset[str] = field(default=frozenset(), repr=False)  # real paths of files that entries give with a clip

    @property
    def unmatched(self) -> Unmatched | None:
        """How many entries describe no video, and which are the first; None when each describes one."""
        if not self.strays:
            return None
        return Unmatched(
            entries=self.entries, source=self.source, count=len(self.strays), listed=first_few(self.strays)
        )

    def clips_among(self, files: Sequence[Path]) -> list[Path]:
        """The files that are clips. One that an entry gives with a clip, as its control video, is none, unless it has
        a caption of its own."""
        return [path for path in files if path in self.texts or os.path.realpath(path) not in self.given]

    def for_teacher(self, reads_text: bool, videos: Sequence[Path]) -> Captions:
        """The same, with an empty caption for each other video where no text is read (`Teacher.reads_text`)."""
        return self if reads_text else replace(self, texts=dict.fromkeys(videos, "") | self.texts)


def read_captions(
    videos: Sequence[Path], folder: Path, table: Path | None, columns: Mapping[str, str] | None = None
) -> Captions:
    """The captions of these videos, from a table or, without one, of `clip.mp4` from `clip.txt` next to it.

    columns: names of what is given -> the table's columns with the files; captions are then prompts with these files.

    How a table names videos: see `match_entries`. Raises ValueError for a table or .txt file that is missing or cannot
    be read whole, and for a table that describes one video twice or none at all.
    """
    if table is None:
        if columns:
            raise ValueError(
                f"{', '.join(columns)} cannot be given without a table: pass captions with the column "
                f"{next(iter(columns.values()))}"
            )
        entries, strays = read_sidecars(videos, folder)
        source = ".txt files"
    else:
        entries, strays = match_entries(read_table(table, columns or {}), videos, folder, table.parent)
        source = f"entries of {table.name}"
        if not entries:
            raise ValueError(
                f"none of the {len(strays)} entries of {table} names a video in {folder}: {first_few(strays)}; write "
                f"the path of each video inside {folder}, such as {videos[0].relative_to(folder).as_posix()}"
            )
    # line breaks within a caption become blanks; an empty caption counts as none
    texts: dict[Path, str] = {
        video: Prompt(" ".join(entry.caption.split()), entry.given)
        for video, entry in entries.items()
        if not is_blank(entry.caption)
    }
    given = frozenset(os.path.realpath(path) for entry in entries.values() for path in entry.given.values())
    return Captions(texts, source, len(entries) + len(strays), strays, given)


def read_prompts(path: Path) -> list[str]:
    """One prompt per line, blank lines left out.

    Of a .jsonl file one object per line, {"prompt": "a dog runs", "first": "dog.png"}, with the files that are given
    with it (`teacher.given.GIVEN_NAMES`), found from the folder of the prompts.

    Raises ValueError for a file that is missing, empty or another table, and as `read_text` does; for a given file that
    is missing; and when not all prompts come with the same kinds of files.
    """
    if not path.is_file():
        raise ValueError(f"there is no prompts file {path}: pass a text file with one prompt per line")
    if path.suffix.lower() == ".jsonl":
        return read_prompt_table(path)
    # read line by line, every row of a table would count as a prompt
    if path.suffix.lower() in _TABLES:
        raise ValueError(
            f"prompts file {path} is a table: pass a .txt file with one prompt per line and nothing else, or a .jsonl "
            "file with one object per line"
        )
    prompts = []
    for number, line in enumerate(lines_of(read_text(path)), 1):
        check_caption(line, f"{path}, line {number}", "prompt")
        prompts += [] if is_blank(line) else [line.strip()]
    if not prompts:
        raise ValueError(f"{path} holds no prompts: write one per line")
    return prompts
