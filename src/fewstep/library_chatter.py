"""What libraries log as they are imported, of no use to whoever typed a command: missing kernels of other machines."""

from __future__ import annotations

import logging
from functools import cache, partial

# logger -> what such a message holds
_CHATTER = {
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward",
    "diffusers.hooks.context_parallel": "split will not be applied",
    "diffusers.quantizers.torchao.torchao_quantizer": "Unable to import `torchao` Tensor objects",
    "torch.utils._pytree": "is now natively supported by torch.compile",
    "torchao": "Failed to load",
    "transformers.utils.import_utils": "requires torchvision (not installed)",
}


@cache
def quiet_imports() -> None:
    """Drops these messages from now on, and no others."""
    for name, chatter in _CHATTER.items():
        logging.getLogger(name).addFilter(partial(_is_new, chatter))


def _is_new(chatter: str, record: logging.LogRecord) -> bool:
    return chatter not in record.getMessage()
