"""Training on all rows at once with L-BFGS, which has iterations instead of epochs."""

from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from sknn_deep._engine.batches import Batches
from sknn_deep._engine.chunk import Chunk
from sknn_deep._engine.lbfgs import fit_lbfgs
from sknn_deep._engine.losses import Loss
from sknn_deep._hardware.ranks import Ranks
from sknn_deep._networks.flat import Network
from sknn_deep._training.interruption import is_one_of_many
from sknn_deep._training.naming import present_name
from sknn_deep._training.progress import DivergenceError, divergence_message
from sknn_deep._training.sklearn_callbacks import SklearnCallbacks
from sknn_deep._user_warnings import warn_user


class WholeSetTraining:
    """Minimisation of one network's loss over the whole training set.

    Parameters
    ----------
    estimator : estimator
        Its parameters define the training: ``alpha``, ``tol``, ``max_iter``, ``max_fun``.
    network : Network
        Initialised and on its device.
    loss : Loss
    batches : Chunk or Batches
        The whole set.
    callbacks : list of SklearnCallbacks
        Notified of the start and the end.
    ranks : Ranks, default=None
        The processes that train together.

    Attributes
    ----------
    n_iter : int
        Number of iterations, set at the end.
    """

    def __init__(
        self,
        estimator: Any,
        network: Network,
        loss: Loss,
        batches: Chunk | Batches,
        callbacks: list[SklearnCallbacks],
        ranks: Ranks | None = None,
    ):
        self.estimator, self.network, self.loss = estimator, network, loss
        self.batches, self._callbacks, self._ranks = batches, callbacks, ranks
        self.n_iter, self._value, self._interrupted = 0, np.nan, False
        name = present_name()
        self._name = f"{name}: " if name else ""

    def begin(self) -> None:
        """Notify callbacks that the training begins."""
        for callback in self._callbacks:
            callback.on_train_begin(None)

    def run(self, checkpoint: None = None) -> None:
        """Train to the end.

        Raises
        ------
        DivergenceError
            If the weights or the loss are not finite.
        KeyboardInterrupt
            If the user interrupts before the first iteration, or interrupts one of many fits.
        """
        estimator = self.estimator
        value, n_iter, self._interrupted = fit_lbfgs(
            self.network,
            self.loss,
            self.batches,
            alpha=estimator.alpha,
            tol=estimator.tol,
            max_iter=estimator.max_iter,
            max_fun=estimator.max_fun,
            watch=self._print_line if estimator.verbose else None,
            ranks=self._ranks,
        )
        for callback in self._callbacks:
            callback.on_train_end(None)
        is_finite = self.network.is_finite()
        if not is_finite or not np.isfinite(value):
            what = "loss" if is_finite else "parameter weights"
            raise DivergenceError(
                f"{divergence_message(what)} The loss was {value:g}: scale the input "
                "(StandardScaler) and large targets."
            )
        if self._interrupted:
            if is_one_of_many():
                raise KeyboardInterrupt
            warn_user("Training interrupted by user.")
        else:
            self._warn_of_little(value)
        self.n_iter, self._value = n_iter, value

    def _print_line(self, n_iter: int, loss: float) -> None:
        print(f"{self._name}Iteration {n_iter}, loss = {loss:.8f}")

    def _warn_of_little(self, value: float) -> None:
        """Warn if little was learned, with the estimator's advice."""
        if isinstance(self.batches, Batches):
            target, weight = self.batches.samples.targets, self.batches.weight
        else:
            target, scale = self.batches.target.cpu().numpy(), self.batches.scale
            weight = None if scale is None else scale.cpu().numpy().ravel()
        advice = self.estimator._advice(target, weight, value)
        if advice:
            warn_user(advice, ConvergenceWarning)

    def fitted_attributes(self) -> dict[str, Any]:
        """Return the fitted attributes that the training sets on the estimator."""
        return {
            "loss_": self._value,
            "n_iter_": self.n_iter,
            "best_iter_": self.n_iter,
            "interrupted_": self._interrupted,
        }
