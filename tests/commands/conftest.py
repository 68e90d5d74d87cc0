"""What the commands' tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fewstep.teacher.schedule import NoiseSchedule


@pytest.fixture(scope="module")
def few_steps() -> Iterator[None]:
    """Fifty steps of a teacher are eight in truth: what is made of its clips is made alike, and sampled sooner."""
    grid = NoiseSchedule.grid
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NoiseSchedule, "grid", lambda schedule, num_steps: grid(schedule, min(num_steps, 8)))
        yield
