"""A block within which Python's collector of reference cycles waits.

It runs whenever some hundreds of objects have been made, and looks at all of them again and again
while the networks of a stack are made, none of which is garbage: a fifth of the time of a large
search over small networks.
"""

import gc
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# Blocks that are entered, in all threads, and whether the collector ran before the first.
_lock = threading.Lock()
_n_entered = 0
_was_enabled = True


def _after_fork() -> None:
    # of the threads that were in a block only the one that forked goes on here
    global _lock, _n_entered
    if _n_entered and _was_enabled:
        gc.enable()
    _lock, _n_entered = threading.Lock(), 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def collector_waits() -> Iterator[None]:
    """Let the collector wait until the last of all such blocks ends, if it runs at all."""
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
        if lock is _lock:  # else the process was forked
            with lock:
                _n_entered -= 1
                if _n_entered == 0 and _was_enabled:
                    gc.enable()
