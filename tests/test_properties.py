"""Any parameters, any shapes, any types: a fit works, or says what is wrong with what."""

import re
import warnings

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning

from sknn_deep import AutoencoderTransformer, DeepMLPClassifier, DeepMLPRegressor
from sknn_deep._engine.solvers import STOCHASTIC_SOLVERS
from sknn_deep._networks.layers import ACTIVATIONS

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

# The same examples on every run and machine.
PROFILE = {
    "derandomize": True,
    "database": None,
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
}

X_DTYPES = ("f8", "f4", "f2", ">f8", ">f4", "g", "i8", "i4", ">i2", "i1", "u1", "?", "O")


def _mostly(usual, odd):
    """Draw the usual nine times out of ten."""
    return st.integers(0, 9).flatmap(lambda i: odd if i == 0 else usual)


def _in(*values):
    return st.sampled_from(values)


names = st.sampled_from(sorted(ACTIVATIONS))
sizes = st.lists(st.integers(1, 5), max_size=3)
COMMON = {
    "hidden_layer_sizes": _mostly(
        sizes | sizes.map(tuple) | sizes.map(np.array) | st.integers(1, 5),
        _in(0, [3, 0], [-1], [2.5], "wide", None, [[2, 3]], [np.int64(3)]),
    ),
    "activation": _mostly(
        names | st.lists(names, max_size=3), _in("step", None, ["relu", "step"], 3)
    ),
    "solver": _mostly(
        _in("lbfgs", *STOCHASTIC_SOLVERS, torch.optim.SGD, torch.optim.Adamax),
        _in("newton", None, dict, torch.optim.Optimizer, torch.optim.SparseAdam),
    ),
    "alpha": _mostly(_in(0, 1e-4, 1, np.float32(0.1)), _in(-1, np.nan, "much", None)),
    "batch_size": _mostly(_in("auto", 1, 2, 7, 1000, np.int64(3)), _in(0, -1, 2.0, "all", None)),
    "learning_rate": _mostly(
        _in("constant", "invscaling", "adaptive", "cosine", "one_cycle"), _in("linear", None, 0.1)
    ),
    "learning_rate_init": _mostly(_in(1e-3, 0.1, 1), _in(0, -1.0, np.nan, "fast", None)),
    "power_t": _mostly(_in(0, 0.5, 2), _in(-1, "half")),
    "max_iter": _mostly(_in(1, 2, 3), _in(0, 1.5, None, np.inf)),
    "shuffle": _mostly(st.booleans(), _in("yes", None)),
    "random_state": _mostly(_in(0, 2**32 - 1, None), _in(-1, 1.5, "seed")),
    "tol": _mostly(_in(0, 1e-4, 10.0), _in(-1, np.nan, "little")),
    "momentum": _mostly(_in(0, 0.9, 1), _in(-0.1, 1.1, None)),
    "nesterovs_momentum": _mostly(st.booleans(), _in("yes")),
    "early_stopping": _mostly(st.booleans(), _in("yes", None)),
    "validation_fraction": _mostly(_in(0.1, 0.5, 0.9), _in(0, 1, -0.1, 3)),
    "beta_1": _mostly(_in(0, 0.9), _in(1, -0.1)),
    "beta_2": _mostly(_in(0.5, 0.999), _in(1, -0.1)),
    "epsilon": _mostly(_in(1e-8, 0.1), _in(0, -1, None)),
    "n_iter_no_change": _mostly(_in(1, 10, np.inf), _in(0, 2.5, None)),
    "max_fun": _mostly(_in(1, 100), _in(0, None)),
    "dropout": _mostly(_in(0, 0.0, 0.5, 0.99, [0.5], [0.1, 0.2], ()), _in(1, -0.1, [1.5], "half")),
    "normalization": _mostly(_in(None, "batch", "layer"), _in("group", 0)),
    "solver_params": _mostly(_in(None, {}), _in({"no_such": 1}, {"lr": -1}, [("lr", 1)])),
    "weight_decay": _mostly(_in(None, 0, 0.1), _in(-1, np.nan)),
    "max_grad_norm": _mostly(_in(None, 0.1, 1), _in(0, -1)),
    "scoring": _mostly(_in(None, "loss"), _in("beauty", 3)),
    "device": _mostly(_in("cpu", torch.device("cpu")), _in("tpu", "cuda:99", 0, None, "meta")),
    "dtype": _mostly(_in("auto", "float32", "float64"), _in("float16", np.float32, None)),
    "callbacks": _mostly(_in(None, [], ()), _in("print", 3)),
    "warm_start": _mostly(st.booleans(), _in("yes")),
}
n_networks = _mostly(_in(1, 2, np.int64(3)), _in(0, 1.5, "two", None))
OWN = {
    DeepMLPClassifier: {
        "n_networks": n_networks,
        "class_weight": _mostly(_in(None, "balanced"), _in("fair", {"no such class": 1.0}, 2)),
        "label_smoothing": _mostly(_in(0, 0.1, 0.9), _in(1, -0.1, "soft")),
    },
    DeepMLPRegressor: {
        "n_networks": n_networks,
        "loss": _mostly(
            _in("squared_error", "absolute_error", "huber", "quantile", "poisson"), _in("cubic")
        ),
        "quantile": _mostly(_in(0.1, 0.5), _in(0, 1, None)),
        "huber_delta": _mostly(_in(0.5, 1), _in(0, -1)),
    },
    AutoencoderTransformer: {
        "n_components": _mostly(_in(1, 2, 9, np.int32(2)), _in(0, -1, 1.5, "mle", None)),
        "decoder_hidden_layer_sizes": _mostly(_in(None, (), (3,), [2, 2], 4), _in(0, [0], "deep")),
        "code_activation": _mostly(names, _in("step", None)),
        "output_activation": _mostly(_in("auto") | names, _in("step", None)),
        "loss": _mostly(_in("squared_error"), _in("cubic")),
    },
}


@st.composite
def features(draw):
    """Draw a matrix: few rows or none, few columns or none, of any type, with odd values now and
    then.
    """
    shape = (draw(_mostly(_in(1, 2, 3, 10, 25), _in(0))), draw(_mostly(_in(1, 2, 4), _in(0))))
    rng = np.random.RandomState(draw(st.integers(0, 1000)))
    X = rng.normal(size=shape) * draw(_in(1, 1, 1e-3, 10))
    if X.size and draw(_mostly(st.just(False), st.just(True))):
        X.flat[draw(st.integers(0, X.size - 1))] = draw(_in(np.nan, np.inf, -np.inf))
    dtype = np.dtype(draw(st.sampled_from(X_DTYPES)))
    with np.errstate(invalid="ignore"):
        X = X.astype(dtype)
    return np.asarray(X, order=draw(_in("C", "F")))


@st.composite
def targets(draw, cls, n_samples):
    rng = np.random.RandomState(draw(st.integers(0, 1000)))
    n_samples = draw(_mostly(st.just(n_samples), _in(0, n_samples + 1)))
    if cls is DeepMLPRegressor:
        kind = draw(_in("real", "real", "positive", "several", "column", "integer", "text"))
        y = rng.normal(size=(n_samples, {"several": 3, "column": 1}.get(kind, 2)))
        if kind not in ("several", "column"):
            y = y[:, 0]
        convert = {"positive": np.abs, "integer": np.rint}
        y = convert.get(kind, np.asarray)(y).astype(draw(_in("f8", "f4", "i8", "O")))
        return _as_text(y) if kind == "text" else y
    kind = draw(_in("binary", "three", "one", "text", "boolean", "multilabel", "real", "objects"))
    y = rng.randint(0, {"binary": 2, "one": 1, "boolean": 2}.get(kind, 3), n_samples)
    return {
        "text": _as_text,
        "boolean": lambda y: y.astype(bool),
        "multilabel": lambda y: np.eye(3, dtype=int)[y],
        "real": lambda y: y + 0.5,
        "objects": lambda y: _as_text(y).astype(object),
    }.get(kind, lambda y: y)(y)


def _as_text(y):
    return np.array([f"class {value}" for value in y], dtype=str)


@st.composite
def weights(draw, n_samples):
    rng = np.random.RandomState(draw(st.integers(0, 1000)))
    ordinary = st.none() | st.just(rng.uniform(0.1, 2, n_samples))
    odd = _in(
        rng.randint(0, 2, n_samples).astype(float),
        np.zeros(n_samples),
        -np.ones(n_samples),
        np.full(n_samples, np.nan),
        np.ones(n_samples + 1),
        np.ones((n_samples, 2)),
    )
    return draw(_mostly(ordinary, odd))


@st.composite
def problems(draw, cls):
    """Draw a handful of parameters and data for an estimator."""
    space = {**COMMON, **OWN[cls]}
    chosen = draw(st.lists(st.sampled_from(sorted(space)), max_size=5, unique=True))
    params = {"max_iter": 2, "hidden_layer_sizes": (3,), "device": "cpu", "random_state": 0}
    params |= {name: draw(space[name]) for name in chosen}
    X = draw(features())
    y = None if cls is AutoencoderTransformer else draw(targets(cls, len(X)))
    return params, X, y, draw(weights(len(X)))


# What a message may name: a parameter, an argument, or in scikit-learn's own words the shape of X,
# the y that has no or no second class, or the share that train_test_split is asked for.
SCIKIT_LEARNS_WORDS = (
    "Found array with", "inconsistent numbers of samples", "Unknown label type", "test_size",
    "Sample weights", "sample_weights", "validation set", "samples", "dtype",
)  # fmt: skip


EXPECTED_WARNINGS = (
    "Got `batch_size` less than 1 or larger than sample size",
    "A column-vector y was passed",
    "R\\^2 score is not well-defined",
)


def _names_what_is_wrong(message, estimator):
    words = [*estimator.get_params(), "X", "y", "y_true", "sample_weight", *SCIKIT_LEARNS_WORDS]
    return re.search(rf"(?<!\w)({'|'.join(map(re.escape, words))})(?!\w)", message) is not None


def _expected_dtype(estimator, X):
    if estimator.dtype == "auto":
        return np.dtype(np.float32 if X.dtype == np.float32 else np.float64)
    return np.dtype(estimator.dtype)


def _assert_good_predictions(estimator, X, y):
    """Check shape, type and finiteness of everything that is predicted for X."""
    dtype = _expected_dtype(estimator, X)
    if isinstance(estimator, AutoencoderTransformer):
        codes = estimator.transform(X)
        assert codes.shape == (len(X), estimator.n_components)
        outputs = [codes, estimator.inverse_transform(codes)]
        assert outputs[1].shape == X.shape
    elif isinstance(estimator, DeepMLPRegressor):
        outputs = [estimator.predict(X)]
        several = np.ndim(y) == 2 and np.shape(y)[1] > 1
        assert outputs[0].shape == (np.shape(y) if several else (len(X),))
    else:
        labels, outputs = estimator.predict(X), [estimator.predict_proba(X)]
        assert labels.shape == y.shape
        assert set(np.unique(labels)) <= set(np.unique(y)) | ({0, 1} if y.ndim == 2 else set())
        n_columns = len(estimator.classes_) if y.ndim == 2 else max(2, len(estimator.classes_))
        assert outputs[0].shape == (len(X), n_columns)  # two even for one class, as scikit-learn
        assert ((outputs[0] >= 0) & (outputs[0] <= 1)).all()
        if y.ndim == 1:
            np.testing.assert_allclose(outputs[0].sum(axis=1), 1, rtol=1e-5)
        assert np.isfinite(estimator.predict_log_proba(X)).all()
    for output in outputs:
        assert output.dtype == dtype
        assert np.isfinite(output).all()


def _fit(estimator, X, y, sample_weight):
    """Fit; return the message of a refusal, or None."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for expected in EXPECTED_WARNINGS:
            warnings.filterwarnings("ignore", expected, UserWarning)
        try:
            estimator.fit(X, y, sample_weight)
        except (ValueError, TypeError) as error:
            return str(error)
    return None


def _share_fitted(cls, max_examples, number):
    """Search for a problem that is neither fitted nor refused well; return the share fitted.

    Searches of different numbers meet different problems.
    """
    fitted = []

    @seed(number)
    @settings(**PROFILE, max_examples=max_examples)
    @given(problems(cls))
    def search(problem):
        params, X, y, sample_weight = problem
        estimator = cls(**params)
        message = _fit(estimator, X, y, sample_weight)
        fitted.append(message is None)
        if message is None:
            _assert_good_predictions(estimator, X, y)
        else:
            assert _names_what_is_wrong(message, estimator), message

    search()
    return np.mean(fitted)


@pytest.mark.parametrize("cls", OWN)
def test_fit_works_or_names_what_is_wrong(cls):
    assert 0.05 < _share_fitted(cls, 100, number=0) < 0.95  # both ways were taken often


@pytest.mark.slow
@pytest.mark.parametrize("cls", OWN)
def test_fit_works_or_names_what_is_wrong_in_many_cases(cls):
    assert 0.1 < _share_fitted(cls, 430, number=1) < 0.9  # beside those above


def test_messages_that_name_nothing_are_seen():
    estimator = DeepMLPClassifier()
    assert not _names_what_is_wrong("index 3 is out of bounds for axis 0 with size 3", estimator)
    assert not _names_what_is_wrong("mat1 and mat2 shapes cannot be multiplied (3x4", estimator)
    assert _names_what_is_wrong("alpha must be positive", estimator)
