"""Interruptions by the user: where they come from, and what they should stop.

Interruptions are exceptions that are examined when they are caught: no signal handler is installed,
and no loop polls. An unfinished epoch is removed from the records, whatever ended it. The exception
alone does not tell whether it is Ctrl-C or a callback's way to stop (:func:`is_raised`), and
whether the fit is part of a search that has to end, too (:func:`is_one_of_many`).

This package's searches and ensembles set a context variable. joblib does not announce that it runs,
nor do scikit-learn's searches, which use it for their fits; so joblib is detected in the call
stack, by the code objects of its functions rather than by their names.
"""

import dis
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType
from typing import Any

import joblib
from joblib.parallel import BatchedCalls

_is_within_many = ContextVar("_is_within_many", default=False)
# Functions in which joblib calls others, in this process or in a worker, such as the fits of
# scikit-learn's searches and cross-validation; joblib does not announce that it runs.
_JOBLIBS_CALLS = frozenset({joblib.Parallel.__call__.__code__, BatchedCalls.__call__.__code__})
_RAISE = dis.opmap["RAISE_VARARGS"]


@contextmanager
def one_of_many() -> Iterator[None]:
    """Mark the fits of a block as parts of a larger operation, which Ctrl-C should stop."""
    token = _is_within_many.set(True)
    try:
        yield
    finally:
        _is_within_many.reset(token)


def is_one_of_many() -> bool:
    """Return whether the current fit belongs to a search, a cross-validation or a joblib call.

    These would not notice that a fit returned early, so a ``KeyboardInterrupt`` has to reach them.
    """
    if _is_within_many.get():
        return True
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code in _JOBLIBS_CALLS:
            return True
        frame = frame.f_back
    return False


def is_raised(error: BaseException) -> bool:
    """Return whether an exception comes from a ``raise`` statement, as in skorch's callbacks.

    For Ctrl-C, the interpreter itself raises a ``KeyboardInterrupt``, at any other instruction. A
    ``raise`` in the signal handler counts as Ctrl-C, too.
    """
    traceback: Any = error.__traceback__  # a caught exception has one
    handler = getattr(signal.getsignal(signal.SIGINT), "__code__", None)
    while traceback.tb_next is not None and traceback.tb_frame.f_code is not handler:
        traceback = traceback.tb_next
    code, position = traceback.tb_frame.f_code, traceback.tb_lasti
    return code is not handler and code.co_code[position : position + 1] == bytes([_RAISE])
