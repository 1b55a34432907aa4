"""What to do where MKL, torch's library of products, is slow: on AMD's processors without AVX-512.

There it multiplies matrices of doubles at half of its speed or less if the output has few columns
and lies by row, as a layer's outputs do. By column it is as fast as for square ones, and only a
tenth slower than OpenBLAS, NumPy's library. One thread of an AMD EPYC (Zen 3), torch 2.13,
30 November 2026, GFLOP/s of ``x @ weight.T`` in double precision:

============  ==========  ============  ============  ========
rows of x     weight      MKL, by row   by column     OpenBLAS
============  ==========  ============  ============  ========
200           128 × 784   17 to 25      22 to 28      24 to 30
2,048         128 × 784   15 to 17      24 to 27      26 to 30
2,048         512 × 512   27            31            32
============  ==========  ============  ============  ========

So the outputs of layers lie by column there, in trainings and in predictions. In single precision
that gains nothing. NumPy's products on one thread would take a training up to a seventh less time,
but then bits would depend on how many threads NumPy is allowed.
"""

import platform
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor


def lies_by_column(n_rows: int, n_columns: int, like: Tensor) -> bool:
    """Return whether a layer's outputs are to lie by column, because MKL is faster so.

    Parameters
    ----------
    n_rows, n_columns : int
        Rows of the batch, and units.
    like : Tensor
        Of their type, on their device.
    """
    return (
        like.dtype == torch.float64
        and n_columns < n_rows
        and like.device.type == "cpu"
        and mkl_is_slow()
    )


@cache
def mkl_is_slow() -> bool:
    """Return whether torch multiplies by MKL, on one of those processors."""
    has_mkl, width = torch.backends.mkl.is_available(), torch.backends.cpu.get_cpu_capability()
    return has_mkl and width == "AVX2" and _vendor() == "AuthenticAMD"


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return ``x @ weight.T + bias``, shape (n, n_units), in the layout that is computed faster.

    What is compiled or exported holds for any number of rows, and lies by row.

    Parameters
    ----------
    x : Tensor of shape (n, n_features)
    weight : Tensor of shape (n_units, n_features)
    bias : Tensor of shape (n_units,)
    """
    # asked first: it costs least
    if weight.dtype != torch.float64 or x.ndim != 2 or torch.compiler.is_compiling():
        return F.linear(x, weight, bias)
    if lies_by_column(x.shape[0], weight.shape[0], weight):
        return torch.addmm(bias.unsqueeze(1), weight, x.mT).mT
    return F.linear(x, weight, bias)


def _vendor() -> str:
    """Return the processor's maker, as it calls itself; empty where that is not known."""
    try:
        with open("/proc/cpuinfo") as file:
            line = next((line for line in file if line.startswith("vendor_id")), "")
            return line.partition(":")[2].strip()
    except OSError:  # no Linux: Windows adds the name to the model's
        return platform.processor().rpartition(" ")[2]
