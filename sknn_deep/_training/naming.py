"""Names for one of several networks in the messages of its training."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_name = ContextVar("_name", default="")


@contextmanager
def named(name: str) -> Iterator[None]:
    """Name the trainings of a block; the name is appended to one that is already set."""
    names = [_name.get(), name]
    if all(names):
        names[1] = name[0].lower() + name[1:]
    token = _name.set(", ".join(filter(None, names)))
    try:
        yield
    finally:
        _name.reset(token)


def present_name() -> str:
    """Return the current name for a training; empty for a single network."""
    return _name.get()
