"""Write the files that later releases must read: ``python tests/data/write_golden_files.py``.

Run it once for a new number of the format, after changing the prefix; a file that is there
stays as it is, since it is what an older release has written.
"""

import json
import warnings
from pathlib import Path

import numpy as np
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sknn_deep import AutoencoderTransformer, DeepMLPClassifier, DeepMLPRegressor, save

FOLDER = Path(__file__).parent
PREFIX = "format_1"


def estimators():
    """Return small fitted estimators by name, with the rows that they are asked about."""
    X = np.random.RandomState(0).uniform(size=(20, 3))
    y = np.where(X[:, 0] > X[:, 1], "larger", "smaller")
    small = {"hidden_layer_sizes": (3,), "max_iter": 5, "random_state": 0}
    classifier = DeepMLPClassifier(**small, dropout=0.2, early_stopping=True)
    autoencoder = AutoencoderTransformer(**small, n_components=2, normalization="batch")
    pipeline = make_pipeline(StandardScaler(), DeepMLPClassifier(**small, solver="sgd"))
    return X[:4], {
        "classifier": classifier.fit(X, y),
        "regressor": DeepMLPRegressor(**small, n_networks=2).fit(X.astype(np.float32), X[:, :2]),
        "autoencoder": autoencoder.fit(X),
        "pipeline": pipeline.fit(X, y),
    }


def output(estimator, X):
    """Return numbers that tell one fitted estimator from another."""
    names = ("predict_proba", "predict", "transform")
    return getattr(estimator, next(name for name in names if hasattr(estimator, name)))(X)


def main():
    rows, fitted = estimators()
    outputs = {name: output(estimator, rows).tolist() for name, estimator in fitted.items()}
    for name, estimator in fitted.items():
        path = FOLDER / f"{PREFIX}_{name}.safetensors"
        if not path.exists():
            save(estimator, path)
            path.with_suffix(".json").write_text(
                json.dumps({"rows": rows.tolist(), "output": outputs[name]}), encoding="utf-8"
            )


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
