r"""Many different networks on one table, and the best ensemble of them.

Networks that differ only by their seed make similar errors; networks of different width, depth,
inputs and rates make different errors, and their mean gains more [1]_. So configurations are drawn
at random (:func:`draw_configurations`), each is trained on the training rows and stopped by the
validation rows, and a greedy selection with replacement picks from all of them the ensemble whose
mean prediction has the lowest loss on the validation rows [2]_. Networks that fall behind are
abandoned: from the thirteenth on, a network stops if after part of its epochs its best score on the
validation rows is worse than that of eleven of the first twelve by then. The median rule [3]_
abandoned too many, among them networks with periodic inputs, whose errors differ from those of the
others. Comparing with the same twelve networks makes the result independent of how many are trained
at once.

The first four have the shape of the estimator and train as one stack; all others have different
shapes and train one by one. Stacks of four of each shape take less time for each network, but their
ensembles were worse on validation rows.

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
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import islice, takewhile
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.utils import check_random_state

from sknn_deep._estimators.call import Call
from sknn_deep._estimators.ensemble import adopt, fit_arguments, validated_call
from sknn_deep._estimators.fitted_state import fitted_state, set_fitted_state
from sknn_deep._estimators.fitting import draft_of, sklearn_callbacks
from sknn_deep._estimators.fused import fit_jobs
from sknn_deep._estimators.held_out import with_validation_set
from sknn_deep._estimators.jobs import Job
from sknn_deep._estimators.workers import n_workers_for, workers
from sknn_deep._training.interruption import is_one_of_many, one_of_many
from sknn_deep._training.progress import DivergenceError
from sknn_deep._training.sklearn_callbacks import StopTraining
from sknn_deep._user_warnings import collected_warnings, give_again, warn_user, warned_once
from sknn_deep._wording import counted

# Number of selection rounds; a network may be selected several times.
_MOST_PLACES = 32
# After this share of its epochs, a network is compared with the first _N_COMPARED networks,
# provided that at least _FEWEST_COMPARED of them have not diverged. It stops if its score is below
# the _SHARE_BELOW quantile of theirs.
_FIRST_LOOK, _N_COMPARED, _FEWEST_COMPARED, _SHARE_BELOW = 0.3, 12, 5, 0.15
# This many candidates have the shape of the estimator; the others draw one of the shapes below.
_OF_OWN_SHAPE = 4
_HIDDEN_LAYER_SIZES = (
    *((128,) * n_layers for n_layers in (2, 3)),
    *((256,) * n_layers for n_layers in (1, 2, 3)),
    *((384,) * n_layers for n_layers in (1, 2)),
)


def draw_configurations(
    n_candidates: int, random_state: np.random.RandomState
) -> list[list[dict[str, Any]]]:
    """Draw parameters of candidates, grouped by shape; the first keeps the estimator's parameters.

    =======================  ==========================================================
    hidden_layer_sizes       2 or 3 layers of 128 units, 1 to 3 of 256, 1 or 2 of 384
    activation               "silu", "relu" or "mish"
    numeric_embedding        "piecewise_linear", or in one of four "periodic"
    n_bins                   64, 128 or 256
    numeric_embedding_size   8, 12 or 16
    frequency_scale          0.1 to 2, uniform in its logarithm
    max_one_hot              0 or 9
    category_embedding_size  4, 8 or 16
    dropout                  0 in one of five, or else uniform from 0 to 0.5
    learning_rate_init       0.002 to 0.012, uniform in its logarithm
    adam_learning_rate_init  0.002 to 0.02, uniform in its logarithm
    weight_decay             0.001 to 0.3, uniform in its logarithm
    =======================  ==========================================================

    Parameters
    ----------
    n_candidates : int
    random_state : RandomState

    Returns
    -------
    groups : list of list of dict
        The first four have the shape of the estimator and differ only in rates and weight decay.
        Each of the others is a group of its own.
    """

    def choice(*values: Any) -> Any:
        return values[random_state.randint(len(values))]

    def log_uniform(low: float, high: float) -> float:
        return float(np.exp(random_state.uniform(np.log(low), np.log(high))))

    def shape() -> dict[str, Any]:
        return {
            "hidden_layer_sizes": choice(*_HIDDEN_LAYER_SIZES),
            "activation": choice("silu", "relu", "mish"),
            "dropout": choice(0.0, *[0.5] * 4),
            "numeric_embedding": choice(*["piecewise_linear"] * 3, "periodic"),
            "n_bins": choice(64, 128, 256),
            "numeric_embedding_size": choice(8, 12, 16),
            "frequency_scale": log_uniform(0.1, 2.0),
            "max_one_hot": choice(0, 9),
            "category_embedding_size": choice(4, 8, 16),
        }

    def member(of_all: dict[str, Any]) -> dict[str, Any]:
        own: dict[str, Any] = {
            "learning_rate_init": log_uniform(2e-3, 1.2e-2),
            "adam_learning_rate_init": log_uniform(2e-3, 2e-2),
            "weight_decay": log_uniform(1e-3, 0.3),
        }
        if of_all.get("dropout"):
            own["dropout"] = random_state.uniform(0.0, of_all["dropout"])
        return of_all | own

    own = [{}, *(member({}) for _ in range(_OF_OWN_SHAPE - 1))][:n_candidates]
    return [own, *([member(shape())] for _ in range(n_candidates - len(own)))]


def fit_candidates(estimator: Any, call: Call) -> None:
    """Fit ``n_candidates`` networks, and keep the best ensemble of them.

    Sets ``estimators_`` (the selected networks), ``ensemble_weights_`` and the table
    ``candidates_``.

    Parameters
    ----------
    estimator : estimator
        With ``n_candidates`` above 1.
    call : Call
        Without a validation set, rows are held out once, for all candidates.
    """
    # wall-clock time, which all processes share
    start = time.time()
    estimator._check_combinations(call)
    draft: Any = draft_of(estimator, goes_on=False)
    given = call
    random_state = check_random_state(draft.random_state)
    call = with_validation_set(draft, validated_call(draft, call, goes_on=False), random_state)
    # the first group is one task, and so is each of the others
    n_workers = n_workers_for(draft, draft.n_jobs, max(1, draft.n_candidates - _OF_OWN_SHAPE + 1))
    trained: list[_Candidate] = []
    callbacks = sklearn_callbacks(
        estimator,
        draft.n_candidates,
        given,
        lambda: _learned(draft, call, trained),
        part_name="candidate",
    )

    def keep(candidate: _Candidate) -> None:
        for callback in callbacks:
            callback.on_epoch_begin(None)
        trained.append(candidate)
        trained.sort(key=lambda candidate: candidate.number)
        if draft.verbose:
            best = min(other.loss for other in trained)
            print(
                f"Candidate {candidate.number} of {draft.n_candidates}: validation loss "
                f"{candidate.loss:.6f}, best {best:.6f}, {candidate.seconds:.1f} s"
            )
        for callback in callbacks:
            callback.on_epoch_end(None)

    for callback in callbacks:
        callback.on_train_begin(None)
    end = math.inf if draft.max_time is None else start + draft.max_time
    drawn, n_first = _drawn(draft, random_state), _N_COMPARED - _OF_OWN_SHAPE + 1
    interrupted = False
    try:
        with suppress(StopTraining), one_of_many(), warned_once(), workers(n_workers) as answers:
            for groups in (islice(drawn, n_first), drawn):
                compared = [candidate.scores for candidate in trained if not candidate.error]
                in_time = takewhile(lambda _: not trained or time.time() < end, groups)
                tasks = ((group, call, compared, end) for group in in_time)
                for group, found in answers(_train, tasks):
                    give_again(found)
                    for candidate in group:
                        keep(candidate)
    except KeyboardInterrupt:
        interrupted = any(not candidate.error for candidate in trained)
        if is_one_of_many() or not interrupted:
            raise
    learned = _learned(draft, call, trained)
    if learned is None:
        raise next(candidate.error for candidate in trained if candidate.error)
    set_fitted_state(estimator, learned | {"interrupted_": interrupted})
    for callback in callbacks:
        callback.on_train_end(None)
    if interrupted:
        warn_user(
            "Training interrupted by user: the ensemble is that of "
            f"{counted(len(trained), 'candidate')}."
        )


def _drawn(draft: Any, random_state: np.random.RandomState) -> Iterator[list["_Candidate"]]:
    """Yield the candidates, in groups of one shape."""
    number = 0
    for group in draw_configurations(draft.n_candidates, random_state):
        candidates = []
        for params in group:
            number += 1
            seed = int(random_state.randint(np.iinfo(np.int32).max))
            candidates.append(_Candidate(draft, number, params, seed))
        yield candidates


def _train(
    group: list["_Candidate"], call: Call, compared: list[list[float]], end: float
) -> tuple[list["_Candidate"], Counter]:
    """Train candidates of one shape, each until it has stopped or fallen behind.

    Parameters
    ----------
    group : list of _Candidate
    call : Call
        With validated data and a validation set.
    compared : list of list of float
        Scores of the networks to compare with.
    end : float
        Time limit, as a value of ``time.time``.

    Returns
    -------
    group : list of _Candidate
        The same objects, or the copies trained in another process.
    found : Counter
        The warnings.
    """

    def is_enough(scores: list[float]) -> bool:
        return group[0].is_behind(scores, compared) or time.time() > end

    arguments = fit_arguments(call)
    jobs = {
        Job(
            candidate.network,
            call.X,
            call.y,
            fit_params=arguments,
            name=candidate.name,
            is_enough=is_enough,
        ): candidate
        for candidate in group
    }

    with collected_warnings() as found:
        fit_jobs(list(jobs), done=lambda job: jobs[job].learn(job, call))
    return group, found


def _learned(draft: Any, call: Call, trained: list["_Candidate"]) -> dict[str, Any] | None:
    """Return the fitted state with an ensemble of candidates; None where all have diverged.

    Parameters
    ----------
    draft : estimator
        With the attributes learned from the data.
    call : Call
        With a validation set.
    trained : list of _Candidate
        Their ``share`` in the ensemble is set.
    """
    usable = [candidate for candidate in trained if not candidate.error]
    if not usable:
        return None
    # class weights come from the training rows, and each network has learned them
    loss = partial(_loss, usable[0].network, call)
    places = select([candidate.output for candidate in usable], loss)
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
    """Return how often greedy selection picks each network for the ensemble.

    Each round adds the network that gives the mean prediction the lowest loss. The best of all
    intermediate ensembles is returned.

    Parameters
    ----------
    outputs : list of ndarray
        Predictions of each network.
    loss : callable
        Loss of such predictions.

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
        # a NaN loss counts as infinite
        of_each = np.nan_to_num([loss((total + o) / n_places) for o in outputs], nan=np.inf)
        best = int(np.argmin(of_each))
        picked.append(best)
        losses.append(of_each[best])
        total += outputs[best]
    return np.bincount(picked[: int(np.argmin(losses)) + 1], minlength=len(outputs))


def _loss(network: Any, call: Call, output: np.ndarray) -> float:
    """Return the loss of predictions for the validation rows."""
    y = call.y_val
    weight = network._weigh_classes(y, call.sample_weight_val, learn=False)
    return float(network._loss_of_outputs(output, y, weight))


class _Candidate:
    """One configuration, and the result of its training.

    Attributes
    ----------
    network : estimator
        With a single network.
    number : int
        Counted from 1.
    output : ndarray
        Its predictions for the validation rows.
    loss : float
        Their loss; infinity where the training diverged.
    error : DivergenceError or None
    scores : list of float
        Validation scores, after each epoch.
    share : float
        Its weight in the ensemble.
    """

    output: np.ndarray
    share = 0.0

    def __init__(self, draft: Any, number: int, params: dict[str, Any], seed: int):
        own = {"n_candidates": 1, "max_time": None, "n_networks": 1}
        own |= {"random_state": seed, "verbose": False, **params}
        self.network = clone(draft).set_params(**own).set_callbacks()
        self.number = number
        self.name = f"Candidate {number} of {draft.n_candidates}"
        self.scores: list[float] = []
        self.loss = np.inf
        self.error: DivergenceError | None = None

    def learn(self, job: Job, call: Call) -> None:
        """Store the result of the training; raise its error unless it diverged."""
        self.seconds = job.seconds
        if isinstance(job.error, DivergenceError):  # a drawn rate may be too high
            self.error = job.error
            return
        if job.error is not None:
            raise job.error
        self.scores = self.network.validation_scores_ or []
        self.output = self.network._outputs(call.X_val)
        self.loss = _loss(self.network, call, self.output)

    def is_behind(self, scores: list[float], compared: list[list[float]]) -> bool:
        """Return whether a network is worse than nearly all others after as many epochs."""
        n_epochs = len(scores)
        if len(compared) < _FEWEST_COMPARED or n_epochs < _FIRST_LOOK * self.network.max_iter:
            return False
        bests = [_best(other[:n_epochs]) for other in compared]
        return bool(_best(scores) < np.quantile(bests, _SHARE_BELOW, method="lower"))


def _best(scores: list[float]) -> float:
    """Return the best of some scores, ignoring NaN; minus infinity if all are NaN."""
    return max((score for score in scores if not math.isnan(score)), default=-math.inf)


def _table(trained: list[_Candidate]) -> dict[str, list[Any]]:
    """Return the columns of ``candidates_``."""
    columns: dict[str, list[Any]] = {
        "validation_loss": [candidate.loss for candidate in trained],
        "weight": [candidate.share for candidate in trained],
        "n_iter": [len(candidate.scores) for candidate in trained],
        "seconds": [candidate.seconds for candidate in trained],
    }
    # a candidate of another shape has every parameter that is drawn
    of_other_shape = draw_configurations(_OF_OWN_SHAPE + 1, np.random.RandomState(0))[-1][0]
    for name in sorted(of_other_shape):
        columns[name] = [getattr(candidate.network, name) for candidate in trained]
    return columns
