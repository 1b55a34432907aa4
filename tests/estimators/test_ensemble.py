"""Ensembles: what several networks are together."""

import weakref

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.datasets import load_iris

from sknn_deep import DeepMLPClassifier
from sknn_deep._estimators.ensemble import mean


def test_the_outputs_of_all_networks_are_not_in_memory_together():
    made, n_alive = [], []

    def outputs():
        for i in range(6):
            output = np.full((3, 2), float(i))
            made.append(weakref.ref(output))
            n_alive.append(sum(reference() is not None for reference in made))
            yield output

    assert_array_equal(mean(outputs()), np.full((3, 2), 2.5))
    assert max(n_alive) <= 3


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_networks", [1, 2, 9])
def test_the_mean_is_the_same_for_one_row_and_for_many(n_networks, dtype):
    outputs = list(np.random.default_rng(0).normal(size=(n_networks, 50, 1)).astype(dtype))
    together = mean(outputs)
    assert together.dtype == dtype
    assert_array_equal(together[:1], mean([output[:1] for output in outputs]))
    np.testing.assert_allclose(together, np.mean(outputs, axis=0), rtol=1e-4)


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer. Maximum iterations")
@pytest.mark.parametrize("solver", ["adam", "adamw"])
def test_verbose_names_the_networks(solver, capsys):
    X, y = load_iris(return_X_y=True)
    ensemble = DeepMLPClassifier((4,), n_networks=2, solver=solver, max_iter=1, verbose=True)
    ensemble.fit(X, y).partial_fit(X, y)
    lines = capsys.readouterr().out.splitlines()
    names = [line.partition(": Iteration 1, loss = ")[0] for line in lines]
    assert names == 2 * ["Network 1 of 2", "Network 2 of 2"]
