"""What an interruption by the user means: whom it comes from, and whom it is for."""

import dis
import signal
import sys

# Their calls of ``fit`` are some of many, which the user means to stop as well.
_CALLERS_OF_MANY = (
    "joblib",
    "sklearn.model_selection",
    "sknn_deep.model_selection",
    "sknn_deep._estimators.fused",
)
_RAISE = dis.opmap["RAISE_VARARGS"]


def is_one_of_many() -> bool:
    """Return whether the present call is of a search, a cross-validation or joblib's.

    They know nothing of a fit that returns early: the exception has to reach them. Nothing but
    the call stack tells, so it is looked at when the exception is there.
    """
    frame = sys._getframe()
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if any(f"{name}.".startswith(f"{caller}.") for caller in _CALLERS_OF_MANY):
            return True
        frame = frame.f_back
    return False


def is_raised(error: BaseException) -> bool:
    """Return whether a ``raise`` statement made an exception, as skorch's callbacks do to stop.

    The interpreter raises a ``KeyboardInterrupt`` of its own, for Ctrl-C, at any other instruction.
    A ``raise`` in a handler of the signal is Ctrl-C, too.
    """
    traceback = error.__traceback__
    handler = getattr(signal.getsignal(signal.SIGINT), "__code__", None)
    while traceback.tb_next is not None and traceback.tb_frame.f_code is not handler:
        traceback = traceback.tb_next
    code, position = traceback.tb_frame.f_code, traceback.tb_lasti
    return code is not handler and code.co_code[position : position + 1] == bytes([_RAISE])
