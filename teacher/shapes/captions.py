"""Captions of the shapes world: natural English that leaves each attribute unsaid four times in ten.

Every phrase holds a word of its own, so `named` can read any caption back.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from fewstep.teacher.shapes.world import ATTRIBUTES, Scene, Split, Values, draw_scene

MENTION_RATE = 0.6

# attribute -> value -> the phrases that say it
_PHRASES: dict[str, dict[str, tuple[str, ...]]] = {
    "shape": {
        "square": ("square", "box"),
        "ring": ("ring", "hoop"),
        "cross": ("cross", "plus sign"),
    },
    "colour": {
        "red": ("red", "scarlet"),
        "green": ("green", "emerald"),
        "blue": ("blue", "azure"),
        "yellow": ("yellow", "golden"),
        "purple": ("purple", "violet"),
        "cyan": ("cyan", "turquoise"),
    },
    "size": {
        "small": ("small", "little", "tiny"),
        "medium": ("medium", "midsize"),
        "large": ("large", "big", "huge"),
    },
    "motion": {
        "left": ("moves left", "drifts to the left", "slides left"),
        "right": ("moves right", "drifts to the right", "slides right"),
        "up": ("moves up", "rises", "floats upward"),
        "down": ("moves down", "falls", "sinks downward"),
        "orbit": ("circles", "orbits the middle", "goes round"),
        "grow": ("grows", "expands", "swells"),
    },
    "pattern": {"graded": ("graded", "shaded"), "striped": ("striped", "banded")},
    "tone": {"dark": ("dark", "dim"), "light": ("light", "bright")},
    "company": {
        "alone": ("alone", "on its own", "by itself"),
        "second": ("beside a second thing", "with a second thing nearby", "near another thing"),
    },
}
_UNNAMED_SHAPE = ("shape", "object", "figure")
_UNNAMED_MOTION = ("appears", "is shown", "can be seen")
_OPENINGS = ("", "", "a video where ", "a clip in which ", "we see how ")
_GROUNDS = ("background", "backdrop", "ground")
_OVER = ("over", "on", "against", "in front of")

_LOOSE = (*_UNNAMED_SHAPE, *_UNNAMED_MOTION, *_OPENINGS, *_GROUNDS, *_OVER, "a", "an")


def _unambiguous_words() -> dict[str, tuple[str, str]]:
    """The words that say one value of one attribute and nothing else: word -> (attribute, value)."""
    meanings: dict[str, set[tuple[str, str]]] = {}
    for name, values in _PHRASES.items():
        for value, phrases in values.items():
            for word in " ".join(phrases).split():
                meanings.setdefault(word, set()).add((name, value))
    loose = set(" ".join(_LOOSE).split())
    return {word: next(iter(meant)) for word, meant in meanings.items() if len(meant) == 1 and word not in loose}


_WORDS = _unambiguous_words()


def named(caption: str) -> Values:
    """The attributes a caption names, attribute -> value; what it leaves unsaid is absent."""
    pairs = (_WORDS[word] for word in re.findall(r"[a-z]+", caption.lower()) if word in _WORDS)
    return dict(pairs)


def agreement(shown: Values, caption: str) -> dict[str, bool]:
    """For each attribute the caption names, whether that is what is shown."""
    return {name: shown[name] == value for name, value in named(caption).items()}


def rates(right: Sequence[Mapping[str, bool]]) -> dict[str, float]:
    """Of clips' agreements: per attribute, the share that is right among the captions that name it."""
    answers = {name: [r[name] for r in right if name in r] for name in ATTRIBUTES}
    return {
        name: sum(right_or_wrong) / len(right_or_wrong) for name, right_or_wrong in answers.items() if right_or_wrong
    }


def vocabulary() -> list[str]:
    """Every word a caption can hold, sorted."""
    phrases = [p for values in _PHRASES.values() for phrases_of_value in values.values() for p in phrases_of_value]
    return sorted({word for phrase in (*phrases, *_LOOSE) for word in phrase.split()})


def write_caption(scene: Scene, rng: np.random.Generator, mention_rate: float = MENTION_RATE) -> str:
    """A caption of the scene that names each attribute with probability `mention_rate`."""
    # which attributes are said is drawn first; how they are worded is drawn phrase by phrase
    mentioned = {n: v for n, v in scene.values().items() if rng.random() < mention_rate}

    def phrase(name: str, unsaid: tuple[str, ...] = ("",)) -> str:
        options = _PHRASES[name][mentioned[name]] if name in mentioned else unsaid
        return options[rng.integers(len(options))]

    # subject, action and ground, any of which may stay vague
    subject = _join("a", phrase("size"), phrase("colour"), phrase("shape", _UNNAMED_SHAPE))
    action = _join(phrase("motion", _UNNAMED_MOTION), phrase("company"))
    look = _join(phrase("tone"), phrase("pattern"))
    ground = _join(_pick(_OVER, rng), "a", look, _pick(_GROUNDS, rng)) if look or rng.random() < 0.5 else ""
    if ground and rng.random() < 0.3:
        return _join(f"{ground},", subject, action)
    return _join(_pick(_OPENINGS, rng), subject, action, ground)


def text_held_out(caption: str) -> bool:
    """Whether a caption's text is kept from training: one in ten, by a hash."""
    return zlib.crc32(caption.encode()) % 10 == 0


def draw_caption(scene: Scene, rng: np.random.Generator, split: Split, mention_rate: float = MENTION_RATE) -> str:
    """A caption whose text belongs to the split: no held-out text is ever a training text."""
    while True:
        caption = write_caption(scene, rng, mention_rate)
        if text_held_out(caption) == (split == "held-out"):
            return caption


def example(split: Split, seed: int, index: int) -> tuple[Scene, str]:
    """Scene and caption number `index` of a split, the same for the same seed everywhere."""
    rng = np.random.default_rng([seed, index, split == "held-out"])
    scene = draw_scene(rng, split)
    return scene, draw_caption(scene, rng, split)


def _pick(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[rng.integers(len(options))]


def _join(*parts: str) -> str:
    text = " ".join(part.strip() for part in parts if part.strip())
    return re.sub(r"\ba (?=[aeiou])", "an ", text)
