"""Reconstructions stand below the originals, with their errors."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from sklearn.decomposition import PCA

from sknn_deep import AutoencoderTransformer
from sknn_deep.plotting import ReconstructionDisplay

pytestmark = pytest.mark.usefixtures("scratch")  # draws without a screen
QUICK = {"max_iter": 6, "learning_rate": "one_cycle", "random_state": 0}


@pytest.fixture(scope="module")
def autoencoder(digits):
    return AutoencoderTransformer(2, (12,), **QUICK).fit(digits.X)


def _texts(ax):
    return [text.get_text() for text in ax.texts]


@pytest.mark.parametrize("container", [np.asarray, pd.DataFrame, sp.csr_array])
def test_reconstructions_stand_below_the_originals(container, autoencoder, digits):
    X = container(digits.X)
    display = ReconstructionDisplay.from_estimator(autoencoder, X, image_shape=(8, 8), n_images=5)
    images = np.array([image.get_array() for image in display.images_])
    reconstructions = autoencoder.inverse_transform(autoencoder.transform(digits.X[:5]))
    np.testing.assert_allclose(images[:5].reshape(5, 64), digits.X[:5])
    np.testing.assert_allclose(images[5:].reshape(5, 64), reconstructions)
    tops = [image.get_extent()[3] for image in display.images_]
    assert max(tops[:5]) < min(tops[5:])  # the axis counts downwards


def test_errors_below_the_images_are_the_reconstruction_errors(autoencoder, digits):
    display = ReconstructionDisplay.from_estimator(autoencoder, digits.X, n_images=3)
    errors = autoencoder.reconstruction_error(digits.X[:3])
    np.testing.assert_allclose(display.errors_["reconstruction"], errors)
    assert _texts(display.ax_) == [f"{error:.2g}" for error in errors]
    assert _texts(display.plot(show_errors=False).ax_) == []


def test_several_methods_are_compared_row_by_row(autoencoder, digits):
    pca = PCA(2).fit(digits.X)
    X = digits.X[:4]
    rows = {
        name: reduction.inverse_transform(reduction.transform(X))
        for name, reduction in {"autoencoder": autoencoder, "PCA": pca}.items()
    }
    display = ReconstructionDisplay.from_reconstructions(X, rows)
    labels = [label.get_text() for label in display.ax_.get_yticklabels()]
    assert labels == ["original", "autoencoder", "PCA"]
    assert len(display.images_) == 12
    assert list(display.errors_) == ["autoencoder", "PCA"]


def test_images_need_not_be_square(digits):
    X = digits.X[:2, :40]
    display = ReconstructionDisplay.from_reconstructions(X, {"same": X}, image_shape=(4, 10))
    assert display.images_[0].get_array().shape == (4, 10)


def test_a_reconstruction_of_other_length_is_refused(digits):
    with pytest.raises(ValueError, match="'short' has 2 images for 5 originals"):
        ReconstructionDisplay.from_reconstructions(digits.X[:5], {"short": digits.X[:2]})


def test_rows_of_a_table_with_categories_are_refused():
    table = pd.DataFrame({name: range(10) for name in "abc"} | {"kind": ["x", "y"] * 5})
    message = "X holds values that are no numbers: could not convert string to float: 'x'. To see"
    with pytest.raises(ValueError, match=message):
        ReconstructionDisplay.from_reconstructions(table, {"itself": table})
