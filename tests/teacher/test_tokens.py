"""What a text encoder does not read of prompts: beyond its limit, and words that its tokenizer lacks."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from fewstep.teacher.base import Teacher
from fewstep.teacher.load_teacher import load_teacher
from fewstep.teacher.tokens import count_tokens, text_losses, unknown_words

WORDS = {"<pad>": 0, "</s>": 1, "<unk>": 2, "a": 3, "red": 4, "ring": 5}


@pytest.fixture
def words() -> PreTrainedTokenizerFast:
    """Knows three words; drops all but letters and signs beyond the Latin ones."""
    tokenizer = Tokenizer(models.WordLevel(WORDS, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[a-z]+|[^\x00-\x7f]+"), "removed", invert=True)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


@pytest.fixture
def byte_pairs() -> PreTrainedTokenizerFast:
    """Every byte is a token, and the unknown token is the end's, as CLIP has it."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {sign: i for i, sign in enumerate(["<start>", "<end>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<end>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = [("<start>", 0), ("<end>", 1)]
    tokenizer.post_processor = processors.TemplateProcessing(single="<start> $A <end>", special_tokens=special)
    names = {"bos_token": "<start>", "eos_token": "<end>", "unk_token": "<end>", "pad_token": "<end>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=8, **names)


def test_special_tokens_count(words: PreTrainedTokenizerFast, byte_pairs: PreTrainedTokenizerFast) -> None:
    assert count_tokens(words, ["a red ring", "", "a 3 ring"]) == [4, 1, 3]
    assert count_tokens(byte_pairs, ["ring", "", "a very long ring"]) == [6, 2, 18]


def test_words_that_are_lost(words: PreTrainedTokenizerFast, byte_pairs: PreTrainedTokenizerFast) -> None:
    prompts = ["a red ring!", "a zebra, 3 rings", "a red 🙂", "é", ""]
    assert unknown_words(words, prompts) == [[], ["zebra", "3", "rings"], ["🙂"], ["é"], []]
    assert unknown_words(byte_pairs, prompts) == [[], [], [], [], []]


def test_a_tokenizer_without_offsets_names_whole_prompts() -> None:
    class Slow:
        bos_token_id, eos_token_id, pad_token_id, unk_token_id, is_fast = None, 1, 0, 2, False

        def __call__(self, prompts: list[str], **_: Any) -> SimpleNamespace:
            return SimpleNamespace(input_ids=[[WORDS.get(word, 2) for word in prompt.split()] for prompt in prompts])

    assert unknown_words(Slow(), ["a ring", "a zebra"]) == [[], ["a zebra"]]


@pytest.fixture(scope="module")
def teacher(tiny_cogvideox_folder: Path) -> Teacher:
    """Reads 16 tokens."""
    return load_teacher(tiny_cogvideox_folder, device="cpu")


def test_losses_are_counted_and_named(teacher: Teacher) -> None:
    fine, long, longer = "a red ring", "a red ring " * 6, "ring " * 16
    assert text_losses(teacher, [fine, "ring " * 15]) == []
    assert text_losses(teacher, [long, fine, long, longer, ""]) == [
        "3 of 4 prompts are longer than the text encoder's 16 tokens and are cut there: "
        "'a red ring a red ring a red ring a re...' (19 tokens), "
        "'ring ring ring ring ring ring ring ri...' (17 tokens)"
    ]
    assert text_losses(teacher, ["a zebra", fine, "two zebras", "a zebra"]) == [
        "3 of 4 prompts have words that the tokenizer does not know: 'zebra', 'two', 'zebras'"
    ]


def test_many_prompts_are_read_in_parts(teacher: Teacher) -> None:
    prompts = [f"a red ring {'and ' * 20}{i}" for i in range(1500)]
    (cut, unknown) = text_losses(teacher, [*prompts, "a ring"])
    assert cut.startswith("1500 of 1501 prompts are longer") and cut.endswith("and 1497 more")
    assert unknown.startswith("1500 of 1501 prompts have words")
