"""Callbacks and their parameters by skorch's names."""

import re

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from skorch.callbacks import EarlyStopping, EpochTimer, GradientNormClipping

from sknn_deep import DeepMLPClassifier
from sknn_deep.model_selection import FusedGridSearchCV

X = np.random.RandomState(0).normal(size=(60, 4))
Y = (X[:, 0] > 0).astype(int)


def _classifier(callbacks):
    return DeepMLPClassifier(
        hidden_layer_sizes=(4,), max_iter=3, n_iter_no_change=np.inf, random_state=0,
        callbacks=callbacks,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("callbacks", "name"),
    [
        ([("stop", EarlyStopping("train_loss"))], "stop"),
        ([EarlyStopping("train_loss")], "EarlyStopping"),
        (
            [EpochTimer(), EarlyStopping("train_loss"), EarlyStopping("train_loss")],
            "EarlyStopping_2",
        ),
    ],
)
def test_parameters_of_a_callback_are_got_and_set_by_its_name(callbacks, name):
    classifier = clone(_classifier(callbacks))
    key = f"callbacks__{name}__patience"
    assert classifier.get_params()[key] == 5
    assert classifier.set_params(**{key: 2}) is classifier
    assert classifier.get_params()[key] == 2
    assert classifier.get_params()[f"callbacks__{name}"].patience == 2
    assert key not in classifier.get_params(deep=False)


@pytest.mark.parametrize("search", [GridSearchCV, FusedGridSearchCV])
@pytest.mark.filterwarnings("ignore:No fits could be trained together")
def test_a_grid_varies_the_parameters_of_a_callback(search):
    grid = {"callbacks__clip__gradient_clip_value": [1e-9, 1.0]}
    classifier = _classifier([("clip", GradientNormClipping(1.0))])
    found = search(classifier, grid, cv=2, scoring="neg_log_loss").fit(X, Y)
    low, high = found.cv_results_["mean_test_score"]
    assert low != high
    assert found.best_estimator_.get_params()["callbacks__clip__gradient_clip_value"] in (1e-9, 1.0)
    assert classifier.get_params()["callbacks__clip__gradient_clip_value"] == 1.0


def test_a_callback_is_replaced_and_taken_out_by_its_name():
    given = [("stop", EarlyStopping("train_loss")), EpochTimer()]
    classifier = _classifier(given).set_params(callbacks__stop=EpochTimer())
    assert isinstance(classifier.get_params()["callbacks__stop"], EpochTimer)
    classifier.set_params(callbacks__stop=None)
    assert [type(callback) for callback in classifier.callbacks] == [EpochTimer]
    assert len(given) == 2, "the user's list stays as it is"


def test_callbacks_and_their_parameters_are_set_in_one_call():
    classifier = _classifier(None).set_params(
        callbacks__stop__patience=3, callbacks=[("stop", EarlyStopping("train_loss"))]
    )
    assert classifier.get_params()["callbacks__stop__patience"] == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("callbacks__other__patience", "callbacks has ['stop'], but no 'other'"),
        ("callbacks__stop__patients", "has the parameters ['load_best', "),
    ],
)
def test_unknown_names_are_refused_with_those_that_there_are(name, message):
    classifier = _classifier([("stop", EarlyStopping("train_loss"))])
    with pytest.raises(ValueError, match=re.escape(message)):
        classifier.set_params(**{name: 1})
