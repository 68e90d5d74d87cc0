"""README: short, with links that lead somewhere, and results that are those of the measured table."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
COMMANDS = ("    make demo ", "    make test ")  # what CI and new users rely on
PHASES = {"student, regression alone": ("mse",), "student": ("final", "conditional")}


def test_it_is_short_and_starts_with_the_two_commands() -> None:
    assert len(README.split()) < 1200
    assert all(f"\n{command}" in README for command in COMMANDS)


def test_links_lead_to_files_of_the_repository() -> None:
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", README) if not link.startswith("https://")]
    assert len(links) > 20 and not [link for link in links if not (ROOT / link.partition("#")[0]).is_file()]


def test_its_results_are_those_of_the_relay_table() -> None:
    """Each row of the README's table, rounded as there, is a row of docs/results/relay.json."""
    measured = json.loads((ROOT / "docs" / "results" / "relay.json").read_text("utf-8"))["rows"]
    lines = [line for line in README.splitlines() if re.match(r"\| (real clips|teacher|student)", line)]
    assert len(lines) == 8
    for line in lines:
        model, steps, distance, delta, accuracy = (cell.strip() for cell in line.strip("|").split("|"))
        (row,) = (row for row in measured if _is(row, model, steps))
        assert distance == _with_interval(row["shapes_fd"], row["low"], row["high"])
        assert accuracy == f"{row['prompt_accuracy']:.3g}"
        if delta:
            assert delta == _with_interval(row["delta"], row["delta_low"], row["delta_high"])


def test_its_second_seed_is_that_of_the_table() -> None:
    measured = json.loads((ROOT / "docs" / "results" / "relay-seed-1.json").read_text("utf-8"))["rows"]
    final = {row["steps"]: row for row in measured if row.get("phase") == "final"}
    four, two, one = (
        _with_interval(-r["delta"], -r["delta_high"], -r["delta_low"]) for r in (final[steps] for steps in (4, 2, 1))
    )
    assert f"gains {four}, {two} and {one} over regression alone at 4, 2 and 1 steps" in " ".join(README.split())


def _is(row: dict[str, object], model: str, steps: str) -> bool:
    if model in PHASES:
        return row.get("phase") in PHASES[model] and str(row["steps"]) == steps
    return row["model"] == model.split()[0]


def _with_interval(value: float, low: float, high: float) -> str:
    return f"{value:.1f} ({low:.1f} to {high:.1f})"
