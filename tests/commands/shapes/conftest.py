"""Tables of the shapes world in seconds: most of their time goes to clips that are sampled and decoded."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from fewstep.eval.shapes import relay, relay_clips, steps


@pytest.fixture(scope="module", autouse=True)
def few_clips() -> Iterator[None]:
    """Sheets have one row of their six, and diversity is that of two clips in place of eight."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relay, "relay_sheet", partial(relay.relay_sheet, rows=1))
        patch.setattr(steps, "steps_sheet", partial(steps.steps_sheet, rows=1))
        patch.setattr(relay_clips, "DIVERSE_SEEDS", 2)
        yield
