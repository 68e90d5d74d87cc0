"""Options of verbs that make clips faster or in less memory without a step changed: a field of `Tuning` each."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from fewstep.eval.latency.tuning import Tuning

Optimise = Annotated[
    Literal["auto"] | None,
    typer.Option(
        "--optimise", help="auto: try all options below on the last model, and time all models with those that help."
    ),
]
MaxError = Annotated[
    float | None,
    typer.Option(
        "--max-error",
        min=0.0,
        max=1.0,
        help="With --optimise: how much clips may differ from the untuned model's; 0.05 by default.",
    ),
]
Compile = Annotated[bool, typer.Option("--compile", help="Run the denoisers through torch.compile.")]
CompileBlocks = Annotated[
    bool, typer.Option("--compile-blocks", help="Only their repeated blocks: compiled sooner, about as fast.")
]
CudaGraphs = Annotated[
    bool, typer.Option("--cuda-graphs", help="Compile the denoisers, and replay them as CUDA graphs.")
]
Attention = Annotated[
    str | None, typer.Option(metavar="BACKEND", help="diffusers' attention backend, such as native or flash.")
]
QuantiseOption = Annotated[
    Literal["int8", "fp8"] | None, typer.Option("--quantise", help="Quantise the denoisers' weights with torchao.")
]
QuantiseText = Annotated[
    Literal["int8", "fp8"] | None,
    typer.Option("--quantise-text", help="Quantise the weights of text and image encoders with torchao."),
]
ChannelsLast = Annotated[
    bool, typer.Option("--channels-last", help="Use the channels-last memory format for convolutions.")
]
Tiling = Annotated[
    bool, typer.Option("--tiling", help="Decode clips that are larger than a tile in tiles, with less memory.")
]
Slicing = Annotated[bool, typer.Option("--slicing", help="Decode the clips of a batch one by one, with less memory.")]
Overlap = Annotated[
    bool,
    typer.Option(
        "--overlap", help="Decode clips while the next are denoised: more clips per minute, but no clip sooner."
    ),
]


def take_tuning(options: dict[str, Any]) -> Tuning:
    """Those of a command's options, by name, that are a tuning's, which are not among them any more."""
    from fewstep.eval.latency.tuning import Tuning

    return Tuning(**{field.name: options.pop(field.name) for field in fields(Tuning)})
