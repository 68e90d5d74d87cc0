"""Puts a report together: one file that asks for nothing from outside, and says so to the browser."""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from fewstep.eval.report import words
from fewstep.eval.report.adversarial import CAUTION
from fewstep.eval.report.gain import gains
from fewstep.eval.report.inputs import BenchmarkRecord, Comparison, EvaluationRecord, ModelRecord, RunRecord
from fewstep.eval.report.sections import PageData, comparison_section, latency_section, run_section
from fewstep.teacher.files.atomic import whole_file

_HERE = Path(__file__).parent
_SCRIPTS = ("player.js", "chart.js", "curves.js", "report.js")


@dataclass(frozen=True)
class ReportInputs:
    """What a report shows. `benchmarks` are all there are, those of the comparisons among them."""

    runs: list[RunRecord]
    comparisons: list[Comparison]
    benchmarks: list[BenchmarkRecord]


def write_report(out: Path, material: ReportInputs, count: int) -> None:
    """Writes the page with clips of the first `count` prompts. Raises ValueError for a clip that cannot be read."""
    page = render_page(material, count)
    with whole_file(out) as part:
        part.write_text(page, "utf-8")


def render_page(material: ReportInputs, count: int) -> str:
    """The page's HTML. Everything from files is escaped; a policy lets the browser run no script but the page's own."""
    style = (_HERE / "style.css").read_text("utf-8")
    script = '"use strict";\n' + "\n".join((_HERE / name).read_text("utf-8") for name in _SCRIPTS)
    # what stands in files is escaped, and a figure that the template lacks is an error instead of a blank
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "ensure_ascii": False}
    environment.filters |= {
        f.__name__: f for f in (words.number, words.times, words.duration, words.ends, words.plural)
    }
    data = PageData(material.comparisons, material.benchmarks)
    return environment.get_template("template.html").render(
        title=words.title(material.runs, material.comparisons),
        verdicts=[_verdict(material.runs, comparison) for comparison in material.comparisons],
        warnings=words.warnings(material.runs, material.benchmarks, material.comparisons),
        comparisons=[comparison_section(data, comparison, count) for comparison in material.comparisons],
        benchmarks=[latency_section(data, benchmark) for benchmark in material.benchmarks],
        runs=[run_section(data, run, count, shown=not material.comparisons) for run in material.runs],
        commands=_commands(material),
        caution=CAUTION,
        data={"clip_sets": data.clip_sets, "plots": data.plots, "curves": data.curves, "pictures": data.pictures},
        style=Markup(style),
        script=Markup(script),
        policy=_policy(script, style),
    )


def _verdict(runs: Sequence[RunRecord], comparison: Comparison) -> list[str]:
    """On each student, and on what the adversarial part gave it; who is only compared with it has no sentence."""
    gains_of_runs = gains(runs, comparison)
    aside = {gain.regression for gain in gains_of_runs if gain.began_with}
    return [*words.verdict(comparison, aside), *(gain.words for gain in gains_of_runs)]


def _policy(script: str, style: str) -> str:
    def allowed(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    return (
        f"default-src 'none'; script-src {allowed(script)}; style-src {allowed(style)}; media-src blob:; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _commands(material: ReportInputs) -> dict[str, list[str]]:
    """What is missing -> the commands that make it."""
    # runs that no evaluation is of, and evaluations that no benchmark belongs to
    new = [run for run in material.runs if not any(_measures(comparison, run) for comparison in material.comparisons)]
    models = [[run.teacher, str(run.folder)] for run in new]
    timed = [_timed(comparison.evaluation) for comparison in material.comparisons if not comparison.benchmark]
    if not material.comparisons and not material.benchmarks:
        timed = models
    return {
        "evaluate": [shlex.join(["fewstep", "evaluate", *some]) for some in models],
        "benchmark": [shlex.join(["fewstep", "benchmark", *some]) for some in timed],
    }


def _timed(evaluation: EvaluationRecord) -> list[str]:
    """Its models as arguments of a command, and their small decoders."""
    rows = [row for row in evaluation.rows if row.source]
    decoders = [f"{row.model}={row.decoder}" for row in rows if row.decoder]
    return [*map(_named, rows), *(word for decoder in decoders for word in ("--decoder", decoder))]


def _named(row: ModelRecord) -> str:
    """A model as an argument of a command; of a chain with steps and guidance of each member."""
    asked = row.chain or ([row] if row.role == "teacher" else [])  # a student alone has its own steps and guidance
    steps = "+".join(str(one.steps) for one in asked if one.steps)
    scales = [one.guidance for one in asked if one.guidance is not None]
    if row.role == "student" and not any(scale.guides for scale in scales):
        scales = []  # a chain of students, which have their own; one with a teacher in it does guide
    guidance = "+".join(map(str, scales))
    return f"{row.model}={row.source}" + (f"@{steps}" if steps else "") + (f":{guidance}" if steps and guidance else "")


def _measures(comparison: Comparison, run: RunRecord) -> bool:
    """Whether an evaluation is of this run."""
    paths = [comparison.folder, *(Path(row.source) for row in comparison.evaluation.rows if row.source)]
    return any(path.resolve().is_relative_to(run.folder.resolve()) for path in paths)
