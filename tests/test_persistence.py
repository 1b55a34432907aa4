"""Saving and loading: the same bits come back and go on; what is no such file is refused."""

import hashlib
import io
import json
import os
import pickle
import re
import subprocess
import sys
import time
import tracemalloc
import zipfile
from itertools import product
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import loguniform, randint
from sklearn import config_context
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.callback import ProgressBar
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.ensemble import VotingClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import accuracy_score, get_scorer, make_scorer
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV, ShuffleSplit
from sklearn.neighbors import KNeighborsTransformer
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    LabelBinarizer,
    MinMaxScaler,
    OneHotEncoder,
    StandardScaler,
)
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils.metadata_routing import MetadataRequest
from skorch.callbacks import Callback, EpochScoring
from torch import nn

import sknn_deep
from sknn_deep import AutoencoderTransformer, DeepMLPClassifier, DeepMLPRegressor, load, save
from sknn_deep._files import container, skops_parts
from sknn_deep._files.values import Decoder, Encoder
from sknn_deep._training.progress import Progress
from sknn_deep.model_selection import FusedGridSearchCV, FusedRandomizedSearchCV

pytestmark = [
    pytest.mark.filterwarnings("ignore:Stochastic Optimizer. Maximum iterations"),
    pytest.mark.filterwarnings("ignore:lbfgs failed to converge"),
    pytest.mark.filterwarnings("ignore:.*units of the code are the same"),
    pytest.mark.filterwarnings("ignore:The total space of parameters"),
]

DATA = Path(__file__).parent / "data"
QUICK = {"hidden_layer_sizes": (6, 5), "max_iter": 3, "random_state": 0}
TINY = {"hidden_layer_sizes": (2,), "max_iter": 2, "random_state": 0}

X = np.random.RandomState(0).uniform(size=(40, 4))
LABELS = (X[:, 0] > X[:, 1]).astype(int)
TARGET = X[:, 0] * 2 - X[:, 1]


class Classifier(DeepMLPClassifier):
    """A class that no file may name."""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "estimator.safetensors"


def reloaded(estimator, path, **options):
    save(estimator, path)
    return load(path, **options)


def output(estimator, rows=X):
    names = ("predict_proba", "predict", "transform")
    return getattr(estimator, next(name for name in names if hasattr(estimator, name)))(rows)


def assert_same(one, other, where="estimator"):
    """Compare two values to the last bit, through everything that a fitted estimator holds."""
    assert type(one) is type(other), where
    if isinstance(one, nn.Module):
        assert_same(one.config, other.config, f"{where}.config")
        one, other = (
            {name: tensor.cpu().numpy() for name, tensor in module.learned().items()}
            for module in (one, other)
        )
    elif isinstance(one, BaseEstimator | Progress | LabelBinarizer):
        one, other = one.__getstate__() or vars(one), other.__getstate__() or vars(other)
        one, other = dict(one), dict(other)
    elif isinstance(one, np.random.RandomState):
        one, other = one.get_state(), other.get_state()
    elif isinstance(one, MetadataRequest):
        one, other = one._serialize(), other._serialize()
    if isinstance(one, dict):
        assert list(one) == list(other) or sorted(one) == sorted(other), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for i, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{where}[{i}]")
    elif isinstance(one, np.ndarray | np.generic):
        assert one.dtype == other.dtype, where
        assert_array_equal(one, other, err_msg=where)
    elif isinstance(one, torch.Tensor):
        assert_same(one.cpu().numpy(), other.cpu().numpy(), where)
    else:
        assert one == other or (one != one and other != other), where


# What comes back

CLASSIFIERS = {
    "plain": {},
    "no hidden layer": {"hidden_layer_sizes": ()},
    "activations": {"activation": ["gelu", "softplus"]},
    "dropout": {"dropout": [0.2, 0.5]},
    "dropout as an array": {"dropout": np.array([0.2, 0.5])},
    "batch normalization": {"normalization": "batch"},
    "layer normalization": {"normalization": "layer"},
    "early stopping": {"early_stopping": True, "scoring": "loss"},
    "class weights": {"class_weight": {0: 1.0, np.int64(1): 2}},
    "balanced": {"class_weight": "balanced", "label_smoothing": 0.1},
    "ensemble": {"n_networks": 3},
    "generator": {"random_state": np.random.RandomState(3), "dropout": 0.1},
    "sgd": {"solver": "sgd", "learning_rate": "adaptive", "tol": 1.0, "n_iter_no_change": 1},
    "invscaling": {"solver": "sgd", "learning_rate": "invscaling"},
    "adamw": {"solver": "adamw", "weight_decay": 0.1, "max_grad_norm": 1.0},
    "amsgrad": {"solver": "adamw", "solver_params": {"amsgrad": True}},
    "nadam": {"solver": "nadam"},
    "radam": {"solver": "radam"},
    "rmsprop": {"solver": "rmsprop", "solver_params": {"momentum": 0.5, "centered": True}},
    "adagrad": {"solver": "adagrad"},
    "muon": {"solver": "muon"},
    "muon without a hidden layer": {"solver": "muon", "hidden_layer_sizes": ()},
    "class of torch": {"solver": torch.optim.AdamW},
    "torch's L-BFGS": {"solver": torch.optim.LBFGS},
    "lbfgs": {"solver": "lbfgs"},
    "float32": {"dtype": "float32", "device": torch.device("cpu")},
    "bfloat16": {"dtype": "bfloat16"},
    "endless": {"n_iter_no_change": np.inf, "tol": 0.0, "verbose": False},
    "long": {"max_iter": 40, "n_iter_no_change": 100, "hidden_layer_sizes": [3]},
}
REGRESSORS = {
    "plain": {},
    "huber": {"loss": "huber", "huber_delta": 0.5},
    "quantile": {"loss": "quantile", "quantile": 0.9},
    "ensemble": {"n_networks": 2, "solver": "lbfgs"},
}
AUTOENCODERS = {
    "plain": {},
    "decoder of its own": {"decoder_hidden_layer_sizes": (7,), "code_activation": "tanh"},
    "tied": {"tied_weights": True},
    "tied with normalization": {"tied_weights": True, "normalization": "batch"},
    "variational": {"variational": True, "beta": 0.1},
    "contractive": {"contractive": 0.1},
    "gaussian noise": {"noise": 0.1},
    "salt and pepper": {"noise": 0.1, "noise_kind": "salt_pepper"},
    "sparse": {"sparsity": 0.1, "loss": "log_loss"},
    "weighted": {"loss": "huber", "loss_weights": [1.0, 2.0, 0.0, 1.0]},
    "missing values": {"allow_nan": True},
    "ordered": {"order_code": True},
}
FITTED = {
    **{f"classifier, {name}": (DeepMLPClassifier, p, LABELS) for name, p in CLASSIFIERS.items()},
    **{f"regressor, {name}": (DeepMLPRegressor, p, TARGET) for name, p in REGRESSORS.items()},
    **{
        f"autoencoder, {name}": (AutoencoderTransformer, {"n_components": 2, **p}, None)
        for name, p in AUTOENCODERS.items()
    },
    "classifier, three classes": (DeepMLPClassifier, {}, np.arange(40) % 3),
    "classifier, one class": (DeepMLPClassifier, {}, np.zeros(40)),
    "classifier, multilabel": (DeepMLPClassifier, {}, np.column_stack([LABELS, 1 - LABELS])),
    "classifier, multilabel ensemble": (
        DeepMLPClassifier,
        {"n_networks": 2},
        np.column_stack([LABELS, 1 - LABELS]),
    ),
    "regressor, poisson": (DeepMLPRegressor, {"loss": "poisson"}, np.abs(TARGET)),
    "regressor, outputs": (DeepMLPRegressor, {}, X[:, :3]),
}


@pytest.mark.parametrize("name", FITTED)
def test_everything_comes_back_to_the_last_bit(name, path):
    cls, params, y = FITTED[name]
    estimator = cls(**{**QUICK, **params}).fit(X, y)
    loaded = reloaded(estimator, path)
    assert_same(estimator, loaded)
    assert_same(output(estimator), output(loaded))
    assert_same(clone(estimator), clone(loaded))


@pytest.mark.parametrize("name", FITTED)
def test_the_same_estimator_gives_the_same_bytes(name, path, tmp_path):
    cls, params, y = FITTED[name]
    estimator = cls(**{**QUICK, **params}).fit(X, y)
    save(reloaded(estimator, path), tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("cls", [DeepMLPClassifier, DeepMLPRegressor, AutoencoderTransformer])
def test_an_unfitted_estimator_comes_back_unfitted(cls, path):
    estimator = cls(hidden_layer_sizes=[10**9], random_state=np.random.RandomState(1), tol=1e-300)
    loaded = reloaded(estimator, path)
    assert_same(estimator, loaded)
    assert not loaded.__sklearn_is_fitted__()


@pytest.mark.parametrize(
    "labels",
    [
        np.array([2, 7]),
        np.array([2, 7], dtype=np.uint8),
        np.array([2, 7], dtype=">i4"),
        np.array([False, True]),
        np.array([-1.0, 1.0], dtype=np.float32),
        np.array(["b", "änder\N{SNOWMAN}"]),
        np.array(["b", "c", "a much longer name"])[:2],  # its type is wider than its strings
        np.array(["no", "yes"], dtype=object),
    ],
    ids=["int", "uint8", "big-endian", "bool", "float", "str", "wide", "object"],
)
def test_labels_of_every_type_come_back(labels, path):
    classifier = DeepMLPClassifier(**QUICK).fit(X, labels[LABELS])
    loaded = reloaded(classifier, path)
    assert loaded.classes_.dtype == classifier.classes_.dtype.newbyteorder("=")
    assert_array_equal(loaded.classes_, classifier.classes_)
    assert loaded.predict(X).tolist() == classifier.predict(X).tolist()
    assert loaded.score(X, labels[LABELS]) == classifier.score(X, labels[LABELS])


def test_names_of_features_come_back(path):
    frame = pd.DataFrame(X, columns=["a", "b", "ü", "a.b"])
    network = AutoencoderTransformer(2, **QUICK).set_output(transform="pandas").fit(frame)
    loaded = reloaded(network, path)
    assert_same(network, loaded)
    pd.testing.assert_frame_equal(loaded.transform(frame), network.transform(frame))
    with pytest.raises(ValueError, match="feature names should match"):
        loaded.transform(frame.rename(columns={"a": "c"}))


def test_many_names_are_not_in_the_header(path):
    frame = pd.DataFrame(np.tile(X, 100), columns=[f"feature {i} \N{SNOWMAN}" for i in range(400)])
    ensemble = DeepMLPClassifier(**QUICK, n_networks=3).fit(frame, LABELS)
    assert_same(ensemble, reloaded(ensemble, path))
    assert int.from_bytes(path.read_bytes()[:8], "little") < 20_000


@pytest.mark.parametrize("dtype", [object, "<U5", ">U3"])
def test_strings_of_every_kind_come_back(dtype):
    strings = np.array(["", "ab", "\N{SNOWMAN}\N{GRINNING FACE}", "\ud800", "\0a"] * 20, dtype)
    encoder = Encoder(lambda value, name: None)
    coded = encoder.encode(strings.reshape(2, -1), "name")
    assert encoder.tensors
    decoded = Decoder(encoder.tensors, lambda *args: None).decode(coded, "it")
    assert decoded.dtype == strings.dtype.newbyteorder("<")
    assert decoded.tolist() == strings.reshape(2, -1).tolist()


def test_requests_for_metadata_come_back(path):
    with config_context(enable_metadata_routing=True):
        regressor = DeepMLPRegressor(**QUICK).set_fit_request(sample_weight="weight", X_val=False)
        assert_same(regressor, reloaded(regressor, path))
        pipeline = make_pipeline(StandardScaler().set_fit_request(sample_weight=True), regressor)
        loaded = reloaded(pipeline, path)
        for step, own in zip(pipeline, loaded, strict=True):
            routing, own_routing = (part.get_metadata_routing() for part in (step, own))
            assert own_routing._serialize() == routing._serialize()


def test_a_source_of_weights_comes_back_once(path):
    source = AutoencoderTransformer(3, (6,), max_iter=2, random_state=0).fit(X)
    ensemble = DeepMLPClassifier(
        (6,), init_from=FrozenEstimator(source), n_networks=2, max_iter=2, random_state=0
    ).fit(X, LABELS)
    loaded = reloaded(ensemble, path)
    assert_same(ensemble, loaded)
    assert loaded.init_from.estimator is loaded.estimators_[1].init_from.estimator
    assert_same(ensemble.fit(X, LABELS), _without_times(loaded.fit(X, LABELS), ensemble))
    network = DeepMLPClassifier((6,), init_from=source, max_iter=2, random_state=0).fit(X, LABELS)
    assert_same(network, reloaded(network, path))


def test_a_training_that_is_under_way_comes_back(path):
    network = DeepMLPRegressor(**QUICK, early_stopping=True, normalization="batch").fit(X, TARGET)
    network._progress.watch_validation(network.module_)
    assert network._progress.best_snapshot
    assert_same(network, reloaded(network, path))


class Recorder(Callback):
    """Records what is no number."""

    def on_epoch_end(self, net, **kwargs):
        net.history.record("accuracies", {0: 0.5, "all": (0.25, [np.float32(1)])})


def test_what_callbacks_have_recorded_comes_back(path):
    network = DeepMLPClassifier(**QUICK, callbacks=[Recorder()]).fit(X, LABELS)
    loaded = reloaded(network.set_params(callbacks=None), path)
    assert loaded.history_[-1, "accuracies"] == {0: 0.5, "all": (0.25, [np.float32(1)])}
    assert_same(network, loaded)


def test_the_history_of_batches_comes_back(path):
    classifier = DeepMLPClassifier(**{**QUICK, "max_iter": 40}, batch_size=1)
    classifier.set_params(n_iter_no_change=100, callbacks=[EpochScoring("accuracy", name="own")])
    classifier.fit(X, LABELS).set_params(callbacks=None)
    loaded = reloaded(classifier, path)
    assert_same(classifier, loaded)
    assert len(loaded.history_[:, "batches", :, "train_loss"][3]) == 40
    # numbers are tensors, whatever the length of the training
    header = int.from_bytes(path.read_bytes()[:8], "little")
    assert header < 30_000


# What goes on


def go_on(network, y, partial):
    for _ in range(2):
        if partial:
            network.partial_fit(X, y) if y is not None else network.partial_fit(X)
        else:
            network.set_params(warm_start=True).fit(X, y)
    return network


STOCHASTIC = [name for name in FITTED if not re.search("lbfgs|, ensemble$", name)]


@pytest.mark.parametrize("name", STOCHASTIC)
def test_partial_fit_goes_on_as_if_nothing_had_happened(name, path):
    cls, params, y = FITTED[name]
    params = {**QUICK, **params, "early_stopping": False}
    if params.get("class_weight") == "balanced":
        params["class_weight"] = None
    network = cls(**params).fit(X, y)
    loaded = reloaded(network, path)
    assert_same(
        go_on(network, y, partial=True), _without_times(go_on(loaded, y, partial=True), network)
    )


@pytest.mark.parametrize("name", FITTED)
def test_a_warm_start_goes_on_as_if_nothing_had_happened(name, path):
    cls, params, y = FITTED[name]
    network = cls(**{**QUICK, **params}).fit(X, y)
    loaded = reloaded(network, path)
    assert_same(
        go_on(network, y, partial=False), _without_times(go_on(loaded, y, partial=False), network)
    )


def _without_times(network, like):
    """Give the rows of a history the durations of another's."""
    pairs = zip(
        getattr(network, "estimators_", [network]),
        getattr(like, "estimators_", [like]),
        strict=True,
    )
    for one, other in pairs:
        for row, like_row in zip(one.history_ or [], other.history_ or [], strict=True):
            row["dur"] = like_row["dur"]
    return network


def test_partial_fit_goes_on_after_a_warm_start_with_another_solver(path):
    network = DeepMLPRegressor(**QUICK).fit(X, TARGET)
    network.set_params(solver="sgd", warm_start=True).fit(X, TARGET)
    loaded = reloaded(network, path)
    assert_same(
        network.partial_fit(X, TARGET), _without_times(loaded.partial_fit(X, TARGET), network)
    )


def test_a_warm_start_with_lbfgs_leaves_no_state_of_an_optimizer(path):
    network = DeepMLPRegressor(**QUICK).fit(X, TARGET)
    network.set_params(solver="lbfgs", warm_start=True).fit(X, TARGET)
    assert "_optimizer_state" not in network.__getstate__()
    assert_same(network, reloaded(network, path))


def test_class_weights_of_an_earlier_fit_are_gone(path):
    network = DeepMLPClassifier(**QUICK, class_weight="balanced").fit(X, np.zeros(len(X)))
    network.set_params(class_weight=None).fit(X, LABELS)
    assert_same(network, reloaded(network, path))


@pytest.mark.parametrize("cls", [DeepMLPClassifier, DeepMLPRegressor, AutoencoderTransformer])
def test_lbfgs_leaves_nothing_of_an_earlier_fit(cls, path):
    network = cls(**QUICK, early_stopping=True).fit(X, LABELS)
    network.set_params(solver="lbfgs", early_stopping=False).fit(X, LABELS)
    assert_same(network, cls(**QUICK, solver="lbfgs").fit(X, LABELS))
    assert_same(network, reloaded(network, path))
    assert not hasattr(network, "validation_scores_")


# Pipelines and searches

GRID = {"alpha": [1e-4, 1e-2]}
RANDOM = {"alpha": loguniform(1e-4, 1), "max_iter": randint(1, 4)}


def network(**params):
    return DeepMLPClassifier(**{**TINY, **params})


FRAME = pd.DataFrame({**{f"x{i}": column for i, column in enumerate(X.T)}, "c": list("abcd") * 10})
HOLDERS = {
    "pipeline": lambda: make_pipeline(StandardScaler(), network()),
    "pipeline of pipelines": lambda: make_pipeline(make_pipeline(MinMaxScaler()), network()),
    "union": lambda: make_pipeline(
        FeatureUnion([("scaled", StandardScaler()), ("code", AutoencoderTransformer(1, **TINY))]),
        "passthrough",
        network(),
    ),
    "grid": lambda: GridSearchCV(network(), GRID, cv=2),
    "grid of pipelines": lambda: GridSearchCV(
        make_pipeline(StandardScaler(), network()), {"deepmlpclassifier__alpha": [0.1]}, cv=2
    ),
    "random": lambda: RandomizedSearchCV(
        network(), RANDOM, n_iter=2, cv=ShuffleSplit(2, random_state=0), random_state=0
    ),
    "fused grid": lambda: FusedGridSearchCV(network(), GRID, cv=2, scoring="accuracy"),
    "fused grid of networks": lambda: FusedGridSearchCV(
        make_pipeline(StandardScaler(), network()),
        {"deepmlpclassifier": [network(), network(alpha=1.0)]},
        cv=2,
    ),
    "fused random": lambda: FusedRandomizedSearchCV(
        network(),
        RANDOM,
        n_iter=2,
        cv=2,
        scoring=["accuracy", "roc_auc"],
        refit="roc_auc",
        random_state=np.random.RandomState(0),
    ),
    "grid of given splits": lambda: GridSearchCV(
        network(), GRID, cv=[(np.arange(20), np.arange(20, 40))]
    ),
    "voting": lambda: VotingClassifier(
        [("a", network()), ("b", network(alpha=1.0))], voting="soft"
    ),
    "without a network": lambda: make_pipeline(
        StandardScaler(), KNeighborsTransformer(algorithm="brute")
    ),
}


@pytest.mark.parametrize("name", HOLDERS)
def test_what_holds_networks_comes_back(name, path):
    estimator = HOLDERS[name]().fit(X, LABELS)
    loaded = reloaded(estimator, path)
    one, other = output(estimator), output(loaded)
    if name == "without a network":
        one, other = one.toarray(), other.toarray()
    assert_same(one, other)
    if hasattr(estimator, "cv_results_"):
        assert repr(loaded.cv_results_) == repr(estimator.cv_results_)
        assert loaded.score(X, LABELS) == estimator.score(X, LABELS)
    clone(loaded).fit(X, LABELS)


def test_saving_leaves_what_is_saved_as_it_was(path):
    search = HOLDERS["fused grid of networks"]().fit(X, LABELS)
    before = repr(vars(search)), [id(step) for _, step in search.best_estimator_.steps]
    save(search, path)
    assert (repr(vars(search)), [id(step) for _, step in search.best_estimator_.steps]) == before


def test_columns_come_back(path):
    columns = ColumnTransformer(
        [
            ("code", AutoencoderTransformer(1, **TINY), make_column_selector(dtype_include=float)),
            ("one hot", OneHotEncoder(), ["c"]),
        ]
    )
    pipeline = make_pipeline(columns, network()).fit(FRAME, LABELS)
    assert_same(output(pipeline, FRAME), output(reloaded(pipeline, path), FRAME))


def test_an_unfitted_pipeline_comes_back(path):
    pipeline = make_pipeline(StandardScaler(), network())
    loaded = reloaded(pipeline, path)
    assert repr(loaded) == repr(pipeline)
    assert_same(output(loaded.fit(X, LABELS)), output(pipeline.fit(X, LABELS)))


def test_one_network_in_two_places_stays_one(path):
    one = network()
    loaded = reloaded(VotingClassifier([("a", one), ("b", one)]), path)
    assert loaded.estimators[0][1] is loaded.estimators[1][1]


class Twice(TransformerMixin, BaseEstimator):
    """A transformer that skops cannot know."""

    def fit(self, X, y=None):
        self.is_fitted_ = True
        return self

    def transform(self, X):
        return X * 2


def test_types_that_skops_does_not_know_need_trust(path):
    pipeline = make_pipeline(Twice(), network()).fit(X, LABELS)
    save(pipeline, path)
    with pytest.raises(
        ValueError, match=r"types that are not trusted: \['test_persistence.Twice'\]"
    ):
        load(path)
    for trusted in (["test_persistence.Twice"], (Twice,)):
        assert_same(output(pipeline), output(load(path, trusted=trusted)))


def test_trees_need_trust(path):
    voting = VotingClassifier([("a", network()), ("b", DecisionTreeClassifier())])
    save(voting.fit(X, LABELS), path)
    with pytest.raises(ValueError, match=re.escape("pass trusted=['sklearn.tree._tree.Tree']")):
        load(path)
    assert_array_equal(
        load(path, trusted=["sklearn.tree._tree.Tree"]).predict(X), voting.predict(X)
    )


@pytest.mark.parametrize("trusted", [True, "sklearn.tree._tree.Tree"])
def test_trust_is_a_list(trusted, path):
    with pytest.raises(TypeError, match="trusted must list types or their names"):
        load(path, trusted=trusted)


def test_without_skops_the_error_says_how_to_get_it(path, monkeypatch):
    save(make_pipeline(StandardScaler(), network()), path)
    monkeypatch.setitem(sys.modules, "skops", None)
    monkeypatch.setitem(sys.modules, "skops.io", None)
    message = re.escape("not installed: pip install 'sknn_deep[skops]'")
    with pytest.raises(ImportError, match=message):
        load(path)
    with pytest.raises(ImportError, match=message):
        save(make_pipeline(StandardScaler(), network()), path)
    assert_same(network(), reloaded(network(), path))  # which needs none


# What is refused when saving


def _explode(estimator, X, y):
    raise AssertionError("never called")


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"callbacks": [EpochScoring("accuracy")]}, r"callbacks.*set_params\(callbacks=None\)"),
        ({"scoring": _explode}, "scoring=.*pass the name of a scorer"),
        ({"scoring": get_scorer("accuracy")}, "scoring=.*pass the name of a scorer"),
        ({"solver": type("Own", (torch.optim.SGD,), {})}, "solver=.*pass the name of a solver"),
        ({"init_from": MinMaxScaler()}, "init_from=.*set_params.init_from=None"),
        ({"solver_params": {"lr_lambda": len}}, "solver_params.lr_lambda=.*what a file can hold"),
        ({"dropout": pd.Series([0.1])}, "'dropout' parameter"),
        ({"hidden_layer_sizes": pd.Series([3])}, "hidden_layer_sizes=.*what a file can hold"),
        ({"hidden_layer_sizes": np.array([2 + 1j])}, "type complex128"),
        ({"random_state": np.random.RandomState(np.random.PCG64(0))}, "only MT19937"),
        ({"alpha": -1.0}, "'alpha' parameter"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_no_file_can_hold_is_named(params, message, path):
    path.write_bytes(b"before")
    with pytest.raises((TypeError, ValueError), match=f"(?s){message}"):
        save(DeepMLPClassifier(**params), path)
    assert os.listdir(path.parent) == [path.name]
    assert path.read_bytes() == b"before"


def test_an_array_much_wider_than_its_strings_is_refused(path):
    classifier = DeepMLPClassifier(**TINY).fit(X, np.array(["a", "b"])[LABELS])
    classifier.classes_ = classifier.classes_.astype("<U600000")
    with pytest.raises(TypeError, match="wider than its strings"):
        save(classifier, path)


def test_estimators_among_the_options_of_a_solver_are_refused(path):
    with pytest.raises(TypeError, match="solver_params.a=.*what a file can hold"):
        save(DeepMLPClassifier(solver_params={"a": AutoencoderTransformer()}), path)


def test_scikit_learn_callbacks_are_refused(path):
    with pytest.raises(
        TypeError, match=re.escape("call set_callbacks() without any before saving")
    ):
        save(DeepMLPClassifier().set_callbacks(ProgressBar()), path)
    save(DeepMLPClassifier().set_callbacks(ProgressBar()).set_callbacks(), path)


def test_subclasses_are_refused(path):
    with pytest.raises(TypeError, match="of the class Classifier, which derives from one of"):
        save(Classifier(), path)


def test_attributes_of_the_users_are_refused(path):
    estimator = DeepMLPClassifier()
    estimator.note = "mine"
    with pytest.raises(ValueError, match=r"none of DeepMLPClassifier's: \['note'\].*Delete them"):
        save(estimator, path)


def test_weights_that_are_no_numbers_are_refused(path):
    regressor = DeepMLPRegressor(**QUICK).fit(X, TARGET)
    regressor.module_.flat[3] = np.nan
    with pytest.raises(ValueError, match="module_.layers.0.weight should be finite"):
        save(regressor, path)


@pytest.mark.parametrize("value", [LABELS, "DeepMLPClassifier", DeepMLPClassifier, nn.Linear(1, 1)])
def test_only_estimators_are_saved(value, path):
    with pytest.raises(TypeError, match="save takes an estimator"):
        save(value, path)


def test_what_skops_does_not_store_is_an_error(path):
    pipeline = make_pipeline(FunctionTransformer(kw_args={"lock": (i for i in ())}), network())
    with pytest.raises(TypeError, match="Pipeline has a part that skops does not store"):
        save(pipeline, path)


def test_own_scorers_need_trust(path):
    search = GridSearchCV(
        network(), GRID, cv=2, scoring=make_scorer(accuracy_score, normalize=False)
    )
    save(search.fit(X, LABELS), path)
    with pytest.raises(ValueError, match="sklearn.metrics._scorer._Scorer"):
        load(path)


def test_too_long_a_document_is_refused(path):
    names = [f"{'name' * 30}{i}" for i in range(10_000)]
    classifier = DeepMLPClassifier(**TINY).fit(X, LABELS)
    classifier.solver_params = {"names": names}
    with pytest.raises(ValueError, match="more than the 1048576 that a file may have"):
        save(classifier, path)
    assert not path.exists()


def test_a_disk_that_is_full_leaves_the_file_that_was_there(path, monkeypatch):
    regressor = DeepMLPRegressor(**TINY).fit(X, TARGET)
    save(regressor, path)
    before = path.read_bytes()

    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        save(regressor.fit(X, -TARGET), path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


# Files of older and newer releases


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.InconsistentVersionWarning")
@pytest.mark.parametrize(
    "file", sorted(DATA.glob("format_*.safetensors")), ids=lambda file: file.stem
)
def test_files_of_older_releases_are_read(file):
    recorded = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
    assert_allclose(output(load(file), np.array(recorded["rows"])), recorded["output"], rtol=1e-6)


def test_there_are_files_of_all_kinds_and_formats():
    kinds = ("autoencoder", "classifier", "pipeline", "regressor")
    expected = {f"format_1_{kind}" for kind in kinds}
    assert {file.stem for file in DATA.glob("format_*.safetensors")} == expected


def test_a_newer_format_is_refused(path):
    save(network(), path)
    path.write_bytes(forged(path.read_bytes(), lambda document: {**document, "format": 2}))
    with pytest.raises(
        ValueError, match="written in format 2 by sknn_deep 0.*install a newer sknn_deep"
    ):
        load(path)


# What is refused when loading


def forged(data, change_document=None, change_header=None, change_tensors=None):
    """Return a file's content with changes, and a checksum that is right."""
    length = int.from_bytes(data[:8], "little")
    header, tensors = json.loads(data[8 : 8 + length]), data[8 + length :]
    document = json.loads(header["__metadata__"]["sknn_deep"])
    if change_document is not None:
        document = change_document(document)
    if isinstance(document, dict):
        document = {**document, "sha256": "0" * 64}
    header["__metadata__"]["sknn_deep"] = json.dumps(document)
    if change_header is not None:
        header = change_header(header)
    if change_tensors is not None:
        tensors = change_tensors(tensors)
    text = json.dumps(header).encode()
    data = len(text).to_bytes(8, "little") + text + tensors
    return data.replace(b"0" * 64, hashlib.sha256(data).hexdigest().encode(), 1)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Offer the contents of small files, by name."""
    path = tmp_path_factory.mktemp("saved") / "file"
    contents = {}
    for name, estimator in {
        "classifier": DeepMLPClassifier(**TINY, early_stopping=True, validation_fraction=0.3),
        "regressor": DeepMLPRegressor(**TINY, normalization="batch", solver="sgd"),
        "generator": DeepMLPRegressor(
            hidden_layer_sizes=(2,), random_state=np.random.RandomState(0)
        ),
        "autoencoder": AutoencoderTransformer(1, **TINY, noise=0.1),
        "pipeline": make_pipeline(MinMaxScaler(), network()),
    }.items():
        save(estimator if name == "generator" else estimator.fit(X, LABELS), path)
        contents[name] = path.read_bytes()
    return contents


def refusal(data, path):
    """Return why a file with this content is refused."""
    path.write_bytes(data)
    start = time.process_time()
    with pytest.raises(ValueError, match="cannot be loaded") as refused:
        load(path)
    assert time.process_time() - start < 1, "seconds"
    return str(refused.value)


def test_a_forgery_that_changes_nothing_is_read(saved, path):
    for data in saved.values():
        path.write_bytes(forged(data))
        load(path)


def _pickle():
    return pickle.dumps(network().fit(X, LABELS))


def _zip():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("schema.json", "{}")
    return buffer.getvalue()


def _torch():
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(3)}, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "too short"),
        (b"1234567", "too short"),
        (b"\xff" * 64, "announce a header of 18446744073709551615 bytes"),
        ((10**9).to_bytes(8, "little") + b"{}", "announce a header"),
        (b"\2\0\0\0\0\0\0\0{}", "no metadata 'sknn_deep'"),
        (b"\2\0\0\0\0\0\0\0[]", "no metadata 'sknn_deep'"),
        (b"\2\0\0\0\0\0\0\0\xff\xff", "header is no JSON"),
        ((5000).to_bytes(8, "little") + b"[" * 5000, "nested too deeply"),
        ((5000).to_bytes(8, "little") + b'{"a":' * 1000, "nested too deeply|no JSON"),
        ((5000).to_bytes(8, "little") + b"9" * 5000, "no JSON"),
        (safetensors.numpy.save({"a": np.zeros(3)}), "sknn_deep.save did not write it"),
        (safetensors.numpy.save({"a": np.zeros(3)}, {"sknn_deep": "NaN"}), "holds NaN"),
        (safetensors.numpy.save({"a": np.zeros(3)}, {"sknn_deep": "[1]"}), "no JSON object"),
        (
            safetensors.numpy.save({"a": np.zeros(3)}, {"sknn_deep": "{}"}),
            "format should be a number",
        ),
        (safetensors.numpy.save({"a": np.zeros(3)}, {"sknn_deep": '{"format":1}'}), "no checksum"),
        (_pickle, "announce a header"),
        (_zip, "announce a header|too short"),
        (_torch, "announce a header"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else str(getattr(value, "__name__", value)),
)
def test_what_is_no_such_file_is_refused(content, reason, path):
    assert re.search(reason, refusal(content() if callable(content) else content, path))


def test_a_pickle_is_never_unpickled(path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(path) + ".exploded",)

    for content in (pickle.dumps(Bomb()), pickle.dumps([Bomb()] * 3, protocol=0)):
        refusal(content, path)
    buffer = io.BytesIO()
    joblib.dump(Bomb(), buffer)
    refusal(buffer.getvalue(), path)
    assert not os.path.exists(str(path) + ".exploded")


@pytest.mark.parametrize("error", [FileNotFoundError, IsADirectoryError, PermissionError])
def test_errors_of_the_system_stay_themselves(error, path, tmp_path):
    if error is IsADirectoryError:
        path = tmp_path
    elif error is PermissionError:
        path.write_bytes(b"")
        path.chmod(0)
        if os.access(path, os.R_OK):
            pytest.skip("this user may read everything")
    with pytest.raises(error):
        load(path)


def test_what_is_no_regular_file_is_refused():
    with pytest.raises(ValueError, match="no regular file"):
        load(os.devnull)


def test_a_large_file_of_another_kind_is_not_read(path):
    with path.open("wb") as file:
        file.write(_pickle())
        file.truncate(2**40)  # takes no place on the disk
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="no safetensors file"):
            load(path)
        assert tracemalloc.get_traced_memory()[1] < 1e8, "bytes"
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["classifier", "autoencoder"])
def test_every_truncation_is_refused(name, saved):
    data = saved[name]
    assert len(data) < 6000
    for length in range(len(data)):
        with pytest.raises(ValueError, match=r"\w"):
            sknn_deep.persistence.loads(data[:length], [])


@pytest.mark.parametrize("name", ["classifier", "autoencoder"])
def test_every_byte_that_is_flipped_is_found(name, saved):
    data = saved[name]
    for position, mask in product(range(len(data)), (0xFF, 0x01, 0x20)):
        flipped = bytearray(data)
        flipped[position] ^= mask
        with pytest.raises(ValueError, match=r"\w"):
            sknn_deep.persistence.loads(bytes(flipped), [])


def test_bytes_behind_the_end_are_refused(saved, path):
    assert "damaged" in refusal(saved["classifier"] + b"\0", path)


def _entry(document, key):
    return document["estimators"][0][key]


def _with(key, name, value):
    """Return what sets a value of the first estimator of a document."""

    def change(document):
        _entry(document, key)[name] = value
        return document

    return change


def _config(**changes):
    def change(document):
        config = _entry(document, "state")["module_"]["network"]["config"]["dict"]
        for pair in config:
            pair[1] = changes.get(pair[0], pair[1])
        return document

    return change


def _progress(**changes):
    def change(document):
        _entry(document, "state")["_progress"]["progress"].update(changes)
        return document

    return change


def _without(key, name):
    def change(document):
        del _entry(document, key)[name]
        return document

    return change


def _root(**root):
    return lambda document: {**document, **root}


def _strings(dtype, items):
    return {"strings": {"dtype": dtype, "shape": [len(items)], "items": items}}


ANOTHER = {"class": "DeepMLPRegressor", "parameters": {}, "state": {}}
HUGE = {"tuple": [4, 10**12, 1]}
FORGERIES = {
    "another class": (
        _root(estimators=[{"class": "os.system", "parameters": {}, "state": {}}]),
        "one of",
    ),
    "no estimators": (_root(estimators=3), "a list"),
    "no such estimator": (_root(root={"estimator": 7}), "the number of an estimator"),
    "estimator by truth": (_root(root={"estimator": True}), "the number of an estimator"),
    "itself": (
        _root(estimators=[{**ANOTHER, "parameters": {"init_from": {"estimator": 0}}}]),
        "the number of an estimator before it",
    ),
    "endless chain": (
        _root(
            estimators=[ANOTHER]
            + [{**ANOTHER, "parameters": {"init_from": {"frozen": i}}} for i in range(5000)],
            root={"estimator": 5000},
        ),
        "nested too deeply",
    ),
    "an estimator for nobody": (
        _root(estimators=[ANOTHER, ANOTHER]),
        "without estimators that nothing refers to, got .1.",
    ),
    "one network twice": (
        _root(
            estimators=[ANOTHER, {**ANOTHER, "state": {"estimators_": [{"estimator": 0}] * 2}}],
            root={"estimator": 1},
        ),
        "each network once",
    ),
    "a network of another kind": (
        _root(
            estimators=[ANOTHER, {**ANOTHER, "state": {"estimators_": [{"frozen": 0}]}}],
            root={"estimator": 1},
        ),
        "'estimator'. by name",
    ),
    "an estimator as an option": (
        _root(
            estimators=[ANOTHER, {**ANOTHER, "parameters": {"init_from": [{"frozen": 0}] * 9999}}],
            root={"estimator": 1},
        ),
        "a kind of value",
    ),
    "more estimators than a header holds": (
        _root(estimators=[ANOTHER] * 100_000),
        "announce a header of .* bytes; .* follow, and 1048576 are allowed",
    ),
    "many estimators for nobody": (_root(estimators=[ANOTHER] * 13_000), "nothing refers to"),
    "no root": (_root(root={"pickle": "x"}), "one of our estimators"),
    "more at the top": (_root(more=1), "by name"),
    "unknown parameter": (_with("parameters", "more", 1), "should be those of DeepMLPClassifier"),
    "wrong parameter": (_with("parameters", "alpha", "much"), "'alpha' parameter"),
    "unknown attribute": (_with("state", "predict", 1), "attributes that are none of"),
    "unknown kind": (_with("parameters", "alpha", {"pickle": "gASVAAA="}), "a kind of value"),
    "private kind": (_with("parameters", "alpha", {"_init__": 1}), "a kind of value"),
    "two kinds": (_with("parameters", "alpha", {"a": 1, "b": 2}), "one key"),
    "infinity": (_with("parameters", "alpha", {"float": "1e9"}), "nan, inf or -inf"),
    "no optimiser": (
        _with("parameters", "solver", {"optimizer": "Optimizer"}),
        "class of torch.optim",
    ),
    "a function": (
        _with("parameters", "scoring", {"optimizer": "os.system"}),
        "class of torch.optim",
    ),
    "no device": (_with("parameters", "device", {"device": "../../x"}), "is no device"),
    "no dtype": (_with("parameters", "dtype", {"dtype": "int8"}), "a dtype"),
    "unhashable key": (_with("parameters", "class_weight", {"dict": [[[], 1]]}), "a key that is"),
    "no pair": (_with("parameters", "class_weight", {"dict": [1]}), "a key and a value"),
    "no tensor": (_with("state", "classes_", {"array": "nowhere"}), "the name of a tensor"),
    "tensor by path": (
        _with("state", "classes_", {"array": "../../etc/passwd"}),
        "the name of a tensor",
    ),
    "tensor twice": (
        _with("state", "classes_", {"array": "0.module_.layers.0.bias"}),
        "used nowhere else",
    ),
    "tensor unused": (
        _with("state", "classes_", {"strings": {"dtype": "O", "shape": [2], "items": ["a", "b"]}}),
        "belong nowhere",
    ),
    "unsorted labels": (
        _with("state", "classes_", {"strings": {"dtype": "O", "shape": [2], "items": ["b", "a"]}}),
        "sorted vector of labels",
    ),
    "labels that no order is in": (
        _with("state", "classes_", {"strings": {"dtype": "O", "shape": [2], "items": ["b", 1]}}),
        "sorted vector of labels",
    ),
    "too many labels": (
        _with(
            "state", "classes_", {"strings": {"dtype": "<U1", "shape": [3], "items": list("abc")}}
        ),
        "labels for 1 output",
    ),
    "wide labels": (
        _with(
            "state",
            "classes_",
            {"strings": {"dtype": "<U999999999", "shape": [2], "items": list("ab")}},
        ),
        "a type as wide as its strings",
    ),
    "labels of 64 MB": (
        _with("state", "classes_", _strings("<U8388608", ["a", "b"])),
        "a type as wide as its strings",
    ),
    "no label of 4 GB": (
        _with("state", "classes_", _strings("<U999999999", [])),
        "a type as wide as its strings",
    ),
    "labels of many MB together": (
        _with(
            "parameters",
            "solver_params",
            {"dict": [[str(i), _strings("<U500000", ["a", "b"])] for i in range(30)]},
        ),
        "a type as wide as its strings",
    ),
    "labels of foreign digits": (
        _with("state", "classes_", _strings("<U\N{ARABIC-INDIC DIGIT THREE}", ["a", "b"])),
        "a type as wide as its strings",
    ),
    "labels of no text": (
        _with("state", "classes_", _strings("O", {"text": "x", "lengths": "y"})),
        "the name of a tensor",
    ),
    "labels of floats": (
        _with(
            "state",
            "classes_",
            _strings("O", {"text": "0.module_.layers.0.bias", "lengths": "y"}),
        ),
        "a tensor of bytes",
    ),
    "labels of no shape": (
        _with("state", "classes_", {"strings": {"dtype": "O", "shape": [2**62, 4], "items": []}}),
        "the shape of 0 items",
    ),
    "absurd layers": (_config(layer_units=HUGE), "layers of at most"),
    "endless layers": (_config(layer_units={"tuple": [1] * 10_000}), "the units of each layer"),
    "negative layers": (_config(layer_units={"tuple": [4, -2, 1]}), "the units of each layer"),
    "other layers": (_config(layer_units={"tuple": [4, 1, 1]}), "one|that of the arrays"),
    "no activation": (_config(activations={"tuple": ["eval"]}), "an activation"),
    "too many activations": (
        _config(activations={"tuple": ["relu"] * 9}),
        "one for each hidden layer",
    ),
    "no dropout": (_config(dropout={"tuple": [1.5]}), "rates of dropout"),
    "normalization of no arrays": (_config(normalization="batch"), "that of the arrays"),
    "no normalization": (_config(normalization=[]), "None or one of"),
    "other inputs": (_with("state", "n_features_in_", 5), "a network of 5 inputs"),
    "other outputs": (_with("state", "n_outputs_", 2), "labels for 2 output"),
    "no inputs": (_without("state", "n_features_in_"), "without anything missing"),
    "no progress": (_without("state", "_progress"), "without anything missing"),
    "progress of text": (_progress(best_iter="x"), "the progress of a training"),
    "progress with more": (_progress(more=1), "fields that no progress has"),
    "no snapshot": (_progress(best_snapshot=[1]), "of the shapes"),
    "history of text": (_with("state", "history_", {"history": ["x"]}), "a row by name"),
    "losses of text": (
        _with("state", "history_", {"history": [{"dict": [["train_loss", "x"]]}]}),
        "losses that are numbers, and rows",
    ),
    "ragged table": (
        _with("state", "history_", {"history": {"table": [["a", [1]], ["b", [1, 2]]]}}),
        "columns of one length",
    ),
    "fixed parameters without names": (
        _with("state", "_fixed", {"dict": [["dtype", "auto"], ["solver", "adam"], [None, "x"]]}),
        "parameters that a network was fitted with",
    ),
    "no optimiser's state": (_with("state", "_optimizer_state", {"dict": []}), "by name"),
    "requests of no method": (
        _with("state", "_metadata_request", {"requests": {"owner": "x", "requests": {"eval": {}}}}),
        "a method's requests",
    ),
    "deep": (
        _with("parameters", "solver_params", json.loads("[" * 400 + "]" * 400)),
        "'solver_params'|deep",
    ),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_forged_documents_are_refused(name, saved, path):
    change, reason = FORGERIES[name]
    assert re.search(reason, refusal(forged(saved["classifier"], change), path))


def _to_the_limit(part):
    return [part] * (1_000_000 // len(json.dumps(json.dumps(part))))


@pytest.mark.slow
@pytest.mark.parametrize(
    "value",
    [_to_the_limit([]), _to_the_limit({"tuple": []}), _to_the_limit({"progress": {}}),
     [{"dict": [[str(i), 0] for i in range(50_000)]}]],
    ids=["lists", "tuples", "progress", "keys"],
)  # fmt: skip
def test_the_longest_header_takes_a_second(value, path):
    document = {**ANOTHER, "parameters": {"solver_params": value}}
    save(DeepMLPRegressor(), path)
    path.write_bytes(forged(path.read_bytes(), _root(estimators=[document])))
    start = time.process_time()
    with pytest.raises(ValueError, match="'solver_params' parameter"):
        load(path)
    assert time.process_time() - start < 3, "seconds, on a busy machine"


def test_the_header_is_parsed_once(saved, path, monkeypatch):
    parsed, from_json = [], container.from_json
    monkeypatch.setattr(container, "from_json", lambda text: parsed.append(text) or from_json(text))
    path.write_bytes(saved["classifier"])
    load(path)
    assert len(parsed) == 2  # it, and the document in it


@pytest.mark.parametrize(
    ("text", "lengths", "reason"),
    [
        (b"ab", [1, 2], "the lengths of 2 characters"),
        (b"ab", [3, -1], "the lengths of 2 characters"),
        (b"ab", [1.0, 1.0], "a vector"),
        (b"ab", [[1, 1]], "a vector"),
        (b"\xffb", [1, 1], "can't decode"),
        (b"ab", [2], "the shape of 1 items"),
    ],
    ids=["more", "negative", "floats", "matrix", "no text", "one"],
)
def test_forged_strings_are_refused(text, lengths, reason):
    tensors = {"t": np.frombuffer(text, np.uint8), "l": np.array(lengths)}
    coded = _strings("O", {"text": "t", "lengths": "l"})
    with pytest.raises(ValueError, match=reason):
        Decoder(tensors, lambda *args: None).decode(coded, "it")


def test_a_loss_without_a_training_is_refused(path):
    save(network(), path)
    data = forged(path.read_bytes(), _with("state", "best_loss_", 0.5))
    assert "without anything missing, got ['_progress']" in refusal(data, path)


def test_absurd_parameters_allocate_nothing(saved, path):
    change = _with("parameters", "hidden_layer_sizes", {"tuple": [10**15] * 3})
    path.write_bytes(forged(saved["classifier"], change))
    tracemalloc.start()
    try:
        loaded = load(path)
        assert tracemalloc.get_traced_memory()[1] < 2e6, "bytes"
    finally:
        tracemalloc.stop()
    assert_array_equal(loaded.predict(X[:3]).shape, (3,))


def _offsets(header):
    names = [name for name in header if name != "__metadata__"]
    return names, {name: header[name] for name in names}


def _field(number, **changes):
    def change(header):
        names, _ = _offsets(header)
        header[names[number]] = {**header[names[number]], **changes}
        return header

    return change


@pytest.mark.parametrize(
    "change",
    [
        _field(0, data_offsets=[0, 2**63]),
        _field(0, data_offsets=[-1, 7]),
        _field(0, data_offsets=[0, 1]),
        _field(1, data_offsets=[0, 16]),
        _field(0, shape=[2**62, 2**62]),
        _field(0, shape=[2**61]),
        _field(0, dtype="F8_E4M3"),
        _field(0, dtype="BF16"),
        _field(0, dtype="pickle"),
        _field(0, dtype=None),
        lambda header: {**header, "more": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}},
    ],
    ids=["huge", "negative", "short", "overlap", "absurd shape", "large shape", "float8",
         "bfloat16", "unknown type", "no type", "more"],
)  # fmt: skip
def test_forged_headers_are_refused(change, saved, path):
    refusal(forged(saved["classifier"], change_header=change), path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["classifier", "regressor", "autoencoder"])
def test_weights_that_are_no_numbers_are_found(name, value, saved, path):
    arrays = safetensors.numpy.load(saved[name])
    weight = next(key for key in arrays if "module_" in key and key.endswith("0.weight"))
    position = saved[name].index(arrays[weight].tobytes())
    length = 8 + int.from_bytes(saved[name][:8], "little")

    def change(tensors):
        at = position - length
        return tensors[:at] + np.float64(value).tobytes() + tensors[at + 8 :]

    assert "should be finite" in refusal(forged(saved[name], change_tensors=change), path)


def test_a_negative_variance_is_found(saved, path):
    data = saved["regressor"]
    length = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:length])
    start = header["0.module_.layers.1.running_var"]["data_offsets"][0]

    def change(tensors):
        return tensors[:start] + np.float64(-1).tobytes() + tensors[start + 8 :]

    assert "no negative number" in refusal(forged(data, change_tensors=change), path)


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ({"position": 10**6}, "0 to 624"),
        ({"position": -1}, "0 to 624"),
        ({"position": 1.5}, "0 to 624"),
        ({"normal": "x"}, "a number"),
        ({"key": "nowhere"}, "the name of a tensor"),
    ],
    ids=["far", "negative", "fraction", "text", "nowhere"],
)
def test_a_forged_generator_is_refused(state, reason, saved, path):
    def change(document):
        _entry(document, "parameters")["random_state"]["random_state"].update(state)
        return document

    assert reason in refusal(forged(saved["generator"], change), path)


def test_a_generator_of_zeros_is_refused(saved, path):
    # its normal numbers would take for ever
    data = forged(saved["generator"], change_tensors=lambda tensors: bytes(len(tensors)))
    assert "624 words" in refusal(data, path)


def with_archive(data, change):
    """Return a file's content with another archive of skops in it."""
    arrays = safetensors.numpy.load(data)
    with zipfile.ZipFile(io.BytesIO(arrays["skops"].tobytes())) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    arrays["skops"] = np.frombuffer(change(members), np.uint8)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return forged(safetensors.numpy.save(arrays, header["__metadata__"]))


def zipped(members, kind=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", kind) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _schema(members, change):
    schema = json.loads(members["schema.json"])
    change(schema)
    return zipped({**members, "schema.json": json.dumps(schema)})


def _laughs(members):
    """Return a tree of few parts, each twice in the next: 2**60 nodes for who walks over it."""
    node = {"__class__": "list", "__module__": "builtins", "__loader__": "ListNode"}
    tree = {**node, "content": [], "__id__": 1}
    for number in range(2, 62):
        again = {**node, "content": [], "__id__": number - 1}
        tree = {**node, "content": [tree, again], "__id__": number}
    return zipped({**members, "schema.json": json.dumps({**tree, "protocol": 2})})


def _npy(members):
    """Return an archive whose array announces more numbers than any memory holds."""
    name = next(name for name in members if name.endswith(".npy"))
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (%d,), }" % 10**14
    header += b" " * (117 - len(header)) + b"\n"
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    return zipped({**members, name: content})


ARCHIVES = {
    "no archive": (lambda members: b"no archive", "no archive"),
    "empty": (lambda members: zipped({}), "schema.json"),
    "no schema": (lambda members: zipped({"schema.json": "[]"}), "protocol"),
    "compressed": (lambda members: zipped(members, zipfile.ZIP_DEFLATED), "without compression"),
    "bomb": (
        lambda members: zipped({**members, "bomb": bytes(10**8)}, zipfile.ZIP_DEFLATED),
        "without compression",
    ),
    "bomb in an archive": (
        lambda members: zipped(
            {**members, "1.npz": zipped({"data.npy": bytes(10**8)}, zipfile.ZIP_DEFLATED)}
        ),
        "without compression",
    ),
    "billion laughs": (_laughs, "at most 1000000 nodes"),
    "a million lists": (
        lambda members: _schema(
            members,
            lambda schema: schema.update(
                a={"content": [[]] * 1000, "__id__": -1}, b=[{"__id__": -1}] * 1000
            ),
        ),
        "at most 1000000 nodes",
    ),
    "absurd array": (_npy, "cannot be read by skops|no archive"),
    "old protocol": (
        lambda members: _schema(members, lambda schema: schema.update(protocol=0)),
        "protocol 2 or newer",
    ),
    "another class": (
        lambda members: _schema(
            members, lambda schema: schema.update(__class__="system", __module__="os")
        ),
        r"not trusted: \['os.system'\]",
    ),
    "no estimator": (
        lambda members: zipped(
            {"schema.json": json.dumps({"__class__": "str", "__module__": "builtins",
                                        "__loader__": "JsonNode", "content": '"x"', "protocol": 2})}
        ),
        "an estimator",
    ),
    "deep": (
        lambda members: zipped(
            {"schema.json": '{"protocol": 2, "a": ' + "[" * 900 + "]" * 900 + "}"}
        ),
        "deep|no archive",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ARCHIVES)
def test_forged_archives_are_refused(name, saved, path):
    change, reason = ARCHIVES[name]
    assert re.search(reason, refusal(with_archive(saved["pipeline"], change), path))


@pytest.mark.parametrize(
    ("placeholder", "reason"),
    [
        (("estimator", 7), "the number of an estimator"),
        (("pickle", "x"), "a placeholder for one of"),
        (("scorer", "os.system"), "the name of a scorer"),
        (("scorer", ["accuracy"]), "the name of a scorer"),
        (("distribution", "norm"), "a distribution"),
        (
            ("distribution", {"name": "kstest", "args": [], "kwds": {}}),
            "distribution of scipy.stats",
        ),
        (("distribution", {"name": "norm", "args": ["x"], "kwds": {}}), "numbers as parameters"),
        (("distribution", {"name": "norm", "args": [1] * 9, "kwds": {}}), "SciPy refuses"),
        (("requests", {"owner": "x", "requests": {"__init__": {}}}), "a method's requests"),
    ],
    ids=lambda value: "" if isinstance(value, str) else value[0],
)
def test_forged_placeholders_are_refused(placeholder, reason, path, monkeypatch):
    # what save would write if it knew such a kind
    monkeypatch.setattr(
        skops_parts,
        "_placeholder",
        lambda part: skops_parts.Placeholder(*placeholder) if isinstance(part, Twice) else part,
    )
    save(make_pipeline(Twice(), network()), path)
    assert reason in refusal(path.read_bytes(), path)


CORPUS = sorted((DATA / "fuzz_load").iterdir())


@pytest.mark.parametrize("start", range(0, len(CORPUS), 25))
@pytest.mark.filterwarnings("ignore")  # what a forged number brings about
def test_inputs_that_fuzzing_found_are_refused_or_valid(start):
    for file in CORPUS[start : start + 25]:
        try:
            estimator = sknn_deep.persistence.loads(file.read_bytes(), [])
        except ValueError:
            continue
        if (
            isinstance(estimator, sknn_deep._estimators.base.BaseDeepNetwork)
            and estimator.__sklearn_is_fitted__()
        ):
            vars(estimator).pop("feature_names_in_", None)
            output(estimator, np.zeros((1, estimator.n_features_in_)))


# What load and save do not do


@pytest.mark.slow
def test_loading_a_network_asks_neither_skops_nor_pickle_nor_the_compiler_of_torch(tmp_path):
    paths = [str(tmp_path / name) for name in ("one", "two")]
    save(DeepMLPClassifier(**TINY, solver="adamw").fit(X, LABELS), paths[0])
    script = f"""
import pickle, sys
import torch
from sknn_deep import load, save
def refuse(*args, **kwargs):
    raise AssertionError("something was unpickled")
pickle.load = pickle.loads = pickle.dump = pickle.dumps = pickle.Unpickler = refuse
torch.load = torch.save = refuse
save(load({paths[0]!r}), {paths[1]!r})
print("skops" in sys.modules, "torch._dynamo" in sys.modules)
"""
    command = [sys.executable, "-c", script]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert answer.stdout.split() == ["False", "False"]
    assert Path(paths[0]).read_bytes() == Path(paths[1]).read_bytes()


def test_the_package_never_asks_torch_or_pickle_to_load():
    folder = Path(sknn_deep.__file__).parent
    sources = {file.name: file.read_text(encoding="utf-8") for file in folder.glob("*.py")}
    found = [
        name
        for name, text in sources.items()
        if re.search(r"torch\.load|import pickle|joblib\.load", text)
    ]
    assert not found


# Devices


def test_a_network_from_a_gpu_comes_back_on_the_cpu(path):
    network = DeepMLPClassifier(**QUICK, device="cpu").fit(X, LABELS).set_params(device="cuda:1")
    loaded = reloaded(network, path)
    assert loaded.device == "cuda:1"
    assert loaded.device_ == "cpu"
    assert_same(output(loaded), output(network))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
@pytest.mark.parametrize(
    "name", ["classifier, dropout", "autoencoder, tied", "classifier, ensemble"]
)
def test_what_was_trained_on_a_gpu_is_read_and_goes_on(name, path):
    cls, params, y = FITTED[name]
    network = cls(**{**QUICK, **params, "device": "cuda"}).fit(X, y)
    loaded = reloaded(network, path)
    for part in getattr(loaded, "estimators_", [loaded]):
        assert part.device_ == "cpu"
    assert_allclose(output(loaded), output(network), rtol=1e-4, atol=1e-5)
    go_on(loaded, y, partial=True), go_on(network, y, partial=True)
    assert_allclose(output(loaded), output(network), rtol=1e-3, atol=1e-4)


# Pickles

LARGE = {"hidden_layer_sizes": (300, 200), "max_iter": 2, "random_state": 0, "batch_size": 20}
WIDE = np.random.RandomState(1).uniform(size=(40, 50))


@pytest.mark.parametrize("kind", ["pickle", "joblib", "file"])
@pytest.mark.parametrize(
    ("cls", "params", "n_moments"),
    [
        (DeepMLPRegressor, {"solver": "lbfgs"}, 0),
        (DeepMLPRegressor, {"solver": "sgd"}, 1),
        (DeepMLPRegressor, {"solver": "muon"}, 1),
        (DeepMLPRegressor, {"solver": "adam", "early_stopping": True}, 2),
        (DeepMLPRegressor, {"solver": "adam", "n_networks": 2}, 2),
        (AutoencoderTransformer, {"solver": "lbfgs", "tied_weights": True}, 0),
        (AutoencoderTransformer, {"order_code": True}, 0),
    ],
    ids=["lbfgs", "sgd", "muon", "adam", "ensemble", "tied", "ordered"],
)
def test_pickles_and_files_hold_weights_and_moments(cls, params, n_moments, kind, tmp_path):
    """Beside the weights only the optimiser's moments, which ``partial_fit`` goes on with."""
    network = cls(**{**LARGE, **params}).fit(WIDE, WIDE[:, 0])
    networks = getattr(network, "estimators_", [network])
    weights = sum(part.module_.flat.nbytes for part in networks)
    path = tmp_path / "file"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(network))
    elif kind == "joblib":
        joblib.dump(network, path)
    else:
        save(network, path)
    assert path.stat().st_size <= 1.1 * (1 + n_moments) * weights


def test_a_fit_that_cannot_go_on_leaves_no_state_of_an_optimizer():
    lbfgs = DeepMLPRegressor(**{**QUICK, "solver": "lbfgs"}).fit(X, TARGET)
    ordered = AutoencoderTransformer(2, **QUICK, order_code=True).fit(X)
    for network in (lbfgs, ordered):
        assert "_optimizer_state" not in network.__getstate__()


@pytest.mark.parametrize("name", FITTED)
def test_pickles_hold_arrays_and_no_tensors(name):
    """A tensor would need the device that it was on, and pickles its whole buffer."""
    cls, params, y = FITTED[name]
    network = cls(**{**QUICK, **params}).fit(X, y)

    class Watcher(pickle.Pickler):
        def persistent_id(self, value):
            assert not isinstance(value, torch.Tensor), "a tensor"

    Watcher(io.BytesIO()).dump(network)
    assert_same(network.__getstate__(), pickle.loads(pickle.dumps(network)).__getstate__())


# Memory

PEAK_OF_LOAD = """
import sys, warnings
from pathlib import Path
from sknn_deep import load

def resident(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(field))) / 1024

warnings.simplefilter("ignore")
good, *bad = sys.argv[1:]
load(good)
Path("/proc/self/clear_refs").write_text("5")
before = resident("VmRSS")
for path in bad:
    try:
        load(path)
    except ValueError:
        pass
print(resident("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_forged_files_take_little_memory(saved, tmp_path):
    good = tmp_path / "good"
    good.write_bytes(saved["pipeline"])
    forgeries = [forged(saved["classifier"], change) for change, _ in FORGERIES.values()]
    forgeries += [with_archive(saved["pipeline"], change) for change, _ in ARCHIVES.values()]
    paths = []
    for number, data in enumerate(forgeries):
        paths.append(tmp_path / str(number))
        paths[-1].write_bytes(data)
    command = [sys.executable, "-c", PEAK_OF_LOAD, str(good), *map(str, paths)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert float(answer.stdout) < 50, "megabytes"


def test_loading_takes_a_multiple_of_the_file(path):
    regressor = DeepMLPRegressor(hidden_layer_sizes=(1000, 1000), solver="lbfgs", max_iter=1).fit(
        X, TARGET
    )
    save(regressor, path)
    tracemalloc.start()
    try:
        load(path)
        # its content, and the arrays; torch's memory is not traced
        assert tracemalloc.get_traced_memory()[1] < 2.1 * path.stat().st_size
    finally:
        tracemalloc.stop()
