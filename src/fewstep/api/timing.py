"""`fewstep.benchmark`: time a teacher and its students from Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fewstep.api.arguments import PathOrName, checked, in_one_sentence, named_models, python_call


@in_one_sentence
def benchmark(
    models: PathOrName | Sequence[PathOrName] | Mapping[str, PathOrName] = (),
    *,
    steps: int | None = None,
    guidance: float | str | None = None,
    batch: int = 1,
    repetitions: int = 10,
    warmup: int = 2,
    dtype: str = "auto",
    device: str | None = None,
    decoder: PathOrName | Sequence[PathOrName] | Mapping[str, PathOrName] | None = None,
    shift: float | None = None,
    frames: int | None = None,
    height: int | None = None,
    width: int | None = None,
    optimise: str | None = None,
    max_error: float | None = None,
    compile: bool = False,
    compile_blocks: bool = False,
    cuda_graphs: bool = False,
    attention: str | None = None,
    quantise: str | None = None,
    quantise_text: str | None = None,
    channels_last: bool = False,
    tiling: bool = False,
    slicing: bool = False,
    overlap: bool = False,
    random_weights: PathOrName | None = None,
    text: bool = True,
    out: PathOrName | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Times a teacher and its students in turn, as `fewstep benchmark` does. Returns what it writes to `out`, with
    `rows`.

    models: the teacher first, each "SOURCE[@STEPS[:GUIDANCE]]" as on the command line, or name -> source. decoder: a
    small decoder for all but the first, or name -> decoder. `failed` in the result holds models that could not be
    timed, name -> reason. quiet: prints nothing. All other arguments are explained by `fewstep benchmark --help`.
    Raises ValueError, with a one-sentence message, for what the command refuses.
    """
    arguments = {**locals(), "models": named_models(models)}
    if decoder is not None:
        arguments["decoder"] = named_models(decoder)
    del arguments["quiet"]
    from fewstep.commands.benchmark import benchmark_command, benchmark_models
    from fewstep.commands.progress import Screen
    from fewstep.commands.tuning_options import take_tuning

    screen = Screen(quiet=quiet)
    screen.command = python_call(benchmark, arguments)
    values = checked(benchmark_command, arguments)
    tuning = take_tuning(values)
    return benchmark_models(**values, tuning_of=lambda: tuning, screen=screen)
