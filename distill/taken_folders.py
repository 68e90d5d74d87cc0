"""Folders that belong to a dataset, a pipeline or a run: files of other kinds would get lost there or be mistaken."""

from __future__ import annotations

from pathlib import Path

from fewstep.distill.run_folder import FOLDERS, enclosing_run
from fewstep.teacher.dataset.buckets import BUCKETS_FILE
from fewstep.teacher.dataset.manifest import MANIFEST_FILE
from fewstep.teacher.files.atomic import ELSEWHERE, check_writable
from fewstep.teacher.pipelines.index import index_path

_OF_DATASETS = ("items.jsonl", "unconditional.parquet", "shard-00000.parquet")


def check_not_taken(path: Path, elsewhere: str = ELSEWHERE) -> None:
    """Raises ValueError for a path that is, or lies in, the folder of a dataset, a pipeline or a run's own files.

    In a run directory itself others may write, as `fewstep evaluate` does into RUN/evaluation.
    """
    whole = path.resolve()
    for folder in (whole, *whole.parents):
        kind = _kind(folder)
        if kind is not None:
            where = "is the folder of" if folder == whole else "lies in the folder of"
            raise ValueError(f"{path} {where} {kind}{'' if folder == whole else f', {folder}'}: {elsewhere}")


def check_free(path: Path, elsewhere: str = ELSEWHERE) -> None:
    """Raises ValueError unless files can be written into a folder that is not taken, nor a run directory itself."""
    check_writable(path, elsewhere)
    check_not_taken(path, elsewhere)
    if enclosing_run(path) == path.resolve():
        raise ValueError(f"{path} is the directory of a run: {elsewhere}")


def _kind(folder: Path) -> str | None:
    """What a folder is, in words; None where it is not one of these."""
    if index_path(folder).is_file():
        return "a diffusers pipeline"
    if (folder / BUCKETS_FILE).is_file():
        return "a dataset"
    if (folder / MANIFEST_FILE).is_file() and any((folder / name).exists() for name in _OF_DATASETS):
        return "a dataset"
    if folder.name in FOLDERS and enclosing_run(folder) == folder.parent:
        return "a run's own files"
    return None
