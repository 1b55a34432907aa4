"""The number of threads for training steps and predictions, without an effect on the results.

**Shapes limit the number of threads.** If a step has a product of 1.5 million multiply-adds or
more, or an optimiser's pass over 23,000 weights, all of its kernels run on several of torch's
threads, as many as leave each at least half of that; otherwise on one. Running all kernels on
several threads is faster than running only some: each core finds the rows that it has worked on
before in its own cache.

**The load decides how many of these are used.** torch's threads wait for each other in every
operation, so beside a busy process a step takes many times as long on two threads as on one.
Training therefore uses only as many threads as there are idle cores, and counts the threads of
other processes before its first step and ten times a second.

**A trial decides whether fewer are faster.** This is the case if cores are far from each other,
share execution units, or belong to a virtual machine. Half of the threads run the steps of a tenth
of a second; if that is clearly faster, training continues with them, and half of these are tried.
The next trial comes two seconds later, the one after that four, and then one every eight. Later
fits with steps of about the same size start from the outcome, as a tenth of a second is much of a
short fit. An outcome is forgotten once the next trial is due, at most eight seconds later, and one
that was found beside other threads is not kept.

**The load does not affect results.** torch computes most kernels to the same bits on any number of
threads. The others run on a fixed number that depends on shapes only: small ones on one thread,
large ones on all that pay off (:meth:`Pace.pinned`). A few large products differ, and which ones
depends on the library and the processor, so each is tested on random numbers before it runs on
fewer threads than usual (:meth:`Pace.checked`).

Predictions do not follow the load: their number of threads depends on shapes and on the threads
allowed. Their rows are shared by Python threads, which do not wait for each other: see
``shared_parts``.
"""

import math
import os
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

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

# Minimum number of multiply-adds per thread: fewer take about as long as waking it.
_WORK_OF_A_THREAD = 750_000
# The same for predictions, which may come after a pause: a sleeping thread then takes milliseconds
# to get a core, as it wakes on the core of the thread that waits for it by spinning.
OUTPUT_WORK_OF_A_THREAD = 12_000_000
# Predictions with fewer multiply-adds never use a second thread.
FEWEST_TO_SHARE = 2 * OUTPUT_WORK_OF_A_THREAD
# torch divides passes over memory into parts of at least this many elements.
_GRAIN = 2**15
# Reading and writing an element takes as long as this many multiply-adds of a product.
_ELEMENT_WORK = 16
# Seconds between checks of the load, between the first two trials, and at most between others.
_BETWEEN_LOOKS, _BETWEEN_TRIALS, _MOST_BETWEEN_TRIALS = 0.1, 2.0, 8.0
# Threads that get at least this share of their cores' time are alone on them: as waiting threads
# spin, they get .93 or more if alone, and .5 to .8 if two threads share their cores with a third.
_ALONE = 0.85
# Half of the threads must take less than this share of the time of all, as trials are short and
# noisy.
_CLEARLY_FASTER = 0.9

Kernel = Callable[..., Any]


class _Outcome(NamedTuple):
    """The outcome of a trial: the maximum number of threads, and when to try again."""

    n_chosen: float = math.inf
    next_trial: float = -math.inf
    wait: float = _BETWEEN_TRIALS


# The last outcome in this process, by the size of the steps.
_outcomes: dict[Hashable, _Outcome] = {}


def busy_cores() -> int | None:
    """Return how many threads of other processes run or wait for a core; None if unknown.

    Linux counts the threads of the whole machine; those of this process are subtracted.
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
    except FileNotFoundError:  # the thread has ended since
        return False


def _most_threads(device: torch.device) -> int:
    """Return the maximum number of CPU threads for work on a device."""
    return allowed_threads() if device.type == "cpu" else 1


def threads_of_outputs(multiply_adds: int = 0, *, n_elements: int = 0) -> int:
    """Return the number of CPU threads for this much work of predictions."""
    work = max(multiply_adds, n_elements * _ELEMENT_WORK)
    return _threads_for(work, allowed_threads(), OUTPUT_WORK_OF_A_THREAD)


def _threads_for(work: int, n_threads: int, least_work: int) -> int:
    return max(1, min(n_threads, work // least_work))


class _More(NamedTuple):
    """The number of threads against which half of them are tried, and a step's time on them."""

    n_threads: int
    seconds: float


class Pace:
    """Chooses the number of threads for training steps.

    Parameters
    ----------
    n_threads : int
        Maximum number of threads.
    is_fixed : bool, default=False
        Whether to use all threads that pay off by shape, even on a busy machine.
    least_work : int, default=None
        Minimum number of multiply-adds per thread. None is what pays off in a training step.

    Attributes
    ----------
    n_worth : int
        Number of threads that pay off for the current steps, judged by their shapes.
    n_used : int
        Number of threads in use.
    follows : bool
        Whether ``n_used`` follows the load.
    """

    def __init__(self, n_threads: int, is_fixed: bool = False, least_work: int | None = None):
        self.n_threads, self._is_fixed = n_threads, is_fixed
        self._least_work = least_work or _WORK_OF_A_THREAD
        self.n_worth = self.n_used = self._n_free = 1
        self.follows = False
        self._n_beside = 0
        self._next_look = -math.inf
        # the maximum set by the last or the current trial, and the time until the next trial
        self._n_chosen, self._next_trial, self._wait = _Outcome()
        self._size: Hashable = None
        self._more: _More | None = None  # during a trial
        # totals of the steps since the last check of the load
        self._elapsed = self._processor_time = 0.0
        self._n_steps = 0

    @classmethod
    def of(cls, device: torch.device) -> "Pace":
        """Return an instance for work on a device; on a CPU it may use the threads allowed.

        It is fixed within ``fixed_threads``, and if the user has enabled torch's deterministic
        algorithms.
        """
        return cls(_most_threads(device), is_fixed=wants_the_same_bits())

    @classmethod
    def of_outputs(cls, device: torch.device) -> "Pace":
        """Return an instance for predictions on a device, which does not follow the load."""
        least_work = OUTPUT_WORK_OF_A_THREAD
        return cls(_most_threads(device), is_fixed=True, least_work=least_work)

    def threads_for(self, *, multiply_adds: int = 0, n_elements: int = 0) -> int:
        """Return how many threads pay off for this much work, at most those allowed.

        torch and its matrix library decide for each kernel how many of these threads to wake.
        """
        work = max(multiply_adds, n_elements * _ELEMENT_WORK)
        return _threads_for(work, self.n_threads, self._least_work)

    # ----------------------------------------------------------------------------------
    # kernels whose bits depend on the number of threads

    def pinned(self, kernel: Kernel, n_elements: float) -> Kernel:
        """Return a kernel that always runs on a number of threads that depends on its size only.

        Parameters
        ----------
        kernel : callable
            A kernel whose bits depend, or may depend, on the number of threads.
        n_elements : float
            Size of its largest tensor. If torch would not divide it, the kernel gets one thread.
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
        """Return a kernel that runs on fewer threads than usual only if no bit changes.

        Parameters
        ----------
        kernel : callable
        probe : callable
            Computes the same as the kernel, from random numbers that are the same on every call.
        key : hashable
            Equal for equal probes.
        work : float, default=inf
            Multiply-adds of the kernel. If several threads do not pay off, it always runs on one.
        """
        if not self.follows:
            return kernel
        if work < 2 * _WORK_OF_A_THREAD:
            return partial(_run_on, 1, kernel)
        return partial(_run_checked, self.n_worth, kernel, probe, key)

    # ----------------------------------------------------------------------------------
    # the load

    @contextmanager
    def steps(
        self, *, multiply_adds: int, n_elements: int = 0, n_beside: int = 0
    ) -> Iterator[None]:
        """Run a block of steps on one thread, or on several if the largest kernels justify it.

        Parameters
        ----------
        multiply_adds : int
            Size of the largest product of a step.
        n_elements : int, default=0
            Size of the largest pass over memory.
        n_beside : int, default=0
            Other threads of this process that keep a core busy, such as one that reads files.
        """
        self._n_beside = n_beside
        with one_thread():
            n_worth = self.threads_for(multiply_adds=multiply_adds, n_elements=n_elements)
            self.n_worth, self.follows = n_worth, n_worth > 1 and not self._is_fixed
            size = n_worth, int(multiply_adds).bit_length(), int(n_elements).bit_length()
            if size != self._size:
                self._size, self._more, self._next_look = size, None, -math.inf
                outcome = _outcomes.get(size, _Outcome())
                if time.perf_counter() >= outcome.next_trial:  # a short fit could not revise it
                    outcome = _Outcome(wait=outcome.wait)
                self._n_chosen, self._next_trial, self._wait = outcome
            if not self.follows:
                self._set_threads()
                yield
                return
            now = time.perf_counter()
            if now >= self._next_look:
                self._n_free = self._count_free_cores()
                self._forget(now)
            self._set_threads()
            self._start_clocks()
            try:
                yield
            finally:  # time between two blocks does not count
                self._stop_clocks()

    def step_done(self) -> None:
        """Count a step, and adjust the number of threads if it is time to."""
        if not self.follows:
            return
        self._n_steps += 1
        now = time.perf_counter()
        if now >= self._next_look:
            self._stop_clocks()
            self._look(now)
            self._set_threads()
            self._forget(now)
            self._start_clocks()

    def _look(self, now: float) -> None:
        """Decide how many threads to use from now on."""
        seconds, more, n_free = self._elapsed / self._n_steps, self._more, self._n_free
        self._more, self._n_free = None, self._count_free_cores()
        n_most = min(self._n_free, self.n_worth)
        if n_most < self.n_used or (more is not None and self._n_free < n_free):
            return  # another process has started, perhaps in the middle of a trial
        if more is not None and seconds >= _CLEARLY_FASTER * more.seconds:
            self._choose(more.n_threads if more.n_threads < n_most else math.inf, now)
            self._remember(now)
        elif more is not None and self.n_used == 1:
            self._choose(1, now)
            self._remember(now)
        elif more is None and self.n_used > 1 and self._have_waited():
            self._choose(1, now)
        elif more is None and now < self._next_trial:
            return
        elif more is None and self.n_used < n_most:
            self._n_chosen = math.inf  # start with all; the next check tries half of them
        elif self.n_used > 1:
            self._more = _More(self.n_used, seconds)
            self._n_chosen = self.n_used // 2

    def _have_waited(self) -> bool:
        """Return whether the threads got too little of their cores' time, for whatever reason."""
        return self._processor_time < _ALONE * self.n_used * self._elapsed

    def _choose(self, n_threads: float, now: float) -> None:
        """Use at most this many threads until the next trial."""
        # if a step takes longer than the interval between checks, trials are spaced accordingly
        wait = self._wait * max(1.0, self._elapsed / _BETWEEN_LOOKS)
        self._n_chosen, self._next_trial = n_threads, now + wait
        self._wait = min(2 * self._wait, _MOST_BETWEEN_TRIALS)

    def _remember(self, now: float) -> None:
        """Let later fits in this process start from the outcome of a trial."""
        if self._n_free >= self.n_worth:
            next_trial = min(self._next_trial, now + _MOST_BETWEEN_TRIALS)
            _outcomes[self._size] = _Outcome(self._n_chosen, next_trial, self._wait)

    def _count_free_cores(self) -> int:
        """Return how many threads can have a core of their own, as far as that is known."""
        n_busy = (busy_cores() or 0) + self._n_beside
        n_fits = max(1, n_entered())  # concurrent fits in Python threads share the cores
        if n_busy == 0 and n_fits == 1:
            return self.n_worth
        return max(1, ((os.cpu_count() or 1) - n_busy) // n_fits)

    def _set_threads(self) -> None:
        most = min(self._n_free, self._n_chosen) if self.follows else math.inf
        # the process may have been forked between steps
        self.n_used = 1 if is_forked() else int(min(self.n_worth, most))
        if torch.get_num_threads() != self.n_used:
            set_threads_inside(self.n_used)

    def _forget(self, now: float) -> None:
        self._next_look = now + _BETWEEN_LOOKS
        self._elapsed = self._processor_time = 0.0
        self._n_steps = 0

    def _start_clocks(self) -> None:
        self._started = time.perf_counter(), time.process_time()

    def _stop_clocks(self) -> None:
        started, used_before = self._started
        self._elapsed += time.perf_counter() - started
        self._processor_time += time.process_time() - used_before


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


# Results of probes in this process, by the key of a probe and two numbers of threads.
_alike: dict[Hashable, bool] = {}


def _are_alike(probe: Callable[[], Sequence[Tensor]], key: Hashable, *n_threads: int) -> bool:
    """Return whether a probe gives the same bits on each of these numbers of threads."""
    if (key, n_threads) not in _alike:
        first, *others = (_run_on(number, probe) for number in n_threads)
        _alike[key, n_threads] = all(map(torch.equal, first, *others))
    return _alike[key, n_threads]
