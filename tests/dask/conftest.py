"""A cluster of two processes, and data that lie on both."""

from copy import copy
from multiprocessing import forkserver, get_all_start_methods

import numpy as np
import pytest

# A worker of Dask may take minutes to start on a machine that others use, too.
PATIENT = {
    "distributed.comm.timeouts.connect": "600s",
    "distributed.comm.timeouts.tcp": "600s",
}


@pytest.fixture(scope="session")
def client():
    """Return the client of a cluster of two processes, which serves all tests of the session."""
    distributed = pytest.importorskip("distributed")
    dask = pytest.importorskip("dask")
    method = "spawn"
    if "forkserver" in get_all_start_methods():
        # workers start, and start anew, in a moment: all that they need is imported there, once
        forkserver.set_forkserver_preload(["sknn_deep.dask", "torch._dynamo"])
        forkserver.ensure_running()
        method = "forkserver"
    with dask.config.set(PATIENT | {"distributed.worker.multiprocessing-method": method}):
        cluster = distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
        )
        with cluster, distributed.Client(cluster) as client:
            yield client


@pytest.fixture
def placed(client):
    """Return a function that makes a collection of Dask, its partitions in turn on both workers."""
    da, dd = pytest.importorskip("dask.array"), pytest.importorskip("dask.dataframe")

    def place(rows, lengths, *, may_move=False):
        ends = np.cumsum(lengths)
        parts = [rows[end - length : end] for end, length in zip(ends, lengths, strict=True)]
        if not isinstance(rows, np.ndarray):
            parts = [own_categories(part) for part in parts]
        futures = [
            client.submit(
                copy, part, workers=[number % 2], allow_other_workers=may_move, pure=False
            )
            for number, part in enumerate(parts)
        ]
        if not isinstance(rows, np.ndarray):
            table = dd.from_delayed(futures, meta=parts[0].iloc[:0], verify_meta=False)
            return client.persist(table)  # Dask cannot make arrays of frames of futures
        arrays = [
            da.from_delayed(future, part.shape, part.dtype)
            for future, part in zip(futures, parts, strict=True)
        ]
        return da.concatenate(arrays)

    return place


def own_categories(part):
    """Return a part of a frame or a series, whose categories are those that it has."""
    if part.ndim == 1:
        return part
    chosen = part.select_dtypes("category")
    return part.assign(**{name: chosen[name].cat.remove_unused_categories() for name in chosen})
