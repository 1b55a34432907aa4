"""How many threads torch and NumPy may use."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
import torch
from threadpoolctl import LibController, ThreadpoolController

# OpenMP's threads do not survive a fork: a child that used them would hang.
_is_forked = False
# torch keeps a number of threads per Python thread, and gives a thread without one the number that
# any thread has set last. While a block is active anywhere, that may be a number set within it.
_lock = threading.Lock()
_n_entered = 0
_n_outside = 1
_set_inside: set[int] = set()
# For each Python thread: the number set by ``fixed_threads``; the number of active ``one_thread``
# blocks, and the number of threads allowed outside them.
_fixed, _entered = threading.local(), threading.local()


def _after_fork() -> None:
    # only the thread that forked continues in the child, whatever blocks others were in
    global _is_forked, _lock, _n_entered, _n_outside, _set_inside, _fixed, _entered
    _is_forked = True
    _lock, _n_entered, _n_outside, _set_inside = threading.Lock(), 0, 1, set()
    _fixed, _entered = threading.local(), threading.local()
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def is_forked() -> bool:
    """Return whether this process was forked, so that using several threads would hang."""
    return _is_forked


def n_entered() -> int:
    """Return how many :func:`one_thread` blocks are active, in all Python threads."""
    return _n_entered


def allowed_threads() -> int:
    """Return the number of threads that torch may use, as set outside ``one_thread``.

    It is set by ``OMP_NUM_THREADS``, ``threadpoolctl`` or joblib's workers.
    """
    fixed = getattr(_fixed, "n_threads", None)
    if fixed is not None:
        return fixed
    if getattr(_entered, "depth", 0):  # regardless of the number that training steps now use
        return _entered.n_outside
    n_threads = torch.get_num_threads()
    return _n_outside if _n_entered and n_threads in _set_inside else n_threads


def set_threads_inside(n_threads: int) -> None:
    """Set the number of torch's threads within a block of :func:`one_thread`."""
    _set_inside.add(n_threads)
    torch.set_num_threads(n_threads)


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread; restore its number of threads when the outermost block ends."""
    global _n_entered, _n_outside
    has_entered, lock, entered = False, _lock, _entered
    depth = getattr(entered, "depth", 0)
    inside = torch.get_num_threads()  # to be restored after a nested block
    try:  # a KeyboardInterrupt may occur at any call
        with lock:
            before = allowed_threads()
            if _n_entered == 0:
                _n_outside = before
                _set_inside.clear()
            _n_entered += 1
            has_entered = True
        if not depth:
            entered.n_outside = before
        entered.depth = depth + 1
        set_threads_inside(1)
        yield
    finally:
        # after a fork within the block, the child has another lock, and keeps a single thread
        if has_entered and lock is _lock:
            with lock:
                _n_entered -= 1
                entered.depth = depth
                torch.set_num_threads(inside if depth else before)


@contextmanager
def fixed_threads(n_threads: int) -> Iterator[None]:
    """Let this Python thread compute on exactly this many threads, regardless of timing.

    This makes results reproducible: the last digits of a product depend on the number of threads.

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
        if fixed is _fixed:  # else the process was forked, and keeps a single thread
            fixed.n_threads = before
            torch.set_num_threads(outside)


@cache
def _numpys_libraries() -> list[LibController]:
    """Return the libraries that may compute NumPy's products, if they have their own threads.

    They are determined once per process. OpenMP's threads are shared with torch, so their number
    within ``one_thread`` is one.
    """
    built_with = np.show_config(mode="dicts").get("Build Dependencies", {})
    if "openblas" not in built_with.get("blas", {}).get("name", ""):
        return []
    known = ThreadpoolController().select(internal_api="openblas").lib_controllers
    return known if all(lib.threading_layer == "pthreads" for lib in known) else []


def numpy_threads() -> int | None:
    """Return how many threads NumPy's large products use; None if unknown."""
    return min((lib.num_threads for lib in _numpys_libraries()), default=None)


def numpy_takes_one_thread() -> bool:
    """Return whether NumPy may be used for products of any size, as it uses a single thread."""
    return not wants_the_same_bits() and numpy_threads() == 1


def wants_the_same_bits() -> bool:
    """Return whether results must not depend on timing or on NumPy's number of threads."""
    is_fixed = getattr(_fixed, "n_threads", None) is not None
    return is_fixed or torch.are_deterministic_algorithms_enabled()
