"""A cluster on two hosts: ``unshare --user --map-root-user --net python -m tests.dask.two_hosts``.

This process is the first host: the scheduler, a worker and the client. The second is a worker in a
network namespace of its own; the only way between them is a pair of virtual network cards.
"""

import asyncio
import ctypes
import os
import subprocess
from multiprocessing import get_context

import dask
import dask.array as da
import numpy as np
from distributed import Client, LocalCluster, Worker
from numpy.testing import assert_allclose

from sknn_deep import DeepMLPRegressor
from sknn_deep.dask import DaskDeepMLPRegressor

CARDS, ADDRESSES = ("veth0", "veth1"), ("10.77.0.1", "10.77.0.2")
SCHEDULER = f"tcp://{ADDRESSES[0]}:8786"
CLONE_NEWNET = 0x40000000  # of Linux' sched.h; from Python 3.12 on os.unshare takes it

RNG = np.random.default_rng(0)
X = RNG.normal(size=(80, 4))
Y = X[:, 0] - X[:, 1] ** 2
SMALL = {
    "hidden_layer_sizes": (6,), "max_iter": 3, "n_iter_no_change": np.inf, "batch_size": 20,
    "random_state": 0, "dtype": "float64",
}  # fmt: skip


def ip(*commands):
    for command in commands:
        subprocess.run(["ip", *command.split()], check=True)


def be_second_host(pipe):
    """Leave this network for another, and be a worker there once there is a card."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "no network namespace")
    pipe.send("is there")
    pipe.recv()
    ip("link set lo up", f"address add {ADDRESSES[1]}/24 dev {CARDS[1]}")
    ip(f"link set {CARDS[1]} up")

    async def work():
        async with Worker(SCHEDULER, nthreads=1, name="second", dashboard=False) as worker:
            await worker.finished()

    asyncio.run(work())


def begin_second_host():
    """Start the second host, and put a card into each.

    It is forked, so that it need not import anything: nothing has run in parallel yet.
    """
    context = get_context("fork")
    own, other = context.Pipe()
    host = context.Process(target=be_second_host, args=[other], daemon=True)
    host.start()
    other.close()
    own.recv()
    ip(
        "link set lo up",
        f"link add {CARDS[0]} type veth peer name {CARDS[1]} netns {host.pid}",
        f"address add {ADDRESSES[0]}/24 dev {CARDS[0]}",
        f"link set {CARDS[0]} up",
    )
    own.send("go on")
    return host


def as_rank(rank):
    """Fit as one of two ranks that torchrun would have started, one on each host."""
    os.environ |= {
        "RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": ADDRESSES[0], "MASTER_PORT": "29500",
        "GLOO_SOCKET_IFNAME": CARDS[rank],
    }  # fmt: skip
    return DeepMLPRegressor(**SMALL, n_processes="torchrun").fit(X, Y).module_.flat.numpy()


def main():
    """Train on both hosts in the two ways, and compare with one process."""
    dask.config.set({"distributed.comm.timeouts.connect": "300s"})
    host = begin_second_host()
    try:
        with (
            LocalCluster(
                n_workers=1, threads_per_worker=1, processes=False, host=ADDRESSES[0],
                protocol="tcp://", scheduler_port=8786, dashboard_address=None,
            ) as cluster,
            Client(cluster) as client,
        ):  # fmt: skip
            client.wait_for_workers(2, timeout=300)
            workers = sorted(client.scheduler_info()["workers"])
            hosts = [address.split("//")[1].split(":")[0] for address in workers]
            assert hosts == list(ADDRESSES)
            parts = [
                [
                    client.persist(da.from_array(half, chunks=half.shape), workers=[worker])
                    for half, worker in zip(np.split(rows, 2), workers, strict=True)
                ]
                for rows in (X, Y)
            ]
            model = DaskDeepMLPRegressor(**SMALL).fit(*map(da.concatenate, parts))
            alone = model.to_local().fit(X, Y).module_.flat.numpy()
            assert_allclose(model.module_.flat.numpy(), alone, rtol=1e-10, atol=1e-10)
            second = client.submit(as_rank, 1, workers=workers[1:])
            for found in (as_rank(0), second.result(timeout=300)):
                assert_allclose(found, alone, rtol=1e-10, atol=1e-10)
    finally:
        host.kill()
        host.join()


if __name__ == "__main__":
    main()
