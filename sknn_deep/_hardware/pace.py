"""On how many threads training steps and predictions run, and how results stay the same.

**Shapes decide how many are worth it.** If a step has a product of 1.5 million multiply-adds or
more, or an optimiser's pass over 23,000 weights, all of its kernels have several of torch's
threads, as many as leave each at least half of that; else one. With all on several a fit takes
less time than with some: each core finds the rows that it has worked on before in its own cache.

**The load decides how many of these are used.** torch's threads wait for each other in every
operation, so that a step beside a busy process takes many times as long on two threads as on one.
A training therefore uses as many as there are cores that nobody else uses. It counts who else runs
before its first step, and when its threads get too little of their cores' time. On one thread it
counts again ten times a second. Where cores are far from each other, one thread is tried against
several, too.

**The load decides on no bit.** torch computes most kernels to the same bits on any number of
threads. The others run on a number of their own that shapes decide: small ones on one, large ones
on all that are worth it (:meth:`Pace.pinned`). Of large products a few differ, and which ones
depends on the library and the processor, so it is tried on random numbers before a product runs on
fewer threads than usual (:meth:`Pace.checked`).

Predictions do not follow the load: shapes and the threads allowed decide.
"""

import math
import os
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sknn_deep._hardware.threads import (
    allowed_threads,
    is_forked,
    n_entered,
    one_thread,
    set_threads_inside,
    wants_the_same_bits,
)

# Least number of multiply-adds for each thread: fewer take about as long as waking it.
_WORK_OF_A_THREAD = 750_000
# Predictions of fewer are never worth a second thread.
FEWEST_TO_SHARE = 2 * _WORK_OF_A_THREAD
# torch divides passes over memory into parts of at least this many elements.
_GRAIN = 2**15
# Reading and writing an element takes as long as this many multiply-adds of a product.
_ELEMENT_WORK = 16
# Seconds between two looks at the load, and how long several threads are not tried again that had
# to wait for each other.
_BETWEEN_LOOKS, _BETWEEN_TRIALS = 0.1, 1.0
# Threads that get this share of their cores' time are alone on them: as waiting threads spin,
# they get .93 or more where they are, and .5 to .8 where two share their cores with a third.
_ALONE = 0.85
# Seconds that a pass over the weights takes for each of their bytes, where the cores that have
# read them are far from each other: .2e-9 where they share a cache, 1e-9 where they do not. It
# tells nothing of weights that no cache holds.
_FAR, _MOST_IN_CACHE = 0.6e-9, 2**22
# One thread must take less than this share of the time of several: a trial is short and noisy.
_CLEARLY_FASTER = 0.9

Kernel = Callable[..., Any]


def busy_cores() -> int | None:
    """Return how many threads of other processes run or wait for a core; None if unknown.

    Linux counts those of the whole machine, of which the running ones of this process are none.
    """
    try:
        with open("/proc/loadavg", "rb") as file:
            running = int(file.read().split()[3].partition(b"/")[0])
        own = sum(_is_running(task) for task in os.listdir("/proc/self/task")) if running > 1 else 1
    except (OSError, ValueError, IndexError):
        return None
    return max(0, running - own)


def _is_running(task: str) -> bool:
    try:
        with open(f"/proc/self/task/{task}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2].startswith(b"R")
    except FileNotFoundError:  # it has ended since
        return False


def _most_threads(device: torch.device) -> int:
    """Return the most of the CPU's threads to use for work on a device."""
    return allowed_threads() if device.type == "cpu" else 1


def threads_of_outputs(multiply_adds: int) -> int:
    """Return on how many of the CPU's threads this much work of predictions is done."""
    return _threads_for(multiply_adds, allowed_threads())


def _threads_for(work: int, n_threads: int) -> int:
    return max(1, min(n_threads, work // _WORK_OF_A_THREAD))


class Pace:
    """Decides on how many threads the steps of a training run.

    Parameters
    ----------
    n_threads : int
        The most threads to use.
    is_fixed : bool, default=False
        Use all that steps are worth, even on a busy machine.

    Attributes
    ----------
    n_worth : int
        How many threads the present steps are worth, going by their shapes.
    n_used : int
        How many they use just now.
    follows : bool
        Whether the load decides on that.
    """

    def __init__(self, n_threads: int, is_fixed: bool = False):
        self.n_threads, self._is_fixed = n_threads, is_fixed
        self.n_worth = self.n_used = self._n_free = 1
        self.follows = False
        self._next_look = self._next_trial = -math.inf
        # of the steps since the last look
        self._elapsed = self._processor_time = self._seconds_of_passes = 0.0
        self._n_steps = self._bytes_passed = 0
        # of a step, while one thread is tried
        self._seconds_of_several: float | None = None

    @classmethod
    def of(cls, device: torch.device) -> "Pace":
        """Return one for work on a device; on a CPU it may use the threads allowed.

        It is fixed within ``fixed_threads``, and where the user has asked for deterministic
        algorithms of torch.
        """
        return cls(_most_threads(device), is_fixed=wants_the_same_bits())

    @classmethod
    def of_outputs(cls, device: torch.device) -> "Pace":
        """Return one for predictions on a device, which does not follow the load."""
        return cls(_most_threads(device), is_fixed=True)

    def threads_for(self, *, multiply_adds: int = 0, n_elements: int = 0) -> int:
        """Return how many threads this much work is worth, at most those allowed.

        torch and its library of products decide for each kernel of a step, in the end, how many of
        the threads that they may use to wake.
        """
        work = max(multiply_adds, n_elements * _ELEMENT_WORK)
        return _threads_for(work, self.n_threads)

    # ----------------------------------------------------------------------------------
    # kernels whose bits depend on the number of threads

    def pinned(self, kernel: Kernel, n_elements: float) -> Kernel:
        """Return a kernel that always runs on as many threads as its size is worth.

        Parameters
        ----------
        kernel : callable
            Whose bits depend on the number of threads, or may do.
        n_elements : float
            Of its largest tensor. Fewer than torch divides go to one thread.
        """
        if not self.follows:
            return kernel
        return partial(_run_on, self.n_worth if n_elements > _GRAIN else 1, kernel)

    def checked(
        self,
        kernel: Kernel,
        probe: Callable[[], Sequence[Tensor]],
        key: Hashable,
        work: float = math.inf,
    ) -> Kernel:
        """Return a kernel that runs on fewer threads than usual only if that changes no bit.

        Parameters
        ----------
        kernel : callable
        probe : callable
            Computes what the kernel does from random numbers, the same ones each time.
        key : hashable
            What is equal for equal probes.
        work : float, default=inf
            The multiply-adds of the kernel. One that is not worth several threads has one, always.
        """
        if not self.follows:
            return kernel
        if work < 2 * _WORK_OF_A_THREAD:
            return partial(_run_on, 1, kernel)
        return partial(_run_checked, self.n_worth, kernel, probe, key)

    # ----------------------------------------------------------------------------------
    # the load

    @contextmanager
    def steps(self, *, multiply_adds: int, n_elements: int = 0) -> Iterator[None]:
        """Run a block of steps on one thread, or on several if their largest kernels are worth it.

        Parameters
        ----------
        multiply_adds : int
            Of the largest product of a step.
        n_elements : int, default=0
            Of the largest pass over memory.
        """
        with one_thread():
            n_worth = self.threads_for(multiply_adds=multiply_adds, n_elements=n_elements)
            self.n_worth, self.follows = n_worth, n_worth > 1 and not self._is_fixed
            if not self.follows:
                self._set_threads(n_worth)
                yield
                return
            now = time.perf_counter()
            if now >= self._next_look:
                self._n_free = self._count_free_cores()
                self._forget(now)
            self._set_threads(self._n_free)
            self._start_clocks()
            try:
                yield
            finally:  # between two blocks the clocks stand
                self._stop_clocks()

    def step_done(self) -> None:
        """Count a step, and change the number of threads where it is time to."""
        if not self.follows:
            return
        self._n_steps += 1
        now = time.perf_counter()
        if now >= self._next_look:
            self._stop_clocks()
            self._n_free = self._look(now)
            self._forget(now)
            self._set_threads(self._n_free)
            self._start_clocks()

    def _look(self, now: float) -> int:
        """Return how many threads to use from now on."""
        seconds, of_several = self._elapsed / self._n_steps, self._seconds_of_several
        self._seconds_of_several = None
        if of_several is not None and seconds < _CLEARLY_FASTER * of_several:
            return 1  # it has been tried, and is faster
        if self.n_used == 1 and of_several is None and now < self._next_trial:
            return 1
        n_free = self._count_free_cores()
        if self.n_used == 1 or n_free < self.n_used:
            return n_free
        have_waited = self._processor_time < _ALONE * self.n_used * self._elapsed
        are_far = self._seconds_of_passes > _FAR * self._bytes_passed
        if have_waited or (are_far and now >= self._next_trial):
            self._next_trial = now + _BETWEEN_TRIALS
            self._seconds_of_several = None if have_waited else seconds
            return 1
        return n_free

    def _count_free_cores(self) -> int:
        """Return how many threads find a core that nobody else uses, as far as that is known."""
        n_busy, n_fits = busy_cores() or 0, max(1, n_entered())  # in threads of Python
        if n_busy == 0 and n_fits == 1:
            return self.n_worth
        return max(1, ((os.cpu_count() or 1) - n_busy) // n_fits)

    def _set_threads(self, n_free: int) -> None:
        # the process may have been forked among the steps
        self.n_used = 1 if is_forked() else min(self.n_worth, n_free)
        if torch.get_num_threads() != self.n_used:
            set_threads_inside(self.n_used)

    def _forget(self, now: float) -> None:
        self._next_look = now + _BETWEEN_LOOKS
        self._elapsed = self._processor_time = self._seconds_of_passes = 0.0
        self._n_steps = self._bytes_passed = 0

    def _start_clocks(self) -> None:
        self._started = time.perf_counter(), time.process_time()

    def _stop_clocks(self) -> None:
        started, used_before = self._started
        self._elapsed += time.perf_counter() - started
        self._processor_time += time.process_time() - used_before

    def watched(self, move: Callable[..., object], weights: Tensor) -> Callable[..., object]:
        """Return what moves the weights, timed where it tells how far the cores are apart.

        Parameters
        ----------
        move : callable
            One of our own optimisers' steps: one pass over the weights.
        weights : Tensor
        """
        n_bytes = weights.numel() * weights.element_size()
        if not self.follows or n_bytes > _MOST_IN_CACHE:
            return move

        def run(*args: Any) -> None:
            start = time.perf_counter()
            move(*args)
            # a pass that several threads share
            n_parts = min(self.n_used, max(1, weights.numel() // _GRAIN))
            self._seconds_of_passes += (time.perf_counter() - start) * n_parts
            self._bytes_passed += n_bytes

        return run


def _run_on(n_threads: int, kernel: Kernel, *args: Any) -> Any:
    """Run a kernel on a number of threads, within a block of ``steps``."""
    before = torch.get_num_threads()
    if before == n_threads or is_forked():
        return kernel(*args)
    set_threads_inside(n_threads)
    result = kernel(*args)
    set_threads_inside(before)
    return result


def _run_checked(n_worth: int, kernel: Kernel, probe: Callable, key: Hashable, *args: Any) -> Any:
    n_used = torch.get_num_threads()
    if n_used == n_worth or _are_alike(probe, key, n_worth, n_used):
        return kernel(*args)
    return _run_on(n_worth, kernel, *args)


# What was found out in this process, by the key of a probe and two numbers of threads.
_alike: dict[Hashable, bool] = {}


def _are_alike(probe: Callable[[], Sequence[Tensor]], key: Hashable, *n_threads: int) -> bool:
    """Return whether a probe gives the same bits on each of some numbers of threads."""
    if (key, n_threads) not in _alike:
        first, *others = (_run_on(number, probe) for number in n_threads)
        _alike[key, n_threads] = all(map(torch.equal, first, *others))
    return _alike[key, n_threads]
