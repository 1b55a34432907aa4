"""What each of the parameters does that scikit-learn's networks do not have."""

import copy
import pickle
import re

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import skorch.callbacks
import torch
from conftest import KINDS
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import load_digits, make_moons
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    log_loss,
    make_scorer,
    max_error,
    mean_pinball_loss,
)
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight

from sknn_deep import AutoencoderTransformer, DeepMLPClassifier, DeepMLPRegressor
from sknn_deep._engine import in_parts
from sknn_deep._training.checkpoint import TrainingCheckpoint

pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer. Maximum iterations")

QUICK = {"hidden_layer_sizes": (16,), "max_iter": 4, "random_state": 0}
ACTIVATIONS = [
    "identity", "logistic", "tanh", "relu", "leaky_relu", "elu", "selu", "gelu", "silu", "mish",
    "softplus",
]  # fmt: skip
NAMED_SOLVERS = ["sgd", "adam", "adamw", "nadam", "radam", "rmsprop", "adagrad", "muon"]


def classifier(**params):
    return DeepMLPClassifier(**{**QUICK, **params})


def regressor(**params):
    return DeepMLPRegressor(**{**QUICK, **params})


def autoencoder(**params):
    return AutoencoderTransformer(**{**QUICK, "n_components": 4, **params})


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def network(request):
    """Offer each of the three estimators, ready for a quick fit."""
    return request.param(**QUICK)


def output(network, X):
    names = ("predict_proba", "inverse_transform", "predict")
    method = next(name for name in names if hasattr(network, name))
    return getattr(network, method)(X if method != "inverse_transform" else network.transform(X))


# dropout


def test_dropout_is_reproducible(network, digits):
    network.set_params(dropout=0.3)
    first = copy.deepcopy(network).fit(digits.X, digits.y)
    second = network.fit(digits.X, digits.y)
    assert first.loss_curve_ == second.loss_curve_
    assert_array_equal(first.module_.flat, second.module_.flat)


def test_dropout_acts_in_training_and_not_in_prediction(network, digits):
    without = copy.deepcopy(network).fit(digits.X, digits.y)
    network.set_params(dropout=0.3).fit(digits.X, digits.y)
    assert network.loss_curve_[0] != without.loss_curve_[0]
    assert_array_equal(output(network, digits.X_test), output(network, digits.X_test))


def test_dropout_draws_new_masks_in_each_epoch(digits):
    # with a vanishing rate the weights stay, so only the masks move the loss
    losses = (
        classifier(dropout=0.5, learning_rate_init=1e-12, shuffle=False)
        .fit(digits.X, digits.y)
        .loss_curve_
    )
    assert len(set(losses)) == 4
    assert np.std(losses) < 0.5


def test_dropout_leaves_initial_weights_and_shuffles_as_they_are(digits):
    params = {"learning_rate_init": 1e-300, "solver": "sgd"}
    without = classifier(**params).fit(digits.X, digits.y)
    dropped = classifier(**params, dropout=0.5).fit(digits.X, digits.y)
    assert_array_equal(dropped.module_.flat, without.module_.flat)


def test_dropout_keeps_the_expected_activation(digits):
    # a linear network's expected output is that of the whole network
    network = classifier(activation="identity", dropout=0.4).fit(digits.X, digits.y)
    X = torch.from_numpy(digits.X[:1]).repeat(20_000, 1)
    with torch.inference_mode():
        expected = network.module_(X[:1])[0]
        network.module_.train()
        network.module_.set_generator(torch.Generator().manual_seed(0))
        mean = network.module_(X).mean(dim=0)
        network.module_.eval()
    assert_allclose(mean, expected, atol=0.02)


def test_dropout_can_differ_by_layer(digits):
    network = classifier(hidden_layer_sizes=(16, 16), dropout=[0.0, 0.5]).fit(digits.X, digits.y)
    rates = [module.p for module in network.module_.modules() if hasattr(module, "p")]
    assert rates == [0.5]
    both = classifier(hidden_layer_sizes=(16, 16), dropout=0.5).fit(digits.X, digits.y)
    assert both.loss_curve_ != network.loss_curve_


def test_dropout_learns_fewer_wrong_labels_by_heart(digits):
    X, y = digits.X[:400], digits.y[:400].copy()
    y[::3] = np.random.RandomState(0).randint(10, size=len(y[::3]))
    params = {"hidden_layer_sizes": (128,), "max_iter": 80, "alpha": 0, "batch_size": 50}
    params |= {"learning_rate": "cosine", "learning_rate_init": 0.005}
    losses = [
        log_loss(
            digits.y_test,
            classifier(dropout=dropout, **params).fit(X, y).predict_proba(digits.X_test),
        )
        for dropout in (0.0, 0.5)
    ]
    assert losses[1] < 0.9 * losses[0]


# normalization


@pytest.mark.parametrize(
    ("normalization", "kind"), [("batch", torch.nn.BatchNorm1d), ("layer", torch.nn.LayerNorm)]
)
def test_normalization_stands_between_layer_and_activation(normalization, kind, digits):
    network = classifier(hidden_layer_sizes=(16, 8), normalization=normalization)
    network.fit(digits.X, digits.y)
    kinds = [type(module) for module in network.module_.layers]
    assert kinds.count(kind) == 2
    positions = [i for i, module in enumerate(kinds) if module is kind]
    assert [kinds[i + 1] for i in positions] == [torch.nn.ReLU] * 2


@pytest.mark.parametrize("normalization", ["batch", "layer"])
def test_normalization_makes_a_badly_scaled_input_learnable(normalization, digits):
    X, X_test = 1e4 * digits.X, 1e4 * digits.X_test
    params = {"activation": "tanh", "learning_rate_init": 0.01, "max_iter": 15}
    plain = classifier(**params).fit(X, digits.y)
    normal = classifier(normalization=normalization, **params).fit(X, digits.y)
    assert normal.score(X_test, digits.y_test) > 0.9 > plain.score(X_test, digits.y_test)


@pytest.mark.parametrize("normalization", ["batch", "layer"])
def test_normalized_network_predicts_each_row_by_itself(normalization, network, digits):
    network.set_params(normalization=normalization).fit(digits.X, digits.y)
    alone = np.concatenate([output(network, row[None]) for row in digits.X_test[:5]])
    assert_allclose(alone, output(network, digits.X_test)[:5], rtol=1e-10, atol=1e-12)


def test_batch_normalization_never_sees_a_batch_of_one(digits):
    # 101 rows in batches of 20 would leave one row over
    network = classifier(normalization="batch", batch_size=20)
    network.fit(digits.X[:101], digits.y[:101])
    assert np.isfinite(network.loss_curve_).all()
    assert network.t_ == 4 * 101


def test_batch_normalization_keeps_running_statistics_of_the_best_epoch(cancer):
    network = classifier(normalization="batch", max_iter=20, learning_rate_init=0.05)
    network.fit(cancer.X, cancer.y, X_val=cancer.X_test, y_val=cancer.y_test)
    assert network.score(cancer.X_test, cancer.y_test) == max(network.validation_scores_)


def with_batch_statistics(module, X):
    """Return the output of a network that normalises over X, and its twin that has done so."""
    twin = copy.deepcopy(module).train()
    for part in twin.modules():
        if isinstance(part, torch.nn.BatchNorm1d):
            part.momentum = 1.0  # the running statistics become those of this batch
    with torch.inference_mode():
        return twin(torch.from_numpy(X)), twin


LBFGS_BATCH = {
    "solver": "lbfgs", "normalization": "batch", "hidden_layer_sizes": (16, 8), "max_iter": 10,
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:lbfgs failed to converge")
def test_lbfgs_normalizes_by_the_statistics_of_the_whole_training_set(network, digits):
    network.set_params(**LBFGS_BATCH).fit(digits.X, digits.y)
    _, twin = with_batch_statistics(network.module_, digits.X)
    for (name, actual), expected in zip(
        network.module_.named_buffers(), twin.buffers(), strict=True
    ):
        if name.endswith(("mean", "var")):  # the variance may be divided by n or by n - 1
            assert_allclose(actual, expected, rtol=2e-3, atol=1e-8)


@pytest.mark.filterwarnings("ignore:lbfgs failed to converge")
def test_lbfgs_with_batch_normalization_predicts_what_it_has_learned(digits):
    network = classifier(**LBFGS_BATCH).fit(digits.X, digits.y)
    learned, _ = with_batch_statistics(network.module_, digits.X)
    expected = np.mean(learned.argmax(dim=1).numpy() == digits.y)
    assert network.score(digits.X, digits.y) == pytest.approx(expected, abs=1e-6)


# activations


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation_agrees_with_torchs_function(activation, diabetes):
    network = regressor(activation=activation).fit(diabetes.X, diabetes.y)
    functions = {
        "identity": lambda x: x,
        "logistic": torch.sigmoid,
        "softplus": torch.nn.functional.softplus,
    }
    function = functions.get(activation) or getattr(torch.nn.functional, activation)
    (w1, w2), (b1, b2) = network.coefs_, network.intercepts_
    hidden = function(torch.from_numpy(diabetes.X_test @ w1 + b1)).numpy()
    assert_allclose(network.predict(diabetes.X_test), (hidden @ w2 + b2).ravel(), rtol=1e-9)


@pytest.mark.parametrize("activation", [a for a in ACTIVATIONS if a != "identity"])
def test_activation_bends_a_boundary_that_no_line_draws(activation):
    X, y = make_moons(400, noise=0.1, random_state=0)
    params = {"learning_rate": "one_cycle", "learning_rate_init": 0.05, "max_iter": 60}
    params |= {"batch_size": 50, "hidden_layer_sizes": (24, 24)}
    assert classifier(activation=activation, **params).fit(X, y).score(X, y) > 0.96
    assert LogisticRegression().fit(X, y).score(X, y) < 0.9


@pytest.mark.parametrize("activations", [["tanh", "gelu"], ("elu", "identity")])
def test_activations_can_differ_by_layer(activations, digits):
    network = classifier(hidden_layer_sizes=(8, 6), activation=activations)
    network.fit(digits.X, digits.y)
    expected = {
        "tanh": torch.nn.Tanh, "gelu": torch.nn.GELU, "elu": torch.nn.ELU,
        "identity": torch.nn.Identity,
    }  # fmt: skip
    kinds = [type(module) for module in network.module_.layers]
    assert kinds[1::2] == [expected[name] for name in activations]


def test_one_activation_for_all_is_the_list_of_it(digits):
    params = {"hidden_layer_sizes": (8, 6)}
    one = classifier(activation="silu", **params).fit(digits.X, digits.y)
    many = classifier(activation=["silu", "silu"], **params).fit(digits.X, digits.y)
    assert one.loss_curve_ == many.loss_curve_


def test_no_hidden_layer_is_logistic_regression(cancer):
    network = classifier(hidden_layer_sizes=(), solver="lbfgs", alpha=1.0, max_iter=1000, tol=1e-9)
    network.fit(cancer.X, cancer.y)
    expected = LogisticRegression(C=1.0, tol=1e-9, max_iter=1000).fit(cancer.X, cancer.y)
    assert_allclose(network.coefs_[0].ravel(), expected.coef_.ravel(), atol=1e-3)
    assert_allclose(network.intercepts_[0], expected.intercept_, atol=1e-3)


def test_no_hidden_layer_is_linear_regression(diabetes):
    network = regressor(hidden_layer_sizes=(), solver="lbfgs", alpha=0, max_iter=1000, tol=1e-9)
    network.fit(diabetes.X, diabetes.y)
    expected = LinearRegression().fit(diabetes.X, diabetes.y)
    assert_allclose(network.predict(diabetes.X_test), expected.predict(diabetes.X_test), atol=1e-4)


# class_weight and label_smoothing


@pytest.fixture
def rare():
    """Offer digits where all classes but the first are rare."""
    X, y = load_digits(return_X_y=True)
    keep = np.r_[np.flatnonzero(y == 0), np.flatnonzero(y == 1)[:12], np.flatnonzero(y == 2)[:6]]
    return X[keep] / 16, np.array(["zero", "one", "two"])[y[keep]]


@pytest.mark.parametrize(
    "class_weight",
    ["balanced", {"one": 3.0, "zero": 0.5, "two": 7.0}, {"two": 4.0}],
    ids=["balanced", "all", "one of them"],
)
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.filterwarnings("ignore:lbfgs failed to converge")
def test_class_weight_is_the_sample_weight_of_the_class(class_weight, solver, rare):
    X, y = rare
    by_class = classifier(class_weight=class_weight, solver=solver, tol=0.02).fit(X, y)
    by_sample = classifier(solver=solver, tol=0.02)
    by_sample.fit(X, y, sample_weight=compute_sample_weight(class_weight, y))
    assert_allclose(by_class.predict_proba(X), by_sample.predict_proba(X), rtol=1e-10)


def test_class_weight_multiplies_the_sample_weight(rare):
    X, y = rare
    weight = np.random.RandomState(0).uniform(size=len(y))
    both = classifier(class_weight={"zero": 1.0, "one": 5.0, "two": 9.0}).fit(X, y, weight)
    factors = np.array([{"zero": 1.0, "one": 5.0, "two": 9.0}[label] for label in y])
    product = classifier().fit(X, y, weight * factors)
    assert_allclose(both.loss_curve_, product.loss_curve_, rtol=1e-12)


def test_balanced_classes_weigh_the_same_whatever_the_sample_weights(rare):
    X, y = rare
    weight = np.random.RandomState(0).uniform(size=len(y))
    weight[y == "zero"] *= 7
    labels, indices = np.unique(y, return_inverse=True)
    totals = np.bincount(indices, weights=weight)
    expected = weight * weight.sum() / (len(labels) * totals[indices])
    balanced = classifier(class_weight="balanced").fit(X, y, weight)
    assert_allclose(balanced.loss_curve_, classifier().fit(X, y, expected).loss_curve_, rtol=1e-9)


def test_class_weight_helps_the_rare_classes(rare):
    X, y = rare
    scores = [
        balanced_accuracy_score(y, classifier(class_weight=w, max_iter=35).fit(X, y).predict(X))
        for w in (None, "balanced")
    ]
    assert scores[0] < 0.7 < scores[1]


def test_class_weight_acts_in_partial_fit(rare):
    X, y = rare
    weights = {"zero": 1.0, "one": 5.0, "two": 9.0}
    by_class, by_sample = classifier(class_weight=weights), classifier()
    for _ in range(3):
        by_class.partial_fit(X, y, classes=np.unique(y))
        by_sample.partial_fit(X, y, compute_sample_weight(weights, y), classes=np.unique(y))
    assert_allclose(by_class.loss_curve_, by_sample.loss_curve_, rtol=1e-12)


def test_class_weight_may_name_a_class_that_a_batch_lacks(rare):
    X, y = rare
    by_class, by_sample = classifier(class_weight={"one": 5.0}), classifier()
    for rows in (y != "two", y != "one", y == "zero"):
        by_class.partial_fit(X[rows], y[rows], classes=np.unique(y))
        weight = np.where(y[rows] == "one", 5.0, 1.0)
        by_sample.partial_fit(X[rows], y[rows], weight, classes=np.unique(y))
    assert_allclose(by_class.loss_curve_, by_sample.loss_curve_, rtol=1e-12)


@pytest.mark.parametrize("class_weight", ["balanced", {"one": 5.0}], ids=["balanced", "dict"])
def test_class_weight_may_name_a_class_that_the_validation_set_lacks(class_weight, rare):
    X, y = rare
    few = y != "one"
    network = classifier(class_weight=class_weight).fit(X, y, X_val=X[few], y_val=y[few])
    assert network.best_validation_score_ == network.score(X[few], y[few])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("class_weight", ["balanced", {"zero": 0.2, "two": 3.0}], ids=str)
def test_class_weight_does_not_enter_the_validation_score(class_weight, weighted, rare):
    X, y = rare
    weight = np.random.RandomState(0).uniform(0, 9, len(y)) if weighted else None
    network = classifier(class_weight=class_weight, tol=0)
    network.fit(X, y, X_val=X, y_val=y, sample_weight_val=weight)
    assert network.best_validation_score_ == pytest.approx(network.score(X, y, weight), rel=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("class_weight", ["balanced", {"zero": 0.2, "two": 3.0}], ids=str)
def test_class_weight_of_the_training_labels_enters_the_validation_loss(
    class_weight, weighted, rare
):
    X, y = rare
    rows = np.r_[0:10, -18:0]  # other shares of the classes than in y
    classes = np.unique(y)
    of_class = dict(
        zip(classes, compute_class_weight(class_weight, classes=classes, y=y), strict=True)
    )
    factor = np.array([of_class[label] for label in y[rows]])
    weight = np.random.RandomState(0).uniform(0.1, 9, len(rows)) if weighted else None
    network = classifier(class_weight=class_weight, scoring="loss")
    network.fit(X, y, X_val=X[rows], y_val=y[rows], sample_weight_val=weight)
    expected = log_loss(
        y[rows],
        network.predict_proba(X[rows]),
        sample_weight=factor if weight is None else weight * factor,
    )
    assert min(network.validation_loss_curve_) == pytest.approx(expected)


def test_balanced_class_weight_is_refused_by_partial_fit(rare):
    X, y = rare
    message = "class_weight='balanced' is not supported for partial_fit"
    with pytest.raises(ValueError, match=re.escape(message)):
        classifier(class_weight="balanced").partial_fit(X, y, classes=np.unique(y))


@pytest.mark.parametrize("n_classes", [2, 10])
def test_label_smoothing_bounds_the_confidence(n_classes, digits):
    keep = digits.y < n_classes
    params = {"solver": "lbfgs", "alpha": 0, "max_iter": 300, "hidden_layer_sizes": (32,)}
    params |= {"tol": 1e-3}
    sure = classifier(**params).fit(digits.X[keep], digits.y[keep])
    smooth = classifier(label_smoothing=0.2, **params).fit(digits.X[keep], digits.y[keep])
    # at the optimum of a network that fits all targets
    best = 1 - 0.2 + 0.2 / n_classes
    assert_allclose(smooth.predict_proba(digits.X[keep]).max(axis=1).mean(), best, atol=0.03)
    assert sure.predict_proba(digits.X[keep]).max(axis=1).mean() > 0.99
    assert smooth.score(digits.X[keep], digits.y[keep]) > 0.99


# losses of the regressor


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.9])
def test_quantile_loss_predicts_the_quantile(quantile):
    y = np.random.RandomState(0).exponential(size=2001)
    X = np.ones((2001, 1))
    network = regressor(
        loss="quantile", quantile=quantile, hidden_layer_sizes=(), alpha=0, batch_size=500,
        learning_rate="cosine", learning_rate_init=0.05, max_iter=100,
    ).fit(X, y)  # fmt: skip
    assert network.predict(X[:1])[0] == pytest.approx(np.quantile(y, quantile), abs=0.05)


def test_quantile_loss_beats_the_mean_on_pinball_loss(diabetes):
    params = {"max_iter": 60, "learning_rate": "cosine", "learning_rate_init": 0.01}
    upper = regressor(loss="quantile", quantile=0.9, **params).fit(diabetes.X, diabetes.y)
    mean = regressor(**params).fit(diabetes.X, diabetes.y)
    losses = [
        mean_pinball_loss(diabetes.y_test, network.predict(diabetes.X_test), alpha=0.9)
        for network in (upper, mean)
    ]
    assert losses[0] < 0.8 * losses[1]
    assert 0.75 < np.mean(diabetes.y_test < upper.predict(diabetes.X_test)) < 0.98


def constant_fit(y, **params):
    """Return the constant that a loss prefers for some targets."""
    network = regressor(
        hidden_layer_sizes=(), alpha=0, learning_rate="cosine", learning_rate_init=0.1,
        max_iter=400, **params,
    )  # fmt: skip
    return network.fit(np.ones((len(y), 1)), y).predict([[1.0]])[0]


def test_absolute_error_predicts_the_median_and_squared_error_the_mean():
    y = np.array([0.0, 0.1, 0.3, 0.4, 9.0])
    assert constant_fit(y, loss="absolute_error") == pytest.approx(0.3, abs=0.02)
    assert constant_fit(y, loss="squared_error") == pytest.approx(y.mean(), abs=0.02)


def test_huber_loss_lies_between_the_median_and_the_mean():
    y = np.array([0.0, 0.1, 0.3, 0.4, 9.0])
    constants = [constant_fit(y, loss="huber", huber_delta=delta) for delta in (0.01, 1.0, 100.0)]
    # five residuals: four quadratic and one linear balance at c = (0.8 + delta) / 4
    assert constants[1] == pytest.approx((0.8 + 1.0) / 4, abs=0.02)
    assert constants[0] == pytest.approx(0.3, abs=0.03)
    assert constants[2] == pytest.approx(y.mean(), abs=0.03)


def test_poisson_loss_predicts_positive_rates(diabetes):
    y = np.random.RandomState(0).poisson(np.exp(diabetes.y))
    network = regressor(loss="poisson", hidden_layer_sizes=(2,), max_iter=60, batch_size=64)
    network.set_params(learning_rate="cosine", learning_rate_init=0.01).fit(diabetes.X, y)
    predicted = network.predict(diabetes.X_test)
    assert predicted.min() > 0
    assert np.corrcoef(np.log(predicted), diabetes.y_test)[0, 1] > 0.4


@pytest.mark.parametrize("loss", ["squared_error", "absolute_error", "huber", "quantile"])
def test_loss_curve_reports_the_mean_over_the_outputs(loss, diabetes):
    # a vanishing rate and one whole batch: the loss is that of the network as it ends
    Y = np.column_stack([diabetes.y, diabetes.y**2, -diabetes.y])
    params = {"alpha": 0, "batch_size": len(Y), "max_iter": 1, "learning_rate_init": 1e-300}
    network = regressor(loss=loss, quantile=0.3, **params).fit(diabetes.X, Y)
    error = Y - network.predict(diabetes.X)
    size = np.abs(error)
    expected = {
        "squared_error": error**2 / 2,
        "absolute_error": size,
        "huber": np.where(size < 1, error**2 / 2, size - 0.5),
        "quantile": np.where(error > 0, 0.3 * error, -0.7 * error),
    }[loss]
    assert network.loss_ == pytest.approx(expected.mean(), rel=1e-10)


# optimisers


@pytest.mark.parametrize("solver", NAMED_SOLVERS)
def test_solver_learns_the_digits(solver, digits):
    rates = {"sgd": 0.1, "adagrad": 0.05, "rmsprop": 0.005}
    network = classifier(
        solver=solver, learning_rate_init=rates.get(solver, 0.01), max_iter=15, batch_size=100
    )
    network.fit(digits.X, digits.y)
    assert network.score(digits.X_test, digits.y_test) > 0.9


@pytest.mark.parametrize(
    ("solver", "params"),
    [
        (torch.optim.SGD, {"momentum": 0.9}),
        (torch.optim.Adam, {"amsgrad": True}),
        (torch.optim.Adamax, None),
        (torch.optim.RMSprop, {"alpha": 0.9}),
        (torch.optim.LBFGS, {"max_iter": 5, "line_search_fn": "strong_wolfe"}),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_optimizer_class_of_torch_learns_the_digits(solver, params, digits):
    rates = {torch.optim.SGD: 0.1, torch.optim.LBFGS: 1.0}
    network = classifier(
        solver=solver,
        solver_params=params,
        max_iter=15,
        learning_rate_init=rates.get(solver, 0.02),
        batch_size=450 if solver is torch.optim.LBFGS else 100,
    )
    network.fit(digits.X, digits.y)
    assert network.score(digits.X_test, digits.y_test) > 0.9


@pytest.mark.parametrize(
    ("solver", "params"),
    [
        ("adamw", {"amsgrad": True}),
        ("rmsprop", {"centered": True}),
        ("nadam", {"momentum_decay": 0.1}),
        ("muon", {"momentum": 0.5}),
        ("adagrad", {"lr_decay": 0.1}),
    ],
)
def test_solver_params_reach_the_optimizer(solver, params, digits):
    plain = classifier(solver=solver).fit(digits.X, digits.y)
    changed = classifier(solver=solver, solver_params=params).fit(digits.X, digits.y)
    assert changed.loss_curve_[0] != plain.loss_curve_[0] or (
        changed.loss_curve_[-1] != plain.loss_curve_[-1]
    )


class DenormalCounter(skorch.callbacks.Callback):
    """Counts the numbers in the optimiser's state that a processor computes with slowly."""

    def on_train_end(self, net, **kwargs):
        tensors = [
            value
            for state in net.optimizer_.state.values()
            for value in state.values()
            if isinstance(value, torch.Tensor)
        ]
        smallest = torch.finfo(torch.float32).tiny
        self.count = sum(int(((t != 0) & (t.abs() < smallest)).sum()) for t in tensors)


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_moments_of_a_feature_that_falls_silent_do_not_become_denormal(solver, digits):
    counter = DenormalCounter()
    network = classifier(solver=solver, alpha=0, beta_1=0.6, momentum=0.6, callbacks=[counter])
    X, y = digits.X[:50].astype(np.float32), digits.y[:50]
    network.partial_fit(X, y, classes=np.arange(10))
    X[:, 20:40] = 0
    for _ in range(200):  # 0.6 ** 175 is 2e-39
        network.partial_fit(X, y)
    assert counter.count == 0


@pytest.mark.parametrize("solver", ["adam", "sgd", "muon", torch.optim.RMSprop])
def test_weight_decay_shrinks_the_weights_and_not_the_biases(solver, digits):
    # a vanishing gradient step, so that only the decay moves the weights
    params = {
        "solver": solver, "learning_rate_init": 1e-9, "alpha": 0, "max_iter": 1, "batch_size": 1347,
    }  # fmt: skip
    plain = classifier(weight_decay=0, **params).fit(digits.X, digits.y)
    decayed = classifier(weight_decay=1e8, **params).fit(digits.X, digits.y)
    for weights, expected in zip(decayed.coefs_, plain.coefs_, strict=True):
        assert_allclose(weights, 0.9 * expected, atol=1e-7)
    for bias, expected in zip(decayed.intercepts_, plain.intercepts_, strict=True):
        assert_allclose(bias, expected, atol=1e-7)


@pytest.mark.parametrize(("solver", "default"), [("adamw", 0.01), ("muon", 0.01), ("adam", 0)])
def test_default_weight_decay_is_that_of_the_solver(solver, default, digits):
    implicit = classifier(solver=solver).fit(digits.X, digits.y)
    explicit = classifier(solver=solver, weight_decay=default).fit(digits.X, digits.y)
    other = classifier(solver=solver, weight_decay=0.5).fit(digits.X, digits.y)
    assert implicit.loss_curve_ == explicit.loss_curve_ != other.loss_curve_


def test_max_grad_norm_bounds_the_step(digits):
    params = {"solver": "sgd", "momentum": 0, "learning_rate_init": 1.0, "batch_size": 1347}
    params |= {"max_iter": 1}
    start = classifier(**{**params, "learning_rate_init": 1e-300}).fit(digits.X, digits.y)
    clipped = classifier(**params, max_grad_norm=0.01).fit(digits.X, digits.y)
    free = classifier(**params).fit(digits.X, digits.y)
    steps = [(network.module_.flat - start.module_.flat).norm() for network in (clipped, free)]
    assert steps[0] == pytest.approx(0.01)
    assert steps[1] > 0.1


def test_generous_max_grad_norm_changes_nothing(digits):
    free = classifier().fit(digits.X, digits.y)
    bounded = classifier(max_grad_norm=1e9).fit(digits.X, digits.y)
    assert_allclose(bounded.loss_curve_, free.loss_curve_, rtol=1e-12)


# schedules


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle"])
def test_annealing_runs_its_whole_course_without_a_warning(schedule, network, digits, recwarn):
    # with tol=inf no epoch is an improvement, so that the stopping rule would strike
    network.set_params(learning_rate=schedule, max_iter=15, tol=1e300, n_iter_no_change=1)
    network.fit(digits.X[:200], digits.y[:200])
    assert network.n_iter_ == 15
    assert not recwarn.list


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle"])
def test_annealing_ends_near_zero_and_peaks_at_the_initial_rate(schedule, digits):
    rates = []

    class Recorder(skorch.callbacks.Callback):
        def on_batch_end(self, net, **kwargs):
            rates.append(net.optimizer_.param_groups[0]["lr"])

    classifier(learning_rate=schedule, learning_rate_init=0.02, max_iter=10, batch_size=100,
               callbacks=[Recorder()]).fit(digits.X, digits.y)  # fmt: skip
    peak = int(np.argmax(rates))
    assert len(rates) == 140
    assert max(rates) == pytest.approx(0.02, rel=1e-3)
    assert peak == (0 if schedule == "cosine" else pytest.approx(42, abs=1))
    assert rates[-1] < 1e-3 * 0.02
    assert np.all(np.diff(rates[peak:]) < 0)
    assert rates[0] == pytest.approx(0.02 if schedule == "cosine" else 0.02 / 25, rel=1e-6)


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle"])
def test_annealing_gives_way_to_early_stopping(schedule, cancer):
    network = classifier(
        learning_rate=schedule, learning_rate_init=0.05, max_iter=200, n_iter_no_change=3
    )
    network.fit(cancer.X, cancer.y, X_val=cancer.X_test, y_val=cancer.y_test)
    assert network.n_iter_ < 100


def test_annealing_begins_anew_with_each_warm_start(digits):
    network = classifier(learning_rate="cosine", warm_start=True).fit(digits.X, digits.y)
    before = network.module_.flat.clone()
    network.fit(digits.X, digits.y)
    assert (network.module_.flat - before).norm() > 0.05
    assert network.n_iter_ == 4


# early stopping


def held_out_of(data):
    return {"X_val": data.X_test, "y_val": data.y_test}


OVERFIT = {
    "max_iter": 40, "learning_rate_init": 0.05, "n_iter_no_change": np.inf, "tol": 0,
    "hidden_layer_sizes": (64,),
}  # fmt: skip


@pytest.mark.parametrize(("make", "name"), [(classifier, "cancer"), (regressor, "diabetes")])
def test_early_stopping_restores_the_best_weights(make, name, request):
    data = request.getfixturevalue(name)
    network = make(**OVERFIT).fit(data.X, data.y, **held_out_of(data))
    scores = network.validation_scores_
    assert network.best_iter_ == np.argmax(scores) + 1 < 40
    assert network.best_validation_score_ == max(scores) > scores[-1]
    assert network.score(data.X_test, data.y_test) == pytest.approx(max(scores), rel=1e-12)


def test_early_stopping_of_an_autoencoder_goes_by_its_loss(digits):
    network = autoencoder(**OVERFIT).fit(digits.X[:100], X_val=digits.X_test)
    losses = network.validation_loss_curve_
    assert_array_equal(network.validation_scores_, -np.array(losses))
    assert network.best_iter_ == np.argmin(losses) + 1
    errors = network.reconstruction_error(digits.X_test)
    assert errors.mean() == pytest.approx(min(losses), rel=1e-10)


def test_validation_loss_is_that_of_the_validation_set(digits):
    network = classifier(learning_rate_init=1e-3, scoring="loss", tol=0)
    network.fit(digits.X, digits.y, **held_out_of(digits))
    expected = log_loss(digits.y_test, network.predict_proba(digits.X_test))
    assert network.validation_loss_curve_[network.best_iter_ - 1] == pytest.approx(expected)
    assert len(network.validation_loss_curve_) == 4


def test_weights_of_the_validation_set_count(digits):
    weight = np.random.RandomState(0).uniform(0, 10, len(digits.y_test))
    network = classifier(scoring="loss")
    network.fit(digits.X, digits.y, **held_out_of(digits), sample_weight_val=weight)
    expected = log_loss(digits.y_test, network.predict_proba(digits.X_test), sample_weight=weight)
    assert min(network.validation_loss_curve_) == pytest.approx(expected)


def test_validation_set_does_not_move_the_training(digits):
    alone = classifier().fit(digits.X, digits.y)
    watched = classifier().fit(digits.X, digits.y, **held_out_of(digits))
    assert alone.loss_curve_ == watched.loss_curve_


def macro_recall(estimator, X, y):
    return balanced_accuracy_score(y, estimator.predict(X))


@pytest.mark.parametrize(
    "scoring",
    [
        "balanced_accuracy",
        "neg_log_loss",
        macro_recall,
        make_scorer(balanced_accuracy_score),
    ],
    ids=["name", "needs probabilities", "function", "scorer"],
)
@pytest.mark.parametrize("frame", [False, True], ids=["array", "frame"])
def test_scoring_decides_which_epoch_is_best(scoring, frame, digits):
    X, X_test = digits.X[:300], digits.X_test
    if frame:
        X, X_test = (pd.DataFrame(part).add_prefix("pixel ") for part in (X, X_test))
    network = classifier(scoring=scoring, max_iter=6, learning_rate_init=0.05)
    network.fit(X, digits.y[:300], X_val=X_test, y_val=digits.y_test)
    if scoring == "neg_log_loss":
        expected = -log_loss(digits.y_test, network.predict_proba(X_test))
    else:
        expected = macro_recall(network, X_test, digits.y_test)
    assert max(network.validation_scores_) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("own_set", [False, True])
@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_scorer_that_takes_no_weights_is_called_without_them(class_weight, own_set, digits):
    weight = np.random.RandomState(0).uniform(size=len(digits.y))
    network = classifier(scoring=macro_recall, class_weight=class_weight, early_stopping=True)
    if own_set:
        held_out = {**held_out_of(digits), "sample_weight_val": weight[: len(digits.y_test)]}
        network.fit(digits.X, digits.y, weight, **held_out)
        expected = macro_recall(network, digits.X_test, digits.y_test)
        assert network.best_validation_score_ == pytest.approx(expected, rel=1e-12)
    else:
        network.fit(digits.X, digits.y, weight)
        assert len(network.validation_scores_) == 4


def test_metric_that_takes_no_weights_is_called_without_them(diabetes):
    network = regressor(scoring="neg_max_error")
    weight, weight_val = np.ones(len(diabetes.y)), np.ones(len(diabetes.y_test))
    network.fit(
        diabetes.X, diabetes.y, weight, **held_out_of(diabetes), sample_weight_val=weight_val
    )
    expected = -max_error(diabetes.y_test, network.predict(diabetes.X_test))
    assert network.best_validation_score_ == pytest.approx(expected, rel=1e-10)


def weighted_accuracy(estimator, X, y, sample_weight=None):
    return accuracy_score(y, estimator.predict(X), sample_weight=sample_weight)


@pytest.mark.parametrize("class_weight", [None, "balanced"])
@pytest.mark.parametrize(
    "scoring",
    [None, "accuracy", make_scorer(accuracy_score), weighted_accuracy],
    ids=["default", "name", "scorer", "function"],
)
def test_scorer_that_takes_weights_gets_those_of_the_validation_set(scoring, class_weight, digits):
    weight = np.random.RandomState(0).uniform(0, 10, len(digits.y_test))
    network = classifier(scoring=scoring, class_weight=class_weight)
    network.fit(digits.X, digits.y, **held_out_of(digits), sample_weight_val=weight)
    expected = network.score(digits.X_test, digits.y_test, sample_weight=weight)
    assert network.best_validation_score_ == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_score_that_is_never_finite_keeps_the_last_weights_and_warns(value, digits):
    network = classifier(scoring=lambda estimator, X, y: value)
    with pytest.warns(ConvergenceWarning, match="never a finite number") as caught:
        network.fit(digits.X, digits.y, **held_out_of(digits))
    assert any("scoring" in str(warning.message) for warning in caught)
    expected = classifier().fit(digits.X, digits.y)
    assert_array_equal(network.module_.flat, expected.module_.flat)


def test_score_that_is_finite_once_decides(digits):
    scores = iter([np.nan, 0.5, np.nan, np.nan])
    network = classifier(scoring=lambda estimator, X, y: next(scores))
    network.fit(digits.X, digits.y, **held_out_of(digits))
    expected = classifier(max_iter=2).fit(digits.X, digits.y)
    assert network.best_iter_ == 2
    assert_array_equal(network.module_.flat, expected.module_.flat)


# dtype, warm_start, chunks


@pytest.mark.parametrize("given", [np.float32, np.float64])
@pytest.mark.parametrize("asked", ["auto", "float32", "float64"])
def test_dtype_of_network_and_output(given, asked, network, digits):
    network.set_params(dtype=asked, device="cpu").fit(digits.X.astype(given), digits.y)
    expected = given if asked == "auto" else np.dtype(asked)
    assert output(network, digits.X_test).dtype == expected
    assert {str(p.dtype) for p in network.module_.parameters()} == {f"torch.{np.dtype(expected)}"}


def test_single_precision_agrees_with_double(network, digits):
    double = copy.deepcopy(network).fit(digits.X, digits.y)
    single = network.set_params(dtype="float32").fit(digits.X, digits.y)
    assert_allclose(single.loss_curve_, double.loss_curve_, rtol=1e-4)


def test_warm_start_goes_on_from_the_last_weights(network, digits):
    network.set_params(warm_start=True).fit(digits.X, digits.y)
    before = network.loss_curve_[-1]
    network.fit(digits.X, digits.y)
    assert len(network.loss_curve_) == 8
    assert network.n_iter_ == 4
    assert max(network.loss_curve_[4:]) < before


def test_without_warm_start_a_second_fit_is_like_the_first(network, digits):
    first = list(network.fit(digits.X, digits.y).loss_curve_)
    assert network.fit(digits.X, digits.y).loss_curve_ == first


@pytest.mark.parametrize("params", [{"hidden_layer_sizes": (8,)}, {"normalization": "layer"}])
def test_warm_start_with_another_shape_is_refused(params, network, digits):
    network.set_params(warm_start=True).fit(digits.X, digits.y)
    with pytest.raises(ValueError, match="Set warm_start=False, or make a new estimator"):
        network.set_params(**params).fit(digits.X, digits.y)


CHANGES = {
    "single to double": (classifier, "dtype", "float32", "float64"),
    "double to single": (autoencoder, "dtype", "float64", "float32"),
    "output activation": (autoencoder, "output_activation", "auto", "identity"),
    "link": (regressor, "loss", "poisson", "squared_error"),
}


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize("multilabel_first", [False, True])
def test_one_label_a_row_and_several_are_told_apart(multilabel_first, method, digits):
    X, of_one = digits.X[:200], digits.y[:200] % 3
    of_several = np.eye(3, dtype=int)[of_one]
    first, then = (of_several, of_one) if multilabel_first else (of_one, of_several)
    network = classifier(warm_start=True).fit(X, first)
    before = network.predict_proba(X)
    with pytest.raises(ValueError, match="warm_start=False to begin anew"):
        getattr(network, method)(X, then)
    assert_array_equal(network.predict_proba(X), before)


@pytest.mark.parametrize("pickled", [False, True], ids=["", "pickled"])
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize(("make", "name", "before", "after"), CHANGES.values(), ids=CHANGES)
def test_what_a_network_was_trained_for_cannot_change(
    make, name, before, after, method, pickled, digits
):
    X, y = digits.X[:200], digits.y[:200]
    network = make(**{name: before}, warm_start=True).fit(X, y)
    if pickled:
        network = pickle.loads(pickle.dumps(network))
    network.set_params(**{name: after})
    with pytest.raises(ValueError, match=name):
        getattr(network, method)(X, y)
    network.set_params(**{name: before})
    getattr(network, method)(X, y)
    assert len(network.loss_curve_) == (8 if method == "fit" else 5)


@pytest.mark.parametrize("pickled", [False, True], ids=["", "pickled"])
@pytest.mark.parametrize(
    ("before", "after"), [("adam", "sgd"), ("sgd", torch.optim.SGD)], ids=["name", "class"]
)
def test_solver_cannot_change_between_calls_of_partial_fit(before, after, pickled, digits):
    network = classifier(solver=before).fit(digits.X, digits.y)
    if pickled:
        network = pickle.loads(pickle.dumps(network))
    with pytest.raises(ValueError, match="solver"):
        network.set_params(solver=after).partial_fit(digits.X, digits.y)


@pytest.mark.parametrize(
    ("make", "name", "before", "after"),
    [
        (classifier, "solver", "adam", "sgd"),
        (classifier, "solver", "adam", "muon"),
        (regressor, "loss", "squared_error", "huber"),
    ],
)
def test_warm_start_may_change_how_it_goes_on(make, name, before, after, digits):
    network = make(**{name: before}, warm_start=True, max_iter=3).fit(digits.X, digits.y)
    weights = network.coefs_[0].copy()
    network.set_params(**{name: after}, max_iter=1).fit(digits.X, digits.y)
    assert 0 < np.abs(network.coefs_[0] - weights).max() < 1


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize(
    "params",
    [
        {"learning_rate_init": 0.1},
        {"alpha": 1.0},
        {"momentum": 0.1},
        {"batch_size": 50},
        {"learning_rate": "adaptive"},
        {"max_grad_norm": 1.0},
        {"weight_decay": 0.1},
    ],
    ids=str,
)
def test_how_a_network_is_trained_can_change(params, method, digits):
    X, y = digits.X[:200], digits.y[:200]
    network = classifier(solver="sgd", warm_start=True).fit(X, y)
    getattr(network.set_params(**params), method)(X, y)
    assert len(network.loss_curve_) == (8 if method == "fit" else 5)


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize(
    ("make", "method"),
    [
        (classifier, "predict_proba"),
        (classifier, "predict_log_proba"),
        (classifier, "predict"),
        (regressor, "predict"),
        (autoencoder, "transform"),
        (autoencoder, "reconstruction_error"),
        (autoencoder, "score"),
    ],
)
def test_chunks_predict_what_the_whole_predicts(make, method, sparse, digits, monkeypatch):
    network = make().fit(digits.X, digits.y)
    X = sp.csr_array(digits.X_test) if sparse else digits.X_test
    whole = getattr(network, method)(X)
    monkeypatch.setattr(in_parts, "_CHUNK_BYTES", {"cpu": 8 * 64 * 7})  # seven rows of 64 doubles
    assert_allclose(getattr(network, method)(X), whole, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("n_rows", [1, 7, 300])
@pytest.mark.parametrize("n_classes", [3, 40])
def test_probabilities_are_the_softmax_of_any_number_of_classes(n_classes, n_rows, digits):
    y = np.arange(len(digits.y)) % n_classes
    network = classifier(max_iter=2).fit(digits.X, y)
    X = digits.X[:n_rows]
    raw = network.module_(torch.from_numpy(X)).detach()
    probabilities = network.predict_proba(X)
    assert probabilities.flags.c_contiguous
    assert_allclose(probabilities, torch.softmax(raw, dim=1), rtol=1e-10)
    assert_allclose(network.predict_log_proba(X), torch.log_softmax(raw, dim=1), rtol=1e-10)


def test_validation_set_is_judged_in_chunks_as_in_whole(digits, monkeypatch):
    whole = classifier().fit(digits.X, digits.y, **held_out_of(digits))
    monkeypatch.setattr(in_parts, "_CHUNK_BYTES", {"cpu": 8 * 64 * 7})
    chunks = classifier().fit(digits.X, digits.y, **held_out_of(digits))
    assert_allclose(chunks.validation_loss_curve_, whole.validation_loss_curve_, rtol=1e-10)
    assert chunks.validation_scores_ == whole.validation_scores_


def _targets_of_a_kind(kind, y):
    return {
        "binary": y % 2,
        "multiclass": y,
        "multilabel": np.column_stack([y % 2, y > 4]).astype(int),
    }[kind]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel"])
@pytest.mark.parametrize("scale", [1, 1e3])
def test_few_rows_have_the_probabilities_of_many(scale, kind, dtype, digits):
    network = classifier(dtype=dtype).fit(digits.X, _targets_of_a_kind(kind, digits.y))
    network.module_.flat.mul_(scale)
    many = network.predict_proba(np.tile(digits.X, (20, 1)))[: len(digits.X)]
    rtol = 1e-4 if dtype == "float32" else 1e-12
    rtol *= scale  # the logits' rounding
    for n_rows in (1, 2, 50):
        with np.errstate(all="raise"):
            few = network.predict_proba(digits.X[:n_rows])
        assert few.dtype == dtype
        assert few.flags.c_contiguous
        assert_allclose(few, many[:n_rows], rtol=rtol)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel"])
def test_log_probabilities_agree_with_probabilities_that_saturate(kind, dtype, digits):
    network = classifier(dtype=dtype).fit(digits.X, _targets_of_a_kind(kind, digits.y))
    network.module_.flat.mul_(1e3)
    probabilities = network.predict_proba(digits.X_test)
    log_probabilities = network.predict_log_proba(digits.X_test)
    assert probabilities.min() == np.finfo(dtype).tiny
    assert (probabilities.max() < 1) == (kind == "multilabel")
    assert np.isfinite(log_probabilities).all()
    assert_allclose(log_probabilities, np.log(probabilities), rtol=1e-7)
    assert_array_equal(np.argsort(log_probabilities), np.argsort(probabilities))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_small_probability_of_the_first_class_is_not_rounded_to_zero(dtype, digits):
    network = classifier(dtype=dtype).fit(digits.X, digits.y % 2)
    with torch.no_grad():
        network.module_.flat.mul_(0)
        network.module_.linear_layers()[-1].bias.fill_(60.0)
    assert_allclose(network.predict_proba(digits.X_test)[:, 0], np.exp(-60.0), rtol=1e-5)


# the autoencoder


def test_inverse_transform_decodes_what_transform_encodes(digits):
    network = autoencoder().fit(digits.X)
    with torch.inference_mode():
        expected = network.module_(torch.from_numpy(digits.X_test)).numpy()
    decoded = network.inverse_transform(network.transform(digits.X_test))
    assert_allclose(decoded, expected, rtol=1e-12)


def test_inverse_transform_refuses_codes_of_another_size(digits):
    network = autoencoder().fit(digits.X)
    message = "X has 3 columns, but the code of this autoencoder has 4 units"
    with pytest.raises(ValueError, match=re.escape(message)):
        network.inverse_transform(np.zeros((2, 3)))


def test_reconstruction_error_is_the_mean_square_of_each_row(digits):
    network = autoencoder().fit(digits.X)
    residual = digits.X_test - network.inverse_transform(network.transform(digits.X_test))
    errors = network.reconstruction_error(digits.X_test)
    assert_allclose(errors, np.mean(residual**2, axis=1), rtol=1e-12)
    assert_array_equal(network.score_samples(digits.X_test), -errors)


def test_score_is_the_share_of_variance_that_pca_reports(digits):
    # the same formula for a PCA gives its explained variance ratio
    network = autoencoder().fit(digits.X)
    pca = PCA(4).fit(digits.X)

    def explained(transformer):
        residual = digits.X - transformer.inverse_transform(transformer.transform(digits.X))
        return 1 - np.sum(residual**2) / np.sum((digits.X - digits.X.mean(axis=0)) ** 2)

    assert explained(pca) == pytest.approx(pca.explained_variance_ratio_.sum(), rel=1e-10)
    assert network.score(digits.X) == pytest.approx(explained(network), rel=1e-10)


def test_linear_autoencoder_approaches_pca(digits):
    network = AutoencoderTransformer(
        5, (), solver="lbfgs", alpha=0, max_iter=500, tol=1e-7, output_activation="identity",
        random_state=0,
    ).fit(digits.X)  # fmt: skip
    best = PCA(5).fit(digits.X).explained_variance_ratio_.sum()
    assert best - 0.01 < network.score(digits.X) <= best + 1e-9


def test_nonlinear_autoencoder_beats_pca(digits):
    network = AutoencoderTransformer(
        3, (64, 32), activation="silu", learning_rate="one_cycle", learning_rate_init=0.01,
        max_iter=80, batch_size=64, random_state=0,
    ).fit(digits.X)  # fmt: skip
    assert network.score(digits.X_test) > PCA(3).fit(digits.X).explained_variance_ratio_.sum() + 0.1


def test_score_can_be_weighted(digits):
    network = autoencoder().fit(digits.X)
    weight = np.zeros(len(digits.X_test))
    weight[:50] = 1
    expected = network.score(digits.X_test[:50])
    assert network.score(digits.X_test, sample_weight=weight) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("weighted", [False, True])
def test_mean_is_that_of_the_weighted_rows(weighted, sparse, digits):
    weight = np.random.RandomState(0).uniform(size=len(digits.X)) if weighted else None
    network = autoencoder(max_iter=1)
    network.fit(sp.csr_array(digits.X) if sparse else digits.X, sample_weight=weight)
    expected = np.average(digits.X, axis=0, weights=weight)
    assert_allclose(network.mean_, expected, rtol=1e-10, atol=1e-15)


def test_outliers_are_reconstructed_badly(digits):
    network = autoencoder(max_iter=30).fit(digits.X)
    noise = np.random.RandomState(0).uniform(size=(100, 64))
    assert network.score_samples(noise).max() < np.median(network.score_samples(digits.X_test))


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_codes_in_a_frame_can_be_decoded(library, digits):
    network = autoencoder().fit(digits.X)
    expected = network.inverse_transform(network.transform(digits.X_test))
    network.set_output(transform=library)
    assert_array_equal(network.inverse_transform(network.transform(digits.X_test)), expected)


def test_rows_keep_their_index_in_a_frame(digits):
    X = pd.DataFrame(digits.X_test, index=np.arange(len(digits.X_test)) * 3)
    network = autoencoder().set_output(transform="pandas").fit(digits.X)
    assert_array_equal(network.transform(X.to_numpy()).index, np.arange(len(X)))
    network.fit(X)
    assert_array_equal(network.transform(X).index, X.index)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, "logistic"), (-0.01, 1, "identity"), (0, 1.01, "identity"), (0.2, 0.8, "logistic")],
)
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_automatic_output_fits_the_range_of_the_data(low, high, expected, sparse, digits):
    X = digits.X[:200].copy()
    X[0, 3], X[1, 4] = low, high
    network = autoencoder(max_iter=1).fit(sp.csr_array(X) if sparse else X)
    assert network.out_activation_ == expected
    decoded = network.inverse_transform(100 * np.eye(4))
    assert (decoded.min() >= 0 and decoded.max() <= 1) == (expected == "logistic")


@pytest.mark.parametrize("name", ["code_activation", "output_activation"])
def test_activations_of_code_and_output_can_be_chosen(name, digits):
    network = autoencoder(**{name: "tanh"}).fit(digits.X)
    codes = 10 * network.transform(digits.X)
    bounded = codes / 10 if name == "code_activation" else network.inverse_transform(codes)
    assert np.abs(bounded).max() <= 1
    assert bounded.min() < 0


def test_decoder_mirrors_the_encoder_unless_told_otherwise(digits):
    def shapes(**params):
        network = autoencoder(hidden_layer_sizes=(16, 8), **params).fit(digits.X)
        return [
            (layer.in_features, layer.out_features) for layer in network.module_.linear_layers()
        ]

    encoder = [(64, 16), (16, 8), (8, 4)]
    assert shapes() == [*encoder, (4, 8), (8, 16), (16, 64)]
    assert shapes(decoder_hidden_layer_sizes=(5,)) == [*encoder, (4, 5), (5, 64)]
    assert shapes(decoder_hidden_layer_sizes=()) == [*encoder, (4, 64)]


def test_lists_have_one_entry_for_each_hidden_layer_of_both_halves(digits):
    network = autoencoder(
        hidden_layer_sizes=(16, 8),
        decoder_hidden_layer_sizes=(12,),
        activation=["tanh", "relu", "gelu"],
        dropout=[0.0, 0.1, 0.2],
    ).fit(digits.X)
    config = network.module_.config
    assert config["encoder"]["activations"] == ("tanh", "relu")
    assert config["decoder"]["activations"] == ("gelu",)
    assert config["encoder"]["dropout"] == (0.0, 0.1)
    assert config["decoder"]["dropout"] == (0.2,)


def test_halves_are_torch_modules_that_make_the_whole(digits):
    network = autoencoder().fit(digits.X)
    X = torch.from_numpy(digits.X_test)
    assert isinstance(network.encoder_, torch.nn.Module)
    assert isinstance(network.decoder_, torch.nn.Module)
    with torch.inference_mode():
        codes = network.encoder_(X)
        # the products of many rows may be NumPy's
        assert_allclose(codes, network.transform(digits.X_test), rtol=1e-9, atol=1e-12)
        assert_array_equal(network.decoder_(codes), network.module_(X))


@pytest.mark.parametrize("half", ["encoder_", "decoder_"])
def test_half_can_be_sliced_like_a_sequence_of_torch(half, digits):
    module = getattr(autoencoder().fit(digits.X), half)
    first = module[:2]
    assert isinstance(first, torch.nn.Sequential)
    assert list(first) == [module[0], module[1]]
    X = torch.ones(3, module[0].in_features, dtype=torch.float64)
    with torch.inference_mode():
        assert_array_equal(first(X), module[1](module[0](X)))


@pytest.mark.parametrize("half", ["encoder_", "decoder_", "module_"])
def test_halves_pickle_by_themselves(half, digits):
    network = autoencoder(normalization="batch").fit(digits.X)
    module = getattr(network, half)
    twin = pickle.loads(pickle.dumps(module))
    X = torch.from_numpy(digits.X_test[:, : module.state_dict()[_first_weight(module)].shape[1]])
    with torch.inference_mode():
        assert_array_equal(twin(X), module(X))


def _first_weight(module):
    return next(name for name in module.state_dict() if name.endswith("weight"))


def test_autoencoder_learns_incrementally(digits):
    network = autoencoder(learning_rate_init=0.01)
    for _ in range(10):
        for rows in np.array_split(np.arange(len(digits.X)), 3):
            network.partial_fit(digits.X[rows])
    whole = autoencoder(learning_rate_init=0.01, max_iter=10).fit(digits.X)
    assert network.t_ == 10 * len(digits.X)
    assert network.score(digits.X_test) == pytest.approx(whole.score(digits.X_test), abs=0.1)
    assert network.score(digits.X_test) > 0.3


def test_y_is_ignored_by_the_autoencoder(digits):
    with_y = autoencoder().fit(digits.X, digits.y)
    without = autoencoder().fit(digits.X)
    assert with_y.loss_curve_ == without.loss_curve_


@pytest.mark.parametrize("warm_start", [True, False])
def test_a_batch_of_partial_fit_need_not_have_every_class(warm_start):
    X, y = np.random.RandomState(0).normal(size=(40, 3)), np.repeat([0, 1], 20)
    classifier = DeepMLPClassifier(hidden_layer_sizes=(4,), warm_start=warm_start, random_state=0)
    classifier.partial_fit(X, y, classes=[0, 1]).partial_fit(X[:5], y[:5])
    assert_array_equal(classifier.classes_, [0, 1])
    with pytest.raises(ValueError, match="classes not in `self.classes_`"):
        classifier.partial_fit(X[:5], np.full(5, 2))


def test_average_of_the_weights_is_that_of_every_step():
    X, y = np.random.RandomState(0).randn(40, 3), np.linspace(-2, 2, 40)
    params = {"solver": "sgd", "batch_size": 10, "max_iter": 3, "random_state": 0}
    params |= {"hidden_layer_sizes": (4,), "device": "cpu", "n_iter_no_change": np.inf}
    steps = []

    class Watch(skorch.callbacks.Callback):
        def on_batch_end(self, net, **kwargs):
            steps.append(net.module_.flat.clone())

        def on_train_begin(self, net, **kwargs):
            steps.append(net.module_.flat.clone())

    plain = DeepMLPRegressor(**params, callbacks=[Watch()]).fit(X, y)
    expected = steps[0]
    for t, weights in enumerate(steps[1:], start=1):
        decay = min(0.9, (1 + t) / (10 + t))
        expected = decay * expected + (1 - decay) * weights
    averaged = DeepMLPRegressor(**params, ema_decay=0.9).fit(X, y)
    torch.testing.assert_close(averaged.module_.flat.detach(), expected.detach())
    assert averaged.loss_curve_ == plain.loss_curve_, "it does not change the training"


def test_validation_sets_see_the_average():
    X, y = np.random.RandomState(0).randn(80, 3), np.linspace(-2, 2, 80)
    params = {"hidden_layer_sizes": (4,), "max_iter": 5, "random_state": 0, "device": "cpu"}
    network = DeepMLPRegressor(**params, ema_decay=0.95, n_iter_no_change=np.inf)
    network.fit(X[:60], y[:60], X_val=X[60:], y_val=y[60:])
    assert network.score(X[60:], y[60:]) == pytest.approx(network.best_validation_score_)


def test_callbacks_see_the_average_at_the_end_of_an_epoch():
    X, y = np.random.RandomState(0).randn(80, 3), np.linspace(-2, 2, 80)
    seen = []

    class Watch(skorch.callbacks.Callback):
        def on_epoch_end(self, net, **data):
            seen.append(net.module_.flat.detach().clone())

    params = {"hidden_layer_sizes": (4,), "max_iter": 3, "random_state": 0, "device": "cpu"}
    network = DeepMLPRegressor(**params, ema_decay=0.9, callbacks=[Watch()]).fit(X, y)
    assert torch.equal(seen[-1], network.module_.flat)
    plain = DeepMLPRegressor(**params, ema_decay=0.9).fit(X, y)
    assert torch.equal(plain.module_.flat, network.module_.flat)


def test_weights_are_those_of_the_training_after_a_score_that_fails():
    X, y = np.random.RandomState(0).randn(80, 3), np.linspace(-2, 2, 80)
    params = {"hidden_layer_sizes": (4,), "random_state": 0, "device": "cpu"}
    params |= {"n_iter_no_change": np.inf}

    def fails_in_the_third_epoch(estimator, X, y):
        calls.append(None)
        if len(calls) == 3:
            raise ZeroDivisionError
        return 0.0

    weights = []
    for ema_decay in (None, 0.9):
        calls = []
        network = DeepMLPRegressor(**params, ema_decay=ema_decay, scoring=fails_in_the_third_epoch)
        with pytest.raises(ZeroDivisionError):
            network.fit(X[:60], y[:60], X_val=X[60:], y_val=y[60:])
        weights.append(network.module_.flat.detach())
    assert torch.equal(*weights)


def test_average_is_resumed_from_a_checkpoint(tmp_path):
    X, y = np.random.RandomState(0).randn(80, 3), np.linspace(-2, 2, 80)
    params = {"hidden_layer_sizes": (4,), "random_state": 0, "device": "cpu", "ema_decay": 0.9}
    params |= {"n_iter_no_change": np.inf, "max_iter": 6}
    whole = DeepMLPRegressor(**params).fit(X, y)

    class Stopped(Exception):
        pass

    class Stop(skorch.callbacks.Callback):
        at = 3

        def on_epoch_end(self, net, **kwargs):
            if len(net.history) == Stop.at:
                raise Stopped

    params["callbacks"] = [TrainingCheckpoint(tmp_path / "c"), Stop]
    with pytest.raises(Stopped):
        DeepMLPRegressor(**params).fit(X, y)
    Stop.at = None
    resumed = DeepMLPRegressor(**params).fit(X, y)
    np.testing.assert_array_equal(resumed.predict(X), whole.predict(X))


def test_average_of_no_whole_training_is_refused():
    network = DeepMLPRegressor(ema_decay=0.9)
    with pytest.raises(ValueError, match="partial_fit does not support ema_decay=0.9"):
        network.partial_fit([[0.0], [1.0]], [0.0, 1.0])
    with pytest.raises(ValueError, match="does not support ema_decay"):
        network.set_params(solver="lbfgs").fit([[0.0], [1.0]], [0.0, 1.0])
