"""Where the numbers live: device, floating-point type, order in memory, threads, generators."""

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

# Fewer multiply-adds than this take about as long as waking a second thread.
_WORK_WORTH_THREADS = 1_500_000
# Multiply-adds that take a core some milliseconds: worth starting a thread for.
_WORK_OF_A_THREAD = 100_000_000
# An element that is read and written takes as long as so many multiply-adds of a product.
_ELEMENT_WORK = 16
# Seconds: how long a number of threads is tried, after how long a wait for idle threads to
# fall asleep, and how long the better one is then used.
_TRIAL, _SETTLING, _BETWEEN_TRIALS = 0.03, 0.01, 1.0

# OpenMP's threads do not survive a fork: a child that asked for them would wait for ever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


# Rows shorter than this make a product several times slower than the same numbers stored
# by column: MKL works on whole vector registers of its output.
_NARROW = 32


def is_narrow(n_rows: int, n_columns: int) -> bool:
    """Return whether a matrix is stored by column, because its rows are short."""
    return n_columns < min(_NARROW, n_rows)


def empty_matrix(shape: Sequence[int], like: Tensor) -> Tensor:
    """Return an uninitialised matrix, or a stack of some, by column where it is narrow."""
    *leading, n_rows, n_columns = shape
    if is_narrow(n_rows, n_columns):
        return like.new_empty((*leading, n_columns, n_rows)).mT
    return like.new_empty(shape)


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


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread, and give it its threads back afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def worthwhile_threads(multiply_adds: int) -> int:
    """Return how many threads to spread independent work over, at most torch's own number.

    That number is what ``OMP_NUM_THREADS``, ``threadpoolctl`` or joblib's workers set.
    """
    return min(torch.get_num_threads(), max(1, multiply_adds // _WORK_OF_A_THREAD))


class Pace:
    """Decides whether large kernels run on one thread or on several.

    Several threads wait for the last of them: where another process holds a core, a
    product can take many times longer than on one thread. So both are tried for a moment,
    now and then again, and in between the one with the faster steps is used.

    Parameters
    ----------
    n_threads : int
        The most threads to use.

    Attributes
    ----------
    several : bool
        What large kernels use just now.
    """

    def __init__(self, n_threads: int):
        self.n_threads = n_threads
        self.several = n_threads > 1
        self._seconds = {False: math.inf, True: math.inf}  # of a step, by ``several``
        self._next_trial = 0.0
        self.resume()

    @classmethod
    def of(cls, device: torch.device) -> "Pace":
        """Return one for work on a device; on a CPU torch's own number of threads counts."""
        return cls(torch.get_num_threads() if device.type == "cpu" else 1)

    def resume(self) -> None:
        """Start the clock, after a pause."""
        self._since, self._n_steps = time.perf_counter() + _SETTLING, 0

    def step_done(self) -> None:
        """Count a step, and change the number of threads where it is time to."""
        if self.n_threads == 1:
            return
        now = time.perf_counter()
        if now < self._since:
            return
        self._n_steps += 1
        if now - self._since < _TRIAL:
            return
        self._seconds[self.several] = (now - self._since) / self._n_steps
        chosen = self._seconds[True] < self._seconds[False]
        if now > self._next_trial:
            chosen = not self.several
            self._next_trial = now + _BETWEEN_TRIALS
        if chosen == self.several:
            self._since, self._n_steps = now, 0
        else:
            self.several = chosen
            self.resume()

    def threaded(
        self, kernel: Callable[..., object], *, multiply_adds: int = 0, n_elements: int = 0
    ) -> Callable[..., object]:
        """Return a kernel that runs on several threads when it is large and they are faster."""
        work = multiply_adds + n_elements * _ELEMENT_WORK
        if self.n_threads == 1 or work < _WORK_WORTH_THREADS:
            return kernel

        def run(*args) -> None:
            if not self.several:
                kernel(*args)
                return
            torch.set_num_threads(self.n_threads)
            kernel(*args)
            torch.set_num_threads(1)

        return run


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
