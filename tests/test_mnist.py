"""The main job on real data: the three networks of the issue, and California housing."""

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LinearRegression
from sklearn.metrics import root_mean_squared_error
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sknn_deep import AutoencoderTransformer, DeepMLPClassifier, DeepMLPRegressor

# One-cycle, so that few epochs go far and end without a warning.
QUICK = {"learning_rate": "one_cycle", "random_state": 0, "device": "cpu"}


def classifier(**params):
    return DeepMLPClassifier((128, 64), **{**QUICK, **params})


def small_code(**params):
    """Return the autoencoder 784-128-32-8-2 and back."""
    return AutoencoderTransformer(2, (128, 32, 8), **{**QUICK, **params})


def large_code(**params):
    """Return the autoencoder 784-128-64-32 and back."""
    return AutoencoderTransformer(32, (128, 64), **{**QUICK, **params})


@pytest.mark.parametrize(
    ("make", "n_parameters"),
    [(classifier, 109_386), (small_code, 210_562), (large_code, 222_384)],
)
def test_networks_have_the_published_number_of_parameters(make, n_parameters, mnist):
    network = make(max_iter=1, batch_size=500).fit(mnist.X_train[:500], mnist.y_train[:500])
    assert sum(parameter.numel() for parameter in network.module_.parameters()) == n_parameters
    if make is classifier:
        arrays = [*network.coefs_, *network.intercepts_]
        assert sum(array.size for array in arrays) == n_parameters


@pytest.mark.slow
def test_classifier_reads_the_digits_after_a_few_large_batches(mnist):
    network = classifier(batch_size=2048, learning_rate_init=0.01, max_iter=8)
    network.fit(mnist.X_train, mnist.y_train)
    assert network.coefs_[0].dtype == np.float32
    assert network.score(mnist.X_test, mnist.y_test) > 0.97


@pytest.mark.slow
def test_the_notebooks_classifier_trains_for_its_hundred_epochs(mnist):
    network = DeepMLPClassifier(
        (128, 64), batch_size=2048, max_iter=100, n_iter_no_change=100, random_state=0
    )
    with pytest.warns(ConvergenceWarning, match=r"Maximum iterations \(100\) reached"):
        network.fit(mnist.X_train[:6_144], mnist.y_train[:6_144])
    assert network.n_iter_ == len(network.loss_curve_) == 100
    assert network.loss_ < 0.02
    assert network.score(mnist.X_test, mnist.y_test) > 0.93


@pytest.fixture(scope="module")
def two_numbers(mnist):
    """Offer an autoencoder with a code of two units, fitted for a few epochs."""
    network = small_code(batch_size=256, learning_rate_init=0.005, max_iter=8)
    return network.fit(mnist.X_train[:25_000])


@pytest.fixture(scope="module")
def two_components(mnist):
    return PCA(2, svd_solver="covariance_eigh", random_state=0).fit(mnist.X_train)


@pytest.mark.slow
def test_code_of_two_numbers_reconstructs_better_than_pca(mnist, two_numbers, two_components):
    compressed = two_components.inverse_transform(two_components.transform(mnist.X_test))
    pca_error = np.square(compressed - mnist.X_test).mean()
    error = two_numbers.reconstruction_error(mnist.X_test).mean()
    assert error < 0.85 * pca_error


@pytest.mark.slow
def test_epochs_do_not_slow_down_as_the_gradients_vanish(two_numbers):
    # numbers below 1e-38 are denormal: the processor takes a hundred times as long for them
    seconds = two_numbers.history_[:, "dur"]
    assert min(seconds[-2:]) < 5 * min(seconds[:3])


@pytest.mark.slow
def test_code_of_two_numbers_tells_more_digits_apart_than_pca(mnist, two_numbers, two_components):
    accuracies = []
    for transformer in (two_components, two_numbers):
        neighbours = KNeighborsClassifier(15)
        neighbours.fit(transformer.transform(mnist.X_train[:10_000]), mnist.y_train[:10_000])
        accuracies.append(
            neighbours.score(transformer.transform(mnist.X_test[:3000]), mnist.y_test[:3000])
        )
    assert accuracies[1] > accuracies[0] + 0.15


@pytest.mark.slow
def test_regressor_predicts_the_housing_prices(housing):
    X, y, train = housing.data, housing.target, housing.train_index
    network = DeepMLPRegressor(
        hidden_layer_sizes=(128, 64),
        activation="silu",
        learning_rate_init=0.01,
        max_iter=30,
        batch_size=256,
        dtype="float32",
        **QUICK,
    )
    errors = [
        root_mean_squared_error(
            y[housing.test_index],
            make_pipeline(StandardScaler(), model)
            .fit(X[train], y[train])
            .predict(X[housing.test_index]),
        )
        for model in (network, LinearRegression())
    ]
    assert errors[0] < 0.56 < 0.7 < errors[1]
