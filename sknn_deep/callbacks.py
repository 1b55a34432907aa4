"""Callbacks: checkpoints of a training, and how a callback ends one.

skorch callbacks go into an estimator's ``callbacks`` parameter. scikit-learn's own
(``sklearn.callback.ProgressBar``, ``ScoringMonitor``, …) are registered with
``estimator.set_callbacks(...)``.
"""

from sknn_deep._training.checkpoint import TrainingCheckpoint
from sknn_deep._training.sklearn_callbacks import StopTraining

__all__ = ["StopTraining", "TrainingCheckpoint"]
