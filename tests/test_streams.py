"""Data that are read in chunks: what is learned from them is what arrays would teach."""

import re

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.model_selection import KFold, cross_val_score, train_test_split

from sknn_deep import (
    AutoencoderTransformer,
    DeepMLPClassifier,
    DeepMLPRegressor,
    TabularMLPClassifier,
    TabularMLPRegressor,
)
from sknn_deep.callbacks import TrainingCheckpoint
from sknn_deep.streams import stream_array, stream_chunks, stream_parquet

RNG = np.random.default_rng(0)
X = RNG.normal(size=(600, 4))
Y = X @ [1.0, -2.0, 0.5, 0.0] + 0.1 * RNG.normal(size=600)
LABELS = np.where(Y > 0, "yes", "no")
WEIGHT = RNG.uniform(0.5, 2, 600)
TABLE = pd.DataFrame(X, columns=list("abcd")).assign(
    kind=np.where(X[:, 0] > 0.3, "red", np.where(X[:, 1] > 0, "green", "blue")),
    b=np.where(X[:, 1] > 1.5, np.nan, X[:, 1]),
    target=Y,
    label=LABELS,
    weight=WEIGHT,
)
SMALL = {"hidden_layer_sizes": (8,), "learning_rate": "cosine", "max_iter": 4, "random_state": 0}


def chunks(*arrays, size=90):
    """Return a generator function over parts of some arrays, or frames."""

    def iterate():
        for start in range(0, 600, size):
            parts = [part[start : start + size] for part in arrays]
            yield tuple(parts) if len(parts) > 1 else parts[0]

    return iterate


@pytest.fixture
def folder(tmp_path):
    """Write the table to Parquet files of several row groups; return their folder."""
    for number, part in enumerate(np.array_split(np.arange(600), 3)):
        path = tmp_path / f"{number}.parquet"
        TABLE.iloc[part].to_parquet(path, row_group_size=100, index=False)
    return tmp_path


def weights_of(estimator):
    networks = vars(estimator).get("estimators_", [estimator])
    return np.concatenate([network.module_.flat.detach().numpy() for network in networks])


# --------------------------------------------------------------------------------------
# the same as arrays


@pytest.mark.parametrize(
    ("estimator", "y"),
    [
        (DeepMLPClassifier(**SMALL, class_weight="balanced", early_stopping=True), LABELS),
        (DeepMLPRegressor(**SMALL, target_scaling="standard", n_networks=2), Y),
        (AutoencoderTransformer(2, (5,), max_iter=3, learning_rate="cosine", random_state=0), None),
    ],
    ids=["classifier", "ensemble of regressors", "autoencoder"],
)
def test_a_table_in_one_window_is_learned_as_an_array(estimator, y):
    given = [X] if y is None else [X, y, WEIGHT]
    stream = stream_chunks(chunks(*given), window=600)
    in_memory = weights_of(estimator.fit(*given))
    assert_array_equal(weights_of(estimator.fit(*stream)), in_memory)


@pytest.mark.parametrize(
    "make",
    [
        lambda y: stream_chunks(chunks(X, y, WEIGHT), window=130),
        lambda y: stream_chunks(list(chunks(X, y, WEIGHT)()), window=130),
        lambda y: stream_chunks(chunks(sp.csr_array(X), y, WEIGHT), window=130),
        lambda y: stream_array(X, y, WEIGHT, chunk=77, window=130),
    ],
    ids=["generator function", "list", "sparse", "array"],
)
@pytest.mark.parametrize(
    ("estimator", "y"),
    [
        (DeepMLPClassifier(**SMALL, shuffle=False, scaling="standard"), LABELS),
        (DeepMLPRegressor(**SMALL, shuffle=False, n_networks=2), Y),
    ],
    ids=["classifier", "ensemble of regressors"],
)
def test_without_a_shuffle_windows_make_no_difference(make, estimator, y):
    stream = make(y)
    assert stream.X.shape == X.shape
    assert_array_equal(stream.y, y)
    in_memory = weights_of(estimator.fit(X, y, WEIGHT))
    assert_allclose(weights_of(estimator.fit(*stream)), in_memory, rtol=1e-9)
    assert_allclose(estimator.score(stream.X, y), estimator.score(X, y))


def test_an_autoencoder_learns_scales_limits_and_offset_from_chunks():
    autoencoder = AutoencoderTransformer(
        2, (5,), max_iter=3, learning_rate="cosine", shuffle=False, scaling="robust", random_state=0
    )
    stream = stream_array(X, chunk=50, window=130)
    in_memory = weights_of(autoencoder.fit(X))
    expected = autoencoder.feature_scale_, autoencoder.offset_, autoencoder.code_std_
    assert_allclose(weights_of(autoencoder.fit(stream.X)), in_memory, rtol=1e-9)
    found = autoencoder.feature_scale_, autoencoder.offset_, autoencoder.code_std_
    for one, other in zip(found, expected, strict=True):
        assert_allclose(one, other, rtol=1e-9)
    assert_allclose(autoencoder.transform(stream.X), autoencoder.transform(X))


# --------------------------------------------------------------------------------------
# tables in files


def test_a_folder_of_parquet_files_is_learned_with_its_categories_and_gaps(folder):
    columns = ["a", "b", "kind"]
    stream = stream_parquet(
        folder, target="label", sample_weight="weight", columns=columns, window=120
    )
    assert_array_equal(stream.y, LABELS)
    assert_array_equal(stream.sample_weight, WEIGHT)
    options = {"hidden_layer_sizes": (16,), "n_networks": 2, "max_iter": 4, "random_state": 0}
    classifiers = [TabularMLPClassifier(**options).fit(*stream) for _ in range(2)]
    assert_array_equal(*map(weights_of, classifiers))
    frame = TABLE[columns]
    in_memory = TabularMLPClassifier(**options).fit(frame, LABELS)
    assert classifiers[0]._columns == in_memory._columns
    assert list(classifiers[0].feature_names_in_) == columns
    assert_array_equal(classifiers[0].predict_proba(stream.X), classifiers[0].predict_proba(frame))
    assert classifiers[0].score(frame, LABELS) > 0.75


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer. Maximum iterations")
def test_an_index_of_pandas_is_a_column_like_others(tmp_path):
    index = pd.Index(np.arange(90) % 7, name="id")
    frame = pd.DataFrame({"a": np.linspace(-1, 1, 90), "k": [1, None, 3] * 30}, index=index)
    frame.astype({"k": "Int64"}).to_parquet(tmp_path / "rows.parquet")
    stream = stream_parquet(tmp_path, target="a", window=40)
    network = DeepMLPRegressor(hidden_layer_sizes=(4,), allow_nan=True, max_iter=2)
    network.fit(*stream)
    assert_array_equal(network.feature_names_in_, ["k", "id"])


def test_folders_may_say_what_all_their_rows_have_in_common(tmp_path):
    TABLE.to_parquet(tmp_path, partition_cols=["kind"], index=False)
    stream = stream_parquet(tmp_path, target="target", columns=["a", "kind"], window=200)
    regressor = TabularMLPRegressor(
        hidden_layer_sizes=(8,), n_networks=1, max_iter=2, random_state=0
    ).fit(*stream)
    assert regressor._columns.categories == {1: ["blue", "green", "red"]}
    assert stream.X.shape == (600, 2)


@pytest.mark.parametrize("kind", ["arrow", "csv", "table"])
def test_other_datasets_of_arrow_are_read_too(kind, tmp_path):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import dataset

    source = table = arrow.Table.from_pandas(TABLE[["a", "c", "target"]], preserve_index=False)
    if kind != "table":
        dataset.write_dataset(table, tmp_path, format=kind)
        source = tmp_path
    opened = dataset.dataset(source, format=None if kind == "table" else kind)
    stream = stream_parquet(opened, target=["target", "a"], columns=["c"], window=150)
    assert_allclose(stream.y, TABLE[["target", "a"]])
    assert_allclose(np.concatenate(list(stream.X.chunks())), TABLE[["c"]])


def test_chunks_may_be_frames_of_polars():
    polars = pytest.importorskip("polars")
    frame = polars.from_pandas(TABLE[["a", "b", "kind"]])
    stream = stream_chunks(chunks(frame, LABELS), window=100)
    classifier = TabularMLPClassifier((8,), n_networks=1, max_iter=2, random_state=0).fit(*stream)
    assert_array_equal(classifier.predict_proba(stream.X), classifier.predict_proba(frame))


# --------------------------------------------------------------------------------------
# the course of a training


def test_rows_are_held_out_and_the_best_weights_restored():
    stream = stream_array(X, LABELS, chunk=50, window=100)
    classifier = DeepMLPClassifier(
        (8,), early_stopping=True, learning_rate_init=0.02, max_iter=30, batch_size=20,
        learning_rate="cosine", random_state=0,
    ).fit(*stream)  # fmt: skip
    assert classifier.best_validation_score_ == max(classifier.validation_scores_) > 0.9
    assert classifier.t_ == classifier.n_iter_ * 540
    with_own = classifier.fit(
        stream.X[:500], LABELS[:500], X_val=stream.X[500:], y_val=LABELS[500:]
    )
    scored = with_own.score(X[500:], LABELS[500:])
    assert_allclose(scored, with_own.best_validation_score_)


def test_a_checkpoint_goes_on_where_it_stopped(tmp_path):
    class Source:
        n_passes_left = np.inf

        def __iter__(self):
            self.n_passes_left -= 1
            for number, chunk in enumerate(chunks(X, Y, size=50)()):
                if self.n_passes_left < 0 and number == 4:
                    raise OSError("no disk")
                yield chunk

    source, options = Source(), {"max_iter": 5, "learning_rate": "cosine", "random_state": 0}
    stream = stream_chunks(source, window=100)
    whole = DeepMLPRegressor(hidden_layer_sizes=(8,), **options).fit(*stream)
    kept = TrainingCheckpoint(tmp_path / "kept")
    regressor = DeepMLPRegressor(hidden_layer_sizes=(8,), callbacks=[kept], **options)
    source.n_passes_left = 5  # the numbers, the fingerprint, three epochs
    with pytest.raises(OSError, match="no disk"):
        regressor.fit(*stream)
    assert regressor.n_iter_ == 3
    source.n_passes_left = np.inf
    regressor.fit(*stream)
    assert_array_equal(weights_of(regressor), weights_of(whole))


def test_folds_are_cut_without_reading():
    stream = stream_array(X, LABELS, chunk=50, window=100)
    classifier = DeepMLPClassifier((8,), learning_rate="cosine", max_iter=3, random_state=0)
    scores = cross_val_score(classifier, stream.X, LABELS, cv=KFold(3))
    assert len(scores) == 3
    with pytest.raises(ValueError, match="train_test_split takes shuffle=False"):
        train_test_split(stream.X, LABELS)
    train, test = train_test_split(stream.X, shuffle=False)
    assert (len(train), len(test)) == (450, 150)


# --------------------------------------------------------------------------------------
# what is refused


def test_what_can_be_read_once_only_is_refused():
    with pytest.raises(TypeError, match="can be gone through only once"):
        stream_chunks(chunks(X, Y)())


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([], "yields no chunks"),
        ([(X, Y), X], "Some chunks have targets or weights and others have none"),
        ([(X, Y[:-1])], "600 rows of X and 599 of y"),
        ([(X, Y, Y, Y)], "got a tuple of 4"),
        ([X[:0]], "has no rows"),
        ([X[:, 0]], "must have two dimensions"),
    ],
    ids=["none", "not alike", "lengths", "four", "no rows", "one dimension"],
)
def test_chunks_that_are_none_are_refused(source, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        stream_chunks(source)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (TABLE[["b", "a"]], "all chunks must have the same"),
        (TABLE[["a"]], "all chunks must have the same"),
        (TABLE[["a", "kind"]].rename(columns={"kind": "b"}), "Column 'b' should hold numbers"),
        (TABLE[["a", "b"]].fillna(0).assign(a=np.inf), "infinity"),
        (TABLE[["a", "b"]].assign(a=np.nan), "Input X contains NaN"),
    ],
    ids=["order", "fewer", "texts", "infinite", "missing"],
)
def test_chunks_that_are_not_alike_are_refused_by_the_fit(second, message):
    first = TABLE[["a", "b"]].fillna(0)
    stream = stream_chunks([(first, Y), (second, Y)], window=100)
    with pytest.raises(ValueError, match=re.escape(message)):
        DeepMLPRegressor(max_iter=1).fit(*stream)


def test_lbfgs_needs_all_rows_at_once():
    stream = stream_array(X, Y, window=100)
    with pytest.raises(ValueError, match="Choose a stochastic solver"):
        DeepMLPRegressor(solver="lbfgs").fit(*stream)


@pytest.mark.parametrize("window", [0, 2.5, None])
def test_a_window_is_a_number_of_rows(window):
    with pytest.raises(ValueError, match=f"window={window} must be a number of rows"):
        stream_array(X, window=window)


def test_columns_that_a_folder_does_not_have_are_refused(folder):
    with pytest.raises(ValueError, match="There is no column 'price'"):
        stream_parquet(folder, target="price")
    with pytest.raises(ValueError, match="Column 'b' has .* missing values"):
        stream_parquet(folder, target="b")
    with pytest.raises(FileNotFoundError, match="There is no file or folder .*nowhere.*; pass"):
        stream_parquet("nowhere", target="price")
    with pytest.raises(ValueError, match="shape of two numbers"):
        stream_array([[1.0]])


def test_files_of_another_schema_are_named(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="There is no file in .*empty"):
        stream_parquet(tmp_path / "empty")
    TABLE.drop(columns="a").to_parquet(folder / "3.parquet")
    stream = stream_parquet(folder, target="target", columns=["a", "c"], window=100)
    with pytest.raises(ValueError, match=r"3\.parquet has no column 'a'"):
        DeepMLPRegressor(**SMALL).fit(*stream)


def test_a_function_that_returns_the_same_iterator_is_refused():
    once = iter([(X, Y)])
    with pytest.raises(ValueError, match="600 rows when it was first read, and none now"):
        stream_chunks(lambda: once)


@pytest.mark.parametrize(("n_rows", "n_found"), [(540, 540), (690, 630)], ids=["fewer", "more"])
def test_a_source_that_has_changed_is_an_error(n_rows, n_found):
    passes = []

    def source():
        passes.append(None)
        # in the first epoch, after the passes that learn of the chunks, their names and numbers
        rows = np.arange(n_rows if len(passes) > 3 else 600) % 600
        for start in range(0, len(rows), 90):
            part = rows[start : start + 90]
            yield X[part], Y[part]

    stream, regressor = stream_chunks(source, window=100), DeepMLPRegressor(**SMALL)
    with pytest.raises(ValueError, match=f"600 rows when it was first read, and {n_found} now"):
        regressor.fit(*stream)
    assert len(passes) == 4
    assert not hasattr(regressor, "module_")


@pytest.mark.parametrize(
    ("first", "later", "types"),
    [
        ([None, None], ["red", "blue"], "string and cannot be read as null"),
        ([1, 2], [1.5, 2.5], "double and cannot be read as int64"),
    ],
    ids=["texts", "fractions"],
)
def test_a_file_with_another_type_is_named(first, later, types, tmp_path):
    for number, values in enumerate((first, later)):
        frame = pd.DataFrame({"kind": values, "y": [0.0, 1.0]})
        frame.to_parquet(tmp_path / f"{number}.parquet", index=False)
    stream = stream_parquet(tmp_path, target="y", window=2)
    with pytest.raises(ValueError, match=rf"Column 'kind' of .*1\.parquet is of type .*{types}"):
        TabularMLPRegressor().fit(*stream)
