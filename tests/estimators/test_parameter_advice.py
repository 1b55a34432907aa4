"""Messages of parameters guess what was meant."""

import re

import numpy as np
import pytest

from sknn_deep import AutoencoderTransformer, DeepMLPClassifier, DeepMLPRegressor
from sknn_deep._estimators.parameter_advice import _OTHER_NAMES, advice_for, closest
from sknn_deep._sklearn import StrOptions

X = np.random.RandomState(0).uniform(size=(20, 4))
Y = (X[:, 0] > 0.5).astype(int)


@pytest.mark.parametrize(
    ("estimator", "advice"),
    [
        (DeepMLPClassifier(learning_rate=0.01), "the steps is learning_rate_init=0.01."),
        (DeepMLPClassifier(activation="ReLU"), "Did you mean 'relu'?"),
        (DeepMLPClassifier(activation="swish"), "Did you mean 'silu'?"),
        (DeepMLPClassifier((5,), activation=["Sigmoid"]), "Did you mean 'logistic'?"),
        (DeepMLPClassifier(solver="Adam"), "Did you mean 'adam'?"),
        (DeepMLPClassifier(learning_rate="cos"), "Did you mean 'cosine'?"),
        (DeepMLPClassifier(learning_rate="one-cycle"), "Did you mean 'one_cycle'?"),
        (DeepMLPClassifier(normalization="BatchNorm"), "Did you mean 'batch'?"),
        (DeepMLPClassifier(scoring="acc"), "Did you mean 'accuracy'?"),
        (DeepMLPClassifier(dropout="0.1"), "Write a number, 0.1, not a text."),
        (DeepMLPClassifier(max_iter=" 20"), "Write a number, 20, not a text."),
        (DeepMLPRegressor((50, 50)), "given by name: hidden_layer_sizes=(50, 50)."),
        (DeepMLPRegressor(50), "given by name: hidden_layer_sizes=50."),
        (DeepMLPRegressor("mse"), "Did you mean 'squared_error'?"),
        (AutoencoderTransformer((8, 2)), "given by name: hidden_layer_sizes=(8, 2)."),
        (DeepMLPRegressor(loss="nothing like it"), "instead."),
        (DeepMLPRegressor(learning_rate=None), "instead."),
    ],
    ids=str,
)
def test_what_was_meant_is_guessed(estimator, advice):
    with pytest.raises(ValueError, match=re.escape(advice) + "$"):
        estimator.fit(X, Y)


def test_options_are_listed_in_order():
    with pytest.raises(
        ValueError,
        match="{'adaptive', 'constant', 'cosine', 'coslog4', 'flat_cosine', 'invscaling', 'one_",
    ):
        DeepMLPClassifier(learning_rate="x").fit(X, Y)


def test_every_other_name_stands_for_an_option():
    classes = (DeepMLPClassifier, DeepMLPRegressor, AutoencoderTransformer)
    options = {
        option
        for cls in classes
        for constraints in cls._parameter_constraints.values()
        for constraint in constraints
        if isinstance(constraint, StrOptions)
        for option in constraint.options
    }
    assert set(_OTHER_NAMES.values()) <= options
    assert not set(_OTHER_NAMES) & options


def test_what_is_like_nothing_is_not_guessed():
    assert closest("resnet", {"relu", "tanh"}) is None
    assert advice_for("loss", object(), {"huber"}) == ""
    assert advice_for("loss", True) == ""
