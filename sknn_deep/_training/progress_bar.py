"""scikit-learn's progress bar, with the figures of each epoch."""

from collections.abc import Callable
from typing import Any

import sklearn.callback

from sknn_deep._sklearn import context_path, progress_monitor, send_to_listener

# Widths in characters: of the bar with percentage and time, of a short bar with both, and of an
# epoch's figures with the end of a name.
_BAR, _SHORT_BAR, _FIGURES = 60, 24, 56


class ProgressBar(sklearn.callback.ProgressBar):
    """Show the progress of a fit, with the loss and the validation score of the last epoch.

    Like scikit-learn's ``ProgressBar``, with the same parameter, in terminals and notebooks: a bar
    for each estimator, the percentage done and the time left. For a network of this package the bar
    also shows the epoch, its loss and, with a validation set, its score.

    Parameters
    ----------
    max_propagation_depth : int, default=1
        How many levels of nested estimators have a bar: 0 shows only the outermost, None all.

    Notes
    -----
    It requires rich, which the extra ``progress`` installs, and in a notebook also ipywidgets. A
    fused search has a single bar, as networks that are trained together have none of their own. An
    ensemble has one for itself and one for each of its networks.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sknn_deep import DeepMLPClassifier
    >>> from sknn_deep.callbacks import ProgressBar
    >>> X, y = load_iris(return_X_y=True)
    >>> classifier = DeepMLPClassifier(early_stopping=True).set_callbacks(ProgressBar())
    >>> classifier.fit(X, y)  # doctest: +SKIP
    DeepMLPClassifier - fit: epoch 32, loss 0.0518, score 0.9333 ━━━━━━━━━━━━━━━━━━━━━━ 100% 0:00:00
    """

    def setup(self, estimator: Any, context: Any) -> None:
        """Start listening.

        Parameters
        ----------
        estimator : estimator
            The estimator being fitted.
        context : CallbackContext
            scikit-learn's context.
        """
        super().setup(estimator, context)
        monitor = progress_monitor(context)
        monitor._on_task_end = _with_figures(monitor)

    def on_fit_task_end(self, estimator: Any, context: Any) -> None:
        """Report an epoch's figures, and the end of the task.

        Parameters
        ----------
        estimator : estimator
            The estimator being fitted.
        context : CallbackContext
            scikit-learn's context.
        """
        figures = getattr(context, "figures", None)
        if figures:
            path = [part.task_id for part in context_path(context)][:-1]
            message = {"event": "figures", "path": path, "figures": figures}
            send_to_listener(self._listener_handles[context.root_uuid], message)
        super().on_fit_task_end(estimator, context)


def _with_figures(monitor: Any) -> Callable[[dict[str, Any]], None]:
    """Return a handler for all messages except the start of a task."""
    end_task = monitor._on_task_end
    descriptions: dict[int, str] = {}

    def handle(message: dict[str, Any]) -> None:
        if "figures" not in message:
            end_task(message)
            return
        task = monitor.root_rich_task.get_descendants(message["path"])[-1]
        if not hasattr(task, "id"):  # it has no bar
            return
        bars = monitor.progress_ctx
        own = descriptions.setdefault(task.id, bars.tasks[task.id].description)
        width = bars.console.width
        most = max(width - _BAR, min(width - _SHORT_BAR, _FIGURES))
        bars.update(task.id, description=_beside(own, described(message["figures"]), most))

    return handle


def _beside(name: str, figures: str, most: int) -> str:
    """Return a task's name and its figures, truncating the start of the name if necessary.

    rich would show nothing of a line that is too long.

    Examples
    --------
    >>> from sknn_deep._training.progress_bar import _beside
    >>> _beside("  GridSearchCV - split | DeepMLPClassifier - fit #0", "loss 0.25", 40)
    '  …DeepMLPClassifier - fit #0: loss 0.25'
    """
    indent = name[: len(name) - len(name.lstrip())]
    n_over = len(name) + len(": ") + len(figures) - most
    if n_over > 0:
        name = f"{indent}…{name.lstrip()[n_over + 1 :]}"
    return f"{name}: {figures}"


def described(figures: dict[str, float]) -> str:
    """Return the figures of an epoch as a short text.

    Examples
    --------
    >>> from sknn_deep._training.progress_bar import described
    >>> described({"epoch": 3, "loss": 0.25, "score": 0.9})
    'epoch 3, loss 0.25, score 0.9'
    """
    return ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
