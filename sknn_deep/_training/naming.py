"""What messages of a training call its network, where it is one of several."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_name = ContextVar("_name", default="")


@contextmanager
def named(name: str) -> Iterator[None]:
    """Give the trainings that a block makes a name, behind the one that they have already."""
    names = [_name.get(), name]
    if all(names):
        names[1] = name[0].lower() + name[1:]
    token = _name.set(", ".join(filter(None, names)))
    try:
        yield
    finally:
        _name.reset(token)


def present_name() -> str:
    """Return the name for a training; empty for a network that is alone."""
    return _name.get()
