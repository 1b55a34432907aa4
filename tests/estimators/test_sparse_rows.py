"""Wide sparse X is multiplied as it is, with the results of the same numbers in an array."""

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose
from sklearn.base import clone
from sklearn.neural_network import MLPClassifier
from skorch.callbacks import EpochScoring

from sknn_deep import AutoencoderTransformer, DeepMLPClassifier, DeepMLPRegressor
from sknn_deep._engine.features import SparseRows
from sknn_deep._estimators import code_statistics, fitting
from sknn_deep.model_selection import FusedGridSearchCV

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
OPTIONS = {"hidden_layer_sizes": (5, 4), "max_iter": 3, "batch_size": 40, "random_state": 0}


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    X = sp.random(100, 7000, density=0.004, format="csr", rng=rng)
    X.data[3] = 0  # explicit
    X.data[X.indptr[7] : X.indptr[8]] = 0
    return X, rng.integers(0, 3, 100)


@pytest.fixture
def no_dense_rows(monkeypatch):
    """Let the test fail where rows are made dense."""

    def refuse(self, *args):
        raise AssertionError("rows were made dense")

    monkeypatch.setattr(SparseRows, "gather", refuse)
    monkeypatch.setattr(SparseRows, "read", refuse)


def assert_same_weights(one, other, **tolerance):
    for own, theirs in zip(
        one.coefs_ + one.intercepts_, other.coefs_ + other.intercepts_, strict=True
    ):
        assert_allclose(own, theirs, **{"rtol": 1e-10, "atol": 1e-12} | tolerance)


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (DeepMLPClassifier, {"solver": "sgd", "momentum": 0.9}),
        (DeepMLPClassifier, {"solver": "lbfgs"}),
        (DeepMLPClassifier, {"early_stopping": True, "class_weight": "balanced"}),
        (DeepMLPClassifier, {"dropout": 0.3, "normalization": "batch", "solver": "sgd"}),
        (DeepMLPClassifier, {"n_networks": 2, "ema_decay": 0.9}),
        (DeepMLPRegressor, {"loss": "huber", "max_grad_norm": 0.1, "weight_decay": 0.1}),
    ],
)
def test_training_agrees_with_that_on_an_array(data, cls, options, no_dense_rows):
    X, y = data
    sparse, dense = (cls(**OPTIONS | options).fit(rows, y) for rows in (X, X.toarray()))
    for own, theirs in zip(
        getattr(sparse, "estimators_", [sparse]),
        getattr(dense, "estimators_", [dense]),
        strict=True,
    ):
        assert_same_weights(own, theirs)
        assert_allclose(own.loss_, theirs.loss_)
    assert_allclose(sparse.hidden_activations(X), dense.hidden_activations(X.toarray()), rtol=1e-9)
    assert_allclose(sparse.predict(X), dense.predict(X.toarray()), rtol=1e-9)


@pytest.mark.parametrize("container", [sp.csc_array, sp.coo_array, sp.lil_matrix])
def test_training_follows_scikit_learn(data, container, no_dense_rows):
    X, y = data
    weight = np.linspace(0.5, 2, len(y))
    ours, theirs = (
        cls(**OPTIONS).fit(container(X), y, sample_weight=weight)
        for cls in (DeepMLPClassifier, MLPClassifier)
    )
    assert_same_weights(ours, theirs, rtol=1e-7, atol=1e-10)
    assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=1e-7)


def test_single_precision_stays_single(data, no_dense_rows):
    X, y = data
    X = X.astype(np.float32)
    sparse, dense = (DeepMLPClassifier(**OPTIONS).fit(rows, y) for rows in (X, X.toarray()))
    assert sparse.predict_proba(X).dtype == np.float32
    assert_same_weights(sparse, dense, rtol=1e-3, atol=1e-4)


@pytest.mark.usefixtures("small_layers_are_rounded")
def test_bfloat16_rounds_the_products_of_the_other_layers(data, no_dense_rows):
    X, y = data
    options = OPTIONS | {"hidden_layer_sizes": (8, 8, 8), "solver": "sgd"}
    rounded, exact = (
        DeepMLPClassifier(**options, dtype=dtype).fit(X, y) for dtype in ("bfloat16", "float32")
    )
    assert np.any(rounded.coefs_[1] != exact.coefs_[1])
    assert_same_weights(rounded, exact, rtol=0.05, atol=0.01)


def test_batches_of_any_kind_may_follow_each_other(data):
    X, y = data
    sparse, mixed, dense = (DeepMLPClassifier(**OPTIONS) for _ in range(3))
    for rows in (slice(0, 60), slice(60, 100)):
        sparse.partial_fit(X[rows], y[rows], classes=[0, 1, 2])
        dense.partial_fit(X[rows].toarray(), y[rows], classes=[0, 1, 2])
        is_first = rows.start == 0
        mixed.partial_fit(X[rows] if is_first else X[rows].toarray(), y[rows], classes=[0, 1, 2])
    assert_same_weights(sparse, dense)
    assert_same_weights(mixed, dense)


def test_callbacks_see_dense_batches(data):
    X, y = data
    shapes = []

    class Watch(EpochScoring):
        def on_batch_end(self, net, batch=None, training=False, **kwargs):
            shapes.append((batch[0].shape, float(batch[0].sum())))

    callbacks = [("watch", Watch("accuracy", on_train=True))]
    watched = DeepMLPClassifier(**OPTIONS, callbacks=callbacks).fit(X, y)
    assert [shape for shape, _ in shapes[:3]] == [(40, 7000), (40, 7000), (20, 7000)]
    assert_allclose(sum(total for _, total in shapes), 3 * X.sum())
    assert_same_weights(watched, DeepMLPClassifier(**OPTIONS).fit(X, y))


def test_hooks_of_the_network_see_tensors(data):
    X, y = data
    model, seen = DeepMLPClassifier(**OPTIONS).fit(X, y), []
    expected = model.predict_proba(X)
    hook = lambda module, inputs, output: seen.append(type(inputs[0]).__name__)  # noqa: E731
    with model.module_.layers[0].register_forward_hook(hook):
        assert_allclose(model.predict_proba(X), expected, rtol=1e-9)
    assert set(seen) == {"Tensor"}


def test_searches_train_as_single_fits_do(data):
    X, y = data
    model = DeepMLPClassifier(**OPTIONS)
    search = FusedGridSearchCV(model, {"alpha": [1e-4, 1e-2]}, cv=2).fit(X, y)
    best = DeepMLPClassifier(**OPTIONS | search.best_params_).fit(X.toarray(), y)
    assert_same_weights(search.best_estimator_, best)
    dense = FusedGridSearchCV(model, {"alpha": [1e-4, 1e-2]}, cv=2).fit(X.toarray(), y)
    assert_allclose(*(s.cv_results_["mean_test_score"] for s in (search, dense)))


def test_autoencoders_encode_rows_as_they_are(data, monkeypatch):
    X, _ = data
    model = AutoencoderTransformer(2, hidden_layer_sizes=(4,), max_iter=2, random_state=0).fit(X)
    expected = model.transform(X.toarray())
    monkeypatch.setattr(SparseRows, "read", None)
    assert_allclose(model.transform(X), expected, rtol=1e-9, atol=1e-12)


@pytest.fixture
def small_pieces(monkeypatch):
    """Limit what an autoencoder makes dense to 40 rows of the data, and note how many it does."""
    monkeypatch.setattr(code_statistics, "_NUMBERS", 40 * 7000)
    monkeypatch.setattr(fitting, "_DENSE_NUMBERS", 40 * 7000)
    monkeypatch.setattr(fitting, "_FEWEST_ROWS", 1)
    lengths, made_dense = [], sp.csr_matrix.toarray

    def toarray(self, *args, **kwargs):
        lengths.append(self.shape[0])
        return made_dense(self, *args, **kwargs)

    monkeypatch.setattr(sp.csr_matrix, "toarray", toarray)
    return lengths


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"solver": "lbfgs", "max_iter": 2},
        {"early_stopping": True, "contamination": 0.1},
        {"allow_nan": True, "order_code": True},
    ],
)
@pytest.mark.parametrize("is_weighted", [False, True])
def test_an_autoencoder_makes_a_batch_of_rows_dense_at_a_time(
    data, options, is_weighted, small_pieces
):
    X, _ = data
    weight = np.linspace(0, 1, X.shape[0]) if is_weighted else None
    network = AutoencoderTransformer(2, **OPTIONS | options)
    dense = clone(network).fit(X.toarray(), sample_weight=weight)
    small_pieces.clear()
    sparse = clone(network).fit(X, sample_weight=weight)
    assert 10 <= max(small_pieces) <= 40
    if network.solver != "lbfgs":
        assert sparse.loss_curve_ == dense.loss_curve_
    for name in ("loss_", "explained_variance_", "code_std_", "offset_", "mean_"):
        assert_allclose(getattr(sparse, name), getattr(dense, name), rtol=1e-7, atol=1e-12)
    assert_allclose(sparse.transform(X), dense.transform(X), rtol=1e-7, atol=1e-12)


def test_lbfgs_minimises_the_same_in_batches(monkeypatch):
    X = sp.random(100, 30, density=0.3, format="csr", rng=np.random.default_rng(0))
    network = AutoencoderTransformer(
        8, hidden_layer_sizes=(), solver="lbfgs", max_iter=200, random_state=0, alpha=0.1
    )
    whole = clone(network).fit(X)
    monkeypatch.setattr(fitting, "_DENSE_NUMBERS", 30 * 7)
    monkeypatch.setattr(fitting, "_FEWEST_ROWS", 1)
    in_batches = clone(network).fit(X)
    assert in_batches.loss_ != whole.loss_, "the same sums to the last bit are those of one batch"
    assert_allclose(in_batches.loss_, whole.loss_, rtol=1e-5)
