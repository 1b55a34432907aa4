"""Dask arrays and frames: their partitions, and results that are computed lazily."""

import math
from typing import Any
from uuid import uuid4

import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import scipy.sparse as sp
from dask.base import is_dask_collection
from dask.delayed import Delayed

from sknn_deep._wording import counted


def is_collection(X: Any) -> bool:
    """Return whether X is an array or a frame of Dask."""
    return is_dask_collection(X) and not isinstance(X, Delayed)


def is_frame(X: Any) -> bool:
    """Return whether a collection is a frame or a series."""
    return not isinstance(X, da.Array)


def check_rows(name: str, X: Any) -> None:
    """Refuse anything but a two-dimensional Dask collection.

    Raises
    ------
    TypeError, ValueError
    """
    _check_collection(name, X)
    if X.ndim != 2:
        raise ValueError(
            f"{name} must have two dimensions, rows and features, got {X.ndim}; reshape it, as by "
            f"{name}.reshape(-1, 1) or {name}.to_frame()."
        )


def _check_collection(name: str, values: Any) -> None:
    if is_collection(values):
        return
    kind = f"{type(values).__module__.partition('.')[0]}'s {type(values).__name__}"
    remedy = "dask.array.from_array or dask.dataframe.from_pandas"
    if isinstance(values, Delayed) or _holds_delayed(values):
        kind, remedy = "delayed", "dask.array.from_delayed or dask.dataframe.from_delayed"
    raise TypeError(
        f"{name} must be an array or a DataFrame of Dask, got {kind}: make one by {remedy}, or use "
        "the estimator without Dask."
    )


def _holds_delayed(values: Any) -> bool:
    return isinstance(values, list | tuple) and any(isinstance(v, Delayed) for v in values)


def partitions(X: Any, columns: dict[str, Any], suffix: str = "") -> list[Delayed]:
    """Return the partitions of rows, each a dict of the given collections by argument name.

    Parameters
    ----------
    X : collection of shape (n_samples, n_features)
    columns : dict
        Targets and weights: collections with as many rows, or None.
    suffix : str, default=""
        Suffix of the argument names: "_val" for held-out rows.

    Raises
    ------
    TypeError, ValueError
        If they are not collections, or are partitioned differently from X.
    """
    check_rows(f"X{suffix}", X)
    if isinstance(X, da.Array):
        X = X.rechunk({1: -1})
    parts = {"X": X.to_delayed().ravel() if isinstance(X, da.Array) else X.to_delayed()}
    for name, values in columns.items():
        if values is not None:
            _check_collection(f"{name}{suffix}", values)
            parts[name] = _alike(f"{name}{suffix}", values, f"X{suffix}", X, len(parts["X"]))
    return [
        dask.delayed(dict)(dict(zip(parts, of_one, strict=True)))
        for of_one in zip(*parts.values(), strict=True)
    ]


def _alike(name: str, values: Any, name_of_x: str, X: Any, n_parts: int) -> list[Delayed]:
    """Return the partitions of targets or weights that correspond to those of X."""
    if isinstance(values, da.Array):
        if values.ndim > 1:
            values = values.rechunk({1: -1})
        if isinstance(X, da.Array) and values.chunks[0] != X.chunks[0]:
            values = _rechunked(name, values, name_of_x, X)
    found = values.to_delayed()
    found = list(found.ravel()) if isinstance(values, da.Array) else list(found)
    if len(found) != n_parts:
        raise ValueError(
            f"{name_of_x} has {counted(n_parts, 'partition')}, but {name} has {len(found)}: divide "
            "both alike, such as by repartition, or by compute_chunk_sizes() and rechunk."
        )
    return found


def _rechunked(name: str, values: Any, name_of_x: str, X: Any) -> Any:
    """Return an array with the chunks of X, if all lengths are known."""
    lengths = X.chunks[0], values.chunks[0]
    if any(math.isnan(length) for chunks in lengths for length in chunks):
        return values  # each worker compares the lengths of its partitions
    if X.shape[0] != values.shape[0]:
        raise ValueError(
            f"{name_of_x} has {counted(X.shape[0], 'row')}, but {name} has {values.shape[0]}; pass "
            "one of each."
        )
    return values.rechunk({0: X.chunks[0]})


# ------------------------------------------------------------------ lazy results


def mapped(estimator: Any, method: str, X: Any, options: dict[str, Any]) -> Any:
    """Apply a method of an estimator to rows; return the result as a lazy collection.

    Parameters
    ----------
    estimator : estimator
        Fitted, without Dask.
    method : str
    X : collection of shape (n_samples, n_features)
    options : dict
        Further arguments.

    Returns
    -------
    result : Array or DataFrame, or a tuple of arrays
        With X's chunks; for a frame, their lengths are unknown.
    """
    check_rows("X", X)
    example = getattr(estimator, method)(_example(X), **options)
    # a single object in the graph, which Dask does not hash
    kept = dask.delayed(estimator, name=f"{type(estimator).__name__}-{uuid4().hex}", traverse=False)
    if isinstance(example, tuple):
        return tuple(
            _array(_Rows(method, options, part, i), kept, X) for i, part in enumerate(example)
        )
    apply = _Rows(method, options, example)
    if isinstance(example, np.ndarray):
        return _array(apply, kept, X)
    if is_frame(X):
        return X.map_partitions(apply, kept, meta=example.iloc[:0])
    later, parts = dask.delayed(apply, pure=False), X.rechunk({1: -1}).to_delayed().ravel()
    return dd.from_delayed([later(part, kept) for part in parts], meta=example.iloc[:0])


def _example(X: Any) -> Any:
    """Return a row with the columns and types of X."""
    meta = X._meta
    if is_frame(X):
        return X._meta_nonempty.iloc[:1]
    if sp.issparse(meta):
        return sp.csr_matrix((1, X.shape[1]), dtype=X.dtype)
    return np.zeros((1, X.shape[1]), dtype=X.dtype)


class _Rows:
    """Calls a method for a partition; an empty partition has an empty result."""

    def __init__(
        self, method: str, options: dict[str, Any], example: Any, number: int | None = None
    ):
        self.method, self.options, self.number = method, options, number
        self.example = example[:0]
        self.__name__ = method  # Dask names the result after it

    def __call__(self, rows: Any, estimator: Any) -> Any:
        if rows.shape[0] == 0:
            return self.example
        result = getattr(estimator, self.method)(rows, **self.options)
        if isinstance(self.example, pd.DataFrame):  # a partition may have no strings
            return result.astype(self.example.dtypes)
        return result if self.number is None else result[self.number]

    def __dask_tokenize__(self) -> Any:
        return self.method, sorted(self.options.items()), self.number


def _array(apply: _Rows, estimator: Delayed, X: Any) -> da.Array:
    """Return the results for all partitions as one array."""
    example = apply.example
    if is_frame(X):
        shape, later = (np.nan, *example.shape[1:]), dask.delayed(apply, pure=False)
        parts = [
            da.from_delayed(later(part, estimator), shape, dtype=example.dtype, meta=example)
            for part in X.to_delayed()
        ]
        return da.concatenate(parts, allow_unknown_chunksizes=True)
    X = X.rechunk({1: -1})
    n_axes = example.ndim
    return da.map_blocks(
        apply,
        X,
        estimator,
        dtype=example.dtype,
        chunks=(X.chunks[0], *((length,) for length in example.shape[1:])),
        drop_axis=1 if n_axes == 1 else None,
        new_axis=list(range(2, n_axes)) or None,
        meta=example,
    )


def computed(*values: Any) -> tuple[Any, ...]:
    """Compute collections, with series as arrays; return other values unchanged."""
    found = dask.compute(*values)
    return tuple(v.to_numpy() if isinstance(v, pd.Series | pd.DataFrame) else v for v in found)
