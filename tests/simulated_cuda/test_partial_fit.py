"""What a call of partial_fit has recorded serves the calls after it."""

import copy
import pickle

import numpy as np
import pytest
import torch
from conftest import output
from numpy.testing import assert_allclose, assert_array_equal

from sknn_deep import DeepMLPClassifier
from sknn_deep._engine.engine import Engine
from tests.simulated_cuda.device import counted
from tests.simulated_cuda.pairs import HearsBatches, X, new, target_of

pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer. Maximum iterations")
N_CALLS = 6


def _learn(network, n_calls=N_CALLS, rows=lambda call: np.arange(len(X)), weight=None):
    """Return a tally of each call."""
    y, tallies = target_of(type(network)), []
    first = {"classes": [0, 1, 2]} if isinstance(network, DeepMLPClassifier) else {}
    for call in range(n_calls):
        own = rows(call)
        targets = [] if y is None else [y[own]]
        weights = {} if weight is None else {"sample_weight": weight[own]}
        with counted() as tally:
            network.partial_fit(X[own], *targets, **first, **weights)
        tallies.append(tally)
    return tallies


# 90 rows in batches of 20: pieces of four and of the last, shorter batch
def _more_and_fewer(call):
    return np.arange([90, 20, 40, 60, 80, 90][call % 6])


WAYS = {
    "plain": ({}, {}),
    "weighted": ({}, {"weight": np.linspace(0.5, 2, len(X))}),
    "adamw": ({"solver": "adamw"}, {}),
    "sgd": ({"solver": "sgd", "learning_rate": "invscaling"}, {}),
    "batch": ({"normalization": "batch"}, {}),
    "sizes": ({}, {"rows": _more_and_fewer}),
}


@pytest.mark.parametrize("way", WAYS)
def test_calls_go_on_as_on_the_cpu(way, kind):
    params, options = WAYS[way]
    of_cpu, of_device = (new(kind, device, **params) for device in ("cpu", "cuda"))
    for network in (of_cpu, of_device):
        _learn(network, 8, **options)
    assert_allclose(of_device.loss_curve_, of_cpu.loss_curve_, rtol=1e-6)
    expected = output(of_cpu, X)
    assert_allclose(output(of_device, X), expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


def test_steps_are_recorded_once_and_replayed_in_all_later_calls(kind):
    tallies = _learn(new(kind))
    # two chunks: four batches, and the shorter one
    assert [tally.replays for tally in tallies] == [0, 2, 2, 2, 2, 2]
    assert [tally.recorded > 0 for tally in tallies] == [False, True] + [False] * 4


def test_graphs_outlive_the_lengths_of_chunks(kind):
    sizes = [90, 20, 40, 60, 80, 90]
    tallies = _learn(new(kind), 18, _more_and_fewer)
    # chunks of 4, 2, 1 batches of 20 rows and of one of 10
    n_chunks = {90: 2, 20: 1, 40: 1, 60: 2, 80: 1}
    for size, tally in zip(sizes, tallies[-6:], strict=True):
        assert tally.replays == n_chunks[size]
        assert tally.recorded == 0


def test_dropout_draws_as_without_graphs(kind):
    networks = [
        new(kind, dropout=0.3, callbacks=callbacks) for callbacks in (None, [HearsBatches()])
    ]
    for network in networks:
        _learn(network)
    assert_allclose(networks[0].loss_curve_, networks[1].loss_curve_, rtol=1e-9)
    assert len(set(networks[0].loss_curve_)) == N_CALLS


CHANGES = {
    "alpha": {"alpha": 0.5},
    "rate": {"learning_rate_init": 0.1},
    "betas": {"beta_1": 0.5},
    "clipped": {"max_grad_norm": 0.1},
    "batch size": {"batch_size": 45},
}


@pytest.mark.parametrize("name", CHANGES)
def test_parameters_may_change_between_calls(name, kind):
    networks = [new(kind, device) for device in ("cpu", "cuda")]
    for network in networks:
        _learn(network, 4)
        network.set_params(**CHANGES[name])
        _learn(network, 4)
    assert_allclose(networks[1].loss_curve_, networks[0].loss_curve_, rtol=1e-6)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda n: pickle.loads(pickle.dumps(n))])
def test_copies_have_nothing_of_it(copied, kind):
    network = new(kind)
    _learn(network, 3)
    twin = copied(network)
    assert "_kept_engine" in vars(network)
    assert "_kept_engine" not in vars(twin)
    for either in (network, twin):
        _learn(either, 3)
    assert_allclose(twin.loss_curve_, network.loss_curve_, rtol=1e-9)


def test_moving_and_fitting_let_go_of_it(kind):
    network = new(kind, max_iter=2)
    _learn(network, 3)
    network.fit(X, target_of(kind))
    assert "_kept_engine" not in vars(network)
    network = new(kind)
    _learn(network, 3)
    network._move_to(torch.device("cpu"))
    assert "_kept_engine" not in vars(network)


def test_a_call_that_fails_lets_go_of_it_and_changes_nothing(kind, monkeypatch):
    network, untouched = new(kind), new(kind)
    _learn(network, 3)
    _learn(untouched, 3)
    with monkeypatch.context() as patched:
        patched.setattr(Engine, "train_epoch", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            _learn(network, 1)
    assert "_kept_engine" not in vars(network)
    assert_array_equal(output(network, X), output(untouched, X))
    for either in (network, untouched):
        _learn(either, 3)
    assert_allclose(network.loss_curve_, untouched.loss_curve_, rtol=1e-9)


def test_calls_of_ever_other_sizes_do_not_fill_the_memory(kind):
    network = new(kind, batch_size="auto")
    _learn(network, 40, lambda call: np.arange(20 + call))
    assert network._kept_engine.engine.n_workspaces <= 25
