"""The denoiser as an ONNX graph: one forward, for any batch of clips of the student's size."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.student.contract import UNNAMED, SamplingContract
from fewstep.student.denoiser import single_denoiser
from fewstep.student.export.abilities import one_graph
from fewstep.student.export.base import OTHER_RUNTIME, PROBE_PROMPTS, Format, Options, SampleLatents, Written
from fewstep.student.export.header import header_of, only_file, parse_header
from fewstep.student.export.stock import PUT_IN, merged_network
from fewstep.student.loading import Student
from fewstep.teacher.base import Teacher
from fewstep.teacher.predictions import record_prediction

OUTPUT = "prediction"


class _Recorder(nn.Module):
    """Stands in for a denoiser and remembers what it is asked with, by argument."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.dtype, self.asked = torch.float32, dict[str, Any]()
        self._signature = inspect.signature(network.forward)

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor]:
        self.asked = dict(self._signature.bind(*args, **kwargs).arguments)
        z: Tensor = next(iter(self.asked.values()))
        return (z,)


class _OfBatch(nn.Module):
    """The denoiser as a function of those arguments that grow with the batch; the others stay as they were."""

    def __init__(self, network: nn.Module, names: list[str], others: dict[str, Any]) -> None:
        super().__init__()
        self.network, self.names, self.others = network, names, others

    def forward(self, *tensors: Tensor) -> Tensor:
        output: Tensor = self.network(**self.others, **dict(zip(self.names, tensors, strict=True)))[0]
        return output


class OnnxDenoiser(nn.Module):
    """A graph in onnxruntime, asked as the denoiser that it was made of is asked."""

    def __init__(self, session: Any, like: nn.Module) -> None:
        super().__init__()
        self.session, self.dtype = session, torch.float32
        self._signature = inspect.signature(like.forward)
        self._shapes = {argument.name: argument.shape for argument in session.get_inputs()}

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor]:
        """The prediction alone, in a tuple. Raises ValueError for clips of another size than the graph's."""
        arguments = self._signature.bind(*args, **kwargs).arguments
        inputs = {name: _padded(arguments[name].float(), shape) for name, shape in self._shapes.items()}
        if not all(_fits(x, self._shapes[name]) for name, x in inputs.items()):
            sizes = ", ".join(f"{name} {shape}" for name, shape in self._shapes.items())
            raise ValueError(
                f"the ONNX graph takes one size of clips only ({sizes}): leave --frames, --height and --width out"
            )
        (output,) = self.session.run([OUTPUT], {name: x.cpu().numpy() for name, x in inputs.items()})
        return (torch.from_numpy(output).to(next(iter(inputs.values())).device),)


def _fits(x: Tensor, shape: list[int | str]) -> bool:
    return len(shape) == x.ndim and all(isinstance(n, str) or n == m for n, m in zip(shape, x.shape, strict=True))


def _padded(x: Tensor, shape: list[int | str]) -> Tensor:
    """With zeros behind a text that was cut: that is what pipelines pad it with."""
    missing = shape[1] - x.shape[1] if x.ndim == 3 and isinstance(shape[1], int) else 0
    return nn.functional.pad(x, (0, 0, 0, missing)) if missing > 0 else x


def read_header(path: Path) -> tuple[str, SamplingContract]:
    """Format and contract of a file. Raises ValueError when it is not whole or lost a line of either."""
    FORMATS["onnx"].check_needs()
    return parse_header(_session(path, torch.device("cpu")).get_modelmeta().custom_metadata_map, path)


def _session(path: Path, device: torch.device) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    usual = ["CPUExecutionProvider"] if device.type == "cpu" else ["CUDAExecutionProvider", "CPUExecutionProvider"]
    providers = [name for name in usual if name in onnxruntime.get_available_providers()]
    try:
        return onnxruntime.InferenceSession(path, options, providers=providers)
    except Exception as error:  # its errors have no class in common but this one
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is not a whole ONNX file ({reason}): copy or export it again") from error


def _inputs(student: Student, network: nn.Module) -> tuple[_OfBatch, tuple[Tensor, ...], tuple[Any, ...]]:
    """The denoiser as a function of its batch, with an example of two clips and which dimensions grow with them."""
    # asked with two clips and with three: inputs that differ in length grow with the batch
    two, three = (_ask(student, network, batch) for batch in (2, 3))
    names = [n for n, x in two.items() if isinstance(x, Tensor) and len(x) != len(three[n])]
    batch = torch.export.Dim("batch")
    # an input may have several rows per clip
    grows = tuple({0: batch * per_clip if (per_clip := len(two[n]) // 2) > 1 else batch} for n in names)
    others = {name: value for name, value in two.items() if name not in names}
    return _OfBatch(network, names, others), tuple(two[n].float() for n in names), grows


def _ask(student: Student, network: nn.Module, batch: int) -> dict[str, Any]:
    """What the family asks the network with, for this many clips, texts padded as in its pipeline."""
    teacher, recorder = student.teacher, _Recorder(network)
    z = teacher.noise(range(batch), teacher.latent_shape(*student.contract.size))
    conditions = teacher.fixed_lengths(student.conditions_of_any(PROBE_PROMPTS[:1] * batch))
    teacher.predict(z, student.contract.times[0], conditions, recorder)
    return recorder.asked


def _silu(x: Any) -> Any:
    """x / (1 + e^-x): onnxruntime's Sigmoid is only good to 1e-7 absolute, which is much where it is small."""
    op: Any = import_module("onnxscript").opset18
    return op.Div(x, op.Add(op.Exp(op.Neg(x)), op.CastLike(1.0, x)))


def _masked_fill(x: Any, mask: Any, value: Any) -> Any:
    """onnxruntime has no Where of truth values, which some masks are made with: it chooses between numbers."""
    op: Any = import_module("onnxscript").opset18
    if str(x.dtype) not in ("BOOL", "DataType.BOOL"):
        return op.Where(mask, op.CastLike(value, x), x)
    number, truth = 6, 9  # int32 and bool, of ONNX's data types
    return op.Cast(op.Where(mask, op.Cast(value, to=number), op.Cast(x, to=number)), to=truth)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on what it could not fold and on names of dimensions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)


def _forget_origins(model: Any) -> None:
    """Takes out which lines of code, in which folders of this machine, each node came from."""
    for graph in (model.graph, *model.functions.values()):
        for node in graph.all_nodes():
            node.metadata_props.clear()
            for value in node.outputs:
                value.metadata_props.clear()


def _write(student: Student, folder: Path, options: Options) -> Written:
    network = merged_network(student).float().eval()
    wrapped, example, grows = _inputs(student, network)
    # any number of clips, but of one size and with texts at full length: the batch alone is dynamic
    with _quiet(), torch.no_grad():
        program: Any = torch.onnx.export(
            wrapped,
            example,
            dynamo=True,
            dynamic_shapes=(grows,),
            input_names=wrapped.names,
            output_names=[OUTPUT],
            custom_translation_table={
                torch.ops.aten.silu.default: _silu,
                torch.ops.aten.masked_fill.Scalar: _masked_fill,
            },
            verbose=False,
        )
    # the exporter notes source paths of this machine in every node
    _forget_origins(program.model)
    program.model.metadata_props.update(header_of("onnx", student.contract))
    program.save(folder / f"fewstep-{student.contract.steps}step.onnx")
    inputs = ", ".join(f"`{name}` {tuple(x.shape)[1:]}" for name, x in zip(wrapped.names, example, strict=True))
    return Written(
        (
            f"The graph is one forward of the denoiser in float32: {inputs}, each with the batch in front, to "
            f"`{OUTPUT}`, the {student.contract.prediction}-prediction. Texts are the base model's embeddings with all "
            "their padding; the steps between forwards are the caller's, as `fewstep` makes them in the snippet.",
        )
    )


def _network(path: Path, teacher: Teacher) -> nn.Module:
    own, file = single_denoiser(teacher), only_file(path, ".onnx")
    session = _session(file, teacher.device)
    names = {argument.name for argument in session.get_inputs()}
    if not names <= inspect.signature(own.forward).parameters.keys():
        raise ValueError(
            f"{file} takes {', '.join(sorted(names))}, which a {type(own).__name__} does not: use its own "
            "teacher (--teacher of `fewstep sample` and `fewstep export`)"
        )
    return OnnxDenoiser(session, own)


def _reload(folder: Path, student: Student) -> SampleLatents:
    """onnxruntime for the forwards; steps and texts are ours."""
    network = record_prediction(_network(folder, student.teacher), student.contract.prediction)

    def latents(z: Tensor, prompts: Any) -> Tensor:
        return Student(student.teacher, network, student.contract).sample(z, student.conditions_of_any(prompts))

    return latents


def _snippet(student: Student, written: Written) -> str:
    return (
        "from fewstep.student.sampler import open_sampler\n"
        "from fewstep.teacher.videos.writing import to_uint8, write_video\n"
        "from pathlib import Path\n\n"
        f"{_open_code(student.contract)}"
        f"(clip,) = sampler.clips([{PROBE_PROMPTS[0]!r}], seeds=[0])\n"
        'write_video(Path("clip.gif"), to_uint8(clip), sampler.fps)\n'
    )


def _open_code(contract: SamplingContract) -> str:
    if contract.teacher != UNNAMED:
        return 'sampler = open_sampler(".")  # this folder\n'
    return f'sampler = open_sampler(".", teacher="{UNNAMED}"){PUT_IN}\n'


FORMATS = {
    "onnx": Format(
        name="onnx",
        write=_write,
        reload=_reload,
        network=_network,
        snippet=_snippet,
        lacks=one_graph,
        tolerance=OTHER_RUNTIME,
        needs=("onnx", "onnxscript", "onnxruntime"),
        extra="onnx",
        library="onnx",
        one_size=True,
        precisions=("float32",),
        makes_another=True,
        is_final=True,
    )
}
