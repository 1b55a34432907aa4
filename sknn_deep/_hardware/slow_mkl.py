"""Workaround for MKL, torch's matrix library, being slow on AMD processors without AVX-512.

There it multiplies matrices of doubles slowly if the output has few columns and is row-major, like
the outputs of a layer. With column-major output it is nearly as fast as OpenBLAS, NumPy's library.
So layer outputs are column-major on these processors, in training and in predictions. In single
precision there is no gain: ``python -m benchmarks.kernels`` measures both.

NumPy's products would be slightly faster still on one thread, but then the bits would depend on how
many threads NumPy may use.
"""

import platform
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor


def lies_by_column(n_rows: int, n_columns: int, like: Tensor) -> bool:
    """Return whether a layer's outputs should be column-major because MKL is faster then.

    Parameters
    ----------
    n_rows, n_columns : int
        Rows of the batch, and units.
    like : Tensor
        Has the type and device of the outputs.
    """
    return (
        like.dtype == torch.float64
        and n_columns < n_rows
        and like.device.type == "cpu"
        and mkl_is_slow()
    )


@cache
def mkl_is_slow() -> bool:
    """Return whether torch uses MKL on one of these processors."""
    has_mkl, width = torch.backends.mkl.is_available(), torch.backends.cpu.get_cpu_capability()
    return has_mkl and width == "AVX2" and _vendor() == "AuthenticAMD"


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return ``x @ weight.T + bias``, shape (n, n_units), in the faster memory layout.

    Compiled or exported code serves any number of rows, and is row-major.

    Parameters
    ----------
    x : Tensor of shape (n, n_features)
    weight : Tensor of shape (n_units, n_features)
    bias : Tensor of shape (n_units,)
    """
    # the cheapest test first
    if weight.dtype != torch.float64 or x.ndim != 2 or torch.compiler.is_compiling():
        return F.linear(x, weight, bias)
    if lies_by_column(x.shape[0], weight.shape[0], weight):
        return torch.addmm(bias.unsqueeze(1), weight, x.mT).mT
    return F.linear(x, weight, bias)


def _vendor() -> str:
    """Return the processor's vendor string; empty if unknown."""
    try:
        with open("/proc/cpuinfo") as file:
            line = next((line for line in file if line.startswith("vendor_id")), "")
            return line.partition(":")[2].strip()
    except OSError:  # not Linux: Windows appends the vendor to the model name
        return platform.processor().rpartition(" ")[2]
