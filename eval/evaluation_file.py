"""results.json of an evaluation: its protocol, its rows and their differences, and the refusal to mix two protocols."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fewstep.eval.alarms import alarms
from fewstep.eval.evaluation_shape import check_shape
from fewstep.teacher.files.atomic import whole_file
from fewstep.teacher.files.json_text import parse_json

EvaluationRow = dict[str, Any]

RESULTS_FILE = "results.json"
_FREE = ("device", "left_out")  # of the protocol: figures compare anyway


class EvaluationFile:
    """The file, written whole at every change. More metrics may join in later; all else of the protocol must stay."""

    def __init__(
        self, out: Path, command: str, protocol: dict[str, Any], prompts: list[str], writes: bool = True
    ) -> None:
        """`writes`: of several processes the first one alone does.

        Raises ValueError when `out` holds an evaluation of another protocol.
        """
        self._writes, self._path, self._command, self._prompts = writes, out / RESULTS_FILE, command, prompts
        self.protocol, self.rows = joined_protocol(out, protocol)
        before = parse_json(self._path.read_text()) if self._path.exists() else {}
        self.differences: list[dict[str, Any]] = before.get("differences", [])
        self._write()

    def put(self, row: EvaluationRow) -> None:
        """A model's row in place of the one it had, or behind the others; figures that were not taken again stay."""
        old = next((other for other in self.rows if other["model"] == row["model"]), None)
        if old is None:
            self.rows.append(row)
        else:
            row["metrics"] = {**old["metrics"], **row["metrics"]}
            row["warnings"] = alarms(row["metrics"])  # of all of them, not of those alone that were taken now
            self.rows[self.rows.index(old)] = row
        self._write()

    def put_difference(self, model: str, other: str, figures: dict[str, Any]) -> None:
        """The figures of a model less those of another one, on the same prompts and noise; others of the pair stay."""
        old = next((entry for entry in self.differences if (entry["model"], entry["other"]) == (model, other)), None)
        if old is None:
            self.differences.append({"model": model, "other": other, "metrics": figures})
        else:
            old["metrics"] = {**old["metrics"], **figures}
        self._write()

    def _write(self) -> None:
        if not self._writes:
            return
        content = {
            "command": self._command,
            "protocol": self.protocol,
            "rows": self.rows,
            "differences": self.differences,
            "prompts": self._prompts,
        }
        _write(self._path, content)


def recorded_evaluation_dtype(out: Path) -> str | None:
    """The precision of the evaluation that was begun in `out`; None where there is none.

    Raises ValueError for a file that is not an evaluation's.
    """
    dtype = _read(out / RESULTS_FILE)[0].get("dtype") if (out / RESULTS_FILE).exists() else None
    return None if dtype is None else str(dtype)


def joined_protocol(out: Path, protocol: dict[str, Any]) -> tuple[dict[str, Any], list[EvaluationRow]]:
    """The protocol with the metrics that the evaluation in `out` has, and its rows, if there is one.

    Raises ValueError when it has another protocol, or its file cannot be read.
    """
    path = out / RESULTS_FILE
    if not path.exists():
        return protocol, []
    before, rows = _read(path)
    # metrics may join in later, and what is taken by now is no longer left out
    protocol = {**protocol, "metrics": {**before["metrics"], **protocol["metrics"]}}
    protocol["left_out"] = {n: why for n, why in protocol["left_out"].items() if n not in protocol["metrics"]}
    _check(path, before, protocol)
    return protocol, rows


def check_begun(out: Path, settings: Mapping[str, Any]) -> None:
    """Raises ValueError when the evaluation in `out` has other values of these parts of its protocol."""
    path = out / RESULTS_FILE
    if path.exists():
        before = _read(path)[0]
        _check(path, {name: before.get(name) for name in settings}, settings)


def check_evaluation(out: Path) -> None:
    """Raises ValueError when a folder holds no evaluation."""
    if not (out / RESULTS_FILE).exists():
        raise ValueError(f"{out} has no {RESULTS_FILE}: pass the folder of `fewstep evaluate`")


def add_figures(out: Path, model: str, figures: dict[str, Any]) -> None:
    """Adds figures that were taken elsewhere to a model's row. Raises ValueError when there is no such row."""
    check_evaluation(out)
    _, rows = _read(out / RESULTS_FILE)
    row = next((row for row in rows if row["model"] == model), None)
    if row is None:
        raise ValueError(f"there is no {model} in {out}: choose among {', '.join(r['model'] for r in rows)}")
    row["metrics"] |= figures
    _write(out / RESULTS_FILE, parse_json((out / RESULTS_FILE).read_text()) | {"rows": rows})


def _write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as part:
        part.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")


def _read(path: Path) -> tuple[dict[str, Any], list[EvaluationRow]]:
    try:
        content = parse_json(path.read_text())
        # what the commands read later must be there: otherwise they would fail in their midst
        protocol, rows = dict(content["protocol"]), [dict(row) for row in content["rows"]]
        dict(protocol["metrics"].items())
        dict(protocol.get("left_out", {}).items())
        check_shape(rows, content.get("differences", []))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(
            f"{path} is not an evaluation's file ({reason}): delete it, or choose another --out"
        ) from error
    return protocol, rows


def _check(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    old, new = (dict(_leaves({k: v for k, v in p.items() if k not in _FREE})) for p in (before, now))
    # protocols of earlier versions say nothing of what is given where nothing is
    nothing: dict[str, Any] = {"given": [], "given_sha256": None}
    old, new = nothing | old, nothing | new
    for name in old:
        if old[name] != new.get(name):
            raise ValueError(
                f"{path} holds an evaluation with {name} {old[name]!r}, not {new.get(name)!r}: figures would not "
                "compare; choose another --out"
            )


def _leaves(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", json.loads(json.dumps(value))
