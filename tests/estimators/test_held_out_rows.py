"""Rows that early stopping holds out: scikit-learn's, with every class on both sides."""

import re

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

from sknn_deep import AutoencoderTransformer, DeepMLPClassifier, DeepMLPRegressor
from sknn_deep._estimators.held_out_rows import hold_out_rows
from sknn_deep.model_selection import FusedGridSearchCV

pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer. Maximum iterations")
QUICK = {"hidden_layer_sizes": (8,), "max_iter": 2, "random_state": 0, "early_stopping": True}
RARE = np.array(["a"] * 74 + ["b"] * 74 + ["rare"] * 2)


def hold_out(y, seed, fraction=0.1):
    names, labels = np.unique(y, return_inverse=True)
    return hold_out_rows(len(y), fraction, np.random.RandomState(seed), labels, names)


def split_of_scikit_learn(n_rows, seed, fraction=0.1, **options):
    return train_test_split(
        np.arange(n_rows), test_size=fraction, random_state=np.random.RandomState(seed), **options
    )


@pytest.mark.parametrize("fraction", [0.1, 0.25, 1 / 3])
@pytest.mark.parametrize("seed", range(5))
def test_rows_without_labels_are_those_of_scikit_learn(seed, fraction):
    rows = hold_out_rows(53, fraction, np.random.RandomState(seed))
    for actual, expected in zip(rows, split_of_scikit_learn(53, seed, fraction), strict=True):
        assert_array_equal(actual, expected)


@pytest.mark.parametrize("kind", [DeepMLPClassifier, DeepMLPRegressor, AutoencoderTransformer])
@pytest.mark.parametrize("parameter", ["shuffle", "early_stopping", "validation_fraction"])
def test_the_documentation_says_that_rows_are_held_out_at_random_also_in_a_fixed_order(
    parameter, kind
):
    described = re.search(rf"\n    {parameter} : .*?\n\n", kind.__doc__, re.DOTALL).group()
    assert "at random" in described
    assert "shuffle=False" in described or "in either case" in described


@pytest.mark.parametrize("shuffle", [False, True])
def test_rows_of_a_fixed_order_are_held_out_as_those_of_a_shuffled_one(shuffle):
    X, y = np.random.RandomState(0).normal(size=(60, 3)), np.arange(60) % 2
    ours = DeepMLPClassifier(**QUICK, shuffle=shuffle).fit(X, y)
    theirs = MLPClassifier(**QUICK, shuffle=shuffle).fit(X, y)
    assert ours.validation_scores_ == pytest.approx(theirs.validation_scores_)
    in_order = len(X) - int(0.1 * len(X))
    _, held_out = hold_out(y, seed=0)
    assert held_out.min() < in_order, "the last rows would be those of the order of time"


@pytest.mark.parametrize("seed", range(5))
def test_rows_of_two_classes_are_those_of_scikit_learn(seed):
    y = RARE[74:]
    for actual, expected in zip(
        hold_out(y, seed), split_of_scikit_learn(len(y), seed, stratify=y), strict=True
    ):
        assert_array_equal(actual, expected)


def test_rows_differ_from_scikit_learns_only_where_a_class_would_be_lost():
    n_lost = 0
    for seed in range(300):
        expected = split_of_scikit_learn(len(RARE), seed, 0.2)
        train, held_out = hold_out(RARE, seed, 0.2)
        if "rare" in RARE[expected[0]]:
            assert_array_equal(train, expected[0])
            assert_array_equal(held_out, expected[1])
        else:
            n_lost += 1
            assert np.sum(RARE[train] == "rare") == np.sum(RARE[held_out] == "rare") == 1
            assert [len(train), len(held_out)] == [120, 30]
            assert_array_equal(np.sort(np.concatenate([train, held_out])), np.arange(150))
    assert n_lost > 1


@pytest.mark.parametrize("seed", range(20))
def test_every_one_of_many_small_classes_is_trained_on(seed):
    y = np.repeat(np.arange(30), 2)
    train, held_out = hold_out(y, seed, fraction=0.5)
    assert set(y[train]) == set(y)
    assert_array_equal(np.sort(np.concatenate([train, held_out])), np.arange(60))
    assert len(held_out) >= 2


@pytest.mark.parametrize("seed", range(40))
def test_both_values_of_every_label_are_trained_on(seed):
    labels = np.zeros((40, 3))
    labels[::2, 0] = 1
    labels[:2, 1] = 1  # a label that few rows have
    labels[2:, 2] = 1  # and one that few lack
    train, held_out = hold_out_rows(
        40, 0.5, np.random.RandomState(seed), labels, np.array(["x", "y", "z"])
    )
    assert_array_equal(np.sort(np.concatenate([train, held_out])), np.arange(40))
    means = labels[train].mean(axis=0)
    assert ((means > 0) & (means < 1)).all()


def test_multilabel_rows_are_those_of_scikit_learn_where_nothing_is_lost():
    labels = np.random.RandomState(0).randint(2, size=(60, 4))
    rows = hold_out_rows(60, 0.2, np.random.RandomState(1), labels, np.arange(4))
    for actual, expected in zip(rows, split_of_scikit_learn(60, 1, 0.2), strict=True):
        assert_array_equal(actual, expected)


LOSING_SEED = 57  # with the network below scikit-learn's MLP holds out both rows of the rare class


def test_rare_class_that_scikit_learn_holds_out_is_learned():
    X = np.random.RandomState(0).randn(150, 5)
    X[:, 0] += 8 * (RARE == "rare")
    X[:, 1] += 8 * (RARE == "b")
    options = {
        "hidden_layer_sizes": (8,),
        "early_stopping": True,
        "max_iter": 200,
        "n_iter_no_change": np.inf,
        "learning_rate_init": 0.02,
        "random_state": LOSING_SEED,
    }
    theirs = MLPClassifier(**options).fit(X, RARE)
    assert "rare" not in theirs.predict(X)
    ours = DeepMLPClassifier(**options).fit(X, RARE)
    assert_array_equal(ours.predict(X[-2:]), ["rare", "rare"])
    assert ours.score(X, RARE) > 0.98


def test_fused_searches_and_ensembles_hold_out_the_same_rows():
    X = np.random.RandomState(0).randn(150, 5)
    single = DeepMLPClassifier(**{**QUICK, "random_state": LOSING_SEED})
    search = FusedGridSearchCV(single, {"alpha": [0.1, 0.2]}, cv=[(np.arange(150),) * 2])
    fitted = search.fit(X, RARE).best_estimator_
    expected = DeepMLPClassifier(**fitted.get_params()).fit(X, RARE)
    assert fitted.validation_scores_ == pytest.approx(expected.validation_scores_)
    ensemble = DeepMLPClassifier(**{**QUICK, "n_networks": 3}).fit(X, RARE)
    for network in ensemble.estimators_:
        alone = DeepMLPClassifier(**network.get_params()).fit(X, RARE)
        assert network.validation_scores_ == pytest.approx(alone.validation_scores_)


def refusal(estimator, X, y):
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - the text is compared by the caller
        estimator.fit(X, y)
    return str(raised.value)


X_SMALL = np.arange(12.0).reshape(6, 2)


@pytest.mark.parametrize(
    ("y", "lonely"),
    [
        (["ham"] * 5 + ["spam"], "['spam']"),
        ([1] * 5 + [7], "[7]"),
        ([False] + [True] * 5, "[False]"),
    ],
)
def test_class_of_one_row_is_named_as_the_user_names_it(y, lonely):
    message = refusal(DeepMLPClassifier(**QUICK), X_SMALL, y)
    assert message.startswith(
        f"early_stopping=True holds out rows of both classes, but y has only 1 sample of {lonely}: "
        "pass more rows of that class, pass X_val and y_val to fit, or set early_stopping=False."
    )


def test_class_of_one_row_among_several_is_trained_on():
    y = ["a"] * 10 + ["b"] * 10 + ["c"]
    X = np.random.RandomState(0).randn(21, 3)
    for seed in range(10):
        classifier = DeepMLPClassifier(**{**QUICK, "random_state": seed}).fit(X, y)
        assert "c" in classifier.classes_
        train, _ = hold_out(np.array(y), seed)
        assert 20 in train


@pytest.mark.parametrize("kind", [DeepMLPClassifier, DeepMLPRegressor])
@pytest.mark.parametrize(
    ("fraction", "n_rows", "message"),
    [
        (0.0, 6, "validation_fraction=0.0 holds out no row: with early_stopping=True choose"),
        (0.1, 6, "The validation set is too small. Increase 'validation_fraction' or the size"),
        (0.9, 6, "early_stopping=True with validation_fraction=0.9 leaves 0 of 6 rows to train on"),
    ],
)
def test_sizes_that_cannot_be_are_told_in_the_users_parameters(kind, fraction, n_rows, message):
    estimator = kind(**QUICK, validation_fraction=fraction)
    text = refusal(estimator, X_SMALL[:n_rows], [0, 1] * (n_rows // 2))
    assert text.startswith(message)
    assert not re.search("test_size|train_size", text)


def test_two_classes_need_two_rows_to_train_on():
    text = refusal(
        DeepMLPClassifier(**QUICK, validation_fraction=0.75), X_SMALL, [0, 0, 0, 1, 1, 1]
    )
    assert text.startswith(
        "early_stopping=True with validation_fraction=0.75 leaves 1 of 6 rows to train on, but "
        "there must be 2 at least."
    )
