"""What a warm start and ``partial_fit`` may change, and what they keep."""

import numpy as np
import pytest

from sknn_deep import AutoencoderTransformer, DeepMLPClassifier, DeepMLPRegressor

RNG = np.random.RandomState(0)
X = RNG.uniform(size=(60, 4))
Y = (X[:, 0] > 0.5).astype(int)
QUICK = {"hidden_layer_sizes": (5, 3), "max_iter": 3, "random_state": 0, "device": "cpu"}
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
KINDS = {
    "classifier": DeepMLPClassifier(**QUICK),
    "regressor": DeepMLPRegressor(**QUICK),
    "ensemble": DeepMLPRegressor(**QUICK, n_networks=2),
    "autoencoder": AutoencoderTransformer(2, **QUICK),
}


def _output(estimator, X):
    return (estimator.transform if hasattr(estimator, "transform") else estimator.predict)(X)


@pytest.fixture(params=KINDS)
def fitted(request):
    """Return a function that gives an estimator fitted with some parameters."""

    def make(**params):
        return type(KINDS[request.param])(
            **KINDS[request.param].get_params() | {"warm_start": True} | params
        ).fit(X, Y)

    return make


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_a_type_by_another_name_goes_on_as_if_nothing_had_changed(fitted, method):
    left_alone, renamed = fitted(dtype="auto"), fitted(dtype="auto")
    getattr(left_alone, method)(X, Y)
    getattr(renamed.set_params(dtype="float64"), method)(X, Y)
    np.testing.assert_array_equal(_output(left_alone, X), _output(renamed, X))


def test_another_type_is_refused(fitted):
    estimator = fitted(dtype="auto")
    with pytest.raises(ValueError, match=r"dtype torch.float64 -> torch.float32.*warm_start=False"):
        estimator.set_params(dtype="float32").fit(X, Y)


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_dropout_may_change_and_weights_and_moments_stay(fitted, method):
    # the whole set is one batch, and a rate of 1e-12 drops nothing: only the network is another
    left_alone, changed = fitted(batch_size=60), fitted(batch_size=60)
    getattr(left_alone, method)(X, Y)
    getattr(changed.set_params(dropout=1e-12), method)(X, Y)
    np.testing.assert_allclose(_output(changed, X), _output(left_alone, X), rtol=1e-8)
    network = getattr(changed, "estimators_", [changed])[0].module_
    assert network.is_random
    getattr(changed.set_params(dropout=0.0), method)(X, Y)
    getattr(left_alone, method)(X, Y)
    np.testing.assert_allclose(_output(changed, X), _output(left_alone, X), rtol=1e-8)


def test_noise_may_change():
    autoencoder = AutoencoderTransformer(2, **QUICK, warm_start=True).fit(X)
    codes = autoencoder.transform(X)
    autoencoder.set_params(noise=0.3, noise_kind="masking", learning_rate_init=1e-12).fit(X)
    np.testing.assert_allclose(autoencoder.transform(X), codes, atol=1e-8)
    assert autoencoder.module_.config["noise"] == ("masking", 0.3)


def test_frozen_weights_stay_frozen_when_dropout_changes():
    regressor = DeepMLPRegressor(**QUICK, warm_start=True).fit(X, Y)
    regressor.module_.linear_layers()[0].weight.requires_grad_(False)
    frozen = regressor.coefs_[0].copy()
    regressor.set_params(dropout=0.5).fit(X, Y)
    np.testing.assert_array_equal(regressor.coefs_[0], frozen)
    assert not regressor.module_.linear_layers()[0].weight.requires_grad


def test_running_statistics_stay_when_dropout_changes():
    regressor = DeepMLPRegressor(**QUICK, normalization="batch", warm_start=True).fit(X, Y)
    before = {name: tensor.clone() for name, tensor in regressor.module_.named_buffers()}
    assert before
    other = regressor.module_.reconfigured({**regressor.module_.config, "dropout": (0.5, 0.5)})
    for own, theirs in zip(before.values(), dict(other.named_buffers()).values(), strict=True):
        assert own.equal(theirs)
    np.testing.assert_array_equal(
        other(other.flat.new_tensor(X)).detach().numpy()[:, 0], regressor.predict(X)
    )


def test_a_call_that_fails_after_dropout_changed_leaves_what_there_was(fitted):
    estimator = fitted()
    expected = _output(estimator, X)
    with pytest.raises(ValueError, match="non-finite"), np.errstate(all="ignore"):
        estimator.set_params(dropout=0.5, learning_rate_init=1e300).fit(X * 1e150, Y)
    np.testing.assert_array_equal(_output(estimator, X), expected)
