"""Data that do not fit into memory: tables read in chunks while a network trains.

Each function returns a :class:`Stream` of X, y and sample weights. X is a :class:`StreamedTable`,
which takes the place of an array in ``fit``, ``partial_fit``, ``predict``, ``transform`` and
``score`` of the estimators; y and the weights are in memory::

    from sknn_deep.streams import stream_parquet

    X, y, _ = stream_parquet("sales/", target="price")
    TabularMLPRegressor().fit(X, y)

"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from sknn_deep._engine.streamed_table import StreamedTable
from sknn_deep._files.arrow_dataset import ArrowSource, open_dataset
from sknn_deep._sklearn import num_samples
from sknn_deep._wording import counted

__all__ = ["Stream", "StreamedTable", "stream_array", "stream_chunks", "stream_parquet"]


class Stream(NamedTuple):
    """Arguments of ``fit`` for a table that is read in chunks: ``estimator.fit(*stream)``.

    Parameters
    ----------
    X : StreamedTable of shape (n_samples, n_features)
        The features, which are read when they are needed.

    y : ndarray of shape (n_samples,) or (n_samples, n_outputs), default=None
        The targets, in memory.

    sample_weight : ndarray of shape (n_samples,), default=None
        The weights, in memory.
    """

    X: StreamedTable
    y: np.ndarray | None = None
    sample_weight: np.ndarray | None = None


def stream_parquet(
    source: Any,
    *,
    target: str | Sequence[str] | None = None,
    sample_weight: str | None = None,
    columns: Sequence[str] | None = None,
    window: int = 100_000,
) -> Stream:
    """Read Parquet files, or any other Arrow dataset, while a network trains.

    The row groups are read in a new random order in each epoch, so the files need not be shuffled
    beforehand; row groups should have fewer rows than the window. Needs pyarrow.

    Parameters
    ----------
    source : path, sequence of paths or pyarrow.dataset.Dataset
        A Parquet file, a folder of such files (also partitioned, with names such as "year=2026/"),
        several files, or a dataset of any format and storage.

    target : str or sequence of str, default=None
        The column or columns of y. None for an autoencoder.

    sample_weight : str, default=None
        The column of the weights.

    columns : sequence of str, default=None
        The columns of X; None for all but those of y and the weights.

    window : int, default=100_000
        Number of rows that are shuffled together. Twice as many are in memory, in the
        network's floating-point type. A larger window mixes better; a table that fits into one
        window is read once and kept.

    Returns
    -------
    stream : Stream

    Raises
    ------
    ImportError
        If pyarrow is not installed.
    FileNotFoundError
        If there is no such file or folder.
    ValueError
        If there is no such column, or a target or weight is missing.

    Examples
    --------
    >>> import tempfile
    >>> import pandas as pd
    >>> from sknn_deep import TabularMLPClassifier
    >>> from sknn_deep.streams import stream_parquet
    >>> frame = pd.DataFrame({"x": [1.0, 2.0, None, 8.0] * 50, "kind": list("aabb") * 50})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for number in range(3):
    ...         frame.to_parquet(f"{folder}/{number}.parquet", row_group_size=100)
    ...     X, y, _ = stream_parquet(folder, target="kind", window=200)
    ...     classifier = TabularMLPClassifier(n_networks=1, random_state=0).fit(X, y)
    ...     X.shape, classifier.score(X, y) > 0.7
    ((600, 1), True)
    """
    dataset = open_dataset(source)
    targets = [target] if isinstance(target, str) else list(target or [])
    others = {*targets, *([] if sample_weight is None else [sample_weight])}
    if columns is None:
        columns = [name for name in dataset.schema.names if name not in others]
    unknown = [name for name in [*columns, *others] if name not in dataset.schema.names]
    if unknown:
        raise ValueError(f"There is no column {unknown[0]!r}; there are {dataset.schema.names}.")
    table = ArrowSource(dataset, list(columns))
    of_targets = [table.column(name) for name in targets]
    y = None if target is None else np.stack(of_targets, axis=1)
    if isinstance(target, str):
        y = of_targets[0]
    weight = None if sample_weight is None else table.column(sample_weight)
    return Stream(StreamedTable(table, window=_checked(window)), y, weight)


def stream_chunks(source: Any, *, window: int = 100_000) -> Stream:
    """Read chunks of rows from your own code while a network trains.

    Parameters
    ----------
    source : iterable, sequence or callable
        Yields the chunks: ``(X, y)``, ``(X, y, sample_weight)``, or X alone for an autoencoder.
        Each X is an array, a sparse matrix or a DataFrame. The source is iterated over several
        times, so it must be an object with ``__iter__`` or a function that returns an iterator,
        such as a generator function, and it must yield the same chunks each time. The chunks of a
        sequence, with ``__len__`` and ``__getitem__``, are read in a new random order in each
        epoch; other sources keep their order, so their rows should be shuffled beforehand.

        It is called in a separate thread during training, sometimes while another of its iterators
        is open.

    window : int, default=100_000
        Number of rows that are shuffled together. Twice as many are in memory, in the
        network's floating-point type. A larger window mixes better; a table that fits into one
        window is read once and kept.

    Returns
    -------
    stream : Stream

    Raises
    ------
    TypeError
        If the source can be iterated over only once.
    ValueError
        If its chunks differ in structure, or have no rows.

    Examples
    --------
    >>> import numpy as np
    >>> from sknn_deep import DeepMLPRegressor
    >>> from sknn_deep.streams import stream_chunks
    >>> def days():
    ...     for day in range(20):
    ...         X = np.random.RandomState(day).rand(100, 3)
    ...         yield X, X.sum(axis=1)
    >>> X, y, _ = stream_chunks(days, window=500)
    >>> X
    <StreamedTable of 2,000 rows and 3 columns, window=500>
    >>> options = {"learning_rate": "one_cycle", "learning_rate_init": 0.01, "random_state": 0}
    >>> regressor = DeepMLPRegressor(max_iter=20, **options)
    >>> regressor.fit(X, y).score(X, y) > 0.9
    True
    """
    own: _Sequence | _Iterable
    if hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        own = _Sequence(source)
    else:
        if not callable(source) and iter(source) is source:
            raise TypeError(
                f"The source must yield its chunks more than once, and {source!r} can be gone "
                "through only once. Pass the function that makes it instead of what it returns, "
                "or an object whose __iter__ begins anew."
            )
        own = _Iterable(source)
    given = [(X.shape[0], *map(np.asarray, others)) for X, *others in own.all_chunks()]
    if not given:
        raise ValueError("The source yields no chunks.")
    if len({len(parts) for parts in given}) > 1:
        raise ValueError(
            "Some chunks have targets or weights and others have none; yield (X, y) or "
            "(X, y, sample_weight) each time, or X alone."
        )
    n_rows, *others = zip(*given, strict=True)
    own.set_lengths(n_rows)
    table = StreamedTable(own, window=_checked(window))
    return Stream(table, *map(np.concatenate, others))


def stream_array(
    X: Any, y: Any = None, sample_weight: Any = None, *, chunk: int = 10_000, window: int = 100_000
) -> Stream:
    """Read an array that is not in memory, such as a Zarr, HDF5 or Dask array.

    A NumPy memory map needs no stream: pass it to ``fit`` as it is.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Has a ``shape`` and returns rows for a slice.

    y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
        The targets, which are read into memory.

    sample_weight : array-like of shape (n_samples,), default=None
        The weights, which are read into memory.

    chunk : int, default=10_000
        Number of rows that are read at once: best the array's own chunk size, or a multiple of
        it. Chunks are read in a new random order in each epoch.

    window : int, default=100_000
        Number of rows that are shuffled together. Twice as many are in memory, in the
        network's floating-point type.

    Returns
    -------
    stream : Stream

    Examples
    --------
    >>> import numpy as np
    >>> from sknn_deep import AutoencoderTransformer
    >>> from sknn_deep.streams import stream_array
    >>> array = np.random.RandomState(0).rand(1000, 5)  # stands for one of Zarr
    >>> X = stream_array(array, chunk=100, window=300).X
    >>> autoencoder = AutoencoderTransformer(2, learning_rate="cosine", max_iter=5, random_state=0)
    >>> autoencoder.fit_transform(X).shape
    (1000, 2)
    """
    if len(getattr(X, "shape", ())) != 2:
        raise ValueError(
            "X must have a shape of two numbers, rows and features, and give rows for a slice; got "
            f"{type(X).__name__} of shape {getattr(X, 'shape', None)}."
        )
    table = StreamedTable(_Array(X, _checked(chunk, "chunk")), window=_checked(window))
    y, sample_weight = (None if part is None else np.asarray(part) for part in (y, sample_weight))
    return Stream(table, y, sample_weight)


class _Sequence:
    """Chunks with random access by number."""

    lengths: Sequence[int]

    def __init__(self, source: Any):
        self._source = source

    def all_chunks(self) -> Iterator[tuple[Any, ...]]:
        return (_checked_chunk(self._source[number]) for number in range(len(self._source)))

    def set_lengths(self, n_rows: Sequence[int]) -> None:
        self.lengths = n_rows

    def open(self, part: int) -> Iterator[Any]:
        yield _checked_chunk(self._source[part])[0]


class _Iterable:
    """Chunks in a fixed order."""

    lengths: Sequence[int]

    def __init__(self, source: Any):
        self._source = source

    def all_chunks(self) -> Iterator[tuple[Any, ...]]:
        return map(_checked_chunk, self._source() if callable(self._source) else self._source)

    def set_lengths(self, n_rows: Sequence[int]) -> None:
        self.lengths = [sum(n_rows)]

    def open(self, part: int) -> Iterator[Any]:
        return (X for X, *_ in self.all_chunks())


class _Array:
    """An array that returns rows for a slice."""

    def __init__(self, X: Any, n_rows: int):
        self._X, self._n_rows = X, n_rows
        n_whole, n_last = divmod(int(X.shape[0]), n_rows)
        self.lengths = [n_rows] * n_whole + [n_last] * (n_last > 0)

    def open(self, part: int) -> Iterator[Any]:
        yield np.asarray(self._X[part * self._n_rows : (part + 1) * self._n_rows])


def _checked_chunk(chunk: Any) -> tuple[Any, ...]:
    """Return X, y and weights from a chunk that a source yields."""
    X, *others = chunk if isinstance(chunk, tuple) else (chunk,)
    if len(others) > 2:
        raise ValueError(
            f"A chunk is X, (X, y) or (X, y, sample_weight), got a tuple of {len(others) + 1}."
        )
    X = X if hasattr(X, "shape") else np.asarray(X)
    for name, part in zip(("y", "sample_weight"), others, strict=False):
        if num_samples(part) != X.shape[0]:
            raise ValueError(
                f"A chunk has {counted(X.shape[0], 'row')} of X and {num_samples(part)} of {name}; "
                "they must be as many."
            )
    return X, *others


def _checked(n_rows: int, name: str = "window") -> int:
    if not isinstance(n_rows, int | np.integer) or n_rows < 1:
        raise ValueError(f"{name}={n_rows!r} must be a number of rows, 1 or more.")
    return int(n_rows)
