"""What a fit takes beside its data, measured in a process of its own."""

import subprocess
import sys

import pytest

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
options = {"max_iter": int(sys.argv[2]), "random_state": 0, "device": "cpu"}
kinds = {"classifier": DeepMLPClassifier((128, 64), **options),
         "autoencoder": AutoencoderTransformer(32, (128, 64), **options)}
network = kinds[sys.argv[1]]
network.fit(X[:400], y[:400])
Path("/proc/self/clear_refs").write_text("5")
before = resident("VmRSS")
network.fit(X, y)
print(resident("VmHWM") - before)
"""


@pytest.mark.parametrize("n_epochs", [1, 3])
@pytest.mark.parametrize("kind", ["classifier", "autoencoder"])
def test_a_fit_takes_little_memory_beside_its_data(kind, n_epochs):
    command = [sys.executable, "-c", PEAK_OF_A_FIT, kind, str(n_epochs)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert float(answer.stdout) < 60, "megabytes; the data take 179"
