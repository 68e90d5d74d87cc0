"""README: short, with links that lead somewhere, and results that are those of the measured table."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
COMMANDS = ("    make demo ", "    make test ")  # what CI and new users rely on
PHASES = {"student, regression alone": "mse", "student": "final"}


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


def test_its_other_seeds_are_those_of_their_tables() -> None:
    gains: dict[int, list[float]] = {4: [], 2: [], 1: []}
    tables = [ROOT / "docs" / "results" / "relay.json", *(ROOT / "docs" / "results").glob("relay-seed-*.json")]
    for path in tables:
        rows = json.loads(path.read_text("utf-8"))["rows"]
        final = {row["steps"]: row for row in rows if row.get("phase") in ("final", "conditional")}
        assert all(final[steps]["delta_high"] < 0 for steps in gains)  # all clear of 0
        for steps, of_seeds in gains.items():
            of_seeds.append(-final[steps]["delta"])
    ends = [(f"{min(of_seeds):.1f}", f"{max(of_seeds):.1f}") for of_seeds in gains.values()]
    four, two, one = (least if least == most else f"{least} to {most}" for least, most in ends)
    gained = f"by {four} at 4 steps, {two} at 2, {one} at 1, all clear of 0."
    seeds = {2: "both", 3: "all three"}[len(tables)]
    assert f"In {seeds} seeds shapes-fd improves over regression alone: {gained}" in " ".join(README.split())


def _is(row: dict[str, object], model: str, steps: str) -> bool:
    if model in PHASES:
        return row.get("phase") == PHASES[model] and str(row["steps"]) == steps
    return row["model"] == model.split()[0]


def _with_interval(value: float, low: float, high: float) -> str:
    return f"{value:.1f} ({low:.1f} to {high:.1f})"
