"""Values of X that are no numbers and that NumPy converts, or refuses, without naming them.

It makes of ``datetime64`` a count of nanoseconds, of NaT -9.2e18, and says of pandas' NA in a
column of objects only that ``float`` does not take it.
"""

import datetime
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

# pandas' Timestamp, Timedelta and NaT belong to these, too
_DATES = (
    np.datetime64,
    np.timedelta64,
    datetime.date,
    datetime.time,
    datetime.timedelta,
)
# as the types of pandas (Arrow's, too) and polars begin, in lower case
_TYPES_OF_DATES = ("date", "time", "duration", "period")


def refuse_not_numbers(estimator: Any, X: Any) -> None:
    """Raise a ValueError that names the column, if X holds dates, times, durations or pandas' NA.

    Parameters
    ----------
    estimator : estimator
        It is named in the message.
    X : array-like, sparse matrix or frame
        As given by the user. Whatever is no table of values is left for scikit-learn to refuse.
    """
    if getattr(getattr(X, "dtype", None), "kind", None) in ("b", "i", "u", "f"):
        return
    for value, place, remedy in _found(X):
        name = type(estimator).__name__
        raise ValueError(f"X holds {value} in {place}; {name} takes numbers only. {remedy}")


_NO_DATES = (
    "Leave dates out, or give numbers in their place that mean something to the task, such as "
    "the days since a date, the month or the hour."
)
_NO_NA = "Write missing values as NaN, by X.replace({pd.NA: np.nan}), or fill them in."


def _found(X: Any) -> Iterator[tuple[str, str, str]]:
    """Yield what is no number, where it is, and what to do."""
    if hasattr(X, "dtypes") and hasattr(X, "columns"):
        for position, (name, dtype) in enumerate(zip(X.columns, X.dtypes, strict=True)):
            # objects would be asked of categories, but NumPy makes integers of dates on the way
            categories = getattr(dtype, "categories", None)
            text = str(getattr(categories, "dtype", dtype))
            if text.lower().startswith(_TYPES_OF_DATES):
                yield text, f"column {name!r}", _NO_DATES
            elif text in ("object", "Object"):
                # by position, since names may occur twice; with iloc in pandas, without in polars
                column = getattr(X, "iloc", X)[:, [position]]
                yield from _among(np.asarray(column, dtype=object), [name])
        return
    if not hasattr(X, "dtype"):
        try:
            X = np.asarray(X)
        except (TypeError, ValueError):  # ragged, for example: scikit-learn says so
            return
    if isinstance(X, np.ndarray) and X.dtype.kind in "mM":
        yield str(X.dtype), "every column", _NO_DATES
    elif isinstance(X, np.ndarray) and X.dtype.kind == "O" and X.ndim == 2:
        yield from _among(X, range(X.shape[1]))


def _among(values: np.ndarray, names: Iterable[Any]) -> Iterator[tuple[str, str, str]]:
    """Do the same for objects of shape (n_samples, number of names)."""
    for name, column in zip(names, values.T, strict=True):
        for row, value in enumerate(column):
            if isinstance(value, _DATES):
                yield repr(value), f"column {name!r}, row {row}", _NO_DATES
            elif type(value).__name__ == "NAType":
                yield "pd.NA", f"column {name!r}, row {row}", _NO_NA
