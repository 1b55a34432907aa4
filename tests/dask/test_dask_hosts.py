"""Workers that know each other by their addresses alone."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from numpy.testing import assert_allclose

distributed = pytest.importorskip("distributed")
da = pytest.importorskip("dask.array")

from sknn_deep.dask import DaskDeepMLPRegressor  # noqa: E402

RNG = np.random.default_rng(0)
X = RNG.normal(size=(80, 4))
Y = X[:, 0] - X[:, 1] ** 2
NAMESPACE = ["unshare", "--user", "--map-root-user", "--net"]
_listeners: set[tuple[str, int]] = set()
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def listening():
    """Return the addresses at which this process listens."""
    connections = psutil.Process().net_connections("tcp")
    return {(c.laddr.ip, c.laddr.port) for c in connections if c.status == psutil.CONN_LISTEN}


def keep_listeners(estimator, X, y):
    """Score nothing; remember who listens while the ranks train."""
    _listeners.update(listening())
    return 0.0


@pytest.mark.skipif(sys.platform != "linux", reason="others have one loopback address only")
def test_each_rank_listens_at_the_address_of_its_worker():
    hosts = ("127.0.0.2", "127.0.0.3")
    workers = {
        host: {"cls": distributed.Worker, "options": {"host": host, "nthreads": 1}}
        for host in hosts
    }
    scheduler = {
        "cls": distributed.Scheduler,
        "options": {"host": "127.0.0.1", "port": 0, "dashboard_address": ":0"},
    }
    with (
        distributed.SpecCluster(workers, scheduler) as cluster,
        distributed.Client(cluster),
    ):
        before = listening()
        model = DaskDeepMLPRegressor(
            hidden_layer_sizes=(6,), max_iter=1, early_stopping=True, scoring=keep_listeners,
            random_state=0, dtype="float64",
        ).fit(da.from_array(X, chunks=(20, 4)), da.from_array(Y, chunks=20))  # fmt: skip
        assert set(hosts) <= {host for host, _ in _listeners - before}
    assert_allclose(model.module_.flat, model.to_local().fit(X, Y).module_.flat, rtol=1e-10)


def test_two_hosts_train_one_network():
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip("makes two hosts by Linux' unshare and ip, which are not here")
    card = "ip link add veth0 type veth peer name veth1".split()
    made = subprocess.run([*NAMESPACE, *card], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"network namespaces are not allowed here: {made.stderr.strip()}")
    root = Path(__file__).parents[2]
    found = subprocess.run(
        [*NAMESPACE, sys.executable, "-m", "tests.dask.two_hosts"],
        cwd=root, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr[-3000:]
