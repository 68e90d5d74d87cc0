"""Tables of captions: .csv, .tsv and .jsonl files, read strictly, so that no caption is cut off or made up."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fewstep.teacher.dataset.strict_csv import read_csv
from fewstep.teacher.files.json_text import parse_json
from fewstep.teacher.files.text_files import check_characters, lines_of, read_text
from fewstep.teacher.given import GIVEN_NAMES, Prompt, existing, given_names, why_not_given
from fewstep.teacher.videos.decoding import SUFFIXES as VIDEO_SUFFIXES

FILE_COLUMNS = (
    "file", "file_name", "filename", "file_path", "filepath", "path",
    "video", "video_file", "video_name", "video_path",
)  # fmt: skip
CAPTION_COLUMNS = ("caption", "text", "prompt")
_QUOTED = r"b?(?P<quote>['\"]).*(?P=quote)"
_LITERALS = r"(?:(?:none|nan|null|true|false|[-+]?[\d.]+(?:e[-+]?\d+)?)(?:\s*,\s*|\s+|(?=[\])])))*"
# What other tools write where a caption is missing, and how programs print a value that is no text.
_NO_CAPTION = re.compile(
    r"nan|nat|none|null|<na>|undefined|#?n/a|#(?:name|ref|value|num|null|div/0|spill|calc)[?!]"  # missing, in a table
    rf"|['\"]*|b(?P<bytes>['\"]).*(?P=bytes)|[\[(]\s*(?:{_QUOTED}[\s,]*|{_LITERALS})[\])]|\{{\s*(?:['\"].*)?\}}"
    r"|(?:array|tensor|series|set|frozenset|dict_\w+|ordereddict)\(.*\)|<.* at 0x[\da-f]+>|\[object \w+\]",
    re.IGNORECASE | re.DOTALL,
)
_VIDEO_NAME = rf"\S({'|'.join(map(re.escape, sorted(VIDEO_SUFFIXES)))})\b"
_OTHER_ROWS = re.compile(rf"[\r\n].*{_VIDEO_NAME}|{_VIDEO_NAME}.*[\r\n]", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class CaptionEntry:
    """One caption, and the name of the video that it describes, as a table has them."""

    place: str  # file and line, for people
    name: str
    caption: str  # may be empty
    given: Mapping[str, Path] = field(default_factory=dict)  # files that the row names, by what they are given as


def read_table(table: Path, given: Mapping[str, str] | None = None) -> list[CaptionEntry]:
    """The entries of a .csv, .tsv or .jsonl file. A .csv may have commas, semicolons or tabs.

    given: name -> column of paths from the table's folder; an empty cell gives nothing.

    Raises ValueError, with the line, for a table that is missing, empty or no text, that has other columns, a row of
    more or fewer cells than the header, or a name or caption that is no text.
    """
    if not table.is_file():
        raise ValueError(f"there is no captions file {table}: give the path of a .csv or .jsonl file")
    readers: dict[str, Callable[[Path, Mapping[str, str]], Iterator[CaptionEntry]]] = {
        ".csv": _csv_entries,
        ".tsv": _csv_entries,
        ".jsonl": _json_entries,
    }
    if table.suffix.lower() not in readers:
        raise ValueError(f"captions file {table} is neither .csv nor .jsonl: convert it to one of them")
    entries = list(readers[table.suffix.lower()](table, given or {}))
    if not entries:
        raise ValueError(f"{table} holds no captions: write a line for each video")
    return entries


def read_prompt_table(table: Path) -> list[str]:
    """The prompts of a .jsonl file, each with the files that its row names. Raises ValueError, with the line, for a row
    that is no such object, a file that is missing, and when not all rows have the same names."""
    prompts: list[str] = []
    for place, row in _json_rows(table):
        columns = list(row)
        text_at = columns[_column(columns, CAPTION_COLUMNS, place)]
        # a name that is misspelt would leave out the file that it was meant for
        for name in columns:
            if name != text_at and name not in GIVEN_NAMES:
                raise ValueError(f"{place} has {name!r}, which {why_not_given(name)}")
        text = _text(row[text_at], "a prompt", place)
        check_caption(text, place, "prompt")
        files = {name: _file(row[name], table, place) for name in GIVEN_NAMES if name in row}
        prompts.append(Prompt(" ".join(text.split()), files))
    if not prompts:
        raise ValueError(f'{table} holds no prompts: write one object per line, such as {{"prompt": "a dog runs"}}')
    # clips are made in batches, so that every prompt must come with the same kinds of files
    given_names(prompts)
    return prompts


def _file(name: object, table: Path, place: str) -> Path:
    return existing(_path(name, table, place), place)


def _path(name: object, table: Path, place: str) -> Path:
    """From the table's folder."""
    return table.parent / Path(_text(name, "a file", place)).expanduser()


def _csv_entries(table: Path, given: Mapping[str, str]) -> Iterator[CaptionEntry]:
    def fits(header: list[str]) -> bool:
        return all(_among(header, columns) for columns in (FILE_COLUMNS, CAPTION_COLUMNS))

    header, rows = read_csv(table, fits)
    if not header:
        return
    file_at, caption_at = (_column(header, columns, str(table)) for columns in (FILE_COLUMNS, CAPTION_COLUMNS))
    # by the exact name, which several may be alike but for capitals, else as those of files and captions
    given_at = {
        name: header.index(column) if column in header else _column(header, (_plain(column),), str(table))
        for name, column in given.items()
    }
    for line, cells in rows:
        place = f"{table}, line {line}"
        # a quote that is left open swallows rows: a line break next to a video's name shows it
        if _OTHER_ROWS.search(cells[caption_at]):
            raise ValueError(f"{place} has a caption that runs into the next row: close its quotes")
        files = {name: cells[at] for name, at in given_at.items() if cells[at].strip()}
        yield _entry(cells[file_at], cells[caption_at], place, table, files)


def _json_entries(table: Path, given: Mapping[str, str]) -> Iterator[CaptionEntry]:
    seen: dict[str, None] = {}
    for place, row in _json_rows(table):
        names = list(row)
        seen |= dict.fromkeys(names)
        file_at, caption_at = (_column(names, columns, place) for columns in (FILE_COLUMNS, CAPTION_COLUMNS))
        files = {name: row[column] for name, column in given.items() if row.get(column)}
        yield _entry(row[names[file_at]], row[names[caption_at]], place, table, files)
    # a column that no row has is a mistake; one that some rows lack gives these nothing
    if seen and (unknown := [column for column in given.values() if column not in seen]):
        raise ValueError(f"{table} has no column {unknown[0]}: it has {', '.join(seen)[:200]}; name one of these")


def _json_rows(table: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each line's place, for people, and its object; blank lines are left out."""
    for number, line in enumerate(lines_of(read_text(table)), 1):
        if line.strip():
            place = f"{table}, line {number}"
            yield place, _json_object(line, place)


def _json_object(line: str, place: str) -> Mapping[str, Any]:
    twice: list[str] = []

    # JSON takes the last of two equal names, and a caption would be lost without a word
    def keep(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        twice.extend(name for name in names if names.count(name) > 1)
        return dict(pairs)

    try:
        row = parse_json(line, keep)
    except json.JSONDecodeError as error:
        raise ValueError(f"{place} is not JSON ({error.msg}, column {error.colno}): write one object a line") from error
    except (ValueError, RecursionError) as error:  # too many digits, too many brackets
        raise ValueError(f"{place} cannot be read as JSON: write one object a line") from error
    if not isinstance(row, dict):
        example = '{"file": "a.mp4", "caption": "a dog runs"}'
        raise ValueError(f"{place} is not an object such as {example}: write one object a line")
    if twice:
        raise ValueError(f"{place} says {twice[0]} more than once: keep one of them")
    return row


def _column(header: list[str], columns: tuple[str, ...], place: str) -> int:
    """Where the one of these columns stands in the header. Raises ValueError when none does, or several do."""
    indices = _among(header, columns)
    if not indices:
        shown = ", ".join(header)[:200] or "none"
        raise ValueError(f"{place} has the columns {shown}: one of {', '.join(columns)} must be among them")
    if len(indices) > 1:
        shown = " and ".join(header[i] for i in indices)
        raise ValueError(f"{place} has the columns {shown}: keep one of them, or rename the others")
    return indices[0]


def _among(header: list[str], columns: tuple[str, ...]) -> list[int]:
    return [i for i, name in enumerate(map(_plain, header)) if name in columns]


def _plain(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def check_caption(caption: str, place: str, what: str = "caption") -> None:
    """Raises ValueError for what another tool wrote in place of a caption, such as nan or the text of a list."""
    if caption.strip() and _NO_CAPTION.fullmatch(caption.strip()):
        raise ValueError(f"{place} has {caption.strip()[:40]!r} for a {what}: write one text, or nothing")


def _entry(name: object, caption: object, place: str, table: Path, files: Mapping[str, object]) -> CaptionEntry:
    named, text = _text(name, "a file name", place), _text(caption, "a caption", place)
    if not named.strip():
        raise ValueError(f"{place} names no file: write the name of the video that the caption describes")
    check_caption(text, place)
    paths = {what: _path(file, table, place) for what, file in files.items()}
    return CaptionEntry(place, named, text, paths)  # a file that is missing costs its own clip alone


def _text(value: object, what: str, place: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{place} has {_json_kind(value)} for {what}: write one text, in double quotes")
    check_characters(value, place)
    return value


def _json_kind(value: object) -> str:
    if isinstance(value, list):
        return "a list"
    if isinstance(value, dict):
        return "an object"
    text = json.dumps(value)[:40]
    return text if value is None or isinstance(value, bool) else f"the number {text}"
