"""A computation in parts that Python threads share, each using one of torch's threads.

torch's own threads synchronise at the end of every operation, so all wait for one that sleeps or
has lost its core to another process. Here each thread computes a part alone, from the first
operation to the last, and then takes the next one, so a slow thread takes fewer parts. If a thread
is very late, the calling thread does not wait but computes its part again. The result does not
depend on which thread computes a part.
"""

import atexit
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from sknn_deep._hardware.threads import is_forked, one_thread, set_threads_inside

# More would wait for the GIL, which a thread holds between torch operations.
MOST_THREADS = 32
# Threads that wait for calls until the interpreter exits: starting one takes as long as a small
# part, and so does the overhead of an executor. Each sets its number of torch threads to one when
# it starts, as a thread without a setting takes the number that any thread has set last.
_helpers: list[threading.Thread] = []
_calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
_lock = threading.Lock()


def share_parts(
    function: Callable[[int], Any],
    store: Callable[[int, Any], None],
    n_parts: int,
    n_threads: int,
) -> None:
    """Call a function with the number of each part, on several threads.

    If the function fails in a helper, the calling thread calls it again. Settings such as
    scikit-learn's are per thread, so only a failure in the calling thread is an error.

    Parameters
    ----------
    function : callable
        Called by any thread; a late call may still be running after ``share_parts`` has returned.
    store : callable
        Called once per part, never concurrently, with its number and the function's result.
    n_parts : int
    n_threads : int
        Number of threads, including the calling one.

    Examples
    --------
    >>> from sknn_deep._hardware.shared_parts import share_parts
    >>> squares = {}
    >>> share_parts(lambda part: part**2, squares.__setitem__, n_parts=4, n_threads=2)
    >>> sorted(squares.items())
    [(0, 0), (1, 1), (2, 4), (3, 9)]
    """
    left, missing = deque(range(n_parts)), set(range(n_parts))
    lock, is_complete = threading.Lock(), threading.Lock()
    is_complete.acquire()

    def compute(part: int) -> None:
        value = function(part)
        with lock:
            if part in missing:
                store(part, value)
                missing.remove(part)
                if not missing:
                    is_complete.release()

    # emptied at the end, so that a helper that starts later holds no data
    work = [compute]

    def help_out() -> None:
        try:
            while left:
                work[0](left.popleft())
        except BaseException:  # no part was left, or the calling thread will raise the error
            pass

    with one_thread():
        n_helpers = min(n_threads, n_parts, MOST_THREADS) - 1
        try:
            _call(help_out, n_helpers)
            start, n_computed = time.perf_counter(), 0
            while left:
                try:
                    part = left.popleft()
                except IndexError:  # a helper was faster
                    break
                compute(part)
                n_computed += 1
            if n_helpers:
                seconds_of_a_part = (time.perf_counter() - start) / max(1, n_computed)
                is_complete.acquire(timeout=seconds_of_a_part)
            for part in range(n_parts):
                if part in missing:
                    compute(part)
        finally:
            left.clear()
            work.clear()
            with lock:
                missing.clear()


def _call(function: Callable[[], None], n_threads: int) -> None:
    """Have helper threads call a function, as many as can be started."""
    if is_forked():  # threads do not survive a fork
        return
    with _lock:
        while len(_helpers) < n_threads:
            is_ready = threading.Event()
            helper = threading.Thread(
                target=_help, args=(_calls, is_ready), name="sknn_deep", daemon=True
            )
            try:
                helper.start()
            except RuntimeError:  # the system allows no more threads
                break
            is_ready.wait()
            _helpers.append(helper)
    for _ in range(min(n_threads, len(_helpers))):
        _calls.put(function)


def _help(calls: SimpleQueue[Callable[[], None] | None], is_ready: threading.Event) -> None:
    """Run the functions in the queue, each on one torch thread."""
    set_threads_inside(1)
    is_ready.set()
    while (function := calls.get()) is not None:
        function()
        del function  # and the data that it holds
    calls.put(None)  # for the other helpers


@atexit.register
def _end() -> None:
    """Wait for late helpers: one still running when the interpreter exits might crash it."""
    _calls.put(None)
    for helper in _helpers:
        helper.join()
