"""Interruptions by the user: where they come from, and what they are to stop.

Interruptions are exceptions, looked at once they are there: no signal handler is installed, and no
loop asks. An epoch that was not finished is taken out of the records, whatever ended it. Two
questions the exception alone does not answer: whether it is Ctrl-C or a callback's way to stop
(:func:`is_raised`), and whether a search made the fit and has to end, too (:func:`is_one_of_many`).

Our own searches and ensembles set a context variable. joblib tells nobody that it runs, nor do
scikit-learn's searches, which make their fits through it; so joblib is found in the call stack, by
the code objects of its functions rather than by their names.
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
# Where joblib calls functions in this process or in a worker. scikit-learn's searches and
# cross-validation make their fits there, and joblib says to nobody that it runs.
_JOBLIBS_CALLS = frozenset({joblib.Parallel.__call__.__code__, BatchedCalls.__call__.__code__})
_RAISE = dis.opmap["RAISE_VARARGS"]


@contextmanager
def one_of_many() -> Iterator[None]:
    """Tell the fits of a block that Ctrl-C is meant for what makes them all."""
    token = _is_within_many.set(True)
    try:
        yield
    finally:
        _is_within_many.reset(token)


def is_one_of_many() -> bool:
    """Return whether the present fit is one of a search's, a cross-validation's or joblib's.

    They know nothing of a fit that returns early: a ``KeyboardInterrupt`` has to reach them.
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
    """Return whether a ``raise`` statement made an exception, as skorch's callbacks do to stop.

    The interpreter raises a ``KeyboardInterrupt`` of its own, for Ctrl-C, at any other instruction.
    A ``raise`` in a handler of the signal is Ctrl-C, too.
    """
    traceback: Any = error.__traceback__  # what was caught has one
    handler = getattr(signal.getsignal(signal.SIGINT), "__code__", None)
    while traceback.tb_next is not None and traceback.tb_frame.f_code is not handler:
        traceback = traceback.tb_next
    code, position = traceback.tb_frame.f_code, traceback.tb_lasti
    return code is not handler and code.co_code[position : position + 1] == bytes([_RAISE])
