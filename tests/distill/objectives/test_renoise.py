"""How noisy the discriminator sees clips."""

from __future__ import annotations

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from fewstep.distill.draws import Draws
from fewstep.distill.objectives.renoise import AnyNoise, LogitNormalNoise, Noise, NoiseLevels, UniformNoise, draw_times
from fewstep.teacher.schedule import NoiseSchedule

ALPHAS = tuple(torch.linspace(0.999, 0.01, 50, dtype=torch.float64).tolist())
SCHEDULES = [
    NoiseSchedule("flow", "flow", shift=5.0), NoiseSchedule("vp", "v", alphas_cumprod=ALPHAS),
    NoiseSchedule("edm", "v"),
]  # fmt: skip


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_uniform_levels_fill_their_range() -> None:
    drawn = UniformNoise(low=0.2, high=0.6).draw(2000, 0.0, generator())
    assert 0.2 <= float(drawn.min()) < 0.21 and 0.59 < float(drawn.max()) <= 0.6
    assert float(drawn.mean()) == pytest.approx(0.4, abs=0.01)


def test_levels_are_drawn_equally_first_and_by_weight_then() -> None:
    noise = NoiseLevels()
    for progress, shares in ((0.0, (1, 1, 1, 1)), (0.49, (1, 1, 1, 1)), (0.5, (5, 1, 1, 1)), (1.0, (5, 1, 1, 1))):
        drawn = noise.draw(4000, progress, generator())
        for level, share in zip(noise.levels, shares, strict=True):
            assert float((drawn == level).double().mean()) == pytest.approx(share / sum(shares), abs=0.03)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: s.kind)
def test_endpoints_are_noised_to_the_level_unless_they_are_noisier(schedule: NoiseSchedule) -> None:
    s = torch.tensor([0.0, schedule.time_of_level(0.3), schedule.time_of_level(0.8)], dtype=torch.float64)
    t = draw_times(schedule, UniformNoise(low=0.5, high=0.5), s, 0.0, Draws.seeded(0, len(s)))
    torch.testing.assert_close(schedule.level(t), torch.tensor([0.5, 0.5, 0.8], dtype=torch.float64))
    assert t[2] == s[2]


def test_logit_normal_levels_are_normal_in_their_logits() -> None:
    levels = LogitNormalNoise(mean=1.0, std=0.5).draw(20_000, 0.0, generator())
    logits = (levels / (1 - levels)).log()
    assert float(levels.min()) > 0 and float(levels.max()) < 1 and levels.dtype == torch.float64
    assert float(logits.mean()) == pytest.approx(1.0, abs=0.02) and float(logits.std()) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "uniform", "low": 0.7, "high": 0.2},
        {"kind": "uniform", "high": 1.1},
        {"kind": "levels", "weights": [1]},
        {"kind": "levels", "weights": [0, 0, 0, 0]},
        {"kind": "levels", "levels": [], "weights": []},
        {"kind": "normal"},
        {"kind": "logit_normal", "std": 0},
    ],
)
def test_settings_refuse(wrong: dict[str, object]) -> None:
    adapter: TypeAdapter[AnyNoise] = TypeAdapter(Noise)
    with pytest.raises(ValidationError):
        adapter.validate_python(wrong)
