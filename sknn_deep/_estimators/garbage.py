"""A context in which Python's cyclic garbage collector is paused.

The collector runs after every few hundred new objects. While the networks of a stack are made, it
scans them again and again although none is garbage, which took a fifth of the time of a large
search over small networks.
"""

import gc
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# Number of entered blocks in all threads, and whether the collector was enabled before the first.
_lock = threading.Lock()
_n_entered = 0
_was_enabled = True


def _after_fork() -> None:
    # of the threads inside a block, only the one that forked exists in the child process
    global _lock, _n_entered
    if _n_entered and _was_enabled:
        gc.enable()
    _lock, _n_entered = threading.Lock(), 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def collector_waits() -> Iterator[None]:
    """Pause the collector, if it is enabled, until the last of all such blocks ends."""
    global _n_entered, _was_enabled
    lock = _lock
    with lock:
        if _n_entered == 0:
            _was_enabled = gc.isenabled()
            gc.disable()
        _n_entered += 1
    try:
        yield
    finally:
        if lock is _lock:  # otherwise the process was forked inside the block
            with lock:
                _n_entered -= 1
                if _n_entered == 0 and _was_enabled:
                    gc.enable()
