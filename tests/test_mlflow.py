"""MLflow logs the fits of this package's estimators and searches, where it is installed."""

import sys

import pytest
from sklearn.datasets import load_iris

import sknn_deep.mlflow
from sknn_deep import AutoencoderTransformer, DeepMLPClassifier
from sknn_deep.model_selection import FusedGridSearchCV

QUICK = {"hidden_layer_sizes": (4,), "max_iter": 3, "random_state": 0}


def test_mlflow_is_imported_only_when_it_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ImportError, match="mlflow"):
        sknn_deep.mlflow.autolog()


@pytest.mark.filterwarnings("ignore")  # of other packages
def test_autologging_sees_fits_and_searches(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)  # where the pictures go
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    X, y = load_iris(return_X_y=True)
    sknn_deep.mlflow.autolog(log_models=False, log_datasets=False)
    try:
        for estimator in (
            DeepMLPClassifier(**QUICK),
            AutoencoderTransformer(n_components=2, **QUICK),
            FusedGridSearchCV(DeepMLPClassifier(**QUICK), {"alpha": [0.1, 0.2]}, cv=2),
        ):
            with mlflow.start_run() as run:
                estimator.fit(X, y)
            logged = mlflow.get_run(run.info.run_id).data
            assert logged.tags["estimator_name"] == type(estimator).__name__
            assert logged.params.keys() >= estimator.get_params(deep=False).keys() - {"param_grid"}
            if isinstance(estimator, FusedGridSearchCV):
                assert logged.metrics["best_cv_score"] == pytest.approx(estimator.best_score_)
                assert len(mlflow.search_runs()) == 3 + 2
    finally:
        mlflow.sklearn.autolog(disable=True)
