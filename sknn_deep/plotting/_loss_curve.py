"""The loss over the epochs of a training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from sknn_deep.plotting._style import next_color, resolve_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.lines import Line2D
    from numpy.typing import ArrayLike


class LossCurveDisplay:
    """Loss over the epochs of a training.

    Made by :meth:`from_estimator`. To compare trainings in one plot, pass the axes of the first.
    Each training has its own colour; training loss is dashed, validation loss solid.

    Parameters
    ----------
    training_loss : array-like of shape (n_epochs,)
        Loss on the training data after each epoch.

    validation_loss : array-like of shape (n_epochs,), default=None
        Loss on the validation data after each epoch.

    best_iter : int, default=None
        Epoch, counted from 1, whose weights were kept. Marked on the validation loss.

    name : str, default=None
        Name of the training in the legend.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes with the curves.

    figure_ : matplotlib Figure
        The figure that holds them.

    lines_ : list of matplotlib Line2D
        Training loss, then validation loss and the mark of the best epoch, if there are any.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sknn_deep import DeepMLPClassifier
    >>> from sknn_deep.plotting import LossCurveDisplay
    >>> X, y = load_digits(return_X_y=True)
    >>> display = None
    >>> for rate in (1e-3, 1e-2):
    ...     classifier = DeepMLPClassifier(
    ...         learning_rate="one_cycle", learning_rate_init=rate, max_iter=5,
    ...         early_stopping=True, random_state=0,
    ...     ).fit(X / 16, y)
    ...     display = LossCurveDisplay.from_estimator(
    ...         classifier, name=f"peak {rate}", ax=display and display.ax_
    ...     )
    >>> len(display.ax_.lines)
    6
    """

    ax_: Axes
    figure_: Figure | SubFigure
    lines_: list[Line2D]

    def __init__(
        self,
        *,
        training_loss: ArrayLike,
        validation_loss: ArrayLike | None = None,
        best_iter: int | None = None,
        name: str | None = None,
    ) -> None:
        self.training_loss = training_loss
        self.validation_loss = validation_loss
        self.best_iter = best_iter
        self.name = name

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        name: str | None = None,
        ax: Axes | None = None,
        **options: Any,
    ) -> Self:
        """Draw the loss curves of a fitted network.

        Parameters
        ----------
        estimator : estimator
            Fitted network with ``loss_curve_``, of this package or scikit-learn's.

        name : str, default=None
            Name of the training in the legend.

        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure. Pass ``display.ax_`` to compare trainings.

        **options : dict
            Further arguments of :meth:`plot`.

        Returns
        -------
        display : LossCurveDisplay

        Raises
        ------
        ValueError
            If the estimator has no loss curve.
        """
        check_is_fitted(estimator)
        if not hasattr(estimator, "loss_curve_"):
            raise ValueError(
                f"{type(estimator).__name__} has no loss_curve_; pass a network that was trained "
                "in epochs (solver='lbfgs' has none), such as pipeline[-1] or "
                "ensemble.estimators_[0]."
            )
        validation_loss = getattr(estimator, "validation_loss_curve_", None)
        display = cls(
            training_loss=estimator.loss_curve_,
            validation_loss=validation_loss,
            best_iter=None if validation_loss is None else estimator.best_iter_,
            name=name,
        )
        return display.plot(ax, **options)

    def plot(self, ax: Axes | None = None, *, line_kw: dict[str, Any] | None = None) -> Self:
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.

        line_kw : dict, default=None
            Further arguments of ``Axes.plot`` for the curves.

        Returns
        -------
        self : LossCurveDisplay
        """
        ax = resolve_axes(self, ax, (6.4, 4))
        style: dict[str, Any] = {"color": next_color(ax), "lw": 2}
        style |= line_kw or {}
        prefix = "" if self.name is None else f"{self.name}: "
        training = np.asarray(self.training_loss)
        epochs = np.arange(1, len(training) + 1)
        is_alone = self.validation_loss is None
        training_style = style if is_alone else style | {"lw": 1.5, "ls": "--"}
        self.lines_ = ax.plot(epochs, training, label=f"{prefix}training", **training_style)
        if self.validation_loss is not None:
            validation = np.asarray(self.validation_loss)
            self.lines_ += ax.plot(epochs, validation, label=f"{prefix}validation", **style)
            if self.best_iter is not None:
                self.lines_ += ax.plot(
                    [self.best_iter],
                    [validation[self.best_iter - 1]],
                    ls="",
                    marker="o",
                    ms=8,
                    mec=ax.get_facecolor(),
                    color=style["color"],
                    zorder=3,
                    label=f"{prefix}weights kept, epoch {self.best_iter}",
                )
        _scale_losses(ax)
        ax.set(xlabel="epoch", ylabel="loss")
        ax.locator_params(axis="x", integer=True)
        ax.grid(axis="y", alpha=0.3, lw=0.6)
        ax.spines[["top", "right"]].set_visible(False)
        _draw_legend(ax)
        return self


def _draw_legend(ax: Axes) -> None:
    """Draw the legend on the axes, or beside them if it would cover the curves."""
    is_beside = len(ax.lines) > 6 and ax.figure.get_layout_engine() is not None
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1, 1)} if is_beside else {}
    ax.legend(frameon=False, **place)


def _scale_losses(ax: Axes) -> None:
    """Use a logarithmic scale with readable ticks if the losses span a large range."""
    from matplotlib.ticker import LogLocator, NullLocator

    losses = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in ax.lines])
    losses = losses[np.isfinite(losses)]
    if losses.min(initial=np.inf) <= 0 or losses.max(initial=0) < 5 * losses.min(initial=np.inf):
        ax.set_yscale("linear")
        return
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter("{x:g}")
