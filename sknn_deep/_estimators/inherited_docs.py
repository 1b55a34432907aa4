"""Docstrings of estimators that differ from another by their defaults.

The parameters are explained once, at the base; here the defaults are put into what it says.
"""

import inspect
import re
from collections.abc import Callable
from typing import TypeVar

C = TypeVar("C", bound=type)


def with_own_defaults(base: type) -> Callable[[C], C]:
    """Return a decorator that completes a class's docstring by the sections of its base's.

    The class's own docstring has the summary, and may have the sections that come after the
    attributes. Parameters, attributes and references are the base's, with the class's defaults.
    """

    def decorate(cls: C) -> C:
        own, sections = inspect.getdoc(cls) or "", _sections(inspect.getdoc(base) or "")
        head, *rest = re.split(r"\n(?=[A-Z][\w ]+\n-+\n)", own)
        parameters = _with_defaults(sections["Parameters"], cls)
        attributes = sections["Attributes"].replace(base.__name__, cls.__name__)
        parts = [head.strip(), parameters, attributes, *rest]
        cls.__doc__ = "\n\n".join(part.strip() for part in parts) + "\n"
        return cls

    return decorate


def _sections(doc: str) -> dict[str, str]:
    """Return the sections of a numpydoc docstring by their titles."""
    parts = re.split(r"\n(?=[A-Z][\w ]+\n-+\n)", doc)
    return {part.partition("\n")[0]: part for part in parts}


def _with_defaults(section: str, cls: type) -> str:
    """Return a section of parameters with the defaults of a class's signature."""
    defaults = inspect.signature(cls).parameters

    def line(match: re.Match[str]) -> str:
        name, kind = match["name"], match["kind"]
        value = defaults[name].default
        shown = f'"{value}"' if isinstance(value, str) else repr(value)
        return f"{name} : {kind}, default={shown}"

    return re.sub(r"(?m)^(?P<name>\w+) : (?P<kind>.*), default=.*$", line, section)
