"""What runs of one recipe with other seeds have in common: means over seeds, with intervals over prompts and seeds.

Stages are alike when all that made them but the seed is, as `recipe_sha256` of their rows says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from fewstep.eval.metrics import paired
from fewstep.eval.results import TableRow
from fewstep.eval.shapes.relay_clips import Judged
from fewstep.eval.shapes.relay_comparisons import baseline_of, interval_figures

OVER_SEEDS = "over seeds"  # the model of these rows
_ALIKE = ("steps", "guidance", "phase", "stage", "recipe_sha256")


def rows_over_seeds(
    rows: Sequence[TableRow], judged: Callable[[TableRow], Judged | None], before: Sequence[TableRow] = ()
) -> list[dict[str, Any]]:
    """A row for each step count, phase and stage that students of two seeds or more have.

    shapes-fd, prompt accuracy, delta and accuracy_delta are means over seeds; in each draw of their intervals, prompts
    are resampled for all seeds alike, and then seeds. `judged` gives what was found of a row's clips, or None where
    that is gone: then there is no row. Rows `before` are taken as they are when they are of the same students.
    """
    means = []
    for alike in _groups(rows):
        pairs = [(row, baseline_of(row, rows)) for row in alike]
        # a mean stays good as long as its students, and what they are compared with, have the same weights
        students = _sha256(pairs)
        kept = next((row for row in before if row.get("students_sha256") == students), None)
        compared = all(other is not None for _, other in pairs)
        if kept is not None and ("delta" in kept or not compared):  # what it is compared with may have been gone
            means.append(dict(kept))
            continue
        clips = [(judged(row), None if other is None else judged(other)) for row, other in pairs]
        own = [own_clips for own_clips, _ in clips if own_clips is not None]
        others = [other for _, other in clips if other is not None]
        # a mean over fewer seeds is another figure: where clips of one are gone, there is no row
        if len(own) == len(alike):
            means.append(_row(alike, own, others) | {"students_sha256": students})
    return means


def _groups(rows: Sequence[TableRow]) -> list[list[TableRow]]:
    """Students that differ by their seed alone, the first of each seed; two at least."""
    groups: dict[tuple[Any, ...], dict[int, TableRow]] = {}
    for row in rows:
        if row["model"] == "student" and "recipe_sha256" in row and "recipe_seed" in row:
            groups.setdefault(tuple(row[key] for key in _ALIKE), {}).setdefault(row["recipe_seed"], row)
    return [[seeds[seed] for seed in sorted(seeds)] for seeds in groups.values() if len(seeds) > 1]


def _row(alike: Sequence[TableRow], own: Sequence[Judged], others: Sequence[Judged]) -> dict[str, Any]:
    row = {"model": OVER_SEEDS, **{key: alike[0][key] for key in _ALIKE}}
    row |= {"recipe_seeds": [of_seed["recipe_seed"] for of_seed in alike], "num_seeds": len(alike)}
    distance = paired.over_seeds([of_seed.distance for of_seed in own]).interval
    row |= {"shapes_fd": round(distance.value, 3), "low": round(max(0.0, distance.low), 3)}
    row |= {"high": round(distance.high, 3)}
    accuracy = paired.over_seeds([of_seed.accuracy for of_seed in own]).interval
    row |= {"prompt_accuracy": round(accuracy.value / 100, 4), "accuracy_low": round(accuracy.low / 100, 4)}
    row |= {"accuracy_high": round(accuracy.high / 100, 4)}
    # deltas only where every seed has something to be compared with
    if len(others) == len(own):
        both = list(zip(own, others, strict=True))
        deltas = [paired.difference(own_clips.distance, other.distance) for own_clips, other in both]
        points = [paired.difference(own_clips.accuracy, other.accuracy) for own_clips, other in both]
        row |= interval_figures("delta", paired.over_seeds(deltas).interval, 3)
        row |= interval_figures("accuracy_delta", paired.over_seeds(points).interval, 2)
    return row


def _sha256(pairs: Sequence[tuple[TableRow, TableRow | None]]) -> str:
    """Of the weights of students and of those that they are compared with, and of what the row is about."""
    identities = [(row["phase"], row["weights_sha256"], other and other["weights_sha256"]) for row, other in pairs]
    return hashlib.sha256(repr(identities).encode()).hexdigest()
