"""Data, small networks and comparisons for tests of processes that train one network."""

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

RNG = np.random.default_rng(0)
# with batches of 33 rows the last has a single row, so that one of two ranks has none
X = RNG.normal(size=(133, 5))
Y = X @ [1.0, -2.0, 0.5, 0.0, 1.0] + 0.1 * RNG.normal(size=133)
LABELS = np.array(["few", "none", "some"])[(Y > 0).astype(int) + (Y > 2)]
WEIGHT = RNG.uniform(0, 2, 133).round(1)
SMALL = {
    "hidden_layer_sizes": (7, 6),
    "batch_size": 33,
    "max_iter": 4,
    "learning_rate_init": 0.01,
    "random_state": 0,
    "dtype": "float64",
}
SMALL_CODE = {**SMALL, "hidden_layer_sizes": (6,), "n_components": 2}
_NUMBERS = (
    "loss_curve_", "validation_scores_", "validation_loss_curve_", "best_iter_", "t_", "n_iter_",
    "code_std_", "offset_", "explained_variance_", "temperature_", "mean_", "feature_scale_",
)  # fmt: skip


def learned(estimator):
    """Return all numbers that a fit leaves behind, by name."""
    found = {}
    for number, network in enumerate(vars(estimator).get("estimators_", [estimator])):
        found |= {f"{name} {number}": vars(network).get(name) for name in _NUMBERS}
        for place, tensor in enumerate(network.module_.snapshot()):
            found[f"tensor {number} {place}"] = tensor.numpy()
    return {name: value for name, value in found.items() if value is not None}


def assert_same(one, other):
    """Compare what two fits have learned."""
    # the gradient of a bias before batch normalisation is rounding alone, which Adam magnifies
    of_weights = 1e-8 if one.normalization == "batch" else 1e-10
    assert_array_equal(getattr(other, "classes_", None), getattr(one, "classes_", None))
    one, other = learned(one), learned(other)
    assert one.keys() == other.keys()
    for name, value in one.items():
        allowed = of_weights if name.startswith("tensor") else 1e-10
        assert_allclose(other[name], value, rtol=1e-10, atol=allowed, err_msg=name)
