"""Which rows early stopping holds out: scikit-learn's, but never all rows of a class.

scikit-learn's MLP stratifies two classes, but draws rows at random from more classes or several
labels. So all rows of a rare class may be held out, and the class is never learned. Here such rows
are divided; in all other cases the rows are scikit-learn's, so that training follows the same
trajectory.

``validation_splitter`` chooses other rows: those of a splitter, or a share of each class.
"""

import math
from collections.abc import Iterator
from copy import copy
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
from sklearn.model_selection import TimeSeriesSplit, train_test_split

from sknn_deep._wording import counted


def hold_out_rows(
    n_rows: int,
    fraction: float,
    random_state: np.random.RandomState,
    labels: np.ndarray | None = None,
    names: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows to train on and the rows held out, drawn as scikit-learn's MLP does.

    Parameters
    ----------
    n_rows : int
    fraction : float
        Share of the rows to hold out, rounded up.
    random_state : RandomState
    labels : ndarray of shape (n_rows,) or (n_rows, n_labels), default=None
        Class indices, or 0 and 1 for several labels per row.
    names : ndarray, default=None
        The user's classes or labels.

    Returns
    -------
    train, held_out : ndarray of int
        Together they are all rows.

    Raises
    ------
    ValueError
        If too few rows are held out, or left to train on.

    Examples
    --------
    >>> import numpy as np
    >>> labels = np.repeat([0, 1, 2], [6, 6, 2])
    >>> train, held_out = hold_out_rows(14, 0.4, np.random.RandomState(6), labels, np.arange(3))
    >>> np.bincount(labels[train]), np.bincount(labels[held_out])
    (array([4, 3, 1]), array([2, 3, 1]))
    """
    n_held_out = math.ceil(fraction * n_rows)
    n_least, strata = 1, None
    if labels is not None and names is not None and labels.ndim == 1 and len(names) <= 2:
        _check_members(labels, names)
        n_least, strata = len(names), labels.astype(bool)
    _check_sizes(n_rows, n_held_out, fraction, n_least)
    if strata is not None:
        return train_test_split(
            np.arange(n_rows),
            random_state=random_state,
            test_size=fraction,
            stratify=strata,
        )
    rows = random_state.permutation(n_rows)
    train, held_out = rows[n_held_out:], rows[:n_held_out]
    return (train, held_out) if labels is None else _share_classes(train, held_out, labels)


def hold_out_stratified(
    fraction: float, random_state: np.random.RandomState, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows to train on and the rows held out, each class in proportion.

    The rows are sorted by class and held out at regular intervals, so that each class, or
    combination of labels, has its share to within one row. If there are many rare combinations, the
    more frequent labels are stratified first.

    Parameters
    ----------
    fraction : float
        Share of the rows to hold out.
    random_state : RandomState
    labels : ndarray of shape (n_rows,) or (n_rows, n_labels)

    Examples
    --------
    >>> import numpy as np
    >>> labels = np.repeat([0, 1, 2], [60, 30, 10])
    >>> train, held_out = hold_out_stratified(0.2, np.random.RandomState(0), labels)
    >>> np.bincount(labels[held_out])
    array([12,  6,  2])
    """
    n_rows = len(labels)
    n_held_out = math.ceil(fraction * n_rows)
    _check_sizes(n_rows, n_held_out, fraction, 1)
    rows = random_state.permutation(n_rows)
    columns = labels[rows].reshape(n_rows, -1)
    rarest_first = np.argsort(np.abs(columns.mean(axis=0) - 0.5), kind="stable")[::-1]
    rows = rows[np.lexsort(columns[:, rarest_first].T)]
    is_held_out = np.zeros(n_rows, dtype=bool)
    places = np.arange(n_held_out) * n_rows / n_held_out + n_rows / n_held_out / 2
    is_held_out[places.astype(int)] = True
    return _share_classes(rows[~is_held_out], rows[is_held_out], labels)


def rows_of_splitter(
    splitter: Any, X: Any, y: Any, groups: Any, random_state: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows to train on and the rows held out, as split by a splitter.

    The first split is used; for ``TimeSeriesSplit`` the last, which has the most training rows.

    Parameters
    ----------
    splitter : splitter
        A scikit-learn splitter. Draws that it would make from the global generator are made from
        ``random_state``.
    X, y, groups
        Passed to the splitter.
    random_state : RandomState

    Raises
    ------
    ValueError
        If it fails, or yields no rows to train on or to validate with.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.model_selection import TimeSeriesSplit
    >>> X, random_state = np.zeros((8, 1)), np.random.RandomState(0)
    >>> rows_of_splitter(TimeSeriesSplit(3), X, None, None, random_state)
    (array([0, 1, 2, 3, 4, 5]), array([6, 7]))
    """
    n_rows = X.shape[0]
    if groups is not None and len(groups) != n_rows:
        raise ValueError(
            f"groups has {counted(len(groups), 'entry', 'entries')} for "
            f"{counted(n_rows, 'row')}; pass one for each."
        )
    if isinstance(splitter, type):
        raise ValueError(
            f"validation_splitter is the class {splitter.__name__}, which divides nothing: pass "
            f"{splitter.__name__}(), not {splitter.__name__}."
        )
    divider = splitter
    if getattr(splitter, "random_state", 0) is None:
        divider = copy(splitter)
        divider.random_state = random_state
    try:
        divisions = iter(divider.split(X, y, groups))
        if isinstance(splitter, TimeSeriesSplit):
            *_, division = divisions
        else:
            division = next(divisions, None)
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"validation_splitter={splitter!r} failed on {counted(n_rows, 'row')}: {error}"
            f"{'' if str(error).endswith('.') else '.'} {_remedy(splitter, n_rows, groups)}"
        ) from error
    if division is None:
        raise ValueError(
            f"validation_splitter={splitter!r} yields no split of {counted(n_rows, 'row')}; choose "
            "one that yields training and test rows."
        )
    try:
        train, held_out = (_row_numbers(rows, n_rows) for rows in division)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"validation_splitter={splitter!r} yields no training and test rows: {error}. Choose "
            "one that yields pairs of row numbers, or of masks."
        ) from error
    for name, rows, n_least in (("training", train, 1), ("test", held_out, 2)):
        if len(rows) < n_least:
            raise ValueError(
                f"validation_splitter={splitter!r} yields {counted(len(rows), f'{name} row')} of "
                f"{n_rows}, but there must be {n_least} at least; choose another, or pass X_val "
                "to fit."
            )
    if len(both := np.intersect1d(train, held_out)):
        raise ValueError(
            f"validation_splitter={splitter!r} holds out rows that it trains on, such as "
            f"{both[0]}; choose one whose training and test rows differ."
        )
    return train, held_out


def _remedy(splitter: Any, n_rows: int, groups: Any) -> str:
    """Return advice on what to do when a splitter fails."""
    if _reads_groups(splitter) and groups is None:
        return (
            "Pass groups to fit; searches and pipelines hand them on with metadata routing enabled "
            "and set_fit_request(groups=True)."
        )
    if _reads_groups(splitter):
        groups = np.asarray(groups)
        try:
            n_groups = len(np.unique(groups))
        except TypeError:  # some values cannot be compared, such as None
            n_groups = 0
        if n_groups == 0 or pd.isna(groups).any():
            return "Pass one group for each row to fit, all of one type and none of them missing."
        if n_groups > 1 and groups.ndim != 1:
            return f"groups is of shape {groups.shape}: pass one column of it to fit."
        remedy = "pass groups that differ" if n_groups == 1 else "pass more groups"
        if n_groups > 1 and hasattr(splitter, "n_splits"):
            remedy = "choose fewer splits"
        return f"groups has {counted(n_groups, 'group')}: {remedy}, or a splitter without groups."
    n_splits = getattr(splitter, "n_splits", None)
    if isinstance(n_splits, Integral) and int(n_splits) >= n_rows:
        return "Choose a smaller n_splits, so that two rows or more are held out."
    return "Choose another, or pass X_val to fit."


def _reads_groups(splitter: Any) -> bool:
    """Return whether a splitter requests groups, according to scikit-learn's metadata routing."""
    if not hasattr(splitter, "get_metadata_routing"):
        return False
    return bool(splitter.get_metadata_routing().split.requests.get("groups"))


def _row_numbers(rows: Any, n_rows: int) -> np.ndarray:
    """Return row numbers, given as numbers or as a mask."""
    rows = np.asarray(rows)
    if rows.dtype == bool and rows.shape == (n_rows,):
        return np.flatnonzero(rows)
    if rows.shape == (0,):  # NumPy makes an empty list an array of floats
        return rows.astype(np.intp)
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise ValueError(f"one of the two is an array of {rows.dtype}, of shape {rows.shape}")
    outside = rows[(rows < 0) | (rows >= n_rows)]
    if len(outside):
        raise ValueError(f"{outside[0]} is not a row from 0 to {n_rows - 1}")
    return rows.astype(np.intp)


def _share_classes(
    train: np.ndarray, held_out: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Exchange rows so that no class, and no value of a label, has all its rows held out.

    Half of such rows go back to training; as many rows of the most frequent class, or combination
    of labels, are held out instead.
    """
    lost = [held_out[members[held_out]] for members in _lost_classes(train, labels)]
    if not lost:
        return train, held_out
    back = np.unique(np.concatenate([rows[: math.ceil(len(rows) / 2)] for rows in lost]))
    codes = np.unique(labels[train], axis=0, return_inverse=True)[1]
    most_frequent = np.flatnonzero(codes == np.bincount(codes).argmax())
    spare = train[most_frequent[1 : len(back) + 1]]  # at least one row stays in training
    kept = np.concatenate([held_out[~np.isin(held_out, back)], spare])
    if len(kept) < 2:
        n_rows = len(train) + len(held_out)
        raise ValueError(
            f"early_stopping=True can hold out {len(kept)} of {counted(n_rows, 'row')}, since each "
            "class keeps a row to train on and most classes have no other. Merge classes, pass "
            "X_val and y_val to fit, or set early_stopping=False."
        )
    return np.concatenate([train[~np.isin(train, spare)], back]), kept


def _lost_classes(train: np.ndarray, labels: np.ndarray) -> Iterator[np.ndarray]:
    """Yield a mask of the rows of each class, or each value of a label, without a training row.

    Parameters
    ----------
    train : ndarray of int
    labels : ndarray of shape (n_rows,) or (n_rows, n_labels)
    """
    if labels.ndim == 1:
        present = np.bincount(labels[train], minlength=labels.max() + 1) > 0
        for index in np.flatnonzero(~present & (np.bincount(labels) > 0)):
            yield labels == index
        return
    for has_label in (labels != 0, labels == 0):
        lost = ~has_label[train].any(axis=0) & has_label.any(axis=0)
        for column in np.flatnonzero(lost):
            yield has_label[:, column]


def _check_members(labels: np.ndarray, names: np.ndarray) -> None:
    """Refuse to stratify a class of one row, ending with scikit-learn's message."""
    counts = np.bincount(labels.astype(int), minlength=len(names))
    if 1 not in counts:
        return
    lonely = names[counts == 1].tolist()
    encoded = [str(bool(index)) for index in np.flatnonzero(counts == 1)]
    raise ValueError(
        f"early_stopping=True holds out rows of both classes, but y has only 1 sample of {lonely}: "
        "pass more rows of that class, pass X_val and y_val to fit, or set early_stopping=False. "
        # scikit-learn's message, for code that matches it
        "The least populated classes in y have only 1 member, which is too few. The minimum number "
        "of groups for any class cannot be less than 2. Classes with too few members are: "
        f"{encoded}"
    )


def _check_sizes(n_rows: int, n_held_out: int, fraction: float, n_least: int) -> None:
    """Refuse to hold out fewer than two rows, or to train on fewer than the required number."""
    if n_held_out == 0:
        raise ValueError(
            f"validation_fraction={fraction} holds out no row: with early_stopping=True choose a "
            "number above 0 and below 1, or pass X_val to fit."
        )
    if n_rows - n_held_out < n_least:
        raise ValueError(
            f"early_stopping=True with validation_fraction={fraction} leaves "
            f"{n_rows - n_held_out} of {counted(n_rows, 'row')} to train on, but there must be "
            f"{n_least} at least. Pass more rows, pass X_val to fit, or set early_stopping=False. "
            f"Got n_samples={n_rows}."
        )
    if n_held_out < 2:
        raise ValueError(
            "The validation set is too small. Increase 'validation_fraction' or the size of your "
            f"dataset.{' It needs a row of each class.' if n_least > 1 else ''}"
        )
