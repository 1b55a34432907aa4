"""Where the numbers live: device, floating-point type, order in memory, random generators."""

import threading
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

# CUDA records one graph at a time in a process, and can give no memory back meanwhile.
recording = threading.Lock()


class OutOfMemoryError(torch.OutOfMemoryError, MemoryError):
    """Training or prediction needs more memory than the device has.

    Both ``except MemoryError`` and ``except torch.OutOfMemoryError`` catch it.
    """


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error is want of memory, on whichever device, by torch or NumPy."""
    # torch has no class of its own for want of the host's memory
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def lies_as_torch_knows(array: np.ndarray) -> bool:
    """Return whether torch can have an array's memory: it knows no read-only one, nor all strides.

    Those of a dimension of length one NumPy lets be anything.
    """
    return array.flags.writeable and all(
        stride >= 0 and stride % array.itemsize == 0 for stride in array.strides
    )


def as_tensor(X: Any) -> Tensor | None:
    """Return an array of floating-point numbers as a tensor in the same memory.

    None stands for whatever torch does not know as it is: read-only arrays, as joblib's workers are
    given them, memory maps, other orders of bytes and of elements.
    """
    is_known = (
        type(X) is np.ndarray
        and X.dtype in (np.float32, np.float64)
        and X.flags.c_contiguous
        and lies_as_torch_knows(X)
    )
    return torch.from_numpy(X) if is_known else None


def resolve_device(device: str | torch.device) -> torch.device:
    """Return the torch device that a ``device`` parameter stands for.

    Parameters
    ----------
    device : str or torch.device
        "auto" is the first CUDA device where there is one and the CPU elsewhere.

    Returns
    -------
    device : torch.device

    Raises
    ------
    ValueError
        If the device is unknown to torch or not present on this machine.
    """
    if device == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"device={device!r} is not a device that torch knows; "
            "choose 'auto', 'cpu', 'cuda', 'cuda:1' or 'mps'."
        ) from error
    if resolved.type == "cpu":
        return resolved
    if resolved.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (resolved.index or 0) < count:
            return torch.device("cuda", resolved.index or 0)
        found = f"torch finds {count} CUDA device(s) here"
    elif resolved.type == "mps":
        if torch.backends.mps.is_available():
            return resolved
        found = "torch finds no Metal device here"
    else:
        found = "it is neither a CPU, a CUDA nor an MPS device"
    raise ValueError(
        f"device={device!r} is not available: {found}. "
        "Pass device='auto' to use what the machine has, or device='cpu'."
    )


def release_cached_memory(device: torch.device) -> None:
    """Give memory that torch keeps for tensors to come back to an accelerator."""
    if device.type == "mps":
        torch.mps.empty_cache()
    elif device.type != "cpu":
        with recording:
            torch.accelerator.empty_cache()


def on_device(device: torch.device) -> AbstractContextManager:
    """Return a context in which streams and graphs of CUDA belong to a device."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def accepted_dtypes(dtype: str, device: torch.device) -> list[type]:
    """Return the floating-point types in which a network may train, preferred first.

    Input of any other type is converted to the first.

    Parameters
    ----------
    dtype : {"auto", "float32", "float64", "bfloat16"}
        "auto" follows the input on the CPU, as scikit-learn does (float32 stays
        float32, all else becomes float64), and is float32 on an accelerator. With
        "bfloat16" the weights are float32, too: only matrix products are computed in it.
    device : torch.device

    Returns
    -------
    dtypes : list of numpy scalar types
    """
    if dtype == "float64" and device.type == "mps":
        raise ValueError(
            "dtype='float64' is not available with device='mps', whose hardware has no "
            "double precision; pass dtype='float32' or device='cpu'."
        )
    if dtype == "auto":
        return [np.float64, np.float32] if device.type == "cpu" else [np.float32]
    return [np.float64] if dtype == "float64" else [np.float32]


def seeded_generator(
    random_state: np.random.RandomState, device: torch.device, offset: int = 0
) -> torch.Generator:
    """Return a torch generator of its own, seeded by one draw from ``random_state``.

    The offset tells the calls of ``partial_fit`` apart, which all begin with the same state.
    """
    seed = int(random_state.randint(np.iinfo(np.int32).max)) + offset
    return torch.Generator(device=device).manual_seed(seed)


def torch_dtype(dtype: np.dtype | type) -> torch.dtype:
    """Return the torch type of a NumPy floating-point type."""
    return torch.float32 if dtype == np.float32 else torch.float64


def numpy_dtype(dtype: torch.dtype) -> type:
    """Return the NumPy type of a torch floating-point type."""
    return np.float32 if dtype == torch.float32 else np.float64
