"""Clips that processes cannot share are refused with what to do; those that they can: tests/teacher/test_sharded.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from fewstep.distill.split_clips import check_split
from fewstep.teacher.base import Teacher, VideoSize
from fewstep.teacher.load_teacher import load_teacher
from tests.tiny_ltx import save_tiny_ltx

WIDE = VideoSize(13, 32, 64)


def test_a_clip_whose_tokens_and_heads_are_multiples_is_split(tiny_teacher: Teacher) -> None:
    check_split(tiny_teacher, 2, [WIDE], [])


@pytest.mark.parametrize(
    ("context", "size", "others", "sentence"),
    [
        (64, WIDE, [], r"WanTransformer3DModel has 2 attention heads, .*: use one of 1, 2"),
        (2, VideoSize(9, 16, 16), [], r"a clip of 16x16x9 has 3 tokens, which are shared out equally: use another"),
        (2, WIDE, ["first", "last"], r"the objective of first, last does not say .*: set parallel.context=1, or train"),
    ],
)
def test_what_cannot_be_shared_out_equally_is_refused(
    tiny_teacher: Teacher, context: int, size: VideoSize, others: list[str], sentence: str
) -> None:
    with pytest.raises(ValueError, match=f"parallel.context is {context}, and {sentence}"):
        check_split(tiny_teacher, context, [size], others)


def test_a_family_whose_plan_does_not_fit_is_refused(tmp_path: Path) -> None:
    """diffusers has a plan for LTX, which splits masks of text."""
    save_tiny_ltx(tmp_path / "ltx")
    with pytest.raises(ValueError, match=r"no plan that splits clips of LTXVideoTransformer3DModel .*: set paral"):
        check_split(load_teacher(tmp_path / "ltx", device="cpu"), 2, [WIDE], [])
