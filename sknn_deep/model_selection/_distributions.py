"""Stores SciPy distributions in the state of a search by name, since their own state holds code.

Unpickling a SciPy distribution executes a code template from its state. Files from untrusted
sources must not contain it, and skops does not write discrete distributions.
"""

from numbers import Real
from typing import Any

from scipy import stats


def named_distributions(state: dict[str, Any]) -> dict[str, Any]:
    """Return the state of a search with its distributions replaced by their names.

    Parameters
    ----------
    state : dict
        With ``param_distributions``, a dict or a list of dicts. Anything but a distribution of
        ``scipy.stats`` with numeric parameters is left unchanged.
    """
    given = state["param_distributions"]
    spaces = [given] if isinstance(given, dict) else given
    if not (isinstance(spaces, list) and all(isinstance(space, dict) for space in spaces)):
        return state  # invalid: the search reports it when it is fitted
    named = [
        (i, param, value.dist.name, value.args, value.kwds)
        for i, space in enumerate(spaces)
        for param, value in space.items()
        if _has_name(value)
    ]
    taken = {(i, param) for i, param, *_ in named}
    rest = [
        {param: None if (i, param) in taken else value for param, value in space.items()}
        for i, space in enumerate(spaces)
    ]
    others = rest[0] if isinstance(given, dict) else rest
    return {**state, "param_distributions": others, "_distributions": named}


def with_distributions(state: dict[str, Any]) -> dict[str, Any]:
    """Undo :func:`named_distributions`."""
    state = dict(state)
    given = state["param_distributions"]
    for i, param, name, args, kwds in state.pop("_distributions", ()):
        distribution = getattr(stats, name)
        if not isinstance(distribution, stats.rv_continuous | stats.rv_discrete):
            raise ValueError(f"{name!r} is no distribution of scipy.stats.")
        if not all(isinstance(number, Real) for number in (*args, *kwds.values())):
            raise ValueError(f"{args} and {kwds} are no numbers.")
        space = given if isinstance(given, dict) else given[i]
        space[param] = distribution(*args, **kwds)
    return state


def _has_name(value: Any) -> bool:
    """Return whether a value is a distribution of scipy.stats, frozen with numbers."""
    distribution = getattr(value, "dist", None)
    name = getattr(distribution, "name", None)
    return (
        isinstance(name, str)
        and type(getattr(stats, name, None)) is type(distribution)
        and all(isinstance(number, Real) for number in (*value.args, *value.kwds.values()))
    )
