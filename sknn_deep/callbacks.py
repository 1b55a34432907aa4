"""Callbacks: training checkpoints, a progress bar, and how a callback ends a training.

skorch callbacks, and :class:`TrainingCheckpoint`, go into an estimator's ``callbacks`` parameter.
scikit-learn's own (``ScoringMonitor``, …), and :class:`ProgressBar`, are registered with
``estimator.set_callbacks(...)``.
"""

from sknn_deep._training.checkpoint import TrainingCheckpoint
from sknn_deep._training.progress_bar import ProgressBar
from sknn_deep._training.sklearn_callbacks import StopTraining

__all__ = ["ProgressBar", "StopTraining", "TrainingCheckpoint"]
