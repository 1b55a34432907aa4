"""Tables with texts and gaps, through everything that an estimator does."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score, make_scorer
from sklearn.model_selection import GridSearchCV, PredefinedSplit, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from skorch.callbacks import Callback

import sknn_deep
from sknn_deep import (
    DeepMLPClassifier,
    DeepMLPRegressor,
    TabularMLPClassifier,
    TabularMLPRegressor,
)
from sknn_deep._training.checkpoint import TrainingCheckpoint
from sknn_deep.model_selection import FusedGridSearchCV
from tests.sklearn_checks import SAME_FOR_ALL_VALUES, with_checks

pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer")

N_ROWS = 120


def make_table(seed=0, n_rows=N_ROWS):
    rng = np.random.RandomState(seed)
    X = pd.DataFrame(
        {
            "size": rng.randn(n_rows),
            "age": rng.randint(0, 90, n_rows).astype(float),
            "kind": rng.choice(["a", "b", "c"], n_rows).astype(object),
            "place": pd.Categorical(rng.choice([f"p{i}" for i in range(12)], n_rows)),
            "is_new": rng.rand(n_rows) < 0.5,
        }
    )
    effect = X["kind"].map({"a": -2.0, "b": 0.0, "c": 2.0}).to_numpy()
    y = X["size"].to_numpy() + effect + 0.02 * X["age"].to_numpy()
    X.loc[::7, "age"] = np.nan
    X.loc[::11, "kind"] = None
    return X, y


X, Y = make_table()
LABELS = np.where(np.median(Y) < Y, "high", "low")
KINDS = {DeepMLPClassifier: LABELS, DeepMLPRegressor: Y}
QUICK = {"hidden_layer_sizes": (6,), "max_iter": 5, "random_state": 0, "device": "cpu"}
EMBEDDED = {
    "allow_nan": True,
    "scaling": "robust",
    "numeric_embedding": "piecewise_linear",
    "n_bins": 6,
    "numeric_embedding_size": 3,
}
OPTIONS = {
    "plain": {"allow_nan": True, "scaling": "standard"},
    "piecewise": EMBEDDED | {"learned_scales": True},
    "periodic": EMBEDDED | {"numeric_embedding": "periodic", "n_frequencies": 4},
}


# What cannot hold, and why.
TABULAR_FAILURES = {
    "check_sample_weight_equivalence_on_dense_data": "the split draws rows, not weights",
    "check_sample_weight_equivalence_on_sparse_data": "the split draws rows, not weights",
}


def _expected_failures(estimator):
    return TABULAR_FAILURES


SMALL = {"hidden_layer_sizes": (8,), "learning_rate_init": 0.05, "max_iter": 20, "device": "cpu"}


converging_or_not = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@converging_or_not
@with_checks(
    [
        DeepMLPClassifier(**SMALL, **OPTIONS["piecewise"]),
        DeepMLPRegressor(**SMALL, **OPTIONS["plain"]),
    ]
)
def test_options_of_tables_comply(estimator, check):
    check(estimator)


@converging_or_not
@with_checks(
    [
        DeepMLPClassifier(**SMALL, **OPTIONS["plain"]),
        DeepMLPClassifier(**SMALL, **OPTIONS["periodic"]),
        DeepMLPRegressor(**SMALL, **OPTIONS["piecewise"]),
        DeepMLPRegressor(**SMALL, **OPTIONS["periodic"]),
        DeepMLPRegressor(**SMALL, target_scaling="standard"),
    ],
    but=SAME_FOR_ALL_VALUES,
)
def test_other_options_of_tables_comply(estimator, check):
    check(estimator)


@pytest.mark.slow
@converging_or_not
@with_checks(
    # one network of five epochs takes a twentieth of the time; some checks allow less than float32
    # rounds by
    [
        cls(n_networks=1, max_iter=5, dtype="float64")
        for cls in (TabularMLPClassifier, TabularMLPRegressor)
    ],
    expected_failures=_expected_failures,
)
def test_defaults_for_tables_comply(estimator, check):
    check(estimator)


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def kind(request):
    return request.param


class Stopped(Exception):
    pass


class Stop(Callback):
    at = None

    def on_epoch_end(self, net, **kwargs):
        if len(net.history) == self.at:
            raise Stopped


def outputs(estimator, rows=X):
    name = "predict_proba" if hasattr(estimator, "predict_proba") else "predict"
    return getattr(estimator, name)(rows)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_table_is_learned(kind, options):
    params = QUICK | {"hidden_layer_sizes": (32,), "max_iter": 150, "learning_rate_init": 0.01}
    estimator = kind(**(params | options)).fit(X, KINDS[kind])
    assert estimator.score(X, KINDS[kind]) > 0.85
    assert estimator.is_categorical_.tolist() == [False, False, True, True, False]
    assert estimator.n_features_in_ == 5
    assert estimator.feature_names_in_.tolist() == list(X.columns)


def test_without_categories_and_gaps_nothing_changes(kind):
    numbers = X[["size", "is_new"]].astype(float)
    frame = kind(**QUICK).fit(numbers, KINDS[kind])
    array = kind(**QUICK, categorical_features=None).fit(numbers.to_numpy(), KINDS[kind])
    assert frame.module_.input is None
    assert frame.is_categorical_ is None
    np.testing.assert_array_equal(frame.coefs_[0], array.coefs_[0])


def test_gaps_are_refused_unless_they_are_allowed(kind):
    with pytest.raises(ValueError, match=r"contains NaN(.|\n)*by allow_nan=True\.$"):
        kind(**QUICK).fit(X, KINDS[kind])
    with pytest.raises(ValueError, match="contains infinity"):
        kind(**QUICK, allow_nan=True).fit(X.assign(size=np.inf), KINDS[kind])


def test_texts_without_categories_are_refused(kind):
    with pytest.raises(ValueError, match="could not convert string to float"):
        kind(**QUICK, allow_nan=True, categorical_features=None).fit(X, KINDS[kind])


def test_rows_of_unknown_categories_and_new_gaps_are_predicted(kind):
    estimator = kind(**QUICK, **EMBEDDED).fit(X, KINDS[kind])
    other = X.assign(kind="zebra", place=None, size=np.nan)
    assert np.isfinite(outputs(estimator, other)).all()
    assert np.isfinite(outputs(estimator, other[["size", "age", "kind", "place", "is_new"]])).all()
    with pytest.raises(ValueError, match="feature names should match"):
        outputs(estimator, other[["age", "size", "kind", "place", "is_new"]])


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_files_and_pickles_keep_tables(kind, options, tmp_path):
    estimator = kind(**QUICK, **options).fit(X, KINDS[kind])
    estimator.partial_fit(X, KINDS[kind])
    sknn_deep.save(estimator, tmp_path / "file.sknn")
    for other in (pickle.loads(pickle.dumps(estimator)), sknn_deep.load(tmp_path / "file.sknn")):
        np.testing.assert_array_equal(outputs(other), outputs(estimator))
        other.partial_fit(X, KINDS[kind])
    estimator.partial_fit(X, KINDS[kind])
    np.testing.assert_array_equal(outputs(other), outputs(estimator))


def test_a_training_is_resumed_from_its_checkpoint(kind, tmp_path):
    params = QUICK | EMBEDDED | {"dropout": 0.2, "dropout_schedule": "flat_cosine"}
    whole = kind(**params, callbacks=[TrainingCheckpoint(tmp_path / "a")]).fit(X, KINDS[kind])

    def fit(stops_at):
        Stop.at = stops_at
        callbacks = [TrainingCheckpoint(tmp_path / "b"), Stop]
        return kind(**params, callbacks=callbacks).fit(X, KINDS[kind])

    with pytest.raises(Stopped):
        fit(stops_at=3)
    resumed = fit(stops_at=None)
    np.testing.assert_array_equal(outputs(resumed), outputs(whole))


def test_an_ensemble_is_its_networks(kind):
    ensemble = kind(**QUICK, **EMBEDDED, n_networks=3).fit(X, KINDS[kind])
    found = [outputs(network, ensemble._validate_input(X)) for network in ensemble.estimators_]
    np.testing.assert_allclose(outputs(ensemble), np.mean(found, axis=0))
    assert ensemble.is_categorical_.sum() == 2


def test_a_fused_search_is_scikit_learns(kind):
    grid = {"alpha": [0.0, 0.1], "learning_rate_init": [0.01, 0.001]}
    estimator = kind(**(QUICK | EMBEDDED))
    searches = [
        search(estimator, grid, cv=3).fit(X, KINDS[kind])
        for search in (GridSearchCV, FusedGridSearchCV)
    ]
    scores = [search.cv_results_["mean_test_score"] for search in searches]
    np.testing.assert_allclose(*scores)
    # all networks of a fold, and of two folds where they have the same categories
    assert searches[1].fused_.all(), searches[1].not_fused_reasons_
    np.testing.assert_allclose(*map(outputs, searches))


def test_scores_of_held_out_rows_are_those_of_the_table():
    seen = []

    def score(estimator, rows, y):
        seen.append(rows.shape)
        return accuracy_score(y, estimator.predict(rows))

    params = QUICK | EMBEDDED | {"early_stopping": True, "n_iter_no_change": 50}
    own = DeepMLPClassifier(**params, scoring=score).fit(X, LABELS)
    named = DeepMLPClassifier(**params, scoring="accuracy").fit(X, LABELS)
    default = DeepMLPClassifier(**params).fit(X, LABELS)
    made = DeepMLPClassifier(**params, scoring=make_scorer(accuracy_score)).fit(X, LABELS)
    curves = [e.validation_scores_ for e in (own, named, default, made)]
    assert all(curve == curves[0] for curve in curves)
    assert seen[0] == (12, 5)


def test_scales_are_those_of_the_training_rows_alone(kind):
    far = X.assign(size=X["size"] + np.where(np.arange(N_ROWS) < 100, 0.0, 1e6))
    y = KINDS[kind]
    params = QUICK | {"allow_nan": True, "scaling": "standard"}
    rows, others = far[:100], far[100:]
    estimator = kind(**params).fit(rows, y[:100], X_val=others, y_val=y[100:])
    center = estimator.module_.input.parts[0].center[0].item()
    assert center == pytest.approx(rows["size"].mean(), abs=1e-6)
    far = X.assign(size=1000 * X["size"])
    split = kind(**params, early_stopping=True, validation_fraction=0.45).fit(far, y)
    center = split.module_.input.parts[0].center[0].item()
    assert abs(center - far["size"].mean()) > 1, "half of the rows are held out"


def test_a_validation_set_may_be_a_table(kind):
    y = KINDS[kind]
    estimator = kind(**QUICK, **EMBEDDED).fit(X[:90], y[:90], X_val=X[90:], y_val=y[90:])
    best = estimator.best_validation_score_
    assert estimator.score(X[90:], y[90:]) == pytest.approx(best)


@pytest.mark.parametrize("n_networks", [1, 2])
def test_a_warm_start_and_partial_fit_go_on_with_the_categories_that_are_known(kind, n_networks):
    y = KINDS[kind]
    estimator = kind(**QUICK, **EMBEDDED, warm_start=True, n_networks=n_networks).fit(X, y)
    before = estimator._columns
    estimator.fit(X.assign(kind="zebra"), y)
    assert estimator._columns == before
    estimator.partial_fit(X, y)
    for network in estimator._networks:
        assert network._columns == before
        assert len(network.predict(X)) == len(X)
    with pytest.raises(ValueError, match="scaling robust -> standard"):
        estimator.set_params(scaling="standard").fit(X, y)


def test_cross_validation_and_pipelines_take_tables(kind):
    named = FunctionTransformer(lambda frame: frame.assign(size=frame["size"] * 2))
    pipeline = make_pipeline(named, kind(**QUICK, **EMBEDDED))
    assert len(cross_val_predict(pipeline, X, KINDS[kind], cv=3)) == N_ROWS
    clone(pipeline).fit(X, KINDS[kind])


def test_categories_may_be_numbers_of_an_array(kind):
    codes = np.column_stack([X["size"], np.arange(N_ROWS) % 4])
    estimator = kind(**QUICK, categorical_features=[1]).fit(codes, KINDS[kind])
    assert estimator.coefs_[0].shape == (1 + 4, 6)
    assert np.isfinite(outputs(estimator, np.array([[0.0, 77.0]]))).all()


def test_missing_texts_may_be_written_in_every_way(kind):
    y = KINDS[kind]
    written = {
        name: X.assign(kind=X["kind"].astype(object).where(X["kind"].notna(), value))
        for name, value in {"None": None, "NaN": np.nan, "NA": pd.NA}.items()
    }
    fitted = {name: kind(**QUICK, **EMBEDDED).fit(rows, y) for name, rows in written.items()}
    for network in fitted.values():
        for rows in written.values():
            np.testing.assert_array_equal(outputs(network, rows), outputs(fitted["None"]))
    one_row = written["NA"][written["NA"]["kind"].isna()][:1]
    assert np.isfinite(outputs(fitted["NA"], one_row)).all()


def test_a_column_of_identifiers_teaches_nothing(kind):
    rows = X.assign(name=[f"customer {i}" for i in range(N_ROWS)])
    estimator = kind(**QUICK, **EMBEDDED).fit(rows, KINDS[kind])
    np.testing.assert_array_equal(
        outputs(estimator, rows), outputs(kind(**QUICK, **EMBEDDED).fit(X, KINDS[kind]))
    )
    with pytest.raises(ValueError, match="X has nothing to learn from"):
        kind(**QUICK).fit(rows[["name"]], KINDS[kind])


def test_a_source_of_the_first_layers_takes_no_table(kind):
    numbers = X[["size", "is_new"]].astype(float)
    source = sknn_deep.AutoencoderTransformer(2, (6,), max_iter=2).fit(numbers)
    with pytest.raises(ValueError, match="has learned from plain numbers"):
        kind(**QUICK, init_from=source, scaling="standard").fit(numbers, KINDS[kind])


def test_a_target_is_scaled_and_predicted_in_its_own_units():
    y = 250_000 + 90_000 * Y
    params = QUICK | {"max_iter": 60, "learning_rate_init": 0.02, "allow_nan": True}
    params |= {"hidden_layer_sizes": (32,), "scaling": "standard"}
    scaled = DeepMLPRegressor(**params, target_scaling="standard").fit(X, y)
    by_hand = DeepMLPRegressor(**params).fit(X, (y - y.mean()) / y.std())
    np.testing.assert_allclose(scaled.predict(X), by_hand.predict(X) * y.std() + y.mean())
    assert scaled.loss_curve_ == pytest.approx(by_hand.loss_curve_)
    assert scaled.target_center_.tolist() == [pytest.approx(y.mean())]
    assert scaled.score(X, y) > 0.9
    two = DeepMLPRegressor(**params, target_scaling="standard", n_networks=2)
    two.fit(X, np.column_stack([y, -Y]))
    assert two.score(X, np.column_stack([y, -Y])) > 0.9
    mean, std = two.predict(X, return_std=True)
    assert mean.shape == std.shape == (N_ROWS, 2)
    assert std[:, 0].mean() > 1000 * std[:, 1].mean()


def test_a_target_of_counts_is_not_scaled():
    with pytest.raises(ValueError, match="loss='poisson' needs counts as they are"):
        DeepMLPRegressor(loss="poisson", target_scaling="standard").fit(X[["size"]], Y - Y.min())


def test_dropout_falls_to_zero_and_is_there_again():
    rates = []

    class Watch(Callback):
        def on_batch_begin(self, net, **kwargs):
            rates.append(net.module_.layers[2].p)

    params = QUICK | {"max_iter": 8, "dropout": 0.4, "callbacks": [Watch()]}
    estimator = DeepMLPRegressor(**params, dropout_schedule="flat_cosine")
    estimator.fit(X[["size"]], Y)
    assert rates[:5] == [0.4] * 5
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] < 0.1
    assert estimator.module_.layers[2].p == 0.4


def test_dropout_is_there_again_after_a_warm_start_that_failed():
    class RunsOut(Callback):
        def on_epoch_end(self, net, **kwargs):
            if net.module_.layers[2].p < 0.1:
                raise torch.OutOfMemoryError("no room")

    params = QUICK | {"max_iter": 8, "dropout": 0.4, "dropout_schedule": "flat_cosine"}
    estimator = DeepMLPRegressor(**params, warm_start=True).fit(X[["size"]], Y)
    with pytest.raises(MemoryError):
        estimator.set_params(callbacks=[RunsOut()]).fit(X[["size"]], Y)
    assert estimator.module_.layers[2].p == 0.4


def test_learned_scales_tell_what_is_of_use():
    rng = np.random.RandomState(0)
    rows = rng.randn(400, 6)
    params = QUICK | {"max_iter": 60, "learning_rate_init": 0.01}
    network = DeepMLPRegressor(**params, learned_scales=True).fit(rows, 2 * rows[:, 2])
    scales = 1 + 6 * network.module_.input.scales.detach().numpy()
    assert np.abs(scales).argmax() == 2
    plain = DeepMLPRegressor(**QUICK).fit(rows, rows[:, 0])
    assert plain.module_.input is None


def test_weights_count_in_scales(kind):
    numbers, weight = X[["size", "is_new"]].astype(float), np.arange(N_ROWS) % 3
    params = QUICK | {"scaling": "robust", "numeric_embedding": "piecewise_linear"}
    weighed = kind(**params).fit(numbers, KINDS[kind], sample_weight=weight)
    rows = np.repeat(np.arange(N_ROWS), weight)
    repeated = kind(**params).fit(numbers.iloc[rows], KINDS[kind][rows])
    for name in ("center", "factor", "low", "rate"):
        both = [getattr(network.module_.input.parts[0], name) for network in (weighed, repeated)]
        np.testing.assert_allclose(*both, err_msg=name)


@pytest.mark.parametrize("params", [{"scaling": "standard"}, {"numeric_embedding": "periodic"}])
def test_wide_sparse_rows_are_not_made_dense(kind, params):
    wide = sp.random(60, 10_001, density=1e-3, format="csr", random_state=0)
    with pytest.raises(ValueError, match="MaxAbsScaler"):
        kind(**QUICK, **params).fit(wide, KINDS[kind][:60])
    kind(**QUICK, **params).fit(wide[:, :50], KINDS[kind][:60])


def test_inputs_have_names(kind):
    y = KINDS[kind]
    plain = kind(**QUICK).fit(X[["size"]], y)
    assert plain.get_feature_names_out().tolist() == ["size"]
    table = kind(**QUICK, allow_nan=True, category_embedding_size=2).fit(X, y)
    expected = ["size", "age", "is_new", "age_is_missing"]
    expected += ["kind_a", "kind_b", "kind_c", "kind_None", "place_0", "place_1"]
    assert table.get_feature_names_out().tolist() == expected
    assert len(expected) == len(table.coefs_[0])
    pipeline = make_pipeline(kind(**QUICK, **EMBEDDED, n_networks=2)).fit(X.to_numpy(object), y)
    names = pipeline.get_feature_names_out(list("abcde"))
    assert names[:4].tolist() == ["a_0", "a_1", "a_2", "b_0"]
    assert len(names) == len(pipeline[-1].estimators_[0].coefs_[0])
    with pytest.raises(ValueError, match="input_features is not equal"):
        table.get_feature_names_out(list("abcde"))


def test_the_decay_of_embeddings_shrinks_them_and_nothing_else():
    params = QUICK | EMBEDDED | {"solver": "adamw", "weight_decay": 0.0}
    params |= {"learning_rate_init": 1e-12, "max_iter": 1, "batch_size": N_ROWS}
    before = DeepMLPRegressor(**params).fit(X, Y).module_
    after = DeepMLPRegressor(**params, embedding_weight_decay=5e11).fit(X, Y).module_
    numbers, vectors = [part for part in after.input.parts if list(part.parameters())]
    old_numbers, old_vectors = [p for p in before.input.parts if list(p.parameters())]
    np.testing.assert_allclose(
        vectors.vectors.detach(), 0.5 * old_vectors.vectors.detach(), atol=1e-9
    )
    np.testing.assert_allclose(
        numbers.weight.detach()[:, -2:], old_numbers.weight.detach()[:, -2:], atol=1e-9
    )
    np.testing.assert_allclose(
        after.layers[0].weight.detach(), before.layers[0].weight.detach(), atol=1e-9
    )


@pytest.mark.parametrize("kind", [TabularMLPClassifier, TabularMLPRegressor])
def test_a_table_is_all_that_a_user_needs(kind):
    rows, y = make_table(1, 400)
    target = np.where(np.median(y) < y, "high", "low") if kind is TabularMLPClassifier else y
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        estimator = kind(random_state=0).fit(rows[:200], target[:200])
    assert estimator.score(rows[200:], target[200:]) > 0.8
    twice = [kind(random_state=0, max_iter=2).fit(rows[:200], target[:200]) for _ in range(2)]
    np.testing.assert_array_equal(*(outputs(each, rows) for each in twice))


def test_partial_fit_of_tabular_networks_is_there_without_early_stopping():
    assert not hasattr(TabularMLPRegressor(), "partial_fit")
    estimator = TabularMLPRegressor(early_stopping=False, random_state=0)
    assert estimator.partial_fit(X, Y).n_iter_ == 1


@pytest.mark.parametrize(
    ("n_rows", "batch_size"), [(20, 16), (300, 16), (5_000, 64), (13_209, 256), (10**6, 256)]
)
def test_batches_are_large_where_there_are_many_rows(n_rows, batch_size):
    assert TabularMLPClassifier()._batch_size_for(n_rows) == batch_size
    assert TabularMLPClassifier(batch_size=8)._batch_size_for(n_rows) == 8


@pytest.mark.parametrize("activation", ["silu", ("relu", "tanh")], ids=str)
@pytest.mark.parametrize("kind", [TabularMLPClassifier, TabularMLPRegressor])
def test_half_of_the_networks_are_deeper_and_have_no_dropout(kind, activation):
    y = LABELS if kind is TabularMLPClassifier else Y
    params = {"hidden_layer_sizes": (8, 4), "activation": activation, "max_iter": 2}
    ensemble = kind(**params, n_networks=3, varied_networks=True, random_state=0)
    *plain, deeper = ensemble.fit(X, y, X_val=X, y_val=y).estimators_
    for network in plain:
        assert {name: getattr(network, name) for name in params} == params
        assert network.dropout == ensemble.dropout
    assert (deeper.hidden_layer_sizes, deeper.dropout) == ((8, 4, 4), 0.0)
    # it is the network that is trained alone with these parameters and its seed
    own = {name: getattr(deeper, name) for name in (*params, "dropout", "random_state")}
    alone = kind(**own, n_networks=1).fit(X, y, X_val=X, y_val=y)
    np.testing.assert_allclose(
        outputs(deeper, ensemble._validate_input(X)), outputs(alone), rtol=2e-3, atol=1e-4
    )


@pytest.mark.parametrize(
    ("params", "shapes"),
    [
        ({"varied_networks": False}, [(6,), (6,)]),
        ({"hidden_layer_sizes": 5}, [5, (5, 5)]),
        ({"hidden_layer_sizes": ()}, [(), ()]),
        ({"n_candidates": 2}, [(6,), (6,)]),
    ],
    ids=str,
)
def test_networks_are_varied_where_that_is_asked_for(params, shapes):
    params = {"hidden_layer_sizes": (6,), "solver": "adam", "max_iter": 2, **params}
    ensemble = TabularMLPRegressor(n_networks=2, random_state=0, **params).fit(X, Y)
    assert [network.hidden_layer_sizes for network in ensemble.estimators_] == shapes[
        : len(ensemble.estimators_)
    ]


def test_networks_of_a_classifier_are_alike_by_default():
    networks = (
        TabularMLPClassifier(hidden_layer_sizes=(6,), max_iter=2, random_state=0)
        .fit(X, LABELS)
        .estimators_
    )
    assert [network.hidden_layer_sizes for network in networks] == [(6,)] * 4


def test_a_wrong_activation_is_refused_by_name_also_of_varied_networks():
    with pytest.raises(ValueError, match="activation must be one value or one per hidden layer"):
        TabularMLPRegressor(hidden_layer_sizes=(6, 4), activation=()).fit(X, Y)


def test_varied_networks_are_trained_further():
    ensemble = TabularMLPRegressor(
        hidden_layer_sizes=(6,), max_iter=2, early_stopping=False, warm_start=True, random_state=0
    )
    before = outputs(ensemble.fit(X, Y))
    ensemble.fit(X, Y).partial_fit(X, Y)
    assert [network.hidden_layer_sizes for network in ensemble.estimators_] == [(6,)] * 2 + [
        (6, 6)
    ] * 2
    assert np.abs(outputs(ensemble) - before).max() > 0
    with pytest.raises(ValueError, match="layer_units"):
        ensemble.set_params(varied_networks=False).fit(X, Y)


def test_what_single_precision_cannot_tell_apart_is_named():
    hours = np.arange(240) % 24
    X, y = pd.DataFrame({"hour": hours, "when": 2025010100 + hours}), hours >= 6
    classifier = TabularMLPClassifier(max_iter=2)
    with pytest.warns(
        UserWarning, match="Column 'when' holds numbers near 2.02.*='float64'"
    ) as told:
        classifier.fit(X, y)
    assert len(told) == 1
    regressor = TabularMLPRegressor(max_iter=2)
    with pytest.warns(
        UserWarning, match=r"^y holds numbers near 1.7e\+09 .* multiples of 128"
    ) as told:
        regressor.fit(X[["hour"]], 1.7e9 + hours)
    assert len(told) == 1
    classifier.set_params(dtype="float64").fit(X, y)
    # neither a constant nor large numbers that differ are worth a warning
    regressor.fit(X[["hour"]].assign(year=2025, price=1e9 * hours), 1e6 + 1000 * hours)


@pytest.mark.parametrize("embedding", [None, "periodic", "piecewise_linear"])
@pytest.mark.parametrize("known", [np.nan, 5.0])
def test_a_column_without_values_that_differ_says_nothing_later(embedding, known):
    X = pd.DataFrame({"size": np.linspace(0, 1, 200), "empty": known})
    regressor = TabularMLPRegressor(max_iter=3, numeric_embedding=embedding, random_state=0)
    regressor.fit(X, X["size"])
    new = pd.DataFrame({"size": 0.5, "empty": [5.0, 50_000.0, 1e6]})
    predicted = regressor.predict(new)
    np.testing.assert_allclose(predicted, predicted[0], rtol=1e-5)


def test_as_many_classes_as_rows_leave_none_to_hold_out():
    X = pd.DataFrame({"size": np.arange(30.0)})
    with pytest.raises(ValueError, match="can hold out 0 of 30 rows, since each class"):
        TabularMLPClassifier(max_iter=2).fit(X, np.arange(30))


def test_weights_of_held_out_rows_alone_are_refused():
    X = pd.DataFrame({"size": np.arange(30.0)})
    weights = np.zeros(30)
    weights[X["size"].isin([3, 4])] = 1
    params = {"max_iter": 2, "n_networks": 1, "early_stopping": True}
    splitter = PredefinedSplit(np.where(weights, 0, -1))
    regressor = TabularMLPRegressor(**params, validation_splitter=splitter)
    with pytest.raises(ValueError, match="All sample weights of 28 rows to train on"):
        regressor.fit(X, X["size"], sample_weight=weights)


@pytest.mark.parametrize("value", [np.inf, 1e300])
def test_an_infinite_number_is_named_by_its_column(value):
    X = pd.DataFrame({"kind": list("ab") * 20, "ratio": [value, 1.0] * 20})
    with pytest.raises(ValueError, match="Column 'ratio' is the first: write NaN"):
        TabularMLPRegressor(max_iter=2).fit(X, np.arange(40.0))
    X["ratio"] = [10**400, 1] * 20
    with pytest.raises(ValueError, match="Column 'ratio' should hold numbers.* too large"):
        TabularMLPRegressor(max_iter=2).fit(X, np.arange(40.0))
