"""The same seed gives the same bits: in other processes, workers, and after a pause on disk."""

import copy
import hashlib
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import sknn_deep
from sknn_deep import AutoencoderTransformer, DeepMLPClassifier, DeepMLPRegressor
from sknn_deep.model_selection import FusedGridSearchCV, FusedRandomizedSearchCV, cross_validate

pytestmark = pytest.mark.filterwarnings(
    "ignore:Stochastic Optimizer. Maximum iterations", "ignore:lbfgs failed to converge"
)

SMALL = {"hidden_layer_sizes": (8, 4), "max_iter": 3, "random_state": 0, "device": "cpu"}
RNG = np.random.RandomState(0)
X = RNG.normal(size=(60, 5))
LABELS = RNG.randint(0, 3, 60)
NAMES = np.array(["red", "green", "blue"])[LABELS]
CASES = {
    "plain": (DeepMLPClassifier, {}),
    "names of classes": (DeepMLPClassifier, {"class_weight": {"red": 2.0, "blue": 0.5}}),
    "sgd": (DeepMLPRegressor, {"solver": "sgd", "learning_rate": "adaptive"}),
    "muon": (DeepMLPRegressor, {"solver": "muon"}),
    "torch's optimiser": (DeepMLPClassifier, {"solver": torch.optim.RMSprop}),
    "one cycle": (DeepMLPClassifier, {"learning_rate": "one_cycle", "batch_size": 7}),
    "lbfgs": (DeepMLPRegressor, {"solver": "lbfgs"}),
    "dropout": (DeepMLPClassifier, {"dropout": 0.25, "normalization": "batch"}),
    "early stopping": (DeepMLPClassifier, {"early_stopping": True, "validation_fraction": 0.3}),
    "single precision": (DeepMLPRegressor, {"dtype": "float32"}),
    "networks": (DeepMLPClassifier, {"n_networks": 4, "dropout": 0.1}),
    "autoencoder": (AutoencoderTransformer, {"n_components": 2}),
    "noise": (AutoencoderTransformer, {"n_components": 2, "noise": 0.2, "noise_kind": "masking"}),
    "variational": (AutoencoderTransformer, {"n_components": 2, "variational": True}),
}


def _fitted(name, **params):
    cls, own = CASES[name]
    y = NAMES if name == "names of classes" else LABELS
    return cls(**{**SMALL, **own, **params}).fit(X, y)


def _learned(estimator):
    """Return all weights and running statistics as one array."""
    return np.concatenate(
        [
            value.numpy().ravel().astype(np.float64)
            for network in getattr(estimator, "estimators_", [estimator])
            for value in network.module_.state_dict().values()
        ]
    )


def _digests():
    """Return a fingerprint of what each of the cases learns, and of a search."""
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for name in CASES:
            found[name] = hashlib.sha256(_learned(_fitted(name)).tobytes()).hexdigest()
        scores = _search().cv_results_["mean_test_score"]
    found["search"] = hashlib.sha256(scores.tobytes()).hexdigest()
    return found


def _search(cls=FusedGridSearchCV, **options):
    grid = {"alpha": [1e-4, 1e-2], "dropout": [0.0, 0.2], "hidden_layer_sizes": [(4,), (8, 4)]}
    network = DeepMLPClassifier(**SMALL)
    return cls(network, grid, cv=3, **options).fit(X, LABELS)


# --------------------------------------------------------------------------------------
# processes


@pytest.mark.slow
def test_another_process_learns_the_same_whatever_its_hashes():
    hash_seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    script = "import test_determinism as t; print(t._digests())"
    command = [sys.executable, "-W", "ignore", "-c", script]
    answer = subprocess.run(
        command,
        cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.strip() == str(_digests())


# --------------------------------------------------------------------------------------
# generators of others


def test_what_was_fitted_before_makes_no_difference():
    expected = {name: _learned(_fitted(name)) for name in CASES}
    for name in reversed(CASES):
        assert_array_equal(_learned(_fitted(name)), expected[name])


# --------------------------------------------------------------------------------------
# workers


@pytest.mark.slow
@pytest.mark.parametrize("search", [GridSearchCV, FusedGridSearchCV, FusedRandomizedSearchCV])
def test_searches_find_the_same_with_two_workers(search):
    options = {"n_iter": 6, "random_state": 0} if search is FusedRandomizedSearchCV else {}
    one, two = (_search(search, n_jobs=n_jobs, **options) for n_jobs in (1, 2))
    assert one.cv_results_["params"] == two.cv_results_["params"]
    for key in ("split0_test_score", "split1_test_score", "split2_test_score", "rank_test_score"):
        assert_array_equal(one.cv_results_[key], two.cv_results_[key])
    assert one.best_params_ == two.best_params_
    assert_array_equal(_learned(one.best_estimator_), _learned(two.best_estimator_))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dropout", "networks", "early stopping"])
def test_cross_validation_scores_the_same_with_two_workers(name):
    cls, params = CASES[name]
    pipeline = make_pipeline(StandardScaler(), cls(**{**SMALL, **params}))
    scores = [
        cross_val_score(pipeline, X, LABELS, cv=3, scoring="neg_log_loss", n_jobs=n_jobs)
        for n_jobs in (1, 2)
    ]
    assert_array_equal(*scores)
    fused = [
        cross_validate(pipeline, X, LABELS, cv=3, scoring="neg_log_loss", n_jobs=n_jobs)
        for n_jobs in (1, 2)
    ]
    # how many networks are a stack rounds their products
    assert_allclose(fused[0]["test_score"], fused[1]["test_score"], rtol=1e-9)
    assert_allclose(fused[0]["test_score"], scores[0], rtol=1e-9)


# --------------------------------------------------------------------------------------
# threads


LARGE = {**SMALL, "hidden_layer_sizes": (256, 64)}
CLASSES = [DeepMLPClassifier, DeepMLPRegressor, AutoencoderTransformer]


@pytest.mark.parametrize("params", [{}, {"solver": "lbfgs"}, {"dropout": 0.2}], ids=str)
@pytest.mark.parametrize("cls", CLASSES)
def test_on_one_thread_large_layers_give_the_same_bits_each_time(
    cls, params, digits, torch_threads
):
    torch_threads(1)
    first, second = (cls(**{**LARGE, **params}).fit(digits.X, digits.y) for _ in range(2))
    assert_array_equal(_learned(first), _learned(second))


@pytest.mark.parametrize("n_threads", [2, 3])
@pytest.mark.parametrize("cls", CLASSES)
def test_another_number_of_threads_changes_no_more_than_rounding(
    cls, n_threads, digits, torch_threads
):
    """Other kinds of fit are compared in ``hardware/test_threads.py``."""
    networks = []
    for number in (1, n_threads):
        torch_threads(number)
        networks.append(cls(**LARGE).fit(digits.X, digits.y))
    assert_allclose(networks[0].loss_curve_, networks[1].loss_curve_, rtol=1e-8)


@pytest.mark.parametrize("name", CASES)
def test_small_networks_have_the_same_bits_on_any_number_of_threads(name, torch_threads):
    """They run on one thread whatever the number."""
    torch_threads(1)
    expected = _learned(_fitted(name))
    torch_threads(2)
    assert_array_equal(_learned(_fitted(name)), expected)


# --------------------------------------------------------------------------------------
# a pause in the middle


def _through_file(estimator, folder):
    sknn_deep.save(estimator, folder / "saved")
    return sknn_deep.load(folder / "saved")


def _through_joblib(estimator, folder):
    joblib.dump(estimator, folder / "dumped")
    return joblib.load(folder / "dumped")


PAUSES = {
    "save and load": _through_file,
    "pickle": lambda estimator, folder: pickle.loads(pickle.dumps(estimator)),
    "joblib": _through_joblib,
    "copy": lambda estimator, folder: copy.deepcopy(estimator),
}


@pytest.mark.parametrize("way", PAUSES)
@pytest.mark.parametrize("name", ["names of classes", "networks", "variational"])
def test_partial_fit_goes_on_with_the_same_bits_after_a_pause(name, way, tmp_path):
    """All of them go through the same state, which ``test_persistence.py`` tests."""
    y = NAMES if name == "names of classes" else LABELS
    uninterrupted, paused = _fitted(name), _fitted(name)
    for _ in range(3):
        uninterrupted.partial_fit(X, y)
        paused = PAUSES[way](paused.partial_fit(X, y), tmp_path)
    assert_array_equal(_learned(paused), _learned(uninterrupted))


@pytest.mark.parametrize("way", PAUSES)
@pytest.mark.parametrize("name", ["dropout", "networks", "noise"])
def test_a_warm_start_goes_on_with_the_same_bits_after_a_pause(name, way, tmp_path):
    """With a generator that is drawn from on and on, which is kept, too."""
    y = NAMES if name == "names of classes" else LABELS
    uninterrupted, paused = (
        _fitted(name, warm_start=True, random_state=np.random.RandomState(3)) for _ in range(2)
    )
    for _ in range(2):
        uninterrupted.fit(X, y)
        paused = PAUSES[way](paused.fit(X, y), tmp_path)
    assert_array_equal(_learned(paused), _learned(uninterrupted))
