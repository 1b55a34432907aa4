"""Docstrings of estimators that differ from another by their defaults.

The parameters are explained once, at the base; here the defaults are put into what it says.
"""

import inspect
import re
from collections.abc import Callable
from typing import TypeVar

C = TypeVar("C", bound=type)

_MERGED = ("Parameters", "Attributes")
_ORDER = (*_MERGED, "See Also", "Notes", "References", "Examples")


def with_own_defaults(base: type) -> Callable[[C], C]:
    """Return a decorator that completes a class's docstring by the sections of its base's.

    The class's own docstring has the summary. Its parameters and attributes are those that the
    base does not have; other sections take the place of the base's.
    """

    def decorate(cls: C) -> C:
        head, own = _sections(inspect.getdoc(cls) or "")
        _, inherited = _sections(inspect.getdoc(base) or "")
        inherited["Parameters"] = _with_defaults(inherited["Parameters"], cls)
        for title in _MERGED:
            inherited[title] = inherited[title].replace(base.__name__, cls.__name__)
            if title in own:  # behind those of the base
                entries = own.pop(title).split("\n", 2)[2]
                inherited[title] = f"{inherited[title].rstrip()}\n\n{entries}"
        sections = {**inherited, **own}
        parts = [head, *(sections[title] for title in _ORDER if title in sections)]
        cls.__doc__ = "\n\n".join(part.strip() for part in parts) + "\n"
        return cls

    return decorate


def _sections(doc: str) -> tuple[str, dict[str, str]]:
    """Return what is above the sections of a numpydoc docstring, and these by their titles."""
    head, *parts = re.split(r"\n(?=[A-Z][\w ]+\n-+\n)", doc)
    return head, {part.partition("\n")[0]: part for part in parts}


def _with_defaults(section: str, cls: type) -> str:
    """Return a section of parameters with the defaults of a class's signature."""
    defaults = inspect.signature(cls).parameters

    def line(match: re.Match[str]) -> str:
        name, kind = match["name"], match["kind"]
        value = defaults[name].default
        shown = f'"{value}"' if isinstance(value, str) else repr(value)
        return f"{name} : {kind}, default={shown}"

    return re.sub(r"(?m)^(?P<name>\w+) : (?P<kind>.*), default=.*$", line, section)
