"""Methods that estimators override to adapt a fit.

Every method that an estimator may override is declared here, with its arguments and return values.
All but those of the first two groups have a default.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch

from sknn_deep._engine.features import Features
from sknn_deep._engine.losses import Loss
from sknn_deep._engine.samples import Samples
from sknn_deep._estimators.call import Call
from sknn_deep._estimators.fitted_attributes import FittedNetwork
from sknn_deep._estimators.fitted_state import FITTED_STATE, Entry
from sknn_deep._estimators.parameters import NetworkParameters, check_combinations
from sknn_deep._estimators.table_columns import TableColumns
from sknn_deep._estimators.types import Activations
from sknn_deep._networks.flat import Network


class NetworkHooks(FittedNetwork, NetworkParameters):
    """Estimator-specific parts of a fit: data, network, loss and rules.

    A :class:`~sknn_deep._estimators.fitting.Fit` calls them on a draft of the estimator, and the
    attributes they set there become the estimator's when the fit is committed.
    """

    # Parameters of all three estimators, with a different default in each.
    hidden_layer_sizes: int | Sequence[int]
    activation: Activations

    # The network that the estimator trains.
    _network_class: ClassVar[type[Network]]
    # The attributes that a fit may set, by name.
    _fitted_state: ClassVar[dict[str, Entry]] = FITTED_STATE
    # True, or "allow-nan" for an estimator that supports missing values.
    _ensure_all_finite: ClassVar[bool | str] = True
    # whether predictions for the rows in ``_known_output`` reuse the raw output stored there
    _uses_known_output: ClassVar[bool] = False

    # ------------------------------------------------------------------ the data

    def _validate_training_data(
        self, call: Call, dtypes: list[type], *, reset: bool
    ) -> tuple[Any, np.ndarray | None, np.ndarray | None]:
        """Validate the training data, and set what the estimator learns from them.

        Parameters
        ----------
        call : Call
        dtypes : list of type
            Accepted types of X; others are converted to the first.
        reset : bool
            Whether a new network is made; otherwise the data must match the existing one.

        Returns
        -------
        X : {ndarray, CSR matrix} of shape (n_samples, n_features)
        y : ndarray or None
            The user's targets, for scores.
        targets : ndarray of shape (n_samples, n_outputs) or (n_samples,), or None
            Targets of the loss; None stands for X.
        """
        raise NotImplementedError

    def _validate_held_out_data(
        self, X: Any, y: Any, dtype: type
    ) -> tuple[Any, np.ndarray | None, np.ndarray | None]:
        """Validate the user's validation set; return what ``_validate_training_data`` does."""
        raise NotImplementedError

    def _learn_columns(self, X: Any) -> TableColumns | None:
        """Return what is learned from columns that do not hold numbers."""
        return None

    def _learn_gaps(self, X: Features) -> TableColumns | None:
        """Return the learned columns, including the gaps in validated numbers."""
        return self._columns

    def _params_of_networks(self) -> list[dict[str, Any]]:
        """Return, for each network of ``fit``, the parameters that differ from the estimator's."""
        return [{}]

    def _jobs_of_ensemble(self) -> int | None:
        """Return how many processes may train networks of an ensemble, as joblib's ``n_jobs``."""
        return 1

    def _weigh_classes(
        self, y: np.ndarray | None, sample_weight: np.ndarray | None, learn: bool
    ) -> np.ndarray | None:
        """Return the weight of each row in the loss; classifiers fold class weights in.

        Parameters
        ----------
        y : ndarray or None
        sample_weight : ndarray of shape (n_samples,) or None
        learn : bool
            Whether these are the training data, from which the class weights are computed.
        """
        return sample_weight

    def _labels_to_share(self, targets: np.ndarray | None) -> tuple[np.ndarray, ...]:
        """Return the labels that both training and held-out rows should contain.

        Returns
        -------
        labels : ndarray of shape (n_rows,) or (n_rows, n_labels)
            Class indices, or 0 and 1 for several labels per row.
        names : ndarray
            The user's classes or labels. Without classes, an empty tuple is returned.
        """
        return ()

    # ------------------------------------------------------------------ the network

    def _planned_output(
        self, n_classes: int | None, n_outputs: int | None
    ) -> tuple[int | None, str]:
        """Return outputs and output activation of a network for data not yet seen."""
        raise NotImplementedError

    def _network_config(self, n_features: int, dtype: torch.dtype) -> dict[str, Any]:
        """Return the arguments of ``_network_class`` except the device."""
        raise NotImplementedError

    def _initial_activations(self) -> list[str]:
        """Return for each dense layer the activation for which its weights are drawn."""
        raise NotImplementedError

    def _prepare_network(self, samples: Samples) -> None:
        """Adjust a new network after its weights are drawn and before it is trained."""

    def _learn_scales(self, samples: Samples, rows: np.ndarray | None) -> None:
        """Learn a new network's scales from the given training rows; None stands for all."""

    def _in_network_units(self, samples: Samples) -> Samples:
        """Return samples with the targets that the network's raw output is compared with."""
        return samples

    # ------------------------------------------------------------------ loss and score

    def _make_loss(self) -> Loss:
        """Return the loss that the training minimises."""
        raise NotImplementedError

    def _learn_from_held_out(
        self, X: Features, y: np.ndarray | None, sample_weight: np.ndarray | None
    ) -> None:
        """Learn from held-out rows, for calibration and prediction intervals.

        Also called for an ensemble if its networks have held out the same rows.
        """

    def _holds_out_together(self) -> bool:
        """Return whether early stopping holds out the same rows for all networks of an ensemble."""
        return self.early_stopping and self.validation_splitter is not None

    def _pool_held_out(self) -> None:
        """Learn from the held-out rows of an ensemble whose networks hold out different rows."""

    def _default_score(
        self, raw: np.ndarray, y: np.ndarray | None, sample_weight: np.ndarray | None
    ) -> float:
        """Return the score of a validation set's raw output where ``scoring`` is None."""
        raise NotImplementedError

    def _validation_scoring(self) -> Any:
        """Return the scoring of early stopping; None for ``_default_score``."""
        return self.scoring

    # ------------------------------------------------------------------ rules

    def _check_combinations(self, call: Call) -> None:
        """Refuse parameters and arguments that are valid one by one but not together."""
        check_combinations(self, call, self._sources_of_chance())

    def _sources_of_chance(self) -> list[tuple[str, bool]]:
        """Return the parameters that make the loss random, and whether they are in use."""
        return [("dropout", any(np.ravel(self.dropout) != 0))]

    def _reason_to_train_alone(self) -> str:
        """Return why the network cannot be part of a stack; empty if this class knows no reason."""
        return ""

    def _fixed_parameters(self) -> dict[str, Any]:
        """Return parameters, besides the network's own, that must not change between calls."""
        return {"solver": self.solver}

    # ------------------------------------------------------------------ afterwards

    def _advice(
        self, targets: np.ndarray | None, weight: np.ndarray | None, loss_value: float
    ) -> str:
        """Return why little was learned and what to change, or an empty string.

        Parameters
        ----------
        targets : ndarray of shape (n_samples, n_outputs) or (n_samples,), or None
        weight : ndarray of shape (n_samples,) or None
        loss_value : float
            The training loss of the weights that are kept.
        """
        return ""

    def _describe_training(self, batches: Any, incremental: bool) -> None:
        """Set attributes that a trained network computes from its training data.

        Parameters
        ----------
        batches : Batches, or with L-BFGS a Chunk
        incremental : bool
        """
