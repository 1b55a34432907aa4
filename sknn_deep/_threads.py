"""How many threads a training computes on: one, but for large products where more are faster.

On a CPU the products of a single network are NumPy's, and so are the threads: those of its library
for linear algebra (OpenBLAS in the packages from PyPI), while torch stays on one. Where that is a
library that threadpoolctl does not know, and in stacks, large kernels are torch's, on its threads.
"""

import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch
from threadpoolctl import LibController, ThreadpoolController

# Fewer multiply-adds than this take about as long as waking a second thread.
_WORK_WORTH_THREADS = 1_500_000
# Multiply-adds that take a core some milliseconds: worth starting a thread for.
_WORK_OF_A_THREAD = 100_000_000
# An element that is read and written takes as long as so many multiply-adds of a product.
_ELEMENT_WORK = 16
# Seconds: how long a number of threads is tried, after how long a wait for idle threads to
# fall asleep, how long the better one is then used, and how long all are at first.
_TRIAL, _SETTLING, _BETWEEN_TRIALS, _FIRST_TRIAL = 0.03, 0.01, 1.0, 0.25
# One thread must take less than this share of the time of several: a trial is short and noisy.
_CLEARLY_FASTER = 0.9

# OpenMP's threads do not survive a fork: a child that asked for them would wait for ever.
_is_forked = False

# torch keeps a number for each Python thread, and hands the last one that was set to threads
# that ask for the first time. While a block is entered anywhere, that may be the block's 1.
_lock = threading.Lock()
_n_entered = 0
_n_outside = 1
# What ``fixed_threads`` has set, for each Python thread.
_fixed = threading.local()
# Held by the one Python thread that may set how many threads NumPy's products take; how many they
# took before.
_deciding = threading.Lock()
_numpys_outside: int | None = None


def _after_fork() -> None:
    # of the threads that were in a block only the one that forked goes on here
    global _is_forked, _lock, _n_entered, _n_outside, _fixed, _deciding, _numpys_outside
    _is_forked = True
    _lock, _n_entered, _n_outside, _fixed = threading.Lock(), 0, 1, threading.local()
    _deciding, _numpys_outside = threading.Lock(), None
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def allowed_threads() -> int:
    """Return the number of threads that torch has outside of ``one_thread``.

    It is what ``OMP_NUM_THREADS``, ``threadpoolctl`` or joblib's workers set.
    """
    fixed = getattr(_fixed, "n_threads", None)
    if fixed is not None:
        return fixed
    n_threads = torch.get_num_threads()
    return _n_outside if n_threads == 1 and _n_entered else n_threads


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread, and give it its threads back afterwards."""
    global _n_entered, _n_outside
    has_entered, lock = False, _lock
    try:  # an interruption may come at any call
        with lock:
            before = allowed_threads()
            if _n_entered == 0:
                _n_outside = before
            _n_entered += 1
            has_entered = True
        torch.set_num_threads(1)
        yield
    finally:
        # a fork in between has given the child another lock, and one thread for ever
        if has_entered and lock is _lock:
            with lock:
                _n_entered -= 1
                torch.set_num_threads(before)


@contextmanager
def fixed_threads(n_threads: int) -> Iterator[None]:
    """Let what this Python thread computes take exactly so many threads, whatever the clock says.

    The same numbers then come out each time: how many threads a product is divided over decides
    on its last digit.

    Raises
    ------
    RuntimeError
        In a forked process that has fewer.
    """
    outside, before = allowed_threads(), getattr(_fixed, "n_threads", None)
    if _is_forked and n_threads > outside:
        raise RuntimeError(
            f"The training ran on {n_threads} threads, but this process was forked and has "
            f"{outside}: OpenMP's threads do not survive a fork. Go on in a process that was not "
            "forked, such as one that multiprocessing spawns."
        )
    fixed = _fixed
    try:
        fixed.n_threads = n_threads
        torch.set_num_threads(n_threads)
        yield
    finally:
        if fixed is _fixed:  # else the process was forked, and has one thread for ever
            fixed.n_threads = before
            torch.set_num_threads(outside)


@cache
def _libraries() -> list[LibController]:
    """Return what sets the threads of NumPy's products, found once in a process."""
    known = ThreadpoolController().select(user_api="blas").lib_controllers
    # a library that NumPy and SciPy share lies elsewhere
    return [lib for lib in known if "numpy" in lib.filepath.lower()] or known


def allowed_numpy_threads() -> int:
    """Return how many threads products may take: as torch may, and as NumPy's library may."""
    outside = _numpys_outside  # while a training has set another number
    numpys = [lib.num_threads for lib in _libraries()] if outside is None else [outside]
    return min([allowed_threads(), *numpys])


@contextmanager
def _numpy_threads(n_threads: int, most: int) -> Iterator[Callable[[int], None]]:
    """Let NumPy's products take so many threads; give the block what sets another number.

    Their number is one for the whole process. Of several Python threads that train at once, the
    first decides, until it is done.

    Parameters
    ----------
    n_threads : int
    most : int
        The largest number that the block will set.
    """
    global _numpys_outside
    before = [lib.num_threads for lib in _libraries()]
    is_right = all(number == most == 1 for number in before)
    is_deciding, deciding = False, _deciding
    try:
        is_deciding = not is_right and deciding.acquire(blocking=False)
        if not is_deciding:
            yield _leave_numpy_threads
            return
        _numpys_outside = min(before)
        _set_numpy_threads(n_threads)
        yield _set_numpy_threads
    finally:
        if is_deciding and deciding is _deciding:  # else the process was forked in between
            for lib, number in zip(_libraries(), before, strict=True):
                lib.set_num_threads(number)
                if hasattr(lib, "clear_controlling_thread"):  # else no limit of others would hold
                    lib.clear_controlling_thread()
            _numpys_outside = None
            deciding.release()


def _leave_numpy_threads(n_threads: int) -> None:
    """Set nothing: the number is right, unknown, or somebody else's."""


def _set_numpy_threads(n_threads: int) -> None:
    for lib in _libraries():
        lib.set_num_threads(n_threads)


def worthwhile_threads(multiply_adds: int) -> int:
    """Return how many threads to spread independent work over, at most those allowed."""
    return min(allowed_threads(), max(1, multiply_adds // _WORK_OF_A_THREAD))


class Pace:
    """Decides whether large kernels run on one thread or on several.

    Several threads wait for the last of them: where another process holds a core, a
    product can take many times longer than on one thread. So both are tried for a moment,
    now and then again, and in between the one with the faster steps is used.

    Parameters
    ----------
    n_threads : int
        The most threads to use.
    is_fixed : bool, default=False
        Use them always: nothing is tried.
    by_numpy : bool, default=False
        Whether the threads are those of NumPy's products; all kernels of torch then run on one.

    Attributes
    ----------
    several : bool
        What large kernels use just now.
    """

    def __init__(self, n_threads: int, is_fixed: bool = False, by_numpy: bool = False):
        self.n_threads, self.by_numpy = n_threads, by_numpy
        self.several = n_threads > 1
        self._is_settled = is_fixed or n_threads == 1
        self._has_large_products = False
        self._set_numpy_threads = _leave_numpy_threads
        self._seconds = {False: math.inf, True: math.inf}  # of a step, by ``several``
        self._next_trial = time.perf_counter() + _FIRST_TRIAL
        self._measured, self._n_steps = -_SETTLING, 0
        self.resume()

    @classmethod
    def of(cls, device: torch.device, by_numpy: bool = False) -> "Pace":
        """Return one for work on a device; on a CPU it may use the threads allowed.

        Parameters
        ----------
        device : torch.device
        by_numpy : bool, default=False
            Whether NumPy shall compute the products, if it can be told on how many threads.
        """
        if device.type != "cpu":
            return cls(1)
        is_fixed = getattr(_fixed, "n_threads", None) is not None
        by_numpy = by_numpy and bool(_libraries())
        n_threads = allowed_numpy_threads() if by_numpy and not is_fixed else allowed_threads()
        return cls(n_threads, is_fixed, by_numpy)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let the clock, and all threads, go by this pace within a block."""
        most = self.n_threads if self.by_numpy else 1
        with one_thread(), _numpy_threads(self._n_of_numpy(), most) as set_threads:
            self._set_numpy_threads = set_threads
            self.resume()
            try:
                yield
            finally:
                self._set_numpy_threads = _leave_numpy_threads
            self.pause()

    def pause(self) -> None:
        """Stop the clock, at the end of an epoch."""
        self._measured = time.perf_counter() - self._since

    def resume(self) -> None:
        """Let the clock go on."""
        self._since = time.perf_counter() - self._measured

    def step_done(self) -> None:
        """Count a step, and change the number of threads where it is time to."""
        if self._is_settled or (self.by_numpy and not self._has_large_products):
            return
        now = time.perf_counter()
        if now < self._since:
            return
        self._n_steps += 1
        if now - self._since < _TRIAL:
            return
        self._seconds[self.several] = (now - self._since) / self._n_steps
        chosen = self._seconds[False] >= _CLEARLY_FASTER * self._seconds[True]
        if now > self._next_trial:
            chosen = not self.several
            self._next_trial = now + _BETWEEN_TRIALS
        self._since, self._n_steps = now, 0
        if chosen != self.several:
            self._since += _SETTLING
            self.several = chosen
            self._set_numpy_threads(self._n_of_numpy())

    def meet(self, multiply_adds: int) -> None:
        """Hear of a product that NumPy will compute: the first large one gives it the threads."""
        if multiply_adds >= _WORK_WORTH_THREADS and not self._has_large_products:
            self._has_large_products = True
            self._set_numpy_threads(self._n_of_numpy())

    def _n_of_numpy(self) -> int:
        is_wanted = self.by_numpy and self.several and self._has_large_products
        return self.n_threads if is_wanted else 1

    def spreads(self, *, multiply_adds: int = 0, n_elements: int = 0) -> bool:
        """Return whether a kernel of torch is so large that it may take several threads."""
        work = multiply_adds + n_elements * _ELEMENT_WORK
        return not self.by_numpy and self.n_threads > 1 and work >= _WORK_WORTH_THREADS

    def threaded(self, kernel: Callable[..., object], **work: int) -> Callable[..., object]:
        """Return a kernel of torch, on several threads when it is large and they are faster.

        ``work`` is as of :meth:`spreads`.
        """
        if not self.spreads(**work):
            return kernel

        def run(*args) -> None:
            if not self.several:
                kernel(*args)
                return
            torch.set_num_threads(self.n_threads)
            kernel(*args)
            torch.set_num_threads(1)

        return run
