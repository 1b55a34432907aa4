"""Validates X as scikit-learn does, and wraps it as features.

Small data go through scikit-learn's ``validate_data`` and come back as an array or a CSR matrix.
It would copy large data. So for data that are read in place, memory maps and columns, scikit-learn
checks names and shape, and the numbers are checked here. The same holds for a table that is read in
chunks, of which scikit-learn checks the first rows.
"""

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from sklearn import get_config
from sklearn.utils import assert_all_finite, check_array, check_X_y
from sklearn.utils.validation import check_consistent_length, check_is_fitted, validate_data

from sknn_deep._engine.columns import ColumnRows
from sknn_deep._engine.device_rows import DeviceRows
from sknn_deep._engine.divided_rows import DividedRows, DividedTable
from sknn_deep._engine.features import ArrayRows, Features, MappedRows, SparseRows, features_of
from sknn_deep._engine.streamed_rows import StreamedRows
from sknn_deep._engine.streamed_table import StreamedTable
from sknn_deep._estimators.column_statistics import ROWS_TO_LOOK_AT, warn_of_coarse
from sknn_deep._estimators.not_numbers import nan_for_na, refuse_not_numbers, refuse_types
from sknn_deep._estimators.table_columns import (
    TableColumns,
    feature_names,
    is_of_numbers,
    names_of,
)
from sknn_deep._hardware.device import as_tensor, numpy_dtype, torch_dtype
from sknn_deep._hardware.memory_maps import Mapped, is_large_map
from sknn_deep._sklearn import check_target
from sknn_deep._wording import counted

# Checking fewer numbers is no faster on several threads than on one, and copying fewer takes no
# time.
_MANY_NUMBERS = 2**20

# Larger numbers indicate a table that was not scaled.
_LARGE = 1e9

# A type checker cannot know that ``*y`` is one argument at most.
_validate_data: Any = validate_data


def to_train_on(
    estimator: Any, X: Any, *y: Any, dtypes: list[type], reset: bool, **options: Any
) -> Any:
    """Return the features for training or validation, and y if it is given.

    They are fast to read in every epoch: columns are copied into rows, unless they are too large.

    Parameters
    ----------
    estimator : estimator
        Its ``n_features_in_`` and ``feature_names_in_`` are set or compared.
    X, *y
        As given by the user.
    dtypes : list of type
        Accepted types of X; others are converted to the first.
    reset : bool
        Whether the names and the number of features are learned.
    **options
        See ``validate_data``.
    """
    if isinstance(X, Features):  # already validated by an ensemble
        if reset:
            _validate_data(estimator, X, *y, reset=True, skip_check_array=True)
            estimator._columns = X.columns
        return (X, *y) if y else X
    if reset:
        refuse_types(_example(X))
        if not isinstance(estimator.categorical_features, str | None):
            X = _on_host(X)
        estimator._columns = estimator._learn_columns(X)
    refuse_not_numbers(estimator, _example(X))
    features, *targets = _validated(estimator, X, *y, dtypes=dtypes, reset=reset, **options)
    if reset:
        estimator._columns = estimator._learn_gaps(features)
        features.columns = estimator._columns
        if estimator.scaling is not None:
            _warn_of_coarse_columns(estimator, features)
    return (features, *targets) if y else features


def _validated(
    estimator: Any, X: Any, *y: Any, dtypes: list[type], reset: bool, **options: Any
) -> tuple:
    """Return features for training, and y if it is given."""
    if isinstance(X, StreamedTable):
        return _streamed(estimator, X, *y, dtypes=dtypes, reset=reset, **options)
    if isinstance(X, DividedTable):
        return _divided(estimator, X, *y, dtypes=dtypes, reset=reset, **options)
    if has_categories(estimator):
        return _of_table(estimator, X, *y, dtypes=dtypes, reset=reset, **options)
    features = _where_it_is(X, dtypes)
    if features is None:
        return _by_scikit_learn(estimator, X, *y, dtypes=dtypes, reset=reset, **options)
    targets = _check_but_the_numbers(estimator, features, X, *y, reset=reset, **options)
    features = features.in_rows()
    _check_numbers(estimator, features)
    return features, *targets


def _warn_of_coarse_columns(estimator: Any, features: Features) -> None:
    """Warn of columns that single precision rounds to few values."""
    n_rows, n_features = features.shape
    if features.kind == SparseRows.kind or features.is_streamed or features.gives_tensors:
        return
    some = features.take(np.arange(0, n_rows, -(-n_rows // ROWS_TO_LOOK_AT)))
    columns = vars(estimator)["_columns"]
    of_numbers = [j for j in range(n_features) if columns is None or j not in columns.categories]
    names = feature_names(estimator)
    warn_of_coarse(np.asarray(some)[:, of_numbers], [f"Column {names[j]!r}" for j in of_numbers])


def has_categories(estimator: Any) -> bool:
    """Return whether some columns of X are known to hold categories."""
    columns = vars(estimator).get("_columns")
    return columns is not None and bool(columns.categories)


def to_predict(estimator: Any, X: Any, *, check_later: bool = False) -> Features:
    """Return the features of rows to predict, in the type of the fitted network.

    With ``check_later`` they may have a ``check`` that has to be called if the sums of the first
    layer are not finite. On a device, that would mean waiting for these sums.
    """
    if isinstance(X, Features):  # training or validation rows passed on by a scorer
        return X
    dtype = _dtype_to_read(estimator, X)
    if dtype is not None:  # all that is left to do for an ordinary array
        X = X.astype(dtype, order="C", copy=False)
        rows = ArrayRows(X)
        if check_later and _module_of(estimator).flat.device.type == "cpu":
            rows.check = partial(_check_finite, estimator, X)
        else:
            _check_finite(estimator, X)
        return rows
    check_is_fitted(estimator)
    refuse_not_numbers(estimator, _example(X))
    dtypes = [estimator._network_dtype]
    if isinstance(X, StreamedTable):
        return _streamed(estimator, X, dtypes=dtypes, reset=False)[0]
    if has_categories(estimator):
        return _of_table(estimator, X, dtypes=dtypes, reset=False)[0]
    features = _where_it_is(X, dtypes)
    if features is None:
        return _by_scikit_learn(estimator, X, dtypes=dtypes, reset=False)[0]
    features.gives_tensors = isinstance(features, DeviceRows)
    _check_but_the_numbers(estimator, features, X, reset=False)
    _check_numbers(estimator, features)
    return features


def to_decode(estimator: Any, X: Any) -> Features:
    """Return codes to decode, in the type of the fitted network."""
    dtype = estimator._network_dtype
    features = _where_it_is(X, [dtype]) if isinstance(X, torch.Tensor) else None
    if not isinstance(features, DeviceRows):
        return features_of(check_array(X, dtype=dtype, order="C", input_name="X"))
    features.gives_tensors = True
    if not get_config()["assume_finite"] and not features.is_known(allow_nan=False):
        assert_all_finite(np.asarray(features), input_name="X")
    return features


def _module_of(estimator: Any) -> Any:
    """Return the network of a fitted estimator, or the first of an ensemble; None if not fitted."""
    known = vars(estimator)
    if "estimators_" in known:
        known = vars(known["estimators_"][0])
    return known.get("module_")


def _dtype_to_read(estimator: Any, X: Any) -> np.dtype | type | None:
    """Return the fitted network's type, if X is an array in memory that NumPy may convert to it.

    None if scikit-learn or other code has to validate X.
    """
    if type(X) is not np.ndarray or X.ndim != 2 or len(X) == 0:
        return None
    # for a single row every look-up matters: a failing one takes as long as a small layer
    known, module = vars(estimator), _module_of(estimator)
    columns = known.get("_columns")
    if (
        module is None
        or X.shape[1] != known["n_features_in_"]
        or "feature_names_in_" in known
        or (columns is not None and columns.categories)
        or is_large_map(X)
    ):
        return None
    dtype = numpy_dtype(module.flat.dtype)
    is_read_as_it_is = X.dtype == dtype and X.flags.c_contiguous
    may_be_copied = X.dtype.kind in "iuf" and X.size < _MANY_NUMBERS
    return dtype if is_read_as_it_is or may_be_copied else None


def _of_table(
    estimator: Any, X: Any, *y: Any, dtypes: list[type], reset: bool, **options: Any
) -> tuple:
    """Return numbers and category codes of a table as one matrix."""
    if not hasattr(X, "columns"):
        X = np.asarray(_on_host(X))
    _validate_data(estimator, X, *y, reset=reset, skip_check_array=True)
    features = ArrayRows(estimator._columns.encode(X, _chosen(dtypes, None)))
    targets = _check_but_the_numbers(estimator, features, X, *y, reset=reset, **options)
    _check_numbers(estimator, features)
    return features, *targets


def _streamed(
    estimator: Any, X: StreamedTable, *y: Any, dtypes: list[type], reset: bool, **options: Any
) -> tuple:
    """Return the rows of a table read in chunks; in memory if they fit into one window."""
    columns = estimator._columns if has_categories(estimator) else TableColumns({}, [])
    # as in scikit-learn, which uses column types of pandas only
    given = getattr(X.head, "dtype", None)
    if _is_frame(X.head, "pandas") and is_of_numbers(X.head):
        given = np.result_type(*X.head.dtypes)
    dtype = _chosen(dtypes, given)
    names, n_features = names_of(X.head), X.shape[1]

    def numbers(chunk: Any) -> np.ndarray:
        if chunk.shape[1:] != (n_features,) or names_of(chunk) != names:
            raise ValueError(
                f"The first chunk of X has {counted(n_features, 'column')}, "
                f"{names or 'without names'}, and this one has {chunk.shape[1]}, "
                f"{names_of(chunk) or 'without names'}; all chunks must have the same."
            )
        if sp.issparse(chunk):
            return chunk.toarray().astype(dtype, copy=False)
        if not columns.categories and is_of_numbers(chunk):
            return np.ascontiguousarray(chunk, dtype=dtype)
        return columns.encode(chunk, dtype)

    features = StreamedRows(X, numbers, dtype)
    targets = _check_but_the_numbers(estimator, features, X.head, *y, reset=reset, **options)
    found = features.in_rows() if reset or y else features
    _check_numbers(estimator, found)
    if found is features and getattr(estimator, "solver", "") == "lbfgs" and reset:
        raise ValueError(
            f"solver='lbfgs' takes all rows at once, and X is read in chunks: {len(X)} rows, of "
            f"which window={X.window} are in memory. Choose a stochastic solver, such as 'adam', "
            "or a window that has all rows."
        )
    return found, *targets


def _divided(
    estimator: Any, X: DividedTable, *y: Any, dtypes: list[type], reset: bool, **options: Any
) -> tuple:
    """Return the rows of all ranks; each rank has validated its own."""
    own, *_ = _validated(estimator, X.own, dtypes=dtypes, reset=reset)
    X.ranks.check_alike({"The type of X": str(own.dtype)}, "Convert all partitions to one type.")
    n_own = np.count_nonzero(X.owners == X.ranks.rank)
    own = own.in_rows() if n_own else own.take(np.arange(0))
    features = DividedRows(own, X.owners, X.ranks, X.digest)
    targets = _check_but_the_numbers(estimator, features, X.own, *y, reset=reset, **options)
    return features, *targets


def _example(X: Any) -> Any:
    """Return some rows, with the names and types of all."""
    if isinstance(X, DividedTable):
        return X.own
    return X.head if isinstance(X, StreamedTable) else X


def _by_scikit_learn(
    estimator: Any, X: Any, *y: Any, dtypes: list[type], reset: bool, **options: Any
) -> tuple:
    # other types are checked after the conversion, which may overflow to infinity
    is_known = getattr(X, "dtype", None) in dtypes and _is_surely_finite(X)
    if is_known and type(X) is np.ndarray and _is_plain_matrix(X):
        # only the width is left to check, and the options concern y
        if reset and all(target is not None for target in y):
            vars(estimator).pop("feature_names_in_", None)  # arrays have no feature names
            estimator.n_features_in_ = X.shape[1]
        else:
            _validate_data(estimator, X, *y, reset=reset, skip_check_array=True)
        checked = [
            part if _is_plain_target(part) else check_target(part, estimator=estimator, **options)
            for part in y
        ]
        check_consistent_length(X, *checked)
        return features_of(X), *checked
    options["ensure_all_finite"] = False if is_known else estimator._ensure_all_finite
    options |= {"accept_sparse": "csr", "order": "C"}
    if options["ensure_all_finite"] == "allow-nan":
        X = nan_for_na(X)
    with _remedy_for_gaps(estimator):
        found = _validate_data(estimator, X, *y, dtype=dtypes, reset=reset, **options)
    array, *targets = found if y else (found,)
    # scikit-learn converts the byte order of arrays, but not of DataFrames
    return features_of(array.astype(array.dtype.newbyteorder("="), copy=False)), *targets


def _is_plain_matrix(X: np.ndarray) -> bool:
    return X.ndim == 2 and X.size > 0 and X.flags.c_contiguous


def _is_plain_target(y: Any) -> bool:
    """Return whether scikit-learn would accept targets and return them unchanged."""
    is_vector = type(y) is np.ndarray and y.ndim == 1 and len(y) > 0 and y.flags.c_contiguous
    return is_vector and (y.dtype.kind in "biu" or _is_surely_finite(y))


def _check_but_the_numbers(
    estimator: Any, features: Features, X: Any, *y: Any, reset: bool, **options: Any
) -> tuple:
    """Let scikit-learn check y and the names and shape of X; return y."""
    _validate_data(estimator, X, *y, reset=reset, skip_check_array=True)
    # takes no memory, and has everything that scikit-learn checks except the numbers
    stand_in = np.broadcast_to(np.zeros((), features.dtype), features.shape)
    if not y:
        check_array(stand_in, dtype=None, estimator=estimator, input_name="X", **options)
        return ()
    return check_X_y(stand_in, *y, dtype=None, estimator=estimator, **options)[1:]


def _check_numbers(estimator: Any, features: Features) -> None:
    if not get_config()["assume_finite"]:
        allow_nan = estimator._ensure_all_finite == "allow-nan"
        if isinstance(features, DeviceRows) and features.is_known(allow_nan):
            return
        for numbers in features.numbers():
            try:
                _check_finite(estimator, numbers)
            except ValueError as error:
                if not (isinstance(features, ArrayRows) and "infinity" in str(error)):
                    raise
                name = feature_names(estimator)[np.argwhere(np.isinf(numbers))[0][1]]
                raise ValueError(
                    f"{error}\nColumn {name!r} is the first: write NaN for what is infinite, and "
                    "divide what is too large, or set dtype='float64'."
                ) from error


def _check_finite(estimator: Any, numbers: np.ndarray) -> None:
    """Refuse infinity and, unless the estimator accepts it, NaN, with scikit-learn's message."""
    if _is_surely_finite(numbers):
        return
    with _remedy_for_gaps(estimator):
        assert_all_finite(
            numbers,
            allow_nan=estimator._ensure_all_finite == "allow-nan",
            estimator_name=type(estimator).__name__,
            input_name="X",
        )


def check_overflow(
    output: Any, X: Features, output_name: str = "output", remedy: str | None = None
) -> None:
    """Refuse a row whose output is not finite although its inputs are.

    Tensors are not checked: on a device, that would mean waiting for the result.

    Parameters
    ----------
    output : ndarray of shape (n_rows, n_outputs), or Tensor
    X : Features of shape (n_rows, n_features)
    output_name : str, default="output"
        Name of the output in the error.
    remedy : str, default=None
        None advises to scale X, or to train with smaller steps.
    """
    if type(output) is not np.ndarray or get_config()["assume_finite"]:
        return
    is_finite = np.isfinite(output)
    if is_finite.all():
        return
    row = int(np.flatnonzero(~is_finite.all(axis=1))[0])
    largest = np.nanmax(np.abs(X[row : row + 1]), initial=0)
    if remedy is None:
        remedy = (
            "Scale X, for example by StandardScaler"
            if largest > _LARGE
            else "The weights are that large: train with a smaller learning_rate_init"
        )
    raise ValueError(
        f"The network's {output_name} for row {row} of X is not finite: the numbers of that row "
        f"go up to {largest:g}, and sums over them are too large for {X.dtype}. {remedy}."
    )


@contextmanager
def _remedy_for_gaps(estimator: Any) -> Iterator[None]:
    """Add advice for these estimators to scikit-learn's error about missing values in X."""
    try:
        yield
    except ValueError as error:
        if not str(error).startswith("Input X contains NaN"):
            raise
        name = type(estimator).__name__
        raise ValueError(
            f"{error}\nOr let {name} learn from rows with gaps, by allow_nan=True."
        ) from error


def _is_surely_finite(X: Any) -> bool:
    """Return whether an array has no NaN or infinity, judged by its sum.

    Large arrays are summed by torch on several threads. If the sum is not finite, scikit-learn has
    to check.
    """
    if not isinstance(X, np.ndarray) or X.dtype.kind != "f" or get_config()["assume_finite"]:
        return False
    tensor = as_tensor(X) if X.size >= _MANY_NUMBERS else None
    if tensor is not None:
        return bool(tensor.sum().isfinite())
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(np.add.reduce(X, axis=None)))


def _where_it_is(X: Any, dtypes: list[type]) -> Features | None:
    """Return features that are read in place; None for data that scikit-learn may copy."""
    if isinstance(X, torch.Tensor) and X.device.type != "cpu":
        return _on_device(X, dtypes)
    if is_large_map(X):
        return MappedRows(Mapped(X, _chosen(dtypes, X.dtype)))
    if math.prod(getattr(X, "shape", (0,))) < _MANY_NUMBERS:
        return None
    if type(X) in (np.ndarray, np.memmap):
        # each column is contiguous, even if there are gaps between columns
        is_by_column = X.ndim == 2 and X.strides[0] == X.itemsize < X.strides[1]
        if is_by_column and X.dtype.kind in "biuf":
            return ColumnRows([np.asarray(X).T], _chosen(dtypes, X.dtype))
        return None
    columns = _columns_of(X)
    # strided columns belong to a row-major array, which scikit-learn does not copy
    if columns is None or not all(column.flags.c_contiguous for column in columns):
        return None
    # as in scikit-learn, which uses column types of pandas only
    kinds = {column.dtype for column in columns}
    given = np.result_type(*kinds) if _is_frame(X, "pandas") else None
    return ColumnRows([column[np.newaxis] for column in columns], _chosen(dtypes, given))


def _on_device(X: torch.Tensor, dtypes: list[type]) -> DeviceRows:
    """Return the rows of a tensor on an accelerator, in a type that a network reads."""
    if not get_config()["array_api_dispatch"]:
        raise TypeError(
            f"X is on device='{X.device}'. To keep it there, call within "
            "sklearn.config_context(array_api_dispatch=True); or pass X.cpu()."
        )
    if X.dtype.is_complex:
        raise ValueError(f"Complex data not supported: X holds {X.dtype}.")
    if X.ndim != 2:  # scikit-learn reports it
        check_array(np.broadcast_to(np.zeros(()), tuple(X.shape)), input_name="X")
    is_known = X.dtype in (torch.float32, torch.float64)
    given = np.dtype(numpy_dtype(X.dtype)) if is_known else None
    return DeviceRows(X.to(torch_dtype(_chosen(dtypes, given))).contiguous())


def _on_host(X: Any) -> Any:
    """Move a tensor to the host, where categories are encoded; return anything else unchanged."""
    return X.cpu() if isinstance(X, torch.Tensor) else X


def _columns_of(X: Any) -> list[np.ndarray] | None:
    """Return the columns of a numeric frame, without a copy if the frame allows it."""
    if _is_frame(X, "pandas"):
        if all(isinstance(dtype, np.dtype) and dtype.kind in "biuf" for dtype in X.dtypes):
            return [column.to_numpy() for _, column in X.items()]
    elif _is_frame(X, "polars"):
        boolean = sys.modules["polars"].Boolean
        if all(kind.is_integer() or kind.is_float() or kind == boolean for kind in X.dtypes):
            columns = [column.to_numpy() for column in X.get_columns()]
            return columns if all(column.dtype.kind in "biuf" for column in columns) else None
    return None


def _is_frame(X: Any, library: str) -> bool:
    # if X is such a frame, its library has been imported
    return library in sys.modules and isinstance(X, sys.modules[library].DataFrame)


def _chosen(dtypes: list[type], given: np.dtype | None) -> np.dtype:
    """Return the type in which numbers are read: their own if accepted, else the first."""
    return np.dtype(given if given in dtypes else dtypes[0])
