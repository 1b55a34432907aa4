"""Loaders for the two data sets that the tests, examples and benchmarks share.

Each looks for its file in the folder that the environment variable ``SKNN_DEEP_DATA`` names.
Without the variable, the data are downloaded once by scikit-learn and kept in its data folder.
"""

import os
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn import datasets as sklearn_datasets
from sklearn.model_selection import train_test_split
from sklearn.utils import Bunch

__all__ = ["fetch_california_housing", "fetch_mnist"]


_MNIST_SHAPES = {
    "x_train": (60000, 28, 28),
    "y_train": (60000,),
    "x_test": (10000, 28, 28),
    "y_test": (10000,),
}
_HOUSING_FEATURES = [
    "MedInc",
    "HouseAge",
    "AveRooms",
    "AveBedrms",
    "Population",
    "AveOccup",
    "Latitude",
    "Longitude",
]
_HOUSING_TARGET = "MedHouseVal"
_HOUSING_ROWS = 20640


def fetch_mnist(*, data_home=None, return_X_y=False):
    """Load MNIST: 70,000 images of handwritten digits, 28 by 28 pixels.

    The file ``mnist.npz`` is read from the folder that the environment variable ``SKNN_DEEP_DATA``
    names; it holds the arrays ``x_train``, ``y_train``, ``x_test`` and ``y_test``, as Keras
    publishes them. Without the variable, scikit-learn fetches ``mnist_784`` from OpenML.

    Parameters
    ----------
    data_home : str or path-like, default=None
        Where scikit-learn keeps what it downloads; None is its default, ``~/scikit_learn_data``.
        Not used with ``SKNN_DEEP_DATA``.

    return_X_y : bool, default=False
        Return the four arrays ``(X_train, y_train, X_test, y_test)`` instead of a Bunch.

    Returns
    -------
    mnist : :class:`~sklearn.utils.Bunch`
        Dictionary-like object with the published split, in its original order:

        X_train : ndarray of shape (60000, 784), float32
            Training images, one a row, row by row from the top left; 0 is black, 1 is white.
        y_train : ndarray of shape (60000,), int64
            Their digits.
        X_test : ndarray of shape (10000, 784), float32
            Test images.
        y_test : ndarray of shape (10000,), int64
            Their digits.

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
    """
    folder = _data_folder()
    if folder is None:
        arrays = _download_mnist(data_home)
    else:
        arrays = _read_mnist(_existing_file(folder, "mnist.npz"))
    X_train, y_train, X_test, y_test = arrays
    mnist = Bunch(
        X_train=_scale_pixels(X_train),
        y_train=y_train.astype(np.int64),
        X_test=_scale_pixels(X_test),
        y_test=y_test.astype(np.int64),
    )
    if return_X_y:
        return mnist.X_train, mnist.y_train, mnist.X_test, mnist.y_test
    return mnist


def fetch_california_housing(*, data_home=None, return_X_y=False):
    """Load California housing: the median house value in 20,640 districts of the 1990 census.

    The file ``california_housing.csv.gz`` is read from the folder that the environment variable
    ``SKNN_DEEP_DATA`` names; it has one column for each feature and ``MedHouseVal``. Without the
    variable, :func:`sklearn.datasets.fetch_california_housing` downloads the data.

    Parameters
    ----------
    data_home : str or path-like, default=None
        Where scikit-learn keeps what it downloads; None is its default, ``~/scikit_learn_data``.
        Not used with ``SKNN_DEEP_DATA``.

    return_X_y : bool, default=False
        Return ``(data, target)`` instead of a Bunch.

    Returns
    -------
    housing : :class:`~sklearn.utils.Bunch`
        Dictionary-like object with:

        data : ndarray of shape (20640, 8), float64
            The features, in scikit-learn's order and units; not standardised.
        target : ndarray of shape (20640,), float64
            Median house values in units of $100,000, capped at 5.00001.
        feature_names : list of str
            The names of the eight features.
        train_index : ndarray of shape (13209,), int64
            Rows to train on in the split that published comparisons use.
        validation_index : ndarray of shape (3303,), int64
            Rows to choose parameters and stop early on.
        test_index : ndarray of shape (4128,), int64
            Rows to report errors on, and for nothing else.

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
    folder = _data_folder()
    if folder is None:
        data, target = sklearn_datasets.fetch_california_housing(
            data_home=data_home, return_X_y=True
        )
    else:
        data, target = _read_housing(_existing_file(folder, "california_housing.csv.gz"))
    if return_X_y:
        return data, target

    rest, test_index = train_test_split(np.arange(_HOUSING_ROWS), test_size=0.2, random_state=0)
    train_index, validation_index = train_test_split(rest, test_size=0.2, random_state=1)
    return Bunch(
        data=data,
        target=target,
        feature_names=list(_HOUSING_FEATURES),
        train_index=train_index,
        validation_index=validation_index,
        test_index=test_index,
    )


def _data_folder():
    """Return the folder that SKNN_DEEP_DATA names, or None when it is unset or empty."""
    value = os.environ.get("SKNN_DEEP_DATA")
    if not value:
        return None
    folder = Path(value).expanduser()
    if not folder.is_dir():
        raise NotADirectoryError(
            f"SKNN_DEEP_DATA={value!r} is not a folder; set it to the folder that holds the data "
            "files, or unset it to download them."
        )
    return folder


def _existing_file(folder, name):
    """Return the path of a data file, which must exist: what was asked for is never downloaded."""
    path = folder / name
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist, and SKNN_DEEP_DATA names its folder; put {name} there, or "
            "unset SKNN_DEEP_DATA to download the data."
        )
    return path


def _read_mnist(path):
    """Return the images and digits of both parts, as stored in a file of Keras's layout."""
    try:
        # NumPy leaves a broken archive open when it opens the file itself.
        with path.open("rb") as stream, np.load(stream) as file:
            arrays = {name: file[name] for name in _MNIST_SHAPES}
    except (KeyError, OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise _wrong_file(path, f"could not be read ({error})") from error
    for name, shape in _MNIST_SHAPES.items():
        if arrays[name].shape != shape:
            raise _wrong_file(path, f"holds {name} of shape {arrays[name].shape} and not {shape}")
    return arrays["x_train"], arrays["y_train"], arrays["x_test"], arrays["y_test"]


def _download_mnist(data_home):
    """Return the images and digits of both parts from OpenML, the training part first there."""
    images, digits = sklearn_datasets.fetch_openml(
        "mnist_784", version=1, data_home=data_home, as_frame=False, return_X_y=True
    )
    return images[:60000], digits[:60000], images[60000:], digits[60000:]


def _scale_pixels(images):
    """Return images with pixels from 0 to 255 as rows of float32 from 0 to 1."""
    pixels = images.reshape(len(images), -1).astype(np.float32)
    pixels /= 255
    return pixels


def _read_housing(path):
    """Return the features and the target that a table holds."""
    try:
        table = pd.read_csv(path)[[*_HOUSING_FEATURES, _HOUSING_TARGET]]
        values = table.to_numpy(np.float64)
    except (KeyError, OSError, EOFError, ValueError) as error:
        raise _wrong_file(path, f"could not be read ({error})") from error
    if len(values) != _HOUSING_ROWS:
        raise _wrong_file(path, f"has {len(values)} rows and not {_HOUSING_ROWS}")
    return np.ascontiguousarray(values[:, :-1]), values[:, -1].copy()


def _wrong_file(path, problem):
    """Return the error for a data file that is there but is not what it should be."""
    return ValueError(
        f"{path} {problem}; replace it with the published file, or unset SKNN_DEEP_DATA to "
        "download the data."
    )
