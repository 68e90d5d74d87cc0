"""The shapes world: procedural clips of a moving object, each with an English caption.

A clip is decided by a `Scene`: seven attributes that a caption may name, and free parameters (position, phase,
tints, the mottle of the ground) that it never does. What stays unsaid is what a few-step model finds hard, above all
the mottle: what is decided by few numbers, such as where an object is, a sampler settles at high noise and any grid
gets right, but a random texture is decided place by place at low noise, and few steps leave it faint.
"""

from __future__ import annotations

import zlib
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

WORLD_FRAMES, WORLD_SIDE = 17, 64  # a clip is FRAMES x SIDE x SIDE x 3
WORLD_FPS = 8

# What a caption can name, and the values each attribute takes.
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "shape": ("square", "ring", "cross"),
    "colour": ("red", "green", "blue", "yellow", "purple", "cyan"),
    "size": ("small", "medium", "large"),
    "motion": ("left", "right", "up", "down", "orbit", "grow"),
    "pattern": ("graded", "striped"),
    "tone": ("dark", "light"),
    "company": ("alone", "second"),
}

Split = Literal["train", "held-out"]
Values = dict[str, str]

_RGB = {
    "red": (226, 48, 44),
    "green": (52, 178, 70),
    "blue": (48, 88, 232),
    "yellow": (244, 212, 48),
    "purple": (168, 60, 208),
    "cyan": (64, 212, 224),
}
PALETTE = torch.tensor([_RGB[colour] for colour in ATTRIBUTES["colour"]])  # (6, 3), 0..255
_RADIUS = {"small": 10.0, "medium": 14.0, "large": 19.0}  # pixels
_LUMA = {"dark": (40.0, 110.0), "light": (130.0, 205.0)}  # range of a background's grey, 0..255
_STRIPE_PERIOD = 16.0  # pixels, as a token of the embedded transformer: free angles and periods stayed wavy
_MOTTLE = 28.0  # mean contrast of the mottle: standard deviation of the grey, 0..255
_MOTTLE_GRAIN = 3.5  # pixels; the standard deviation of the Gaussian that smooths it
_COMPANY_RATE = 0.25
_COMPANY_RADIUS = 6.0
_REACH = {"square": 0.88, "ring": 1.0, "cross": 1.0}  # how far a shape goes from its centre, in radii


@dataclass(frozen=True)
class Scene:
    """One clip's attributes (see ATTRIBUTES) and the seed of its free parameters."""

    shape: str
    colour: str
    size: str
    motion: str
    pattern: str
    tone: str
    company: str
    seed: int

    def values(self) -> Values:
        """Attribute name -> value."""
        return {name: value for name, value in asdict(self).items() if name in ATTRIBUTES}

    def labels(self) -> NDArray[np.int64]:
        """Class index per attribute, in the order of ATTRIBUTES; shape (7,)."""
        values = self.values()
        return np.array([classes.index(values[name]) for name, classes in ATTRIBUTES.items()])


def held_out(shape: str, colour: str, motion: str) -> bool:
    """Whether a (shape, colour, motion) combination is kept from training: about one in eight, by a hash."""
    return zlib.crc32(f"{shape} {colour} {motion}".encode()) % 8 == 0


def draw_scene(rng: np.random.Generator, split: Split) -> Scene:
    """A random scene of the split. Raises ValueError for an unknown split."""
    if split not in ("train", "held-out"):
        raise ValueError(f"split is {split!r}; it must be 'train' or 'held-out'")
    while True:
        values = {name: str(rng.choice(classes)) for name, classes in ATTRIBUTES.items()}
        if held_out(values["shape"], values["colour"], values["motion"]) == (split == "held-out"):
            break
    values["company"] = "second" if rng.random() < _COMPANY_RATE else "alone"
    return Scene(**values, seed=int(rng.integers(2**63)))


def render_scene(scene: Scene, mottle: float = 1.0) -> NDArray[np.uint8]:
    """Draws a scene: uint8 RGB of shape (FRAMES, SIDE, SIDE, 3), the same for the same scene everywhere.

    `mottle` is how strong the ground's mottle is drawn: clips of this world have 1, those of poor samplers less.
    """
    return _draw(scene, mottle)[0]


def object_boxes(scene: Scene) -> NDArray[np.float32]:
    """Where the moving object is: (FRAMES, 4) as left, top, right, bottom in pixels, edges between pixels."""
    _, centres, radii = _draw(scene)
    reach = _REACH[scene.shape] * radii[:, None]
    return np.clip(np.concatenate([centres - reach, centres + reach], axis=1), 0, WORLD_SIDE)


def render_boxes(scene: Scene) -> NDArray[np.uint8]:
    """A clip that shows nothing but the object's box: white on black, uint8 (FRAMES, SIDE, SIDE, 3)."""
    left, top, right, bottom = (edge[:, None, None] for edge in object_boxes(scene).T)
    inside = (left < _X) & (right > _X) & (top < _Y) & (bottom > _Y)
    return np.repeat(255 * inside[..., None].astype(np.uint8), 3, axis=3)


def _draw(scene: Scene, mottle: float = 1.0) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]:
    """The clip, and the object's centres (FRAMES, 2) and radii (FRAMES,) in it."""
    rng = np.random.default_rng(scene.seed)
    clip = np.repeat(_background(scene, rng, mottle)[None], WORLD_FRAMES, axis=0)
    if scene.company == "second":
        clip = _paint_company(clip, scene, rng)
    centres, radii = _path(scene, rng)
    colour = _jittered(scene.colour, rng)
    coverage = _coverage(scene.shape, centres, radii)
    clip += coverage[..., None] * (colour - clip)
    # Wan's positions are relative only: without a frame a denoiser cannot know where in the image it is
    for edge in (np.s_[:, :3], np.s_[:, -3:], np.s_[:, :, :3], np.s_[:, :, -3:]):
        clip[edge] = 12
    return np.clip(np.rint(clip), 0, 255).astype(np.uint8), centres, radii


_Y, _X = np.mgrid[0:WORLD_SIDE, 0:WORLD_SIDE].astype(np.float32) + 0.5


def _jittered(colour: str, rng: np.random.Generator) -> NDArray[np.float32]:
    return np.asarray(_RGB[colour], np.float32) + rng.uniform(-12, 12, 3).astype(np.float32)


def _background(scene: Scene, rng: np.random.Generator, strength: float) -> NDArray[np.float32]:
    """(SIDE, SIDE, 3): a gradient at a free angle or level or upright stripes, mottled, in a weak free tint."""
    low, high = _LUMA[scene.tone]
    # the two greys of the ground, in a free order, both within the tone's range
    first, second = rng.uniform(low, low + 0.2 * (high - low)), rng.uniform(high - 0.2 * (high - low), high)
    if rng.random() < 0.5:
        first, second = second, first
    if scene.pattern == "striped":
        along, phase = (_X if rng.random() < 0.5 else _Y), rng.uniform(0, 2 * np.pi)
        mix = 0.5 + 0.5 * np.tanh(3 * np.sin(2 * np.pi * along / _STRIPE_PERIOD + phase)) / np.tanh(3)
    else:
        angle = rng.uniform(0, 2 * np.pi)
        along = (_X - WORLD_SIDE / 2) * np.cos(angle) + (_Y - WORLD_SIDE / 2) * np.sin(angle)
        mix = np.clip(0.5 + along / WORLD_SIDE, 0, 1)
    tint = rng.uniform(-14, 14, 3)
    mottle = strength * _MOTTLE * rng.uniform(0.7, 1.3) * _smooth_noise(rng)
    return ((first + (second - first) * mix + mottle)[..., None] + tint).astype(np.float32)


def _smooth_noise(rng: np.random.Generator) -> NDArray[np.float64]:
    """(SIDE, SIDE) of unit variance: white noise under a Gaussian of _MOTTLE_GRAIN pixels."""
    margin = int(3 * _MOTTLE_GRAIN)
    distance = np.arange(WORLD_SIDE)[:, None] - np.arange(-margin, WORLD_SIDE + margin)
    # each pixel is a weighted sum of white noise, with weights that keep unit variance
    blur = np.exp(-0.5 * (distance / _MOTTLE_GRAIN) ** 2)
    blur /= np.sqrt((blur**2).sum(1, keepdims=True))
    return blur @ rng.standard_normal((WORLD_SIDE + 2 * margin, WORLD_SIDE + 2 * margin)) @ blur.T


def _path(scene: Scene, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Centres (FRAMES, 2) as x, y and radii (FRAMES,) in pixels."""
    time = np.linspace(0, 1, WORLD_FRAMES)
    radius = _RADIUS[scene.size] * rng.uniform(0.96, 1.04)
    # coordinates that stay are free within some room; the one that changes passes near the middle
    room = 0.4 * (WORLD_SIDE / 2 - radius - 3)
    free, near = rng.uniform(-room, room, 2), rng.uniform(-2, 2, 2)
    travel = rng.uniform(24, 28) * (time - 0.5)
    radii = np.full(WORLD_FRAMES, radius)
    x = np.full(WORLD_FRAMES, free[0])
    y = np.full(WORLD_FRAMES, free[1])
    match scene.motion:
        case "left":
            x = near[0] - travel
        case "right":
            x = near[0] + travel
        case "up":
            y = near[1] - travel
        case "down":
            y = near[1] + travel
        case "orbit":
            turn = rng.choice([-1.0, 1.0]) * 2 * np.pi * time + rng.uniform(0, 2 * np.pi)
            x, y = near[0] + 11 * np.cos(turn), near[1] + 11 * np.sin(turn)
        case "grow":
            radii = radius * (0.35 + 0.65 * time)
    return np.stack([x, y], axis=1).astype(np.float32) + WORLD_SIDE / 2, radii.astype(np.float32)


def _paint_company(clip: NDArray[np.float32], scene: Scene, rng: np.random.Generator) -> NDArray[np.float32]:
    """Puts a small still second object of another colour into a corner, behind the first."""
    shape = str(rng.choice(ATTRIBUTES["shape"]))
    colour = str(rng.choice([c for c in ATTRIBUTES["colour"] if c != scene.colour]))
    centre = rng.choice([10.0, WORLD_SIDE - 10.0], 2) + rng.uniform(-2, 2, 2)
    coverage = _coverage(shape, centre[None].astype(np.float32), np.array([_COMPANY_RADIUS], np.float32))
    return clip + coverage[..., None] * (_jittered(colour, rng) - clip)


def _coverage(shape: str, centres: NDArray[np.float32], radii: NDArray[np.float32]) -> NDArray[np.float32]:
    """Antialiased masks in 0..1, (len(centres), SIDE, SIDE), from the shape's signed distance."""
    x = _X - centres[:, 0, None, None]
    y = _Y - centres[:, 1, None, None]
    r = radii[:, None, None]
    # signed distance to the outline in pixels, below 0 inside
    match shape:
        case "square":
            distance = np.maximum(np.abs(x), np.abs(y)) - _REACH[shape] * r
        case "ring":
            distance = np.abs(np.hypot(x, y) - 0.74 * r) - 0.26 * r
        case "cross":
            arm = 0.3 * r
            upright = np.maximum(np.abs(x) - arm, np.abs(y) - r)
            level = np.maximum(np.abs(y) - arm, np.abs(x) - r)
            distance = np.minimum(upright, level)
        case _:
            raise ValueError(f"shape is {shape!r}; it must be one of {', '.join(ATTRIBUTES['shape'])}")
    # half covered at the outline, over one pixel
    return np.clip(0.5 - distance, 0, 1)
