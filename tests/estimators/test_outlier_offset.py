"""The autoencoder as an outlier detector."""

import re

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import Callback

from sknn_deep import AutoencoderTransformer
from sknn_deep._estimators.outlier_offset import outlier_offset

pytestmark = pytest.mark.filterwarnings("ignore:lbfgs failed to converge")

QUICK = {"learning_rate": "one_cycle", "max_iter": 20, "random_state": 0, "device": "cpu"}


@pytest.fixture(scope="module")
def rows():
    """Offer rows near a curve, and rows anywhere: the labels are 1 and -1."""
    rng = np.random.RandomState(0)
    t = rng.uniform(-2, 2, 400)
    X = np.stack([t, t**2, np.sin(2 * t), np.cos(t)], axis=1) + rng.normal(0, 0.05, (400, 4))
    X[:40] = rng.uniform(-3, 4, (40, 4))
    return X, np.repeat([-1, 1], [40, 360])


def _fitted(rows, **params):
    return AutoencoderTransformer(
        1, (16,), learning_rate_init=0.02, batch_size=32, **params, **QUICK
    ).fit(rows[0])


def test_methods_agree_and_find_the_outliers(rows):
    X, y = rows
    detector = _fitted(rows)
    np.testing.assert_array_equal(detector.score_samples(X), -detector.reconstruction_error(X))
    scores = detector.decision_function(X)
    np.testing.assert_allclose(scores, detector.score_samples(X) - detector.offset_)
    np.testing.assert_array_equal(detector.predict(X), np.where(scores < 0, -1, 1))
    assert roc_auc_score(y, scores) > 0.9
    is_found = detector.predict(X) == y
    assert is_found[:40].mean() > 0.4
    assert is_found[40:].mean() > 0.9


@pytest.mark.parametrize("contamination", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("params", [{}, {"solver": "lbfgs", "learning_rate": "constant"}])
def test_contamination_is_the_share_of_the_training_rows(contamination, params, rows):
    detector = AutoencoderTransformer(1, (4,), contamination=contamination, **QUICK | params).fit(
        rows[0]
    )
    assert np.sum(detector.predict(rows[0]) == -1) == 400 * contamination


def test_contamination_changes_nothing_else(rows):
    default, other = _fitted(rows), _fitted(rows, contamination=0.3)
    np.testing.assert_array_equal(default.transform(rows[0]), other.transform(rows[0]))
    assert other.offset_ > default.offset_


def test_a_pipeline_transforms_and_detects(rows):
    pipeline = make_pipeline(StandardScaler(), AutoencoderTransformer(1, (8,), **QUICK))
    labels = pipeline.fit_predict(rows[0])
    assert set(labels) == {-1, 1}
    assert pipeline.transform(rows[0]).shape == (400, 1)


def test_partial_fit_leaves_no_offset(rows):
    params = {**QUICK, "learning_rate": "constant"}
    detector = AutoencoderTransformer(1, (8,), **params).partial_fit(rows[0])
    with pytest.raises(NotFittedError, match="partial_fit leaves none. Call fit"):
        detector.predict(rows[0])


class _Fails(Callback):
    def on_epoch_begin(self, net, **data):
        if len(net.history) > 21:
            raise LookupError


def test_an_offset_of_other_weights_is_forgotten(rows):
    detector = _fitted(rows, warm_start=True).set_params(callbacks=[_Fails()])
    with pytest.raises(LookupError):
        detector.fit(rows[0])
    assert len(detector.loss_curve_) == 21
    assert not {"offset_", "code_std_", "explained_variance_", "n_dead_units_"} & {*vars(detector)}


@pytest.mark.parametrize("contamination", ["auto", 0.1, 0.25])
def test_a_weight_is_a_number_of_rows(contamination):
    rng = np.random.RandomState(0)
    errors, weight = rng.chisquare(3, 30), rng.randint(0, 4, 30)
    repeated = np.repeat(errors, weight)
    offset = outlier_offset(repeated, np.ones(len(repeated)), contamination)
    assert outlier_offset(errors, weight, contamination) == pytest.approx(offset, rel=1e-12)


@pytest.mark.parametrize("contamination", ["auto", 0.2])
def test_a_row_of_which_nothing_is_known_is_no_measure(rows, contamination):
    X = rows[0].copy()
    X[5] = np.nan
    detector = AutoencoderTransformer(
        1, (8,), allow_nan=True, contamination=contamination, **QUICK
    ).fit(X)
    assert 0 < np.sum(detector.predict(X) == -1) <= 80
    assert outlier_offset(np.full(3, np.nan), np.ones(3), contamination) == -np.inf


def test_auto_takes_two_in_a_hundred_ordinary_rows_for_outliers():
    errors = np.random.RandomState(0).chisquare(10, 20_000)
    offset = outlier_offset(errors, np.ones(20_000), "auto")
    assert np.mean(-errors < offset) == pytest.approx(0.02, abs=0.005)


@pytest.mark.parametrize("n_rows", [1, 3000])
def test_a_row_whose_reconstruction_overflows_is_an_outlier_without_a_code(n_rows, rows):
    X = rows[0].astype(np.float32)
    detector = AutoencoderTransformer(1, (4,), allow_nan=n_rows == 1, **QUICK).fit(X)
    far = np.repeat(X[:1], n_rows, axis=0)
    far[-1] = [3e38, -3e38, 3e38, 3e38]
    assert detector.predict(far)[-1] == -1
    assert detector.reconstruction_error(far)[-1] == np.inf
    assert np.isfinite(detector.score_samples(far)[:-1]).all()
    message = (
        f"The network's code for row {n_rows - 1} of X is not finite: the numbers of that row go "
        "up to 3e+38, and sums over them are too large for float32. Scale X, for example by S"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        detector.transform(far)
    detector.module_.flat.mul_(10)
    with pytest.raises(ValueError, match="reconstruction for row 0 of X is .* what transform retu"):
        detector.inverse_transform(np.full((n_rows, 1), 3e38, np.float32))
