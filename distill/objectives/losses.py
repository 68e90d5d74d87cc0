"""Adversarial losses of logits, and the finite-difference gradient penalty (APT, arXiv 2501.08316)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor
from torch.nn.functional import relu, softplus

AdversarialLoss = Literal["relativistic", "non_saturating", "hinge"]


def discriminator_loss(kind: AdversarialLoss, real: Tensor, fake: Tensor, weights: Tensor | None = None) -> Tensor:
    """What the discriminator minimises; logits (B, heads), those of one pair at the same place. A scalar.

    weights (B,) multiply the loss of each pair; None: 1 each.

    relativistic: RpGAN (arXiv 1807.00734; arXiv 2501.05441), -log p(real above fake). non_saturating:
    -log p(real) - log(1 - p(fake)) (arXiv 2402.13929). hinge: arXiv 1705.02894.
    """
    if kind == "relativistic":
        losses = softplus(fake - real)
    elif kind == "non_saturating":
        losses = softplus(-real) + softplus(fake)
    else:
        losses = relu(1 - real) + relu(1 + fake)
    return _weighted(losses, weights)


def generator_loss(kind: AdversarialLoss, real: Tensor, fake: Tensor, weights: Tensor | None = None) -> Tensor:
    """What the student minimises; arguments as in `discriminator_loss`. Only relativistic looks at `real`.

    weights (B,) multiply the loss of each clip; None: 1 each.
    """
    # all three keep their gradient where D is sure that a clip is the student's; hinge's is not clipped on this side
    losses = -fake  # hinge
    if kind != "hinge":
        losses = softplus(real - fake if kind == "relativistic" else -fake)
    return _weighted(losses, weights)


def _weighted(losses: Tensor, weights: Tensor | None) -> Tensor:
    return losses.mean() if weights is None else (losses.mean(dim=1) * weights).mean()


def gradient_penalty(
    discriminate: Callable[[Tensor], Tensor],
    z: Tensor,
    sigma: float,
    noise: Tensor,
    logits: Tensor | None = None,
) -> Tensor:
    """|grad D(z)|^2 / 2 of each clip (B,), estimated from one other evaluation: times gamma it is an R1 or R2 term.

    D(z + sigma n) - D(z) = sigma n . grad D for small sigma, and E[(n . g)^2] = |g|^2 for unit noise n, so the mean
    over n of the squared difference over sigma^2 is |grad D|^2 (APT leaves the 1/sigma^2 to its weight).
    `noise` is such unit noise, like z. `z` is exactly what the discriminator is given, noise included: the slope at the
    clean latent is another function's.
    `discriminate` gives (B, heads), of which the mean over heads is taken; `logits` are those of z, if they are known.
    Gradients flow to whatever `discriminate` trains, through both evaluations.
    """
    # one random direction per clip is an unbiased estimate, and needs no second derivative of the backbone
    at_z = discriminate(z) if logits is None else logits
    slope = (discriminate(z + sigma * noise) - at_z) / sigma
    return slope.square().mean(dim=1) / 2
