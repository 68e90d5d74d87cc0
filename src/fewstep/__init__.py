"""fewstep: progressive adversarial distillation for video diffusion models."""

__version__ = "0.1.0"
