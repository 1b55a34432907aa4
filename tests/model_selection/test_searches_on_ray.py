"""Searches under joblib's Ray backend, where Ray is installed: it is no dependency of the tests."""

import os

import joblib
import numpy as np
import pytest
from joblib.pool import PicklingPool
from numpy.testing import assert_array_equal
from sklearn.model_selection import GridSearchCV

from sknn_deep import DeepMLPRegressor
from sknn_deep.model_selection import FusedGridSearchCV

ray = pytest.importorskip("ray")
from ray.util.joblib import register_ray  # noqa: E402

RNG = np.random.default_rng(0)
X = RNG.normal(size=(120, 4))
Y = X[:, 0] - X[:, 1] ** 2
GRID = {"alpha": [0.0, 1e-3], "hidden_layer_sizes": [(4,), (5,)]}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # Ray's own
]


@pytest.fixture(scope="module", autouse=True)
def _cluster():
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    register_ray()
    bases = PicklingPool.__bases__  # Ray puts its own pool in the place of joblib's
    yield
    PicklingPool.__bases__ = bases
    ray.shutdown()


def found_by(search, folder):
    """Return the scores of a search, and the processes that have scored."""

    def score(estimator, X, y):
        (folder / str(os.getpid())).touch()
        return estimator.score(X, y)

    network = DeepMLPRegressor(max_iter=3, random_state=0)
    fitted = search(network, GRID, scoring=score, cv=3, refit=False).fit(X, Y)
    return fitted.cv_results_["mean_test_score"], {int(path.name) for path in folder.iterdir()}


def test_scores_are_those_of_one_process(tmp_path_factory):
    alone, _ = found_by(FusedGridSearchCV, tmp_path_factory.mktemp("alone"))
    with joblib.parallel_config("ray", n_jobs=-1):
        found, processes = found_by(FusedGridSearchCV, tmp_path_factory.mktemp("ray"))
    assert_array_equal(found, alone)
    assert os.getpid() not in processes


@pytest.mark.parametrize("search", [FusedGridSearchCV, GridSearchCV])
def test_ray_is_asked_for_one_process_unless_n_jobs_is_given(search, tmp_path):
    with joblib.parallel_config("ray"):
        _, processes = found_by(search, tmp_path)
    assert processes == {os.getpid()}
