"""Use an installed package as its users do: fit, predict, save, load, draw."""

import tempfile
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
from sklearn.datasets import load_digits
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

import sknn_deep
from sknn_deep import AutoencoderTransformer, DeepMLPClassifier, TabularMLPClassifier
from sknn_deep.model_selection import FusedGridSearchCV
from sknn_deep.plotting import EmbeddingDisplay


def main() -> None:
    assert "site-packages" in sknn_deep.__file__, sknn_deep.__file__
    assert version("sknn_deep") == sknn_deep.__version__
    for name in ("py.typed", "plotting/embedding_page.html"):
        assert files("sknn_deep").joinpath(name).is_file(), name
    X, y = load_digits(return_X_y=True)
    schedule = {"learning_rate": "one_cycle", "learning_rate_init": 0.01, "random_state": 0}
    pipeline = make_pipeline(MinMaxScaler(), DeepMLPClassifier(max_iter=10, **schedule))
    search = FusedGridSearchCV(pipeline, {"deepmlpclassifier__alpha": [1e-4, 1e-2]}, cv=2)
    assert search.fit(X, y).best_score_ > 0.9
    codes = AutoencoderTransformer(2, max_iter=5, **schedule).fit_transform(X / 16)
    EmbeddingDisplay.from_embedding(codes, y).figure_.canvas.draw()
    table = pd.DataFrame({"size": [1.0, 2.0, None, 8.0] * 50, "kind": list("aabb") * 50})
    kinds = ["small", "small", "large", "large"] * 50
    classifier = TabularMLPClassifier(n_networks=1, random_state=0).fit(table, kinds)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.skops")
        sknn_deep.save(classifier, path)
        loaded = sknn_deep.load(path)
    assert np.array_equal(loaded.predict_proba(table), classifier.predict_proba(table))


if __name__ == "__main__":
    main()
