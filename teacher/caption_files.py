"""Captions of video files: from a csv or jsonl table, or from a .txt beside each video."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

FILE_COLUMNS = ("file", "path", "video")
CAPTION_COLUMNS = ("caption", "text", "prompt")


def read_captions(videos: list[Path], folder: Path, table: Path | None) -> dict[Path, str]:
    """The caption of each video that has one; without a table, `clip.mp4` is described by `clip.txt`.

    A table names a video by its path inside `folder`, its whole path, or its bare file name.
    Raises ValueError for a table that is missing, has other columns, or describes one file twice.
    """
    if table is None:
        beside = {video: video.with_suffix(".txt") for video in videos}
        found = {video: _text(note) for video, note in beside.items() if note.is_file()}
    else:
        told = read_table(table)
        names = {v: (v.relative_to(folder).as_posix(), v.as_posix(), v.name) for v in videos}
        found = {v: next((told[n] for n in names[v] if n in told), "") for v in videos}
    return {video: " ".join(caption.split()) for video, caption in found.items() if caption.strip()}


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


def _csv_rows(table: Path) -> Iterator[tuple[str, dict[str, object]]]:
    with table.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.DictReader(file)
        columns = dict.fromkeys(reader.fieldnames or ())
        _cell(columns, FILE_COLUMNS, str(table))  # a header without rows is checked as well
        _cell(columns, CAPTION_COLUMNS, str(table))
        for row in reader:
            yield f"{table}, line {reader.line_num}", dict(row)


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
