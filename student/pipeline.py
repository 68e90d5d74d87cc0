"""A student as a pipeline of diffusers: its weights and sampler in the teacher's class, its contract in the call."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from functools import wraps
from itertools import zip_longest
from typing import Any

from torch import Tensor, nn

from fewstep.student.adapters import merge_adapters
from fewstep.student.contract import SamplingContract
from fewstep.student.export.stock import changed_parts, stock_scheduler, trained_names
from fewstep.student.loading import Student
from fewstep.student.sampler import check_negative, clip_size
from fewstep.teacher.base import Teacher
from fewstep.teacher.experts import parts_of

# Inputs of denoisers that say when or where, which diffusers keeps in float32 whatever the weights are in.
_PLACES = re.compile(r".*(timestep|coords|rotary|position).*")
# Arguments of pipelines that decide where a step goes, by whatever names: a student has one value of each.
_SAMPLING = re.compile(r"num_inference_steps|sigmas|timesteps|eta|.*(guidance|cfg|stg|modality).*|.*conditioning_scale")


def student_pipeline(student: Student, force: bool = False) -> Any:
    """The student in the teacher's pipeline, which is the student's from now on: the teacher cannot be asked any more.

    Its class is diffusers' own but for the call: what is left out is as the contract says, and what differs from it is
    refused unless `force`. `pipe.contract` is the contract. Raises ValueError when diffusers has no sampler with the
    student's nodes, or the student's network is none of diffusers', such as an ONNX graph.
    """
    teacher, pipe = student.teacher, student.teacher.pipeline
    # diffusers' own scheduler with the contract's nodes, and parts whose settings the family changes for students
    parts = {**changed_parts(teacher), "scheduler": stock_scheduler(student).make(pipe)}
    for name, part in {**_networks(student), **parts}.items():
        setattr(pipe, name, part)
    teacher.set_up(pipe)
    _join_precisions(pipe)
    pipe.contract = student.contract
    # a class of its own only for the call, which has the contract's arguments as defaults
    stock = type(pipe)
    own = {"__call__": _call(stock, teacher, student.contract, force), "__module__": stock.__module__}
    pipe.__class__ = type(stock.__name__, (stock,), own)  # the same name: it is what `save_pretrained` writes
    return pipe


def _networks(student: Student) -> dict[str, Any]:
    """The student's trained networks by the pipeline's names, adapters merged; what of the teacher's they replace, and
    do not share, is freed."""
    teacher, components = student.teacher, dict[str, Any]()
    owned, networks = parts_of(teacher.denoiser), parts_of(student.network)
    for name in trained_names(student.contract):
        own, network = owned[name], networks[name]
        if not isinstance(network, type(own)):
            raise ValueError(
                f"no pipeline of diffusers can hold the student, which is run by {type(network).__name__}: sample it "
                "with `fewstep sample`, or load the run or another export"
            )
        components[teacher.component_names()[name]] = network
        merge_adapters(network)
        # weights of the teacher that the student does not share are of no use any more
        if not set(map(id, own.parameters())) & set(map(id, network.parameters())):
            own.to("meta")
    return components


def _join_precisions(pipe: Any) -> None:
    """Has parts take what others make in another precision: the autoencoder stays in float32 next to a denoiser in
    bfloat16, and not every pipeline casts between them."""
    for name, part in pipe.components.items():
        if name == "vae":
            for ask in ("encode", "decode"):
                setattr(part, ask, _casting(part, getattr(part, ask)))
        elif isinstance(part, nn.Module) and hasattr(part, "dtype"):
            part.register_forward_pre_hook(_cast_inputs, with_kwargs=True)


def _casting(vae: Any, ask: Any) -> Any:
    @wraps(ask)
    def cast(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        return ask(x.to(vae.dtype), *args, **kwargs)

    return cast


def _cast_inputs(part: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Latents and embeddings alone: times and places of tokens would lose what they say."""

    def cast(name: str, x: Any) -> Any:
        is_content = isinstance(x, Tensor) and x.is_floating_point() and x.ndim > 2 and not _PLACES.fullmatch(name)
        return x.to(part.dtype) if is_content else x

    names = inspect.signature(part.forward).parameters
    by_place = [cast(str(name), x) for name, x in zip_longest(names, args)][: len(args)]
    return tuple(by_place), {name: cast(name, x) for name, x in kwargs.items()}


def _call(stock: Any, teacher: Teacher, contract: SamplingContract, force: bool) -> Any:
    """`stock.__call__` with the contract's arguments as its defaults."""
    signature = inspect.signature(stock.__call__)
    usual = {name: parameter.default for name, parameter in signature.parameters.items()}
    wanted = usual | teacher.call_arguments(contract)
    other_first = "prompt" in usual and list(usual)[1] != "prompt"  # such as an image, which is never a text

    @wraps(stock.__call__)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if other_first and args and _is_text(args[0]) and "prompt" not in kwargs:
            args, kwargs = args[1:], {"prompt": args[0], **kwargs}
        # what the user passed, whether by position or by name
        passed = signature.bind_partial(self, *args, **kwargs).arguments
        passed |= passed.pop("kwargs", {})
        size = clip_size(contract.sizes, *map(passed.get, teacher.size_arguments))
        if not force:
            contract.check(size=size)
            _check(passed, wanted, contract, teacher)
        teacher.latent_shape(*size)
        # the contract's arguments for this size, then the user's
        own = teacher.call_arguments(contract.only_at(size))
        of_size = [name for name in teacher.size_arguments if name in own]  # the family may tell its pipeline another
        return stock.__call__(**own | {name: value for name, value in passed.items() if name not in of_size})

    call.__signature__ = signature.replace(  # type: ignore[attr-defined]  # for help()
        parameters=[parameter.replace(default=wanted[name]) for name, parameter in signature.parameters.items()]
    )
    return call


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and bool(value) and isinstance(value[0], str))


def _check(
    call_arguments: Mapping[str, Any], wanted: Mapping[str, Any], contract: SamplingContract, teacher: Teacher
) -> None:
    """Raises ValueError for a call that asks the student for what it was not trained for."""
    for name, value in call_arguments.items():
        if _SAMPLING.fullmatch(name) and name in wanted and not _same(value, wanted[name]):
            raise ValueError(
                f"the student is sampled with {name}={wanted[name]!r}, not {value!r}: it was distilled for that alone; "
                f"leave {name} out, or load it with force=True to try"
            )
    check_negative(
        contract, call_arguments.get("negative_prompt") or "", "negative_prompt", "load it with force=True to try"
    )
    # images and videos: those that the student was trained with, neither more nor fewer
    arguments = teacher.given_arguments
    needed = {arguments[name]: None for name in contract.given if name in arguments}
    passed = [name for name in dict.fromkeys(arguments.values()) if call_arguments.get(name) is not None]
    if missing := [name for name in needed if name not in passed]:
        raise ValueError(
            f"the student makes clips from prompts and {' and '.join(contract.given)}: pass {' and '.join(missing)}"
        )
    if strays := [name for name in passed if name not in needed]:
        raise ValueError(f"the student was trained without {' and '.join(strays)}: leave it out")


def _same(value: Any, default: Any) -> bool:
    if isinstance(value, list | tuple) and isinstance(default, list | tuple):
        return list(value) == list(default)
    return value is default or bool(isinstance(value, int | float) and value == default)
