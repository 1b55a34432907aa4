"""Displays draw what they were given, and refuse what cannot be drawn."""

import re
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy.stats import loguniform
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

from sknn_deep import AutoencoderTransformer, DeepMLPClassifier
from sknn_deep.plotting import (
    EmbeddingDisplay,
    LossCurveDisplay,
    ReconstructionDisplay,
    SearchSurfaceDisplay,
    WeightsDisplay,
)
from sknn_deep.plotting._style import PALETTE

QUICK = {"max_iter": 6, "learning_rate": "one_cycle", "random_state": 0}


@pytest.fixture(autouse=True)
def no_screen(scratch):
    """Draw without a screen, and close every figure afterwards."""


@pytest.fixture(scope="module")
def classifier(digits):
    network = DeepMLPClassifier((12,), early_stopping=True, n_iter_no_change=6, **QUICK)
    return network.fit(digits.X, digits.y)


@pytest.fixture(scope="module")
def autoencoder(digits):
    return AutoencoderTransformer(2, (12,), **QUICK).fit(digits.X)


@pytest.fixture(scope="module")
def pca(digits):
    return PCA(2).fit(digits.X)


def _texts(ax):
    return [text.get_text() for text in ax.texts]


def _legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def _grid_search(grid, **options):
    """Return a quick search over a ridge regression."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 3))
    return GridSearchCV(Ridge(), grid, cv=2, **options).fit(X, X @ [1, 2, 3] + rng.normal(size=40))


TWO = {"alpha": [0.1, 1, 10], "fit_intercept": [True, False]}
THREE = TWO | {"solver": ["svd", "cholesky"]}


# ---- all displays ----


def _draw_all(classifier, autoencoder, pca, digits):
    """Return one of each display."""
    return [
        LossCurveDisplay.from_estimator(classifier),
        ReconstructionDisplay.from_estimator(autoencoder, digits.X),
        EmbeddingDisplay.from_estimator(pca, digits.X, digits.y, annotate=True),
        EmbeddingDisplay.from_estimator(pca, digits.X, image_shape=(8, 8), n_images=30),
        EmbeddingDisplay.from_estimator(pca, digits.X, digits.X[:, 20]),
        WeightsDisplay.from_estimator(classifier),
        SearchSurfaceDisplay.from_estimator(_grid_search(TWO)),
    ]


@pytest.mark.parametrize("style", ["default", "dark_background"])
def test_displays_are_drawn_without_a_warning(style, classifier, autoencoder, pca, digits):
    with plt.style.context(style):
        for display in _draw_all(classifier, autoencoder, pca, digits):
            display.figure_.canvas.draw()  # warnings are errors
            assert display.ax_.figure is display.figure_


def test_text_stands_inside_the_figure(classifier, autoencoder, pca, digits):
    for display in _draw_all(classifier, autoencoder, pca, digits):
        display.figure_.canvas.draw()
        box, figure = display.figure_.get_tightbbox(), display.figure_.bbox_inches
        assert box.xmin >= -0.01
        assert box.ymin >= -0.01
        assert box.xmax <= figure.width + 0.01
        assert box.ymax <= figure.height + 0.01


def test_displays_draw_on_given_axes(classifier, autoencoder, pca, digits):
    for display in _draw_all(classifier, autoencoder, pca, digits):
        figure, (left, right) = plt.subplots(1, 2)
        assert display.plot(right) is display
        assert display.ax_ is right
        assert display.figure_ is figure
        assert not left.has_data()
        assert right.has_data()


@pytest.mark.slow
def test_importing_the_displays_imports_neither_matplotlib_nor_plotly():
    code = (
        "import sys, sknn_deep, sknn_deep.plotting;"
        "sys.exit(bool({'matplotlib', 'plotly'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False)
    assert run.returncode == 0


def test_missing_matplotlib_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"LossCurveDisplay.plot requires matplotlib"):
        LossCurveDisplay(training_loss=[2, 1]).plot()


# ---- loss curves ----


def test_loss_curves_show_the_losses_and_mark_the_best_epoch(classifier):
    display = LossCurveDisplay.from_estimator(classifier)
    training, validation, best = display.lines_
    np.testing.assert_array_equal(training.get_xdata(), range(1, 7))
    np.testing.assert_array_equal(training.get_ydata(), classifier.loss_curve_)
    np.testing.assert_array_equal(validation.get_ydata(), classifier.validation_loss_curve_)
    epoch = classifier.best_iter_
    assert best.get_xdata() == [epoch]
    assert best.get_ydata() == [classifier.validation_loss_curve_[epoch - 1]]
    assert _legend(display.ax_) == ["training", "validation", f"weights kept, epoch {epoch}"]


@pytest.mark.parametrize("network", [DeepMLPClassifier, MLPClassifier])
def test_without_a_validation_set_there_is_one_curve(network, digits):
    fitted = network(max_iter=3, tol=10, n_iter_no_change=1).fit(digits.X, digits.y)
    display = LossCurveDisplay.from_estimator(fitted)
    assert len(display.lines_) == len(display.ax_.lines) == 1


def test_several_trainings_share_axes_in_colours_of_their_own(classifier):
    first = LossCurveDisplay.from_estimator(classifier, name="first")
    second = LossCurveDisplay.from_estimator(classifier, name="second", ax=first.ax_)
    assert second.ax_ is first.ax_
    colors = [{line.get_color() for line in display.lines_} for display in (first, second)]
    assert colors == [{PALETTE[0]}, {PALETTE[1]}]
    assert _legend(first.ax_)[0] == "first: training"
    assert _legend(first.ax_)[3] == "second: training"


@pytest.mark.parametrize(
    ("losses", "scale"),
    [([10, 1, 0.1], "log"), ([1, 0.9, 0.8], "linear"), ([10, 1, -1], "linear"), ([], "linear")],
)
def test_losses_over_a_large_range_are_drawn_on_a_logarithmic_scale(losses, scale):
    assert LossCurveDisplay(training_loss=losses).plot().ax_.get_yscale() == scale


def test_curves_take_matplotlibs_options(classifier):
    display = LossCurveDisplay.from_estimator(classifier, line_kw={"color": "black", "lw": 5})
    assert {line.get_color() for line in display.lines_} == {"black"}
    assert display.lines_[1].get_linewidth() == 5


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (DeepMLPClassifier(solver="lbfgs", max_iter=500), "in epochs (solver='lbfgs' has none)"),
        (
            LogisticRegression(max_iter=1000),
            "LogisticRegression has no loss_curve_; pass a network",
        ),
        (make_pipeline(MinMaxScaler(), DeepMLPClassifier((5,), **QUICK)), "such as pipeline[-1]"),
    ],
)
def test_what_has_no_loss_curve_is_refused(estimator, message, digits):
    estimator.fit(digits.X, digits.y)
    with pytest.raises(ValueError, match=re.escape(message)):
        LossCurveDisplay.from_estimator(estimator)


@pytest.mark.parametrize("draw", [LossCurveDisplay.from_estimator, WeightsDisplay.from_estimator])
def test_an_unfitted_network_is_refused(draw):
    with pytest.raises(NotFittedError):
        draw(DeepMLPClassifier())


# ---- reconstructions ----


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


def test_several_methods_are_compared_row_by_row(autoencoder, pca, digits):
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


@pytest.mark.parametrize(
    ("n_features", "image_shape", "message"),
    [
        (64, (28, 28), "image_shape=(28, 28) does not match 64 features"),
        (64, (8,), "image_shape=(8,) does not match 64 features"),
        (60, None, "60 features make no square image; pass image_shape=(height, width)"),
    ],
)
def test_a_shape_that_does_not_match_is_refused(n_features, image_shape, message, digits):
    X = digits.X[:, :n_features]
    with pytest.raises(ValueError, match=re.escape(message)):
        ReconstructionDisplay.from_reconstructions(X, {"same": X}, image_shape=image_shape)


def test_a_reconstruction_of_other_length_is_refused(digits):
    with pytest.raises(ValueError, match="'short' has 2 images for 5 originals"):
        ReconstructionDisplay.from_reconstructions(digits.X[:5], {"short": digits.X[:2]})


# ---- embeddings ----


def _points(n_samples, n_classes=3):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n_samples, 2)), np.arange(n_samples) % n_classes


def test_each_point_has_the_colour_of_its_class(autoencoder, digits):
    display = EmbeddingDisplay.from_estimator(autoencoder, digits.X, digits.y)
    codes = autoencoder.transform(digits.X)
    np.testing.assert_array_equal(display.embedding, codes)
    drawn = {
        tuple(point): mpl.colors.to_hex(color, keep_alpha=False)
        for point, color in zip(
            display.points_.get_offsets().tolist(), display.points_.get_facecolors(), strict=True
        )
    }
    for code, digit in zip(codes.tolist(), digits.y, strict=True):
        assert drawn[tuple(code)] == PALETTE[digit]
    assert _legend(display.ax_) == list("0123456789")


def test_no_class_lies_on_top_of_the_others():
    Z, _ = _points(3000)
    display = EmbeddingDisplay.from_embedding(Z, np.arange(3000) // 1000)
    colors = display.points_.get_facecolors()[-1000:]
    assert len(np.unique(colors, axis=0)) == 3


@pytest.mark.parametrize("n_classes", [2, 10, 11, 30])
def test_every_class_has_a_colour_of_its_own(n_classes):
    display = EmbeddingDisplay.from_embedding(*_points(90, n_classes))
    assert len(np.unique(display.points_.get_facecolors(), axis=0)) == n_classes
    assert len(_legend(display.ax_)) == n_classes


@pytest.mark.parametrize(
    ("y", "is_scale"),
    [
        (np.arange(60) % 30, False),
        (np.arange(60), True),
        (np.linspace(0, 1, 60), True),
        (np.arange(60) % 3 * 1.0, False),
        (np.array([f"name {i}" for i in range(60)]), False),
        (np.arange(60) % 2 == 0, False),
    ],
)
def test_numbers_have_a_colour_bar_and_names_a_legend(y, is_scale):
    display = EmbeddingDisplay.from_embedding(_points(60)[0], y)
    assert (display.classes_ is None) == is_scale
    assert (len(display.figure_.axes) == 2) == is_scale
    assert (display.ax_.get_legend() is None) == is_scale


def test_without_y_there_is_no_legend():
    display = EmbeddingDisplay.from_embedding(_points(60)[0])
    assert display.ax_.get_legend() is None
    assert len(display.figure_.axes) == 1


def test_many_points_are_small_transparent_and_rasterized():
    few, many = (EmbeddingDisplay.from_embedding(*_points(n)).points_ for n in (200, 70_000))
    assert few.get_sizes()[0] > 10 > 3 > many.get_sizes()[0] > 1
    assert few.get_alpha() > many.get_alpha() > 0.3
    assert many.get_rasterized()


def test_classes_are_written_on_their_medians():
    Z, y = _points(300)
    display = EmbeddingDisplay.from_embedding(Z, y, annotate=True, legend=False)
    assert _texts(display.ax_) == ["0", "1", "2"]
    np.testing.assert_allclose(display.ax_.texts[1].xy, np.median(Z[y == 1], axis=0))
    assert display.ax_.get_legend() is None


def test_images_stand_at_their_points(pca, digits):
    display = EmbeddingDisplay.from_estimator(
        pca, digits.X, digits.y, image_shape=(8, 8), n_images=49
    )
    points = pca.transform(digits.X)
    boxes = display.ax_.artists
    assert 20 < len(boxes) <= 49
    for box in boxes:
        (row,) = np.flatnonzero((points == box.xy).all(axis=1))
        np.testing.assert_array_equal(box.offsetbox.get_data().ravel(), digits.X[row])


@pytest.mark.parametrize(
    ("Z", "y", "options", "message"),
    [
        (np.zeros((5, 3)), None, {}, "two numbers for each sample, got 3; reduce them first"),
        (np.zeros((5, 2)), np.zeros(4), {}, "y has shape (4,) for 5 samples"),
        (np.zeros((5, 2)), None, {"n_images": 3}, "n_images=3 but there are no images"),
        (np.zeros((5, 2)), None, {"images": np.zeros((4, 9))}, "inconsistent numbers of samples"),
        (np.full((5, 2), np.nan), None, {}, "Input Z contains NaN"),
    ],
)
def test_maps_that_cannot_be_drawn_are_refused(Z, y, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        EmbeddingDisplay.from_embedding(Z, y, **options)


def test_page_of_a_map_loads_nothing_from_elsewhere(pca, digits):
    pytest.importorskip("plotly")
    display = EmbeddingDisplay.from_estimator(pca, digits.X, digits.y)
    path = display.to_html("map.html", images=digits.X, title="A & B")
    html = path.read_text(encoding="utf-8")
    assert "default-src 'none'" in html
    assert not re.findall(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=", html)
    assert "<title>A &amp; B</title>" in html


def test_page_refuses_images_of_another_number():
    display = EmbeddingDisplay(embedding=_points(12)[0])
    with pytest.raises(ValueError, match=re.escape("inconsistent numbers of samples: [12, 5]")):
        display.to_html("map.html", images=np.zeros((5, 9)))


def test_missing_plotly_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(ImportError, match=re.escape("pip install 'sknn_deep[interactive]'")):
        EmbeddingDisplay(embedding=_points(12)[0]).to_html("map.html")


# ---- weights ----


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


def test_what_has_no_layers_has_no_weights(pca):
    with pytest.raises(TypeError, match="PCA has no layers; pass a network"):
        WeightsDisplay.from_estimator(pca)


# ---- searches ----


def test_a_grid_is_drawn_as_a_table_of_scores():
    search = _grid_search(TWO)
    display = SearchSurfaceDisplay.from_estimator(search)
    scores = display.surface_.get_array()
    assert scores.shape == (3, 2)
    for candidate, score in zip(
        search.cv_results_["params"], search.cv_results_["mean_test_score"], strict=True
    ):
        row = TWO["alpha"].index(candidate["alpha"])
        column = sorted(TWO["fit_intercept"]).index(candidate["fit_intercept"])
        assert scores[row, column] == score
    assert (display.ax_.get_xlabel(), display.ax_.get_ylabel()) == ("fit_intercept", "alpha")
    assert len(_texts(display.ax_)) == 6


def test_the_best_candidate_is_framed():
    search = _grid_search(TWO)
    display = SearchSurfaceDisplay.from_estimator(search)
    column, row = np.rint(display.best_.get_center()).astype(int)
    assert display.surface_.get_array()[row, column] == search.best_score_


def test_a_random_search_is_drawn_as_points_on_logarithmic_axes():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 3))
    grid = {"alpha": loguniform(1e-4, 1e3), "max_iter": [10, 20, 30]}
    search = RandomizedSearchCV(Ridge(), grid, n_iter=12, cv=2, random_state=0)
    display = SearchSurfaceDisplay.from_estimator(search.fit(X, X.sum(axis=1)))
    offsets = display.surface_.get_offsets()
    assert sorted(offsets[:, 1]) == sorted(c["alpha"] for c in search.cv_results_["params"])
    assert (display.ax_.get_xscale(), display.ax_.get_yscale()) == ("linear", "log")
    best = search.best_params_
    np.testing.assert_allclose(display.best_.get_offsets()[0], [best["max_iter"], best["alpha"]])


def test_names_are_shown_without_their_path_through_a_pipeline(digits):
    pipeline = make_pipeline(MinMaxScaler(), LogisticRegression(max_iter=2000, tol=0.1))
    grid = {"logisticregression__C": [0.1, 1], "minmaxscaler__feature_range": [(0, 1), (0, 2)]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(digits.X[:200], digits.y[:200])
    display = SearchSurfaceDisplay.from_estimator(search)
    assert {display.x_name, display.y_name} == {"C", "feature_range"}
    labels = {label.get_text() for label in display.ax_.get_xticklabels()}
    assert labels == {"0-1", "0-2"}


def test_of_three_parameters_the_best_over_the_third_is_shown():
    search = _grid_search(THREE)
    display = SearchSurfaceDisplay.from_estimator(search, params=("solver", "alpha"))
    results = search.cv_results_
    for i, (solver, alpha) in enumerate(zip(display.x, display.y, strict=True)):
        of_pair = [c["solver"] == solver and c["alpha"] == alpha for c in results["params"]]
        assert display.scores[i] == results["mean_test_score"][of_pair].max()
    assert len(display.scores) == 6


def test_a_failed_candidate_is_marked():
    display = SearchSurfaceDisplay(
        x=[1, 2, 1, 2], y=["a", "a", "b", "b"], scores=[0.1, np.nan, 0.3, 0.2]
    ).plot()
    assert _texts(display.ax_) == ["0.1", "failed", "0.3", "0.2"]
    assert np.rint(display.best_.get_center()).tolist() == [0, 1]


def test_one_of_several_scores_can_be_chosen():
    scoring = ["r2", "neg_mean_absolute_error"]
    search = _grid_search(TWO, scoring=scoring, refit="r2")
    scores = {
        metric: SearchSurfaceDisplay.from_estimator(search, metric=metric).scores
        for metric in [None, *scoring]
    }
    np.testing.assert_array_equal(scores[None], scores["r2"])
    assert max(scores["neg_mean_absolute_error"]) < 0
    with pytest.raises(ValueError, match="metric='mae' is not among those of the search"):
        SearchSurfaceDisplay.from_estimator(search, metric="mae")


@pytest.mark.parametrize(
    ("grid", "params", "message"),
    [
        (THREE, None, "varies 3: ['alpha', 'fit_intercept', 'solver']. Name two of them"),
        ({"alpha": [1, 2]}, None, "varies 1: ['alpha']. Search over two"),
        ({"alpha": [1], "solver": ["svd"]}, None, "varies 0: []"),
        (TWO, ("alpha", "beta"), "must be two of the search's parameters: ['alpha', 'fit_inter"),
        (TWO, ("alpha",), "params=('alpha',) must be two of the search's parameters"),
    ],
)
def test_a_surface_needs_two_known_parameters(grid, params, message):
    search = _grid_search(grid)
    with pytest.raises(ValueError, match=re.escape(message)):
        SearchSurfaceDisplay.from_estimator(search, params=params)


def test_an_unfitted_search_is_refused():
    with pytest.raises(NotFittedError):
        SearchSurfaceDisplay.from_estimator(GridSearchCV(Ridge(), TWO))
