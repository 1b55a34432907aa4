"""A network's summary counts what the network has, before the fit and after it."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.ensemble import VotingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

from sknn_deep import (
    AutoencoderTransformer,
    DeepMLPClassifier,
    DeepMLPRegressor,
    TabularMLPRegressor,
    summary,
)
from sknn_deep._networks.summary import Layer, NetworkSummary

QUICK = {"max_iter": 1, "learning_rate": "one_cycle", "random_state": 0}


@pytest.mark.parametrize(
    ("estimator", "sizes", "n_parameters"),
    [
        (DeepMLPClassifier((128, 64)), {"n_classes": 10}, 109_386),
        (AutoencoderTransformer(2, (128, 32, 8)), {}, 210_562),
        (AutoencoderTransformer(32, (128, 64)), {}, 222_384),
    ],
)
def test_the_notebooks_networks_are_counted_before_any_fit(estimator, sizes, n_parameters):
    assert summary(estimator, n_features=784, **sizes).n_parameters == n_parameters
    assert not hasattr(estimator, "module_")


ESTIMATORS = {
    "classifier": (DeepMLPClassifier((7, 5), **QUICK), {"n_classes": 3}),
    "two classes": (DeepMLPClassifier((7, 5), **QUICK), {"n_classes": 2}),
    "labels": (DeepMLPClassifier((7, 5), **QUICK), {"n_outputs": 4}),
    "regressor": (DeepMLPRegressor(hidden_layer_sizes=(7, 5), **QUICK), {}),
    "counts": (DeepMLPRegressor("poisson", hidden_layer_sizes=(7, 5), **QUICK), {}),
    "columns": (DeepMLPRegressor(hidden_layer_sizes=(7, 5), **QUICK), {"n_outputs": 3}),
    "autoencoder": (AutoencoderTransformer(3, (7, 5), **QUICK), {}),
    "lopsided": (
        AutoencoderTransformer(3, (7, 5), decoder_hidden_layer_sizes=(4,), **QUICK),
        {},
    ),
}
OPTIONS = [
    {},
    {"hidden_layer_sizes": ()},
    {"normalization": "batch", "dropout": 0.25},
    {"normalization": "layer"},
]


def _target(sizes):
    """Return a target of 30 samples with as many classes or columns."""
    if "n_classes" in sizes:
        return np.arange(30) % sizes["n_classes"]
    rows = np.random.default_rng(0).integers(0, 2, (30, sizes.get("n_outputs", 1)))
    return rows if "n_outputs" in sizes else rows.ravel()


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_planned_and_fitted_networks_have_the_same_layers(name, options):
    estimator, sizes = ESTIMATORS[name]
    if "decoder_hidden_layer_sizes" in estimator.get_params() and "hidden_layer_sizes" in options:
        options = options | {"decoder_hidden_layer_sizes": ()}
    estimator = clone(estimator).set_params(**options)
    X = np.random.default_rng(0).normal(size=(30, 6))
    planned = summary(estimator, 6, **sizes)
    estimator.fit(X, _target(sizes))
    fitted = summary(estimator)
    assert fitted.n_parameters == sum(weights.numel() for weights in estimator.module_.parameters())
    assert [(layer.units, layer.n_parameters) for layer in planned.layers] == [
        (layer.units, layer.n_parameters) for layer in fitted.layers
    ]
    if name not in ("autoencoder", "lopsided"):  # whose output activation follows the data
        assert planned == fitted
    assert fitted.layers[-1].name == f"output: dense, {estimator.out_activation_}"


def test_layers_of_an_autoencoder_are_named():
    autoencoder = AutoencoderTransformer(
        2, (4, 3), activation="tanh", normalization="batch", dropout=[0, 0.5, 0, 0]
    )
    assert [layer.name for layer in summary(autoencoder, 9).layers] == [
        "input",
        "encoder 1: dense, batch norm, tanh",
        "encoder 2: dense, batch norm, tanh, dropout 0.5",
        "code: dense, identity",
        "decoder 1: dense, batch norm, tanh",
        "decoder 2: dense, batch norm, tanh",
        "output: dense, auto",
    ]


def test_text_aligns_its_columns():
    lines = str(summary(DeepMLPRegressor(), 8)).splitlines()
    assert lines[0] == "DeepMLPRegressor"
    assert {len(line) for line in lines[1:]} == {len(lines[1])}
    assert lines[-1].split() == ["total", "1,001"]


def test_a_fitted_network_is_described_unless_features_are_given(digits):
    classifier = DeepMLPClassifier((8,), **QUICK).fit(digits.X, digits.y)
    assert summary(classifier).layers[0].units == 64
    assert summary(classifier, 784, n_classes=2).layers[0].units == 784


class _Tags(HTMLParser):
    """Count the tags of a page, and refuse those that do not match."""

    def __init__(self, html):
        super().__init__()
        self.open, self.texts = [], []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_html_holds_what_the_text_holds():
    description = summary(DeepMLPClassifier((128, 64)), 784, n_classes=10)
    texts = _Tags(description._repr_html_()).texts
    for layer in description.layers:
        assert layer.name in texts
        assert f"{layer.n_parameters:,}" in texts
    assert "109,386" in texts


@pytest.mark.parametrize("in_pipeline", [False, True])
def test_notebooks_show_the_layers_of_a_fitted_network(digits, in_pipeline):
    estimator = DeepMLPClassifier((8,), **QUICK)
    if in_pipeline:
        estimator = make_pipeline(MinMaxScaler(), estimator)
    assert "hidden 1: dense, relu" not in estimator._repr_html_()
    html = estimator.fit(digits.X, digits.y)._repr_html_()
    assert html.count("hidden 1: dense, relu") == 1
    assert "DeepMLPClassifier: 610 parameters" in html
    assert "Fitted attributes" in html


def test_notebooks_show_what_was_fitted_from_copies_of_a_network(digits):
    estimator = VotingClassifier([("network", DeepMLPClassifier((8,), **QUICK))])
    assert "DeepMLPClassifier" in estimator.fit(digits.X, digits.y)._repr_html_()


@pytest.mark.parametrize(
    ("estimator", "arguments", "message"),
    [
        (DeepMLPClassifier(), {"n_features": 4}, "pass one of them, got n_classes=None and"),
        (
            DeepMLPClassifier(),
            {"n_features": 4, "n_classes": 3, "n_outputs": 3},
            "got n_classes=3 and n_outputs=3.",
        ),
        (DeepMLPRegressor(), {"n_features": 4, "n_classes": 3}, "no classes, got n_classes=3"),
        (AutoencoderTransformer(), {"n_features": 4, "n_outputs": 3}, "n_outputs=3, leave both"),
        (AutoencoderTransformer(), {"n_features": 0}, "n_features must be an integer of at least"),
        (AutoencoderTransformer(), {"n_features": 2.5}, "got 2.5."),
        (AutoencoderTransformer(), {"n_features": True}, "got True."),
        (DeepMLPClassifier(), {"n_classes": 3}, "pass n_features, too, or neither"),
        (AutoencoderTransformer(0), {"n_features": 4}, "The 'n_components' parameter"),
        (DeepMLPRegressor(hidden_layer_sizes=(3, 0)), {"n_features": 4}, "must be > 0, got [3, 0]"),
    ],
)
def test_sizes_that_do_not_suit_are_refused(estimator, arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        summary(estimator, **arguments)


def test_an_unfitted_network_needs_its_sizes():
    with pytest.raises(NotFittedError, match="DeepMLPClassifier is not fitted yet: call fit, or"):
        summary(DeepMLPClassifier())


@pytest.mark.parametrize("estimator", [PCA(), make_pipeline(MinMaxScaler(), DeepMLPClassifier())])
def test_only_networks_have_a_summary(estimator):
    message = f"got {type(estimator).__name__}; of a pipeline or a search pass the network itself"
    with pytest.raises(TypeError, match=re.escape(message)):
        summary(estimator, 4)


@pytest.mark.parametrize(
    ("params", "total"),
    [
        ({"n_networks": 1}, ""),
        ({"n_networks": 3, "varied_networks": False}, r"3 × 41 "),
        ({"n_networks": 3}, r"2 × 41 \+ 1 × 61 "),
        ({"n_candidates": 4}, ""),
    ],
    ids=str,
)
def test_the_parameters_of_all_networks_are_counted(params, total):
    """Those of an ensemble need not have one shape."""
    X = np.random.RandomState(0).normal(size=(60, 3))
    plain = {"scaling": None, "numeric_embedding": None, "allow_nan": False, "dropout": 0.0}
    estimator = TabularMLPRegressor(
        hidden_layer_sizes=(4, 4), **plain, max_iter=1, random_state=0, **params
    )
    planned = summary(clone(estimator), 3)
    fitted = summary(estimator.fit(X, X[:, 0]))
    modules = [network.module_ for network in estimator._networks]
    numbers = [sum(p.numel() for p in module.parameters()) for module in modules]
    assert fitted.n_parameters_of_networks == numbers
    assert fitted.n_parameters == sum(numbers)
    assert re.search(rf"total +{total}.*{sum(numbers):,}$", repr(fitted))
    if "n_candidates" not in params:
        assert repr(planned) == repr(fitted)


def test_many_different_sizes_are_not_all_shown():
    described = NetworkSummary("an ensemble", [Layer("input", 2, 0)], [1, 2, 3, 4])
    assert re.search(r"total  4 networks +10$", repr(described))
