"""What to do where MKL, torch's library of products, is slow: on AMD's processors without AVX-512.

There it multiplies matrices of doubles slowly if the output has few columns and lies by row, as
the outputs of a layer do. By column it is nearly as fast as OpenBLAS, NumPy's library. So the
outputs of layers lie by column there, in training and in predictions. In single precision that
gains nothing: ``python -m benchmarks.kernels`` measures both.

NumPy's products would be a little faster still on one thread, but then bits would depend on how
many threads NumPy is allowed.
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
