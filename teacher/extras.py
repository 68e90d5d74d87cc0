"""Modules of libraries that only some runs need: imported without their chatter, missed in one sentence."""

from __future__ import annotations

import logging
import warnings
from importlib import import_module
from typing import Any


def extra_module(module: str, wanted_for: str, extra: str) -> Any:
    """The module. Raises ValueError, which says what it is wanted for and how it is installed, where it is missing or
    broken."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # torchao names each of its GPU kernels that this machine cannot load
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return import_module(module)
    except (ImportError, RuntimeError, OSError) as error:
        library = module.split(".")[0]
        raise ValueError(
            f"{wanted_for} needs {library} ({type(error).__name__}): pip install 'fewstep[{extra}]'"
        ) from error
    finally:
        logging.disable(disabled)
