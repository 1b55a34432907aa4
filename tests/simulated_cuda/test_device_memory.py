"""Memory of the device: nothing is left behind, and a fit that lacks some leaves no trace."""

import gc
import pickle
import warnings

import pytest
import torch
from conftest import KINDS, output
from numpy.testing import assert_allclose, assert_array_equal

from sknn_deep import DeepMLPClassifier, DeepMLPRegressor
from sknn_deep._engine import batches
from sknn_deep._hardware.device import OutOfMemoryError
from sknn_deep.model_selection import FusedGridSearchCV, cross_validate
from tests.simulated_cuda.device import limited_memory, needed_bytes
from tests.simulated_cuda.pairs import X, new, target_of

pytestmark = pytest.mark.filterwarnings(
    "ignore:Stochastic Optimizer. Maximum iterations", "ignore:lbfgs failed to converge"
)
# the third epoch is the first that replays a graph
SHORT = {"max_iter": 3}
FITS = {
    "plain": SHORT,
    "with moments": {"solver": "adamw", **SHORT},
    "lbfgs": {"solver": "lbfgs", **SHORT},
    "random": {"dropout": 0.2, "normalization": "batch", **SHORT},
    "early stopping": {"early_stopping": True, **SHORT},
}


@pytest.fixture
def used():
    """Offer a function that returns the bytes in use, beside those in use now."""
    gc.collect()
    gc.freeze()  # what is there already need not be looked through each time
    before = torch.cuda.memory_allocated()

    def used_since():
        gc.collect()
        return torch.cuda.memory_allocated() - before

    return used_since


# --------------------------------------------------------------------------------------
# nothing is left behind


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("name", FITS)
def test_a_network_keeps_its_weights_and_moments_only(name, streamed, kind, used, monkeypatch):
    if streamed:
        monkeypatch.setattr(batches, "_RESIDENT_SHARE", 0.0)
    network = new(kind, **FITS[name]).fit(X, target_of(kind))
    output(network, X)
    flat = network.module_.flat
    # weights, gradients and moments; statistics of a layer are a few small tensors
    assert used() < 4 * flat.numel() * flat.element_size() + 12 * 512
    del network, flat
    assert used() == 0


def test_searches_leave_nothing_behind(kind, used):
    y = target_of(kind)
    search = FusedGridSearchCV(new(kind), {"alpha": [1e-4, 0.1]}, cv=2).fit(X, y)
    result = cross_validate(new(kind), X, y, cv=3, return_estimator=True)
    assert {network.device_ for network in result["estimator"]} == {"cpu"}
    flat = search.best_estimator_.module_.flat
    assert used() < 4 * flat.numel() * flat.element_size() + 12 * 512
    del search, flat
    assert used() == 0


@pytest.mark.parametrize("kind", [DeepMLPClassifier, DeepMLPRegressor])
def test_ensembles_leave_nothing_behind(kind, used):
    ensemble = new(kind, n_networks=3).fit(X, target_of(kind))
    output(ensemble, X)
    del ensemble
    assert used() == 0


def test_a_fit_that_fails_leaves_nothing_behind(kind, used):
    def fail(*args):
        raise ValueError("no score")

    with pytest.raises(ValueError, match="no score"):
        new(kind, early_stopping=True, scoring=fail).fit(X, target_of(kind))
    assert used() == 0


# --------------------------------------------------------------------------------------
# memory runs out


def _fits_at_every_size(fit):
    """Yield what came of a fit with as much memory as the last one turned out to need at least.

    That is the text of an error, until it is what the fit returns; then warnings end, too.
    """
    limit = torch.cuda.memory_allocated()
    while True:
        with limited_memory(limit), warnings.catch_warnings(record=True) as caught:
            warnings.filterwarnings("always", "A training step could not be recorded")
            warnings.filterwarnings("always", "A stack of . networks does not fit")
            try:
                result = fit()
            except OutOfMemoryError as error:
                result = str(error)
        yield result
        if not isinstance(result, str) and not caught:
            return
        assert needed_bytes() > limit
        limit = needed_bytes()


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *((DeepMLPClassifier, name) for name in FITS),
        *((kind, name) for kind in list(KINDS.values())[1:] for name in ("plain", "random")),
    ],
)
def test_what_was_learned_before_stays_at_every_size(name, kind, used):
    y = target_of(kind)
    network = new(kind, "cpu").fit(X, y)
    expected, state = output(network, X), pickle.dumps(network)
    losses = new(kind, **FITS[name]).fit(X, y).loss_
    n_failed = 0
    for result in _fits_at_every_size(
        lambda: pickle.loads(state).set_params(device="cuda", **FITS[name]).fit(X, y).loss_
    ):
        if isinstance(result, str):
            n_failed += 1
            assert "Training on device='cuda:0' ran out of memory" in result
        else:
            assert_allclose(result, losses, rtol=1e-9)
        assert used() == 0
    assert n_failed > 5
    again = pickle.loads(state)
    failing = again.set_params(device="cuda", **FITS[name])
    with limited_memory(torch.cuda.memory_allocated()), pytest.raises(OutOfMemoryError):
        failing.fit(X, y)
    assert_array_equal(output(failing, X), expected)


def test_predictions_take_smaller_parts_at_every_size(kind, used):
    network = new(kind).fit(X, target_of(kind))
    expected, held = output(network, X), used()
    n_failed = n_parts = 0
    for result in _fits_at_every_size(lambda: output(network, X)):
        if isinstance(result, str):
            n_failed += 1
            assert "too small to predict a single row" in result
        else:
            n_parts += 1
            assert_allclose(result, expected, rtol=1e-9, atol=1e-12)
        assert used() == held
    assert n_failed
    assert n_parts


def test_searches_find_the_same_at_every_size_that_holds_a_network(kind, used):
    y, grid = target_of(kind), {"alpha": [1e-4, 1e-3, 0.1]}

    def scores():
        search = FusedGridSearchCV(new(kind, **SHORT), grid, cv=2, refit=False, error_score="raise")
        return search.fit(X, y).cv_results_["mean_test_score"]

    expected, n_failed = scores(), 0
    for result in _fits_at_every_size(scores):
        if isinstance(result, str):
            n_failed += 1
        else:
            assert_allclose(result, expected, rtol=1e-6)
        assert used() == 0
    assert n_failed
