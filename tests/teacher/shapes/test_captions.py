"""Captions are varied, true, readable back, silent four times in ten, and split by text."""

from __future__ import annotations

import numpy as np
import pytest

from fewstep.teacher.shapes.captions import (
    example,
    named,
    text_held_out,
    vocabulary,
    write_caption,
)
from fewstep.teacher.shapes.text import make_tokenizer
from fewstep.teacher.shapes.world import ATTRIBUTES

EXAMPLES = [example("train", 0, i) for i in range(3000)]


def test_captions_say_only_what_is_there() -> None:
    for scene, caption in EXAMPLES:
        assert named(caption).items() <= scene.values().items(), caption


def test_each_attribute_is_unsaid_in_about_forty_percent() -> None:
    for name in ATTRIBUTES:
        text = np.mean([name in named(caption) for _, caption in EXAMPLES])
        assert 0.56 < text < 0.64, name


def test_a_caption_that_says_everything_can_be_read_back_whole() -> None:
    rng = np.random.default_rng(0)
    for scene, _ in EXAMPLES[:500]:
        assert named(write_caption(scene, rng, mention_rate=1.0)) == scene.values()


@pytest.mark.slow
def test_there_are_at_least_a_hundred_thousand_captions() -> None:
    # Distinct captions among n draws bound the number from below: with fewer than 1e5 in all, 20,000 uniform draws
    # would repeat 9 %, and uneven ones more.
    captions = {example("train", 1, i)[1] for i in range(20_000)}
    assert len(captions) > 0.97 * 20_000


def test_splits_share_no_text() -> None:
    assert not any(text_held_out(caption) for _, caption in EXAMPLES)
    assert all(text_held_out(example("held-out", 0, i)[1]) for i in range(300))


def test_examples_follow_from_seed_and_number() -> None:
    assert example("train", 5, 7) == example("train", 5, 7)
    assert example("train", 5, 7) != example("train", 6, 7) != example("train", 6, 8)


def test_the_tokenizer_knows_every_word() -> None:
    tokenizer = make_tokenizer()
    unknown = tokenizer.unk_token_id
    assert not any(unknown in tokenizer(caption).input_ids for _, caption in EXAMPLES)
    assert not any(unknown in tokenizer(word).input_ids for word in vocabulary())
    assert tokenizer("A RED Square!").input_ids == tokenizer("a red square").input_ids
    assert unknown in tokenizer("a zebra").input_ids
