"""How many threads torch and NumPy may use."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
import torch
from threadpoolctl import LibController, ThreadpoolController

# OpenMP's threads do not survive a fork: a child that asked for them would wait for ever.
_is_forked = False
# torch keeps a number for each Python thread, and hands the last one that was set to threads
# that ask for the first time. While a block is entered anywhere, that may be one set within it.
_lock = threading.Lock()
_n_entered = 0
_n_outside = 1
_set_inside: set[int] = set()
# For each Python thread: what ``fixed_threads`` has set; how many blocks of ``one_thread`` are
# entered, and how many threads were allowed outside of them.
_fixed, _entered = threading.local(), threading.local()


def _after_fork() -> None:
    # of the threads that were in a block only the one that forked goes on here
    global _is_forked, _lock, _n_entered, _n_outside, _set_inside, _fixed, _entered
    _is_forked = True
    _lock, _n_entered, _n_outside, _set_inside = threading.Lock(), 0, 1, set()
    _fixed, _entered = threading.local(), threading.local()
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def is_forked() -> bool:
    """Return whether this process was forked, so that several threads would never answer."""
    return _is_forked


def n_entered() -> int:
    """Return how many blocks of :func:`one_thread` are entered, in all Python threads."""
    return _n_entered


def allowed_threads() -> int:
    """Return the number of threads that torch may use: what it has outside of ``one_thread``.

    It is what ``OMP_NUM_THREADS``, ``threadpoolctl`` or joblib's workers set.
    """
    fixed = getattr(_fixed, "n_threads", None)
    if fixed is not None:
        return fixed
    if getattr(_entered, "depth", 0):  # whatever number the steps of a training use just now
        return _entered.n_outside
    n_threads = torch.get_num_threads()
    return _n_outside if _n_entered and n_threads in _set_inside else n_threads


def set_threads_inside(n_threads: int) -> None:
    """Set the number of torch's threads within a block of :func:`one_thread`."""
    _set_inside.add(n_threads)
    torch.set_num_threads(n_threads)


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread; give back what it had, or may have, when the outermost ends."""
    global _n_entered, _n_outside
    has_entered, lock, entered = False, _lock, _entered
    depth = getattr(entered, "depth", 0)
    inside = torch.get_num_threads()  # what steps go on with after a block within them
    try:  # an interruption may come at any call
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
        # a fork in between has given the child another lock, and one thread for ever
        if has_entered and lock is _lock:
            with lock:
                _n_entered -= 1
                entered.depth = depth
                torch.set_num_threads(inside if depth else before)


@contextmanager
def fixed_threads(n_threads: int) -> Iterator[None]:
    """Let this Python thread compute on exactly this many threads, regardless of the clock.

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
def _numpys_libraries() -> list[LibController]:
    """Return the libraries that may compute NumPy's products, if their threads are their own.

    They are found once in a process. Threads of OpenMP are torch's, too, so that their number
    inside of ``one_thread`` is one.
    """
    built_with = np.show_config(mode="dicts").get("Build Dependencies", {})
    if "openblas" not in built_with.get("blas", {}).get("name", ""):
        return []
    known = ThreadpoolController().select(internal_api="openblas").lib_controllers
    return known if all(lib.threading_layer == "pthreads" for lib in known) else []


def numpy_threads() -> int | None:
    """Return how many threads NumPy's large products take; None where that is not known."""
    return min((lib.num_threads for lib in _numpys_libraries()), default=None)


def numpy_takes_one_thread() -> bool:
    """Return whether NumPy computes products of any size, if asked to, on one thread."""
    return not wants_the_same_bits() and numpy_threads() == 1


def wants_the_same_bits() -> bool:
    """Return whether nothing may depend on the clock, or on what NumPy happens to be allowed."""
    is_fixed = getattr(_fixed, "n_threads", None) is not None
    return is_fixed or torch.are_deterministic_algorithms_enabled()
