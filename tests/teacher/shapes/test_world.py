"""The world is deterministic, shows what its scenes say, and keeps its splits apart."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from fewstep.teacher.shapes.captions import example
from fewstep.teacher.shapes.world import (
    _MOTTLE_GRAIN,
    ATTRIBUTES,
    WORLD_FRAMES,
    WORLD_SIDE,
    Scene,
    _smooth_noise,
    draw_scene,
    held_out,
    render_scene,
)

SCENE = Scene("square", "red", "large", "right", "graded", "dark", "alone", seed=3)


def redness(frame: np.ndarray) -> np.ndarray:
    """How much redder than green each pixel is, (H, W)."""
    return np.clip(frame[..., 0].astype(float) - frame[..., 1], 0, None)


def centre(frame: np.ndarray) -> tuple[float, float]:
    weight = redness(frame)
    y, x = np.mgrid[0:WORLD_SIDE, 0:WORLD_SIDE]
    return float((weight * x).sum() / weight.sum()), float((weight * y).sum() / weight.sum())


def test_a_clip_follows_from_its_scene() -> None:
    clip = render_scene(SCENE)
    assert clip.shape == (WORLD_FRAMES, WORLD_SIDE, WORLD_SIDE, 3) and clip.dtype == np.uint8
    assert np.array_equal(clip, render_scene(SCENE))
    assert not np.array_equal(clip, render_scene(replace(SCENE, seed=4)))


@pytest.mark.parametrize(("motion", "axis", "sign"), [("right", 0, 1), ("left", 0, -1), ("down", 1, 1), ("up", 1, -1)])
def test_objects_move_where_the_scene_says(motion: str, axis: int, sign: int) -> None:
    clip = render_scene(replace(SCENE, motion=motion))
    moved = np.subtract(centre(clip[-1]), centre(clip[0]))
    assert 20 < sign * moved[axis] < 32
    assert abs(moved[1 - axis]) < 2


def test_objects_grow_and_return_from_their_orbit() -> None:
    grown = render_scene(replace(SCENE, motion="grow"))
    assert (redness(grown[-1]) > 100).sum() > 4 * (redness(grown[0]) > 100).sum()
    circled = render_scene(replace(SCENE, motion="orbit"))
    assert np.hypot(*np.subtract(centre(circled[0]), centre(circled[-1]))) < 2
    assert np.hypot(*np.subtract(centre(circled[0]), centre(circled[8]))) > 15


def test_sizes_tones_and_company_can_be_seen() -> None:
    areas = [(redness(render_scene(replace(SCENE, size=size))[8]) > 100).sum() for size in ATTRIBUTES["size"]]
    assert areas[1] > 1.6 * areas[0] and areas[2] > 1.6 * areas[1]
    assert render_scene(replace(SCENE, tone="light"))[0].mean() > render_scene(SCENE)[0].mean() + 45
    assert not np.array_equal(render_scene(replace(SCENE, company="second"))[0], render_scene(SCENE)[0])


def test_a_dark_frame_surrounds_every_clip() -> None:
    clip = render_scene(replace(SCENE, tone="light", motion="left"))
    inside = np.zeros((WORLD_SIDE, WORLD_SIDE), bool)
    inside[3:-3, 3:-3] = True
    assert (clip[:, ~inside] == 12).all()
    assert (clip[:, inside] != 12).all(axis=-1).any()


def grounds(pattern: str, count: int) -> np.ndarray:
    """First frames of small growing objects, which hide little of the ground: (count, SIDE - 6, SIDE - 6) greys."""
    scene = replace(SCENE, size="small", motion="grow", pattern=pattern)
    clips = [render_scene(replace(scene, seed=seed))[0, 3:-3, 3:-3] for seed in range(count)]
    return np.stack(clips).astype(float).mean(axis=-1)


def test_stripes_are_level_or_upright_and_as_wide_as_a_token() -> None:
    striped = grounds("striped", 12)[..., :48, :48]
    across, down = (np.abs(np.fft.rfft(striped.mean(axis=axis))) for axis in (1, 2))
    upright = across[:, 1:].argmax(axis=1) == 2  # three waves in 48 pixels
    level = down[:, 1:].argmax(axis=1) == 2
    assert (upright | level).all() and upright.any() and level.any()


def test_every_ground_is_mottled_in_its_own_way_and_stands_still() -> None:
    first, second = grounds("graded", 2)
    beyond_gradient = [np.std(np.diff(ground, axis=0)) for ground in (first, second)]
    assert min(beyond_gradient) > 2  # grey levels from one row to the next; a gradient alone has 0.3
    clip = render_scene(replace(SCENE, size="small", motion="grow"))
    corner = clip[:, 4:12, 4:12]
    assert (corner == corner[:1]).all()


def test_the_mottle_is_smooth_noise_of_unit_variance() -> None:
    fields = np.stack([_smooth_noise(np.random.default_rng(seed)) for seed in range(64)])
    assert fields.shape == (64, WORLD_SIDE, WORLD_SIDE)
    assert np.allclose(fields.var(axis=0).mean(), 1, atol=0.1)
    neighbours = (fields[:, :, 1:] * fields[:, :, :-1]).mean()
    assert np.isclose(neighbours, np.exp(-((1 / _MOTTLE_GRAIN) ** 2) / 4), atol=0.1)
    far = (fields[:, :, 20:] * fields[:, :, :-20]).mean()
    assert abs(far) < 0.1


def test_held_out_combinations_never_reach_training() -> None:
    combinations = list(product(ATTRIBUTES["shape"], ATTRIBUTES["colour"], ATTRIBUTES["motion"]))
    kept = [c for c in combinations if held_out(*c)]
    assert 10 <= len(kept) <= 30
    for split in ("train", "held-out"):
        scenes = [example(split, 0, i)[0] for i in range(300)]
        assert {held_out(s.shape, s.colour, s.motion) for s in scenes} == {split == "held-out"}


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="must be 'train' or 'held-out'"):
        draw_scene(np.random.default_rng(0), "test")  # type: ignore[arg-type]
