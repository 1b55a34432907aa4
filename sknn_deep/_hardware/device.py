"""Where the numbers live: device, floating-point type, order in memory, random generators."""

import re
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

# CUDA records one graph at a time in a process, and can give no memory back meanwhile.
recording = threading.Lock()
# Kinds of accelerators that "auto" takes. On Apple's a small network may be slower than on the CPU.
_AUTOMATIC = ("cuda", "xpu")
_FLOATS = {np.dtype(np.float32), np.dtype(np.float64)}
_NAMES = {"cuda": "CUDA", "xpu": "XPU", "mps": "Metal"}


class OutOfMemoryError(torch.OutOfMemoryError, MemoryError):
    """Training or prediction needs more memory than the device has.

    Both ``except MemoryError`` and ``except torch.OutOfMemoryError`` catch it.

    Attributes
    ----------
    kept_bytes : float
        What a network would hold once it is trained; 0 where that is not known.
    """

    kept_bytes = 0.0


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error is an out-of-memory error of any device, by torch or NumPy."""
    # torch has no error class for a lack of host memory
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def lies_as_torch_knows(array: np.ndarray) -> bool:
    """Return whether torch can have an array's memory: it knows no read-only one, nor all strides.

    Those of a dimension of length one NumPy lets be anything.
    """
    itemsize = array.itemsize
    for stride in array.strides:  # a generator takes longer than a small array's conversion
        if stride < 0 or stride % itemsize:
            return False
    return array.flags.writeable


def as_tensor(X: Any) -> Tensor | None:
    """Return an array of floating-point numbers as a tensor in the same memory.

    None stands for whatever torch does not know as it is: read-only arrays, as joblib's workers are
    given them, memory maps, other orders of bytes and of elements.
    """
    is_known = (
        type(X) is np.ndarray
        and X.dtype in _FLOATS
        and X.flags.c_contiguous
        and lies_as_torch_knows(X)
    )
    return torch.from_numpy(X) if is_known else None


def resolve_device(device: str | torch.device) -> torch.device:
    """Return the torch device that a ``device`` parameter stands for.

    Parameters
    ----------
    device : str or torch.device
        "auto" is the accelerator that torch finds, CUDA's, ROCm's (which torch calls "cuda") or
        Intel's, and the CPU where there is none. Apple's must be named. Without an index it
        is torch's current device.

    Returns
    -------
    device : torch.device
        With an index, unless it is the CPU.

    Raises
    ------
    ValueError
        If the device is unknown to torch or not present on this machine.
    RuntimeError
        If this process was forked from one that had used the device.
    """
    if device != "auto" and _parsed(device).type == "cpu":
        return torch.device("cpu")
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if device != "auto":
        resolved = _parsed(device)
    elif accelerator is not None and accelerator.type in _AUTOMATIC:
        resolved = accelerator
    else:
        return torch.device("cpu")
    count = 0
    if accelerator is not None and accelerator.type == resolved.type:
        count = torch.accelerator.device_count()
    if (resolved.index or 0) >= count:
        raise ValueError(
            f"device={device!r} is not available: torch finds {count} "
            f"{_NAMES.get(resolved.type, resolved.type)} device(s) here. "
            "Pass device='auto' to use what the machine has, or device='cpu'."
        )
    if torch.get_device_module(resolved)._is_in_bad_fork():
        raise RuntimeError(
            f"device={device!r} cannot be used in this process: it was forked from one that had "
            "used the device. Start processes anew, by n_jobs with joblib's default backend "
            "'loky' or by multiprocessing's start method 'spawn'; or pass device='cpu'."
        )
    if resolved.index is not None:
        return resolved
    return torch.device(resolved.type, torch.accelerator.current_device_index())


def _parsed(device: str | torch.device) -> torch.device:
    try:
        return torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"device={device!r} is not a device that torch knows; "
            "choose 'auto', 'cpu', 'cuda', 'cuda:1', 'xpu' or 'mps'."
        ) from error


def on_device(device: torch.device) -> AbstractContextManager:
    """Return a context in which a device is torch's current one, as its streams and graphs ask.

    Where the device lacks a kernel, an error there says so.
    """
    return nullcontext() if device.type == "cpu" else _on_accelerator(device)


@contextmanager
def _on_accelerator(device: torch.device) -> Iterator[None]:
    # Apple's is always the only one
    with nullcontext() if device.type == "mps" else torch.accelerator.device_index(device.index):
        try:
            yield
        except NotImplementedError as error:
            operator = re.search(r"aten::[\w.]+", str(error))
            if operator is None:
                raise
            raise NotImplementedError(
                f"torch has no kernel for {operator[0]} on device={str(device)!r}, which these "
                "parameters need; pass device='cpu', or choose another solver or normalization."
            ) from error


def free_memory(device: torch.device) -> int:
    """Return how many bytes an accelerator has free."""
    if device.type == "mps":  # it shares the host's memory, and has advice on how much to take
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    free, _ = torch.accelerator.get_memory_info(device)
    return free


def has_streams(device: torch.device) -> bool:
    """Return whether a device can copy while it computes; torch gives Metal one queue."""
    return device.type not in ("cpu", "mps")


def release_cached_memory(device: torch.device) -> None:
    """Give memory that torch keeps for tensors to come back to an accelerator."""
    if device.type == "mps":
        torch.mps.empty_cache()
    elif device.type != "cpu":
        with recording:
            torch.accelerator.empty_cache()


def accepted_dtypes(dtype: str, device: torch.device) -> list[type]:
    """Return the floating-point types in which a network may train, preferred first.

    Input of any other type is converted to the first.

    Parameters
    ----------
    dtype : {"auto", "float32", "float64", "bfloat16"}
        "auto" follows the input on the CPU, as scikit-learn does (float32 stays
        float32, all else becomes float64), and is float32 on an accelerator. With
        "bfloat16" the weights are float32, too: only factors of matrix products are rounded.
    device : torch.device

    Returns
    -------
    dtypes : list of numpy scalar types
    """
    if dtype == "float64" and not computes_in_double(device):
        raise ValueError(
            f"dtype='float64' is not available with device={str(device)!r}, whose hardware has no "
            "double precision; pass dtype='float32' or device='cpu'."
        )
    if dtype == "auto":
        return [np.float64, np.float32] if device.type == "cpu" else [np.float32]
    return [np.float64] if dtype == "float64" else [np.float32]


def computes_in_double(device: torch.device) -> bool:
    if device.type in ("cpu", "cuda", "mps"):
        return device.type != "mps"
    return torch.float64 in torch.accelerator.get_device_capability(device)["supported_dtypes"]


def seeded_generator(
    random_state: np.random.RandomState,
    device: torch.device,
    offset: int = 0,
    present: torch.Generator | None = None,
) -> torch.Generator:
    """Return a torch generator of its own, seeded by one draw from ``random_state``.

    The offset tells the calls of ``partial_fit`` apart, which all begin with the same state. A
    present generator of the device is seeded anew and returned.
    """
    seed = int(random_state.randint(np.iinfo(np.int32).max)) + offset
    if present is None or present.device != device:
        present = torch.Generator(device=device)
    return present.manual_seed(seed)


def torch_dtype(dtype: np.dtype | type) -> torch.dtype:
    """Return the torch type of a NumPy floating-point type."""
    return torch.float32 if dtype == np.float32 else torch.float64


def numpy_dtype(dtype: torch.dtype) -> type:
    """Return the NumPy type of a torch floating-point type."""
    return np.float32 if dtype == torch.float32 else np.float64
