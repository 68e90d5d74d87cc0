"""What is counted and timed in a checkpoint of either kind, and which values it can have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def check_numbers(state: Mapping[str, Any]) -> None:
    """Raises ValueError unless what is counted and timed are numbers that it can have."""
    for name in ("step", "drawn"):
        if type(state[name]) is not int or not 0 <= state[name] < 2**53:
            raise ValueError(f"its {name} is {state[name]!r:.60}, not a whole number from 0 on")
    if type(count := state.get("micro_batches", 1)) is not int or not 0 < count < 2**31:
        raise ValueError(f"its micro_batches are {count!r:.60}, not a whole number from 1 on")
    if type(rounds := state.get("rounds", 0)) is not int or not 0 <= rounds < 2**31:
        raise ValueError(f"its rounds are {rounds!r:.60}, not a whole number from 0 on")
    figures = state.get("figures", {})
    if type(figures) is not dict or any(type(value) not in (int, float) for value in figures.values()):
        raise ValueError(f"its figures are {figures!r:.60}, not numbers with names")
    if type(looks := state.get("suspect", 0)) is not int or not 0 <= looks < 2**31:
        raise ValueError(f"its suspect is {looks!r:.60}, not a whole number from 0 on")
    if type(watched := state.get("watched", 0)) is not int or not 0 <= watched < 2**53:
        raise ValueError(f"its watched is {watched!r:.60}, not a whole number from 0 on")
    seconds, rate = state["seconds"], state.get("rate", 1.0)
    if type(seconds) not in (int, float) or not 0 <= seconds < 1e12:
        raise ValueError(f"its seconds are {seconds!r:.60}, not a number from 0 on")
    if type(rate) not in (int, float) or not 0 < rate <= 1:
        raise ValueError(f"its rate is {rate!r:.60}, not a number above 0 and up to 1")
