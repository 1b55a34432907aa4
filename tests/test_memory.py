"""What a fit takes beside its data, measured in a process of its own."""

import subprocess
import sys
from contextlib import chdir

import pytest

from benchmarks import streams
from benchmarks.memory import HOLDERS, in_fresh_process, peaks_of_columns, peaks_on_a_map, write_map

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc"),
]

# The peak starts after a fit of a few rows, which loads what libraries load at their first use.
PEAK_OF_A_FIT = """
import sys, warnings
from pathlib import Path
import numpy as np
from sknn_deep import AutoencoderTransformer, DeepMLPClassifier

def resident(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(field))) / 1024

warnings.simplefilter("ignore")
X = np.random.default_rng(0).random((60_000, 784), dtype=np.float32)
y = np.arange(len(X)) % 10
options = {"max_iter": 2, "random_state": 0, "device": "cpu"}
kinds = {"classifier": DeepMLPClassifier((128, 64), **options),
         "autoencoder": AutoencoderTransformer(32, (128, 64), **options)}
network = kinds[sys.argv[1]]
network.fit(X[:400], y[:400])
Path("/proc/self/clear_refs").write_text("5")
before = resident("VmRSS")
network.fit(X, y)
print(resident("VmHWM") - before)
"""


@pytest.mark.parametrize("kind", ["classifier", "autoencoder"])
def test_a_fit_takes_little_memory_beside_its_data(kind):
    command = [sys.executable, "-c", PEAK_OF_A_FIT, kind]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert float(answer.stdout) < 60, "megabytes; the data take 179"


PEAK_ON_SPARSE_ROWS = """
import sys, warnings
from pathlib import Path
import scipy.sparse as sp
from sknn_deep import AutoencoderTransformer

def resident(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(field))) / 1024

warnings.simplefilter("ignore")
X = sp.random(8_000, 20_000, density=0.001, format="csr", dtype="float32", rng=0)
network = AutoencoderTransformer(1, (8,), solver=sys.argv[1], max_iter=2, random_state=0)
network.fit(X[:400])
Path("/proc/self/clear_refs").write_text("5")
before = resident("VmRSS")
network.fit(X)
print(resident("VmHWM") - before)
"""


@pytest.mark.parametrize(("solver", "most"), [("adam", 400), ("lbfgs", 150)])
def test_an_autoencoder_makes_few_sparse_rows_dense(solver, most):
    command = [sys.executable, "-c", PEAK_ON_SPARSE_ROWS, solver]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert float(answer.stdout) < most, "megabytes; as dense rows the data would take 640"


@pytest.mark.parametrize(
    "case",
    ["classifier, early stopping", "classifier, checkpoint", "autoencoder"],
)
def test_a_large_memory_map_is_learned_from_in_little_memory(case, tmp_path):
    # with holes, which take no room on the disk where the file system can
    write_map(tmp_path / "X.npy", 0.6e9, n_features=8192, is_sparse=True)
    with chdir(tmp_path):
        peaks = in_fresh_process(peaks_on_a_map, case, tmp_path / "X.npy")
    (tmp_path / "X.npy").unlink()
    # a machine takes pages of the file back late: some of them count; all would be 600
    most = peaks["before"] + 450
    assert peaks["fit"] < most, "megabytes of all that the process holds"
    assert peaks["predict"] < most


@pytest.mark.parametrize("holder", HOLDERS)
def test_rows_are_gathered_from_large_columns_without_a_copy(holder):
    peaks = in_fresh_process(peaks_of_columns, holder, True, 0.4e9)
    assert peaks["fit"] < 130, "megabytes; the data take 400"
    assert peaks["predict"] < 80


def test_parquet_files_are_learned_from_in_the_memory_of_two_windows(tmp_path):
    streams.write(tmp_path, gigabytes=0.6)
    _, before, peak = in_fresh_process(streams.measure, tmp_path, (128, 64), "parquet", 2)
    # two windows are 80 of them, Arrow's and torch's libraries most of the rest
    assert peak - before < 450, "megabytes; the data take 600"
