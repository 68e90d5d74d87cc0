"""The judge of the shapes world: a small 3D network that reads attributes and gives features for `shapes-fd`.

Trained on rendered clips only, never on a model's output. Its features are the mean and the deviation, over space
and time, of its layers at four depths, so that blur and broken texture count as much as a wrong attribute. Texture
decides no attribute, so a judge of attributes learns to look through it: this one must also tell how strong the mottle
of the ground is drawn, on training clips that have it weaker or stronger than the world does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import avg_pool3d, cross_entropy, interpolate, pad, silu

from fewstep.teacher.files.atomic import whole_file
from fewstep.teacher.files.checksums import sha256
from fewstep.teacher.limited import Items, NumClips, NumSteps, Rate
from fewstep.teacher.screen import SILENT, TrainingScreen
from fewstep.teacher.shapes.captions import example
from fewstep.teacher.shapes.latents import to_tensor
from fewstep.teacher.shapes.precision import TrainingPrecision, autocast
from fewstep.teacher.shapes.world import ATTRIBUTES, WORLD_FRAMES, WORLD_SIDE, Split, Values, render_scene
from fewstep.teacher.training_loop import Budget, train_network

_WIDTHS = (12, 24, 40, 64)  # channels at the four depths
FEATURES = 2 * sum(_WIDTHS)
_MOST_MOTTLE = 1.3  # of training clips, where the world's have 1
_MOTTLE_WEIGHT = 4.0  # its squared error begins at a tenth of an attribute's cross-entropy
EMBEDDED_JUDGE = Path(__file__).parent / "judge_weights"


class JudgeRecipe(BaseModel):
    """Budget of the judge."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    steps: NumSteps = 2500
    batch: NumClips = 16
    lr: Rate = 2e-3
    ema: float = Field(0.995, ge=0, lt=1)
    watch_clips: Items = 256  # clips that the accuracy is watched on
    feature_clips: int = Field(1024, ge=2)  # real clips that features are standardised on
    precision: TrainingPrecision = "fp32"


class Judge(nn.Module):
    """video (B, 3, 17, 64, 64) in -1..1 -> attribute logits and features."""

    feature_mean: Tensor
    feature_scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        strides = ((2, 2, 2), (2, 2, 2), (1, 2, 2), (1, 2, 2))
        inputs = (5, *_WIDTHS[:-1])
        self.stages = nn.ModuleList(_Stage(i, o, s) for i, o, s in zip(inputs, _WIDTHS, strides, strict=True))
        # the heads also see the last layer at each of its five times: how clips change is their motion
        last = _WIDTHS[-1]
        self.mix = nn.Linear(last * 5 + FEATURES, 128)
        self.heads = nn.ModuleDict({name: nn.Linear(128, len(v)) for name, v in ATTRIBUTES.items()})
        self.mottle = nn.Linear(128, 1)  # for training only: see `render_scene`
        self.register_buffer("feature_mean", torch.zeros(FEATURES))
        self.register_buffer("feature_scale", torch.ones(FEATURES))

    def forward(self, video: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Logits (B, classes) per attribute, and features (B, FEATURES) standardised on real clips."""
        logits, _, raw = self.see(video)
        return logits, (raw - self.feature_mean) / self.feature_scale

    def see(self, video: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Logits (B, classes) per attribute, how strong the mottle is drawn (B,), and raw features (B, FEATURES)."""
        if video.shape[1:] != (3, WORLD_FRAMES, WORLD_SIDE, WORLD_SIDE):
            raise ValueError(
                f"the judge takes clips of shape (3, {WORLD_FRAMES}, {WORLD_SIDE}, {WORLD_SIDE}), not "
                f"{tuple(video.shape[1:])}: "
                "it knows the shapes world only"
            )
        pooled, x = [], torch.cat([video, _edges(video)], dim=1)
        # features of four depths: mean and deviation of each channel, over space and time
        for stage in self.stages:
            x = stage(x)
            flat = x.float().flatten(2)
            pooled += [flat.mean(2), flat.std(2)]
        # what is where in time, which a mean over the clip would hide
        over_time = x.float().mean(dim=(3, 4)).flatten(1)
        raw = torch.cat(pooled, dim=1)
        hidden = silu(self.mix(torch.cat([over_time, raw], dim=1)))
        return {name: head(hidden) for name, head in self.heads.items()}, self.mottle(hidden)[:, 0], raw

    @torch.no_grad()
    def read(self, video: Tensor) -> tuple[list[Values], Tensor]:
        """What each clip shows, attribute -> value, and its features (B, FEATURES)."""
        logits, features = self(video)
        best = {name: scores.argmax(1).tolist() for name, scores in logits.items()}
        values = [{n: ATTRIBUTES[n][best[n][i]] for n in ATTRIBUTES} for i in range(len(video))]
        return values, features


def _edges(video: Tensor) -> Tensor:
    """Strength of horizontal and vertical brightness steps, (B, 2, F, H, W) in 0..1.

    Stripes are faint next to an object: without this the judge took thousands of steps to notice them.
    """
    luma = pad(video.mean(1), (0, 1, 0, 1), mode="replicate")
    across, down = luma[..., :-1, 1:] - luma[..., :-1, :-1], luma[..., 1:, :-1] - luma[..., :-1, :-1]
    return (8 * torch.stack([across, down], dim=1).abs()).clamp_max(1)


class _Stage(nn.Module):
    """A strided convolution, then a residual one; SiLU.

    Batch norm, because a norm over each clip would hide its contrast, and with it stripes and saturation.
    """

    def __init__(self, inputs: int, outputs: int, stride: tuple[int, int, int]) -> None:
        super().__init__()
        self.down = nn.Conv3d(inputs, outputs, 3, stride=stride, padding=1)
        self.norm1, self.norm2 = nn.BatchNorm3d(outputs), nn.BatchNorm3d(outputs)
        self.same = nn.Conv3d(outputs, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = silu(self.norm1(self.down(x)))
        return x + silu(self.norm2(self.same(x)))


def train_judge(judge: Judge, recipe: JudgeRecipe, seed: int, folder: Path, screen: TrainingScreen = SILENT) -> None:
    """Trains the judge in place on clips of both splits, then standardises its features on real clips."""
    device = next(judge.parameters()).device

    def losses(step: int) -> dict[str, Tensor]:
        half = -(-recipe.batch // 2)
        indices = range(step * half, (step + 1) * half)
        rng = np.random.default_rng([seed, step, 3])
        # half of the clips have the world's own mottle, the others weaker or stronger
        mottle = np.where(rng.random(2 * half) < 0.5, 1.0, rng.uniform(0, _MOST_MOTTLE, 2 * half))
        # both splits: it only measures, so it must also know the combinations that teachers are not trained on
        video, labels = batch("train", seed + 2, indices, mottle[:half])
        more, more_labels = batch("held-out", seed + 2, indices, mottle[half:])
        video = _augment(torch.cat([video, more]), rng)
        labels = torch.cat([labels, more_labels]).to(device)
        with autocast(recipe.precision, device):
            logits, strength, _ = judge.see(video.to(device))
        errors = {n: cross_entropy(logits[n].float(), labels[:, i]) for i, n in enumerate(ATTRIBUTES)}
        error = (strength.float() - torch.from_numpy(mottle).float().to(device)).square().mean()
        loss = torch.stack(list(errors.values())).mean() + _MOTTLE_WEIGHT * error
        return {"loss": loss, **errors, "mottle": error}

    def watch(step: int) -> Mapping[str, float]:
        return accuracy(judge, seed, recipe.watch_clips)

    budget = Budget(recipe.steps, recipe.lr, warmup=100, ema=recipe.ema)
    train_network("judge", folder, {"judge": judge}, losses, budget, watch, watch_every=500, screen=screen)
    screen.say(f"judge: standardising its features on {recipe.feature_clips} clips")
    _standardise(judge, seed, recipe.feature_clips)


def batch(split: Split, seed: int, indices: range, mottle: NDArray[np.float64] | None = None) -> tuple[Tensor, Tensor]:
    """Clips (B, 3, 17, 64, 64) and class indices (B, len(ATTRIBUTES)); `mottle` (B,) is as in `render_scene`."""
    scenes = [example(split, seed, i)[0] for i in indices]
    labels = torch.from_numpy(np.stack([scene.labels() for scene in scenes]))
    strengths = np.ones(len(scenes)) if mottle is None else mottle
    clips = [render_scene(scene, float(strength)) for scene, strength in zip(scenes, strengths, strict=True)]
    return to_tensor(clips), labels


@torch.no_grad()
def accuracy(judge: Judge, seed: int, count: int) -> dict[str, float]:
    """Fraction right per attribute on `count` new clips of held-out combinations."""
    device, training = next(judge.parameters()).device, judge.training
    # batch norm by its running statistics, whatever else is in a batch
    judge.eval()
    right = torch.zeros(len(ATTRIBUTES))
    for i in range(0, count, 32):
        video, labels = batch("held-out", seed + 3, range(i, min(i + 32, count)))
        logits, _ = judge(video.to(device))
        predicted = torch.stack([logits[n].argmax(1) for n in ATTRIBUTES], dim=1).cpu()
        right += (predicted == labels).float().sum(0)
    judge.train(training)
    return {f"accuracy {n}": float(right[i] / count) for i, n in enumerate(ATTRIBUTES)}


@torch.no_grad()
def _standardise(judge: Judge, seed: int, count: int) -> None:
    """Sets the feature mean and scale from real held-out clips."""
    # raw features first, so that what is measured is not standardised already
    judge.eval()
    judge.feature_mean.zero_()
    judge.feature_scale.fill_(1)
    device = judge.feature_mean.device
    starts = range(0, count, 32)
    features = torch.cat(
        [judge(batch("held-out", seed + 4, range(i, min(i + 32, count)))[0].to(device))[1] for i in starts]
    )
    judge.feature_mean.copy_(features.mean(0))
    judge.feature_scale.copy_(features.std(0).clamp_min(1e-4))


def _augment(video: Tensor, rng: np.random.Generator) -> Tensor:
    """Faint noise on half of the clips, blur on a third: a judge must not trip over a decoder's softness.

    Noise of 0.1 instead of 0.02 hid the stripes from it for good.
    """
    # faint noise and blur, as decoders leave them, must change no attribute
    noise = torch.from_numpy(rng.standard_normal(video.shape, dtype=np.float32))
    strength = torch.from_numpy(rng.uniform(0, 0.02, len(video)) * (rng.random(len(video)) < 0.5)).float()
    blurred = interpolate(avg_pool3d(video, (1, 2, 2)), scale_factor=(1, 2, 2), mode="trilinear")
    soft = torch.from_numpy(rng.random(len(video)) < 0.33).view(-1, 1, 1, 1, 1)
    return torch.where(soft, blurred, video) + strength.view(-1, 1, 1, 1, 1) * noise


def save_judge(judge: Judge, folder: Path) -> None:
    """Writes judge.safetensors and judge.json with the weights' sha256."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "judge.safetensors"
    with whole_file(weights) as part:
        save_file({k: v.contiguous().cpu() for k, v in judge.state_dict().items()}, part)
    card = {"sha256": sha256(weights), "features": FEATURES, "attributes": ATTRIBUTES}
    (folder / "judge.json").write_text(json.dumps(card, indent=2) + "\n")


def load_judge(folder: Path | None = None, device: str = "cpu") -> Judge:
    """The judge in `folder` (default: the embedded one). Raises ValueError when its weights are not the named ones."""
    folder = folder or EMBEDDED_JUDGE
    weights, card = folder / "judge.safetensors", folder / "judge.json"
    if not weights.exists() or not card.exists():
        raise ValueError(f"{folder} has no judge.safetensors with its judge.json: train one, or reinstall fewstep")
    # a figure means something only next to the judge that gave it
    if sha256(weights) != json.loads(card.read_text())["sha256"]:
        raise ValueError(
            f"{weights} is not the file that {card} names by sha256: restore it, figures would not compare"
        )
    judge = Judge()
    judge.load_state_dict(load_file(weights))
    return judge.eval().to(device)


def judge_sha256() -> str:
    """The embedded judge's version, for every figure it gives."""
    return sha256(EMBEDDED_JUDGE / "judge.safetensors")
