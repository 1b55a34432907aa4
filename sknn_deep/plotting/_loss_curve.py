"""The loss curve."""

import numpy as np
from sklearn.utils.validation import check_is_fitted

from sknn_deep.plotting._style import PALETTE, resolve_axes


class LossCurveDisplay:
    """Loss over the epochs of a training.

    Made by :meth:`from_estimator`. Several trainings share one picture when the axes of the
    first are passed on: each has a colour, training is dashed, validation solid.

    Parameters
    ----------
    training_loss : array-like of shape (n_epochs,)
        Loss on the training data after each epoch.

    validation_loss : array-like of shape (n_epochs,), default=None
        Loss on the validation data after each epoch.

    best_iter : int, default=None
        Epoch, counted from 1, whose weights were kept. Marked on the validation loss.

    name : str, default=None
        What the legend calls the training.

    Attributes
    ----------
    ax_ : matplotlib Axes
        What was drawn on.

    figure_ : matplotlib Figure
        Its figure.

    lines_ : list of matplotlib Line2D
        Training loss, then validation loss and the mark of the best epoch, where there are.

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

    def __init__(self, *, training_loss, validation_loss=None, best_iter=None, name=None):
        self.training_loss = training_loss
        self.validation_loss = validation_loss
        self.best_iter = best_iter
        self.name = name

    @classmethod
    def from_estimator(cls, estimator, *, name=None, ax=None, **options):
        """Draw the loss curves of a fitted network.

        Parameters
        ----------
        estimator : estimator
            Fitted; of this package, or another with ``loss_curve_``.

        name : str, default=None
            What the legend calls the training.

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

    def plot(self, ax=None, *, line_kw=None):
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
        n_trainings = len({line.get_color() for line in ax.lines})
        style = {"color": PALETTE[n_trainings % len(PALETTE)], "lw": 2, **(line_kw or {})}
        prefix = "" if self.name is None else f"{self.name}: "
        epochs = np.arange(1, len(self.training_loss) + 1)
        has_validation = self.validation_loss is not None
        training_style = {"lw": 1.5, "ls": "--"} if has_validation else {}
        self.lines_ = ax.plot(
            epochs, self.training_loss, label=f"{prefix}training", **(style | training_style)
        )
        if has_validation:
            self.lines_ += ax.plot(
                epochs, self.validation_loss, label=f"{prefix}validation", **style
            )
        if has_validation and self.best_iter is not None:
            best = [self.best_iter], [self.validation_loss[self.best_iter - 1]]
            label = f"{prefix}weights kept, epoch {self.best_iter}"
            mark = {"ls": "", "marker": "o", "ms": 8, "mec": ax.get_facecolor(), "zorder": 3}
            self.lines_ += ax.plot(*best, color=style["color"], label=label, **mark)
        _scale_losses(ax)
        ax.set(xlabel="epoch", ylabel="loss")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.grid(axis="y", alpha=0.3, lw=0.6)
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False)
        return self


def _scale_losses(ax):
    """Choose a logarithmic scale with readable ticks where the losses span a large range."""
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
