"""Deep ensembles: several networks, trained from different seeds, as one estimator.

Networks that start from different weights and see the batches in a different order end in different
minima. The mean of their predictions is more accurate than a single network and less confident
where they disagree, and their spread measures its uncertainty [1]_. Networks of one shape are
trained as one stack.

The networks are complete estimators, so attributes of one network need neither a second name nor a
mean in the ensemble. There is no separate ensemble class, because searches and ``set_params``
change ``n_networks``; whether an estimator is an ensemble depends on what was fitted, not on the
parameter. A call that fails or is interrupted leaves the previous fit in place: all networks change
or none.

Prediction runs the networks one after the other. A batched product over all of them was three times
faster for a single row, but slower for thousands.

References
----------
.. [1] B. Lakshminarayanan, A. Pritzel, C. Blundell (2017). Simple and scalable predictive
   uncertainty estimation using deep ensembles. NeurIPS.
"""

import operator
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import replace
from functools import partial, reduce
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.utils import check_random_state

from sknn_deep._estimators.call import Call
from sknn_deep._estimators.fitted_state import fitted_state, set_fitted_state
from sknn_deep._estimators.fitting import draft_of, fit_network, sklearn_callbacks
from sknn_deep._estimators.fused import fit_jobs
from sknn_deep._estimators.held_out import with_validation_set, without_feature_names
from sknn_deep._estimators.jobs import Job, stacks
from sknn_deep._estimators.memory_advice import ensemble_memory_explained
from sknn_deep._estimators.rollback import Rollback
from sknn_deep._estimators.workers import n_workers_for, workers
from sknn_deep._hardware.device import accepted_dtypes, numpy_dtype, resolve_device
from sknn_deep._hardware.ranks import present_ranks
from sknn_deep._sklearn import check_sample_weight
from sknn_deep._training.interruption import one_of_many
from sknn_deep._training.naming import named
from sknn_deep._training.sklearn_callbacks import SklearnCallbacks
from sknn_deep._user_warnings import collected_warnings, give_again, warned_once


def fit_ensemble(estimator: Any, call: Call) -> None:
    """Fit several networks: ``fit`` and ``partial_fit`` of an ensemble.

    The data are validated once, for all networks. A fitted ensemble has ``estimators_``, each
    fitted as it would be alone, the attributes set by data validation, and ``n_iter_``; all other
    attributes belong to its networks.

    Parameters
    ----------
    estimator : estimator
        With ``n_networks`` above 1, or fitted with several networks.
    call : Call
    """
    estimator._check_combinations(call)
    before = vars(estimator).get("estimators_")
    goes_on = before is not None and (call.incremental or estimator.warm_start)
    draft = draft_of(estimator, goes_on)
    random_state, ranks = check_random_state(draft.random_state), present_ranks()
    if ranks is not None:
        random_state = ranks.first(random_state)
    networks = _twins(draft) if goes_on else _new_networks(draft, random_state)
    with ExitStack() as stack:
        for network in networks if goes_on else ():
            stack.push(Rollback(network).__exit__)
        own = validated_call(draft, call, goes_on)
        if draft._holds_out_together():
            own = with_validation_set(draft, own, random_state)
        stack.enter_context(ensemble_memory_explained(len(networks)))
        if call.incremental:
            _fit_in_turn(networks, own)
        else:
            callbacks = sklearn_callbacks(
                estimator, len(networks), call, lambda: fitted_state(draft), "network"
            )
            for callback in callbacks:
                callback.on_train_begin(None)
            networks = _fit_together(networks, own, draft, callbacks)
        _conclude(draft, networks, own)
        stack.pop_all()
    set_fitted_state(estimator, fitted_state(draft))
    if not call.incremental:
        for callback in callbacks:
            callback.on_train_end(None)


def mean(outputs: Iterable[Any], weights: np.ndarray | None = None) -> Any:
    """Return the mean output of networks; for a single network, its output itself.

    Outputs are added one by one, so that not all need to be in memory at once.

    Parameters
    ----------
    outputs : iterable of ndarray or Tensor
        Of one shape.
    weights : ndarray of shape (n_networks,), default=None
        Weights with sum 1; None weights all equally.
    """
    if weights is not None:
        shares = zip(weights.tolist(), outputs, strict=True)
        return reduce(operator.add, (output * weight for weight, output in shares))
    total, n_networks = next(remaining := iter(outputs)), 1
    for output in remaining:
        total, n_networks = total + output, n_networks + 1
    return total if n_networks == 1 else total / n_networks


def check_same_number(estimator: Any, n_before: int) -> None:
    """Refuse to continue an ensemble of another size."""
    if estimator.n_networks != n_before:
        raise ValueError(
            "warm_start and partial_fit go on with the networks of the previous call, got "
            f"n_networks={estimator.n_networks} after n_networks={n_before}. Set "
            "warm_start=False, or make a new estimator."
        )


def _twins(draft: Any) -> list[Any]:
    """Return copies of the networks to continue with, set to the current parameters."""
    params = {**draft.get_params(deep=False), "n_networks": 1}
    twins = []
    for network, own in zip(draft.estimators_, draft._params_of_networks(), strict=True):
        # it is given arrays, which have no feature names, but the ensemble has set names on it
        twin = without_feature_names(network)
        # unlike a twin for prediction, it keeps the categories and gaps that it has learned
        twin._columns = network._columns
        twins.append(twin.set_params(**params | {"random_state": twin.random_state} | own))
    return twins


def _new_networks(draft: Any, random_state: np.random.RandomState) -> list[Any]:
    """Return unfitted single-network estimators, each with its own seed."""
    seeds = random_state.randint(np.iinfo(np.int32).max, size=draft.n_networks)
    # clone would unfit init_from
    params = {"n_networks": 1, "init_from": draft.init_from}
    return [
        clone(draft).set_params(**params, random_state=int(seed), **own).set_callbacks()
        for seed, own in zip(seeds, draft._params_of_networks(), strict=True)
    ]


def validated_call(draft: Any, call: Call, goes_on: bool) -> Call:
    """Return the call with validated arrays; set the attributes learned from them on the draft."""
    dtypes = accepted_dtypes(draft.dtype, resolve_device(draft.device))
    if goes_on:
        dtypes = [numpy_dtype(draft.estimators_[0].module_.flat.dtype)]
    X, y, _ = draft._validate_training_data(call, dtypes, reset=not goes_on)
    call = replace(call, X=X, y=y, sample_weight=check_sample_weight(call.sample_weight, X))
    if call.incremental:
        call = replace(call, classes=getattr(draft, "classes_", None))
    if call.X_val is None:
        return call
    X_val, y_val, _ = draft._validate_held_out_data(call.X_val, call.y_val, X.dtype)
    weight = check_sample_weight(call.sample_weight_val, X_val)
    return replace(call, X_val=X_val, y_val=y_val, sample_weight_val=weight)


def _fit_in_turn(networks: list[Any], call: Call) -> None:
    """Train one epoch of each network."""
    with one_of_many():
        for network, name in zip(networks, _names(networks), strict=True):
            with named(name):
                fit_network(network, call)


def _fit_together(
    networks: list[Any], call: Call, draft: Any, callbacks: list[SklearnCallbacks]
) -> list[Any]:
    """Train all networks, those of one shape as one stack where that is possible.

    Parameters
    ----------
    networks : list of estimator
    call : Call
        With validated data.
    draft : estimator
        The ensemble, with the attributes learned from the data.
    callbacks : list of SklearnCallbacks
        Those of the ensemble; each network's job has its own.

    Returns
    -------
    networks : list of estimator
        The same, or the copies that workers have trained.
    """
    arguments = fit_arguments(call)
    n_workers = n_workers_for(
        networks[0], draft._jobs_of_ensemble(), len(networks), getattr(draft, "_skl_callbacks", ())
    )
    if n_workers > 1:
        networks = deepcopy(networks)  # a thread may outlive a call that ends with an error
    names = _names(networks)
    jobs = [
        Job(network, call.X, call.y, fit_params=arguments, name=name)
        for network, name in zip(networks, names, strict=True)
    ]
    n_epochs = 0 if draft.solver == "lbfgs" else draft.max_iter
    for callback in callbacks:
        of_each = callback.of_networks(networks, names, n_epochs, partial(_alone, draft))
        for job, of_network in zip(jobs, of_each, strict=True):
            job.callbacks = of_network
    fitted: dict[Job, Any] = {}

    def finish(job: Job, network: Any) -> None:
        fitted[job] = network
        if job.callbacks is not None:
            # in the order of the final ensemble
            so_far = [fitted[other] for other in jobs if other in fitted]
            job.callbacks.end(lambda: _so_far(draft, so_far, call))

    def done(job: Job) -> None:
        _raise(job)
        finish(job, job.estimator)

    if n_workers == 1:
        fit_jobs(jobs, done=done)
        return networks
    groups = stacks(jobs, n_workers)
    with warned_once(), workers(n_workers) as answers:
        for number, estimators, found in answers(_fit_group, enumerate(groups)):
            give_again(found)
            for job, network in zip(groups[number], estimators, strict=True):
                finish(job, network)
    return [fitted[job] for job in jobs]


def _fit_group(number: int, jobs: list[Job]) -> tuple[int, list[Any], Counter]:
    """Fit some networks for a worker; return the number, the networks and the warnings."""
    with collected_warnings() as found:
        fit_jobs(jobs, done=_raise)
    return number, [job.estimator for job in jobs], found


def fit_arguments(call: Call) -> dict[str, Any]:
    """Return the arguments of one network's ``fit`` other than X and y."""
    arguments: dict[str, Any] = {"sample_weight": call.sample_weight}
    if call.X_val is not None:
        arguments |= {
            "X_val": call.X_val,
            "y_val": call.y_val,
            "sample_weight_val": call.sample_weight_val,
        }
    return arguments


def _names(networks: list[Any]) -> list[str]:
    """Return the names of the networks in messages."""
    return [f"Network {number} of {len(networks)}" for number in range(1, len(networks) + 1)]


def adopt(draft: Any, networks: list[Any]) -> None:
    """Set fitted networks as those of the ensemble."""
    if hasattr(draft, "feature_names_in_"):
        for network in networks:
            network.feature_names_in_ = draft.feature_names_in_
    draft.estimators_ = networks
    draft.n_iter_ = max(network.n_iter_ for network in networks)
    draft.interrupted_ = False


def _conclude(draft: Any, networks: list[Any], call: Call) -> None:
    """Set fitted networks as those of the ensemble, and let it learn from the held-out rows."""
    adopt(draft, networks)
    if call.X_val is None:
        draft._pool_held_out()
    else:
        draft._learn_from_held_out(call.X_val, call.y_val, call.sample_weight_val)


def _so_far(draft: Any, networks: list[Any], call: Call) -> dict[str, Any]:
    """Return the fitted state of an ensemble of the networks that are done."""
    ensemble = draft_of(draft, goes_on=True)
    _conclude(ensemble, networks, call)
    return fitted_state(ensemble)


def _alone(draft: Any, network: Any, learned: dict[str, Any]) -> dict[str, Any]:
    """Return the fitted state of an ensemble of one network, which is still being trained."""
    twin, ensemble = draft_of(network, goes_on=False), draft_of(draft, goes_on=True)
    vars(twin).update(learned)
    adopt(ensemble, [twin])
    return fitted_state(ensemble)


def _raise(job: Job) -> None:
    # an error of one network fails the ensemble, so the others need not be trained
    if job.error is not None:
        raise job.error
