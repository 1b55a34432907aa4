r"""Many different networks on one table, and the best ensemble of them.

Seeds alone make networks of one recipe that err alike; networks of different width, depth, inputs
and rates err in different ways, and their mean gains more [1]_. So configurations are drawn at
random (:func:`draw_configurations`), each is trained on the training rows and stopped by the
validation rows, and a greedy selection with replacement picks from all of them the ensemble whose
mean prediction has the lowest loss on the validation rows [2]_. Networks that fall behind are
abandoned: after part of its epochs, a network stops if its loss is above the median that those
before it had reached by then [3]_.

The networks differ in shape, so they are trained one after the other.

References
----------
.. [1] Y. Gorishniy, A. Kotelnikov, A. Babenko (2025). TabM: advancing tabular deep learning with
   parameter-efficient ensembling. ICLR.
.. [2] R. Caruana, A. Niculescu-Mizil, G. Crew, A. Ksikes (2004). Ensemble selection from libraries
   of models. ICML.
.. [3] D. Golovin et al. (2017). Google Vizier: a service for black-box optimization. KDD.
"""

import math
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.utils import check_random_state

from sknn_deep._estimators.call import Call
from sknn_deep._estimators.ensemble import adopt, validated_call
from sknn_deep._estimators.fitted_state import fitted_state, set_fitted_state
from sknn_deep._estimators.fitting import Fit, draft_of, sklearn_callbacks
from sknn_deep._estimators.held_out import with_validation_set
from sknn_deep._training.interruption import one_of_many
from sknn_deep._training.progress import DivergenceError
from sknn_deep._training.sklearn_callbacks import StopTraining
from sknn_deep._user_warnings import warned_once

# Places in the ensemble; a network may have several of them.
_MOST_PLACES = 32
# From this share of its epochs on, a network is compared with those before it, if there are at
# least this many.
_FIRST_LOOK, _FEWEST_BEFORE = 0.2, 5


def draw_configurations(
    n_candidates: int, random_state: np.random.RandomState
) -> list[dict[str, Any]]:
    """Return parameters of candidates, the first without any: the estimator as it is.

    =======================  ==========================================================
    hidden_layer_sizes       1 to 3 layers of 64, 128, 256 or 384 units
    activation               "silu", "relu" or "mish"
    dropout                  0, or uniform from 0 to 0.5
    learning_rate_init       0.001 to 0.02, uniform in its logarithm
    adam_learning_rate_init  0.001 to 0.02, uniform in its logarithm
    weight_decay             0.001 to 0.3, uniform in its logarithm
    numeric_embedding        "piecewise_linear", or in one of four "periodic"
    n_bins                   16, 32, 64, 128 or 256
    numeric_embedding_size   4, 8, 12 or 16
    frequency_scale          0.05 to 1, uniform in its logarithm
    max_one_hot              0 or 9
    category_embedding_size  4, 8 or 16
    =======================  ==========================================================

    Parameters
    ----------
    n_candidates : int
    random_state : RandomState
    """

    def choice(*values: Any) -> Any:
        return values[random_state.randint(len(values))]

    def log_uniform(low: float, high: float) -> float:
        return float(np.exp(random_state.uniform(np.log(low), np.log(high))))

    configurations: list[dict[str, Any]] = [{}]
    for _ in range(n_candidates - 1):
        configurations.append(
            {
                "hidden_layer_sizes": (choice(64, 128, 256, 384),) * choice(1, 2, 3),
                "activation": choice("silu", "relu", "mish"),
                "dropout": choice(0.0, *random_state.uniform(0.0, 0.5, 4).tolist()),
                "learning_rate_init": log_uniform(1e-3, 2e-2),
                "adam_learning_rate_init": log_uniform(1e-3, 2e-2),
                "weight_decay": log_uniform(1e-3, 0.3),
                "numeric_embedding": choice(*["piecewise_linear"] * 3, "periodic"),
                "n_bins": choice(16, 32, 64, 128, 256),
                "numeric_embedding_size": choice(4, 8, 12, 16),
                "frequency_scale": log_uniform(0.05, 1.0),
                "max_one_hot": choice(0, 9),
                "category_embedding_size": choice(4, 8, 16),
            }
        )
    return configurations


def fit_candidates(estimator: Any, call: Call) -> None:
    """Fit ``n_candidates`` networks, and keep an ensemble of those that go best together.

    The estimator then has ``estimators_``, each a network that was picked, ``ensemble_weights_``
    and the table ``candidates_``.

    Parameters
    ----------
    estimator : estimator
        With ``n_candidates`` above 1.
    call : Call
        Where it has no validation set, rows are held out once, for all candidates.
    """
    start = time.perf_counter()
    estimator._check_combinations(call)
    draft: Any = draft_of(estimator, goes_on=False)
    given = call.X, call.y, call.sample_weight
    random_state = check_random_state(draft.random_state)
    call = with_validation_set(draft, validated_call(draft, call, goes_on=False), random_state)
    trained: list[_Candidate] = []
    callbacks = sklearn_callbacks(
        estimator,
        draft.n_candidates,
        given,
        lambda: _learned(draft, call, trained),
        task_name="candidate",
    )
    for callback in callbacks:
        callback.on_train_begin(None)
    with suppress(StopTraining), one_of_many(), warned_once():
        for params in draw_configurations(draft.n_candidates, random_state):
            seconds_left = np.inf
            if draft.max_time is not None:
                seconds_left = draft.max_time - (time.perf_counter() - start)
            if trained and seconds_left <= 0:
                break
            seed = int(random_state.randint(np.iinfo(np.int32).max))
            candidate = _Candidate(draft, params, seed)
            for callback in callbacks:
                callback.on_epoch_begin(None)
            candidate.train(call, trained, seconds_left)
            trained.append(candidate)
            if draft.verbose:
                best = min(other.loss for other in trained)
                print(
                    f"Candidate {len(trained)} of {draft.n_candidates}: validation loss "
                    f"{candidate.loss:.6f}, best {best:.6f}, {candidate.seconds:.1f} s"
                )
            for callback in callbacks:
                callback.on_epoch_end(None)
    learned = _learned(draft, call, trained)
    if learned is None:
        raise next(candidate.error for candidate in trained if candidate.error)
    set_fitted_state(estimator, learned)
    for callback in callbacks:
        callback.on_train_end(None)


def _learned(draft: Any, call: Call, trained: list["_Candidate"]) -> dict[str, Any] | None:
    """Return the fitted state with an ensemble of candidates; None where all have diverged.

    Parameters
    ----------
    draft : estimator
        That knows the data.
    call : Call
        With a validation set.
    trained : list of _Candidate
        Their ``share`` in the ensemble is set.
    """
    usable = [candidate for candidate in trained if not candidate.error]
    if not usable:
        return None
    # class weights are those of the training rows, which a network has learned
    y, weight = call.y_val, call.sample_weight_val
    weight = usable[0].network._weigh_classes(y, weight, learn=False)
    places = select(
        [candidate.output for candidate in usable],
        lambda output: draft._loss_of_outputs(output, y, weight),
    )
    for candidate, n_places in zip(usable, places, strict=True):
        candidate.share = n_places / places.sum()
    chosen = [candidate for candidate in usable if candidate.share]
    ensemble: Any = draft_of(draft, goes_on=True)
    adopt(ensemble, [candidate.network for candidate in chosen])
    ensemble.ensemble_weights_ = np.array([candidate.share for candidate in chosen])
    ensemble._candidates = _table(trained)
    ensemble._learn_from_held_out(call.X_val, call.y_val, call.sample_weight_val)
    return fitted_state(ensemble)


def select(outputs: list[np.ndarray], loss: Callable[[np.ndarray], float]) -> np.ndarray:
    """Return how many places each network has in the ensemble that a greedy selection finds.

    Each place goes to the network with which the mean has the lowest loss. Of the ensembles on the
    way, from one place on, the best is taken.

    Parameters
    ----------
    outputs : list of ndarray
        Predictions of each network.
    loss : callable
        Of such predictions.

    Returns
    -------
    places : ndarray of int, shape (n_networks,)

    Examples
    --------
    >>> import numpy as np
    >>> from sknn_deep._estimators.candidates import select
    >>> select([np.array(1.0), np.array(3.5), np.array(9.0)], lambda mean: abs(mean - 2.25))
    array([1, 1, 0])
    """
    total = np.zeros(np.shape(outputs[0]))
    picked: list[int] = []
    losses: list[float] = []
    for n_places in range(1, _MOST_PLACES + 1):
        # a loss that is no number is none to go by
        of_each = np.nan_to_num([loss((total + o) / n_places) for o in outputs], nan=np.inf)
        best = int(np.argmin(of_each))
        picked.append(best)
        losses.append(of_each[best])
        total += outputs[best]
    return np.bincount(picked[: int(np.argmin(losses)) + 1], minlength=len(outputs))


class _Candidate:
    """One configuration, and what came of it.

    Attributes
    ----------
    network : estimator
        Of one network.
    output : ndarray
        Its predictions for the validation rows.
    loss : float
        Its lowest loss on them; infinity where the training diverged.
    error : DivergenceError or None
    losses : list of float
        After each epoch.
    share : float
        Its weight in the ensemble.
    """

    output: np.ndarray
    share = 0.0

    def __init__(self, draft: Any, params: dict[str, Any], seed: int):
        own = {"n_candidates": 1, "max_time": None, "n_networks": 1}
        own |= {"random_state": seed, "verbose": False, **params}
        self.network = clone(draft).set_params(**own).set_callbacks()
        self.params = params
        self.losses: list[float] = []
        self.loss = np.inf
        self.error: DivergenceError | None = None

    def train(self, call: Call, before: list["_Candidate"], seconds_left: float) -> None:
        """Train until the network has stopped, has fallen behind, or the time is up."""
        start = time.perf_counter()
        fit = Fit(self.network, call)

        def is_enough() -> bool:
            self.losses = fit.training.fitted_attributes()["validation_loss_curve_"]
            return self._is_behind(before) or time.perf_counter() - start > seconds_left

        with fit.surroundings(), fit.undone_on_error():
            fit.prepare()
            try:
                fit.train(is_enough)
            except DivergenceError as error:  # a drawn rate may be too high
                self.error = error
            else:
                fit.commit()
                self.losses = self.network.validation_loss_curve_ or []
                self.loss = _lowest(self.losses)
                self.output = self.network._outputs(call.X_val)
        self.seconds = time.perf_counter() - start

    def _is_behind(self, before: list["_Candidate"]) -> bool:
        n_epochs = len(self.losses)
        n_before = sum(not other.error for other in before)
        if n_before < _FEWEST_BEFORE or n_epochs < _FIRST_LOOK * self.network.max_iter:
            return False
        of_others = [_lowest(other.losses[:n_epochs]) for other in before if not other.error]
        return bool(_lowest(self.losses) > np.median(of_others))


def _lowest(losses: list[float]) -> float:
    """Return the lowest of some losses, infinity where none is a number."""
    return min((loss for loss in losses if not math.isnan(loss)), default=math.inf)


def _table(trained: list[_Candidate]) -> dict[str, list[Any]]:
    """Return the columns of ``candidates_``."""
    names = sorted({name for candidate in trained for name in candidate.params})
    columns: dict[str, list[Any]] = {
        "validation_loss": [candidate.loss for candidate in trained],
        "weight": [candidate.share for candidate in trained],
        "n_iter": [len(candidate.losses) for candidate in trained],
        "seconds": [candidate.seconds for candidate in trained],
    }
    for name in names:
        columns[name] = [getattr(candidate.network, name) for candidate in trained]
    return columns
