"""What the figures say, in words: the verdict on each student, and everything a reader must be warned of."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from fewstep.eval.caution import has_interval, is_above_ideal, on_figures, on_times, why_inconclusive
from fewstep.eval.report.inputs import (
    BenchmarkRecord,
    Comparison,
    EvaluationRecord,
    FigureRecord,
    ModelRecord,
    RunRecord,
    StageRecord,
)

ABOUT = {  # what a metric says; one that ends in -kernel or -ratio has the words of ENDINGS, too
    "shapes-fd": "Frechet distance to real clips of the shapes world, on features of its own judge; it is not FVD",
    "prompt-accuracy": "share of clips in which the judge finds everything that the prompt names",
    "fvd": "Frechet video distance on I3D features, as StyleGAN-V takes it",
    "fd-videomae": "Frechet distance on VideoMAE features",
    "fd-vjepa2": "Frechet distance on V-JEPA 2 features",
    "lpips": "perceptual distance to the teacher’s clip of the same noise",
    "psnr": "likeness to the teacher’s clip of the same noise",
    "ssim": "structural likeness to the teacher’s clip of the same noise",
    "latent-mse": "distance to the teacher’s latents of the same noise",
    "temporal-error": "difference from the teacher’s changes between frames, for the same noise",
    "motion": "how much neighbouring frames differ",
    "flicker": "second difference of pixels over time: what steady motion lacks",
    "blank": "share of clips that show nothing",
    "broken": "share of clips with numbers that are not finite",
    "diversity-rms": "how much clips of one prompt differ from noise to noise",
    "diversity-lpips": "how much clips of one prompt differ from noise to noise, as LPIPS sees it",
}
ENDINGS = {
    "-extrapolated": "extrapolated to infinitely many clips",
    "-kernel": "as the unbiased kernel distance on the same features",
    "-ratio": "as a multiple of the teacher’s",
}
_MAX_SENTENCES = 4  # students that get a sentence of their own
COMPARED = 2  # metrics in the sentence on each
COMPARED_FIRST = ("fvd", "shapes-fd", "prompt-accuracy", "fd-videomae", "fd-vjepa2")


def number(value: float | None) -> str:
    """Three digits that count; a count as it is."""
    if value is None or not math.isfinite(value):
        return "–"
    if isinstance(value, int) or abs(value) >= 100:
        return f"{value:,.0f}".replace("-", "−")
    return f"{value:#.3g}".replace("-", "−")


def times(value: float | None) -> str:
    """How many times faster, 24×."""
    return "–" if value is None else f"{value:,.0f}×" if abs(value) >= 100 else f"{value:.3g}×"


def duration(seconds: float | None) -> str:
    """1.23 s or 45.6 ms."""
    if seconds is None:
        return "–"
    return f"{number(seconds)} s" if seconds >= 1 else f"{number(1000.0 * seconds)} ms"


def about(metric: str) -> str:
    """What a metric says, in words; empty for one that says it itself."""
    ending = next((ending for ending in ENDINGS if metric.endswith(ending)), "")
    base = ABOUT.get(metric.removesuffix(ending), "")
    return f"{base}, {ENDINGS[ending]}" if base and ending else base


def interval(figure: FigureRecord) -> str:
    """38.2 (33.0–44.1), or the value alone."""
    return f"{number(figure.value)} ({ends(figure)})" if ends(figure) else number(figure.value)


def ends(figure: FigureRecord) -> str:
    """Of its interval: 33.0–44.1, or nothing where there is none, or too few clips for one."""
    if not has_interval(figure.model_dump()):
        return ""
    assert figure.low is not None and figure.high is not None
    return f"{number(figure.low)}{'–' if figure.low >= 0 else ' to '}{number(figure.high)}"


def plural(count: float, noun: str) -> str:
    """1 step, 4 steps."""
    return f"{count:g} {noun}{'' if count == 1 else 's'}"


def short(source: str) -> str:
    """The last part of a folder or a hub id."""
    return Path(source.rstrip("/")).name or source


def listed(words: list[str]) -> str:
    """a, b and c."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def title(runs: list[RunRecord], comparisons: list[Comparison]) -> str:
    """What was distilled, into how many steps."""
    teachers = [c.evaluation.rows[0] for c in comparisons]
    students = [row for c in comparisons for row in c.evaluation.rows if row.role == "student"]
    name = runs[0].teacher if runs else teachers[0].source or teachers[0].model
    # steps that were measured, or, before any evaluation, those of the recipe
    if students:
        before, counts = teachers[0].steps, {row.steps for row in students}
    else:
        stages = [stage for run in runs for stage in run.stages]
        before, counts = max((s.teacher_steps for s in stages), default=None), {s.student_steps for s in stages}
    after = sorted((count for count in counts if count), reverse=True)
    steps = f"{plural(before, 'step') if before else 'many steps'} to {listed([str(c) for c in after])}"
    return f"{short(name)}, from {steps}" if after else short(name)


def verdict(comparison: Comparison, aside: Collection[str] = ()) -> list[str]:
    """A sentence or two on each student, compared with the teacher; models `aside` are described elsewhere."""
    rows = comparison.evaluation.rows
    students = [row for row in rows[1:] if row.role == "student" and row.model not in aside]
    sentences = [_on_student(comparison, rows[0], row, students) for row in students[:_MAX_SENTENCES]]
    if len(students) > _MAX_SENTENCES:
        sentences.append(f"The table below has {plural(len(students) - _MAX_SENTENCES, 'more student')}.")
    models = listed([row.model for row in rows if row.role != "real"])
    return sentences or [f"There is no student in this evaluation yet, only {models}."]


def _on_student(comparison: Comparison, teacher: ModelRecord, student: ModelRecord, students: list[ModelRecord]) -> str:
    # metrics that both have, those that compare with real clips or prompts first
    both = [m for m in comparison.evaluation.metrics if None not in (_value(teacher, m), _value(student, m))]
    metrics = [name for name in COMPARED_FIRST if name in both] or both
    compared = [_compared(teacher, student, name) for name in metrics[:COMPARED]]
    name = _called(student, students)
    sentence = f"{name} {_speed(comparison, teacher, student)}"
    if compared:
        sentence += f"; {compared[0]}"
    sentence += "." + "".join(f" {_capital(words)}." for words in compared[1:])
    # the teacher at as few steps is what would be there without distillation
    same = next((r for r in comparison.evaluation.rows[1:] if r.role == "teacher" and r.steps == student.steps), None)
    if same and metrics and _value(same, metrics[0]) is not None:
        reached = interval(same.metrics[metrics[0]])
        sentence += (
            f" Without distillation, the teacher at {plural(same.steps or 0, 'step')} has {metrics[0]} {reached}."
        )
    return sentence


def _called(student: ModelRecord, students: list[ModelRecord]) -> str:
    unique = Counter(row.steps for row in students)[student.steps] == 1
    return f"The {student.steps}-step student" if unique and student.steps else f"The student {student.model}"


def _speed(comparison: Comparison, teacher: ModelRecord, student: ModelRecord) -> str:
    """From the seconds where both were timed, else from the evaluations."""
    ours, theirs = comparison.latency(student), comparison.latency(teacher)
    ideal = teacher.evaluations / student.evaluations if student.evaluations and teacher.evaluations else None
    if ours and theirs and ours.denoise_seconds and theirs.denoise_seconds:
        words = f"is {times(theirs.denoise_seconds / ours.denoise_seconds)} faster at denoising"
        above = ideal and is_above_ideal(ours.model_dump() | {"ideal_speedup": ideal})
        words += (
            f" (ideal {times(ideal)}{', so not all of it is due to the student' if above else ''})" if ideal else ""
        )
        if ours.total_seconds and theirs.total_seconds:
            words += f" and {times(theirs.total_seconds / ours.total_seconds)} from prompt to clip"
        return words
    if ideal is None:
        return "was measured"
    evaluations = plural(student.evaluations or 0, "time")
    return f"evaluates the network {evaluations} for a clip, the teacher {teacher.evaluations:g} times"


def _compared(teacher: ModelRecord, student: ModelRecord, metric: str) -> str:
    ours, theirs = student.metrics[metric], teacher.metrics[metric]
    words = f"{metric} {interval(ours)} against the teacher’s {interval(theirs)}"
    # a verdict needs enough clips of both, and intervals that do not overlap
    why = why_inconclusive(ours.model_dump()) or why_inconclusive(theirs.model_dump())
    if why:
        return f"{words}, and no verdict, for {why}"
    if None in (ours.low, ours.high, theirs.low, theirs.high):
        return words
    assert ours.low is not None and ours.high is not None and theirs.low is not None and theirs.high is not None
    if ours.low <= theirs.high and theirs.low <= ours.high:
        return f"{words}, and the intervals overlap"
    if ours.better is None:
        return f"{words}, and the intervals do not overlap"
    ahead = (ours.low > theirs.high) == (ours.better == "higher")
    return f"{words}, which is {'better' if ahead else 'worse'}, for the intervals do not overlap"


def warnings(runs: list[RunRecord], benchmarks: list[BenchmarkRecord], comparisons: list[Comparison]) -> list[str]:
    """Failures first, then what the evaluation found odd."""
    sentences = [f"{run.folder.name}: {words}" for run in runs for words in _on_run(run)]
    sentences += [
        f"{model} was not timed: {why}" for benchmark in benchmarks for model, why in benchmark.failed.items()
    ]
    sentences += [words for benchmark in benchmarks for words in _on_benchmark(benchmark)]
    return sentences + [words for comparison in comparisons for words in _on_rows(comparison.evaluation)]


def _on_run(run: RunRecord) -> list[str]:
    sentences = [stage.gate for stage in run.stages if stage.gate]
    sentences += [words for stage in run.stages for words in _on_curve(stage)]
    begun = [stage for stage in run.stages if stage.result is None and stage.curve]
    sentences += [f"stage {stage.name} has done {stage.reached} of {stage.steps} steps" for stage in begun]
    missing = [stage.name for stage in run.stages if stage.result is None and not stage.curve]
    return sentences + ([f"not begun: {listed(missing)}"] if missing else [])


def _on_curve(stage: StageRecord) -> list[str]:
    odd = {
        k: p["step"] for p in stage.curve[::-1] for k, v in p.items() if isinstance(v, float) and not math.isfinite(v)
    }
    return [f"{key} of stage {stage.name} was not a finite number at step {step}" for key, step in odd.items()]


def _on_benchmark(benchmark: BenchmarkRecord) -> list[str]:
    fit = None if benchmark.fit is None else benchmark.fit.model_dump()
    return on_times([row.model_dump() for row in benchmark.rows], fit)


def _on_rows(evaluation: EvaluationRecord) -> list[str]:
    # with given files clips of one text differ, and the file has the texts alone
    prompts = [] if evaluation.protocol.get("given") else evaluation.prompts
    sentences = on_figures([row.model_dump() for row in evaluation.rows], prompts)
    for row in evaluation.rows:
        broken = [name for name, figure in row.metrics.items() if figure.value is None]
        sentences += [f"{row.model}: {name} is not a finite number" for name in broken]
        sentences += [f"{row.model}: {re.sub(r'[.]$', '', words)}" for words in row.warnings]
    return sentences


def _value(row: ModelRecord, metric: str) -> float | None:
    return row.metrics[metric].value if metric in row.metrics else None


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]
