"""Docstrings of estimators that differ from their base only in their defaults.

The parameters are documented once, in the base; here the defaults are substituted.
"""

import inspect
import re
from collections.abc import Callable
from typing import TypeVar

C = TypeVar("C", bound=type)

_MERGED = ("Parameters", "Attributes", "References")
_ORDER = ("Parameters", "Attributes", "See Also", "Notes", "References", "Examples")


def with_own_defaults(base: type, more: str = "") -> Callable[[C], C]:
    """Return a decorator that adds the sections of a base's docstring to that of a class.

    Parameters
    ----------
    base : type
        Its parameters, attributes and references come first, with the class's own defaults.
    more : str
        Further sections, shared by several classes. "[new]" becomes the number of the first
        reference after those of the base.
    """

    def decorate(cls: C) -> C:
        if not base.__doc__:  # python -OO
            return cls
        head, own = _sections(inspect.getdoc(cls) or "")
        _, sections = _sections(inspect.getdoc(base) or "")
        sections["Attributes"] = sections["Attributes"].replace(base.__name__, cls.__name__)
        n_references = sections["References"].count("\n.. [")
        _, further = _sections(more.replace("[new]", f"[{n_references + 1}]"))
        for title, section in {**further, **own}.items():
            if title in _MERGED:  # appended to those of the base, without the title
                _, _, entries = section.split("\n", 2)
                gap = "\n" if title == "References" else "\n\n"
                section = f"{sections[title].rstrip()}{gap}{entries}"
            sections[title] = section
        sections["Parameters"] = _with_defaults(sections["Parameters"], cls)
        parts = [head, *(sections[title] for title in _ORDER if title in sections)]
        cls.__doc__ = "\n\n".join(part.strip() for part in parts) + "\n"
        return cls

    return decorate


def second_paragraph(function: Callable) -> str:
    """Return the second paragraph of a function's docstring, if it has one."""
    return "".join((inspect.getdoc(function) or "").split("\n\n")[1:2])


def _sections(doc: str) -> tuple[str, dict[str, str]]:
    """Return the text above the sections of a numpydoc docstring, and the sections by title."""
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
