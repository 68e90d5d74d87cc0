"""What users write: captions of videos in a csv or jsonl table or a .txt beside each, and lists of prompts."""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Iterator
from pathlib import Path

FILE_COLUMNS = ("file", "path", "video")
CAPTION_COLUMNS = ("caption", "text", "prompt")


def read_captions(videos: list[Path], folder: Path, table: Path | None) -> dict[Path, str]:
    """The caption of each video that has one; without a table, `clip.mp4` is described by `clip.txt`.

    A table names a video by its path inside `folder`, by its whole path, or, where only one video has it,
    by its bare file name. Raises ValueError for a table that is missing, cannot be read, has other columns,
    describes one file twice, or uses a bare name that fits several videos.
    """
    if table is None:
        beside = {video: video.with_suffix(".txt") for video in videos}
        found = {video: _text(note) for video, note in beside.items() if note.is_file()}
    else:
        told = read_table(table)
        found = {video: told[name] for video, name in _names(videos, folder, told).items()}
    return {video: " ".join(caption.split()) for video, caption in found.items() if caption.strip()}


def read_prompts(path: Path) -> list[str]:
    """One prompt per line, blank lines left out. Raises ValueError for a file that is missing, empty or no text."""
    if not path.is_file():
        raise ValueError(f"there is no prompts file {path}: pass a text file with one prompt per line")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason}, byte {error.start}): save it as UTF-8") from error
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise ValueError(f"{path} holds no prompts: write one per line")
    return prompts


def read_table(table: Path) -> dict[str, str]:
    """File name -> caption of a .csv or .jsonl file. Raises ValueError as `read_captions` does."""
    if not table.is_file():
        raise ValueError(f"there is no captions file {table}: give the path of a .csv or .jsonl file")
    if table.suffix.lower() not in (".csv", ".jsonl"):
        raise ValueError(f"captions file {table} is neither .csv nor .jsonl: convert it to one of them")
    captions: dict[str, str] = {}
    for place, row in _csv_rows(table) if table.suffix.lower() == ".csv" else _json_rows(table):
        name = Path(_cell(row, FILE_COLUMNS, place)).as_posix()
        if name in captions:
            raise ValueError(f"{place}: {name} already has a caption; keep one line for each file")
        captions[name] = _cell(row, CAPTION_COLUMNS, place)
    return captions


def _names(videos: list[Path], folder: Path, told: Collection[str]) -> dict[Path, str]:
    """The name by which a table tells of each video that it tells of."""
    found: dict[Path, str] = {}
    for video in videos:
        inside = video.relative_to(folder)
        paths = (inside, video, video.absolute(), folder.resolve() / inside)
        name = next((path.as_posix() for path in paths if path.as_posix() in told), None)
        if name is not None:
            found[video] = name
    taken = set(found.values())  # the path of one video is not the bare name of another
    for name, fitting in _by_bare_name([v for v in videos if v not in found and v.name not in taken]).items():
        if name in told and len(fitting) > 1:
            raise ValueError(
                f"the captions tell of {name}, and {len(fitting)} videos have that name, such as {fitting[0]} and "
                f"{fitting[1]}: give their paths inside {folder}"
            )
        found |= {video: name for video in fitting if name in told}
    return found


def _by_bare_name(videos: list[Path]) -> dict[str, list[Path]]:
    named: dict[str, list[Path]] = {}
    for video in videos:
        named.setdefault(video.name, []).append(video)
    return named


def _csv_rows(table: Path) -> Iterator[tuple[str, dict[str, object]]]:
    line = 1  # where the row begins; an unclosed quote is only noticed at the end of the file
    with table.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            columns = dict.fromkeys(reader.fieldnames or ())
            _cell(columns, FILE_COLUMNS, str(table))  # a header without rows is checked as well
            _cell(columns, CAPTION_COLUMNS, str(table))
            line = reader.line_num + 1
            for row in reader:
                yield f"{table}, line {reader.line_num}", dict(row)
                line = reader.line_num + 1
        except csv.Error as error:
            raise ValueError(f"{table}, line {line} is not CSV ({error}): close and double its quotes") from error


def _json_rows(table: Path) -> Iterator[tuple[str, dict[str, object]]]:
    for number, line in enumerate(_text(table).split("\n"), 1):
        if not line.strip():
            continue
        place = f"{table}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{place} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f'{place} is not an object such as {{"file": "a.mp4", "caption": "a dog runs"}}')
        yield place, row


def _cell(row: dict[str, object], columns: tuple[str, ...], place: str) -> str:
    for column in columns:
        if column in row:
            value = row[column]
            return "" if value is None else str(value)
    raise ValueError(
        f"{place} has the columns {', '.join(row) or 'none'}: one of {', '.join(columns)} must be among them"
    )


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8-sig", errors="replace")
