"""Whether training steps and predictions run on one thread or on several.

All of a training's steps, or none: if a step has a product of 1.5 million multiply-adds or more, or
an optimiser's pass over 23,000 weights, the whole epoch has several of torch's threads, as many as
leave each at least half of that; torch and its library decide for each kernel whether to divide it.
An earlier version switched to several threads kernel by kernel. With all on several a fit takes
less time: each core finds the rows that it has worked on before in its own cache, and nothing waits
for the one core that does the rest.

torch's threads wait for each other in every operation. With a second process on the machine a step
takes many times as long as without (``python -m benchmarks.kernels`` shows it), so a :class:`Pace`
follows the clock. The price: beside busy processes, and on cores that are far from each other, the
clock decides whether a product runs on one thread or on several; the library rounds differently, so
the last digit of a fit with large layers may differ. Every bit is the same each time on a machine
of one's own whose cores share a cache, on one thread (``OMP_NUM_THREADS=1``), and with
``torch.use_deterministic_algorithms(True)``.

Predictions never follow the clock: two calls of ``predict`` are expected to return the same bits.
The number of their threads depends on the shapes and on the threads allowed only.
"""

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
# Seconds: how long a number of threads is tried, how long idle threads take to fall asleep
# before one is, and how long the better number is then used.
_TRIAL, _SETTLING, _BETWEEN_TRIALS = 0.03, 0.01, 1.0
# Threads that get this share of their cores' time are alone on them: as waiting threads spin,
# they get .93 or more where they are, and .5 to .8 where two share their cores with a third.
_ALONE = 0.85
# Seconds that a pass over the weights takes for each of their bytes, where the cores that have
# read them are far from each other: .2e-9 where they share a cache, 1e-9 where they do not. It
# tells nothing of weights that no cache holds.
_FAR, _MOST_IN_CACHE = 0.6e-9, 2**22
# One thread must take less than this share of the time of several: a trial is short and noisy.
_CLEARLY_FASTER = 0.9


# Nanoseconds that a thread must have run, or waited for a core, for the share to tell something.
_TELLING = 5_000_000
_waits = threading.local()


def is_starved() -> bool:
    """Return whether this Python thread has recently waited for a core rather than run.

    Linux counts both for each thread; where it does not, the answer is no. Where one thread waits,
    several would wait for each other, and one step of theirs may take a fifth of a second.
    """
    try:
        with open("/proc/thread-self/schedstat", "rb") as file:
            ran, waited, _ = map(int, file.read().split())
    except (OSError, ValueError):
        return False
    ran_before, waited_before, starved = getattr(_waits, "last", (0, 0, False))
    ran_since, waited_since = ran - ran_before, waited - waited_before
    if ran_since + waited_since < _TELLING:
        return starved
    starved = waited_since > (1 - _ALONE) * (ran_since + waited_since)
    _waits.last = ran, waited, starved
    return starved


def _most_threads(device: torch.device) -> int:
    """Return the most of the CPU's threads to use for work on a device."""
    return allowed_threads() if device.type == "cpu" else 1


def threads_of_outputs(multiply_adds: int) -> int:
    """Return on how many of the CPU's threads this much work of predictions is done."""
    return _threads_for(multiply_adds, allowed_threads())


def _threads_for(work: int, n_threads: int) -> int:
    return max(1, min(n_threads, work // _WORK_OF_A_THREAD))


class Pace:
    """Decides whether the steps of a training run on one thread or on several.

    Several threads wait for the last of them: where another process holds a core, a
    step can take many times longer than on one thread. Such a process shows in the
    processor's time that this one gets. And they leave the weights in the caches of all cores:
    where these are far apart, as those of a virtual machine may be, to write the weights takes
    five times as long as where they share one. That shows in the time of the optimiser. Only
    where one of the two is seen are both numbers tried for a moment, now and then again, and in
    between the one with the faster steps is used: beside another process several threads must be
    clearly faster, since short trials there tell little, and while this thread itself has to wait
    for a core they are not tried at all.

    Parameters
    ----------
    n_threads : int
        The most threads to use.
    is_fixed : bool, default=False
        Always use them, even on a busy machine.

    Attributes
    ----------
    several : bool
        What steps that are worth it use just now.
    """

    def __init__(self, n_threads: int, is_fixed: bool = False):
        self.n_threads = n_threads
        self.several = n_threads > 1
        self._is_fixed, self._is_settled = is_fixed, True
        self._n_used = 1  # of the present steps, while they use several
        self._seconds = {False: math.inf, True: math.inf}  # of a step, by ``several``
        self._next_trial = -math.inf
        self._is_alone = True
        if self.several and not is_fixed and is_starved():
            self.several, self._is_alone = False, False
            self._next_trial = time.perf_counter() + _BETWEEN_TRIALS
        self._has_begun = False
        self._measured = self._used = 0.0
        self._seconds_of_passes = self._bytes_passed = 0.0

    @classmethod
    def of(cls, device: torch.device) -> "Pace":
        """Return one for work on a device; on a CPU it may use the threads allowed.

        Their number is fixed within ``fixed_threads``, and where the user has asked for the same
        bits each time by ``torch.use_deterministic_algorithms(True)``.
        """
        return cls(_most_threads(device), is_fixed=wants_the_same_bits())

    @classmethod
    def of_outputs(cls, device: torch.device) -> "Pace":
        """Return one for predictions on a device, which give the same bits each time.

        It never looks at the clock: the shapes and the threads allowed decide.
        """
        return cls(_most_threads(device), is_fixed=True)

    def threads_for(self, *, multiply_adds: int = 0, n_elements: int = 0) -> int:
        """Return how many threads this much work is worth, at most those allowed.

        torch and its library of products decide for each kernel of a step, in the end, how many of
        the threads that they may use to wake.
        """
        work = max(multiply_adds, n_elements * _ELEMENT_WORK)
        return _threads_for(work, self.n_threads)

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
            self._n_used = self.threads_for(multiply_adds=multiply_adds, n_elements=n_elements)
            self._is_settled = self._is_fixed or self._n_used == 1
            if self._n_used > 1:
                self._set_threads()
            if self._is_settled:
                yield
                return
            self._since = time.perf_counter() - self._measured
            self._used_since = time.process_time() - self._used
            try:
                yield
            finally:  # between two blocks the clocks stand
                self._measured = time.perf_counter() - self._since
                self._used = time.process_time() - self._used_since

    def step_done(self) -> None:
        """Count a step, and change the number of threads where it is time to."""
        if self._is_settled:
            return
        now = time.perf_counter()
        if not self._has_begun:  # the first step prepares what the others use
            self._has_begun = True
            self._begin(now)
            return
        if now < self._since:
            return
        self._n_steps += 1
        if now - self._since < _TRIAL:
            return
        self._seconds[self.several] = (now - self._since) / self._n_steps
        chosen = self._choose(now)
        settles = self.several and not chosen
        self.several = chosen
        self._set_threads()
        self._begin(now + _SETTLING if settles else now)

    def _set_threads(self) -> None:
        # the process may have been forked among the steps
        several = self.several and not is_forked()
        set_threads_inside(self._n_used if several else 1)

    def _begin(self, start: float) -> None:
        """Measure the steps from a time on."""
        self._since, self._used_since, self._n_steps = start, time.process_time(), 0
        self._seconds_of_passes = self._bytes_passed = 0.0

    def _choose(self, now: float) -> bool:
        """Return whether to go on with several threads, at the end of a trial."""
        if self.several:
            used, available = time.process_time() - self._used_since, now - self._since
            self._is_alone = n_entered() <= 1 and used >= _ALONE * self._n_used * available
            are_near = self._seconds_of_passes <= _FAR * self._bytes_passed
            if self._is_alone and are_near:
                return True
        if now > self._next_trial:
            self._next_trial = now + _BETWEEN_TRIALS
            return not self.several and not is_starved()
        if self._is_alone:
            return self._seconds[False] >= _CLEARLY_FASTER * self._seconds[True]
        return self._seconds[True] < _CLEARLY_FASTER * self._seconds[False]

    def watched(self, move: Callable[..., object], weights: Tensor) -> Callable[..., object]:
        """Return what moves the weights, timed where it tells how far the cores are apart.

        Parameters
        ----------
        move : callable
            One of our own optimisers' steps: one pass over the weights.
        weights : Tensor
        """
        n_bytes = weights.numel() * weights.element_size()
        if self._is_settled or n_bytes > _MOST_IN_CACHE:
            return move
        n_parts = min(self._n_used, max(1, weights.numel() // _GRAIN))

        def run(*args: Any) -> None:
            start = time.perf_counter()
            move(*args)
            # a pass that several threads share
            self._seconds_of_passes += (time.perf_counter() - start) * n_parts
            self._bytes_passed += n_bytes

        return run
