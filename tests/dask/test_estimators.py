"""The estimators on Dask's collections learn what those without Dask do on all rows."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

da = pytest.importorskip("dask.array")
dd = pytest.importorskip("dask.dataframe")

from sknn_deep import dask as on_dask  # noqa: E402

RNG = np.random.default_rng(0)
X = RNG.normal(size=(133, 5))
Y = X @ [1.0, -2.0, 0.5, 0.0, 1.0] + 0.1 * RNG.normal(size=133)
LABELS = np.array(["few", "none", "some"])[(Y > 0).astype(int) + (Y > 2)]
WEIGHT = RNG.uniform(0, 2, 133).round(1)
# a partition without rows, and one that has most of them
LENGTHS = (70, 0, 13, 30, 20)
SMALL = {
    "hidden_layer_sizes": (7, 6),
    "batch_size": 33,
    "max_iter": 4,
    "learning_rate_init": 0.01,
    "random_state": 0,
    "dtype": "float64",
}
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def classifier(**options):
    return on_dask.DaskDeepMLPClassifier(**SMALL | options)


def regressor(**options):
    return on_dask.DaskDeepMLPRegressor(**SMALL | options)


def autoencoder(**options):
    own = {**SMALL, "hidden_layer_sizes": (6,), "n_components": 2}
    return on_dask.DaskAutoencoderTransformer(**own | options)


def divided(array, lengths=LENGTHS):
    """Return an array of Dask in partitions of these lengths."""
    array = np.asarray(array)
    return da.from_array(array, chunks=(lengths, *array.shape[1:]))


def learned(estimator):
    """Return all numbers that a fit leaves behind, by name."""
    networks = vars(estimator).get("estimators_", [estimator])
    found = {}
    for number, network in enumerate(networks):
        names = (
            "loss_curve_", "validation_scores_", "validation_loss_curve_", "best_iter_", "t_",
            "n_iter_", "code_std_", "offset_", "explained_variance_", "temperature_", "mean_",
            "feature_scale_",
        )  # fmt: skip
        found |= {
            f"{name} {number}": vars(network)[name] for name in names if name in vars(network)
        }
        for place, tensor in enumerate(network.module_.snapshot()):
            found[f"tensor {number} {place}"] = tensor.numpy()
    return {name: value for name, value in found.items() if value is not None}


def assert_same(one, other, of_weights=1e-10):
    one, other = learned(one), learned(other)
    assert one.keys() == other.keys()
    for name, value in one.items():
        allowed = of_weights if name.startswith("tensor") else 1e-10
        assert_allclose(other[name], value, rtol=1e-10, atol=allowed, err_msg=name)


CASES = {
    "weights, class weights, adam": (
        classifier(class_weight="balanced"), {"y": LABELS, "sample_weight": WEIGHT},
    ),
    "muon, batch normalisation, dropout": (
        classifier(solver="muon", normalization="batch", dropout=0.3, learning_rate="one_cycle"),
        {"y": LABELS},
    ),
    "early stopping, stratified, averages, calibrated, robust": (
        classifier(solver="adamw", normalization="layer", early_stopping=True, ema_decay=0.9,
                   validation_splitter="stratified", calibration="temperature", scaling="robust"),
        {"y": LABELS},
    ),
    "scorer, target scaling": (
        regressor(scoring="r2", early_stopping=True, target_scaling="standard"),
        {"y": Y, "sample_weight": WEIGHT},
    ),
    "l-bfgs": (regressor(solver="lbfgs"), {"y": Y, "sample_weight": WEIGHT}),
    "quantiles, ensemble": (
        regressor(loss="quantile", quantiles=[0.1, 0.5, 0.9], n_networks=2, early_stopping=True),
        {"y": Y},
    ),
    "several outputs": (regressor(), {"y": np.stack([Y, -Y], axis=1)}),
    "tabular, bins": (
        on_dask.DaskTabularMLPRegressor(**SMALL, n_networks=2), {"y": Y},
    ),
    "autoencoder, noise, scaled, ordered": (
        autoencoder(noise=0.2, noise_kind="salt_pepper", order_code=True, scaling="standard"), {},
    ),
    "autoencoder, outliers, weights": (
        autoencoder(noise=0.2, contamination=0.1, sparsity=0.01), {"sample_weight": WEIGHT},
    ),
    "variational": (autoencoder(variational=True, contractive=0.1, dropout=0.1), {}),
}  # fmt: skip


@pytest.mark.parametrize(("estimator", "given"), list(CASES.values()), ids=CASES)
def test_workers_learn_what_one_process_does(client, estimator, given):
    one = estimator.to_local().fit(X, **given)
    two = estimator.fit(divided(X), **{name: divided(rows) for name, rows in given.items()})
    # the gradient of a bias before batch normalisation is rounding alone, which Adam magnifies
    assert_same(one, two, of_weights=1e-8 if estimator.normalization == "batch" else 1e-10)
