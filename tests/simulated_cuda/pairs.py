"""Small data, and networks that are trained on them on the CPU and on the device."""

import numpy as np
from conftest import output
from numpy.testing import assert_allclose
from skorch.callbacks import Callback

from sknn_deep import AutoencoderTransformer, DeepMLPClassifier, DeepMLPRegressor

# 5 batches of which the last is short; the third epoch is the first that is only replayed
RNG = np.random.RandomState(0)
X = RNG.uniform(size=(90, 6))
Z = X @ RNG.normal(size=(6, 3)) + 0.1 * RNG.normal(size=(90, 3))
QUICK = {
    "hidden_layer_sizes": (7, 5),
    "max_iter": 5,
    "batch_size": 20,
    "random_state": 0,
    "tol": 0.0,
    "dtype": "float64",
}
TARGETS = {
    "two classes": (Z[:, 0] > Z[:, 0].mean()).astype(int),
    "classes": Z.argmax(axis=1),
    "labels": (Z > Z.mean(axis=0)).astype(int),
    "one number": Z[:, 0],
    "numbers": Z,
    "rows": None,
}


class HearsBatches(Callback):
    """Has every step taken by itself, none of them recorded in a graph."""

    def on_batch_end(self, net, batch, training, **kwargs):
        pass


def new(kind, device="cuda", **params):
    """Return a small network that is to be trained on a device."""
    own = {"hidden_layer_sizes": (7,), "n_components": 3} if kind is AutoencoderTransformer else {}
    return kind(**{**QUICK, **own, **params}, device=device)


def fit_both(kind, X=X, y=None, fit_params=None, **params):
    """Return a network that was trained on the CPU and one that was trained on the device."""
    return [
        new(kind, device, **params).fit(X, y, **(fit_params or {})) for device in ("cpu", "cuda")
    ]


def assert_same(networks, X=X, rtol=1e-6):
    of_cpu, of_device = networks
    assert (of_cpu.device_, of_device.device_) == ("cpu", "cuda:0")
    if of_cpu.solver != "lbfgs":
        assert_allclose(of_device.loss_curve_, of_cpu.loss_curve_, rtol=rtol)
    assert_allclose(of_device.loss_, of_cpu.loss_, rtol=rtol)
    expected = output(of_cpu, X)
    scale = np.abs(expected).max()
    assert_allclose(output(of_device, X), expected, rtol=10 * rtol, atol=rtol * scale)


def target_of(kind):
    """Return targets that suit a kind of network."""
    targets = {DeepMLPClassifier: "classes", DeepMLPRegressor: "numbers"}
    return TARGETS[targets.get(kind, "rows")]
