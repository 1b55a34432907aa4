"""What becomes of a fit whose worker is lost, that fails, that is interrupted, or is not alone."""

import os
import shutil
import subprocess
import sys
import time
from threading import Thread
from traceback import walk_stack

import numpy as np
import pytest
from numpy.testing import assert_allclose
from skorch.callbacks import Callback

distributed = pytest.importorskip("distributed")
da = pytest.importorskip("dask.array")

from sknn_deep.callbacks import TrainingCheckpoint  # noqa: E402
from sknn_deep.dask import DaskDeepMLPRegressor, _fits  # noqa: E402

RNG = np.random.default_rng(0)
X = RNG.normal(size=(120, 4))
Y = X[:, 0] - X[:, 1] ** 2
SMALL = {
    "hidden_layer_sizes": (6,), "max_iter": 6, "batch_size": 30, "random_state": 0,
    "early_stopping": True, "n_iter_no_change": np.inf, "dtype": "float64",
}  # fmt: skip
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def regressor(**options):
    return DaskDeepMLPRegressor(**SMALL | options)


def given(x=X):
    return da.from_array(x, chunks=(40, 4)), da.from_array(Y, chunks=40)


def ends_within(seconds, is_at_end):
    """Wait for something that comes soon or never."""
    end = time.monotonic() + seconds
    while not is_at_end():
        assert time.monotonic() < end
        time.sleep(0.05)


def is_idle(client):
    return lambda: not any(client.processing().values())


class EndsWorker:
    """A score that ends one of the workers, in the third epoch and once."""

    def __init__(self, path):
        self.path = path

    def __call__(self, estimator, X, y):
        if distributed.get_worker().name == 1:
            with open(self.path, "a") as file:
                file.write(".")
            if os.path.getsize(self.path) == 3:
                os._exit(1)
        return float(np.mean(estimator.predict(X)))


class Count(Callback):
    """Writes a character for each epoch, on the first worker."""

    def __init__(self, path):
        self.path = path

    def on_epoch_end(self, net, **kwargs):
        with open(self.path, "a") as file:
            file.write(".")


def test_two_fits_at_once_do_not_wait_for_each_other(client):
    models = [regressor(random_state=seed) for seed in (0, 1)]
    threads = [Thread(target=model.fit, args=given(), daemon=True) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(600)
    for model in models:
        alone = model.to_local().fit(X, Y)
        assert_allclose(model.module_.flat, alone.module_.flat, rtol=1e-10)


def fitted_in_a_task():
    return regressor().fit(*given()).to_local()


def test_a_task_may_fit(client):
    model = client.submit(fitted_in_a_task, pure=False).result(timeout=600)
    assert_allclose(model.module_.flat, model.fit(X, Y).module_.flat, rtol=1e-10)


def test_an_error_of_one_worker_is_that_of_the_fit(client):
    x = X.copy()
    x[100, 2] = np.nan
    kept, model = set(client.who_has()), regressor().fit(*given())
    before = model.module_
    with pytest.raises(ValueError, match="Input X contains NaN"):
        model.fit(*given(x))
    assert model.module_ is before
    ends_within(600, is_idle(client))
    ends_within(600, lambda: set(client.who_has()) <= kept)  # nothing more


def test_workers_stop_where_the_user_interrupts(client, monkeypatch):
    wait, n_looks = _fits._wait_for_one, []

    def interrupt(futures):
        if len(n_looks) == 2:
            raise KeyboardInterrupt
        n_looks.append(wait(futures))

    with monkeypatch.context() as patch:
        patch.setattr(_fits, "_wait_for_one", interrupt)
        with pytest.raises(KeyboardInterrupt):
            regressor(max_iter=10**6, tol=0.0).fit(*given())
    assert len(n_looks) == 2
    ends_within(600, lambda: not any(client.run(is_training).values()))
    regressor().fit(*given())


def test_workers_stop_where_the_client_is_gone(client):
    own = distributed.Client(client.scheduler.address, set_as_default=False)
    model, errors = regressor(max_iter=10**6, tol=0.0, client=own), []

    def fit():
        try:
            model.fit(*given())
        except RuntimeError as error:
            errors.append(str(error))

    thread = Thread(target=fit, daemon=True)
    thread.start()
    ends_within(600, lambda: any(client.run(is_training).values()))
    own.close()
    thread.join(600)
    assert "was closed during the fit" in errors[0]
    ends_within(600, lambda: not any(client.run(is_training).values()))


def is_training():
    """Tell whether some thread of a worker is a rank."""
    frames = [inner for frame in sys._current_frames().values() for inner in walk_stack(frame)]
    return any(inner.f_code.co_name == "be_rank" for inner, _ in frames)


def test_what_the_first_worker_warns_of_is_warned_of_here(client):
    with pytest.warns(UserWarning, match="Got `batch_size` less than 1 or larger than"):
        regressor(batch_size=500).fit(*given())


def certificate(path):
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    subprocess.run(
        [*command, "-keyout", path / "key.pem", "-out", path / "cert.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    return str(path / "cert.pem"), str(path / "key.pem")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_a_cluster_with_tls_is_trained_on_with_a_warning(tmp_path):
    cert, key = certificate(tmp_path)
    own = {
        f"tls_{role}_{kind}": path
        for role in ("client", "scheduler", "worker")
        for kind, path in (("cert", cert), ("key", key))
    }
    security = distributed.Security(tls_ca_file=cert, require_encryption=True, **own)
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, protocol="tls://",
            security=security, dashboard_address=":0",
        ) as cluster,
        distributed.Client(cluster, security=security) as own_client,
        pytest.warns(UserWarning, match="This cluster's connections are encrypted"),
    ):  # fmt: skip
        model = regressor(client=own_client).fit(*given())
    assert_allclose(model.module_.flat, model.to_local().fit(X, Y).module_.flat, rtol=1e-10)


def test_a_lost_worker_is_named_and_the_training_goes_on_from_a_checkpoint(
    client, placed, tmp_path
):
    scoring, n_epochs = EndsWorker(tmp_path / "scores"), tmp_path / "epochs"
    callbacks = [Count(n_epochs), TrainingCheckpoint(tmp_path / "kept")]
    model = regressor(scoring=scoring, callbacks=callbacks)
    data = [placed(rows, (40, 40, 40), may_move=True) for rows in (X, Y)]
    lost = next(a for a, w in client.scheduler_info()["workers"].items() if w["name"] == 1)
    with pytest.raises(RuntimeError, match=f"1 of the 2 workers .* was lost: {lost}"):
        model.fit(*data)
    assert not hasattr(model, "module_")
    client.wait_for_workers(2, timeout=300)
    model.fit(*data)
    # the third may have come to its end without being kept
    assert os.path.getsize(n_epochs) in (6, 7)
    whole = regressor(scoring=scoring).fit(*data)
    assert_allclose(model.module_.flat, whole.module_.flat, rtol=1e-10)
