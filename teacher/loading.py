"""Loading a pipeline: onto which device, and without the libraries' own progress bars."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

Clock = Callable[[], float]  # seconds, once the device has done all it was asked to


def find_device(name: torch.device | str | None = None) -> torch.device:
    """The device of this name, by default the GPU if there is one. Raises ValueError when it is not there."""
    usual = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    try:
        device = torch.device(usual[-1] if name is None else name)
        # torch knows names of devices that this machine lacks: only an allocation tells
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:
        raise ValueError(f"there is no device {name!s} on this machine: use {' or '.join(usual)}") from error
    if device.type == "meta":
        raise ValueError(f"the device meta holds no numbers: use {' or '.join(usual)}")
    return device


@contextmanager
def without_bars() -> Iterator[None]:
    """Silences the progress bars of diffusers, transformers and huggingface_hub; then all is as it was."""
    from diffusers.utils import logging as of_diffusers
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers.utils import logging as of_transformers

    # what was on is noted before anything is switched, as one library switches another's bars
    hub_was_silent = are_progress_bars_disabled()
    restore = [of.enable_progress_bar for of in (of_diffusers, of_transformers) if of.is_progress_bar_enabled()]
    of_diffusers.disable_progress_bar()
    of_transformers.disable_progress_bar()  # takes huggingface_hub's along
    try:
        yield
    finally:
        for enable in restore:
            enable()
        (disable_progress_bars if hub_was_silent else enable_progress_bars)()


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Without diffusers', peft's and torch's warnings about what is meant here; their errors stay."""
    from diffusers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
