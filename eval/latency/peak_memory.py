"""How much memory a model takes while it makes a clip."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import torch
from torch import Tensor, nn

from fewstep.student.sampler import Sampler
from fewstep.teacher.experts import used_parts
from fewstep.teacher.limits import GIB

_EVERY_SECONDS = 0.002


@dataclass
class Peak:
    """The peak of a watched pass; 0 if none was watched."""

    gib: float = 0.0


class PeakMemory:
    """Watches one model at a time while others lie in the same memory: their weights are taken off.

    On a GPU it is what torch allocated there; elsewhere it is the process's resident set, looked at every 2 ms, with
    all that Python and its libraries hold.
    """

    def __init__(self, samplers: Sequence[Sampler], device: torch.device) -> None:
        self._device = device
        self._loaded = _joined([weights_of(sampler, loaded=True) for sampler in samplers])
        self.protocol = (
            "peak of torch's allocations on the GPU, less the other models' weights"
            if device.type == "cuda"
            else "peak of the process's resident set, less the other models' weights"
        )

    @contextmanager
    def watching(self, sampler: Sampler, watched: bool) -> Iterator[Peak]:
        """The peak inside the `with` block is known behind it."""
        if not watched:
            yield Peak()
            return
        own = weights_of(sampler)
        # other models' weights lie in the same memory, and are not this one's need
        others = sum(size for place, size in self._loaded.items() if place not in own)
        with watched_peak(self._device) as peak:
            yield peak
        peak.gib -= others / GIB


@contextmanager
def watched_peak(device: torch.device) -> Iterator[Peak]:
    """All that was allocated at its highest inside the `with` block, known behind it: on a GPU by torch there, else by
    the process as a whole."""
    peak = Peak()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield peak
        highest = torch.cuda.max_memory_allocated(device)
    else:
        with _resident() as seen:
            yield peak
        highest = max(seen)
    peak.gib = highest / GIB


def weights_of(sampler: Sampler, loaded: bool = False) -> dict[int, int]:
    """Bytes of every tensor that this model needs, by where it lies: models that share one count it once. `loaded`:
    also of an autoencoder in whose place a small decoder decodes."""
    parts: list[nn.Module | None] = list(denoisers(sampler))
    for link in sampler.links:
        pipeline = link.teacher.pipeline
        parts += [getattr(pipeline, name, None) for name in link.teacher.encoders]
        needs_vae = link.decoder is None or bool(link.teacher.given)  # which encodes what is given
        parts += [link.decoder, pipeline.vae if needs_vae or loaded else None]
    modules: list[nn.Module] = [part for part in parts if part is not None]
    tensors = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
    return {plain.data_ptr(): plain.nbytes for tensor in tensors for plain in _plain(tensor)}


def denoisers(sampler: Sampler) -> list[nn.Module]:
    """The networks that sampling evaluates: a student's own or a teacher's, of two experts those that have a node; of a
    chain those of all links."""
    used = (used_parts(link.network or link.teacher.denoiser, link.grid[:-1]) for link in sampler.links)
    return [part for parts in used for part in parts.values()]


def _plain(tensor: Tensor) -> Iterator[Tensor]:
    """A quantised tensor's codes and scales; any other one is itself."""
    if not hasattr(tensor, "__tensor_flatten__"):
        yield tensor
        return
    for name in tensor.__tensor_flatten__()[0]:
        yield from _plain(getattr(tensor, name))


def _joined(parts: Sequence[dict[int, int]]) -> dict[int, int]:
    return {place: size for part in parts for place, size in part.items()}


@contextmanager
def _resident() -> Iterator[list[int]]:
    """The process's resident set in bytes, again and again while the block runs."""
    process, over = psutil.Process(), threading.Event()
    seen = [process.memory_info().rss]

    # the system keeps no peak of a span of time: a thread looks again and again
    def look() -> None:
        while not over.wait(_EVERY_SECONDS):
            seen.append(process.memory_info().rss)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()
        # once more, for blocks shorter than the interval
        seen.append(process.memory_info().rss)
