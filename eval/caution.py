"""What figures cannot say, in words: too few clips, too few passes, ratios to almost zero."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from fewstep.eval.results import TableRow

Figure = Mapping[str, Any]

FEW_CLIPS = 10  # below, a bootstrap's interval is far too narrow, and no verdict stands on it
FEW_DIFFERING = 6  # a sign test at 5 % asks for six clips that differ, even where all differ in one direction
FEW_PASSES = 5  # below, one slow moment decides a median
ABOVE_IDEAL = 1.02  # of the ideal speed-up, what a clock's noise does not explain
SPREAD = 1.5  # 95th percentile over median of a machine that has other things to do

# figure -> the teacher's own value below which a ratio to it says nothing: a quarter of a grey level, or nearly grey
_NEGLIGIBLE = {
    "motion": 0.001,
    "flicker": 0.001,
    "saturation": 0.01,
    "contrast": 0.01,
    "diversity-rms": 0.001,
    "diversity-lpips": 0.001,
}


def why_inconclusive(figure: Figure) -> str | None:
    """Why no verdict can stand on a figure: fewer clips than its features have dimensions, or a handful.

    Of a difference of two models' shares also: that they differ on a handful of clips, whose bootstrap has too narrow
    an interval.
    """
    num, dimensions = figure.get("num"), figure.get("dimensions")
    if num is not None and dimensions is not None and num < dimensions:
        return f"{_clips(num)} {'is' if num == 1 else 'are'} fewer than the {dimensions} dimensions of its features"
    if num is not None and num < FEW_CLIPS:
        return f"{_clips(num)} {'is' if num == 1 else 'are'} too few"
    differing = figure.get("differing")
    if differing is not None and differing < FEW_DIFFERING:
        return f"the two differ on {differing} of {num} clips, which is too few"
    return None


def has_interval(figure: Figure) -> bool:
    """Whether its interval can be shown: those of a handful of clips promise too much."""
    num, differing = figure.get("num"), figure.get("differing")
    enough = (num is None or num >= FEW_CLIPS) and (differing is None or differing >= FEW_DIFFERING)
    return enough and None not in (figure.get("low"), figure.get("high"))


def ratio_is_empty(name: str, metrics: Mapping[str, Figure]) -> bool:
    """Whether NAME-ratio is to a teacher's figure of almost zero; `metrics` are a student's."""
    base = name.removesuffix("-ratio")
    own, ratio = metrics.get(base, {}).get("value"), metrics.get(name, {}).get("value")
    return base in _NEGLIGIBLE and bool(own and ratio and own / ratio < _NEGLIGIBLE[base])


def on_figures(rows: Sequence[TableRow], prompts: Sequence[str] = ()) -> list[str]:
    """Sentences on the figures of an evaluation; the first row is the teacher's."""
    named: dict[str, Figure] = {}
    # cautions are about how a figure was taken, so that the first row that has it will do
    for row in rows:
        if row.get("role") != "real":
            for name, figure in row["metrics"].items():
                named.setdefault(name, figure)
    sentences = [_few(named)] if any(_is_few(figure) for figure in named.values()) else []
    for name, figure in named.items():
        if figure.get("dimensions") is not None:
            sentences += on_distance(name, figure["num"], figure["dimensions"], figure.get("reference_num"), named)
    # a bootstrap resamples clips, and so knows of other prompts only as far as these differ
    distinct = len(set(prompts))
    if 0 < distinct < len(prompts):
        shown, these = ("one prompt", "it") if distinct == 1 else (f"{distinct} prompts", "these prompts")
        sentences.append(f"the {len(prompts)} clips show only {shown}, so the intervals hold for {these} alone")
    return sentences + _on_teacher(rows)


def on_times(rows: Sequence[TableRow], fit: Mapping[str, Any] | None) -> list[str]:
    """Sentences on the seconds and speed-ups of a benchmark; the first row is the teacher's."""
    sentences = [_on_passes(rows)] if any((row.get("repetitions") or FEW_PASSES) < FEW_PASSES for row in rows) else []
    for row in rows:
        # a slow tail next to a usual median: something else ran now and then
        median, slow = row.get("total_seconds"), row.get("total_seconds_p95")
        if median and slow and slow > SPREAD * median:
            sentences.append(
                f"{row['model']}: the slowest passes took {slow / median:.1f} times the median, so the machine was "
                "busy: measure again when it is quiet"
            )
    sentences += [_above_ideal(row, rows[0]) for row in rows[1:] if is_above_ideal(row)]
    # total = f + c evaluations, where f is what no student can save
    if fit is not None and (fit.get("fixed_seconds") or 0) < 0:
        sentences.append(
            "the fixed part of the fit is below zero, which no time can be: the line does not hold for these models"
        )
    elif fit is not None and len({row.get("evaluations") for row in rows}) == 2:
        sentences.append("the fit is a line through only two numbers of evaluations, so nothing can contradict it")
    return sentences


def _is_few(figure: Figure) -> bool:
    return figure.get("num") is not None and figure["num"] < FEW_CLIPS


def _few(named: Mapping[str, Figure]) -> str:
    counts = sorted({figure["num"] for figure in named.values() if _is_few(figure)})
    return (
        f"figures of {' or '.join(map(_clips, counts))} are examples, not measurements: no interval is shown for them, "
        "and no verdict given"
    )


def on_distance(name: str, num: int, dimensions: int, reference: int | None, others: Collection[str] = ()) -> list[str]:
    """What a Frechet distance of `num` clips to `reference` ones hides; `others` are the figures next to it."""
    sentences = []
    # a covariance of fewer clips than dimensions has not its full rank
    if num < dimensions:
        kernel = f"; {name}-kernel does not depend on N" if f"{name}-kernel" in others else ""
        sentences.append(
            f"{name} is measured on {_clips(num)}, fewer than the {dimensions} dimensions of its features: so few "
            f"clips raise it, the more the clips differ from one another, and no verdict is given{kernel}"
        )
    if reference is not None and reference < dimensions:
        sentences.append(
            f"{name} is measured against {_clips(reference)}, fewer than the {dimensions} dimensions of its features: "
            "it compares models only roughly"
        )
    return sentences


def _on_teacher(rows: Sequence[TableRow]) -> list[str]:
    """Figures of the teacher that are almost zero, so that students have no ratio to them."""
    teacher, students = rows[0], [row for row in rows[1:] if row.get("role") != "real"]
    sentences = []
    for name, floor in _NEGLIGIBLE.items():
        value = teacher["metrics"].get(name, {}).get("value")
        if students and value is not None and value < floor:
            sentences.append(f"the teacher's own {name} is {value:.2g}, almost zero, so ratios to it mean nothing")
    return sentences


def _on_passes(rows: Sequence[TableRow]) -> str:
    fewest = min(row["repetitions"] for row in rows if row.get("repetitions"))
    passes = "one pass" if fewest == 1 else f"{fewest} passes"
    return f"seconds and speed-ups are of {passes} of each model, so one slow moment decides them: use --repetitions 10"


def is_above_ideal(row: TableRow) -> bool:
    """Whether denoising was measured faster than its number of evaluations explains."""
    measured, ideal = row.get("denoise_speedup"), row.get("ideal_speedup")
    return bool(measured and ideal and measured > ABOVE_IDEAL * ideal)


def _above_ideal(row: TableRow, teacher: TableRow) -> str:
    """Where more than the ideal comes from."""
    guided = (teacher.get("evaluations") or 0) > (teacher.get("steps") or 0) > 0
    doubled = "a guided step of the teacher, one pass of twice the batch, took longer than two passes, or "
    return (
        f"{row['model']}: denoising {row['denoise_speedup']:.3g} times as fast is above the ideal of "
        f"{row['ideal_speedup']:.3g}, which counts evaluations alone: {doubled if guided else ''}the machine was "
        "busier while the teacher was timed; it is not a gain of the student"
    )


def _clips(num: int) -> str:
    return "1 clip" if num == 1 else f"{num} clips"
