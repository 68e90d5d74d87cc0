"""The way back: an exported student, in whichever format, ready to be sampled by us."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import torch

from fewstep.student.contract import CONTRACT_FILE, SamplingContract, read_contract
from fewstep.student.export.base import find_format
from fewstep.student.export.whole_folder import EXPORT_FILE
from fewstep.student.loading import Student, teacher_of
from fewstep.teacher.base import Teacher
from fewstep.teacher.experts import Experts
from fewstep.teacher.files.json_text import parse_json
from fewstep.teacher.load_teacher import load_teacher
from fewstep.teacher.pipelines.weight_files import tensor_shapes
from fewstep.teacher.predictions import record_prediction

_INDEX, _MARK = "model_index.json", "_fewstep_export"
_HERE = "fewstep.student.export"
# Suffix of a file of weights -> the module whose read_header finds format and contract in it.
_FILES = {".safetensors": f"{_HERE}.header", ".gguf": f"{_HERE}.gguf_file", ".onnx": f"{_HERE}.onnx_graph"}
_AGAIN = "copy or export it again"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def is_export(path: Path) -> bool:
    """Whether there is an export rather than a run, a stage or a teacher: its folder, or its file of weights."""
    if path.is_file():
        return path.suffix in (*_FILES, *_PICKLES)
    return (path / EXPORT_FILE).is_file() or _MARK in _index(path)


def open_export(
    path: Path,
    teacher: Teacher | str | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Student:
    """The student in an export's folder or file. `teacher` replaces where its contract says that its teacher is; a
    whole pipeline needs none.

    Raises ValueError for pickles, for files that are not whole or of another architecture, and without a contract.
    """
    name, contract = _read(path)
    format = find_format(name)
    format.check_needs()
    own = teacher is None and own_pipeline(path)
    loaded = load_teacher(path, dtype, device) if own else teacher_of(contract, teacher, dtype, device)
    contract.prepare(loaded)
    # contract and teacher may come from different places, and must be of one family
    check_family(path, contract, loaded)
    format.check_teacher(loaded)
    if own:
        check_schedule(path, contract, loaded)
    return Student(loaded, record_prediction(format.network(path, loaded), contract.prediction), contract)


def check_export(path: Path) -> SamplingContract:
    """The contract of an export, whose weights are not loaded. A pipeline's parts are for `outline_teacher` to check.

    Raises ValueError for pickles, for a contract or a file that is not whole, and when a library is missing.
    """
    name, contract = _read(path)
    find_format(name).check_needs()
    if path.is_dir() and not own_pipeline(path):
        weights = [file for file in path.iterdir() if file.suffix in _FILES]
        written = sum(expert.trained for expert in contract.experts) or 1
        if len(weights) != written:
            wrote = "one" if written == 1 else written
            raise ValueError(f"{path} holds {len(weights)} files of weights, where its export wrote {wrote}: {_AGAIN}")
        for file in weights:
            if file.suffix == ".safetensors":
                tensor_shapes(file, _AGAIN)
            elif file.stat().st_size == 0:
                raise ValueError(f"{file} is empty: {_AGAIN}")
    return contract


def check_exportable(path: Path) -> None:
    """Raises ValueError for an export of which no other can be made."""
    if is_export(path) and find_format(name := _read(path)[0]).is_final:
        raise ValueError(
            f"{path} is an export of the format {name}, whose weights are rounded or within a graph, so that no other "
            "export can be made of it: export the run, or an export that is whole"
        )


def own_pipeline(path: Path) -> bool:
    """Whether an export is a whole pipeline, which needs no teacher next to it."""
    return (path / _INDEX).is_file()


def contract_of_export(path: Path) -> SamplingContract:
    """The contract in an export's folder, or in the header of its file. Raises ValueError when there is none."""
    return _read(path)[1]


def _read(path: Path) -> tuple[str, SamplingContract]:
    if path.suffix in _PICKLES and path.is_file():
        raise ValueError(f"{path} is a pickle, which may run code when it is read: pass a safetensors file")
    if path.is_file():
        header: tuple[str, SamplingContract] = import_module(_FILES[path.suffix]).read_header(path)
        return header
    return _format_name(path), read_contract(path)


def _format_name(folder: Path) -> str:
    try:
        return str(parse_json((folder / EXPORT_FILE).read_text("utf-8"))["format"])
    except FileNotFoundError:
        if mark := _index(folder).get(_MARK):
            return str(mark)
        raise ValueError(f"{folder} has no {EXPORT_FILE}: restore it next to {CONTRACT_FILE}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / EXPORT_FILE} is not whole ({error}): export the student again") from error


def _index(folder: Path) -> dict[str, object]:
    try:
        return dict(parse_json((folder / _INDEX).read_text("utf-8")))
    except (OSError, ValueError, TypeError):  # no pipeline, or one that load_teacher will complain about
        return {}


def check_family(path: Path, contract: SamplingContract, teacher: Teacher) -> None:
    """Raises ValueError when the contract of the export in `path` names another family than its teacher's."""
    if type(teacher.pipeline).__name__ != contract.pipeline:
        raise ValueError(
            f"{path} is a student of a {contract.pipeline}, not of a {type(teacher.pipeline).__name__}: its contract "
            "is another student's, export it again"
        )


def check_schedule(folder: Path, contract: SamplingContract, pipeline: Teacher) -> None:
    """Raises ValueError when the scheduler of an export that is a whole pipeline is not that of its contract."""
    if isinstance(pipeline.denoiser, Experts) or len(contract.experts) > 1:  # of two only the one in use was exported
        contract.check_experts(pipeline)
    schedule = pipeline.schedule
    if (schedule.kind, schedule.prediction, schedule.shift) != (contract.kind, contract.prediction, contract.shift):
        raise ValueError(
            f"{folder} has a scheduler of {schedule.kind} with {schedule.prediction}-prediction and shift "
            f"{schedule.shift:g}, its contract says {contract.kind}, {contract.prediction} and {contract.shift:g}: "
            "export the student again"
        )
