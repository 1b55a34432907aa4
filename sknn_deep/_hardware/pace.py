"""On how many threads training steps and predictions run, and how results stay the same.

**Shapes decide how many are worth it.** If a step has a product of 1.5 million multiply-adds or
more, or an optimiser's pass over 23,000 weights, all of its kernels have several of torch's
threads, as many as leave each at least half of that; else one. With all on several a fit takes
less time than with some: each core finds the rows that it has worked on before in its own cache.

**The load decides how many of these are used.** torch's threads wait for each other in every
operation, so that a step beside a busy process takes many times as long on two threads as on one.
A training therefore uses as many as there are cores that nobody else uses, and counts who else runs
before its first step and ten times a second.

**A trial decides whether fewer are faster.** They are where cores are far from each other, share
what they compute with, or are not the machine's own. Half of the threads take the steps of a
tenth of a second; if they are clearly faster they go on, and half of these are tried. The next
trial comes two seconds later, the one after that four, and then one every eight.

**The load decides on no bit.** torch computes most kernels to the same bits on any number of
threads. The others run on a number of their own that shapes decide: small ones on one, large ones
on all that are worth it (:meth:`Pace.pinned`). Of large products a few differ, and which ones
depends on the library and the processor, so it is tried on random numbers before a product runs on
fewer threads than usual (:meth:`Pace.checked`).

Predictions do not follow the load: shapes and the threads allowed decide. Their rows are shared by
Python's threads, which do not wait for each other: see ``shared_parts``.
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

# Least number of multiply-adds for each thread: fewer take about as long as waking it.
_WORK_OF_A_THREAD = 750_000
# The same for predictions, which may come after a pause: a thread that sleeps then takes
# milliseconds to get a core, as it wakes on that of the thread that waits for it, and spins.
OUTPUT_WORK_OF_A_THREAD = 12_000_000
# Predictions of fewer are never worth a second thread.
FEWEST_TO_SHARE = 2 * OUTPUT_WORK_OF_A_THREAD
# torch divides passes over memory into parts of at least this many elements.
_GRAIN = 2**15
# Reading and writing an element takes as long as this many multiply-adds of a product.
_ELEMENT_WORK = 16
# Seconds between two looks at the load, between the first two trials, and the most between others.
_BETWEEN_LOOKS, _BETWEEN_TRIALS, _MOST_BETWEEN_TRIALS = 0.1, 2.0, 8.0
# Threads that get this share of their cores' time are alone on them: as waiting threads spin,
# they get .93 or more where they are, and .5 to .8 where two share their cores with a third.
_ALONE = 0.85
# Half of the threads must take less than this share of the time of all: a trial is short and noisy.
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


def threads_of_outputs(multiply_adds: int = 0, *, n_elements: int = 0) -> int:
    """Return on how many of the CPU's threads this much work of predictions is done."""
    work = max(multiply_adds, n_elements * _ELEMENT_WORK)
    return _threads_for(work, allowed_threads(), OUTPUT_WORK_OF_A_THREAD)


def _threads_for(work: int, n_threads: int, least_work: int) -> int:
    return max(1, min(n_threads, work // least_work))


class _More(NamedTuple):
    """How many threads are tried against half of them, and how long a step takes on them."""

    n_threads: int
    seconds: float


class Pace:
    """Decides on how many threads the steps of a training run.

    Parameters
    ----------
    n_threads : int
        The most threads to use.
    is_fixed : bool, default=False
        Use all that steps are worth, even on a busy machine.
    least_work : int, default=None
        Multiply-adds that each thread has at least. None is what pays in a training step.

    Attributes
    ----------
    n_worth : int
        How many threads the present steps are worth, going by their shapes.
    n_used : int
        How many they use just now.
    follows : bool
        Whether the load decides on that.
    """

    def __init__(self, n_threads: int, is_fixed: bool = False, least_work: int | None = None):
        self.n_threads, self._is_fixed = n_threads, is_fixed
        self._least_work = least_work or _WORK_OF_A_THREAD
        self.n_worth = self.n_used = self._n_free = 1
        self.follows = False
        self._n_beside = 0
        self._next_look = self._next_trial = -math.inf
        # the most threads after the last trial or during this one, and the time until the next
        self._n_chosen, self._wait = math.inf, _BETWEEN_TRIALS
        self._more: _More | None = None  # during a trial
        # of the steps since the last look
        self._elapsed = self._processor_time = 0.0
        self._n_steps = 0

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
        least_work = OUTPUT_WORK_OF_A_THREAD
        return cls(_most_threads(device), is_fixed=True, least_work=least_work)

    def threads_for(self, *, multiply_adds: int = 0, n_elements: int = 0) -> int:
        """Return how many threads this much work is worth, at most those allowed.

        torch and its library of products decide for each kernel of a step, in the end, how many of
        the threads that they may use to wake.
        """
        work = max(multiply_adds, n_elements * _ELEMENT_WORK)
        return _threads_for(work, self.n_threads, self._least_work)

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
    def steps(
        self, *, multiply_adds: int, n_elements: int = 0, n_beside: int = 0
    ) -> Iterator[None]:
        """Run a block of steps on one thread, or on several if their largest kernels are worth it.

        Parameters
        ----------
        multiply_adds : int
            Of the largest product of a step.
        n_elements : int, default=0
            Of the largest pass over memory.
        n_beside : int, default=0
            Threads of this process that keep a core busy meanwhile, such as one that reads files.
        """
        self._n_beside = n_beside
        with one_thread():
            n_worth = self.threads_for(multiply_adds=multiply_adds, n_elements=n_elements)
            self.n_worth, self.follows = n_worth, n_worth > 1 and not self._is_fixed
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
            return  # a neighbour has come, perhaps in the middle of a trial
        if more is not None and seconds >= _CLEARLY_FASTER * more.seconds:
            self._choose(more.n_threads if more.n_threads < n_most else math.inf, now)
        elif more is not None and self.n_used == 1:
            self._choose(1, now)
        elif more is None and self.n_used > 1 and self._have_waited():
            self._choose(1, now)
        elif more is None and now < self._next_trial:
            return
        elif more is None and self.n_used < n_most:
            self._n_chosen = math.inf  # all begin; the next look tries half of them
        elif self.n_used > 1:
            self._more = _More(self.n_used, seconds)
            self._n_chosen = self.n_used // 2

    def _have_waited(self) -> bool:
        """Return whether the threads had too little time on their cores, for whatever reason."""
        return self._processor_time < _ALONE * self.n_used * self._elapsed

    def _choose(self, n_threads: float, now: float) -> None:
        """Use at most this many threads until the next trial."""
        # where a step takes longer than a look, trials are as rare among the steps
        wait = self._wait * max(1.0, self._elapsed / _BETWEEN_LOOKS)
        self._n_chosen, self._next_trial = n_threads, now + wait
        self._wait = min(2 * self._wait, _MOST_BETWEEN_TRIALS)

    def _count_free_cores(self) -> int:
        """Return how many threads find a core that nobody else uses, as far as that is known."""
        n_busy = (busy_cores() or 0) + self._n_beside
        n_fits = max(1, n_entered())  # in threads of Python
        if n_busy == 0 and n_fits == 1:
            return self.n_worth
        return max(1, ((os.cpu_count() or 1) - n_busy) // n_fits)

    def _set_threads(self) -> None:
        most = min(self._n_free, self._n_chosen) if self.follows else math.inf
        # the process may have been forked among the steps
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


# What was found out in this process, by the key of a probe and two numbers of threads.
_alike: dict[Hashable, bool] = {}


def _are_alike(probe: Callable[[], Sequence[Tensor]], key: Hashable, *n_threads: int) -> bool:
    """Return whether a probe gives the same bits on each of some numbers of threads."""
    if (key, n_threads) not in _alike:
        first, *others = (_run_on(number, probe) for number in n_threads)
        _alike[key, n_threads] = all(map(torch.equal, first, *others))
    return _alike[key, n_threads]
