"""Saving and loading: the same bits come back and go on; what is no such file is refused."""

import io
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
import tracemalloc
import zipfile
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import skops.io
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import loguniform, randint
from sklearn import config_context
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.ensemble import VotingClassifier
from sklearn.feature_selection import SelectKBest
from sklearn.frozen import FrozenEstimator
from sklearn.impute import SimpleImputer
from sklearn.metrics import fbeta_score, make_scorer
from sklearn.model_selection import (
    GridSearchCV,
    RandomizedSearchCV,
    ShuffleSplit,
    TunedThresholdClassifierCV,
)
from sklearn.neighbors import KNeighborsTransformer
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    LabelBinarizer,
    MinMaxScaler,
    OneHotEncoder,
    SplineTransformer,
    StandardScaler,
)
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils.metadata_routing import MetadataRequest
from skorch.callbacks import Callback, EpochScoring
from torch import nn

import sknn_deep
from sknn_deep import (
    TRUSTED_TYPES,
    AutoencoderTransformer,
    DeepMLPClassifier,
    DeepMLPRegressor,
    load,
    save,
)
from sknn_deep._files.packing import pack, unpack
from sknn_deep._training.progress import Progress
from sknn_deep.model_selection import FusedGridSearchCV, FusedRandomizedSearchCV

pytestmark = [
    pytest.mark.filterwarnings("ignore:Stochastic Optimizer. Maximum iterations"),
    pytest.mark.filterwarnings("ignore:lbfgs failed to converge"),
    pytest.mark.filterwarnings("ignore:.*units? of the code (is|are) the same"),
    pytest.mark.filterwarnings("ignore:The total space of parameters"),
]

QUICK = {"hidden_layer_sizes": (6, 5), "max_iter": 3, "random_state": 0}
TINY = {"hidden_layer_sizes": (2,), "max_iter": 2, "random_state": 0}

X = np.random.RandomState(0).uniform(size=(40, 4))
LABELS = (X[:, 0] > X[:, 1]).astype(int)
TARGET = X[:, 0] * 2 - X[:, 1]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "estimator.skops"


def reloaded(estimator, path, **options):
    save(estimator, path)
    return load(path, **options)


def output(estimator, rows=X):
    names = ("predict_proba", "transform", "predict")
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


class PicklerOfArrays(pickle.Pickler):
    """Refuses tensors: they need the device that they were on, and pickle their whole buffer."""

    def persistent_id(self, value):
        assert not isinstance(value, torch.Tensor), "a tensor"


@pytest.mark.parametrize("name", FITTED)
def test_everything_comes_back_to_the_last_bit(name, path):
    cls, params, y = FITTED[name]
    estimator = cls(**{**QUICK, **params}).fit(X, y)
    loaded = reloaded(estimator, path)
    assert_same(estimator, loaded)
    assert_same(output(estimator), output(loaded))
    assert_same(clone(estimator), clone(loaded))
    pickled = io.BytesIO()
    PicklerOfArrays(pickled).dump(estimator)
    assert_same(estimator, pickle.loads(pickled.getvalue()))


@pytest.mark.parametrize(
    "name", ["classifier, adamw", "regressor, ensemble", "autoencoder, salt and pepper"]
)
def test_skops_itself_writes_and_reads_the_same(name, path):
    cls, params, y = FITTED[name]
    estimator = cls(**{**QUICK, **params}).fit(X, y)
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        skops.io.dump(estimator, path, compression=compression)
        assert skops.io.get_untrusted_types(file=path) == [f"{cls.__module__}.{cls.__name__}"]
        assert_same(estimator, skops.io.load(path, trusted=TRUSTED_TYPES))
        assert_same(estimator, load(path))


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
    assert loaded.classes_.dtype == classifier.classes_.dtype
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


@pytest.mark.parametrize("cls", [bool, np.bool_, float, str])
def test_class_weights_with_keys_of_every_type_come_back(cls, path):
    weights = {cls(0): 0.5, cls(1): 2.0}
    loaded = reloaded(DeepMLPClassifier(class_weight=weights), path)
    assert_same(loaded.class_weight, weights)
    assert [type(key) for key in loaded.class_weight] == [cls, cls]


def test_requests_for_metadata_come_back(path):
    with config_context(enable_metadata_routing=True):
        regressor = DeepMLPRegressor(**QUICK).set_fit_request(sample_weight="weight", X_val=False)
        pipeline = make_pipeline(StandardScaler(), regressor)
        for loaded in (reloaded(regressor, path), reloaded(pipeline, path)[-1]):
            assert_same(regressor, loaded)
            assert loaded._metadata_request.owner is loaded


def test_a_generator_that_estimators_share_stays_one(path):
    generator = np.random.RandomState(0)
    estimators = [DeepMLPRegressor(random_state=generator) for _ in range(2)]
    loaded = reloaded(make_pipeline(*estimators), path)
    assert loaded[0].random_state is loaded[1].random_state


def test_attributes_of_the_users_come_back(path):
    estimator = DeepMLPClassifier(**QUICK).fit(X, LABELS)
    estimator.note = {"by": "me", "rows": X}
    assert_same(reloaded(estimator, path).note, estimator.note)


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
    # it is one text, whatever the length of the training
    assert path.stat().st_size < 80_000 + 100 * 40 * 40


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


# beside what partial_fit goes on with: generators, rates, what early stopping and L-BFGS keep
WARM = [
    *(name for name in FITTED if name not in STOCHASTIC),
    *("classifier, " + name for name in ("plain", "early stopping", "generator", "sgd")),
    "classifier, multilabel",
    "autoencoder, variational",
]


@pytest.mark.parametrize("name", WARM)
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
        for row, like_row in zip(one.history_, other.history_, strict=True):
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
    "imputer, selection, bins": lambda: make_pipeline(
        SimpleImputer(),
        SelectKBest(k=3),
        KBinsDiscretizer(quantile_method="averaged_inverted_cdf"),
        network(),
    ),
    "calibrated": lambda: CalibratedClassifierCV(network(), cv=2),
    "calibrated, isotonic": lambda: CalibratedClassifierCV(network(), method="isotonic", cv=2),
    "threshold": lambda: TunedThresholdClassifierCV(network(), cv=2, scoring="f1"),
    "grid": lambda: GridSearchCV(network(), GRID, cv=2),
    "grid of pipelines": lambda: GridSearchCV(
        make_pipeline(StandardScaler(), network()), {"deepmlpclassifier__alpha": [0.1]}, cv=2
    ),
    "grid with a scorer": lambda: GridSearchCV(
        network(), GRID, cv=2, scoring=make_scorer(fbeta_score, beta=2)
    ),
    "grid of given splits": lambda: GridSearchCV(
        network(), GRID, cv=[(np.arange(20), np.arange(20, 40))]
    ),
    "random": lambda: RandomizedSearchCV(
        network(), GRID, n_iter=2, cv=ShuffleSplit(2, random_state=0), random_state=0
    ),
    "fused grid": lambda: FusedGridSearchCV(network(), GRID, cv=2, scoring="accuracy"),
    "fused grid of optimisers": lambda: FusedGridSearchCV(
        network(), {"solver": ["adam", torch.optim.AdamW]}, cv=2
    ),
    "fused grid of networks": lambda: FusedGridSearchCV(
        make_pipeline(StandardScaler(), network()),
        {"deepmlpclassifier": [network(), network(alpha=1.0)]},
        cv=2,
    ),
    "fused random": lambda: FusedRandomizedSearchCV(
        network(),
        [RANDOM, GRID],
        n_iter=3,
        cv=2,
        scoring=["accuracy", "roc_auc"],
        refit="roc_auc",
        random_state=np.random.RandomState(0),
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
    unfitted = HOLDERS[name]()
    assert without_addresses(reloaded(unfitted, path)) == without_addresses(unfitted)
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


def without_addresses(estimator):
    return re.sub(r" at 0x\w+", "", repr(estimator))


def test_distributions_come_back(path):
    search = FusedRandomizedSearchCV(network(), RANDOM, n_iter=4, random_state=0, cv=2)
    pickled = pickle.loads(pickle.dumps(search))
    for twin in (pickled, reloaded(search, path)):
        assert twin.param_distributions["max_iter"].args == (1, 4)
        drawn = [each.fit(X, LABELS).cv_results_["param_alpha"].tolist() for each in (search, twin)]
        assert drawn[0] == drawn[1]
    assert search.param_distributions["max_iter"].args == (1, 4)  # its own stay


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


@pytest.mark.filterwarnings("ignore:Loading .* will ask to trust further types")
def test_skrub_comes_back_or_tells_what_to_trust(path):
    skrub = pytest.importorskip("skrub")
    pipeline = make_pipeline(skrub.TableVectorizer(), network()).fit(FRAME, LABELS)
    save(pipeline, path)
    trusted = set(skops.io.get_untrusted_types(file=path)) - set(TRUSTED_TYPES)
    assert_same(output(pipeline, FRAME), output(load(path, trusted=trusted), FRAME))


@pytest.mark.filterwarnings("ignore")  # of other packages
def test_mlflow_keeps_and_loads_models(path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(path.parent)
    mlflow.set_tracking_uri(f"sqlite:///{path.parent / 'mlflow.db'}")
    pipeline = make_pipeline(StandardScaler(), network()).fit(X, LABELS)
    for estimator in (pipeline, pipeline[-1], HOLDERS["fused grid"]().fit(X, LABELS)):
        info = mlflow.sklearn.log_model(
            estimator,
            name="model",
            serialization_format="skops",
            skops_trusted_types=TRUSTED_TYPES,
            pip_requirements=["scikit-learn"],
        )
        assert_same(output(estimator), output(mlflow.sklearn.load_model(info.model_uri)))


def test_one_network_in_two_places_stays_one(path):
    one = network()
    loaded = reloaded(VotingClassifier([("a", one), ("b", one)]), path)
    assert loaded.estimators[0][1] is loaded.estimators[1][1]


class Twice(TransformerMixin, BaseEstimator):
    """A transformer that nobody trusts."""

    def fit(self, X, y=None):
        self.is_fitted_ = True
        return self

    def transform(self, X):
        return X * 2


class Classifier(DeepMLPClassifier):
    """A class derived from one of ours."""


UNTRUSTED = {
    "of the user": (lambda: make_pipeline(Twice(), network()), {Twice}),
    "derived": (lambda: Classifier(**TINY), {Classifier}),
    "tree": (
        lambda: VotingClassifier([("a", network()), ("b", DecisionTreeClassifier())]),
        {"sklearn.tree._tree.Tree"},
    ),
    "spline": (
        lambda: make_pipeline(SplineTransformer(), network()),
        {"scipy.interpolate._bsplines.BSpline"},
    ),
    "callback": (lambda: network(callbacks=[Recorder()]), {Recorder}),
}


@pytest.mark.parametrize("name", UNTRUSTED)
def test_saving_tells_which_types_loading_will_ask_for(name, path):
    make, expected = UNTRUSTED[name]
    estimator = make().fit(X, LABELS)
    with pytest.warns(UserWarning, match="will ask to trust further types") as told:
        save(estimator, path)
    trusted = eval(str(told[0].message).partition("trusted=")[2].rstrip("."))
    names = {t if isinstance(t, str) else f"{t.__module__}.{t.__name__}" for t in expected}
    assert names <= set(trusted)
    with pytest.raises(ValueError, match=re.escape(sorted(names)[0])) as refused:
        load(path)
    assert "pass them as trusted=[...]" in str(refused.value)
    assert_array_equal(load(path, trusted=trusted).predict(X), estimator.predict(X))


def test_types_may_be_trusted_as_they_are(path):
    with pytest.warns(UserWarning, match="Twice"):
        save(Twice().fit(X), path)
    assert_array_equal(load(path, trusted=(Twice,)).transform(X), 2 * X)


@pytest.mark.parametrize("trusted", [True, "sklearn.tree._tree.Tree"])
def test_trust_is_a_list(trusted, path):
    with pytest.raises(TypeError, match="trusted must list types or their names"):
        load(path, trusted=trusted)


def test_every_trusted_type_is_there():
    # the names of private ones are another release's to change
    missing = [name for name in TRUSTED_TYPES if not sknn_deep.persistence._is_found(name)]
    assert not missing
    assert len(set(TRUSTED_TYPES)) == len(TRUSTED_TYPES)


# What is refused when saving


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: network(scoring=lambda estimator, X, y: 0.0), "<lambda> is not found"),
        (lambda: network(callbacks=[(i for i in ())]), "generator"),
        (lambda: network(solver_params={"lock": (i for i in ())}), "generator"),
        (lambda: network(alpha=-1.0), "'alpha' parameter"),
        (lambda: network(dropout=pd.Series([0.1])), "'dropout' parameter"),
        (
            lambda: make_pipeline(FunctionTransformer(kw_args={True: 1}), network()),
            r"a dict with the keys \[True\]",
        ),
        (
            lambda: RandomizedSearchCV(network(), RANDOM),
            "a part refers to itself, such as .* a discrete distribution of SciPy",
        ),
    ],
    ids=["lambda", "generator", "option", "alpha", "dropout", "keys", "distribution"],
)
def test_what_no_file_can_hold_is_named(make, message, path):
    path.write_bytes(b"before")
    with pytest.raises((TypeError, ValueError), match=f"(?s) cannot be saved: .*{message}"):
        save(make(), path)
    assert os.listdir(path.parent) == [path.name]
    assert path.read_bytes() == b"before"


def test_requests_for_metadata_of_others_are_refused(path):
    with config_context(enable_metadata_routing=True):
        scaler = StandardScaler().set_fit_request(sample_weight=True)
        with pytest.raises(TypeError, match="on which set_fit_request was called"):
            save(make_pipeline(scaler, network()), path)


@pytest.mark.parametrize("name", ["predict", "_engine"])
def test_attributes_in_the_place_of_ours_are_refused(name, path):
    estimator = DeepMLPClassifier()
    setattr(estimator, name, "mine")
    with pytest.raises(ValueError, match=f"{name} is no attribute of a DeepMLPClassifier; delete"):
        save(estimator, path)


def test_weights_that_are_no_numbers_are_refused(path):
    regressor = DeepMLPRegressor(**QUICK).fit(X, TARGET)
    regressor.module_.flat[3] = np.nan
    with pytest.raises(ValueError, match="module_ has weights that are not finite"):
        save(regressor, path)


@pytest.mark.parametrize("value", [LABELS, "DeepMLPClassifier", DeepMLPClassifier, nn.Linear(1, 1)])
def test_only_estimators_are_saved(value, path):
    with pytest.raises(TypeError, match="save takes an estimator"):
        save(value, path)


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


@pytest.mark.skipif(sys.platform == "win32", reason="it kills")
def test_the_next_save_removes_what_a_killed_one_has_left(path):
    pid = os.fork()
    if pid == 0:  # dies in the midst of writing, its file half written
        os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
        save(network(), path)
    assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    (orphan,) = os.listdir(path.parent)
    assert orphan.endswith(".tmp")
    save(network(), path)
    assert os.listdir(path.parent) == [path.name]


# What is refused when loading


def refusal(data, path):
    """Return why a file with this content is refused, having taken little time and memory."""
    path.write_bytes(data)
    start = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=re.escape(f"{str(path)!r} cannot be loaded: ")) as no:
            load(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert time.process_time() - start < 10, "seconds, traced"
    assert peak < 2**26 + 50 * len(data), "bytes"
    return str(no.value).partition(" cannot be loaded: ")[2]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Offer the contents of small files, by name."""
    path = tmp_path_factory.mktemp("saved") / "file"
    contents = {}
    for name, estimator in {
        "classifier": DeepMLPClassifier(**TINY).fit(X, LABELS),
        "pipeline": HOLDERS["imputer, selection, bins"]().fit(X, LABELS),
        "unfitted": AutoencoderTransformer(),
    }.items():
        save(estimator, path)
        contents[name] = path.read_bytes()
    return contents


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def _torch():
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(3)}, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [b"", b"PK", b"\xff" * 64, b"PK\5\6" + bytes(18), _torch],
    ids=["empty", "short", "bytes", "empty archive", "torch"],
)
def test_what_is_no_such_file_is_refused(content, path):
    reason = refusal(content() if callable(content) else content, path)
    assert "damaged, or no file of skops" in reason


@pytest.mark.parametrize("dump", [pickle.dump, joblib.dump])
def test_a_pickle_is_never_unpickled(dump, path):
    buffer = io.BytesIO()
    dump(Touch(path.with_name("touched")), buffer)
    refusal(buffer.getvalue(), path)
    assert not path.with_name("touched").exists()


def test_errors_of_the_system_stay_themselves(path):
    with pytest.raises(FileNotFoundError):
        load(path)
    path.write_bytes(b"")
    path.chmod(0)
    if not os.access(path, os.R_OK):  # root may read everything
        with pytest.raises(PermissionError):
            load(path)


@pytest.mark.parametrize("kind", ["directory", "pipe", "device"])
def test_what_is_no_regular_file_is_refused_at_once(kind, path):
    if kind == "pipe":
        os.mkfifo(path)  # opening it would wait for a writer
    else:
        path = path.parent if kind == "directory" else os.devnull
    with pytest.raises(ValueError, match=re.escape(f"{str(path)!r} cannot be loaded: it is ")):
        load(path)
    with pytest.raises((ValueError, IsADirectoryError), match=re.escape(repr(str(path)))):
        save(network(), path)


def test_a_large_file_of_another_kind_is_not_read(path):
    with path.open("wb") as file:
        file.write(pickle.dumps(network()))
        file.truncate(2**40)  # takes no place on the disk
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="no file of skops"):
            load(path)
        assert tracemalloc.get_traced_memory()[1] < 1e8, "bytes"
    finally:
        tracemalloc.stop()


def test_every_truncation_is_refused(saved, path):
    data = saved["classifier"]
    for length in {*range(0, len(data), 1000), *range(len(data) - 300, len(data))}:
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match="cannot be loaded"):
            load(path)


@pytest.mark.parametrize("mask", [0xFF, 0x01])
def test_a_flipped_byte_is_found_or_means_nothing(mask, saved, path):
    """A date of a member, which nobody reads, may change."""
    data, n_refused = saved["classifier"], 0
    path.write_bytes(data)
    expected, last = load(path).__getstate__(), len(data) - 4000  # the archive's directory
    positions = [*range(0, last, 997), *range(last, len(data), 7)]
    for position in positions:
        flipped = bytearray(data)
        flipped[position] ^= mask
        path.write_bytes(flipped)
        try:
            assert_same(load(path).__getstate__(), expected)
        except ValueError as error:
            assert "cannot be loaded" in str(error)  # noqa: PT017
            n_refused += 1
    assert n_refused > 0.5 * len(positions)


# Forged estimators


def forged(estimator, change):
    """Return the content of a file with the changed state of an estimator."""
    cls, state = type(estimator), dict(estimator.__getstate__())
    change(state)
    members = {"__module__": cls.__module__, "__getstate__": lambda self: state}
    return skops.io.dumps(type(cls.__name__, (), members)())


def put(*path_and_value):
    """Return what sets a value at a place of a nested state."""
    *path, last, value = path_and_value

    def change(state):
        for key in path:
            state[key] = state[key].copy()
            state = state[key]
        state[last] = value

    return change


def drop(name):
    return lambda state: state.pop(name)


def packed(name, change):
    """Return what changes an attribute that stands packed in the state."""

    def repack(state):
        value = unpack(state[name])
        change(value)
        state[name] = pack(value)

    return repack


def progress(name, value):
    return packed("_progress", lambda course: course[0].update({name: value}))


def history(rows):
    def change(course):
        course[1] = rows

    return packed("_progress", change)


def moment(name, *value):
    """Return what changes what the optimiser keeps of its only parameter, or deletes it."""

    def change(state):
        kept = state["_optimizer_state"]["state"][0]
        del kept[name]
        kept.update({name: value[0]} if value else {})

    return change


def option(name, value):
    return lambda state: state["_optimizer_state"]["param_groups"][0].update({name: value})


def generator_at(position):
    """Return a generator that would read its next numbers from beyond its memory."""
    generator = np.random.RandomState(0)
    state = generator.get_state(legacy=False)
    state["state"]["pos"] = position
    generator.set_state(state)
    return generator


CONFIG = ("module_", "config")
FORGERIES = {
    "a method": (put("predict", 1), "predict is no attribute"),
    "a private method": (put("_make_optimizer", 1), "_make_optimizer is no attribute"),
    "parameter": (put("alpha", "much"), "'alpha' parameter"),
    "no inputs": (drop("n_features_in_"), "n_features_in_.*are missing"),
    "no progress": (drop("_progress"), "_progress"),
    "no labels": (drop("classes_"), "classes_.* are missing"),
    "unsorted labels": (put("classes_", np.array([1, 0])), "sorted vector of numbers or texts"),
    "mixed labels": (
        put("classes_", np.array(["b", 1], dtype=object)),
        "sorted vector of numbers or texts",
    ),
    "too many labels": (put("classes_", np.arange(3)), "other classes"),
    "labels of the binarizer": (put("_label_binarizer", "y_type_", "x"), "a fitted LabelBinarizer"),
    "class weights": (put("_class_weights", np.ones(3)), "not one for each class"),
    "absurd layers": (put(*CONFIG, "layer_units", (4, 10**12, 1)), "more weights than"),
    "overflowing layers": (
        put(*CONFIG, "layer_units", tuple(np.array([4, 2**14, 2**14, 1], np.int16))),
        "more weights than",
    ),
    "endless layers": (put(*CONFIG, "layer_units", (1,) * 10_000), "more weights than|Index"),
    "negative layers": (put(*CONFIG, "layer_units", (4, -2, 1)), "at least one unit"),
    "fractions of units": (put(*CONFIG, "layer_units", (4, 2.0, 1)), "TypeError"),
    "other layers": (put(*CONFIG, "layer_units", (4, 1, 1)), "not fit its configuration"),
    "no activation": (put(*CONFIG, "activations", ("eval",)), "KeyError"),
    "dropout": (put(*CONFIG, "dropout", (1.5,)), "no rate"),
    "no normalization": (put(*CONFIG, "normalization", "batch"), "not fit its configuration"),
    "another type": (put(*CONFIG, "dtype", "float32"), "not fit its configuration"),
    "another class of network": (put("module_", "class", "Network"), "KeyError"),
    "not finite": (
        put("module_", "arrays", "layers.0.bias", np.array([np.nan, 0])),
        "not finite",
    ),
    "broadcast": (
        put("module_", "arrays", "layers.0.bias", np.zeros(1)),
        "not fit its configuration",
    ),
    "other inputs": (put("n_features_in_", 5), "other inputs"),
    "other outputs": (put("n_outputs_", 2), "other outputs"),
    "progress of text": (progress("best_iter", "x"), "none that a training can have"),
    "progress with more": (progress("more", 1), "TypeError"),
    "no curve": (progress("loss_curve", None), "none that a training can have"),
    "no snapshot": (progress("best_snapshot", [torch.zeros(1)]), "other shapes"),
    "history of text": (history(["x"]), "rows with numbers"),
    "losses of text": (history([{"train_loss": "x"}]), "rows with numbers"),
    "a loss of 400 digits": (
        history([{"batches": [], "train_loss": 10**400}]),
        "rows with numbers",
    ),
    "text that is no JSON": (put("_progress", {"text": "[", "parts": []}), "Expecting value"),
    "text without parts": (
        put("_progress", {"text": '[{"packed as": "part"}]', "parts": []}),
        "IndexError",
    ),
    "kind": (
        put("_progress", {"text": '{"packed as": "eval", "items": 1}', "parts": []}),
        "KeyError",
    ),
    "deep text": (put("_progress", {"text": "[" * 10**5, "parts": []}), "nested too deeply"),
    "no fixed parameters": (put("_fixed", {}), "_fixed is not complete"),
    "no optimiser": (put("_fixed", "solver", "lbfgs"), "lbfgs"),
    "no step": (moment("step"), "does not keep"),
    "a step of 400 digits": (moment("step", 10**400), "does not fit"),
    "a negative step": (moment("step", -1), "does not fit"),  # which divides by zero
    "moments of another shape": (moment("m", np.zeros(3)), "does not fit"),
    "moments of text": (moment("m", "x"), "does not fit"),
    "an option of 400 digits": (option("eps", 10**400), "no option"),
    "an option of text": (option("lr", "x"), "no option"),
    "parameters of another optimiser": (option("params", [0, 1]), "the options"),
    "a loss without a training": (
        lambda state: [state.pop(name) for name in ("_progress", "module_")],
        "KeyError",
    ),
    "requests of no method": (put("_metadata_request", {"eval": {"x": True}}), "AttributeError"),
    "generator": (
        put("random_state", generator_at(10**6)),
        "a generator of random numbers",
    ),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_forged_estimators_are_refused(name, path):
    change, reason = FORGERIES[name]
    data = forged(network(dropout=0.2).fit(X, LABELS), change)
    assert re.search(reason, refusal(data, path))


def test_forged_ensembles_are_refused(path):
    ensemble = DeepMLPClassifier(**TINY, n_networks=2).fit(X, LABELS)
    other = DeepMLPClassifier(**TINY).fit(X, np.arange(40) % 3)
    for members in ([], [ensemble], [other], [DeepMLPRegressor(**TINY).fit(X, TARGET)], [1]):
        reason = refusal(forged(ensemble, put("estimators_", members)), path)
        assert re.search("an ensemble has networks|holds other things|is not that of", reason)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (put(*CONFIG, "decoder", "layer_units", (1, 2, 3)), "not fit its configuration"),
        (put(*CONFIG, "noise", ("eval", 0.1)), "noise="),
        (put(*CONFIG, "noise", ("gaussian", "much")), "noise="),
        (put("mean_", np.zeros(3)), "mean_ is not of 4"),
        (put("out_activation_", "tanh"), "not that of the decoder"),
        (drop("mean_"), "mean_.* missing"),
    ],
    ids=["decoder", "kind of noise", "amount of noise", "mean", "activation", "no mean"],
)
def test_forged_autoencoders_are_refused(change, reason, path):
    autoencoder = AutoencoderTransformer(1, **TINY, noise=0.1, noise_kind="gaussian").fit(X)
    assert re.search(reason, refusal(forged(autoencoder, change), path))


@pytest.mark.parametrize("cls", ["AdamW", "SGD", "Adamax", "LBFGS"])
def test_forged_states_of_torchs_optimisers_are_refused(cls, path):
    options = {"momentum": 0.9} if cls == "SGD" else None
    solver = getattr(torch.optim, cls)
    estimator = network(solver=solver, solver_params=options, batch_size=40).fit(X, LABELS)
    kept = estimator.__getstate__()["_optimizer_state"]["state"][0]
    name = next(name for name, value in kept.items() if isinstance(value, list | np.ndarray))
    reason = refusal(forged(estimator, moment(name, str)), path)  # a type, as skops may hold it
    assert f"{name}=<class 'str'> of {cls} does not fit" in reason


def test_what_a_rare_optimiser_of_torch_lacks_is_told_by_its_step(path):
    estimator = network(solver=torch.optim.Adamax).fit(X, LABELS)
    path.write_bytes(forged(estimator, moment("exp_inf")))
    with pytest.raises(ValueError, match="failed in a step: 'exp_inf'"):
        load(path).partial_fit(X, LABELS)


def test_absurd_parameters_allocate_nothing(path):
    data = forged(network().fit(X, LABELS), put("hidden_layer_sizes", (10**15,) * 3))
    path.write_bytes(data)
    assert_array_equal(load(path).predict(X[:3]).shape, (3,))


# Forged archives


def zipped(members, kind=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", kind) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def schema(tree):
    return zipped({"schema.json": json.dumps({**tree, "protocol": 2})})


def in_schema(change):
    """Return what forges a file by a change of its schema."""

    def forge(members):
        tree = json.loads(members["schema.json"])
        change(tree)
        return zipped({**members, "schema.json": json.dumps(tree)})

    return forge


def node(loader="ListNode", name="builtins.list", number=1, **more):
    module, _, cls = name.rpartition(".")
    return {"__module__": module, "__class__": cls, "__loader__": loader, "__id__": number, **more}


def laughs(number_of):
    """Return a tree of few parts, each twice in the next: 2**60 for who walks over it."""
    tree = node(number=number_of(1), content=[])
    for i in range(2, 62):
        again = node(number=number_of(i - 1), content=[])
        tree = node(number=number_of(i), content=[tree, again])
    return lambda members: schema(tree)


def array(header, content=b"", name="numpy.ndarray"):
    """Return a tree with an array that announces what it likes."""
    text = f"{header!r}\n".encode()
    npy = b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text + content
    tree = {**node("NdArrayNode", name, type="numpy", file="a.npy"), "protocol": 2}
    return zipped({"schema.json": json.dumps(tree), "a.npy": npy})


def header(shape, descr="<f8"):
    return {"descr": descr, "fortran_order": False, "shape": shape}


def called(name, *args):
    """Return a tree that calls a trusted name."""
    content = node("TupleNode", "builtins.tuple", 2, content=[*args])
    return schema(node("ConstructorFromReduceNode", name, content=content))


def json_node(value, number=3):
    return node("JsonNode", "builtins.str", number, content=json.dumps(value), is_json=True)


def sparse_bomb(members):
    inner = zipped({f"{name}.npy": bytes(2**25) for name in "ab"}, zipfile.ZIP_DEFLATED)
    tree = node("SparseMatrixNode", "scipy.sparse._csr.csr_matrix", type="scipy", file="a.npz")
    return zipped({"schema.json": json.dumps({**tree, "protocol": 2}), "a.npz": inner})


def nested(depth):
    """Return a tree of lists in lists."""
    tree = node(number=1, content=[])
    for number in range(2, depth):
        tree = node(number=number, content=[tree])
    return schema(tree)


def with_field(offset, content):
    """Return what overwrites a field of the first entry of the archive's directory."""

    def forge(members):
        data = bytearray(zipped(members))
        at = data.index(b"PK\1\2") + offset
        data[at : at + len(content)] = content
        return bytes(data)

    return forge


ARCHIVES = {
    "empty": (lambda members: zipped({}), "schema.json"),
    "no schema": (lambda members: zipped({"schema.json": "[]"}), "protocol 2"),
    "old protocol": (in_schema(lambda tree: tree.update(protocol=0)), "protocol 2 or newer"),
    "bomb": (
        lambda members: zipped({**members, "bomb": bytes(10**8)}, zipfile.ZIP_DEFLATED),
        "may not unpack to",
    ),
    "schema bomb": (
        lambda members: zipped({"schema.json": "[" * 10**7}, zipfile.ZIP_DEFLATED),
        "schema of 10000000 bytes is too long",
    ),
    "sparse bomb": (sparse_bomb, "may not unpack to"),
    "overlap": (with_field(20, b"\xff\xff\x0f\0\xff\xff\x0f\0"), "overlap"),
    "offset": (with_field(42, b"\xff\xff\xff\x7f"), "damaged"),
    "zip64": (with_field(20, b"\xff" * 8), "damaged|may not unpack"),
    "encrypted": (with_field(8, b"\1"), "encrypted"),
    "compression": (with_field(10, b"\x0c\0"), "damaged"),
    "billion laughs": (laughs(lambda i: i), "two different parts"),
    "laughs by name": (laughs(str), "no id of a part"),
    "laughs by fractions": (laughs(lambda i: i + 0.5), "no id of a part"),
    "laughs by truth": (laughs(lambda i: i > 1), "no id of a part|two different"),
    "circle": (
        lambda members: schema(node(content=[node(content=[])])), "two different parts",
    ),
    "stub": (lambda members: schema(node(content=[{"__id__": 1}])), "KeyError"),
    "deep": (lambda members: zipped({"schema.json": "[" * 10**5}), "nested too deeply"),
    # Python 3.12 needs fewer frames for a level, and reads it to the end
    "deep parts": (
        lambda members: nested(300),
        "nested too deeply" if sys.version_info < (3, 12) else "holds a list and no estimator",
    ),
    "absurd array": (lambda members: array(header((10**14,))), "not what it states"),
    "array of much": (lambda members: array(header((2**29,))), "not what it states"),
    "array of nothing": (lambda members: array(header((2**40,), "<U0")), "not what it states"),
    "array of objects": (lambda members: array(header((1,), "|O"), bytes(8)), "Object"),
    "scalar of gigabytes": (
        lambda members: array(header((), "<i8"), (2**33).to_bytes(8, "little"), "numpy.void"),
        "no numpy.void",
    ),
    "array read often": (
        lambda members: schema(
            node(content=[
                node("NdArrayNode", "numpy.ndarray", i, type="numpy", file="schema.json")
                for i in (2, 3)
            ])
        ),
        "damaged|share",
    ),
    "a function that is called": (
        lambda members: called("sklearn.metrics._classification.accuracy_score"),
        "may not be loaded by ConstructorFromReduceNode",
    ),
    "an optimiser that is made": (
        lambda members: called("torch.optim.adam.Adam"),
        "may not be loaded by ConstructorFromReduceNode",
    ),
    "an estimator that is made": (
        lambda members: called("sknn_deep._estimators.classifier.DeepMLPClassifier"),
        "may not be loaded by ConstructorFromReduceNode",
    ),
    "a call of the system": (
        lambda members: called("os.system", json_node("true")), r"'os\.system'"
    ),
    "no estimator": (lambda members: schema(json_node("x")), "holds a str and no estimator"),
    "a number of many digits": (
        lambda members: schema({**json_node(1), "content": "9" * 5000}), "digits"
    ),
    "a distribution": (
        lambda members: schema(
            node("ObjectNode", "scipy.stats._distn_infrastructure.rv_continuous_frozen")
        ),
        "rv_continuous_frozen",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ARCHIVES)
def test_forged_archives_are_refused(name, saved, path):
    with zipfile.ZipFile(io.BytesIO(saved["pipeline"])) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change, reason = ARCHIVES[name]
    assert re.search(reason, refusal(change(members), path))


def test_an_object_without_a_state_has_the_defaults(path):
    path.write_bytes(
        schema(node("ObjectNode", "sknn_deep._estimators.classifier.DeepMLPClassifier"))
    )
    assert repr(load(path)) == "DeepMLPClassifier()"
    assert_array_equal(load(path).get_params()["alpha"], DeepMLPClassifier().alpha)


def test_forged_distributions_are_refused(path):
    search = FusedRandomizedSearchCV(network(), RANDOM)
    for named, reason in (
        ((0, "alpha", "kstest", (), {}), "no distribution of scipy.stats"),
        ((0, "alpha", "norm", ("x",), {}), "no numbers"),
        ((0, "alpha", "norm", (1,) * 9, {}), "TypeError"),
    ):
        assert reason in refusal(forged(search, put("_distributions", [named])), path)


# What load and save do not do


@pytest.mark.slow
def test_loading_asks_neither_pickle_nor_the_compiler_of_torch(path):
    save(DeepMLPClassifier(**TINY, solver="adamw").fit(X, LABELS), path)
    script = f"""
import pickle, sys
import torch
from sknn_deep import load
def refuse(*args, **kwargs):
    raise AssertionError("something was unpickled")
pickle.load = pickle.loads = pickle.Unpickler = torch.load = refuse
load({str(path)!r})
print("torch._dynamo" in sys.modules)
"""
    command = [sys.executable, "-c", script]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert answer.stdout.split() == ["False"]


def test_the_package_never_asks_torch_or_pickle_to_load():
    folder = Path(sknn_deep.__file__).parent
    sources = {file.name: file.read_text(encoding="utf-8") for file in folder.rglob("*.py")}
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


# Memory


def test_loading_takes_a_multiple_of_the_file(path):
    regressor = DeepMLPRegressor(hidden_layer_sizes=(1000, 1000), solver="lbfgs", max_iter=1).fit(
        X, TARGET
    )
    save(regressor, path)
    tracemalloc.start()
    try:
        load(path)
        # its content, and the arrays; torch's memory is not traced
        assert tracemalloc.get_traced_memory()[1] < 2.2 * path.stat().st_size
    finally:
        tracemalloc.stop()


def test_dates_as_labels_cannot_be_saved(tmp_path):
    y = np.array(["2020", "2021"] * 20, dtype="datetime64[D]")
    classifier = DeepMLPClassifier((3,), max_iter=500).fit(np.arange(40.0)[:, np.newaxis] % 2, y)
    with pytest.raises(ValueError, match="classes_ should be a sorted vector of numbers or texts"):
        save(classifier, tmp_path / "file.skops")
