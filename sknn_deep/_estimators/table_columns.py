"""The columns of a table: which hold categories, and how these are encoded.

A network reads numbers, so a table with strings and categories is converted to one matrix: numbers
as they are, NaN where they are missing, and a code for each category. Batches, validation sets,
memory-mapped files and fused searches therefore need no knowledge of tables; the network's input
layer interprets the codes (:class:`~sknn_deep._networks.table_input.TableInput`).

pandas reads the columns of any container, because it knows every kind of missing value.
"""

import importlib
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sknn_deep._engine.divided_rows import DividedTable
from sknn_deep._engine.streamed_table import StreamedTable
from sknn_deep._sklearn import check_feature_names_in
from sknn_deep._user_warnings import warn_user
from sknn_deep._wording import counted

# A text column with more numbers than this among its values was probably meant to be numeric.
_MANY_NUMBERS = 20
# In a column with more than _FEW_CATEGORIES, categories with fewer than _FEWEST_ROWS are left out.
_FEW_CATEGORIES, _FEWEST_ROWS = 9, 5


@dataclass(frozen=True)
class TableColumns:
    """What a fit has learned about the columns of X.

    Attributes
    ----------
    categories : dict of list
        For each column of categories, by number, its values in the order of their codes: strings,
        numbers, True and False. None comes last, if values were missing in training. In a column
        with many categories, those with fewer than five rows are left out.
    gaps : list of int
        Columns of numbers in which values were missing in training.
    """

    categories: dict[int, list[Any]]
    gaps: list[int]

    def encode(self, X: Any, dtype: np.dtype | type) -> np.ndarray:
        """Return numbers and codes, shape (n_rows, n_features).

        Values not in the training data have the code -1. Missing numbers are NaN.

        Raises
        ------
        ValueError
            If a column of numbers holds something else.
        """
        columns = list(named_columns(X))
        encoded = np.empty((len(X), len(columns)), dtype)
        for j, (name, column) in enumerate(columns):
            values = self.categories.get(j)
            with np.errstate(over="ignore"):  # infinite columns are refused later
                encoded[:, j] = _numbers(name, column) if values is None else _codes(column, values)
        return encoded

    def decode(self, numbers: np.ndarray, codes: np.ndarray) -> list[Any]:
        """Return the columns of a table, in their order; None stands for a missing category.

        Parameters
        ----------
        numbers : ndarray of shape (n_rows, n_numbers)
        codes : ndarray of shape (n_rows, n_categories)
            Codes of the columns of categories; -1 is decoded as missing.
        """
        of_numbers, of_codes = iter(numbers.T), iter(codes.T)
        columns: list[Any] = []
        for j in range(numbers.shape[1] + codes.shape[1]):
            if j in self.categories:
                values = [*self.categories[j], None]
                columns.append([values[code] for code in next(of_codes).tolist()])
            else:
                columns.append(next(of_numbers))
        return columns

    def n_categories(self) -> list[tuple[int, int]]:
        """Return each column of categories, and its number of categories."""
        return [(column, len(values)) for column, values in self.categories.items()]


def feature_names(estimator: Any, given: Any = None) -> list[str]:
    """Return the names of a fitted estimator's features; x0, x1 and so on if they have none.

    Parameters
    ----------
    estimator : estimator
    given : array-like of str, default=None
        Names for features that had none in training; otherwise they must equal those of the
        training data.
    """
    return [str(name) for name in check_feature_names_in(estimator, given)]


def as_table(columns: list[Any], names: np.ndarray | None, container: str, index: Any) -> Any:
    """Return columns as a frame, or as an object array if there are no names.

    Parameters
    ----------
    columns : list of sequence
    names : ndarray of str, or None
    container : str
        "polars"; anything else means pandas.
    index : Index or None
        Index of a pandas frame.

    Examples
    --------
    >>> from sknn_deep._estimators.table_columns import as_table
    >>> as_table([[1.5], ["red"]], None, "default", None)
    array([[1.5, 'red']], dtype=object)
    """
    if names is None:
        table = np.empty((len(columns[0]), len(columns)), dtype=object)
        for j, column in enumerate(columns):
            table[:, j] = column
        return table
    if container == "polars":
        polars: Any = importlib.import_module("polars")
        return polars.DataFrame(dict(zip(names.tolist(), columns, strict=True)))
    frame = pd.DataFrame({j: pd.Series(column) for j, column in enumerate(columns)})
    frame.columns = pd.Index(names)
    return frame if index is None else frame.set_axis(index, axis=0)


def learn_columns(X: Any, selection: Any) -> TableColumns | None:
    """Return what is learned about the columns of the training data; None if all hold numbers.

    Parameters
    ----------
    X : array-like, frame or StreamedTable
    selection : "from_dtype", array-like or None
        The parameter ``categorical_features``.

    Raises
    ------
    TypeError, ValueError
        If the selection names other columns than X has.
    """
    if isinstance(X, DividedTable):
        return _learn_together(X, selection)
    is_named, is_streamed = isinstance(selection, str), isinstance(X, StreamedTable)
    first = X.head if is_streamed else X
    if selection is None or (is_named and not _may_hold_text(first)):
        return None
    columns = list(named_columns(first))
    if is_named:
        chosen = [j for j, column in enumerate(columns) if _is_of_categories(*column)]
    else:
        chosen = _selected(selection, [name for name, _ in columns])
    if not chosen:
        return None
    counts = {j: Counter[Any]() for j in chosen}
    for chunk in X.chunks() if is_streamed else [X]:
        columns = columns if chunk is X else list(named_columns(chunk))
        for j, count in counts.items():
            _count(*columns[j], count)
    return _columns_of_counts(counts, [name for name, _ in columns], warns=is_named)


def _learn_together(X: DividedTable, selection: Any) -> TableColumns | None:
    """Do :func:`learn_columns` for rows that are divided between processes.

    A column with only missing values in one process gets the type that it has in the others.
    """
    ranks, is_named = X.ranks, isinstance(selection, str)
    chosen: list[int] = []
    columns: list[tuple[Any, pd.Series]] = []
    if selection is not None and not (is_named and not _may_hold_text(X.own)):
        columns = list(named_columns(X.own))
        if is_named:
            chosen = [j for j, column in enumerate(columns) if _is_of_categories(*column)]
        else:
            chosen = _selected(selection, [name for name, _ in columns])
    of_all = sorted(set().union(*ranks.collected(chosen)))
    if not of_all:
        return None
    columns = columns or list(named_columns(X.own))
    for j in set(of_all) - set(chosen):
        name, column = columns[j]
        if column.notna().any():
            raise ValueError(
                f"Column {name!r} of X holds texts in some partitions and in others "
                f"{column[column.notna()].iloc[0]!r}; convert it to one type, or name it in "
                "categorical_features."
            )
    counts = {j: Counter[Any]() for j in of_all}
    for j, own in counts.items():
        name, column = columns[j]
        _count(name, column, own)
    joined = {
        j: sum((found[j] for found in others), Counter[Any]())
        for others in [ranks.collected(counts)]
        for j in of_all
    }
    return _columns_of_counts(joined, [name for name, _ in columns], warns=is_named)


def _columns_of_counts(
    counts: dict[int, Counter[Any]], names: list[Any], warns: bool
) -> TableColumns:
    """Return the columns whose values have been counted."""
    if warns:
        for j, count in counts.items():
            _warn_of_numbers(names[j], [value for value in count if value is not None])
    return TableColumns({j: _categories(count) for j, count in counts.items()}, [])


def is_of_numbers(X: Any) -> bool:
    """Return whether X is a numeric array, or a frame with only numeric columns."""
    if isinstance(X, pd.DataFrame):
        return all(isinstance(d, np.dtype) and d.kind in "biuf" for d in X.dtypes)
    if _is_polars(X):
        return not _may_hold_text(X)
    return isinstance(X, np.ndarray) and X.dtype.kind in "biuf"


def names_of(X: Any) -> list[str] | None:
    """Return the names of a frame's columns; None if X is not a frame."""
    return list(map(str, X.columns)) if is_frame(X) else None


def _may_hold_text(X: Any) -> bool:
    """Return whether X is a frame or an array with columns that are not numeric."""
    if _is_polars(X):
        boolean = sys.modules["polars"].Boolean
        return not all(dtype.is_numeric() or dtype == boolean for dtype in X.dtypes)
    if isinstance(X, pd.DataFrame):
        return not all(getattr(dtype, "kind", "") in tuple("biuf") for dtype in X.dtypes)
    # in an array of strings, numbers are strings, too: scikit-learn refuses it
    return isinstance(X, np.ndarray) and X.ndim == 2 and X.dtype.kind == "O"


def named_columns(X: Any) -> Iterator[tuple[Any, pd.Series]]:
    """Yield the columns of a frame or an array, with their names or numbers."""
    if isinstance(X, pd.DataFrame):
        for j, name in enumerate(X.columns):  # by number: names may occur twice
            yield name, X.iloc[:, j]
    elif _is_polars(X):
        for column in X.get_columns():
            yield column.name, _from_polars(column)
    else:
        array = X if isinstance(X, np.ndarray) else np.asarray(X)
        if array.ndim != 2:
            raise ValueError(
                f"categorical_features needs X of shape (n_samples, n_features), got {array.shape}."
            )
        for j, column in enumerate(array.T):
            yield j, pd.Series(column)


def is_frame(X: Any) -> bool:
    """Return whether X is a frame of pandas or polars."""
    return isinstance(X, pd.DataFrame) or _is_polars(X)


def _is_polars(X: Any) -> bool:
    # if X is such a frame, its library has been imported
    return "polars" in sys.modules and isinstance(X, sys.modules["polars"].DataFrame)


def _from_polars(column: Any) -> pd.Series:
    polars = sys.modules["polars"]
    if column.dtype in (polars.Categorical, polars.Enum):
        column = column.cast(polars.String)
    values = column.to_numpy() if column.dtype != polars.Boolean else column.to_list()
    is_text = column.dtype == polars.String
    return pd.Series(values, dtype=object if is_text or column.dtype == polars.Boolean else None)


def _is_of_categories(name: Any, column: pd.Series) -> bool:
    """Return whether a column holds categories, by its type or by the values of an object column.

    Raises
    ------
    ValueError
        If an object column holds numbers and strings.
    """
    dtype = column.dtype
    if isinstance(dtype, pd.CategoricalDtype) or dtype.type is str:
        return True
    if isinstance(dtype, pd.ArrowDtype):
        return dtype.kind == "O" and dtype.type is pd.CategoricalDtype.type
    if dtype.kind != "O":
        return False
    kind = pd.api.types.infer_dtype(column, skipna=True)
    text = next((value for value in column if isinstance(value, str)), None)
    if kind.startswith("mixed") and text is not None:
        raise ValueError(
            f"could not convert string to float: {text!r}. Column {name!r} of X holds numbers, "
            f"too: write {text!r} as a number, or as NaN with allow_nan=True; or name the column "
            "in categorical_features."
        )
    return kind == "string"


def check_inputs(n_inputs: int) -> None:
    """Refuse a table that leaves a network without inputs."""
    if n_inputs == 0:
        raise ValueError(
            "X has nothing to learn from: in its columns of categories almost every value "
            "is unique, as in names and numbers of customers. Pass other features, too."
        )


def _selected(selection: Any, names: list[Any]) -> list[int]:
    """Return the indices of the columns selected by names, numbers or a mask."""
    items = np.asarray(selection, dtype=object).ravel().tolist()
    if all(isinstance(item, bool | np.bool_) for item in items) and items:
        if len(items) != len(names):
            raise ValueError(
                f"categorical_features is a mask of {counted(len(items), 'column')}, but X has "
                f"{len(names)}; pass True or False for each, or names or numbers of columns."
            )
        return [j for j, is_chosen in enumerate(items) if is_chosen]
    chosen = set()
    for item in items:
        if isinstance(item, int | np.integer) and not isinstance(item, bool):
            if not -len(names) <= item < len(names):
                raise ValueError(
                    f"categorical_features has {item}, but X has {counted(len(names), 'column')}; "
                    f"pass numbers from 0 to {len(names) - 1}."
                )
            chosen.add(int(item) % len(names))
        elif item in names:
            chosen.add(names.index(item))
        else:
            raise ValueError(
                f"categorical_features has {item!r}, which is not a column of X; it has {names}."
            )
    return sorted(chosen)


def _factorized(name: Any, column: pd.Series) -> tuple[np.ndarray, list[Any]]:
    """Return the index of each row's value, -1 where it is missing, and the distinct values."""
    try:
        numbers, values = pd.factorize(column)
    except TypeError:
        example = next(value for value in column if type(value).__hash__ is None)
        raise TypeError(
            f"Column {name!r} holds {example!r}, of {type(example).__name__}, which is neither a "
            "number nor a text; leave it out, or give numbers or texts in its place."
        ) from None
    return numbers, [_plain(value) for value in np.asarray(values, dtype=object).tolist()]


def _plain(value: Any) -> Any:
    """Return a value as it is stored in files: number, string or bool; others as strings."""
    if isinstance(value, np.generic):
        value = value.item()
    return value if isinstance(value, str | bool | int | float) else str(value)


def _count(name: Any, column: pd.Series, count: Counter[Any]) -> None:
    """Count the rows of each value of a column; None counts missing values."""
    numbers, values = _factorized(name, column)
    of_each = np.bincount(numbers + 1, minlength=len(values) + 1).tolist()
    for value, n_rows in zip([None, *values], of_each, strict=True):
        if n_rows:
            count[value] += n_rows


def _categories(count: Counter[Any]) -> list[Any]:
    """Return the values of a column in an order that does not depend on that of the rows."""
    values = [value for value in count if value is not None]
    if len(values) > _FEW_CATEGORIES:
        # the rarest have too few rows to learn from, and are all treated as unknown
        values = [value for value in values if count[value] >= _FEWEST_ROWS]
    values.sort(key=lambda value: (isinstance(value, str), value))
    return values + [None] * (None in count)


def _codes(column: pd.Series, categories: list[Any]) -> np.ndarray:
    """Return the code of each row; -1 for values that are not among the categories."""
    numbers, values = _factorized(column.name, column)
    code_of = {value: code for code, value in enumerate(categories)}
    # a missing value has index -1 and thus gets the last code
    codes = [code_of.get(value, -1) for value in [*values, None]]
    return np.array(codes)[numbers]


def _numbers(name: Any, column: pd.Series) -> np.ndarray:
    """Return a column of numbers, NaN where they are missing."""
    try:
        if column.dtype.kind == "c":
            raise TypeError("Complex data not supported.")
        if column.dtype.kind in "OU":
            pairs = zip(column, column.isna(), strict=True)
            column = pd.Series([np.nan if is_na else float(value) for value, is_na in pairs])
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    except (OverflowError, TypeError, ValueError) as error:
        raise ValueError(
            f"Column {name!r} should hold numbers, as in training: {error}. Convert it, or name "
            "it in categorical_features and fit again."
        ) from error


def _warn_of_numbers(name: Any, values: list[Any]) -> None:
    """Warn of a text column in which most values are numbers."""
    texts = [value for value in values if isinstance(value, str)]
    is_number = pd.to_numeric(pd.Series(texts, dtype=object), errors="coerce").notna()
    n_numbers = int(is_number.sum())
    if n_numbers <= max(_MANY_NUMBERS, len(values) // 2):
        return
    number = texts[int(is_number.argmax())]
    beside = "" if is_number.all() else f", beside {texts[int(is_number.argmin())]!r}"
    warn_user(
        f"Column {name!r} holds numbers as texts, such as {number!r}{beside}, and is treated as "
        f"{len(values)} categories. Convert it, for example by X[{name!r}] = "
        f'pd.to_numeric(X[{name!r}], errors="coerce") with allow_nan=True; '
        "or name it in categorical_features."
    )
