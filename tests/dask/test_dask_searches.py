"""Searches under joblib's Dask backend: the data travel once, and a lost worker costs its stack."""

import os
import pickle
from contextlib import suppress

import joblib
import numpy as np
import pytest
from numpy.testing import assert_array_equal

distributed = pytest.importorskip("distributed")

from sknn_deep import DeepMLPRegressor  # noqa: E402
from sknn_deep.model_selection import FusedGridSearchCV, _evaluation  # noqa: E402

RNG = np.random.default_rng(0)
X = RNG.normal(size=(300, 20))
Y = X[:, 0] - X[:, 1] ** 2
GRID = {"alpha": [0.0, 1e-3], "hidden_layer_sizes": [(4,), (5,), (6,)]}
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


class EndsWorker:
    """A score that ends the worker which is the first to score, but never the test's process."""

    def __init__(self, path=None):
        self.path, self.pid = path, os.getpid()

    def __call__(self, estimator, X, y):
        if self.path is not None and os.getpid() != self.pid:
            with suppress(FileExistsError):
                self.path.touch(exist_ok=False)
                os._exit(1)
        return float(estimator.score(X, y))


def scores(path=None):
    network = DeepMLPRegressor(max_iter=3, random_state=0)
    search = FusedGridSearchCV(network, GRID, scoring=EndsWorker(path), cv=3, refit=False)
    return search.fit(X, Y).cv_results_["mean_test_score"]


def test_scores_are_those_of_one_process(client):
    with joblib.parallel_config(backend="dask"):
        found = scores()
    assert_array_equal(found, scores())


def test_a_lost_worker_costs_no_more_than_its_stack(client, tmp_path):
    # of a cluster that another test has left with one worker joblib makes no use
    client.wait_for_workers(2, timeout=300)
    client.amm.stop()  # or Dask removes all copies of what is scattered but one
    with joblib.parallel_config(backend="dask", scatter=[X, Y]):
        found = scores(tmp_path / "ended")
    client.amm.start()
    assert (tmp_path / "ended").exists()
    client.wait_for_workers(2, timeout=300)
    assert_array_equal(found, scores())


def test_the_data_are_not_part_of_every_task(monkeypatch):
    make, sizes = _evaluation._task, []

    def measured(*args):
        function, parts, options = make(*args)
        sizes.append(len(pickle.dumps(parts[0])))
        return function, parts, options

    monkeypatch.setattr(_evaluation, "_task", measured)
    scores()
    assert sizes
    assert max(sizes) < X.nbytes / 2  # the numbers of the rows of each fold are
