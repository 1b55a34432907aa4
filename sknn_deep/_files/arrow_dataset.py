"""Arrow datasets and Parquet files, read part by part.

A Parquet file is read row group by row group, and each row group in batches: a dataset's own
scanner would decode whole row groups, and several ahead. Each batch is returned as a pandas frame.
"""

import importlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

# Rows that are decoded together.
_BATCH_ROWS = 2**15


class ArrowSource:
    """The rows of some columns of a dataset.

    Parameters
    ----------
    dataset : pyarrow.dataset.Dataset
    columns : list of str
        The columns to read.

    Attributes
    ----------
    lengths : list of int
        Number of rows of each part: a row group in Parquet, a file in other formats.
    """

    def __init__(self, dataset: Any, columns: list[str]):
        self._schema, self._columns = dataset.schema, columns
        self._fragments = list(_parts_of(dataset))
        self.lengths: Sequence[int] = [_n_rows(fragment) for fragment in self._fragments]

    def open(self, part: int) -> Iterator[Any]:
        """Yield the frames of a part."""
        for batch in self._batches(self._fragments[part], self._columns):
            yield _frame(batch)

    def column(self, name: str) -> np.ndarray:
        """Return all values of one column; equal strings share one object.

        Raises
        ------
        ValueError
            If a value is missing.
        """
        arrow: Any = importlib.import_module("pyarrow")
        parts = []
        for fragment in self._fragments:
            parts += [batch.column(0) for batch in self._batches(fragment, [name])]
        column = arrow.chunked_array(parts, self._schema.field(name).type)
        if column.null_count:
            raise ValueError(
                f"Column {name!r} has {column.null_count} missing values, and every row needs one; "
                "write the files without those rows."
            )
        values = column.to_pandas(deduplicate_objects=True)
        return values.to_numpy() if values.dtype.kind in "biuf" else values.to_numpy(dtype=object)

    def _batches(self, fragment: Any, columns: list[str]) -> Iterator[Any]:
        """Yield some columns of a part in record batches."""
        if not hasattr(fragment, "row_groups"):
            yield from fragment.to_batches(
                schema=self._schema,
                columns=columns,
                batch_size=_BATCH_ROWS,
                batch_readahead=1,
                fragment_readahead=1,
                use_threads=False,
            )
            return
        arrow: Any = importlib.import_module("pyarrow.dataset")
        # values that folder names define for all rows
        known = arrow.get_partition_keys(fragment.partition_expression)
        stored = [name for name in columns if name not in known]
        missing = [name for name in stored if name not in fragment.physical_schema.names]
        if missing:
            raise ValueError(
                f"{fragment.path} has no column {missing[0]!r}, which the first file has; write "
                f"all files with the same columns, or choose by columns=[...] those that all have."
            )
        types = [self._schema.field(name).type for name in columns]
        for rows in _stored_batches(fragment, stored):
            if rows.schema.names == columns and rows.schema.types == types:
                # without metadata, which would make pandas use some columns as an index
                yield rows.replace_schema_metadata(None)
                continue
            arrays = [
                rows.column(name) if name in stored else _repeated(known[name], len(rows))
                for name in columns
            ]
            cast = [self._cast(*column, fragment) for column in zip(columns, arrays, strict=True)]
            yield rows.from_arrays(cast, names=columns)

    def _cast(self, name: str, array: Any, fragment: Any) -> Any:
        """Return a column of a file, cast to its type in the dataset."""
        kind = self._schema.field(name).type
        try:
            return array.cast(kind)
        except (ValueError, NotImplementedError) as error:
            raise ValueError(
                f"Column {name!r} of {fragment.path} is of type {array.type} and cannot be read as "
                f"{kind}, which the first file has: {error}. Write all files with the same types, "
                "or pass pyarrow.dataset.dataset(..., schema=...) with those that are meant."
            ) from error


def _frame(batch: Any) -> Any:
    """Return a record batch as a pandas frame, in row-major order if all are floats of one type.

    This is the layout that a network reads. pandas' own conversion is column-major, and transposing
    took as long again (``python -m benchmarks.streams``).
    """
    kinds = {str(field.type) for field in batch.schema}
    if kinds not in ({"float"}, {"double"}) or any(array.null_count for array in batch.columns):
        return batch.to_pandas()
    rows = batch.to_tensor(row_major=True).to_numpy()
    return importlib.import_module("pandas").DataFrame(rows, columns=batch.schema.names, copy=False)


def _stored_batches(fragment: Any, columns: list[str]) -> Iterator[Any]:
    """Yield columns of a Parquet file's row groups, in record batches."""
    parquet: Any = importlib.import_module("pyarrow.parquet")
    groups = [group.id for group in fragment.row_groups]
    with fragment.filesystem.open_input_file(fragment.path) as file:
        yield from parquet.ParquetFile(file, metadata=fragment.metadata).iter_batches(
            batch_size=_BATCH_ROWS, row_groups=groups, columns=columns, use_threads=False
        )


def _repeated(value: Any, n_rows: int) -> Any:
    arrow: Any = importlib.import_module("pyarrow")
    return arrow.repeat(value, n_rows)


def _n_rows(fragment: Any) -> int:
    if hasattr(fragment, "row_groups"):
        return sum(group.num_rows for group in fragment.row_groups)
    return fragment.count_rows()


def open_dataset(source: Any) -> Any:
    """Return an Arrow dataset for a file, a folder or several files; a dataset is returned as is.

    Raises
    ------
    ImportError
        If pyarrow is not installed.
    FileNotFoundError
        If the file or folder does not exist, or the folder is empty.
    """
    try:
        arrow_dataset: Any = importlib.import_module("pyarrow.dataset")
    except ImportError as error:
        raise ImportError(
            "Parquet files and Arrow datasets are read by pyarrow, which is not installed: "
            "pip install pyarrow."
        ) from error
    if isinstance(source, arrow_dataset.Dataset):
        return source
    is_path = isinstance(source, str) or hasattr(source, "__fspath__")
    paths = source if is_path else [str(path) for path in source]
    try:
        dataset = arrow_dataset.dataset(paths, partitioning="hive")
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"There is no file or folder {str(error)!r}; pass a Parquet file, a folder of them, "
            "several files, or an Arrow dataset."
        ) from error
    if not dataset.files:
        raise FileNotFoundError(f"There is no file in {str(source)!r}; pass another folder.")
    return dataset


def _parts_of(dataset: Any) -> Iterator[Any]:
    """Yield the row groups of Parquet files, and other files as a whole."""
    for fragment in dataset.get_fragments():
        if hasattr(fragment, "split_by_row_group"):
            yield from fragment.split_by_row_group()
        else:
            yield fragment
