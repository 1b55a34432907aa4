"""Large memory maps, read piece by piece: the same numbers as from memory, and nothing held."""

import mmap
import weakref

import numpy as np
import pytest
import skorch
from conftest import output
from numpy.testing import assert_array_equal
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import GridSearchCV

from sknn_deep import AutoencoderTransformer, DeepMLPClassifier, DeepMLPRegressor
from sknn_deep._hardware import memory_maps
from sknn_deep._hardware.memory_maps import Mapped, is_large_map
from sknn_deep.callbacks import TrainingCheckpoint
from sknn_deep.model_selection import FusedGridSearchCV

pytestmark = pytest.mark.filterwarnings(
    "ignore:Stochastic Optimizer. Maximum iterations", "ignore:lbfgs failed to converge"
)

QUICK = {"hidden_layer_sizes": (8,), "max_iter": 2, "random_state": 0, "device": "cpu"}
VALUES = np.random.default_rng(0).random((400, 12)).astype(np.float32)
LABELS = (4 * VALUES[:, 0]).astype(int)
WEIGHT = np.linspace(0.5, 1.5, len(VALUES))


@pytest.fixture(autouse=True)
def small_maps_are_large(monkeypatch):
    """Read maps of every size piece by piece, and hand their pages back each time."""
    for name, value in {"_LARGE": 0, "_HELD": 0, "_BYTES_AT_ONCE": 1000}.items():
        monkeypatch.setattr(memory_maps, name, value)


@pytest.fixture
def mapped(tmp_path):
    """Offer what writes an array into a file and maps it."""

    def write(X, mode="r"):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.npy"
        np.save(path, X)
        return np.load(path, mmap_mode=mode)

    return write


@pytest.fixture
def handed_back(monkeypatch):
    """Count how often pages are handed back."""
    calls, hand_back = [], Mapped._hand_back
    monkeypatch.setattr(Mapped, "_hand_back", lambda self: calls.append(self) or hand_back(self))
    return calls


# --------------------------------------------------------------------------------------
# which arrays, and their rows


@pytest.mark.parametrize("mode", ["r", "r+"])
@pytest.mark.parametrize(
    "view", [lambda X: X, lambda X: X[5:300], np.asarray], ids=["map", "rows", "as an array"]
)
def test_maps_and_views_of_their_rows_are_read_piece_by_piece(view, mode, mapped):
    assert is_large_map(view(mapped(VALUES, mode)))


@pytest.mark.parametrize(
    "make",
    [
        lambda mapped: VALUES,
        lambda mapped: VALUES.tolist(),
        lambda mapped: mapped(VALUES)[:, :5],
        lambda mapped: mapped(VALUES)[0],
        lambda mapped: mapped(np.asfortranarray(VALUES)),
        lambda mapped: mapped(VALUES, "c"),
        lambda mapped: mapped(VALUES).copy(),
        lambda mapped: mapped(VALUES.astype(complex)),
    ],
    ids=["array", "list", "columns", "one row", "F order", "private", "copy", "complex"],
)
def test_everything_else_is_not(make, mapped):
    assert not is_large_map(make(mapped))


def test_small_maps_are_arrays_like_others(mapped, monkeypatch):
    X = mapped(VALUES)
    monkeypatch.setattr(memory_maps, "_LARGE", VALUES.nbytes + 1000)
    assert not is_large_map(X)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("stored", ["f4", "f8", ">f4", "u1", "?"])
def test_rows_are_those_of_the_array(stored, dtype, mapped):
    values = (16 * VALUES).astype(stored)
    expected = values.astype(dtype)
    rows = Mapped(mapped(values), dtype)
    assert rows.shape == expected.shape
    assert len(rows) == len(expected)
    assert rows.size == expected.size
    assert rows.nbytes == values.nbytes
    numbers = np.array([399, 0, 7, 7, *range(100, 150)])
    for part in (slice(None), slice(3, 250), slice(10, 300, 7), slice(300, 10, -3)):
        assert_array_equal(rows[part], expected[part])
    assert_array_equal(rows[numbers][:], expected[numbers])
    assert_array_equal(rows[numbers][20:], expected[numbers][20:])
    assert_array_equal(rows[numbers][np.array([1, 2])][:], expected[numbers][[1, 2]])
    out = np.empty((len(numbers), expected.shape[1]), dtype)
    assert_array_equal(rows.take(numbers, out=out), expected[numbers])
    assert_array_equal(np.concatenate(list(rows.pieces())), expected)
    assert_array_equal(np.concatenate(list(rows[numbers].pieces())), expected[numbers])
    assert rows[:5].dtype == dtype


@pytest.mark.parametrize("mode", ["r", "r+"])
def test_handing_pages_back_loses_nothing_that_was_written(mode, mapped):
    X = mapped(VALUES, mode)
    if mode == "r+":
        X[3] = 7.0
    expected = X.copy()
    rows = Mapped(X, np.float32)
    for _ in range(2):
        assert_array_equal(rows[:], expected)


def test_pages_are_handed_back_where_the_system_does_not_say_how_many_there_are(
    mapped, monkeypatch
):
    monkeypatch.setattr(memory_maps, "_HELD", 2**60)
    monkeypatch.setattr(memory_maps, "_resident", lambda: None)
    X = mapped(VALUES)
    rows = Mapped(X, np.float32)
    assert_array_equal(rows[:], VALUES)
    assert memory_maps._resident_before[memory_maps.map_of(X)] == 0


# --------------------------------------------------------------------------------------
# estimators


class Watching(skorch.callbacks.Callback):
    """Look at the losses, and at every batch."""

    def on_batch_end(self, net, batch, **kwargs):
        assert len(batch[0])


def own_scorer(estimator, X, y):
    assert isinstance(X, np.ndarray)
    return -float(np.mean(estimator.predict(X) != y)) + 0 * X.mean()


EITHER = {
    "plain": {},
    "in order": {"shuffle": False},
    "small batches": {"batch_size": 7, "solver": "sgd"},
    "early stopping": {"early_stopping": True},
    "loss": {"early_stopping": True, "scoring": "loss"},
    "double": {"dtype": "float64"},
    "normalised": {"normalization": "batch", "dropout": 0.2},
    "callbacks": {"callbacks": [Watching()]},
    "lbfgs": {"solver": "lbfgs"},
}
SUPERVISED = {
    "own scorer": {"early_stopping": True, "scoring": own_scorer},
    "two networks": {"n_networks": 2, "early_stopping": True},
}
CASES = {
    **{(cls, name): params for cls in (DeepMLPClassifier, DeepMLPRegressor, AutoencoderTransformer)
       for name, params in EITHER.items()},
    **{(cls, name): params for cls in (DeepMLPClassifier, DeepMLPRegressor)
       for name, params in SUPERVISED.items()},
    (DeepMLPClassifier, "scorer"): {"early_stopping": True, "scoring": "accuracy"},
    (DeepMLPClassifier, "probabilities"): {"early_stopping": True, "scoring": "neg_log_loss"},
    (DeepMLPClassifier, "skorch's scoring"): {
        "early_stopping": True, "callbacks": [skorch.callbacks.EpochScoring("accuracy")]},
    (DeepMLPClassifier, "balanced"): {"class_weight": "balanced"},
    (DeepMLPRegressor, "scorer"): {"early_stopping": True, "scoring": "r2"},
    (AutoencoderTransformer, "log loss"): {"loss": "log_loss"},
    (AutoencoderTransformer, "noise"): {"noise": 0.1, "noise_kind": "salt_pepper"},
    (AutoencoderTransformer, "missing values"): {"allow_nan": True},
    (AutoencoderTransformer, "ordered"): {"n_components": 2, "order_code": True},
}  # fmt: skip


@pytest.mark.parametrize(
    ("cls", "params"),
    [(cls, params) for (cls, _), params in CASES.items()],
    ids=[f"{cls.__name__}, {name}" for cls, name in CASES],
)
def test_estimators_learn_what_they_learn_from_memory(
    cls, params, mapped, handed_back, torch_predicts
):
    from_memory, from_file = (cls(**{**QUICK, **params}) for _ in range(2))
    from_memory.fit(VALUES, LABELS, sample_weight=WEIGHT)
    from_file.fit(mapped(VALUES), LABELS, sample_weight=WEIGHT)
    assert handed_back
    for name in ("loss_curve_", "validation_scores_"):
        assert getattr(from_file, name, None) == getattr(from_memory, name, None)
    assert_array_equal(output(from_file, mapped(VALUES)), output(from_memory, VALUES))
    assert from_file.score(mapped(VALUES), LABELS) == from_memory.score(VALUES, LABELS)


@pytest.mark.parametrize("cls", [DeepMLPClassifier, DeepMLPRegressor, AutoencoderTransformer])
def test_a_validation_set_may_be_a_map(cls, mapped):
    networks = [cls(**QUICK) for _ in range(2)]
    for network, make in zip(networks, (lambda X: X, mapped), strict=True):
        held_out = {"X_val": make(VALUES[300:])}
        if cls is not AutoencoderTransformer:
            held_out["y_val"] = LABELS[300:]
        network.fit(make(VALUES[:300]), LABELS[:300], **held_out)
    assert networks[0].validation_scores_ == networks[1].validation_scores_


@pytest.mark.parametrize("cls", [DeepMLPClassifier, DeepMLPRegressor, AutoencoderTransformer])
def test_training_goes_on_with_maps(cls, mapped):
    networks = [cls(**QUICK) for _ in range(2)]
    for network, make in zip(networks, (lambda X: X, mapped), strict=True):
        network.fit(make(VALUES), LABELS)
        network.partial_fit(make(VALUES[::-1].copy()), LABELS[::-1])
        network.set_params(warm_start=True).fit(make(VALUES), LABELS)
    assert_array_equal(*(output(network, VALUES) for network in networks))


@pytest.mark.parametrize("cls", [DeepMLPClassifier, DeepMLPRegressor, AutoencoderTransformer])
def test_a_checkpoint_knows_the_data_of_a_map(cls, mapped, tmp_path, handed_back):
    """It is hashed piece by piece, to the same sum as an array."""
    checkpoint = TrainingCheckpoint(tmp_path / "checkpoint")
    first = cls(**QUICK, callbacks=[checkpoint]).fit(mapped(VALUES), LABELS)
    again = cls(**QUICK, callbacks=[checkpoint]).fit(VALUES, LABELS)
    assert_array_equal(output(again, VALUES), output(first, VALUES))
    changed = VALUES.copy()
    changed[-1, -1] += 1
    with pytest.raises(ValueError, match="X differs in its values"):
        cls(**QUICK, callbacks=[checkpoint]).fit(mapped(changed), LABELS)


@pytest.mark.parametrize("search", [GridSearchCV, FusedGridSearchCV])
def test_searches_take_maps(search, mapped):
    searches = [
        search(DeepMLPClassifier(**QUICK), {"alpha": [1e-4, 1.0]}, cv=2).fit(X, LABELS)
        for X in (VALUES, mapped(VALUES))
    ]
    assert_array_equal(*(found.cv_results_["mean_test_score"] for found in searches))
    assert_array_equal(*(found.predict_proba(VALUES) for found in searches))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("row", [0, 250, 399])
@pytest.mark.parametrize("method", ["fit", "predict"])
def test_what_is_no_number_is_found_in_every_piece(method, row, value, mapped):
    wrong = VALUES.copy()
    wrong[row, -1] = value
    network = DeepMLPClassifier(**QUICK)
    if method == "predict":
        network.fit(VALUES, LABELS)
    arguments = (mapped(wrong), LABELS) if method == "fit" else (mapped(wrong),)
    with pytest.raises(ValueError, match="Input X contains"):
        getattr(network, method)(*arguments)


@pytest.mark.parametrize(
    ("X", "words"),
    [(VALUES[:, :5], "X has 5 features, but DeepMLPClassifier is expecting 12"),
     (VALUES[:0], "Found array with 0 sample")],
    ids=["features", "empty"],
)  # fmt: skip
def test_wrong_shapes_are_refused_in_the_usual_words(X, words, mapped):
    classifier = DeepMLPClassifier(**QUICK).fit(VALUES, LABELS)
    with pytest.raises(ValueError, match=words):
        classifier.predict(mapped(X))


@pytest.mark.parametrize("params", [{}, {"early_stopping": True}, {"callbacks": [Watching()]}])
@pytest.mark.parametrize("cls", [DeepMLPClassifier, DeepMLPRegressor, AutoencoderTransformer])
def test_a_fitted_estimator_does_not_hold_the_map(cls, params, mapped):
    X = mapped(VALUES)
    network = cls(**{**QUICK, **params}).fit(X, LABELS)
    output(network, X)
    reference = weakref.ref(memory_maps.map_of(X))
    assert isinstance(reference(), mmap.mmap)
    del X
    assert reference() is None


def test_metrics_take_the_predictions_for_a_map(mapped):
    classifier = DeepMLPClassifier(**QUICK).fit(mapped(VALUES), LABELS)
    regressor = DeepMLPRegressor(**QUICK).fit(mapped(VALUES), WEIGHT)
    X = mapped(VALUES)
    assert classifier.score(X, LABELS) == accuracy_score(LABELS, classifier.predict(X))
    assert regressor.score(X, WEIGHT) == r2_score(WEIGHT, regressor.predict(X))


@pytest.mark.parametrize("view", [lambda X: X, np.asarray], ids=["map", "as an array"])
def test_predictions_for_a_map_in_the_networks_own_type_hand_its_pages_back(
    view, mapped, handed_back
):
    network = AutoencoderTransformer(2, **QUICK).fit(VALUES)
    rows = view(mapped(VALUES))
    assert rows.dtype == network.module_.flat.numpy().dtype
    handed_back.clear()
    codes = network.transform(rows)
    assert len(handed_back) > 0
    np.testing.assert_allclose(codes, network.transform(VALUES), rtol=1e-5, atol=1e-6)
