"""Refuses dates, durations, lists and the like in X, and missing targets, naming the column or row.

NumPy would convert ``datetime64`` to a count of nanoseconds and NaT to -9.2e18. For lists and
pandas' NA among objects it raises an error that names neither the column nor the row.
"""

import datetime
import reprlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

# pandas' Timestamp, Timedelta and NaT are instances of these
_DATES = (
    np.datetime64,
    np.timedelta64,
    datetime.date,
    datetime.time,
    datetime.timedelta,
)
# prefixes, in lower case, of the type names of pandas (including Arrow's) and polars
_TYPES_OF_DATES = ("date", "time", "duration", "period")
_TYPES_OF_PARTS = ("array", "binary", "interval", "list", "struct")
# Remedies.
_NO_DATES = (
    "Leave dates out, or replace them by numbers that are meaningful for the task, such as "
    "the days since a date, the month or the hour."
)
_NO_NA = "Fill in what is missing, or set allow_nan=True."
_NO_PARTS = "Leave the column out, or write its parts as columns of numbers or texts."


class _Found(NamedTuple):
    """A value or column that is not numeric.

    Attributes
    ----------
    value : str
    place : str
        Its column, and the row where that is known.
    remedy : str
    numpys : str
        NumPy's TypeError message for such values; empty for those that it would convert.
    """

    value: str
    place: str
    remedy: str
    numpys: str = ""


def refuse_types(X: Any) -> None:
    """Raise an error that names the first column of X whose type is neither numeric nor text.

    Parameters
    ----------
    X : array-like, sparse matrix or frame
        As given by the user. Anything that is not a table of values is left for scikit-learn to
        refuse.

    Raises
    ------
    ValueError
        For dates, times, durations, intervals, lists and the like.
    TypeError
        For a lazy frame of polars, which has no rows.
    """
    if type(X).__name__ == "LazyFrame":
        raise TypeError("X is a LazyFrame, which has no rows yet; pass X.collect().")
    _refuse_first(_types_found(X))


def refuse_not_numbers(estimator: Any, X: Any) -> None:
    """Like :func:`refuse_types`, but also check the values of object columns.

    Parameters
    ----------
    estimator : estimator
        An estimator of this package may have columns of categories and accept missing values.
    X : array-like, sparse matrix or frame

    Raises
    ------
    ValueError, TypeError
        The latter for values for which NumPy raises it, such as a dict.
    """
    refuse_types(X)
    if _is_of_numbers(X):
        return
    columns = vars(estimator).get("_columns")
    of_categories = set() if columns is None else set(columns.categories)
    may_miss = getattr(estimator, "_ensure_all_finite", True) == "allow-nan"
    for position, name, column in _object_columns(X):
        is_of_categories = position in of_categories
        _refuse_first(_values_found(column, name, is_of_categories, may_miss or is_of_categories))


def nan_for_na(X: Any) -> Any:
    """Return X with NaN in place of pandas' NA and None in columns of objects."""
    if isinstance(X, pd.DataFrame):
        objects = [j for j, dtype in enumerate(X.dtypes) if dtype == np.dtype(object)]
        given, X = X, X.copy(deep=False) if objects else X
        for j in objects:  # by position, since names may occur twice
            X.isetitem(j, nan_for_na(given.iloc[:, j].to_numpy()))
    elif isinstance(X, np.ndarray) and X.dtype.kind == "O":
        X = np.where(pd.isna(X), np.nan, X)
    return X


def _is_of_numbers(X: Any) -> bool:
    kind = getattr(getattr(X, "dtype", None), "kind", None)
    return kind in ("b", "i", "u", "f") or isinstance(X, torch.Tensor)


def _is_frame(X: Any) -> bool:
    return hasattr(X, "dtypes") and hasattr(X, "columns")


def _other_columns(X: Any) -> Iterator[tuple[int, Any, str, bool]]:
    """Yield position, name and type of each column of a frame whose type is not one of numbers.

    The last value says whether a column is categorical; its type is then that of its categories,
    because NumPy would convert dates to integers.
    """
    for position, dtype in enumerate(X.dtypes):
        if getattr(dtype, "kind", "") not in ("b", "i", "u", "f"):  # polars' types have no kind
            categories = getattr(dtype, "categories", None)
            text = str(getattr(categories, "dtype", dtype))
            yield position, X.columns[position], text, categories is not None


def _refuse_first(found: Iterator[_Found]) -> None:
    first = next(found, None)
    if first is not None:
        message = f"X holds {first.value} in {first.place}, which is no number. {first.remedy}"
        raise ValueError(message) if not first.numpys else TypeError(f"{first.numpys}: {message}")


def _types_found(X: Any) -> Iterator[_Found]:
    """Yield each column whose type is not numeric, text or object."""
    if _is_frame(X):
        for _, name, text, is_categorical in _other_columns(X):
            if text.lower().startswith(_TYPES_OF_DATES):
                yield _Found(text, f"column {name!r}", _NO_DATES)
            elif not is_categorical and text.lower().startswith(_TYPES_OF_PARTS):
                yield _Found(text, f"column {name!r}", _NO_PARTS)
    elif isinstance(X, np.ndarray) and X.dtype.kind in "mM":
        yield _Found(str(X.dtype), "every column", _NO_DATES)


def _object_columns(X: Any) -> Iterator[tuple[int, Any, np.ndarray]]:
    """Yield position, name and values of each column of objects."""
    if _is_frame(X):
        for position, name, text, _ in _other_columns(X):
            if text in ("object", "Object"):
                # by position, since names may occur twice; with iloc in pandas, without in polars
                column = np.asarray(getattr(X, "iloc", X)[:, [position]], dtype=object)
                yield position, name, column[:, 0]
        return
    if not hasattr(X, "dtype"):
        try:
            X = np.asarray(X)
        except (TypeError, ValueError):  # ragged, for example: scikit-learn reports it
            return
        _refuse_first(_types_found(X))
    if isinstance(X, np.ndarray) and X.dtype.kind == "O" and X.ndim == 2:
        for position, column in enumerate(X.T):
            yield position, position, column


def _values_found(
    column: np.ndarray, name: Any, is_of_categories: bool, may_miss: bool
) -> Iterator[_Found]:
    """Yield each value of a column of objects, shape (n_samples,), that is no number.

    Among strings, and in columns known to hold categories, a missing value is a category.
    """
    is_of_texts = any(isinstance(value, str) for value in column)
    may_miss, may_have_parts = may_miss or is_of_texts, is_of_categories or is_of_texts
    for row, value in enumerate(column):
        place = f"column {name!r}, row {row}"
        if isinstance(value, _DATES):
            yield _Found(repr(value), place, _NO_DATES)
        elif type(value).__name__ == "NAType":
            if not may_miss:
                yield _Found("pd.NA", place, _NO_NA)
        elif not may_have_parts and not _may_be_number(value):
            kind = type(value).__name__
            numpys = f"float() argument must be a string or a real number, not {kind!r}"
            yield _Found(reprlib.repr(value), place, _NO_PARTS, numpys)


def _may_be_number(value: Any) -> bool:
    return value is None or (hasattr(value, "__float__") and not isinstance(value, np.ndarray))


def refuse_missing_targets(y: Any) -> None:
    """Raise a ValueError that names the row, if a target is None, NaN or NA among objects.

    scikit-learn reports NaN among numbers.

    Parameters
    ----------
    y : array-like
        As given by the user.
    """
    dtype = getattr(y, "dtype", None)
    if isinstance(y, list | tuple):
        try:
            y = np.asarray(y)
        except (TypeError, ValueError):  # ragged, for example: scikit-learn reports it
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
