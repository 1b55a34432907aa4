"""The weights of the first layer, the strongest units first."""

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.neural_network import MLPClassifier

from sknn_deep import AutoencoderTransformer, DeepMLPClassifier
from sknn_deep.plotting import WeightsDisplay

pytestmark = pytest.mark.usefixtures("scratch")  # draws without a screen
QUICK = {"max_iter": 6, "learning_rate": "one_cycle", "random_state": 0}


@pytest.mark.parametrize(
    "network",
    [
        DeepMLPClassifier((12,), **QUICK),
        AutoencoderTransformer(2, (12,), **QUICK),
        MLPClassifier((12,), max_iter=3, tol=10, n_iter_no_change=1),
    ],
)
def test_weights_of_the_strongest_units_come_first(network, digits):
    network.fit(digits.X, digits.y)
    display = WeightsDisplay.from_estimator(network, n_units=5)
    first = network.encoder_[0].weight.detach().numpy() if hasattr(network, "encoder_") else None
    weights = network.coefs_[0].T if first is None else first
    norms = np.linalg.norm(weights, axis=1)
    drawn = np.array([image.get_array() for image in display.images_]).reshape(5, 64)
    np.testing.assert_allclose(np.linalg.norm(drawn, axis=1), np.sort(norms)[::-1][:5], rtol=1e-6)
    (low, high) = display.images_[0].get_clim()
    assert low == -high < 0


def test_what_has_no_layers_has_no_weights(digits):
    pca = PCA(2).fit(digits.X)
    with pytest.raises(TypeError, match="PCA has no layers; pass a network"):
        WeightsDisplay.from_estimator(pca)


def test_an_unfitted_network_is_refused():
    with pytest.raises(NotFittedError):
        WeightsDisplay.from_estimator(DeepMLPClassifier())
