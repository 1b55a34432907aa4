"""All displays: drawn without a warning, inside the figure, on given axes, from the palette."""

import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV

from sknn_deep import AutoencoderTransformer, DeepMLPClassifier
from sknn_deep.plotting import (
    CalibrationDisplay,
    EmbeddingDisplay,
    HalvingDisplay,
    ImportanceDisplay,
    IntervalDisplay,
    LossCurveDisplay,
    ReconstructionDisplay,
    SearchSurfaceDisplay,
    WeightsDisplay,
)

pytestmark = pytest.mark.usefixtures("scratch")  # draws without a screen
QUICK = {"max_iter": 6, "learning_rate": "one_cycle", "random_state": 0}
MANY_NAMES = [f"_name {i} for $1" for i in range(80)]


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


@pytest.fixture(scope="module")
def search(digits):
    grid = {"alpha": [0.1, 1, 10], "fit_intercept": [True, False]}
    return GridSearchCV(Ridge(), grid, cv=2).fit(digits.X, digits.y)


@pytest.fixture
def draw_all(classifier, autoencoder, pca, search, digits):
    """Offer a function that draws one of each display."""
    return lambda: _draw_all(classifier, autoencoder, pca, search, digits)


def _draw_all(classifier, autoencoder, pca, search, digits):
    numbers = np.where(digits.y == 3, np.nan, digits.X[:, 20])
    codes = np.random.default_rng(0).normal(size=(81, 2))
    return [
        LossCurveDisplay.from_estimator(classifier),
        ReconstructionDisplay.from_estimator(autoencoder, digits.X),
        EmbeddingDisplay.from_estimator(pca, digits.X, digits.y, annotate=True),
        EmbeddingDisplay.from_estimator(pca, digits.X, image_shape=(8, 8), n_images=30),
        EmbeddingDisplay.from_estimator(pca, digits.X, numbers),
        EmbeddingDisplay.from_embedding(codes, [None, *MANY_NAMES], annotate=True),
        WeightsDisplay.from_estimator(classifier),
        SearchSurfaceDisplay.from_estimator(search),
        CalibrationDisplay.from_estimator(classifier, digits.X_test, digits.y_test),
        IntervalDisplay.from_predictions(codes[:, 0], codes[:, 0] - 1, codes[:, 1]),
        HalvingDisplay(
            candidates=[0, 1, 2, 0, 1], resources=[1, 1, 1, 3, 3], scores=codes[:5, 0], best=1
        ).plot(),
        ImportanceDisplay.from_importances(codes[:40], feature_names=MANY_NAMES[:40]),
    ]


@pytest.mark.parametrize("style", ["default", "dark_background"])
def test_displays_are_drawn_without_a_warning_and_inside_the_figure(style, draw_all):
    with plt.style.context(style):
        for display in draw_all():
            display.figure_.canvas.draw()  # warnings are errors
            assert display.ax_.figure is display.figure_
            box, figure = display.figure_.get_tightbbox(), display.figure_.bbox_inches
            assert box.xmin >= -0.01
            assert box.ymin >= -0.01
            assert box.xmax <= figure.width + 0.01
            assert box.ymax <= figure.height + 0.01


def test_displays_draw_on_given_axes(draw_all):
    for display in draw_all():
        figure, (left, right) = plt.subplots(1, 2)
        assert display.plot(right) is display
        assert display.ax_ is right
        assert display.figure_ is figure
        assert not left.has_data()
        assert right.has_data()
        plt.close(figure)


def test_displays_draw_on_axes_of_a_subfigure(draw_all):
    for display in draw_all():
        figure = plt.figure(figsize=(12, 6), layout="constrained")
        left, right = figure.subfigures(1, 2)
        display.plot(right.subplots())
        assert display.figure_ is right
        assert left.axes == []
        plt.close(figure)


def test_missing_matplotlib_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"LossCurveDisplay.plot requires matplotlib"):
        LossCurveDisplay(training_loss=[2, 1]).plot()
