"""Dates, durations and pandas' NA in X, and missing targets: refused by name.

NumPy would convert ``datetime64`` to a count of nanoseconds and NaT to -9.2e18. For pandas' NA in
a column of objects it raises an error that names neither the column nor the row.
"""

import datetime
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch

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
# What to do.
_NO_DATES = (
    "Leave dates out, or replace them by numbers that are meaningful for the task, such as "
    "the days since a date, the month or the hour."
)
_NO_NA = "Write missing values as NaN, by X.replace({pd.NA: np.nan}), or fill them in."


def refuse_not_numbers(estimator: Any, X: Any) -> None:
    """Raise a ValueError that names the column, if X holds dates, times, durations or pandas' NA.

    Parameters
    ----------
    estimator : estimator
        It may know which columns hold categories.
    X : array-like, sparse matrix or frame
        As given by the user. Whatever is no table of values is left for scikit-learn to refuse.
    """
    if getattr(getattr(X, "dtype", None), "kind", None) in ("b", "i", "u", "f"):
        return
    if isinstance(X, torch.Tensor):
        return
    columns = vars(estimator).get("_columns")
    found = next(_found(X, set() if columns is None else set(columns.categories)), None)
    if found is not None:
        value, place, remedy = found
        raise ValueError(f"X holds {value} in {place}, which is no number. {remedy}")


def _found(X: Any, of_categories: set[int]) -> Iterator[tuple[str, str, str]]:
    """Yield each non-number, its place, and what to do.

    Among texts, and in columns that are known to hold categories, a missing value is a category.
    """
    if hasattr(X, "dtypes") and hasattr(X, "columns"):
        for position, (name, dtype) in enumerate(zip(X.columns, X.dtypes, strict=True)):
            # of a categorical column the type of its categories: NumPy would make integers of dates
            categories = getattr(dtype, "categories", None)
            text = str(getattr(categories, "dtype", dtype))
            if text.lower().startswith(_TYPES_OF_DATES):
                yield text, f"column {name!r}", _NO_DATES
            elif text in ("object", "Object"):
                # by position, since names may occur twice; with iloc in pandas, without in polars
                column = np.asarray(getattr(X, "iloc", X)[:, [position]], dtype=object)
                yield from _among(column[:, 0], name, position in of_categories)
        return
    if not hasattr(X, "dtype"):
        try:
            X = np.asarray(X)
        except (TypeError, ValueError):  # ragged, for example: scikit-learn says so
            return
    if isinstance(X, np.ndarray) and X.dtype.kind in "mM":
        yield str(X.dtype), "every column", _NO_DATES
    elif isinstance(X, np.ndarray) and X.dtype.kind == "O" and X.ndim == 2:
        for position, column in enumerate(X.T):
            yield from _among(column, position, position in of_categories)


def _among(column: np.ndarray, name: Any, may_miss: bool) -> Iterator[tuple[str, str, str]]:
    """Yield the same for a column of objects, shape (n_samples,)."""
    may_miss = may_miss or any(isinstance(value, str) for value in column)
    for row, value in enumerate(column):
        if isinstance(value, _DATES):
            yield repr(value), f"column {name!r}, row {row}", _NO_DATES
        elif type(value).__name__ == "NAType" and not may_miss:
            yield "pd.NA", f"column {name!r}, row {row}", _NO_NA


def refuse_missing_targets(y: Any) -> None:
    """Raise a ValueError that names the row, if a target is None, NaN or NA among objects.

    Of NaN among numbers scikit-learn tells.

    Parameters
    ----------
    y : array-like
        As given by the user.
    """
    dtype = getattr(y, "dtype", None)
    if isinstance(y, list | tuple):
        try:
            y = np.asarray(y)
        except (TypeError, ValueError):  # ragged, for example: scikit-learn says so
            return
        dtype = y.dtype
    is_frame = isinstance(y, pd.DataFrame)
    if not is_frame and (dtype is None or isinstance(dtype, np.dtype) and dtype.kind != "O"):
        return
    missing = np.asarray(pd.isna(y))
    if missing.any():
        row = int(np.argwhere(missing)[0][0])
        raise ValueError(
            f"Input y contains NaN: there is no target in row {row}, and in "
            f"{np.count_nonzero(missing)} in all. Leave such rows out."
        )
