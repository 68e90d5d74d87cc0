"""`fewstep.evaluate`: measure a teacher and its students from Python."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fewstep.api.arguments import PathOrName, checked, in_one_sentence, named_models, python_call


@in_one_sentence
def evaluate(
    models: PathOrName | Sequence[PathOrName] | Mapping[str, PathOrName],
    *,
    prompts: PathOrName | None = None,
    num: int = 2048,
    out: PathOrName | None = None,
    steps: int | None = None,
    guidance: float | str | None = None,
    negative_prompt: str = "",
    seed: int = 0,
    batch: int = 8,
    metrics: str | Sequence[str] | None = None,
    reference: PathOrName | None = None,
    world_clips: int = 2048,
    fvd_weights: PathOrName | None = None,
    lpips_trunk: PathOrName | None = None,
    decoder: PathOrName | Sequence[PathOrName] | Mapping[str, PathOrName] | None = None,
    shift: float | None = None,
    embedded_guidance: float | None = None,
    control_scale: float | str | None = None,
    frames: int | None = None,
    height: int | None = None,
    width: int | None = None,
    dtype: str = "auto",
    device: str | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Compares students with their teacher, as `fewstep evaluate` does. Returns the contents of results.json, with
    `rows`.

    models: the teacher first, each "SOURCE[@STEPS[:GUIDANCE]]" as on the command line, or name -> source. decoder: a
    small decoder for all but the first, or name -> decoder. metrics: names, by default all that can be measured.
    quiet: prints nothing; the output is in log.txt of `out`, by default `evaluation` in the last run directory. All
    other arguments are explained by `fewstep evaluate --help`. Raises ValueError, with a one-sentence message, for what
    the command refuses. Call it again to resume.
    """
    # what was passed, under the names that the command has
    arguments = {**locals(), "models": named_models(models)}
    if decoder is not None:
        arguments["decoder"] = named_models(decoder)
    del arguments["quiet"]
    if not arguments["models"]:
        raise ValueError("there are no models: pass the teacher, then its students")
    from fewstep.commands.evaluate import evaluate_command, evaluate_models
    from fewstep.commands.progress import Screen

    if metrics is not None and not isinstance(metrics, str):
        arguments["metrics"] = ",".join(metrics)
    values = checked(evaluate_command, arguments)
    screen = Screen(quiet=quiet)
    # for results.json: the call as it would be written again
    screen.command = python_call(evaluate, arguments)
    folder = evaluate_models(**values, screen=screen)
    results: dict[str, Any] = json.loads((folder / "results.json").read_text("utf-8"))
    return results
