"""The two data sets: from a folder or downloaded, alike in what they return."""

import copy
import gzip
import os
import pickle
import re
from urllib.error import HTTPError, URLError

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.model_selection import train_test_split

from sknn_deep import datasets
from sknn_deep.datasets import fetch_california_housing, fetch_mnist

HEADER = "MedInc,HouseAge,AveRooms,AveBedrms,Population,AveOccup,Latitude,Longitude,MedHouseVal"
FIRST_ROW = [8.3252, 41, 6.984127, 1.023810, 322, 2.555556, 37.88, -122.23]

needs_data = pytest.mark.skipif(
    not os.environ.get("SKNN_DEEP_DATA"), reason="SKNN_DEEP_DATA names no folder with the real data"
)


@pytest.fixture
def data_folder(tmp_path, monkeypatch):
    """Offer an empty folder that SKNN_DEEP_DATA names, and fail on any download."""
    monkeypatch.setenv("SKNN_DEEP_DATA", str(tmp_path))
    for name in ("fetch_openml", "fetch_california_housing"):
        monkeypatch.setattr(datasets.sklearn_datasets, name, _no_download)
    return tmp_path


def _no_download(*args, **kwargs):
    raise AssertionError("a download was started although SKNN_DEEP_DATA is set")


def _mnist_arrays():
    """Return black images with one lit pixel each side of the split, in Keras's layout."""
    arrays = {
        "x_train": np.zeros((60000, 28, 28), np.uint8),
        "y_train": np.zeros(60000, np.uint8),
        "x_test": np.zeros((10000, 28, 28), np.uint8),
        "y_test": np.zeros(10000, np.uint8),
    }
    arrays["x_train"][0, 1, 2] = 255
    arrays["y_train"][0] = 5
    arrays["x_test"][0, 0, 27] = 51
    arrays["y_test"][0] = 7
    return arrays


def _check_mnist(mnist):
    assert mnist.X_train.shape == (60000, 784)
    assert mnist.X_test.shape == (10000, 784)
    assert mnist.y_train.shape == (60000,)
    assert mnist.y_test.shape == (10000,)
    assert mnist.X_train.dtype == mnist.X_test.dtype == np.float32
    assert mnist.y_train.dtype == mnist.y_test.dtype == np.int64
    assert mnist.X_train.min() == 0
    assert mnist.X_train.max() == 1


def _write_housing(folder, rows=20640, header=HEADER):
    row = ",".join(map(str, range(header.count(",") + 1)))
    with gzip.open(folder / "california_housing.csv.gz", "wt") as file:
        file.write(header + "\n" + (row + "\n") * rows)


def test_mnist_is_read_from_the_named_folder(data_folder):
    np.savez_compressed(data_folder / "mnist.npz", **_mnist_arrays())
    mnist = fetch_mnist()
    assert list(mnist.keys()) == ["data", "target", "X_train", "y_train", "X_test", "y_test"]
    _check_mnist(mnist)
    assert mnist.X_train[0, 28 + 2] == 1
    assert mnist.X_test[0, 27] == np.float32(0.2)
    assert (mnist.y_train[0], mnist.y_test[0]) == (5, 7)


def test_mnist_from_openml_keeps_the_published_split(monkeypatch):
    arrays = _mnist_arrays()
    images = np.concatenate([arrays["x_train"], arrays["x_test"]]).reshape(70000, 784)
    digits = np.concatenate([arrays["y_train"], arrays["y_test"]]).astype(str).astype(object)
    calls = []

    def fetch_openml(*args, **kwargs):
        calls.append((args, kwargs))
        return images, digits

    monkeypatch.delenv("SKNN_DEEP_DATA", raising=False)
    monkeypatch.setattr(datasets.sklearn_datasets, "fetch_openml", fetch_openml)
    mnist = fetch_mnist(data_home="elsewhere")

    ((args, kwargs),) = calls
    assert args == ("mnist_784",)
    assert kwargs["version"] == 1
    assert kwargs["data_home"] == "elsewhere"
    _check_mnist(mnist)
    assert (mnist.y_train[0], mnist.y_test[0]) == (5, 7)
    assert mnist.X_test[0, 27] == np.float32(0.2)


def test_mnist_parts_are_views_of_all_rows(data_folder):
    np.savez_compressed(data_folder / "mnist.npz", **_mnist_arrays())
    mnist = fetch_mnist()
    assert mnist.X_train.base is mnist.X_test.base is mnist.data
    assert mnist.y_train.base is mnist.y_test.base is mnist.target
    assert_array_equal(mnist.data[60000], mnist.X_test[0])


@pytest.mark.parametrize(
    ("write", "fetch"),
    [
        (lambda folder: np.savez_compressed(folder / "mnist.npz", **_mnist_arrays()), fetch_mnist),
        (lambda folder: _write_housing(folder), fetch_california_housing),
    ],
)
def test_both_return_data_and_target_as_scikit_learn_does(data_folder, write, fetch):
    write(data_folder)
    X, y = fetch(return_X_y=True)
    bunch = fetch()
    assert_array_equal(X, bunch.data)
    assert_array_equal(y, bunch.target)
    assert len(X) == len(y)


def test_a_data_set_cannot_be_unpacked_by_mistake(data_folder):
    _write_housing(data_folder)
    housing = fetch_california_housing()
    message = (
        "cannot be unpacked into its arrays; pass return_X_y=True for (X, y), or take its entries "
        "by name: data, target, feature_names"
    )
    with pytest.raises(TypeError, match=re.escape(message)):
        X_train, X_test, y_train, y_test = housing
    with pytest.raises(TypeError, match=re.escape(message)):
        X, *others = housing


def test_a_data_set_is_a_dictionary_all_the_same(data_folder):
    _write_housing(data_folder)
    housing = fetch_california_housing()
    for same in (
        dict(housing),
        {**housing},
        copy.deepcopy(housing),
        pickle.loads(pickle.dumps(housing)),
    ):
        assert list(same.keys()) == list(housing.keys())
        assert_array_equal(same["data"], housing.data)
    assert "target" in housing


def test_mnist_of_another_shape_is_refused(data_folder):
    arrays = _mnist_arrays()
    arrays["x_test"] = arrays["x_test"][:10]
    np.savez_compressed(data_folder / "mnist.npz", **arrays)
    message = f"{data_folder / 'mnist.npz'} could not be read (cannot reshape array"
    remedy = "replace it with the published file, or unset SKNN_DEEP_DATA to download the data."
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        fetch_mnist()
    assert remedy in str(raised.value)


def test_mnist_file_without_an_array_is_refused(data_folder):
    path = data_folder / "mnist.npz"
    np.savez_compressed(path, x_train=np.zeros(3))
    message = f"{path} could not be read ('x_test is not a file in the archive')"
    with pytest.raises(ValueError, match=re.escape(message)):
        fetch_mnist()


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04cut short"])
def test_mnist_file_that_is_no_archive_is_refused(data_folder, content):
    path = data_folder / "mnist.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(f"{path} could not be read (")):
        fetch_mnist()


def test_housing_is_read_from_the_named_folder(data_folder):
    _write_housing(data_folder)
    housing = fetch_california_housing()
    assert housing.data.shape == (20640, 8)
    assert housing.target.shape == (20640,)
    assert housing.data.dtype == housing.target.dtype == np.float64
    assert housing.data.flags.c_contiguous
    assert housing.feature_names == HEADER.split(",")[:-1]
    assert_array_equal(housing.data[0], np.arange(8))
    assert housing.target[0] == 8


def test_housing_columns_are_found_by_name(data_folder):
    _write_housing(data_folder, header=",".join(reversed(HEADER.split(","))))
    housing = fetch_california_housing()
    assert_array_equal(housing.data[0], np.arange(8, 0, -1))
    assert housing.target[0] == 0


def test_housing_without_the_variable_comes_from_scikit_learn(monkeypatch):
    X, y = np.ones((20640, 8)), np.full(20640, 2.0)
    calls = []

    def fetch(**kwargs):
        calls.append(kwargs)
        return X, y

    monkeypatch.setenv("SKNN_DEEP_DATA", "")
    monkeypatch.setattr(datasets.sklearn_datasets, "fetch_california_housing", fetch)
    data, target = fetch_california_housing(data_home="elsewhere", return_X_y=True)
    assert calls == [{"data_home": "elsewhere", "return_X_y": True}]
    assert data is X
    assert target is y


def test_housing_split_is_the_published_one(data_folder):
    _write_housing(data_folder)
    housing = fetch_california_housing()
    train, test = train_test_split(np.arange(20640), test_size=0.2, random_state=0)
    train, validation = train_test_split(train, test_size=0.2, random_state=1)
    assert (len(train), len(validation), len(test)) == (13209, 3303, 4128)
    assert_array_equal(housing.train_index, train)
    assert_array_equal(housing.validation_index, validation)
    assert_array_equal(housing.test_index, test)


def test_housing_split_covers_every_row_once(data_folder):
    _write_housing(data_folder)
    housing = fetch_california_housing()
    rows = np.concatenate([housing.train_index, housing.validation_index, housing.test_index])
    assert_array_equal(np.sort(rows), np.arange(20640))


def test_housing_with_missing_rows_is_refused(data_folder):
    _write_housing(data_folder, rows=3)
    path = data_folder / "california_housing.csv.gz"
    message = f"{path} could not be read (cannot reshape array of size 27"
    with pytest.raises(ValueError, match=re.escape(message)):
        fetch_california_housing()


def test_housing_with_a_missing_column_is_refused(data_folder):
    _write_housing(data_folder, header=HEADER.replace("AveOccup,", ""))
    with pytest.raises(ValueError, match=r"could not be read .*AveOccup.*; replace it"):
        fetch_california_housing()


def test_housing_file_that_is_no_table_is_refused(data_folder):
    path = data_folder / "california_housing.csv.gz"
    path.write_bytes(b"not compressed")
    with pytest.raises(ValueError, match=re.escape(f"{path} could not be read (")):
        fetch_california_housing()


@pytest.mark.parametrize(
    ("fetch", "name"),
    [(fetch_mnist, "mnist.npz"), (fetch_california_housing, "california_housing.csv.gz")],
)
def test_missing_file_is_an_error_and_not_a_download(data_folder, fetch, name):
    message = (
        f"{data_folder / name} does not exist, and SKNN_DEEP_DATA={str(data_folder)!r} names its "
        f"folder; put {name} there, or unset SKNN_DEEP_DATA to download the data."
    )
    with pytest.raises(FileNotFoundError, match=re.escape(message)):
        fetch()


@pytest.mark.parametrize("fetch", [fetch_mnist, fetch_california_housing])
def test_missing_folder_is_an_error_and_not_a_download(data_folder, monkeypatch, fetch):
    missing = str(data_folder / "absent")
    monkeypatch.setenv("SKNN_DEEP_DATA", missing)
    with pytest.raises(FileNotFoundError, match=re.escape(f"SKNN_DEEP_DATA={missing!r} names")):
        fetch()


@pytest.mark.parametrize(
    "problem",
    [
        URLError("Temporary failure in name resolution"),
        HTTPError("https://data", 403, "Forbidden", None, None),
        ConnectionResetError("reset by peer"),
        TimeoutError("timed out"),
    ],
)
@pytest.mark.parametrize(
    ("fetch", "theirs", "name"),
    [
        (fetch_mnist, "fetch_openml", "mnist.npz"),
        (fetch_california_housing, "fetch_california_housing", "california_housing.csv.gz"),
    ],
)
def test_without_a_network_the_folder_is_named(monkeypatch, fetch, theirs, name, problem):
    def fail(*args, **kwargs):
        raise problem

    monkeypatch.delenv("SKNN_DEEP_DATA", raising=False)
    monkeypatch.setattr(datasets.sklearn_datasets, theirs, fail)
    message = (
        f"could not be downloaded ({problem}); without a network, set the environment variable "
        f"SKNN_DEEP_DATA to a folder that holds {name}."
    )
    with pytest.raises(ConnectionError, match=re.escape(message)):
        fetch()


@needs_data
def test_real_mnist_is_the_published_one():
    mnist = fetch_mnist()
    _check_mnist(mnist)
    assert_array_equal(mnist.y_train[:5], [5, 0, 4, 1, 9])
    assert_array_equal(mnist.y_test[:5], [7, 2, 1, 0, 4])
    assert 255 * mnist.X_train.mean(dtype=np.float64) == pytest.approx(33.3184, abs=1e-4)


@needs_data
def test_real_housing_is_the_published_one():
    housing = fetch_california_housing()
    assert housing.data.shape == (20640, 8)
    assert housing.data[0] == pytest.approx(FIRST_ROW, abs=1e-6)
    assert housing.target[0] == 4.526
    assert housing.target.max() == 5.00001
