"""Matrix products with factors rounded to bfloat16, for ``dtype="bfloat16"``.

A bfloat16 is the first half of a float32: the same range, but 8 binary digits instead of 24.
Processors with instructions for it (AVX512-BF16, AMX) multiply such numbers in less than half the
time and accumulate in float32 [1]_. Weights, normalisation, losses, the sums of a gradient and the
optimiser are float32. So each product requires rounding its two factors, and its result is rounded
once, because torch writes it in the type of the factors. Between two layers that round, with
neither dropout nor normalisation, activations that do not saturate, the bias added to them and
their gradients stay rounded, which halves the bytes that are moved; elsewhere they are float32.

On one core of an AMD EPYC (Zen 4) with torch 2.13, 29 November 2026, a layer's three products and
all roundings take .43 of the time in float32 for 512 × 512 weights and batches of 2,048, .55 for
batches of 200 and .85 for 32; for 128 × 64 weights .65, 1.1 and 3 times the time. Without the
instructions, oneDNN converts both factors on the fly and takes 2.1 to 2.5 times as long as float32
with AVX-512, and 4.6 times with AVX2.

Features are rounded batch by batch. Rounding them once in advance would save 2 to 5 % of the
training time there. With AMX, rounding them takes 1 to 6 % of a step. That is not worth a
second copy in memory.

References
----------
.. [1] D. Kalamkar et al. (2019). A study of bfloat16 for deep learning training.
   arXiv:1905.12322.
"""

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

# Products of fewer multiply-adds are faster in single precision on a CPU: rounding the factors and
# calling oneDNN takes longer than the product.
FEWEST_TO_ROUND = 2**21
# torch's names of the instruction sets: first those of x86, then those of ARM.
_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")


@cache
def has_instructions() -> bool:
    """Return whether this machine's processor has instructions for bfloat16 products."""
    ask = getattr(torch.cpu, "get_capabilities", None)
    if ask is None:  # before torch 2.11
        return torch.cpu._is_avx512_bf16_supported()
    known = ask()
    return any(known.get(name, False) for name in _INSTRUCTIONS)


def product_dtype(dtype: str, device: torch.device) -> torch.dtype | None:
    """Return the type to which factors of products are rounded; None for no rounding.

    Parameters
    ----------
    dtype : {"auto", "float32", "float64", "bfloat16"}
        The estimator's parameter. "bfloat16" is ignored on a CPU that would be slower with it.
    device : torch.device
    """
    if dtype != "bfloat16" or (device.type == "cpu" and not has_instructions()):
        return None
    return torch.bfloat16


def is_worth_rounding(n_rows: int, weight: Tensor) -> bool:
    """Return whether rounded factors make the products of a layer faster.

    Parameters
    ----------
    n_rows : int
        Number of rows of a batch.
    weight : Tensor of shape (..., out_features, in_features)
        The decision for the networks of a stack is the same as for a single network.
    """
    multiply_adds = n_rows * weight.shape[-2] * weight.shape[-1]
    return weight.device.type != "cpu" or multiply_adds >= FEWEST_TO_ROUND


class RoundedLayers(TorchFunctionMode):
    """A context in which large dense layers multiply in bfloat16; their outputs keep their type.

    For modules that are called without gradients.

    Parameters
    ----------
    n_rows : int
        Total number of rows of all calls in the block: each layer uses the same precision for all.

    Examples
    --------
    >>> import torch
    >>> from sknn_deep._hardware.bfloat16 import RoundedLayers
    >>> layer, x = torch.nn.Linear(1024, 1024), torch.ones(8, 1024)
    >>> with torch.inference_mode(), RoundedLayers(8):
    ...     rounded = layer(x)
    >>> rounded.dtype, torch.equal(rounded, layer(x))
    (torch.float32, False)
    """

    def __init__(self, n_rows: int):
        super().__init__()
        self._n_rows = n_rows

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.linear and len(args) == 3:
            x, weight, bias = args
            if is_worth_rounding(self._n_rows, weight):
                product = torch.mm(x.bfloat16(), weight.bfloat16().mT)
                return product.to(weight.dtype).add_(bias)
        return func(*args, **(kwargs or {}))
