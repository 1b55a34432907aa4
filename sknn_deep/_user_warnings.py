"""Warnings that point at the user's line, and appear once for a call that makes many fits."""

import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import joblib
import sklearn
import skorch

_PACKAGES = tuple(
    str(Path(file).parent) for file in (joblib.__file__, sklearn.__file__, skorch.__file__)
)
# Code that may be on the call stack between the user's line and a warning.
_IN_BETWEEN = (*_PACKAGES, str(Path(__file__).parent), contextmanager.__code__.co_filename)

_collected: ContextVar[Counter | None] = ContextVar("_collected", default=None)


def warn_user(message: str, category: type[Warning] = UserWarning) -> None:
    """Issue a warning that points at the line of the user's code that called this package.

    Within :func:`warned_once`, the warning is deferred to the end of the block.
    """
    collected = _collected.get()
    if collected is None:
        warnings.warn(message, category, stacklevel=_users_level())
    else:
        collected[message, category] += 1


@contextmanager
def warned_once() -> Iterator[None]:
    """Issue each distinct warning of the fits in a block once, at its end, with its count."""
    if _collected.get() is not None:
        yield
        return
    collected: Counter = Counter()
    token = _collected.set(collected)
    try:
        yield
    finally:
        _collected.reset(token)
        for (message, category), n_fits in collected.items():
            warn_user(message if n_fits == 1 else f"{message} ({n_fits} fits)", category)


@contextmanager
def collected_warnings() -> Iterator[Counter]:
    """Collect the warnings of a block, each as ``(message, category)``, for others to issue."""
    collected: Counter = Counter()
    token = _collected.set(collected)
    try:
        yield collected
    finally:
        _collected.reset(token)


def give_again(found: Counter) -> None:
    """Issue warnings that another process has collected, within :func:`warned_once`."""
    for (message, category), n_fits in found.items():
        for _ in range(n_fits):
            warn_user(message, category)


def _users_level() -> int:
    """Return the ``stacklevel`` for ``warnings.warn`` in the caller to point at the user's line."""
    level, frame = 2, sys._getframe(2)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_IN_BETWEEN):
        level, frame = level + 1, frame.f_back
    return level
