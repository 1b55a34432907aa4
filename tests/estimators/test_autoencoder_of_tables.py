"""Tables with texts and gaps through the autoencoder."""

import pickle

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import StandardScaler

import sknn_deep
from sknn_deep import AutoencoderTransformer, DeepMLPClassifier
from sknn_deep._engine import encoded_rows
from sknn_deep._training.checkpoint import TrainingCheckpoint
from sknn_deep.model_selection import FusedGridSearchCV
from tests.estimators.test_tables import LABELS, SMALL, Stop, Stopped, X
from tests.sklearn_checks import OUTLIER_CHECKS, SAME_FOR_ALL_VALUES, with_checks

pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer", "ignore:lbfgs failed")

NUMBERS, TEXTS = ["size", "age", "is_new"], ["kind", "place"]
QUICK = {"n_components": 4, "hidden_layer_sizes": (16,), "max_iter": 5, "random_state": 0}
QUICK |= {"allow_nan": True, "device": "cpu"}
SCALED = QUICK | {"scaling": "standard"}
LONG = SCALED | {"n_components": 8, "max_iter": 200, "learning_rate_init": 0.01}


@pytest.fixture(scope="module")
def fitted():
    return AutoencoderTransformer(**LONG).fit(X)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@with_checks([AutoencoderTransformer(**SMALL, scaling="standard")])
def test_scaled_autoencoders_comply(estimator, check):
    check(estimator)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@with_checks(
    [AutoencoderTransformer(**SMALL, scaling="robust")],
    but=SAME_FOR_ALL_VALUES - {*OUTLIER_CHECKS},
)
def test_robustly_scaled_autoencoders_comply(estimator, check):
    check(estimator)


def test_a_table_comes_back_as_a_table(fitted):
    codes = fitted.transform(X)
    table = fitted.inverse_transform(codes)
    assert codes.shape == (len(X), 8)
    assert table.columns.tolist() == X.columns.tolist()
    for name in TEXTS:
        expected = X[name].astype(object)
        is_same = (table[name] == expected) | (table[name].isna() & expected.isna())
        assert is_same.mean() > 0.95
    is_known = X["age"].notna()
    assert np.corrcoef(table["age"][is_known], X["age"][is_known])[0, 1] > 0.9
    assert table["age"].notna().all(), "gaps of numbers are imputed"
    assert fitted.score(X) > 0.9


def test_a_table_of_names_is_refused():
    names = pd.DataFrame({"name": [f"name {i}" for i in range(20)]})
    with pytest.raises(ValueError, match="X has nothing to learn from"):
        AutoencoderTransformer(**QUICK).fit(names)


def test_the_container_is_that_of_set_output_or_of_the_training():
    codes = AutoencoderTransformer(**QUICK).set_output(transform="pandas").fit(X)
    frame = codes.transform(X[7:10])
    assert codes.inverse_transform(frame).index.tolist() == [7, 8, 9]
    polars = AutoencoderTransformer(**QUICK).set_output(transform="polars")
    rows = pl.from_pandas(X)
    back = polars.inverse_transform(polars.fit_transform(rows))
    assert isinstance(back, pl.DataFrame)
    assert back.columns == X.columns.tolist()
    array = AutoencoderTransformer(**QUICK).fit(X.to_numpy(dtype=object))
    table = array.inverse_transform(array.transform(X.to_numpy(dtype=object)))
    assert table.dtype == object
    assert set(table[:, 2]) <= {"a", "b", "c", None}


def test_errors_are_those_of_each_column(fitted):
    each = fitted.reconstruction_error(X, per_feature=True)
    assert each.shape == X.shape
    assert np.isnan(each[:, 1]).tolist() == X["age"].isna().tolist()
    np.testing.assert_allclose(fitted.reconstruction_error(X), np.nanmean(each, axis=1))
    np.testing.assert_array_equal(fitted.score_samples(X), -fitted.reconstruction_error(X))
    errors = fitted.reconstruction_error(X.assign(place="nowhere"), per_feature=True)
    assert np.nanmin(errors) >= 0
    assert (errors[:, 3] >= 0.5).all(), "nobody can reconstruct what training has not seen"
    assert errors[:, [2, 3]].max() <= 1 + 1e-9


def test_the_error_of_a_category_is_at_most_one():
    network = AutoencoderTransformer(**QUICK | {"max_iter": 1}).fit(X[["kind"]][:60]).module_
    rows = torch.eye(4, dtype=torch.double)[[0, 1, 2]]
    guesses = torch.tensor([[1.0, 0, 0, 0], [1, 0, 0, 0], [0.5, 0, 0.5, 0]], dtype=torch.double)
    assert network.squared_errors(guesses, rows).flatten().tolist() == [0, 1, 0.25]
    assert network.squared_errors(guesses, 0 * rows).flatten().tolist() == [1, 1, 0.75]


def test_a_column_counts_as_one_whatever_its_categories(fitted):
    each = fitted.reconstruction_error(X, per_feature=True)
    mean, names = fitted.mean_, fitted.encoded_feature_names_
    assert names.tolist()[:5] == [*NUMBERS, "kind_a", "kind_b"]
    assert mean[names == "kind_None"] == pytest.approx(X["kind"].isna().mean())
    np.testing.assert_allclose(mean[:3], 0, atol=1e-9)
    gini = sum(
        0.5 * (1 - (X[name].value_counts(normalize=True, dropna=False) ** 2).sum())
        for name in TEXTS
    )
    variances = 2 + X["age"].notna().mean() + gini
    assert 1 - np.nansum(each) / len(X) / variances == pytest.approx(fitted.score(X))


def test_scaling_inside_is_scaling_before():
    numbers, weight = X[["size", "is_new"]].astype(float), np.arange(len(X)) % 3
    inside = AutoencoderTransformer(**SCALED).fit(numbers, sample_weight=weight)
    scaler = StandardScaler().fit(numbers, sample_weight=weight)
    before = AutoencoderTransformer(**QUICK, output_activation="identity")
    before.fit(scaler.transform(numbers), sample_weight=weight)
    np.testing.assert_allclose(inside.feature_center_, scaler.mean_)
    codes = inside.transform(numbers)
    np.testing.assert_allclose(codes, before.transform(scaler.transform(numbers)), atol=1e-6)
    expected = scaler.inverse_transform(before.inverse_transform(codes))
    np.testing.assert_allclose(inside.inverse_transform(codes), expected, atol=1e-6)


def test_robust_scaling_is_undone():
    rows = np.random.RandomState(0).standard_cauchy((300, 2)) * 50 + 7
    params = LONG | {"n_components": 2, "hidden_layer_sizes": (), "scaling": "robust"}
    robust = AutoencoderTransformer(**params, order_code=True).fit(rows)
    found = robust.inverse_transform(robust.transform(rows))
    middle = np.abs(rows - 7).max(axis=1) < 100
    np.testing.assert_allclose(found[middle], rows[middle], atol=10)


def test_large_tables_are_encoded_batch_by_batch(monkeypatch):
    whole = AutoencoderTransformer(**SCALED).fit(X)
    monkeypatch.setattr(encoded_rows, "_KEPT_BYTES", 0)
    parts = AutoencoderTransformer(**SCALED).fit(X)
    np.testing.assert_array_equal(parts.transform(X), whole.transform(X))


def test_files_and_pickles_keep_tables(tmp_path):
    estimator = AutoencoderTransformer(**SCALED).fit(X).partial_fit(X)
    sknn_deep.save(estimator, tmp_path / "file.sknn")
    others = [pickle.loads(pickle.dumps(estimator)), sknn_deep.load(tmp_path / "file.sknn")]
    table = estimator.inverse_transform(estimator.transform(X))
    codes = estimator.partial_fit(X).transform(X)
    for other in others:
        pd.testing.assert_frame_equal(other.inverse_transform(other.transform(X)), table)
        np.testing.assert_array_equal(other.partial_fit(X).transform(X), codes)
    estimator.feature_scale_ = -estimator.feature_scale_
    with pytest.raises(ValueError, match="feature_scale_ are not one for each number"):
        sknn_deep.save(estimator, tmp_path / "file.sknn")


def test_a_training_is_resumed_from_its_checkpoint(tmp_path):
    whole = AutoencoderTransformer(**SCALED, noise=0.1).fit(X)

    def fit(stops_at):
        Stop.at = stops_at
        callbacks = [TrainingCheckpoint(tmp_path / "file"), Stop]
        return AutoencoderTransformer(**SCALED, noise=0.1, callbacks=callbacks).fit(X)

    with pytest.raises(Stopped):
        fit(stops_at=3)
    np.testing.assert_array_equal(fit(stops_at=None).transform(X), whole.transform(X))


def test_a_fused_search_is_scikit_learns():
    rows = X.fillna({"age": 30.0})
    estimator = AutoencoderTransformer(**(SCALED | {"allow_nan": False}))
    grid = {"alpha": [0.0, 0.1], "learning_rate_init": [0.01, 0.001]}
    searches = [
        search(clone(estimator), grid, cv=3).fit(rows)
        for search in (GridSearchCV, FusedGridSearchCV)
    ]
    scores = [search.cv_results_["mean_test_score"] for search in searches]
    np.testing.assert_allclose(*scores)
    assert searches[1].fused_.all(), searches[1].not_fused_reasons_


@pytest.mark.parametrize(
    "scoring", [None, lambda estimator, rows, y: estimator.score(rows)], ids=["loss", "callable"]
)
def test_a_validation_set_may_be_a_table(scoring):
    estimator = AutoencoderTransformer(**SCALED, scoring=scoring).fit(X[:90], X_val=X[90:])
    if scoring is not None:
        best = estimator.best_validation_score_
        assert estimator.score(X[90:]) == pytest.approx(best)
    split = AutoencoderTransformer(**SCALED, scoring=scoring, early_stopping=True).fit(X)
    assert len(split.validation_scores_) == split.n_iter_


@pytest.mark.parametrize(
    "params",
    [
        {"variational": True},
        {"contractive": 0.01},
        {"sparsity": 0.01, "tied_weights": True},
        {"order_code": True},
        {"noise": 0.2, "noise_kind": "masking"},
        {"noise": 0.2, "noise_kind": "salt_pepper"},
        {"loss": "huber", "loss_weights": [1, 2, 3, 4, 5]},
        {"solver": "lbfgs"},
        {"dtype": "float32", "batch_size": 7},
    ],
    ids=str,
)
def test_variants_take_tables(params):
    estimator = AutoencoderTransformer(**SCALED | params).fit(X)
    assert np.isfinite(estimator.transform(X)).all()
    if params.get("variational"):
        assert estimator.sample(5, random_state=0).shape == (5, 5)


def test_a_code_of_one_column_of_categories_alone():
    rows = X[["kind"]]
    estimator = AutoencoderTransformer(**LONG | {"n_components": 2, "allow_nan": False}).fit(rows)
    table = estimator.inverse_transform(estimator.transform(rows))
    assert (table["kind"].fillna("-") == rows["kind"].fillna("-")).all()


def test_what_does_not_go_with_tables_is_refused():
    for params, what in (
        ({"loss": "log_loss"}, "loss='log_loss' cannot be combined with categories"),
        (
            {"output_activation": "tanh"},
            "output_activation='tanh' cannot be combined with categories",
        ),
        ({"loss_weights": [1, 1]}, "X has 5 features"),
        ({"allow_nan": False}, "allow_nan=True"),
        ({"categorical_features": None}, "could not convert string to float"),
    ):
        with pytest.raises(ValueError, match=what):
            AutoencoderTransformer(**QUICK | params).fit(X)
    warm = AutoencoderTransformer(**SCALED, warm_start=True).fit(X)
    with pytest.raises(ValueError, match="scaling standard -> robust"):
        warm.set_params(scaling="robust").fit(X)
    numbers = X[["size", "is_new"]].astype(float)
    source = AutoencoderTransformer(**SCALED).fit(numbers)
    with pytest.raises(ValueError, match="has encoded its table"):
        DeepMLPClassifier((16,), init_from=source).fit(numbers, LABELS)
