"""Adversarial losses, and the gradient penalty against autograd's."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from fewstep.distill.objectives.losses import AdversarialLoss, discriminator_loss, generator_loss, gradient_penalty

KINDS = get_args(AdversarialLoss)
REAL, FAKE = torch.tensor([[0.5, 2.0], [-1.0, 0.1]]), torch.tensor([[-0.3, 1.0], [0.7, -2.0]])


def test_losses_are_those_of_the_papers() -> None:
    p, fake_p, pair_p = REAL.sigmoid(), FAKE.sigmoid(), (REAL - FAKE).sigmoid()
    close = torch.testing.assert_close
    close(discriminator_loss("non_saturating", REAL, FAKE), (-p.log() - (1 - fake_p).log()).mean())
    close(generator_loss("non_saturating", REAL, FAKE), -fake_p.log().mean())
    close(discriminator_loss("relativistic", REAL, FAKE), -pair_p.log().mean())
    close(generator_loss("relativistic", REAL, FAKE), -(1 - pair_p).log().mean())
    close(discriminator_loss("hinge", REAL, FAKE), torch.tensor((0.5 + 0 + 2 + 0.9 + 0.7 + 2 + 1.7 + 0) / 4))
    close(generator_loss("hinge", REAL, FAKE), -FAKE.mean())


@pytest.mark.parametrize("kind", KINDS)
def test_the_discriminator_parts_what_the_student_brings_together(kind: AdversarialLoss) -> None:
    real, fake = torch.zeros(3, 2, requires_grad=True), torch.zeros(3, 2, requires_grad=True)
    up, down = torch.autograd.grad(discriminator_loss(kind, real, fake), (real, fake))
    assert (up < 0).all() and (down > 0).all()
    (fooled,) = torch.autograd.grad(generator_loss(kind, real.detach(), fake), fake)
    assert (fooled < 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_losses_of_sure_discriminators_stay_finite(kind: AdversarialLoss) -> None:
    for sure in (1e4, -1e4):
        logits = torch.full((2, 1), sure)
        assert discriminator_loss(kind, logits, -logits).isfinite()
        assert generator_loss(kind, logits, -logits).isfinite()


def repeated(z: Tensor, count: int) -> Tensor:
    return z.repeat_interleave(count, dim=0)


def noise_like(z: Tensor) -> Tensor:
    return torch.randn(z.shape, generator=torch.Generator().manual_seed(0)).to(z)


def make_network() -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """A smooth function of latents with two logits, and three clips."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(24, 16), nn.Tanh(), nn.Linear(16, 2)).double()
    return network, torch.randn(3, 3, 2, 2, 2, dtype=torch.float64)


def test_the_penalty_is_half_the_squared_gradient() -> None:
    """To 5 %: the mean of (n . g)^2 over N unit noises has a relative deviation of sqrt(2 / N), here 1 %."""
    network, z = make_network()
    point = z.clone().requires_grad_()
    logits = network(point)
    gradients = [torch.autograd.grad(logits[:, head].sum(), point, retain_graph=True)[0] for head in range(2)]
    expected = torch.stack([g.flatten(1).square().sum(dim=1) for g in gradients]).mean(dim=0) / 2
    many = repeated(z, 20_000)
    with torch.no_grad():
        penalty = gradient_penalty(network, many, 1e-3, noise_like(many))
    torch.testing.assert_close(penalty.view(3, -1).mean(dim=1), expected, rtol=0.05, atol=0)


def test_the_unit_does_not_depend_on_sigma() -> None:
    slope = 3.0
    for sigma in (1e-3, 1e-2, 1.0):
        z = torch.zeros(50_000, 1, dtype=torch.float64)
        penalty = gradient_penalty(lambda x: slope * x, z, sigma, noise_like(z))
        assert float(penalty.mean()) == pytest.approx(slope**2 / 2, rel=0.05)


def test_known_logits_are_not_asked_again_and_both_ends_learn() -> None:
    network, z = make_network()
    arguments: list[Tensor] = []

    def discriminate(x: Tensor) -> Tensor:
        arguments.append(x)
        return network(x)

    logits = network(z)
    with_logits = gradient_penalty(discriminate, z, 0.1, noise_like(z), logits)
    assert len(arguments) == 1 and not torch.equal(arguments[0], z)
    torch.testing.assert_close(with_logits, gradient_penalty(network, z, 0.1, noise_like(z)))
    (of_logits,) = torch.autograd.grad(with_logits.sum(), logits)
    assert of_logits.any()
