"""Names of stages, as options list them."""

from __future__ import annotations


def parse_stages(text: str | None, option: str = "--stages") -> list[str] | None:
    """'4-step,4-step-mse' -> their names; None for all. Raises ValueError, naming `option`, for one that is empty."""
    names = None if text is None else [name.strip() for name in text.split(",")]
    if names is not None and not all(names):
        raise ValueError(f"{option} is {text!r}; it must be names of stages, separated by commas")
    return names
