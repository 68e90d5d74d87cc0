"""Types of settings that have an upper limit; see `limits`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fewstep.teacher import limits

NumFrames = Annotated[int, Field(gt=0, le=limits.MOST_FRAMES)]
Pixels = Annotated[int, Field(gt=0, le=limits.MOST_PIXELS)]
NumClips = Annotated[int, Field(gt=0, le=limits.MOST_CLIPS)]  # at a time
Items = Annotated[int, Field(gt=0, le=limits.MOST_ITEMS)]  # in all
SamplingSteps = Annotated[int, Field(gt=0, le=limits.MOST_SAMPLING_STEPS)]  # from noise to clip
NumSteps = Annotated[int, Field(gt=0, le=10_000_000)]  # of an optimizer, or turns
StepsOrNone = Annotated[int, Field(ge=0, le=10_000_000)]
Rate = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]  # of learning
Weight = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
Amount = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
Limit = Annotated[float, Field(gt=0, le=1e12, allow_inf_nan=False)]  # of a norm; a huge one is none
Rank = Annotated[int, Field(gt=0, le=limits.MOST_RANK)]
Channels = Annotated[int, Field(gt=0, le=65_536)]
TimeShift = Annotated[float, Field(gt=0, le=limits.MOST_SHIFT, allow_inf_nan=False)]
FrameRate = Annotated[float, Field(gt=0, le=limits.MOST_FPS, allow_inf_nan=False)]
EmbeddedGuidance = Annotated[float, Field(ge=0, le=limits.MOST_GUIDANCE, allow_inf_nan=False)]
Decay = Annotated[float, Field(ge=0, lt=1)]  # of running averages, per step
