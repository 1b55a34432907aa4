"""Loaders for the two data sets that the tests, examples and benchmarks share.

Each reads its file from the folder given by the environment variable ``SKNN_DEEP_DATA``, for
machines without a network. Without the variable, scikit-learn downloads the data once and keeps
them in its data folder.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal, NoReturn, overload
from urllib.error import URLError

import numpy as np
import pandas as pd
from sklearn import datasets as sklearn_datasets
from sklearn.model_selection import train_test_split
from sklearn.utils import Bunch

__all__ = ["fetch_california_housing", "fetch_mnist"]

_N_DIGITS, _N_TRAINING_DIGITS = 70_000, 60_000
_N_DISTRICTS = 20_640
_HOUSING_FEATURES = (
    "MedInc HouseAge AveRooms AveBedrms Population AveOccup Latitude Longitude".split()
)

_Path = str | os.PathLike[str]
_Arrays = tuple[np.ndarray, np.ndarray]


class _DataSet(Bunch):
    """A Bunch that refuses to be unpacked, because that would yield its keys, not its arrays."""

    def __iter__(self) -> NoReturn:
        raise TypeError(
            "a data set cannot be unpacked into its arrays; pass return_X_y=True for (X, y), or "
            f"take its entries by name: {', '.join(self.keys())}."
        )


@overload
def fetch_mnist(*, data_home: _Path | None = None, return_X_y: Literal[False] = False) -> Bunch: ...
@overload
def fetch_mnist(*, data_home: _Path | None = None, return_X_y: Literal[True]) -> _Arrays: ...
def fetch_mnist(*, data_home: _Path | None = None, return_X_y: bool = False) -> Bunch | _Arrays:
    """Load MNIST: 70,000 images of handwritten digits, 28 by 28 pixels.

    The file ``mnist.npz`` is read from the folder that the environment variable ``SKNN_DEEP_DATA``
    names; it holds the arrays ``x_train``, ``y_train``, ``x_test`` and ``y_test``, as Keras
    publishes them. Without the variable, :func:`sklearn.datasets.fetch_openml` downloads
    ``mnist_784``.

    Parameters
    ----------
    data_home : str or path-like, default=None
        scikit-learn's download folder; None is its default, ``~/scikit_learn_data``. Not used with
        ``SKNN_DEEP_DATA``.

    return_X_y : bool, default=False
        Return ``(data, target)`` instead of a Bunch, as scikit-learn's loaders do.

    Returns
    -------
    mnist : :class:`~sklearn.utils.Bunch`
        Dictionary-like object. Unpacking it is an error; access its entries by name:

        data : ndarray of shape (70000, 784), float32
            The images, one per row, row by row from the top left; 0 is black, 1 is white. The first
            60,000 are the published training images, the others the test images.
        target : ndarray of shape (70000,), int64
            Their digits.
        X_train, y_train : ndarray of shape (60000, 784) and (60000,)
            Training images and their digits, views of ``data`` and ``target``.
        X_test, y_test : ndarray of shape (10000, 784) and (10000,)
            Test images and their digits, views too.

    Raises
    ------
    FileNotFoundError
        If ``SKNN_DEEP_DATA`` is set and there is no such file.
    ValueError
        If the file is not the published one.
    ConnectionError
        If the data cannot be downloaded.

    References
    ----------
    Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, "Gradient-based learning applied to document
    recognition", Proceedings of the IEEE 86(11), 2278-2324, 1998.

    Examples
    --------
    >>> from sknn_deep.datasets import fetch_mnist
    >>> mnist = fetch_mnist()  # doctest: +SKIP
    >>> mnist.X_train.shape  # doctest: +SKIP
    (60000, 784)
    >>> X, y = fetch_mnist(return_X_y=True)  # doctest: +SKIP
    >>> X.shape  # doctest: +SKIP
    (70000, 784)
    """
    options = {"version": 1, "data_home": data_home, "as_frame": False, "return_X_y": True}
    download = partial(sklearn_datasets.fetch_openml, "mnist_784", **options)
    images, digits = _from_folder_or_network("mnist.npz", _read_mnist, download)
    data = images.astype(np.float32)
    data /= 255
    target = digits.astype(np.int64)
    if return_X_y:
        return data, target
    n_training = _N_TRAINING_DIGITS
    return _DataSet(
        data=data,
        target=target,
        X_train=data[:n_training],
        y_train=target[:n_training],
        X_test=data[n_training:],
        y_test=target[n_training:],
    )


@overload
def fetch_california_housing(
    *, data_home: _Path | None = None, return_X_y: Literal[False] = False
) -> Bunch: ...
@overload
def fetch_california_housing(
    *, data_home: _Path | None = None, return_X_y: Literal[True]
) -> _Arrays: ...
def fetch_california_housing(
    *, data_home: _Path | None = None, return_X_y: bool = False
) -> Bunch | _Arrays:
    """Load California housing: the median house value in 20,640 districts of the 1990 census.

    The file ``california_housing.csv.gz`` is read from the folder that the environment variable
    ``SKNN_DEEP_DATA`` names; it has one column for each feature and ``MedHouseVal``. Without the
    variable, :func:`sklearn.datasets.fetch_california_housing` downloads the data.

    Parameters
    ----------
    data_home : str or path-like, default=None
        scikit-learn's download folder; None is its default, ``~/scikit_learn_data``. Not used with
        ``SKNN_DEEP_DATA``.

    return_X_y : bool, default=False
        Return ``(data, target)`` instead of a Bunch, as scikit-learn's loaders do.

    Returns
    -------
    housing : :class:`~sklearn.utils.Bunch`
        Dictionary-like object. Unpacking it is an error; access its entries by name:

        data : ndarray of shape (20640, 8), float64
            The features, in scikit-learn's order and units; not standardised.
        target : ndarray of shape (20640,), float64
            Median house values in units of $100,000, capped at 5.00001.
        feature_names : list of str
            The names of the eight features.
        train_index : ndarray of shape (13209,), int64
            Training rows of the split that published comparisons use.
        validation_index : ndarray of shape (3303,), int64
            Rows for choosing parameters and for early stopping.
        test_index : ndarray of shape (4128,), int64
            Rows for reporting errors, and for nothing else.

    Raises
    ------
    FileNotFoundError
        If ``SKNN_DEEP_DATA`` is set and there is no such file.
    ValueError
        If the file is not the published one.
    ConnectionError
        If the data cannot be downloaded.

    Notes
    -----
    The split comes from two calls of :func:`sklearn.model_selection.train_test_split` with
    ``test_size=0.2``: one over all rows with ``random_state=0``, which sets the test rows aside,
    then one over the remaining rows with ``random_state=1``, which sets the validation rows aside.

    References
    ----------
    R. K. Pace and R. Barry, "Sparse spatial autoregressions", Statistics & Probability Letters
    33(3), 291-297, 1997.

    Examples
    --------
    >>> from sknn_deep.datasets import fetch_california_housing
    >>> housing = fetch_california_housing()  # doctest: +SKIP
    >>> X_train = housing.data[housing.train_index]  # doctest: +SKIP
    >>> X_train.shape  # doctest: +SKIP
    (13209, 8)
    """
    download = partial(
        sklearn_datasets.fetch_california_housing, data_home=data_home, return_X_y=True
    )
    data, target = _from_folder_or_network("california_housing.csv.gz", _read_housing, download)
    if return_X_y:
        return data, target
    rest, test_index = train_test_split(np.arange(_N_DISTRICTS), test_size=0.2, random_state=0)
    train_index, validation_index = train_test_split(rest, test_size=0.2, random_state=1)
    return _DataSet(
        data=data,
        target=target,
        feature_names=list(_HOUSING_FEATURES),
        train_index=train_index,
        validation_index=validation_index,
        test_index=test_index,
    )


def _from_folder_or_network(
    name: str,
    read: Callable[[Path], _Arrays],
    download: Callable[[], _Arrays],
) -> _Arrays:
    """Return X and y from the file in SKNN_DEEP_DATA, or downloaded if it is not set."""
    folder = os.environ.get("SKNN_DEEP_DATA")
    if not folder:
        try:
            return download()
        except (URLError, ConnectionError, TimeoutError) as error:
            raise ConnectionError(
                f"the data could not be downloaded ({error}); without a network, set the "
                f"environment variable SKNN_DEEP_DATA to a folder that holds {name}."
            ) from error
    path = Path(folder).expanduser() / name
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist, and SKNN_DEEP_DATA={folder!r} names its folder; put {name} "
            "there, or unset SKNN_DEEP_DATA to download the data."
        )
    try:
        return read(path)
    except (KeyError, OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} could not be read ({error}); replace it with the published file, or unset "
            "SKNN_DEEP_DATA to download the data."
        ) from error


def _read_mnist(path: Path) -> _Arrays:
    # NumPy leaves a broken archive open if it opens the file itself.
    with path.open("rb") as stream, np.load(stream) as file:
        images = np.concatenate([file["x_train"], file["x_test"]])
        digits = np.concatenate([file["y_train"], file["y_test"]])
    return images.reshape(_N_DIGITS, 784), digits.reshape(_N_DIGITS)


def _read_housing(path: Path) -> _Arrays:
    table = pd.read_csv(path)[[*_HOUSING_FEATURES, "MedHouseVal"]]
    values = table.to_numpy(np.float64).reshape(_N_DISTRICTS, -1)
    return np.ascontiguousarray(values[:, :-1]), values[:, -1].copy()
