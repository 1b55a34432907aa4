"""Devices, floating-point types, memory layout and random generators."""

import re
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

# CUDA records one graph at a time per process, and cannot release memory meanwhile.
recording = threading.Lock()
# Accelerators that "auto" chooses. On Apple's, a small network may be slower than on the CPU.
_AUTOMATIC = ("cuda", "xpu")
_FLOATS = {np.dtype(np.float32), np.dtype(np.float64)}
_NAMES = {"cuda": "CUDA", "xpu": "XPU", "mps": "Metal"}


class OutOfMemoryError(torch.OutOfMemoryError, MemoryError):
    """Training or prediction needs more memory than the device has.

    Both ``except MemoryError`` and ``except torch.OutOfMemoryError`` catch it.

    Attributes
    ----------
    kept_bytes : float
        Memory that the trained network would hold; 0 if unknown.
    """

    kept_bytes = 0.0


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error is an out-of-memory error of any device, by torch or NumPy."""
    # torch has no exception class for running out of host memory
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def lies_as_torch_knows(array: np.ndarray) -> bool:
    """Return whether torch can share an array's memory: writeable, with strides that it supports.

    Strides of dimensions of length one are checked, too, as NumPy allows any value for them.
    """
    itemsize = array.itemsize
    for stride in array.strides:  # a generator takes longer than a small array's conversion
        if stride < 0 or stride % itemsize:
            return False
    return array.flags.writeable


def as_tensor(X: Any) -> Tensor | None:
    """Return an array of floating-point numbers as a tensor that shares its memory.

    None if torch cannot share it: read-only arrays (such as those passed to joblib's workers),
    memory maps, and other byte orders or memory layouts.
    """
    is_known = (
        type(X) is np.ndarray
        and X.dtype in _FLOATS
        and X.flags.c_contiguous
        and lies_as_torch_knows(X)
    )
    return torch.from_numpy(X) if is_known else None


def resolve_device(device: str | torch.device) -> torch.device:
    """Return the torch device for a ``device`` parameter.

    Parameters
    ----------
    device : str or torch.device
        "auto" is the accelerator that torch finds, CUDA's, ROCm's (which torch calls "cuda") or
        Intel's, and the CPU if there is none. Apple's must be named explicitly. Without an index,
        it is torch's current device.

    Returns
    -------
    device : torch.device
        With an index, unless it is the CPU.

    Raises
    ------
    ValueError
        If the device is unknown to torch or not present on this machine.
    RuntimeError
        If this process was forked from one that had already used the device.
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
    """Return a context in which a device is torch's current one, as streams and graphs require.

    If the device lacks a kernel, the context raises an error that says so.
    """
    return nullcontext() if device.type == "cpu" else _on_accelerator(device)


@contextmanager
def _on_accelerator(device: torch.device) -> Iterator[None]:
    # there is only one Apple device
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
    """Return the number of free bytes on an accelerator."""
    if device.type == "mps":  # it shares the host's memory and recommends a limit
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    free, _ = torch.accelerator.get_memory_info(device)
    return free


def has_streams(device: torch.device) -> bool:
    """Return whether a device can copy while it computes; torch uses a single queue for Metal."""
    return device.type not in ("cpu", "mps")


def release_cached_memory(device: torch.device) -> None:
    """Return the memory in torch's cache to an accelerator."""
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
        "auto" follows the input on the CPU, like scikit-learn (float32 stays float32,
        everything else becomes float64), and is float32 on an accelerator. With "bfloat16" the
        weights are float32: only factors of matrix products are rounded.
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
    """Return a separate torch generator, seeded by one draw from ``random_state``.

    The offset distinguishes calls of ``partial_fit``, which all start from the same state. A
    ``present`` generator on the device is reseeded and returned.
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
