"""What a text encoder does not read of its prompts: tokens beyond its limit, and words that its tokenizer lacks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from fewstep.teacher.files.text_files import first_few

if TYPE_CHECKING:
    from fewstep.teacher.base import Teacher

_AT_ONCE = 1024


def text_losses(teacher: Teacher, prompts: Iterable[str]) -> list[str]:
    """A sentence on the prompts that are too long for the text encoder, and one on words that it does not know.

    Both count every prompt that is not empty, also one that comes again. Nothing is said where nothing is lost.
    """
    times = Counter(prompt for prompt in prompts if prompt)
    if times and not teacher.reads_text:
        made = f"{type(teacher.pipeline).__name__} makes clips without any text"
        return [f"none of {times.total()} prompts is read: {made}, and what they say changes nothing"]
    # each distinct prompt is tokenized once
    long: dict[str, int] = {}
    lost: dict[str, list[str]] = {}
    for some in _parts(times):
        counted = zip(some, teacher.count_tokens(some), strict=True)
        long |= {prompt: count for prompt, count in counted if count > teacher.text_limit}
        unknown = zip(some, teacher.unknown_words(some), strict=True)
        lost |= {prompt: words for prompt, words in unknown if words}
    # a prompt that comes again counts again: shares are of what is trained on
    total = times.total()
    sentences = []
    if long:
        listed = first_few([f"{_beginning(prompt)} ({count} tokens)" for prompt, count in long.items()], most=3)
        sentences.append(
            f"{sum(times[p] for p in long)} of {total} prompts are longer than the text encoder's {teacher.text_limit} "
            f"tokens and are cut there: {listed}"
        )
    if lost:
        distinct = dict.fromkeys(word for words in lost.values() for word in words)
        sentences.append(
            f"{sum(times[p] for p in lost)} of {total} prompts have words that the tokenizer does not know: "
            f"{first_few([_beginning(word) for word in distinct], most=10)}"
        )
    return sentences


def count_tokens(tokenizer: Any, prompts: Sequence[str]) -> list[int]:
    """Tokens of each prompt with nothing cut, special tokens included."""
    return [len(ids) for ids in tokenizer(list(prompts), verbose=False).input_ids]


def unknown_words(tokenizer: Any, prompts: Sequence[str]) -> list[list[str]]:
    """The words of each prompt that become the unknown token or no token at all.

    A tokenizer that does not say which characters its tokens stand for names the whole prompt.
    """
    special = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    unknown = None if tokenizer.unk_token_id in special else tokenizer.unk_token_id  # CLIP calls the end's token so
    fast = bool(tokenizer.is_fast)
    read = tokenizer(list(prompts), add_special_tokens=False, return_offsets_mapping=fast, verbose=False)
    if not fast:
        return [[prompt] if unknown in ids else [] for prompt, ids in zip(prompts, read.input_ids, strict=True)]
    tokens = zip(prompts, read.input_ids, read.offset_mapping, strict=True)
    return [_missing(prompt, ids, spans, unknown) for prompt, ids, spans in tokens]


def _missing(prompt: str, ids: Sequence[int], spans: Sequence[tuple[int, int]], unknown: int | None) -> list[str]:
    # a word is missing where its letters and digits are not all covered by known tokens
    known = [not character.isalnum() for character in prompt]
    signs = []  # such as emoji, which are no words
    for token, (start, end) in zip(ids, spans, strict=True):
        if token != unknown:
            known[start:end] = [True] * (end - start)
        elif not re.search(r"\w", prompt[start:end]):
            signs.append(prompt[start:end].strip())
    words = [match[0] for match in re.finditer(r"\w+", prompt) if not all(known[match.start() : match.end()])]
    return words + [sign for sign in signs if sign]


def _beginning(text: str, most: int = 40) -> str:
    return repr(text if len(text) <= most else f"{text[: most - 3].rstrip()}...")


def _parts(prompts: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(prompts)
    while part := list(islice(rest, _AT_ONCE)):
        yield part
