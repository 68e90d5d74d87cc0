"""What is wrong with a student, in words: what figures of one clip set or distance would hide."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fewstep.eval.caution import ratio_is_empty

# figure, whether it is wrong above the threshold, the threshold, what then is said of a value
_ALARMS = (
    ("motion-ratio", False, 0.5, "moves only {:.0%} as much as the teacher: it may have become static"),
    ("motion-ratio", True, 2.0, "moves {:.1f} times as much as the teacher: its clips may boil or jump"),
    ("flicker-ratio", True, 1.5, "flickers {:.1f} times as much as the teacher"),
    ("saturation-ratio", True, 1.25, "is {:.2f} times as saturated as the teacher: over-saturated"),
    ("saturation-ratio", False, 0.75, "is only {:.0%} as saturated as the teacher: washed out"),
    ("contrast-ratio", True, 1.25, "has {:.2f} times the teacher's contrast: burnt out"),
    ("contrast-ratio", False, 0.75, "has only {:.0%} of the teacher's contrast: washed out"),
    (
        "diversity-rms-ratio",
        False,
        0.5,
        "other noise changes only {:.0%} of what it changes of the teacher's clips: collapsed",
    ),
    (
        "diversity-lpips-ratio",
        False,
        0.5,
        "other noise changes only {:.0%} of what it changes of the teacher's clips (LPIPS)",
    ),
    ("blank", True, 0.02, "{:.0%} of its clips show nothing"),
    ("broken", True, 0.0, "{:.1%} of its clips hold numbers that are not finite, and were measured as grey"),
)


def alarms(metrics: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Sentences about a row's figures, empty when none is out of bounds."""
    sentences = []
    for name, above, threshold, sentence in _ALARMS:
        value = metrics[name]["value"] if name in metrics else threshold
        if value is None or ratio_is_empty(name, metrics):  # `on_figures` says why
            continue
        if value > threshold if above else value < threshold:
            sentences.append(sentence.format(value))
    return sentences
