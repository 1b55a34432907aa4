"""The variants of the autoencoder do what they are for, and work with all that a fit can be."""

import pickle
import re
import warnings
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import TSNE
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from skorch.callbacks import Callback

from sknn_deep import AutoencoderTransformer, DeepMLPClassifier, DeepMLPRegressor, summary
from sknn_deep._estimators import code_description
from sknn_deep._estimators.fused import Job, fit_jobs
from sknn_deep.model_selection import FusedGridSearchCV

QUICK = {
    "n_components": 4,
    "hidden_layer_sizes": (24,),
    "learning_rate": "one_cycle",
    "learning_rate_init": 0.01,
    "batch_size": 64,
    "max_iter": 15,
    "random_state": 0,
    "device": "cpu",
}
QUICK_START = {
    name: value
    for name, value in QUICK.items()
    if name not in ("n_components", "hidden_layer_sizes")
} | {"batch_size": 20}
VARIANTS = {
    "plain": {},
    "noise": {"noise": 0.2},
    "masking": {"noise": 0.3, "noise_kind": "masking"},
    "salt_pepper": {"noise": 0.2, "noise_kind": "salt_pepper"},
    "sparsity": {"sparsity": 0.01},
    "tied_weights": {"tied_weights": True},
    "huber": {"loss": "huber", "huber_delta": 0.2},
    "log_loss": {"loss": "log_loss"},
    "cosine": {"loss": "cosine"},
    "loss_weights": {"loss_weights": np.linspace(0, 1, 64)},
    "allow_nan": {"allow_nan": True},
    "order_code": {"order_code": True},
    "contractive": {"contractive": 0.001},
    "variational": {"variational": True, "beta": 0.05},
    "many": {
        "variational": True,
        "beta": 0.05,
        "contractive": 0.001,
        "tied_weights": True,
        "noise": 0.1,
        "sparsity": 0.001,
        "allow_nan": True,
        "loss": "log_loss",
        "normalization": "layer",
        "dropout": 0.1,
    },
}
BRIEF = {"max_iter": 3}  # for what holds however long a network is trained
RANDOM = ("noise", "masking", "salt_pepper", "contractive", "variational", "many")
every_variant = pytest.mark.parametrize("name", VARIANTS)


def _autoencoder(**params):
    return AutoencoderTransformer(**{**QUICK, **params})


def _with_holes(X, share=0.2, seed=0):
    X = X.copy()
    X[np.random.default_rng(seed).random(X.shape) < share] = np.nan
    return X


@pytest.fixture(scope="module")
def images():
    """Offer 600 images of digits, pixels in [0, 1]."""
    return load_digits().data[:600] / 16


@pytest.fixture(scope="module")
def some(images):
    """Offer 200 of the images."""
    return images[:200]


@pytest.fixture(scope="module")
def fitted(some):
    """Offer a briefly trained network of each variant, fitted when it is first asked for."""
    return cache(lambda name: _autoencoder(**VARIANTS[name], **BRIEF).fit(some))


# every variant with all that a fit can be


@pytest.mark.slow
@every_variant
def test_variant_learns_to_reconstruct(name, images):
    network = _autoencoder(**VARIANTS[name], max_iter=25).fit(images)
    if name == "cosine":  # of which only the direction counts
        assert network.loss_curve_[-1] < 0.5 * network.loss_curve_[0]
    elif name == "loss_weights":
        assert network.reconstruction_error(images, per_feature=True)[:, 32:].mean() < 0.05
    else:
        assert network.score(images) > 0.2
    assert network.loss_curve_[-1] < network.loss_curve_[0]


@every_variant
def test_variant_gives_the_same_network_for_the_same_seed(name, fitted, some):
    first, second = fitted(name), clone(fitted(name)).fit(some)
    np.testing.assert_array_equal(first.transform(some), second.transform(some))
    np.testing.assert_array_equal(first.transform(some), first.transform(some))  # draws nothing


@pytest.mark.slow
@every_variant
def test_variant_goes_on_in_partial_fit(name, images):
    network = _autoencoder(**VARIANTS[name])
    for _ in range(4):
        network.partial_fit(images)
    assert network.loss_curve_[-1] < network.loss_curve_[0]
    assert network.code_std_.shape == (4,)
    assert not hasattr(network, "explained_variance_")
    again = pickle.loads(pickle.dumps(network)).partial_fit(images)
    np.testing.assert_allclose(
        again.transform(images), network.partial_fit(images).transform(images), rtol=1e-6
    )


@every_variant
def test_variant_goes_on_after_a_warm_start(name, some):
    network = _autoencoder(**VARIANTS[name], warm_start=True).fit(some)
    before = network.loss_
    network.set_params(learning_rate_init=0.001).fit(some)
    assert network.loss_curve_[-1] < 1.2 * before < 1.2 * network.loss_curve_[0]
    assert len(network.loss_curve_) == 30


@every_variant
def test_variant_stops_early_and_keeps_the_best_weights(name, some):
    network = _autoencoder(**VARIANTS[name], early_stopping=True).fit(some)
    assert network.best_iter_ == 1 + np.argmax(network.validation_scores_)
    held_out = _autoencoder(**VARIANTS[name], **BRIEF).fit(some[:150], X_val=some[150:])
    assert len(held_out.validation_loss_curve_) == held_out.n_iter_


@every_variant
def test_variant_counts_no_row_of_weight_zero(name, some):
    weight = np.r_[np.ones(100), np.zeros(100)]
    network = _autoencoder(**VARIANTS[name], **BRIEF, shuffle=False, batch_size=200)
    spoilt = np.r_[some[:100], 1 - some[100:]]
    codes = [clone(network).fit(X, sample_weight=weight).transform(some) for X in (some, spoilt)]
    if name != "salt_pepper":  # the limits of a feature are those of all rows
        np.testing.assert_allclose(*codes, rtol=1e-9, atol=1e-9)


@every_variant
def test_variant_takes_sparse_rows(name, fitted, some):
    rows, dense = sp.csr_matrix(some), fitted(name)
    codes = clone(dense).fit(rows).transform(rows)
    np.testing.assert_allclose(codes, dense.transform(some), rtol=1e-9, atol=1e-12)


@every_variant
def test_variant_keeps_single_precision(name, some):
    X = some.astype(np.float32)
    network = _autoencoder(**VARIANTS[name], **BRIEF).fit(X)
    assert network.transform(X).dtype == network.reconstruction_error(X).dtype == np.float32
    assert network.mean_.dtype == network.code_std_.dtype == np.float32


@every_variant
def test_variant_trains_with_an_optimiser_of_torch_and_callbacks_of_skorch(name, some):
    class Listener(Callback):
        n_batches = 0

        def on_batch_end(self, net, **kwargs):
            self.n_batches += 1

    listener = Listener()
    options = {**VARIANTS[name], "max_iter": 5, "solver": torch.optim.Adam}
    network = _autoencoder(**options).fit(some)
    heard = _autoencoder(**options, callbacks=[listener]).fit(some)
    assert listener.n_batches == 5 * 4
    assert network.loss_curve_[-1] < network.loss_curve_[0]
    np.testing.assert_allclose(heard.loss_curve_, network.loss_curve_, rtol=1e-9)


@pytest.mark.parametrize("name", [name for name in VARIANTS if name not in RANDOM])
def test_variant_without_chance_trains_with_lbfgs(name, images):
    network = _autoencoder(**VARIANTS[name], solver="lbfgs", max_iter=60)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        assert network.fit(images).loss_ < _autoencoder(**VARIANTS[name]).fit(images).loss_ * 1.3


@pytest.mark.slow
@every_variant
def test_variant_comes_out_of_a_fused_search_as_it_would_alone(name, some):
    network = _autoencoder(**VARIANTS[name], **BRIEF)
    jobs = [Job(clone(network).set_params(alpha=alpha), some, None) for alpha in (0.1, 1.0)]
    alone = [clone(job.estimator).fit(some) for job in jobs]
    fit_jobs(jobs)
    for job, network in zip(jobs, alone, strict=True):
        assert job.error is None
        codes = job.estimator.transform(some)
        np.testing.assert_allclose(codes, network.transform(some), rtol=1e-5, atol=1e-7)
    not_stacked = {
        "tied_weights": "tied_weights",
        "loss_weights": "loss_weights",
        "allow_nan": "allow_nan",
        "contractive": "contractive",
        "variational": "variational",
        "many": "allow_nan, contractive, tied_weights, variational",
    }
    reason = not_stacked.get(name)
    assert [job.fused for job in jobs] == [reason is None] * 2
    assert jobs[0].reason == ("" if reason is None else f"{reason} is not supported in stacks")


# what each variant is for


def test_a_denoising_autoencoder_reads_noisy_images_better(images):
    noisy = images + 0.4 * np.random.default_rng(0).standard_normal(images.shape)
    plain, denoising = (
        _autoencoder(**options, max_iter=60, n_components=8).fit(images[:500])
        for options in ({}, {"noise": 0.4})
    )
    errors = [
        np.mean((network.inverse_transform(network.transform(noisy[500:])) - images[500:]) ** 2)
        for network in (plain, denoising)
    ]
    assert errors[1] < 0.9 * errors[0]


def test_two_calls_of_partial_fit_draw_different_noise(images):
    codes = []
    for n_calls in (1, 2):
        network = _autoencoder(noise=0.5, batch_size=600, shuffle=False, learning_rate_init=1e-12)
        for _ in range(n_calls):
            network.partial_fit(images)
        codes.append(network.loss_curve_[-1])
    assert abs(codes[1] - codes[0]) > 1e-6


def test_sparsity_brings_the_code_closer_to_zero(images):
    sizes = [
        np.abs(_autoencoder(sparsity=sparsity).fit(images).transform(images)).mean()
        for sparsity in (0.0, 0.01)
    ]
    assert sizes[1] < 0.5 * sizes[0]


def test_a_contractive_encoder_has_a_smaller_jacobian(images):
    norms = []
    for contractive in (0.0, 0.01):
        encoder = _autoencoder(contractive=contractive).fit(images).encoder_
        jacobians = torch.func.vmap(torch.func.jacrev(encoder))(torch.from_numpy(images))
        norms.append(jacobians.square().sum().item())
    assert norms[1] < 0.2 * norms[0]


def test_tied_decoders_have_the_matrices_of_the_encoder(images):
    network = _autoencoder(tied_weights=True, hidden_layer_sizes=(24, 12)).fit(images)
    for fitted in (network, pickle.loads(pickle.dumps(network)), network.partial_fit(images)):
        pairs = fitted.module_.tied_layers()
        assert len(pairs) == 3
        for encoder, decoder in pairs:
            torch.testing.assert_close(encoder.weight, decoder.weight.mT, rtol=0, atol=0)


def test_samples_of_a_variational_autoencoder_look_like_the_data(images):
    network = _autoencoder(variational=True, loss="log_loss", beta=0.5, max_iter=100).fit(images)
    rows = network.sample(200, random_state=0)
    assert rows.shape == (200, 64)
    assert rows.min() >= 0
    assert rows.max() <= 1
    # nearer to some image than what has only the right mean and variance in each pixel
    noise = images.mean(0) + images.std(0) * np.random.default_rng(0).standard_normal((200, 64))
    distance, of_noise = (
        np.sqrt(((part[:, np.newaxis] - images) ** 2).sum(-1)).min(1).mean()
        for part in (rows, noise.clip(0, 1))
    )
    assert distance < 0.8 * of_noise
    np.testing.assert_array_equal(
        network.sample(3, random_state=1), network.sample(3, random_state=1)
    )
    assert not np.array_equal(network.sample(3, random_state=1), network.sample(3, random_state=2))


def test_only_a_variational_autoencoder_samples(images):
    network = _autoencoder().fit(images)
    assert not hasattr(network, "sample")
    with pytest.raises(AttributeError, match="sample") as raised:
        network.sample()
    assert "pass variational=True" in str(raised.value.__cause__)


def test_beta_pulls_the_codes_towards_the_standard_normal_distribution(images):
    spreads = [
        _autoencoder(variational=True, beta=beta).fit(images).code_std_.max()
        for beta in (0.001, 0.3)
    ]
    assert spreads[1] < 1.2 < spreads[0]


def test_losses_that_outliers_distort_less_go_by_the_median():
    # what one unit of the code cannot tell of thirty features: four in five values are near 0
    rng = np.random.default_rng(0)
    X = np.where(rng.random((600, 30)) < 0.2, 10.0, 0.0) + 0.01 * rng.random((600, 30))
    outputs = {}
    for loss in ("squared_error", "absolute_error", "huber"):
        network = _autoencoder(loss=loss, n_components=1, max_iter=60, huber_delta=1.0).fit(X)
        outputs[loss] = network.inverse_transform(network.transform(X)).mean()
    assert outputs["squared_error"] == pytest.approx(2, abs=0.3)
    assert outputs["absolute_error"] == pytest.approx(0, abs=0.3)
    assert outputs["absolute_error"] < outputs["huber"] < 0.5 * outputs["squared_error"]


@pytest.mark.parametrize("loss", ["squared_error", "absolute_error", "huber", "log_loss", "cosine"])
def test_the_loss_curve_is_the_loss_per_feature(loss, images):
    network = _autoencoder(loss=loss, alpha=0.0, max_iter=1, learning_rate_init=1e-12).fit(images)
    output = network.inverse_transform(network.transform(images))
    residual = np.abs(output - images)
    expected = {
        "squared_error": (residual**2).mean(),
        "absolute_error": residual.mean(),
        "huber": np.where(residual < 1, residual**2 / 2, residual - 0.5).mean(),
        "log_loss": -(images * np.log(output) + (1 - images) * np.log(1 - output)).mean(),
        "cosine": 1
        - (
            (output * images).sum(1)
            / np.linalg.norm(output, axis=1)
            / np.linalg.norm(images, axis=1)
        ).mean(),
    }[loss]
    assert network.loss_ == pytest.approx(expected, rel=1e-6)


def test_features_of_more_weight_are_reconstructed_better(images):
    weights = np.r_[np.ones(32), np.full(32, 20.0)]
    even, uneven = (
        _autoencoder(loss_weights=w, max_iter=60)
        .fit(images)
        .reconstruction_error(images, per_feature=True)
        for w in (None, weights)
    )
    assert uneven[:, 32:].mean() < 0.8 * even[:, 32:].mean()


def test_only_the_ratios_of_loss_weights_matter(images):
    codes = [
        _autoencoder(loss_weights=factor * np.arange(64)).fit(images).transform(images)
        for factor in (1, 8)
    ]
    np.testing.assert_allclose(*codes, rtol=1e-9)


# missing values


def test_missing_values_are_refused_unless_allowed(images):
    with pytest.raises(ValueError, match="NaN"):
        _autoencoder().fit(_with_holes(images))
    with pytest.raises(ValueError, match="infinity"):
        _autoencoder(allow_nan=True).fit(np.where(images == 1, np.inf, images))


def test_complete_data_give_the_same_network_with_and_without_allow_nan(images):
    codes = [
        _autoencoder(allow_nan=allow_nan).fit(images).transform(images)
        for allow_nan in (False, True)
    ]
    np.testing.assert_allclose(*codes, rtol=1e-7)


def test_missing_values_are_imputed_better_than_by_the_mean(images):
    holes = _with_holes(images)
    network = _autoencoder(allow_nan=True, n_components=8, max_iter=100).fit(holes)
    imputed = network.inverse_transform(network.transform(holes))
    is_missing = np.isnan(holes)
    ours = np.mean((imputed - images)[is_missing] ** 2)
    of_mean = np.mean((np.broadcast_to(network.mean_, images.shape) - images)[is_missing] ** 2)
    assert ours < 0.6 * of_mean


def test_a_missing_value_reads_as_the_mean_and_counts_nowhere(images):
    holes = _with_holes(images)
    network = _autoencoder(allow_nan=True).fit(holes)
    np.testing.assert_allclose(network.mean_, np.nanmean(holes, axis=0))
    filled = np.where(np.isnan(holes), network.mean_, holes)
    np.testing.assert_allclose(network.transform(holes), network.transform(filled))
    errors = network.reconstruction_error(holes, per_feature=True)
    np.testing.assert_array_equal(np.isnan(errors), np.isnan(holes))
    np.testing.assert_allclose(network.reconstruction_error(holes), np.nanmean(errors, axis=1))
    explained = 1 - np.nansum(errors) / np.nansum((holes - network.mean_) ** 2)
    assert network.score(holes) == pytest.approx(explained)


def test_a_feature_that_is_always_missing_does_no_harm(images):
    holes = images.copy()
    holes[:, 10] = np.nan
    network = _autoencoder(allow_nan=True).fit(holes)
    assert network.mean_[10] == 0
    assert np.isfinite(network.transform(holes)).all()


def test_sparse_rows_may_have_missing_values(images):
    holes = _with_holes(images)
    dense, sparse = (_autoencoder(allow_nan=True).fit(X) for X in (holes, sp.csr_matrix(holes)))
    np.testing.assert_allclose(sparse.mean_, dense.mean_)
    np.testing.assert_allclose(sparse.transform(holes), dense.transform(holes), rtol=1e-7)


def test_weights_count_in_the_mean_of_what_is_known(images):
    holes, weight = _with_holes(images), np.arange(1.0, 601)
    network = _autoencoder(allow_nan=True).fit(holes, sample_weight=weight)
    known = ~np.isnan(holes)
    expected = (weight @ np.nan_to_num(holes)) / (weight @ known)
    np.testing.assert_allclose(network.mean_, expected)


# the code


@pytest.mark.slow
@pytest.mark.parametrize("n_components", [2, 32])
def test_no_unit_of_the_code_dies_with_the_defaults(n_components, images):
    for seed in range(6):
        network = AutoencoderTransformer(n_components, random_state=seed, max_iter=20)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            assert network.fit(images).n_dead_units_ == 0
        assert network.code_std_.min() > 0.05 * network.code_std_.max()


@pytest.mark.parametrize("n_rows", [1, 100])
def test_codes_of_few_rows_are_those_of_many(n_rows, images, torch_predicts, monkeypatch):
    autoencoder = AutoencoderTransformer(**QUICK | {"max_iter": 2}).fit(images)
    expected = autoencoder.transform(images[:n_rows])
    monkeypatch.undo()
    monkeypatch.setattr(autoencoder.module_, "encode", None)
    codes = autoencoder.transform(images[:n_rows])
    np.testing.assert_allclose(codes, expected, rtol=1e-9, atol=1e-9)
    for value in (np.nan, np.inf):
        rows = images[:n_rows].copy()
        rows[-1, 3] = value
        monkeypatch.undo()
        with pytest.raises(ValueError, match="Input X contains"):
            autoencoder.transform(rows)


def test_a_dead_unit_is_named_with_a_remedy(images):
    network = _autoencoder(code_activation="relu", warm_start=True, max_iter=1)
    network.set_params(learning_rate_init=1e-12).partial_fit(images)
    with torch.no_grad():
        network.module_.encoder[-2].bias.copy_(torch.tensor([10.0, -1e3, 10.0, -1e3]))
    message = (
        "2 units of the code are the same for every row: 1, 3 (of 4, counted from 0). To "
        "bring dead units to life, choose code_activation='identity' instead of 'relu'."
    )
    with pytest.warns(ConvergenceWarning, match=re.escape(message)):
        network.fit(images)
    assert network.n_dead_units_ == 2
    assert (network.code_std_[[1, 3]] == 0).all()


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ({"variational": True, "beta": 2.0}, "lower beta=2.0"),
        ({"sparsity": 9.0}, "lower sparsity=9.0"),
        ({}, "lower learning_rate_init or alpha"),
    ],
    ids=str,
)
def test_the_remedy_for_dead_units_suits_the_variant(options, remedy, images):
    network = _autoencoder(**options, warm_start=True, max_iter=1, learning_rate_init=1e-12)
    network.fit(images)
    with torch.no_grad():
        network.module_.encoder[-1].weight[2] = 0
    with pytest.warns(ConvergenceWarning, match=re.escape(remedy)):
        network.fit(images)


def test_data_that_do_not_vary_are_no_reason_to_warn():
    network = _autoencoder(batch_size=5).fit(np.full((5, 64), 0.5))
    assert network.n_dead_units_ == 4


def test_code_std_is_that_of_the_codes(images):
    weight = np.arange(600.0)
    network = _autoencoder().fit(images, sample_weight=weight)
    codes = network.transform(images)
    mean = np.average(codes, axis=0, weights=weight)
    expected = np.sqrt(np.average((codes - mean) ** 2, axis=0, weights=weight))
    np.testing.assert_allclose(network.code_std_, expected, rtol=1e-9)


@pytest.mark.parametrize("holes", [False, True], ids=["all known", "some missing"])
def test_explained_variance_sums_to_the_score(monkeypatch, holes, images):
    # else on some of them
    monkeypatch.setattr(
        code_description, "n_rows_to_decode", lambda n_trained, n_components: n_trained
    )
    X = _with_holes(images) if holes else images
    network = _autoencoder(allow_nan=holes).fit(X)
    assert network.explained_variance_ratio_.sum() == pytest.approx(network.score(X))
    shares = network.explained_variance_ / network.explained_variance_.sum()
    ratios = network.explained_variance_ratio_
    np.testing.assert_allclose(shares, ratios / ratios.sum())


def test_an_ordered_linear_code_with_tied_weights_is_that_of_pca(images):
    network = _autoencoder(
        hidden_layer_sizes=(),
        output_activation="identity",
        order_code=True,
        tied_weights=True,
        alpha=0.0,
        solver="lbfgs",
        max_iter=2000,
        tol=1e-7,
    ).fit(images)
    pca = PCA(4).fit(images)
    np.testing.assert_allclose(
        network.explained_variance_, pca.explained_variance_ * 599 / 600, rtol=2e-3
    )
    np.testing.assert_allclose(
        network.explained_variance_ratio_, pca.explained_variance_ratio_, rtol=2e-3
    )
    # the same axes, up to sign and length
    correlations = np.corrcoef(network.transform(images).T, pca.transform(images).T)[:4, 4:]
    np.testing.assert_allclose(np.abs(correlations), np.eye(4), atol=0.02)


@pytest.mark.parametrize(
    "options",
    [{}, {"tied_weights": True}, {"normalization": "batch"}, {"solver": "lbfgs"}, {"noise": 0.1}],
    ids=str,
)
def test_an_ordered_code_is_uncorrelated_and_says_the_same(options, images):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        plain, ordered = (
            _autoencoder(**options, order_code=order_code).fit(images)
            for order_code in (False, True)
        )
    codes = ordered.transform(images)
    np.testing.assert_allclose(codes.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(np.cov(codes.T, ddof=0), np.diag(ordered.code_std_**2), atol=1e-9)
    assert (np.diff(ordered.code_std_) < 0).all()
    np.testing.assert_allclose(
        ordered.inverse_transform(codes), plain.inverse_transform(plain.transform(images))
    )


def test_partial_fit_goes_on_from_an_ordered_code(images):
    network = _autoencoder(order_code=True).fit(images)
    before = network.reconstruction_error(images).mean()
    for _ in range(3):
        network.partial_fit(images)
    assert network.reconstruction_error(images).mean() < 1.2 * before


@every_variant
def test_the_halves_are_torch_modules_that_do_what_the_methods_do(name, fitted, some):
    network = fitted(name)
    with torch.no_grad():
        codes = network.encoder_(torch.from_numpy(some))
        np.testing.assert_allclose(codes, network.transform(some), rtol=1e-7)
        rows = network.decoder_(codes)
    np.testing.assert_allclose(rows, network.inverse_transform(codes), rtol=1e-7)
    half = pickle.loads(pickle.dumps(network.decoder_))
    torch.testing.assert_close(half(codes), rows)


@every_variant
def test_summary_counts_what_training_changes(name, images):
    network = _autoencoder(**VARIANTS[name], hidden_layer_sizes=(24, 12), max_iter=1)
    planned = summary(network, n_features=64)
    network.partial_fit(images)
    assert summary(network).n_parameters == planned.n_parameters == network.module_.flat.numel()


# what goes together


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            {"noise": 1.0, "noise_kind": "masking"},
            "noise=1.0 is the share of the features that noise_kind='masking' replaces; choose "
            "one below 1.",
        ),
        (
            {"loss": "log_loss", "output_activation": "identity"},
            "loss='log_loss' needs a logistic output, got output_activation='identity'",
        ),
        (
            {"tied_weights": True, "decoder_hidden_layer_sizes": (10,)},
            "tied_weights=True needs a decoder that mirrors the encoder",
        ),
        (
            {"variational": True, "code_activation": "tanh"},
            "variational=True needs a code without an activation, got code_activation='tanh'",
        ),
        (
            {"order_code": True, "code_activation": "relu"},
            "order_code=True needs a code without an activation, got code_activation='relu'",
        ),
        (
            {"order_code": True, "sparsity": 0.1},
            "order_code=True would turn the axes that variational=True and sparsity give a meaning",
        ),
        ({"order_code": True, "variational": True}, "set order_code=False"),
        (
            {"contractive": 0.1, "dtype": "bfloat16"},
            "dtype='bfloat16' supports neither variational=True nor contractive",
        ),
        ({"noise": 0.1, "solver": "lbfgs"}, "solver='lbfgs' does not support noise"),
        ({"contractive": 0.1, "solver": "lbfgs"}, "solver='lbfgs' does not support contractive"),
        ({"variational": True, "solver": "lbfgs"}, "solver='lbfgs' does not support variational"),
        (
            {"loss_weights": [1.0, 2.0]},
            "loss_weights has the shape (2,), but X has 64 features; pass one weight for each.",
        ),
        ({"loss_weights": np.full(64, -1.0)}, "must be finite and non-negative, and not all zero"),
        ({"loss_weights": np.zeros(64)}, "must be finite and non-negative, and not all zero"),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_refused(params, message, images):
    with pytest.raises(ValueError, match=re.escape(message)):
        _autoencoder(**params).fit(images)


def test_log_loss_refuses_features_that_are_no_shares(images):
    message = re.escape("loss='log_loss' needs features in [0, 1], got values from 0 to 16")
    network = _autoencoder(loss="log_loss")
    for X in (16 * images, sp.csr_matrix(16 * images)):
        with pytest.raises(ValueError, match=message):
            network.fit(X)
    with pytest.raises(ValueError, match=message):
        network.fit(images, X_val=16 * images)
    with pytest.raises(ValueError, match=message):
        network.partial_fit(images).partial_fit(16 * images)


def test_a_change_of_variant_between_calls_is_refused(images):
    network = _autoencoder(warm_start=True).fit(images)
    with pytest.raises(ValueError, match=re.escape("tied_weights False -> True")):
        network.set_params(tied_weights=True).fit(images)


# as the start of a supervised network


@pytest.fixture(scope="module")
def pretrained():
    """Offer an autoencoder of 1,200 images, 100 of them with labels, and 597 to test."""
    X, y = load_digits(return_X_y=True)
    rows, test = train_test_split(np.arange(len(X)), train_size=1200, stratify=y, random_state=0)
    labelled, _ = train_test_split(rows, train_size=100, stratify=y[rows], random_state=0)
    autoencoder = _autoencoder(
        n_components=8, hidden_layer_sizes=(128, 64, 32), activation="gelu", noise=0.2, max_iter=60
    ).fit(X[rows] / 16)
    return SimpleNamespace(
        autoencoder=autoencoder,
        X_all=X[rows] / 16,
        y_all=y[rows],
        X=X[labelled] / 16,
        y=y[labelled],
        X_test=X[test] / 16,
        y_test=y[test],
    )


def _classifier(**params):
    options = {"hidden_layer_sizes": (128, 64, 32), "activation": "gelu", "max_iter": 30}
    options["learning_rate_init"] = 3e-3
    return DeepMLPClassifier(**{**QUICK_START, **options, **params})


@pytest.mark.slow
def test_starting_from_an_autoencoder_helps_with_few_labels(pretrained):
    gains = []
    for seed in range(5):  # each time another hundred labels
        X, _, y, _ = train_test_split(
            pretrained.X_all,
            pretrained.y_all,
            train_size=100,
            stratify=pretrained.y_all,
            random_state=seed,
        )
        without, with_ = (
            _classifier(init_from=source, random_state=seed)
            .fit(X, y)
            .score(pretrained.X_test, pretrained.y_test)
            for source in (None, pretrained.autoencoder)
        )
        gains.append(with_ - without)
    assert np.mean(gains) > 0.01, gains


@pytest.mark.parametrize(
    ("cls", "dtype", "hidden"),
    [
        (DeepMLPClassifier, "float32", (24, 12)),
        (DeepMLPRegressor, "float64", (24, 12, 4)),
        (DeepMLPClassifier, "float64", (24, 12, 10)),
        (DeepMLPRegressor, "float32", (24, 12, 4, 7)),
    ],
)
def test_layers_that_are_shared_start_as_the_encoder(cls, dtype, hidden, images):
    source = _autoencoder(hidden_layer_sizes=(24, 12), normalization="batch").fit(images)
    with torch.no_grad():  # scales and shifts that are not those of the start
        source.module_.stages()[0][1].weight.add_(0.5)
    y = load_digits().target[:600]
    options = {"normalization": "batch", "init_from": source, "dtype": dtype}
    options |= {"solver": "sgd", "learning_rate_init": 1e-12}
    network = cls(hidden_layer_sizes=hidden, **{**QUICK_START, **options, "max_iter": 1})
    network.partial_fit(images, y, **({"classes": range(10)} if cls is DeepMLPClassifier else {}))
    n_shared = 3 if len(hidden) > 2 and hidden[2] == 4 else 2
    theirs, ours = source.module_.stages(), network.module_.stages()
    for (linear, norm, *_), (own, own_norm, *_) in zip(theirs[:n_shared], ours, strict=False):
        torch.testing.assert_close(own.weight, linear.weight.to(own.weight), rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(own.bias, linear.bias.to(own.bias), rtol=1e-5, atol=1e-7)
        if norm is not None:
            torch.testing.assert_close(
                own_norm.weight, norm.weight.to(own.weight), check_dtype=False
            )
    if len(hidden) > 2 and n_shared == 2:
        assert ours[2][0].weight.shape == (10, 12)


def test_a_linear_encoder_gives_its_code(images):
    source = _autoencoder(hidden_layer_sizes=()).fit(images)
    network = DeepMLPRegressor(
        hidden_layer_sizes=(4,), init_from=source, **{**QUICK_START, "learning_rate_init": 1e-12}
    ).fit(images, images[:, 0])
    ratios = network.coefs_[0] / source.encoder_[0].weight.detach().numpy().T
    np.testing.assert_allclose(ratios, ratios.mean(), rtol=1e-6)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_the_layers_that_are_taken_have_outputs_of_unit_variance(activation, images):
    source = _autoencoder(hidden_layer_sizes=(24, 12), activation=activation).fit(images)
    options = {"activation": activation, "init_from": source, "learning_rate_init": 1e-12}
    network = DeepMLPRegressor(hidden_layer_sizes=(24, 12), **{**QUICK_START, **options})
    network.fit(images, images[:, 0])
    x = torch.from_numpy(images)
    with torch.no_grad():
        for number, (theirs, ours) in enumerate(
            zip(source.encoder_[:4], network.module_.layers, strict=False)
        ):
            if number % 2 == 0:
                assert ours(x).var(dim=0).mean().item() == pytest.approx(1, rel=0.01)
                ratios = ours.weight / theirs.weight
                expected = ratios.mean().expand_as(ratios)
                torch.testing.assert_close(ratios, expected, rtol=1e-4, atol=0)
            x = ours(x)


def test_the_source_is_left_as_it_was(pretrained):
    before = pretrained.autoencoder.transform(pretrained.X)
    _classifier(init_from=pretrained.autoencoder).fit(pretrained.X, pretrained.y)
    np.testing.assert_array_equal(pretrained.autoencoder.transform(pretrained.X), before)


@pytest.mark.parametrize("search", [GridSearchCV, FusedGridSearchCV])
def test_searches_keep_a_frozen_source(search, pretrained):
    classifier = _classifier(init_from=FrozenEstimator(pretrained.autoencoder))
    found = search(classifier, {"alpha": [1e-4, 1.0]}, cv=3).fit(pretrained.X, pretrained.y)
    assert found.best_estimator_.init_from.estimator is pretrained.autoencoder
    # as a fit of its own would be
    again = clone(classifier).set_params(**found.best_params_).fit(pretrained.X, pretrained.y)
    np.testing.assert_allclose(
        found.predict_proba(pretrained.X_test), again.predict_proba(pretrained.X_test), atol=1e-6
    )


def test_the_networks_of_an_ensemble_start_from_one_source(pretrained):
    ensemble = _classifier(init_from=pretrained.autoencoder, n_networks=2, max_iter=1)
    ensemble.set_params(learning_rate_init=1e-12).fit(pretrained.X, pretrained.y)
    first, second = (network.module_.stages() for network in ensemble.estimators_)
    for number in range(3):
        torch.testing.assert_close(first[number][0].weight, second[number][0].weight)
    assert not torch.equal(first[3][0].weight, second[3][0].weight)


def test_a_frozen_source_is_the_same_start(pretrained):
    source = pretrained.autoencoder
    networks = [
        _classifier(init_from=init_from).fit(pretrained.X, pretrained.y)
        for init_from in (source, FrozenEstimator(source))
    ]
    np.testing.assert_array_equal(*(network.coefs_[0] for network in networks))
    again = pickle.loads(pickle.dumps(networks[1]))
    np.testing.assert_array_equal(
        again.predict(pretrained.X_test), networks[1].predict(pretrained.X_test)
    )


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            {"hidden_layer_sizes": (10, 64)},
            "hidden_layer_sizes=(10, 64) must begin with 3 layers of init_from, "
            "(128, 64, 32); the code of 8 units may follow.",
        ),
        ({"hidden_layer_sizes": (128,)}, "hidden_layer_sizes=(128,) must begin with 3 layers of"),
        ({"activation": "relu"}, "activation='relu' is not that of init_from"),
        ({"normalization": "layer"}, "normalization='layer' is not that of init_from"),
        ({"init_from": AutoencoderTransformer()}, "pass init_from=FrozenEstimator(autoencoder)"),
        ({"init_from": PCA(2).fit(np.eye(3))}, "has no encoder; pass a fitted Autoencoder"),
        (
            {"init_from": AutoencoderTransformer(2, (128, 64, 32), max_iter=1)},
            "init_from was fitted on 3 features, but X has 64",
        ),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_source_that_does_not_suit_is_refused(params, message, pretrained):
    params = {"init_from": pretrained.autoencoder, **params}
    if "3 features" in message:
        params["init_from"].fit(np.eye(3))
    with pytest.raises(ValueError, match=re.escape(message)):
        _classifier(**params).fit(pretrained.X, pretrained.y)


# as a step


@pytest.mark.parametrize(
    "last",
    [
        LogisticRegression(max_iter=1000),
        KNeighborsClassifier(5),
        KMeans(10, n_init=1, random_state=0),
        TSNE(perplexity=10, max_iter=250, random_state=0, init="random"),
    ],
    ids=lambda last: type(last).__name__,
)
def test_autoencoder_is_a_step_before_other_estimators(last, images):
    y = load_digits().target[:600]
    pipeline = make_pipeline(_autoencoder(n_components=16, max_iter=60), last)
    if isinstance(last, TSNE):
        assert pipeline.fit_transform(images[:150]).shape == (150, 2)
        return
    pipeline.fit(images[:450], y[:450])
    if not isinstance(last, KMeans):
        assert pipeline.score(images[450:], y[450:]) > 0.8
    assert pipeline.predict(images[450:]).shape == (150,)


def test_memory_maps_of_single_precision_stay_on_the_disk(images, tmp_path):
    np.save(tmp_path / "X.npy", images.astype(np.float32))
    X = np.load(tmp_path / "X.npy", mmap_mode="r")
    network = _autoencoder(allow_nan=True).fit(X)
    np.testing.assert_array_equal(network.transform(X), network.transform(np.array(X)))


def test_outlier_threshold_is_a_quantile_of_ordinary_scores(images):
    network = _autoencoder(max_iter=60).fit(images[:450])
    threshold = np.quantile(network.score_samples(images[:450]), 0.01)
    assert (network.score_samples(images[450:]) < threshold).mean() < 0.1
    assert (network.score_samples(1 - images[450:]) < threshold).mean() > 0.9
