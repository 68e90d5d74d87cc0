"""Safetensors that know how they are to be sampled: the contract lies in the file's header."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fewstep.student.contract import SamplingContract
from fewstep.teacher.pipelines.weight_files import fault

_CONTRACT, _FORMAT = "fewstep_contract", "fewstep_format"


def header_of(format: str, contract: SamplingContract) -> dict[str, str]:
    """What a file of an export format says of itself, whatever keeps it."""
    return {_FORMAT: format, _CONTRACT: contract.model_dump_json()}


def parse_header(header: Mapping[str, str], path: Path) -> tuple[str, SamplingContract]:
    """Format and contract of the file `path`. Raises ValueError when a line of either is lost."""
    if _CONTRACT not in header or _FORMAT not in header:
        raise ValueError(
            f"{path} has no sampling contract in its header, so nothing says how it is to be sampled: export the "
            "student again"
        )
    try:
        return header[_FORMAT], SamplingContract.model_validate_json(header[_CONTRACT])
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "all of it"
        raise ValueError(
            f"the contract in the header of {path} is not whole ({where}: {first['msg']}): export the student again"
        ) from error


def write_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    contract: SamplingContract,
    format: str,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes a file of an export format; `metadata` is what else its header says."""
    save_file(dict(tensors), path, {**(metadata or {}), "format": "pt", **header_of(format, contract)})


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors and the header. Raises ValueError for a file that is not whole."""
    with _opened(path) as file:
        return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118


def read_header(path: Path) -> tuple[str, SamplingContract]:
    """Format and contract of a safetensors file. Raises ValueError when it is not whole or lost a line of either."""
    with _opened(path) as file:
        header = dict(file.metadata() or {})
    return parse_header(header, path)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} {fault(path, error)}: copy or export it again") from error


def only_file(path: Path, suffix: str = ".safetensors") -> Path:
    """The file with this suffix in an export's folder; a file is itself. Raises ValueError unless there is one."""
    files = [path] if path.is_file() else sorted(path.glob(f"*{suffix}"))
    if len(files) != 1:
        raise ValueError(f"{path} holds {len(files)} {suffix} files, where its export wrote one: export it again")
    return files[0]
