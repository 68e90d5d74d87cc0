"""Decoding in the background, while the next clips are denoised: more clips a minute, none of them sooner."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from fewstep.student.sampler import Sampler


class Background:
    """Decodes a sampler's latents in a thread of its own, on a GPU in a stream of its own as well.

    One batch at a time, and nothing else may use the autoencoder meanwhile: some keep features of the clip on
    themselves while they decode. Denoising and text encoders do not ask it. Raises ValueError for clips that are made
    from images, which it would have to encode at the same time.
    """

    def __init__(self, sampler: Sampler) -> None:
        check_background(sampler)
        self._sampler = sampler
        self._thread = ThreadPoolExecutor(1, "decode")
        device = sampler.teacher.device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def decode(self, latents: Tensor) -> Future[Tensor]:
        """Videos (B, 3, F, H, W) in -1..1, once they are there, of latents (B, C, F, h, w)."""
        if self._stream is None:
            return self._thread.submit(self._sampler.decode, latents)
        ready = torch.cuda.Event()
        ready.record(torch.cuda.current_stream(latents.device))  # of that GPU, which need not be the current one
        return self._thread.submit(self._decode_in, self._stream, latents, ready)

    def _decode_in(self, stream: torch.cuda.Stream, latents: Tensor, ready: torch.cuda.Event) -> Tensor:
        with torch.cuda.stream(stream):
            # not before the stream that denoises has computed them
            stream.wait_event(ready)
            latents.record_stream(stream)  # its memory is not given away before the stream has read it
            video = self._sampler.decode(latents)
            stream.synchronize()
        return video


def check_background(sampler: Sampler) -> None:
    """Raises ValueError for clips that cannot be decoded in the background; an outline will do."""
    if sampler.before is not None or sampler.teacher.given:
        raise ValueError(
            f"--overlap is for clips that are made from prompts alone, and {sampler.name} makes its own from images, "
            "which the autoencoder would have to encode while it decodes: leave it out"
        )


def decoded_meanwhile(sampler: Sampler, batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """Videos of batches of latents, each decoded while `batches` makes the next; the last one is waited for.

    Raises ValueError as `Background`.
    """
    background = Background(sampler)
    decoding: Future[Tensor] | None = None
    for latents in batches:
        done, decoding = decoding, background.decode(latents)
        if done is not None:
            yield done.result()
    if decoding is not None:
        yield decoding.result()
