"""A world of small clips and a network that learns to predict eps in it, on AnimateDiff's schedule: what a conversion
makes of it. `python -m tests.distill.eps_world` measures that for LOG.md, in some seven minutes on one core."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.distill.conversion import MOST_AMPLIFIED, ConversionObjective
from fewstep.distill.draws import Draws
from fewstep.distill.objectives.base import STUDENT, Batch
from fewstep.distill.objectives.progressive import Progressive, ProgressiveObjective
from fewstep.distill.objectives.supervision import Supervision
from fewstep.teacher.base import Teacher
from fewstep.teacher.conditions import Conditions
from fewstep.teacher.lr_scale import lr_scale
from fewstep.teacher.predictions import record_prediction
from fewstep.teacher.rollout import rollout
from fewstep.teacher.schedule import NoiseSchedule, Time

_BETAS = torch.linspace(0.00085, 0.012, 1000, dtype=torch.float64)  # sigma/alpha at t = 1 is 25
SCHEDULE = NoiseSchedule("vp", "eps", alphas_cumprod=tuple((1 - _BETAS).cumprod(0).tolist()))
_SIZE = 2 * 2 * 4 * 4
TIMES = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)


class Denoiser(nn.Module):
    """Three residual layers, told the time by sines."""

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.start, self.time = nn.Linear(_SIZE, width), nn.Linear(64, width)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
            for _ in range(3)
        )
        self.end = nn.Linear(width, _SIZE)

    def forward(self, z: Tensor, timestep: Tensor) -> Tensor:
        angles = timestep.float()[:, None] * torch.exp(-torch.arange(32) * (9.21 / 32))
        time = nn.functional.silu(self.time(torch.cat([angles.sin(), angles.cos()], 1)))
        x = self.start(z.flatten(1)) + time
        for layer in self.layers:
            x = x + layer(x + time)
        output: Tensor = self.end(x)
        return output.view_as(z)


class SmallTeacher(Teacher):
    """As much of a teacher as distillation asks."""

    embed = text_limit = encode = decode = latent_shape = tokens_to_grid = None  # type: ignore[assignment]

    def __init__(self) -> None:
        self.schedule, self.network = SCHEDULE, Denoiser()

    @property
    def denoiser(self) -> nn.Module:
        return self.network

    def predict(self, z_t: Tensor, t: Time, conditions: Conditions, network: nn.Module | None = None) -> Tensor:
        prediction: Tensor = (network or self.network)(z_t, self.schedule.timestep(t).expand(len(z_t)))
        return prediction

    def train(self, steps: int) -> None:
        """To predict the noise in clips."""

        def loss(batch: Batch) -> Tensor:
            noise = batch.noise()
            t = 1 - batch.draws.each(lambda g: torch.rand(1, dtype=torch.float64, generator=g))
            z_t = self.schedule.add_noise(batch.x0, noise, t)
            return (self.predict(z_t, t, batch.conditions) - noise).square().mean()

        fit(self.network, steps, 1e-3, loss, seed=0)


def batch(size: int, seed: int) -> Batch:
    """Clips (size, 2, 2, 4, 4) of a spot, light or dark, that moves one pixel to the right."""
    generator = torch.Generator().manual_seed(seed)
    x, y = (4 * torch.rand(size, 1, 1, 1, generator=generator) for _ in range(2))
    sign = torch.randint(2, (size, 1, 1, 1), generator=generator) * 2.0 - 1
    frame, row, column = torch.meshgrid(torch.arange(2.0), torch.arange(4.0), torch.arange(4.0), indexing="ij")
    across, down = (column - x - frame + 2) % 4 - 2, (row - y + 2) % 4 - 2
    spot = 4 * torch.exp(-(across**2 + down**2) / 1.5) - 1.1
    x0, nothing = torch.stack([spot * sign, spot / 2], 1), Conditions({"embeddings": torch.zeros(size, 1, 1)})
    return Batch(x0, nothing, Draws.seeded(seed, size), 0.0)


def fit(network: nn.Module, steps: int, lr: float, loss: Callable[[Batch], Tensor], seed: int) -> nn.Module:
    """Adam on fresh clips; the network itself, frozen."""
    network.requires_grad_(True)
    optimizer = torch.optim.Adam(network.parameters(), lr=lr)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * lr_scale(step, steps, 20, 0.3)
        loss(batch(64, seed + step)).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return network.requires_grad_(False)


def students(teacher: Teacher, student: nn.Module, supervisor: nn.Module) -> Any:
    """Roles without adapters or files."""
    return SimpleNamespace(teacher=teacher, student=student, supervisor=supervisor, backbone=teacher.network_at(1.0))


def convert(teacher: Teacher, start: nn.Module, steps: int, most_amplified: float = MOST_AMPLIFIED) -> nn.Module:
    """A copy of `start` for one step, which predicts v."""
    student = record_prediction(deepcopy(start), "v")
    objective = ConversionObjective(start, Supervision(2, 1), most_amplified)
    roles = students(teacher, student, start)
    return fit(student, steps, 3e-4, lambda b: objective.loss(STUDENT, b, roles, 0)["loss"], seed=2 * 10**6)


def distil(teacher: Teacher, student: nn.Module, supervisor: nn.Module, steps: tuple[int, int], lr: float) -> nn.Module:
    """`student`, which takes in one step what its supervisor does in several."""
    objective, roles = ProgressiveObjective(Progressive(), Supervision(*steps)), students(teacher, student, supervisor)

    def loss(batch: Batch) -> Tensor:
        lesson = objective.lesson((STUDENT,), batch, roles, keep_graph=True)
        return objective.loss(STUDENT, lesson, roles, 0)["loss"]

    return fit(student, 600, lr, loss, seed=10**7 * steps[1])


@torch.no_grad()
def x0_of(teacher: Teacher, network: nn.Module, t: float, test: Batch, noise: Tensor) -> Tensor:
    """What the network sees in held-out clips at t; in noise alone at t = 1."""
    z_t = teacher.schedule.add_noise(test.x0, noise, t) if t < 1 else noise
    return teacher.denoise(z_t, t, test.conditions, network=network)


def mse(a: Tensor, b: Tensor) -> float:
    return float((a - b).square().mean())


def measure() -> None:
    """Prints, for a base teacher and for its 2-step student, what conversions of each leave and how a stage ends."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    teacher = SmallTeacher()
    teacher.train(4000)
    two = deepcopy(teacher.network)
    for steps in ((32, 8), (8, 4), (4, 2)):
        distil(teacher, two, deepcopy(two), steps, 3e-4)
    test = batch(1024, 10**6)
    noise = test.noise()
    print(f"variance of clips {float(test.x0.var()):.3f}; times {TIMES}")
    for name, start, count in (("teacher", teacher.network, 32), ("2-step student", two, 2)):
        grid = teacher.schedule.grid(count)
        clips = rollout(teacher, noise, test.conditions, grid, network=start)
        # 25.1 at t = 1, so 26 is no limit
        for kind in ("as it is", *(f"converted, at most {most:g}" for most in (26, 16, MOST_AMPLIFIED, 4))):
            most = float(kind.split()[-1]) if "most" in kind else None
            student = deepcopy(start) if most is None else convert(teacher, start, 300, most)
            seen = {t: x0_of(teacher, student, t, test, noise) for t in TIMES}
            true = [round(mse(x0, test.x0), 3) for x0 in seen.values()]
            same = [round(mse(x0, x0_of(teacher, start, t, test, noise)), 4) for t, x0 in seen.items()]
            before = mse(seen[1.0], clips)
            distil(teacher, student, start, (count, 1), 1e-4)
            after = mse(x0_of(teacher, student, 1.0, test, noise), clips)
            ends = f"one step to its clips {before:.3f}, after the stage {after:.3f}"
            print(f"{name}, {kind}: x0 to the clips {true}, to the start's {same}; {ends}", flush=True)


if __name__ == "__main__":
    measure()
