"""A fit on the workers of a cluster, as the client sees it: who has what, who is lost."""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from itertools import chain
from typing import Any
from uuid import uuid4

import numpy as np
from distributed import Client, Future, rejoin, secede, wait
from distributed.client import FuturesCancelledError
from distributed.comm import get_address_host
from distributed.worker import thread_state

from sknn_deep._estimators.call import Call
from sknn_deep._estimators.callback_parameter import unnamed
from sknn_deep._training.checkpoint import TrainingCheckpoint
from sknn_deep._user_warnings import warn_user
from sknn_deep._wording import counted
from sknn_deep.dask import _ranks as ranks
from sknn_deep.dask._collections import partitions

# Seconds after which the client looks again who is there; for which it waits until the others have
# stopped; and until the scheduler has noticed that a worker is gone.
_LOOK, _STOPPING, _NOTICING = 0.5, 30.0, 10.0


def fit_on_workers(estimator: Any, call: Call, client: Client) -> Any:
    """Fit an estimator on the workers that have the data.

    Parameters
    ----------
    estimator : estimator
        Without Dask; it is not changed.
    call : Call
        With collections.
    client : Client

    Returns
    -------
    fitted : estimator

    Raises
    ------
    RuntimeError
        If a worker is lost.
    """
    train = partitions(
        call.X, {"y": call.y, "sample_weight": call.sample_weight, "groups": call.groups}
    )
    held_out = []
    if call.X_val is not None:
        columns = {"y": call.y_val, "sample_weight": call.sample_weight_val}
        held_out = partitions(call.X_val, columns, "_val")
    with _without_slot(), closing(_Placed(client, train, held_out)) as placed:
        outcome = _outcome_on(client, estimator, call, placed)
    for message, category in outcome.warnings:
        warn_user(message, category)
    return outcome.estimator


@contextmanager
def _without_slot() -> Iterator[None]:
    """Let a task that fits in turn leave its place to those that it waits for."""
    is_task = hasattr(thread_state, "execution_state")
    if is_task:
        secede()
    try:
        yield
    finally:
        if is_task:
            rejoin()


def _outcome_on(client: Client, estimator: Any, call: Call, placed: "_Placed") -> ranks.Outcome:
    """Let the workers that have the data be the ranks of a fit."""
    _warn_of_open_connections(client)
    given = Call(None, classes=call.classes, incremental=call.incremental)
    fit, hosts = f"sknn_deep-{uuid4().hex}", tuple(map(_host, placed.workers))
    with _known_on(client, fit, placed.workers) as kept:
        (port,) = client.run(ranks.open_store, fit, hosts[0], workers=placed.workers[:1]).values()
        plan = ranks.Plan(fit, 0, hosts, port, given, _has_checkpoint(estimator))
        sent = client.scatter(estimator, workers=placed.workers, broadcast=True, hash=False)
        kept.append(sent)
        plans = [replace(plan, rank=rank) for rank in range(len(hosts))]
        futures = [
            client.submit(
                ranks.be_rank,
                plans[rank],
                sent,
                placed.train[rank],
                placed.held_out[rank],
                workers=[worker],
                allow_other_workers=False,
                pure=False,
                key=plans[rank].key,
            )
            for rank, worker in enumerate(placed.workers)
        ]
        kept += futures
        return _outcome(client, fit, futures, placed.workers)


class _Placed:
    """Partitions in the memory of workers.

    Attributes
    ----------
    workers : list of str
        The addresses of those that have rows to train on, in the order of the rows.
    train, held_out : list of list of (int, Future)
        The partitions of each worker, with their numbers; those without rows are left out.
    """

    def __init__(self, client: Client, train: list[Any], held_out: list[Any]):
        futures: list[Future] = client.compute([*train, *held_out])
        try:
            wait(futures)
            n_rows = np.array(client.gather(client.map(_n_rows, futures, pure=False)))
        except BaseException:
            for future in futures:  # an error that is looked at later would keep them
                future.release()
            raise
        holders = client.who_has(futures)
        self.workers: list[str] = []
        self.train: list[list[tuple[int, Future]]] = []
        load: dict[str, int] = {}
        for number, future in enumerate(futures[: len(train)]):
            if n_rows[number]:
                worker = min(holders[future.key], key=lambda address: load.get(address, 0))
                load[worker] = load.get(worker, 0) + int(n_rows[number])
                if worker not in self.workers:
                    self.workers.append(worker)
                    self.train.append([])
                self.train[self.workers.index(worker)].append((number, future))
        if not self.workers:
            raise ValueError(f"X has no rows in {counted(len(train), 'partition')}.")
        self.held_out: list[list[tuple[int, Future]]] = [[] for _ in self.workers]
        for number, future in enumerate(futures[len(train) :]):
            if n_rows[len(train) + number]:
                own = [w for w in holders[future.key] if w in self.workers]
                # what a worker without rows to train on has, goes to one that has some
                rank = self.workers.index(own[0]) if own else number % len(self.workers)
                self.held_out[rank].append((number, future))
        if held_out and not any(self.held_out):
            raise ValueError(f"X_val has no rows in {counted(len(held_out), 'partition')}.")

    def close(self) -> None:
        """Let go of the partitions, unless the user keeps them."""
        for _, future in chain(*self.train, *self.held_out):
            future.release()


def _n_rows(part: dict[str, Any]) -> int:
    return int(part["X"].shape[0])


def _host(address: str) -> str:
    """Return where a worker listens; one in this process does so for this machine alone."""
    return "127.0.0.1" if address.startswith("inproc") else str(get_address_host(address))


def _has_checkpoint(estimator: Any) -> bool:
    return any(isinstance(unnamed(c), TrainingCheckpoint) for c in estimator.callbacks or [])


def _warn_of_open_connections(client: Client) -> None:
    """Say what a scheduler with TLS does not cover."""
    scheduler: Any = client.scheduler
    if str(scheduler.address).startswith("tls:"):
        warn_user(
            "This cluster's connections are encrypted, but those by which the workers add up their "
            "gradients and tell each other y are not: train where nobody else is in the network."
        )


@contextmanager
def _known_on(client: Client, fit: str, workers: list[str]) -> Iterator[list[Future]]:
    """Let workers know a fit for a block, which lists its futures; stop it where that raises."""
    kept: list[Future] = []
    try:
        yield kept
    except BaseException:
        _tell(client, ranks.stop, fit, workers)
        raise
    finally:
        for future in kept:  # an error that is looked at later would keep them
            future.release()
        _tell(client, ranks.forget, fit, workers)


def _tell(client: Client, function: Any, fit: str, workers: list[str]) -> None:
    if client.status != "running":
        return  # the scheduler cancels what it has asked for
    present = [worker for worker in workers if worker in client.nthreads()]
    if present:
        client.run(function, fit, workers=present, on_error="ignore")


def _outcome(client: Client, fit: str, futures: list[Future], workers: list[str]) -> ranks.Outcome:
    """Wait for the ranks; return what the first has learned.

    Raises
    ------
    RuntimeError
        If a worker is lost. Whatever a rank has raised, otherwise.
    """
    results: dict[int, Any] = {}
    while len(results) < len(futures):
        _wait_for_one(futures)
        if client.status != "running":
            raise RuntimeError(
                f"client={client!r} was closed during the fit. Nothing was learned; the workers "
                "stop. Call fit again with a client that is connected."
            )
        for rank, future in enumerate(futures):
            if future.status == "finished" and rank not in results:
                results[rank] = future.result()
        has_failed = any(future.status not in ("pending", "finished") for future in futures)
        is_deserted = any(isinstance(result, ranks.Deserted) for result in results.values())
        if has_failed or is_deserted or _lost(client, workers):
            _tell(client, ranks.stop, fit, workers)
            _end(client, futures)
            raise _reason(client, futures, workers)
    return results[0]


def _wait_for_one(futures: list[Future]) -> None:
    """Wait until another rank is done, but not for long."""
    pending = [future for future in futures if future.status == "pending"]
    with suppress(TimeoutError, FuturesCancelledError):  # of the latter their status tells
        wait(pending, timeout=_LOOK, return_when="FIRST_COMPLETED")


def _end(client: Client, futures: list[Future]) -> None:
    """Wait for ranks that have been stopped; let go of those that are not to come to an end."""
    end = time.monotonic() + _STOPPING
    while any(future.status == "pending" for future in futures) and time.monotonic() < end:
        if _are_all_waiting(client, futures):
            break
        _wait_for_one(futures)
    client.cancel([future for future in futures if future.status == "pending"])


def _are_all_waiting(client: Client, futures: list[Future]) -> bool:
    """Return whether no rank that is left runs: each waits for a worker that is gone."""
    pending = [future for future in futures if future.status == "pending"]
    running = {key for keys in client.processing().values() for key in keys}
    return not any(future.key in running for future in pending)


def _reason(client: Client, futures: list[Future], workers: list[str]) -> BaseException:
    """Return the error that explains best why a fit has failed."""
    errors: list[Any] = [future.exception() for future in futures if future.status == "error"]
    end = time.monotonic() + (0 if errors else _NOTICING)
    lost = _lost(client, workers)
    while not lost and time.monotonic() < end:
        time.sleep(_LOOK)
        lost = _lost(client, workers)
    if lost:
        return RuntimeError(
            f"{len(lost)} of the {counted(len(workers), 'worker')} that trained together "
            f"{'was' if len(lost) == 1 else 'were'} lost: {', '.join(lost)}. Nothing was learned. "
            "See its log, which may tell of too little memory, and call fit again: the partitions "
            "are then computed on those that are left. With a TrainingCheckpoint among callbacks, "
            "on a path that all workers see, the training goes on from its last epoch."
        )
    if errors:
        return errors[0]
    reasons = [future.result().reason for future in futures if future.status == "finished"]
    return RuntimeError(
        f"The workers {', '.join(workers)} have lost each other, but all are there: "
        f"{reasons or 'a task was cancelled'}. They must reach each other on any port."
    )


def _lost(client: Client, workers: list[str]) -> list[str]:
    present = client.nthreads()
    return [worker for worker in workers if worker not in present]
