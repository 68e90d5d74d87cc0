"""Ways to make the same clips faster, or in less memory, that change no step: a name of `Tuning` is one option each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain
from typing import Any, Literal

import torch
from torch import nn

from fewstep.eval.latency.peak_memory import denoisers
from fewstep.eval.latency.switch import Attribute, Switch
from fewstep.student.background import check_background
from fewstep.student.few_bits import torchao_quantization, weight_config
from fewstep.student.sampler import Sampler
from fewstep.teacher.precision import stays_exact

Quantise = Literal["int8", "fp8"]
COMPILING = ("compile", "compile_blocks", "cuda_graphs")
_LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}


@dataclass(frozen=True)
class Tuning:
    """What is done to every model.

    compile: denoisers go through torch.compile, whole; compile_blocks: their repeated blocks do, which compiles
    sooner; cuda_graphs: whole, replayed as CUDA graphs. attention: a name of diffusers' attention backends. quantise,
    quantise_text: weights of denoisers, and of what encodes prompts and images. channels_last: layout of
    convolutions' weights. tiling, slicing: the autoencoder decodes a clip in pieces, or the clips of a batch one by
    one. overlap: clips are decoded while the next ones are denoised.
    """

    compile: bool = False
    compile_blocks: bool = False
    cuda_graphs: bool = False
    attention: str | None = None
    quantise: Quantise | None = None
    quantise_text: Quantise | None = None
    channels_last: bool = False
    tiling: bool = False
    slicing: bool = False
    overlap: bool = False

    @property
    def compiles(self) -> bool:
        """Whether torch.compile runs."""
        return any(getattr(self, name) for name in COMPILING)

    @property
    def as_options(self) -> str:
        """As options of the command line; nothing where nothing is done."""
        options = (option_text(field.name, getattr(self, field.name)) for field in fields(self))
        return " ".join(option for option in options if option)


def option_text(name: str, value: Any) -> str:
    """An option as the command line takes it; nothing where it is off."""
    if not value:
        return ""
    option = f"--{name.replace('_', '-')}"
    return option if value is True else f"{option} {value}"


def tune(samplers: Sequence[Sampler], tuning: Tuning) -> list[Switch]:
    """Changes what the samplers ask in place, once each, though several may ask one of them. `overlap` changes nothing
    here: it is how clips are made one after the other.

    Raises ValueError where a model cannot be changed so, or torchao is missing. What only shows when a network runs,
    such as a missing compiler, is raised then.
    """
    wanted = {name: value for name in _WAYS if (value := getattr(tuning, name))}
    return [_WAYS[name](samplers, value) for name, value in wanted.items()]


def check_tuning(tuning: Tuning, device: torch.device, batch: int = 1) -> None:
    """Raises ValueError for options that do not go together, or not with this device or batch, and where the library
    that quantises is missing or broken; nothing need be loaded for it."""
    compiling = [option_text(name, True) for name in COMPILING if getattr(tuning, name)]
    if len(compiling) > 1:
        raise ValueError(f"{' and '.join(compiling)} compile the same networks in different ways: choose one")
    if tuning.cuda_graphs and device.type != "cuda":
        raise ValueError(f"--cuda-graphs need a CUDA GPU, and this is {device.type}: use --compile or --compile-blocks")
    if tuning.slicing and batch == 1:
        raise ValueError("--slicing decodes the clips of a batch one by one, and --batch is 1: leave it out")
    if tuning.quantise is not None or tuning.quantise_text is not None:
        _torchao()


def check_models(samplers: Sequence[Sampler], tuning: Tuning) -> None:
    """Raises ValueError where a model cannot be changed so; outlines will do, which are changed."""
    if tuning.overlap:
        for sampler in samplers:
            check_background(sampler)
    tune(samplers, replace(tuning, compile=False, cuda_graphs=False, quantise=None, quantise_text=None))


def tunable_decoders(samplers: Sequence[Sampler]) -> list[Any]:
    """The autoencoders that decode: not those that a small decoder stands in for."""
    links = (link for sampler in samplers for link in sampler.links)
    return list(dict.fromkeys(link.teacher.pipeline.vae for link in links if link.decoder is None))


def encoders(samplers: Sequence[Sampler]) -> list[Any]:
    """What encodes prompts and given images, where it is there."""
    links = (link for sampler in samplers for link in sampler.links)
    parts = (getattr(link.teacher.pipeline, name, None) for link in links for name in link.teacher.encoders)
    return list(dict.fromkeys(part for part in parts if isinstance(part, nn.Module)))


def _networks(samplers: Sequence[Sampler]) -> list[Any]:
    return list(dict.fromkeys(network for sampler in samplers for network in denoisers(sampler)))


def _compile(samplers: Sequence[Sampler], _: bool, **options: Any) -> Switch:
    networks = _networks(samplers)

    def change() -> None:
        # `Module.compile` works in place: names and weights stay what they are
        for network in networks:
            network.compile(dynamic=False, **options)

    return Switch([(network, "_compiled_call_impl") for network in networks], change)


def _cuda_graphs(samplers: Sequence[Sampler], on: bool) -> Switch:
    return _compile(samplers, on, mode="reduce-overhead")


def _compile_blocks(samplers: Sequence[Sampler], _: bool) -> Switch:
    """As diffusers' `compile_repeated_blocks`, also where only the family knows the blocks."""
    blocks = dict[Any, None]()
    for link in chain.from_iterable(sampler.links for sampler in samplers):
        # each link's own networks: `before` would bring those of earlier links again
        for network in denoisers(replace(link, before=None)):
            result = link.teacher.blocks(network)
            if not result:
                raise ValueError(f"{type(network).__name__} names no repeated blocks: use --compile")
            blocks |= dict.fromkeys(result)

    def change() -> None:
        for block in blocks:
            block.compile(dynamic=False)

    return Switch([(block, "_compiled_call_impl") for block in blocks], change)


def _attention(samplers: Sequence[Sampler], backend: str) -> Switch:
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry as Registry

    networks = _networks(samplers)
    # a backend is an attribute of attention processors, which `Switch` notes so that it can be put back
    processors = [getattr(module, "processor", None) for network in networks for module in network.modules()]
    places: list[Attribute] = [(one, "_attention_backend") for one in processors if hasattr(one, "_attention_backend")]

    def change() -> None:
        of_all = Registry._active_backend
        try:
            for network in networks:
                try:
                    network.set_attention_backend(backend)
                except (ValueError, RuntimeError, ImportError, AttributeError) as error:
                    kind = type(network).__name__
                    raise ValueError(f"{kind} has no attention backend {backend} here: {error}") from error
        finally:
            Registry._active_backend = of_all  # diffusers sets it as well, for every other model of the process

    return Switch(places, change)


def _quantise(samplers: Sequence[Sampler], to: Quantise) -> Switch:
    return _in_eight_bits(_networks(samplers), to)


def _quantise_text(samplers: Sequence[Sampler], to: Quantise) -> Switch:
    return _in_eight_bits(encoders(samplers), to)


def _in_eight_bits(networks: Sequence[nn.Module], to: Quantise) -> Switch:
    """Weights of linear layers, but those that are kept in float32 whatever is asked; they are turned back into the
    network's dtype where they are used."""
    # plain linear layers alone: subclasses, and what diffusers keeps in float32, stay as they are
    layers = [
        module
        for network in networks
        for name, module in network.named_modules()
        if type(module) is nn.Linear and not stays_exact(network, name, module.weight.dtype)
    ]

    def change() -> None:
        for layer in layers:
            _torchao().quantize_(layer, weight_config(to, "quantised weights"))

    return Switch([(layer, "weight") for layer in layers], change)


def _channels_last(samplers: Sequence[Sampler], _: bool) -> Switch:
    modules = (m for part in (*tunable_decoders(samplers), *_networks(samplers)) for m in part.modules())
    chosen = [m for m in modules if getattr(getattr(m, "weight", None), "ndim", 0) in _LAYOUTS]

    def change() -> None:
        for module in chosen:
            weight: Any = module.weight
            laid_out = weight.detach().contiguous(memory_format=_LAYOUTS[weight.ndim])
            module.weight = nn.Parameter(laid_out, requires_grad=False)

    return Switch([(module, "weight") for module in chosen], change)


def _decode_by(samplers: Sequence[Sampler], setting: str) -> Switch:
    result = tunable_decoders(samplers)
    option, attribute = f"--{setting}", f"use_{setting}"
    if not result:
        raise ValueError(f"{option} is the autoencoder's, and a small decoder decodes all clips here: leave it out")
    for decoder in result:
        if not hasattr(decoder, attribute):
            raise ValueError(f"{type(decoder).__name__} cannot do {option}: leave it out")

    def change() -> None:
        for decoder in result:
            getattr(decoder, f"enable_{setting}")()

    return Switch([(decoder, attribute) for decoder in result], change)


def _torchao() -> Any:
    return torchao_quantization("quantised weights")


_WAYS: dict[str, Callable[[Sequence[Sampler], Any], Switch]] = {  # what is compiled comes last, as it then is
    "quantise": _quantise,
    "quantise_text": _quantise_text,
    "channels_last": _channels_last,
    "attention": _attention,
    "tiling": lambda samplers, _: _decode_by(samplers, "tiling"),
    "slicing": lambda samplers, _: _decode_by(samplers, "slicing"),
    "compile": _compile,
    "compile_blocks": _compile_blocks,
    "cuda_graphs": _cuda_graphs,
}
