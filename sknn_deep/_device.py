"""Where the numbers live: device, floating-point type, threads, random generators."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

# Below this many multiply-adds a training step is shorter than waking a second thread
# twice per matrix product (and than waiting for it while another process holds its core).
_WORK_WORTH_THREADS = 8_000_000


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


def accepted_dtypes(dtype: str, device: torch.device) -> list[type]:
    """Return the floating-point types in which a network may train, preferred first.

    Input of any other type is converted to the first.

    Parameters
    ----------
    dtype : {"auto", "float32", "float64"}
        "auto" follows the input on the CPU, as scikit-learn does (float32 stays
        float32, all else becomes float64), and is float32 on an accelerator.
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
    return [np.float32] if dtype == "float32" else [np.float64]


@contextmanager
def limited_threads(multiply_adds: float) -> Iterator[None]:
    """Run small work on one thread, and give torch its threads back afterwards.

    Parameters
    ----------
    multiply_adds : float
        Multiply-adds of one step: rows of the batch times weights of the network. The
        limits set through ``OMP_NUM_THREADS``, ``threadpoolctl`` or joblib's workers
        are only ever lowered.
    """
    before = torch.get_num_threads()
    if before == 1 or multiply_adds >= _WORK_WORTH_THREADS:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def seeded_generator(random_state: np.random.RandomState, device: torch.device) -> torch.Generator:
    """Return a torch generator of its own, seeded by one draw from ``random_state``."""
    seed = int(random_state.randint(np.iinfo(np.int32).max))
    return torch.Generator(device=device).manual_seed(seed)


def torch_dtype(dtype: np.dtype | type) -> torch.dtype:
    """Return the torch type of a NumPy floating-point type."""
    return torch.float32 if dtype == np.float32 else torch.float64


def numpy_dtype(dtype: torch.dtype) -> type:
    """Return the NumPy type of a torch floating-point type."""
    return np.float32 if dtype == torch.float32 else np.float64
