"""Teacher and students timed side by side: a table of where the seconds go, and how much few steps save."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fewstep import __version__
from fewstep.eval.caution import on_times
from fewstep.eval.latency.likeness import FIGURES
from fewstep.eval.latency.optimise import OptionTrial
from fewstep.eval.latency.peak_memory import PeakMemory
from fewstep.eval.latency.timing import PROMPT, TimedModel, latency, rounds, synchronised
from fewstep.eval.latency.tuning import Tuning
from fewstep.eval.models import chain_facts, decoder_facts
from fewstep.eval.results import TableRow, filled_columns, markdown_table
from fewstep.teacher.files.atomic import ELSEWHERE, check_writable_file, whole_file
from fewstep.teacher.files.json_text import parse_json

MAX_SPLIT_GAP = 0.03
LIKENESS = ("relative_error", "psnr_db")
_OVERLAPPED = "of a pass while the clips before are decoded: decode is what is left to wait for; one clip takes longer"
BENCHMARK_COLUMNS = {  # seconds unless another unit is named
    "model": "model",
    "steps": "steps",
    "evaluations": "evals",
    "text_seconds": "text",
    "denoise_seconds": "denoise",
    "decode_seconds": "decode",
    "total_seconds": "whole",
    "seconds_per_120_frames": "120 frames",
    "peak_gib": "GiB",
    "relative_error": "error",
    "psnr_db": "dB",
    "denoise_speedup": "denoise ×",
    "ideal_speedup": "ideal ×",
    "speedup": "whole ×",
}


@dataclass(frozen=True)
class BenchmarkPlan:
    """How often and how large; dtype is that of denoiser and text encoder. `optimise`: the tuning is what paid, of
    options whose clip is within `max_error`."""

    batch: int = 1
    repetitions: int = 10
    warmup: int = 2
    dtype: str = "float32"
    tuning: Tuning = field(default_factory=Tuning)
    optimise: bool = False
    max_error: float | None = None


class Benchmark:
    """The measurement and its file. `models` are loaded and tuned; the first is the teacher others are compared with.

    `failed` are models that could not even be loaded, name -> one sentence. `tried`: options, where those that pay were
    looked for. `likenesses`: of tuned models' clips to their own, by name.
    """

    def __init__(
        self,
        models: Sequence[TimedModel],
        plan: BenchmarkPlan,
        command: str,
        out: Path,
        failed: dict[str, str] | None = None,
        tried: Sequence[OptionTrial] = (),
        likenesses: Mapping[str, Mapping[str, float | None]] | None = None,
    ) -> None:
        self._models, self._plan, self._command, self._out = models, plan, command, out
        self._device = models[0].sampler.teacher.device
        self._memory = PeakMemory([model.sampler for model in models], self._device)
        self._failed = dict(failed or {})
        self._tried, self._likenesses = tried, likenesses or {}

    def run(self, on_pass: Callable[[str], None] = lambda name: None) -> dict[str, Any]:
        """Measures, writing `out` after every round. Raises ValueError when every model failed."""
        plan, clock = self._plan, synchronised(self._device)
        for _ in rounds(self._models, plan.batch, plan.repetitions, plan.warmup, clock, self._memory, on_pass):
            # after every round, so that a kill costs one at most
            if self.rows:
                self._write()
        if not self.rows:
            raise ValueError("; ".join(f"{name}: {why}" for name, why in self.failed.items()))
        return self.results

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A row for every model that was measured, in the order given."""
        rows = [self._row(model) for model in self._models if model.seconds and model.failure is None]
        if rows and rows[0]["model"] == self._models[0].name:
            rows = [row | speedups(row, rows[0]) for row in rows]
        return rows

    @property
    def failed(self) -> dict[str, str]:
        """Why models are missing, in one sentence each."""
        return self._failed | {model.name: model.failure for model in self._models if model.failure is not None}

    @property
    def results(self) -> dict[str, Any]:
        """What the file holds."""
        rows = self.rows
        return {
            "command": self._command,
            "protocol": self._protocol(),
            "rows": rows,
            "fit": amdahl_fit(rows),
            "failed": self.failed,
            **({"optimised": [asdict(one) for one in self._tried]} if self._tried else {}),
        }

    def _row(self, model: TimedModel) -> dict[str, Any]:
        sampler = model.sampler
        settings = {"steps": sampler.steps, "guidance": sampler.guidance.plain(), "evaluations": sampler.evaluations}
        measured: dict[str, Any] = latency(model.seconds)
        frames = sampler.size.num_frames * self._plan.batch
        measured["seconds_per_120_frames"] = 120 * measured["total_seconds"] / frames  # compares sizes and families
        measured |= {"peak_gib": model.peak_gib, "repetitions": len(model.seconds)}
        return {
            "model": model.name,
            "source": sampler.name,
            **settings,
            **chain_facts(sampler),
            **decoder_facts(sampler),
            **measured,
            **self._likenesses.get(model.name, {}),
        }

    def _protocol(self) -> dict[str, Any]:
        plan, first = self._plan, self._models[0]
        return {
            # what seconds depend on: the machine, the clips, how often, and how the models were tuned
            "device": device_name(self._device),
            "threads": torch.get_num_threads(),
            "size": list(first.sampler.size),
            "batch": plan.batch,
            "repetitions": plan.repetitions,
            "warmup": plan.warmup,
            "dtype": plan.dtype,
            **asdict(plan.tuning),
            "prompt": PROMPT,
            # what was timed, and how it is counted
            "text": "timed" if first.conditions is None else "left out",
            "order": "the models take turns in every repetition",
            "evaluations": "a guided step counts twice; it is one forward of twice the batch",
            "memory": self._memory.protocol,
            **({"max_error": plan.max_error} if plan.optimise else {}),
            **({"likeness": FIGURES} if self._likenesses else {}),
            **({"overlap_seconds": _OVERLAPPED} if plan.tuning.overlap else {}),
            "versions": versions("torchao" if plan.tuning.quantise or plan.tuning.quantise_text else None),
        }

    def _write(self) -> None:
        self._out.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(self._out) as part:
            part.write_text(json.dumps(self.results, indent=1) + "\n")
        with whole_file(self._out.with_suffix(".md")) as part:
            part.write_text(markdown_table(self.rows, shown_columns(self.rows)), "utf-8")


def shown_columns(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """The columns of these rows: those on likeness where a model was tuned."""
    tuned = filled_columns(rows, {name: BENCHMARK_COLUMNS[name] for name in LIKENESS})
    return {name: heading for name, heading in BENCHMARK_COLUMNS.items() if name not in LIKENESS or name in tuned}


def check_replaceable(out: Path) -> None:
    """Raises ValueError unless a benchmark can be written to `out`, which ends in .json and holds nothing else."""
    check_writable_file(out, [".json"])
    if out.with_suffix(".md").exists() and not out.exists():
        raise ValueError(f"{out.with_suffix('.md')} would be replaced, and is no benchmark's: {ELSEWHERE}")
    try:
        held = parse_json(out.read_text("utf-8"))
    except (OSError, ValueError):  # nothing, or what a kill left of a benchmark
        return
    if not isinstance(held, dict) or "fit" not in held:
        raise ValueError(f"{out} is not a benchmark's table: {ELSEWHERE}")


def benchmark_notes(results: dict[str, Any]) -> list[str]:
    """What a reader should know besides the table, in sentences: the fit, figures that mislead, failures."""
    sentences = []
    if results["fit"] is not None:
        fixed, per = results["fit"]["fixed_seconds"], results["fit"]["seconds_per_evaluation"]
        sentences.append(f"whole = {fixed:.3g} s + {per:.3g} s per evaluation, by least squares over all models")
    # the whole has a clock of its own, and the parts must add up to it
    for row in results["rows"]:
        if row["split_gap"] > MAX_SPLIT_GAP:
            sentences.append(
                f"{row['model']}: the parts miss the whole by {row['split_gap']:.1%}, so the machine was busy: measure "
                "again when it is quiet, or with more --repetitions"
            )
    sentences += on_times(results["rows"], results["fit"])
    return sentences + [f"{name} failed: {why}" for name, why in results["failed"].items()]


def device_name(device: torch.device) -> str:
    """A GPU's own name, else the kind of device and of processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.processor() or platform.machine()})"


def versions(*also: str | None) -> dict[str, str]:
    """Of fewstep, Python, the libraries that compute, and packages that are named."""
    names = ["torch", "diffusers", "transformers", *(name for name in also if name)]
    return {"fewstep": __version__, "python": platform.python_version()} | {name: version(name) for name in names}


def speedups(row: TableRow, teacher: TableRow) -> dict[str, float]:
    """The whole and the denoising against the teacher's; the ideal is N_T g / N_S, all of the time in the denoiser."""
    return {
        "speedup": teacher["total_seconds"] / row["total_seconds"],
        "denoise_speedup": teacher["denoise_seconds"] / row["denoise_seconds"],
        "ideal_speedup": teacher["evaluations"] / row["evaluations"],
    }


def amdahl_fit(rows: Sequence[TableRow]) -> dict[str, float] | None:
    """total = f + c evaluations by least squares over all rows; None when they have one number of evaluations.

    So, by Amdahl's law, S = (f + N_T g c) / (f + N_S c): however few the steps, f stays.
    """
    evaluations = np.array([row["evaluations"] for row in rows], dtype=np.float64)
    totals = np.array([row["total_seconds"] for row in rows], dtype=np.float64)
    if len(set(evaluations.tolist())) < 2:
        return None
    design = np.stack([np.ones_like(evaluations), evaluations], axis=1)
    fixed, per_evaluation = np.linalg.lstsq(design, totals, rcond=None)[0]
    return {"fixed_seconds": float(fixed), "seconds_per_evaluation": float(per_evaluation)}
