"""How large the numbers of recipes and commands may be: beyond, nobody means them, and no machine could follow."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

MOST_FRAMES, MOST_PIXELS, MOST_SAMPLING_STEPS, MOST_CLIPS = 10_000, 16_384, 1000, 65_536
MOST_GUIDANCE, MOST_SHIFT, MOST_FPS = 100.0, 1000.0, 1000.0

Frames = Annotated[int, Field(gt=0, le=MOST_FRAMES)]
Pixels = Annotated[int, Field(gt=0, le=MOST_PIXELS)]
Clips = Annotated[int, Field(gt=0, le=MOST_CLIPS)]  # at a time
Items = Annotated[int, Field(gt=0, le=10_000_000)]  # in all
SamplingSteps = Annotated[int, Field(gt=0, le=MOST_SAMPLING_STEPS)]  # from noise to clip: models know no more times
Steps = Annotated[int, Field(gt=0, le=10_000_000)]  # of an optimizer, or turns
StepsOrNone = Annotated[int, Field(ge=0, le=10_000_000)]
Rate = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]  # of learning
Weight = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
Amount = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
Rank = Annotated[int, Field(gt=0, le=8192)]
Channels = Annotated[int, Field(gt=0, le=65_536)]
Shift = Annotated[float, Field(gt=0, le=MOST_SHIFT, allow_inf_nan=False)]
Fps = Annotated[float, Field(gt=0, le=MOST_FPS, allow_inf_nan=False)]
EmbeddedGuidance = Annotated[float, Field(ge=0, le=MOST_GUIDANCE, allow_inf_nan=False)]
