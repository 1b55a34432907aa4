"""Dates, lists and the like in X are refused by name, and dates never trained on as integers."""

import datetime

import numpy as np
import pandas as pd
import polars as pl
import pytest

from sknn_deep import AutoencoderTransformer, DeepMLPClassifier, DeepMLPRegressor

QUICK = {"hidden_layer_sizes": (3,), "max_iter": 2, "random_state": 0, "device": "cpu"}
NUMBERS = np.random.RandomState(0).uniform(size=20)
TARGET = (NUMBERS > 0.5).astype(int)
DAYS = np.datetime64("2020-01-01", "ns") + np.arange(20).astype("m8[D]")
SPANS = DAYS - DAYS[0]
NAT = np.where(np.arange(20) == 3, np.datetime64("NaT"), DAYS)


def _frame(days):
    return pd.DataFrame({"size": NUMBERS, "when": days})


def _objects(values):
    table = np.empty((20, 2), dtype=object)
    table[:, 0], table[:, 1] = NUMBERS, list(values)
    return table


DATES = {
    "array": (np.column_stack([DAYS, DAYS]), r"datetime64\[ns\] in every column"),
    "array with NaT": (np.column_stack([NAT, NAT]), r"datetime64\[ns\] in every column"),
    "array of durations": (np.column_stack([SPANS, SPANS]), r"timedelta64\[ns\] in every column"),
    "frame": (_frame(DAYS), r"datetime64\[ns\] in column 'when'"),
    "frame of dates only": (_frame(DAYS)[["when", "when"]], "datetime64.* in column 'when'"),
    "frame with NaT": (_frame(NAT), r"datetime64\[ns\] in column 'when'"),
    "durations": (_frame(SPANS), r"timedelta64\[ns\] in column 'when'"),
    "time zone": (
        _frame(pd.DatetimeIndex(DAYS).tz_localize("UTC")),
        r"datetime64\[ns, UTC\] in column 'when'",
    ),
    "periods": (_frame(pd.period_range("2020", periods=20, freq="D")), "period.* in column 'when'"),
    "categories": (
        _frame(pd.Categorical(DAYS)),
        r"datetime64\[ns\] in column 'when'",
    ),
    "polars": (
        pl.DataFrame({"size": NUMBERS, "when": DAYS}),
        "Datetime.* in column 'when'",
    ),
    "durations of polars": (pl.DataFrame({"a": SPANS, "b": SPANS}), "Duration.* in column 'a'"),
    "objects of NumPy": (_objects(DAYS), r"np.datetime64\('2020-01-01T.* in column 1, row 0"),
    "objects of pandas": (_objects(pd.DatetimeIndex(DAYS)), "Timestamp.* in column 1, row 0"),
    "objects of Python": (
        _objects([1.0] * 19 + [datetime.date(2020, 1, 2)]),
        r"datetime.date\(2020, 1, 2\) in column 1, row 19",
    ),
    "NaT among numbers": (_objects([1.0, 2.0, pd.NaT] + [0.0] * 17), "NaT in column 1, row 2"),
    "object columns": (
        _frame(DAYS).astype(object).rename(columns={"when": "size"}),
        "Timestamp.* in column 'size', row 0",
    ),
    "lists": ([[a, b] for a, b in zip(NUMBERS, DAYS, strict=True)], "datetime64.* in column 1"),
}
ESTIMATORS = {
    "classifier": DeepMLPClassifier(**QUICK),
    "regressor": DeepMLPRegressor(**QUICK),
    "autoencoder": AutoencoderTransformer(1, **QUICK, allow_nan=True),
}


@pytest.fixture(params=ESTIMATORS)
def estimator(request):
    return ESTIMATORS[request.param]


@pytest.mark.parametrize("kind", DATES)
def test_dates_are_refused_by_name_in_fits(estimator, kind):
    X, message = DATES[kind]
    with pytest.raises(ValueError, match=message + ".*is no number.*the days since a date"):
        estimator.fit(X, TARGET)


@pytest.mark.parametrize("kind", DATES)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_dates_are_refused_by_name_where_numbers_were_learned_from(kind):
    X, message = DATES[kind]
    fitted = DeepMLPRegressor(**QUICK).fit(np.column_stack([NUMBERS, NUMBERS]), NUMBERS)
    codes = AutoencoderTransformer(2, **QUICK).fit(np.column_stack([NUMBERS, NUMBERS]))
    decode = codes.inverse_transform
    for method in (fitted.predict, codes.transform, decode, codes.partial_fit):
        with pytest.raises(ValueError, match=message):
            method(X)


NO_NUMBERS = {
    "lists": (pd.DataFrame({"a": [[1]] * 20}), TypeError, r"\[1\] in column 'a', row 0"),
    "tuples": (_objects([(1, 2)] * 20), TypeError, r"not 'tuple': X holds \(1, 2\) in column 1"),
    "dicts": (_objects([1.0, {"b": 2}] * 10), TypeError, r"\{'b': 2\} in column 1, row 1"),
    "arrays": (_objects([np.zeros(2)] * 20), TypeError, r"not 'ndarray': X holds array\(\[0"),
    "bytes": (
        pd.DataFrame({"a": [b"x"] * 20}),
        TypeError,
        "not 'bytes': X holds b'x' in column 'a'",
    ),
    "intervals": (
        pd.DataFrame({"a": pd.interval_range(0, 20)}),
        ValueError,
        r"interval\[int64, right\] in column 'a'",
    ),
    "lists of polars": (pl.DataFrame({"a": [[1, 2]] * 20}), ValueError, r"List\(Int64\) in column"),
    "records of polars": (pl.DataFrame({"a": [{"b": 1}] * 20}), ValueError, "Struct.* in column"),
}


@pytest.mark.parametrize("kind", NO_NUMBERS)
def test_lists_and_the_like_are_refused_by_name(estimator, kind):
    X, error, message = NO_NUMBERS[kind]
    with pytest.raises(error, match=message + ".*is no number. Leave the column out, or write its"):
        estimator.fit(X, TARGET)


def test_a_lazy_frame_is_to_be_collected(estimator):
    with pytest.raises(TypeError, match=r"LazyFrame, which has no rows yet; pass X.collect\(\)"):
        estimator.fit(pl.DataFrame({"a": NUMBERS}).lazy(), TARGET)


def test_na_among_objects_is_named_where_gaps_are_not_taken():
    X = _frame(NUMBERS).astype(object)
    X.iloc[4, 1] = pd.NA
    with pytest.raises(ValueError, match="pd.NA in column 'when', row 4, .* or set allow_nan=True"):
        DeepMLPRegressor(**QUICK).fit(X, TARGET)


@pytest.mark.parametrize("container", [pd.DataFrame, np.asarray])
@pytest.mark.parametrize("missing", [pd.NA, None])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_na_among_objects_is_a_gap_where_gaps_are_taken(container, missing):
    expected = _frame(np.where(np.arange(20) % 5 == 4, np.nan, NUMBERS))
    objects = expected.astype(object)
    objects = container(objects.where(objects.notna(), missing))
    for kind in (DeepMLPRegressor, DeepMLPClassifier):
        estimator = kind(**QUICK, allow_nan=True).fit(container(expected), TARGET)
        twin = kind(**QUICK, allow_nan=True).fit(objects, TARGET)
        np.testing.assert_array_equal(estimator.predict(container(expected)), twin.predict(objects))
    codes = AutoencoderTransformer(1, **QUICK, allow_nan=True)
    np.testing.assert_array_equal(
        codes.fit_transform(container(expected)), codes.fit_transform(objects)
    )


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_na_is_a_category_where_the_column_is_said_to_hold_some():
    X = pd.DataFrame({"kind": [1, 2, pd.NA, 3] * 5, "size": NUMBERS}).astype({"kind": object})
    estimator = DeepMLPRegressor(**QUICK, categorical_features=["kind"]).fit(X, TARGET)
    assert estimator.is_categorical_.tolist() == [True, False]
    assert list(estimator.get_feature_names_out())[-1].startswith("kind_")
    assert np.isfinite(estimator.predict(X)).all()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_numbers_among_objects_are_still_taken(estimator):
    table = _objects(NUMBERS)
    expected = np.column_stack([NUMBERS, NUMBERS])
    method = "transform" if hasattr(estimator, "transform") else "predict"
    learned = getattr(estimator.fit(table, TARGET), method)(table)
    np.testing.assert_array_equal(
        learned, getattr(estimator.fit(expected, TARGET), method)(expected)
    )


@pytest.mark.parametrize("unit", ["datetime64[ns]", "timedelta64[s]"])
@pytest.mark.parametrize("container", [np.asarray, list, pd.Series])
def test_dates_and_durations_are_no_sample_weights(container, unit):
    X, y = np.random.RandomState(0).normal(size=(20, 2)), np.arange(20) % 2
    weights = container(np.arange(20).astype(unit))
    for kind in (DeepMLPClassifier, DeepMLPRegressor):
        with pytest.raises(ValueError, match="sample_weight holds .*, but weights are numbers"):
            kind().fit(X, y, sample_weight=weights)


MISSING = {
    "list": [None, "b", "a", "b"],
    "objects": np.array(["a", None, "a", "b"], dtype=object),
    "texts": pd.Series(["a", "b", pd.NA, "b"], dtype="string"),
    "categories": pd.Series(["a", "b", "a", None], dtype="category"),
}


@pytest.mark.parametrize("kind", MISSING)
def test_a_missing_label_is_named_by_its_row(kind):
    y = MISSING[kind]
    row = int(np.flatnonzero(pd.isna(pd.Series(list(y))))[0])
    with pytest.raises(ValueError, match=f"y contains NaN: there is no target in row {row}, and"):
        DeepMLPClassifier(**QUICK).fit(np.eye(4), y)


@pytest.mark.parametrize("y", [[None, 1.0, 2.0], pd.Series([1.0, pd.NA, 2.0], dtype="Float64")])
def test_a_missing_number_is_no_divergence(y):
    regressor = DeepMLPRegressor(**QUICK)
    with pytest.raises(ValueError, match="there is no target in row [01], and in 1 in all. Leave"):
        regressor.fit(np.eye(3), y)
    with pytest.raises(ValueError, match="there is no target in row"):
        regressor.fit(np.eye(3), [0.0, 1.0, 2.0], X_val=np.eye(3), y_val=y)
