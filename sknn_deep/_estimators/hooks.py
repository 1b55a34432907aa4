"""What an estimator decides for itself in the course of a fit.

Every method that an estimator may override stands here, with what it takes and returns. All but
those of the first two groups have a default.
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
    """The decisions of an estimator: its data, its network, its loss, its rules.

    A :class:`~sknn_deep._estimators.fitting.Fit` calls them on a draft of the estimator, and
    what they set there belongs to the estimator once the fit is committed.
    """

    # Parameters of all three estimators, each with a default of its own.
    hidden_layer_sizes: int | Sequence[int]
    activation: Activations

    # The network that the estimator trains.
    _network_class: ClassVar[type[Network]]
    # What a fit leaves behind, by name.
    _fitted_state: ClassVar[dict[str, Entry]] = FITTED_STATE
    # True, or "allow-nan" for an estimator that knows what to do with missing values.
    _ensure_all_finite: ClassVar[bool | str] = True
    # whether rows are predicted from their raw output where ``_known_output`` holds both
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
            The types that X may have; others become the first.
        reset : bool
            Whether a new network is made; else the data must fit the present one.

        Returns
        -------
        X : {ndarray, CSR matrix} of shape (n_samples, n_features)
        y : ndarray or None
            The user's targets, for scores.
        targets : ndarray of shape (n_samples, n_outputs) or (n_samples,), or None
            What the loss compares the output with; None stands for X.
        """
        raise NotImplementedError

    def _validate_held_out_data(
        self, X: Any, y: Any, dtype: type
    ) -> tuple[Any, np.ndarray | None, np.ndarray | None]:
        """Validate the user's validation set; return what ``_validate_training_data`` does."""
        raise NotImplementedError

    def _learn_columns(self, X: Any) -> TableColumns | None:
        """Return what is learned about columns that do not hold numbers."""
        return None

    def _learn_gaps(self, X: Features) -> TableColumns | None:
        """Return what is known of the columns, the gaps in validated numbers included."""
        return self._columns

    def _params_of_networks(self) -> list[dict[str, Any]]:
        """Return for each network that ``fit`` makes the parameters that differ from these."""
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
            Whether these are the training data, which settle the weights of the classes.
        """
        return sample_weight

    def _labels_to_share(self, targets: np.ndarray | None) -> tuple[np.ndarray, ...]:
        """Return the labels of which training and held-out rows shall both have some.

        Returns
        -------
        labels : ndarray of shape (n_rows,) or (n_rows, n_labels)
            Class indices, or 0 and 1 for several labels a row.
        names : ndarray
            The classes or labels as the user knows them. An empty tuple without classes.
        """
        return ()

    # ------------------------------------------------------------------ the network

    def _planned_output(
        self, n_classes: int | None, n_outputs: int | None
    ) -> tuple[int | None, str]:
        """Return outputs and output activation of a network for data that are not there yet."""
        raise NotImplementedError

    def _network_config(self, n_features: int, dtype: torch.dtype) -> dict[str, Any]:
        """Return the arguments of ``_network_class`` but for the device."""
        raise NotImplementedError

    def _initial_activations(self) -> list[str]:
        """Return for each dense layer the activation for which its weights are drawn."""
        raise NotImplementedError

    def _prepare_network(self, samples: Samples) -> None:
        """Change a new network whose weights were drawn, before it is trained."""

    def _learn_scales(self, samples: Samples, rows: np.ndarray | None) -> None:
        """Learn what a new network scales by, from the rows to train on; None stands for all."""

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
        """Learn from held-out rows how far to trust the trained network.

        An ensemble is asked, too, where its networks have held out the same rows.
        """

    def _holds_out_together(self) -> bool:
        """Return whether early stopping holds out the same rows for all networks of an ensemble."""
        return self.early_stopping and self.validation_splitter is not None

    def _pool_held_out(self) -> None:
        """Learn the same of an ensemble whose networks have held out rows of their own."""

    def _default_score(
        self, raw: np.ndarray, y: np.ndarray | None, sample_weight: np.ndarray | None
    ) -> float:
        """Return the score of a validation set's raw output where ``scoring`` is None."""
        raise NotImplementedError

    def _validation_scoring(self) -> Any:
        """Return what early stopping goes by; None for ``_default_score``."""
        return self.scoring

    # ------------------------------------------------------------------ rules

    def _check_combinations(self, call: Call) -> None:
        """Refuse parameters and arguments that are valid one by one but not together."""
        check_combinations(self, call, self._sources_of_chance())

    def _sources_of_chance(self) -> list[tuple[str, bool]]:
        """Return the parameters by which the loss is random, and whether they are in use."""
        return [("dropout", any(np.ravel(self.dropout) != 0))]

    def _reason_to_train_alone(self) -> str:
        """Return why the network cannot be part of a stack, as far as this class knows."""
        return ""

    def _fixed_parameters(self) -> dict[str, Any]:
        """Return parameters, beside the network's own, that may not change between calls."""
        return {"solver": self.solver}

    # ------------------------------------------------------------------ afterwards

    def _advice(
        self, targets: np.ndarray | None, weight: np.ndarray | None, loss_value: float
    ) -> str:
        """Return why little was learned and what to change, if that is known.

        Parameters
        ----------
        targets : ndarray of shape (n_samples, n_outputs) or (n_samples,), or None
        weight : ndarray of shape (n_samples,) or None
        loss_value : float
            The training loss of the weights that are kept.
        """
        return ""

    def _describe_training(self, batches: Any, incremental: bool) -> None:
        """Set what a trained network says about its training data.

        Parameters
        ----------
        batches : Batches, or with L-BFGS a Chunk
        incremental : bool
        """
