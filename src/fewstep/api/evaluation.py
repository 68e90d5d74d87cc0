"""`fewstep.evaluate`: a teacher and its students measured from Python."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fewstep.api.arguments import Source, checked, in_one_sentence, named_models, said


@in_one_sentence
def evaluate(
    models: Source | Sequence[Source] | Mapping[str, Source],
    *,
    prompts: Source | None = None,
    num: int = 2048,
    out: Source | None = None,
    steps: int | None = None,
    guidance: float | str | None = None,
    negative_prompt: str = "",
    seed: int = 0,
    batch: int = 8,
    metrics: str | Sequence[str] | None = None,
    reference: Source | None = None,
    world_clips: int = 2048,
    fvd_weights: Source | None = None,
    lpips_trunk: Source | None = None,
    decoder: Source | Sequence[Source] | Mapping[str, Source] | None = None,
    shift: float | None = None,
    control_scale: float | str | None = None,
    frames: int | None = None,
    height: int | None = None,
    width: int | None = None,
    dtype: str = "auto",
    device: str | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Compares students with their teacher, as `fewstep evaluate` does: what it writes to results.json, with `rows`.

    models: the teacher first, each "SOURCE[@STEPS[:GUIDANCE]]" as on the command line, or name -> source. decoder: a
    small decoder for all but the first, or name -> decoder. metrics: names, by default all that can be taken. quiet:
    shows nothing; what would be shown is in log.txt of `out`, which is by default the last run's folder `evaluation`.
    All else is as `fewstep evaluate --help` says. Raises ValueError in one sentence for what that refuses. Call it
    again to resume after a stop.
    """
    asked = {**locals(), "models": named_models(models)}
    if decoder is not None:
        asked["decoder"] = named_models(decoder)
    del asked["quiet"]
    if not asked["models"]:
        raise ValueError("there are no models: pass the teacher, then its students")
    from fewstep.commands.evaluate import evaluate as command
    from fewstep.commands.evaluate import evaluate_models
    from fewstep.commands.progress import Screen

    if metrics is not None and not isinstance(metrics, str):
        asked["metrics"] = ",".join(metrics)
    values = checked(command, asked)
    screen = Screen(quiet=quiet)
    screen.command = said(evaluate, asked)
    folder = evaluate_models(**values, screen=screen)
    found: dict[str, Any] = json.loads((folder / "results.json").read_text("utf-8"))
    return found
