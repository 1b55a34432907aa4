"""Parts of a computation that Python's threads share, each with one of torch's.

torch's own threads wait for each other at the end of every operation, all for the one that sleeps
or has lost its core to another process. Here a thread computes a part alone, from the first
operation to the last, and takes the next one: a late thread takes fewer parts. Nobody waits for
one that is later still: the calling thread computes its part once more. Which thread computes a
part decides on no bit.
"""

import atexit
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from sknn_deep._hardware.threads import is_forked, one_thread, set_threads_inside

# More would wait for Python's lock, which a thread holds between two of torch's operations.
MOST_THREADS = 32
# Threads that wait for calls until the interpreter ends: to start one takes as long as a small
# part, and what an executor does around a call as well. Each has one of torch's threads from its
# start: torch hands a number that is set later to threads that have none yet.
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

    Where it fails in a helper, the calling thread calls it once more. Settings such as
    scikit-learn's belong to a thread, so only what fails there is an error.

    Parameters
    ----------
    function : callable
        Called by any thread; a late one may still be running when this has returned.
    store : callable
        Called once for each part, one call at a time, with its number and what the function has
        returned.
    n_parts : int
    n_threads : int
        With the calling thread.

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

    # emptied at the end: a helper that has not begun by then holds none of the data
    work = [compute]

    def help_out() -> None:
        try:
            while left:
                work[0](left.popleft())
        except BaseException:  # none was left, or the calling thread will see what is wrong
            pass

    with one_thread():
        n_helpers = min(n_threads, n_parts, MOST_THREADS) - 1
        try:
            _call(help_out, n_helpers)
            start, n_computed = time.perf_counter(), 0
            while left:
                try:
                    part = left.popleft()
                except IndexError:  # a helper was quicker
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
    """Let some threads call a function, as many as there are to be had."""
    if is_forked():  # which has none of the threads
        return
    with _lock:
        while len(_helpers) < n_threads:
            is_ready = threading.Event()
            helper = threading.Thread(
                target=_help, args=(_calls, is_ready), name="sknn_deep", daemon=True
            )
            try:
                helper.start()
            except RuntimeError:  # the system has no more
                break
            is_ready.wait()
            _helpers.append(helper)
    for _ in range(min(n_threads, len(_helpers))):
        _calls.put(function)


def _help(calls: SimpleQueue[Callable[[], None] | None], is_ready: threading.Event) -> None:
    """Call what the queue holds, on one of torch's threads."""
    set_threads_inside(1)
    is_ready.set()
    while (function := calls.get()) is not None:
        function()
        del function  # and what it holds
    calls.put(None)  # for the others


@atexit.register
def _end() -> None:
    """Let a late helper finish: if the interpreter ended meanwhile, it might end the process."""
    _calls.put(None)
    for helper in _helpers:
        helper.join()
