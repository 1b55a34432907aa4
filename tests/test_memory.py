"""What a fit takes beside its data, measured in a process of its own."""

import shutil
import sys
import warnings
from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

from benchmarks import streams
from benchmarks.memory import HOLDERS, peaks_of_columns, peaks_on_a_map, resident, write_map
from sknn_deep import AutoencoderTransformer, DeepMLPClassifier

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc"),
]


def _peak_of_fit(network, X, y=None):
    """Return by how many MB a fit raises the memory of this process at its peak."""
    warnings.simplefilter("ignore")
    # a fit of a few rows comes first: it loads what libraries load at their first use
    network.fit(X[:400], y if y is None else y[:400])
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    network.fit(X, y)
    return resident("VmHWM") - before


def _peak_on_images(kind):
    X = np.random.default_rng(0).random((60_000, 784), dtype=np.float32)
    y = np.arange(len(X)) % 10
    options = {"max_iter": 1, "random_state": 0, "device": "cpu", "batch_size": 500}
    if kind == "classifier":
        network = DeepMLPClassifier((128, 64), **options)
    else:
        network = AutoencoderTransformer(32, (128, 64), **options)
    return _peak_of_fit(network, X, y)


@pytest.mark.parametrize("kind", ["classifier", "autoencoder"])
def test_a_fit_takes_little_memory_beside_its_data(kind, in_new_process):
    peak = in_new_process(_peak_on_images, kind)
    assert peak < 60, "megabytes; the data take 188"


def _peak_on_sparse_rows(solver):
    X = sp.random(8_000, 20_000, density=0.001, format="csr", dtype="float32", rng=0)
    network = AutoencoderTransformer(1, (8,), solver=solver, max_iter=2, random_state=0)
    return _peak_of_fit(network, X)


@pytest.mark.parametrize(("solver", "most"), [("adam", 400), ("lbfgs", 250)])
def test_an_autoencoder_makes_few_sparse_rows_dense(solver, most, in_new_process):
    peak = in_new_process(_peak_on_sparse_rows, solver)
    assert peak < most, "megabytes; as dense rows the data would take 640"


@pytest.mark.parametrize(
    "case",
    ["classifier, early stopping", "classifier, checkpoint", "autoencoder"],
)
def test_a_large_memory_map_is_learned_from_in_little_memory(case, tmp_path, in_new_process):
    # with holes, which take no room on the disk where the file system can
    write_map(tmp_path / "X.npy", 0.6e9, n_features=8192, is_sparse=True)
    with chdir(tmp_path):
        peaks = in_new_process(peaks_on_a_map, case, tmp_path / "X.npy")
    (tmp_path / "X.npy").unlink()
    # a machine takes pages of the file back late: some of them count; all would be 600
    most = peaks["before"] + 450
    assert peaks["fit"] < most, "megabytes of all that the process holds"
    assert peaks["predict"] < most


@pytest.mark.parametrize("holder", HOLDERS)
def test_rows_are_gathered_from_large_columns_without_a_copy(holder, in_new_process):
    peaks = in_new_process(peaks_of_columns, holder, True, 0.4e9)
    assert peaks["fit"] < 130, "megabytes; the data take 400"
    assert peaks["predict"] < 80


def test_parquet_files_are_learned_from_in_the_memory_of_two_windows(tmp_path, in_new_process):
    streams.write(tmp_path, gigabytes=0.08)
    for number, path in enumerate(sorted((tmp_path / "parquet").iterdir()) * 4):  # and 320 more
        shutil.copy(path, tmp_path / "parquet" / f"again_{number}.parquet")
    _, before, peak = in_new_process(streams.measure, tmp_path, (16,), "parquet", 2)
    # two windows are 80 of them, Arrow's and torch's libraries most of the rest
    assert peak - before < 450, "megabytes; the data take 400"
