"""Rows that early stopping holds out: scikit-learn's, with every class on both sides."""

import re

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    GroupShuffleSplit,
    KFold,
    LeaveOneGroupOut,
    LeavePGroupsOut,
    PredefinedSplit,
    StratifiedShuffleSplit,
    TimeSeriesSplit,
    train_test_split,
)
from sklearn.neural_network import MLPClassifier

from sknn_deep import (
    AutoencoderTransformer,
    DeepMLPClassifier,
    DeepMLPRegressor,
    TabularMLPClassifier,
)
from sknn_deep._estimators import base
from sknn_deep._estimators.held_out_rows import (
    hold_out_rows,
    hold_out_stratified,
    rows_of_splitter,
)
from sknn_deep.model_selection import FusedGridSearchCV

pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer. Maximum iterations")
QUICK = {"hidden_layer_sizes": (8,), "max_iter": 2, "random_state": 0, "early_stopping": True}
RARE = np.array(["a"] * 74 + ["b"] * 74 + ["rare"] * 2)


def mean_absolute_error_of(estimator, X, y):
    """Return the score of "neg_mean_absolute_error", as a function of the user's own."""
    return -np.abs(estimator.predict(X) - y).mean()


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
    described = " ".join(described.split())
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


# Rows by choice: validation_splitter


ROWS = np.arange(60)
X_ROWS, Y_ROWS = np.random.RandomState(0).normal(size=(60, 3)), ROWS % 3
FOLDS = KFold(5, shuffle=True, random_state=3)


@pytest.mark.parametrize(
    ("splitter", "groups", "expected"),
    [
        (FOLDS, None, next(FOLDS.split(ROWS))),
        (TimeSeriesSplit(5), None, (ROWS[:50], ROWS[50:])),
        (TimeSeriesSplit(5, gap=5), None, (ROWS[:45], ROWS[50:])),
        (PredefinedSplit(np.where(ROWS < 7, 0, -1)), None, (ROWS[7:], ROWS[:7])),
        (LeaveOneGroupOut(), ROWS // 20, (ROWS[20:], ROWS[:20])),
    ],
)
@pytest.mark.parametrize("kind", [DeepMLPClassifier, DeepMLPRegressor, AutoencoderTransformer])
def test_a_splitter_says_which_rows_are_held_out(kind, splitter, groups, expected):
    y = {} if kind is AutoencoderTransformer else {"y": Y_ROWS}
    network = kind(**QUICK, validation_splitter=splitter).fit(X_ROWS, **y, groups=groups)
    train, held_out = expected
    y_own, y_val = ({name: part[rows] for name, part in y.items()} for rows in expected)
    y_val = {f"{name}_val": part for name, part in y_val.items()}
    plain = kind(**QUICK).fit(X_ROWS[train], **y_own, X_val=X_ROWS[held_out], **y_val)
    assert_array_equal(network.module_.flat, plain.module_.flat)
    assert network.validation_scores_ == plain.validation_scores_


def test_what_a_splitter_draws_comes_from_random_state():
    splitter = GroupShuffleSplit(1, test_size=0.4)
    drawn = []
    for seed in (0, 0, 1):
        network = DeepMLPRegressor(**QUICK | {"random_state": seed}, validation_splitter=splitter)
        network.fit(X_ROWS, Y_ROWS, groups=ROWS // 6)
        drawn.append(network.validation_scores_)
    assert drawn[0] == drawn[1] != drawn[2]
    assert splitter.random_state is None


def test_a_splitter_is_asked_in_every_fold_of_a_search():
    groups = np.repeat(np.arange(12), 5)
    seen = []

    class Watched(GroupKFold):
        def split(self, X, y=None, groups=None):
            seen.append(np.unique(groups).tolist())
            for train, test in super().split(X, y, groups):
                assert not set(groups[train]) & set(groups[test])
                yield train, test

    with config_context(enable_metadata_routing=True):
        network = DeepMLPRegressor(**QUICK, validation_splitter=Watched(3))
        grid, cv = {"alpha": [0.1, 0.01]}, GroupKFold(2)
        results = []
        for search in (GridSearchCV, FusedGridSearchCV):
            fitted = search(network.set_fit_request(groups=True), grid, cv=cv, refit=False)
            results.append(fitted.fit(X_ROWS, Y_ROWS, groups=groups).cv_results_["mean_test_score"])
        halves = [np.unique(groups[train]).tolist() for train, _ in cv.split(X_ROWS, None, groups)]
        assert seen == 2 * halves + [half for half in halves for _ in grid["alpha"]]
        assert_allclose(*results, rtol=1e-6)
        assert fitted.fused_.all()
        # who does not ask for them is not given the groups of a search
        plain = GridSearchCV(DeepMLPRegressor(**QUICK), grid, cv=cv)
        plain.fit(X_ROWS, Y_ROWS, groups=groups)


@pytest.mark.parametrize("n_networks", [1, 2])
def test_stratified_rows_are_of_each_class_in_proportion(n_networks):
    y = np.repeat(["a", "b", "c"], [60, 30, 10])
    X = np.random.RandomState(0).normal(size=(100, 2))
    shares = []

    def count(estimator, X, y):
        shares.append(np.bincount(["abc".index(label) for label in y]).tolist())
        return 0.0

    params = QUICK | {"validation_fraction": 0.2, "scoring": count, "n_networks": n_networks}
    DeepMLPClassifier(**params, validation_splitter="stratified").fit(X, y)
    assert shares == [[12, 6, 2]] * 2 * n_networks
    shares.clear()
    DeepMLPClassifier(**params, validation_splitter="stratified").fit(X, np.where(y > "a", "b", y))
    assert shares == [[12, 8]] * 2 * n_networks
    with pytest.raises(ValueError, match="The 'validation_splitter' parameter of DeepMLPReg"):
        DeepMLPRegressor(**QUICK, validation_splitter="stratified").fit(X, np.arange(100))


@pytest.mark.parametrize("seed", range(5))
def test_stratified_labels_are_in_proportion(seed):
    labels = np.random.RandomState(seed).uniform(size=(400, 3)) < [0.5, 0.2, 0.03]
    train, held_out = hold_out_stratified(0.25, np.random.RandomState(seed), labels.astype(float))
    assert_array_equal(np.sort(np.concatenate([train, held_out])), np.arange(400))
    assert len(held_out) == 100
    assert_allclose(labels[held_out].sum(axis=0), labels.sum(axis=0) / 4, atol=2)


class Yields:
    """A splitter of one division, or of none."""

    def __init__(self, *divisions):
        self.divisions = divisions

    def split(self, X, y=None, groups=None):
        return iter(self.divisions)

    def get_n_splits(self, X=None, y=None, groups=None):
        return len(self.divisions)


@pytest.mark.parametrize(
    ("splitter", "groups", "message"),
    [
        (
            Yields(),
            None,
            "yields no split of 60 rows; choose one that yields training and test",
        ),
        (Yields((ROWS[:0], ROWS)), None, "yields 0 training rows of 60, but there must be 1"),
        (Yields((ROWS[1:], ROWS[:1])), None, "yields 1 test row of 60, but there must be 2"),
        (Yields((ROWS[5:], ROWS[:9])), None, "holds out rows that it trains on, such as 5; choose"),
        (Yields((ROWS[1:], [-1, 0])), None, "rows: -1 is not a row from 0 to 59. Choose one that"),
        (Yields((ROWS[1:], [60, 0])), None, "rows: 60 is not a row from 0 to 59"),
        (Yields((ROWS[9:], [0.0, 1.0])), None, r"an array of float64, of shape \(2,\)"),
        (Yields((ROWS[:, None], ROWS)), None, r"an array of int64, of shape \(60, 1\)"),
        (Yields((ROWS > 9, ROWS[:9] > 3)), None, r"an array of bool, of shape \(9,\)"),
        (Yields((ROWS,)), None, "yields no training and test rows: not enough values"),
        (Yields((ROWS[2:], ROWS[:1], ROWS[1:2])), None, "rows: too many values"),
        (Yields(3), None, "yields no training and test rows: .* not iterable"),
        (KFold, None, r"is the class KFold, which divides nothing: pass KFold\(\), not KFold\.$"),
        (
            KFold(2000),
            None,
            r"failed on 60 rows: .*n_samples=60\. Choose a smaller n_splits, so that two rows",
        ),
        (
            GroupKFold(2),
            None,
            r"The 'groups' parameter should not be None\. Pass groups to fit; searches and "
            r"pipelines hand them on with metadata routing enabled and set_fit_request\(groups=",
        ),
        (
            GroupKFold(2),
            0 * ROWS,
            r"number of groups: 1\. groups has 1 group: pass groups that differ, or a splitter",
        ),
        (
            LeavePGroupsOut(3),
            ROWS % 3,
            r"be present\. groups has 3 groups: pass more groups, or a splitter without groups",
        ),
        (
            GroupKFold(4),
            ROWS % 3,
            r"number of groups: 3\. groups has 3 groups: choose fewer splits, or a splitter",
        ),
        (
            GroupKFold(4),
            np.zeros((60, 1)),
            r"number of groups: 1\. groups has 1 group: pass groups that differ, or a splitter",
        ),
        (
            GroupKFold(2),
            np.array([None, "a"] * 30, dtype=object),
            "Pass one group for each row to fit, all of one type and none of them missing",
        ),
        (
            GroupKFold(2),
            np.where(ROWS < 2, np.nan, ROWS % 3),
            "contains NaN. Pass one group for each row to fit, all of one type and none of them",
        ),
        (
            GroupKFold(2),
            ROWS[:, np.newaxis] % 3,
            r"groups is of shape \(60, 1\): pass one column of it to fit",
        ),
        (GroupKFold(2), ROWS[:9], "groups has 9 entries for 60 rows; pass one for each"),
        (None, ROWS, "groups are for a validation_splitter, got validation_splitter=None; pass"),
    ],
)
def test_rows_that_cannot_be_held_out_are_refused(splitter, groups, message):
    with pytest.raises(ValueError, match=message):
        DeepMLPClassifier(**QUICK, validation_splitter=splitter).fit(X_ROWS, Y_ROWS, groups=groups)


def test_a_splitter_that_needs_labels_is_refused_by_its_own_name():
    message = (
        r"(?s)StratifiedShuffleSplit\(n_splits=1, random_state=None.* failed on 60 rows: .*Choose"
    )
    splitter = StratifiedShuffleSplit(1)
    with pytest.raises(ValueError, match=message):
        AutoencoderTransformer(**QUICK, validation_splitter=splitter).fit(X_ROWS)


@pytest.mark.parametrize(
    ("params", "method", "message"),
    [
        ({}, "fit", "got early_stopping=False; set early_stopping=True, or leave validation_spl"),
        (
            {},
            "partial_fit",
            "early_stopping=False; pass X_val and y_val to partial_fit, or leave validation",
        ),
        (
            {"early_stopping": True},
            "partial_fit",
            r"holds no rows out, so validation_splitter=KFold\(n_splits=3, .*\) is not asked\. Set "
            "early_stopping=False, and pass X_val and y_val to partial_fit",
        ),
        (
            {"early_stopping": True, "solver": "lbfgs"},
            "fit",
            "solver='lbfgs' does not support validation_splitter: it holds no rows out",
        ),
    ],
)
def test_a_splitter_that_nobody_asks_is_refused(params, method, message):
    network = DeepMLPRegressor(**QUICK | {"early_stopping": False} | params)
    network.set_params(validation_splitter=KFold(3))
    with pytest.raises(ValueError, match=message):
        getattr(network, method)(X_ROWS, Y_ROWS)


def test_a_mask_is_as_good_as_row_numbers():
    is_held_out = ROWS % 4 == 0
    splitter = Yields((~is_held_out, is_held_out))
    train, held_out = rows_of_splitter(splitter, X_ROWS, None, None, np.random.RandomState(0))
    assert_array_equal(held_out, ROWS[::4])
    assert len(train) == 45


# A validation set in partial_fit


@pytest.mark.parametrize(
    ("scoring", "is_shared"), [("neg_mean_absolute_error", True), (mean_absolute_error_of, False)]
)
def test_a_named_scorer_predicts_from_the_outputs_of_the_loss(scoring, is_shared, monkeypatch):
    rng, called, predict = np.random.default_rng(0), [], base.output_by_numpy

    def noted(*args, **options):
        called.append(1)
        return predict(*args, **options)

    monkeypatch.setattr(base, "output_by_numpy", noted)
    X, y = rng.normal(size=(60, 3)), rng.normal(size=60)
    n_calls = []
    for max_iter in (2, 6):
        options = {"max_iter": max_iter, "random_state": 0, "scoring": scoring}
        network = DeepMLPRegressor(hidden_layer_sizes=(8,), **options)
        network.fit(X[:40], y[:40], X_val=X[40:], y_val=y[40:])
        n_calls.append(len(called))
        called.clear()
    assert (n_calls[0] == n_calls[1]) is is_shared
    expected = -np.abs(network.predict(X[40:]) - y[40:]).mean()
    assert_allclose(network.best_validation_score_, expected, rtol=1e-9)


@pytest.mark.parametrize("n_networks", [1, 2])
def test_partial_fit_records_a_validation_set_and_goes_on_from_where_it_is(n_networks):
    params = QUICK | {"early_stopping": False, "learning_rate_init": 0.1}
    if n_networks > 1:
        params["n_networks"] = n_networks
    watched, plain = DeepMLPRegressor(**params), DeepMLPRegressor(**params)
    for _ in range(6):
        watched.partial_fit(X_ROWS[:40], Y_ROWS[:40], X_val=X_ROWS[40:], y_val=Y_ROWS[40:])
        plain.partial_fit(X_ROWS[:40], Y_ROWS[:40])
    for one, other in zip(watched._networks, plain._networks, strict=True):
        assert_array_equal(one.module_.flat, other.module_.flat)
        assert len(one.validation_scores_) == len(one.validation_loss_curve_) == 6
        assert one.best_validation_score_ == max(one.validation_scores_)
        assert_allclose(one.validation_scores_[-1], one.score(X_ROWS[40:], Y_ROWS[40:]), rtol=1e-9)
        assert one.history_[-1, "valid_loss"] == one.validation_loss_curve_[-1]


def test_partial_fit_of_a_classifier_and_an_autoencoder_take_a_validation_set():
    off = QUICK | {"early_stopping": False}
    classifier = DeepMLPClassifier(**off)
    classifier.partial_fit(X_ROWS, Y_ROWS, classes=[0, 1, 2], X_val=X_ROWS[:9], y_val=Y_ROWS[:9])
    assert classifier.validation_scores_ == [classifier.score(X_ROWS[:9], Y_ROWS[:9])]
    with pytest.raises(ValueError, match="y_val has classes that are not in y"):
        classifier.partial_fit(X_ROWS, Y_ROWS, X_val=X_ROWS[:9], y_val=Y_ROWS[:9] + 9)
    with pytest.raises(ValueError, match="X_val and y_val must be passed together"):
        classifier.partial_fit(X_ROWS, Y_ROWS, X_val=X_ROWS[:9])
    autoencoder = AutoencoderTransformer(1, **off).partial_fit(X_ROWS, X_val=X_ROWS[:9])
    assert len(autoencoder.validation_scores_) == 1


def test_partial_fit_names_the_validation_set_that_it_takes_instead_of_early_stopping():
    autoencoder = AutoencoderTransformer(1, **QUICK)
    with pytest.raises(ValueError, match="early_stopping=False, and pass X_val to partial_fit to"):
        autoencoder.partial_fit(X_ROWS)
    autoencoder.set_params(early_stopping=False).partial_fit(X_ROWS, X_val=X_ROWS[:9])
    tabular = TabularMLPClassifier()
    with pytest.raises(AttributeError) as raised:
        tabular.partial_fit(X_ROWS, Y_ROWS, classes=np.unique(Y_ROWS))
    assert "Set it to False, and pass X_val and y_val to partial_fit" in str(raised.value.__cause__)


@pytest.mark.parametrize("n_networks", [1, 2])
def test_a_splitter_beside_a_validation_set_is_refused(n_networks):
    network = DeepMLPRegressor(**QUICK, validation_splitter=FOLDS, n_networks=n_networks)
    message = "Both X_val and validation_splitter=KFold(n_splits=5, random_state=3, shuffle=True)"
    with pytest.raises(ValueError, match=re.escape(message)):
        network.fit(X_ROWS, Y_ROWS, X_val=X_ROWS, y_val=Y_ROWS, groups=ROWS)
    network.fit(X_ROWS, Y_ROWS, groups=None).set_params(early_stopping=False)
    network.partial_fit(X_ROWS, Y_ROWS, X_val=X_ROWS, y_val=Y_ROWS)


def test_a_splitter_that_holds_out_whole_classes_is_warned_about():
    X, y = np.arange(30.0)[:, np.newaxis] / 30, np.repeat(["a", "b", "c"], 10)
    network = DeepMLPClassifier(**QUICK, validation_splitter=KFold(3))
    with pytest.warns(UserWarning, match=r"holds out all rows of \['a'\], which the network never"):
        network.fit(X, y)
    labels = np.column_stack([y == "a", y != "b"]).astype(int)
    with pytest.warns(UserWarning, match=r"KFold.* holds out all rows of \[0\], which the network"):
        network.fit(X, labels)
    # a warning would be an error
    network.set_params(validation_splitter=KFold(3, shuffle=True, random_state=0)).fit(X, y)


def test_a_scorer_that_does_not_suit_is_named():
    regressor = DeepMLPRegressor(**QUICK, scoring="neg_log_loss")
    message = r"scoring='neg_log_loss' failed .* predict_proba\. Pass a scorer that suits DeepMLPR"
    with pytest.raises(ValueError, match=message):
        regressor.fit(X_ROWS, Y_ROWS.astype(float))
