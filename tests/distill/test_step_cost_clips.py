"""What making clips is said to take of memory is what it takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fewstep.distill.settings import RolloutData, VideoData
from fewstep.distill.step_cost import StepCounter
from fewstep.teacher.conditions import Conditions
from fewstep.teacher.guidance import Guidance
from fewstep.teacher.limits import GIB
from fewstep.teacher.load_teacher import load_teacher
from fewstep.teacher.outline import outline_teacher
from tests.distill.counters import PROMPT, counter_of, recipe_of
from tests.distill.sharded_memory import highest_bytes


@pytest.mark.parametrize("family", ["tiny_wan_folder", pytest.param("tiny_animatediff_folder", marks=pytest.mark.slow)])
def test_memory_of_making_clips_is_within_20_percent_of_the_allocators(
    request: pytest.FixtureRequest, family: str
) -> None:
    recipe = recipe_of(request.getfixturevalue(family))
    counter, size = counter_of(recipe)
    teacher = load_teacher(recipe.teacher, device="cpu")
    z, video = torch.zeros(4, *teacher.latent_shape(*size)), torch.zeros(4, 3, *size)
    conditions = teacher.conditions_of_any([PROMPT], PROMPT, size)[[0] * 4]

    @torch.no_grad()
    def highest(*works: Callable[[], Tensor | Conditions]) -> float:
        for work in works:  # what is made once, such as tables of positions, is there from now on
            work()
        return max(highest_bytes(work) for work in works) / GIB

    def texts() -> Conditions:
        return teacher.conditions_of_any([PROMPT] * 4, "", size)

    assert isinstance(recipe.data, RolloutData)
    rollouts = recipe.data.model_copy(update={"batch": 4, "guidance": Guidance(5.0)})
    made = highest(texts, lambda: teacher.denoise(z, 0.5, conditions, 5.0))
    assert counter.clips_peak(rollouts) == pytest.approx(made, rel=0.2)
    encoded = highest(texts, lambda: teacher.encode(video))
    assert counter.clips_peak(VideoData(kind="videos", folder=Path(), batch=4)) == pytest.approx(encoded, rel=0.2)
    # of four clips: torch's convolutions of one take more on a CPU
    decoded = highest(lambda: teacher.decode(z), lambda: teacher.denoise(z, 0.5, conditions))
    assert counter.sample_peak() == pytest.approx(decoded / 4, rel=0.2)


@pytest.mark.parametrize("num_tokens", [None, 70, 3])
def test_texts_are_as_long_as_is_said_or_as_the_encoder_reads(tiny_wan_folder: Path, num_tokens: int | None) -> None:
    teacher = outline_teacher(tiny_wan_folder).teacher
    size = teacher.default_size()
    assert size is not None
    counter = StepCounter(teacher, size, "float32", num_tokens)
    # an encoder's numbers a token, and of each as many as are read
    assert counter.text_numbers == (num_tokens or teacher.text_limit) * teacher.pipeline.text_encoder.config.d_model
