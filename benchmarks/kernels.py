"""The choices inside a step, against what they replaced: ``python -m benchmarks.kernels``.

Each row times two ways to compute the same thing on one thread. The last rows use several threads:
gathering rows; an optimiser step after products with the same weights, which measures the cost of
moving data between cores; and training steps of 784-128-64-10 while a second process keeps a core
busy.
"""

import math
import time
import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.exceptions import ConvergenceWarning

from benchmarks import harness
from benchmarks.contenders import Work, in_process
from sknn_deep._engine.optimizers import adam_kernel
from sknn_deep._hardware.sparse_products import SparseBatch
from sknn_deep._networks.flat import Dropout


def by_torch_and_numpy(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> tuple:
    """Return a product, or the products of a stack, computed by torch and by NumPy."""
    multiply, numpys = (torch.bmm, np.matmul) if out.ndim == 3 else (torch.mm, np.dot)
    arrays = left.numpy(), right.numpy(), out.numpy()
    return (lambda: multiply(left, right, out=out)), (lambda: numpys(*arrays))


def in_one_buffer(n_networks: int, *shape: int) -> torch.Tensor:
    """Return the parameters of a stack's layer, each network in a row of one buffer."""
    n_parameters = math.prod(shape)
    return torch.rand(n_networks, 2 * n_parameters)[:, :n_parameters].unflatten(1, shape)


def products() -> dict[str, tuple]:
    """Return products as rejected, and as used: small ones by NumPy."""
    found = {}
    for rows, n_in, n_out in ((32, 10, 32), (32, 32, 3), (200, 784, 128), (2048, 784, 128)):
        x, weight, delta = torch.rand(rows, n_in), torch.rand(n_out, n_in), torch.rand(rows, n_out)
        is_small = rows == 32
        names, order = ("torch / NumPy", 1) if is_small else ("NumPy / torch", -1)
        found[f"product {rows}x{n_in} by {n_in}x{n_out}: {names}"] = by_torch_and_numpy(
            x, weight.mT, torch.empty(rows, n_out)
        )[::order]
        found[f"product {n_out}x{rows} by {rows}x{n_in}: {names}"] = by_torch_and_numpy(
            delta.mT, x, torch.empty(n_out, n_in)
        )[::order]
    for k, rows, n_in, n_out in ((60, 32, 10, 32), (20, 32, 128, 128), (20, 200, 64, 100)):
        x, delta = torch.rand(k, rows, n_in), torch.rand(k, rows, n_out)
        weight = in_one_buffer(k, n_out, n_in)
        names, order = ("torch / NumPy", 1) if rows == 32 else ("NumPy / torch", -1)
        found[f"{k} products {n_out}x{rows} by {rows}x{n_in}: {names}"] = by_torch_and_numpy(
            delta.mT, x, in_one_buffer(k, n_out, n_in)
        )[::order]
        found[f"{k} products {rows}x{n_out} by {n_out}x{n_in}: {names}"] = by_torch_and_numpy(
            delta, weight, torch.empty(k, rows, n_in)
        )[::order]
    # the one case left to torch: a stack's outputs for few rows
    x, weight = torch.rand(20, 32, 128), in_one_buffer(20, 128, 128)
    torchs, numpys = by_torch_and_numpy(x, weight.mT, torch.empty(20, 32, 128))
    found["20 products 32x128 by 128x128, transposed: NumPy / torch"] = numpys, torchs
    # the first layer of a stack, whose matrix is stored by column
    x, weight, turned = torch.rand(20, 32, 30), in_one_buffer(20, 64, 30), in_one_buffer(20, 30, 64)
    found["20 products 32x30 by 30x64: transposed by torch / as they lie by NumPy"] = (
        by_torch_and_numpy(x, weight.mT, torch.empty(20, 32, 64))[0],
        by_torch_and_numpy(x, turned, torch.empty(20, 32, 64))[1],
    )
    x, weight, out = torch.rand(10, 200, 100), in_one_buffer(10, 10, 100), torch.empty(10, 10, 200)
    blocks = (weight.unsqueeze(1), x.unflatten(1, (2, 100)).mT, out.unflatten(2, (2, 100)))
    left, right, out_of_blocks = (tensor.numpy() for tensor in blocks)
    out_of_blocks = out_of_blocks.swapaxes(1, 2)
    found["10 products 10x100 by 100x200: whole / in blocks of 100 columns, by NumPy"] = (
        by_torch_and_numpy(weight, x.mT, out)[1],
        lambda: np.matmul(left, right, out_of_blocks),
    )
    rows_k, ones_k = torch.rand(60, 32, 32), torch.ones(60, 1, 32)
    sums = in_one_buffer(60, 1, 32)
    found["60 sums of 32 rows of 32: sum / product with ones by NumPy"] = (
        lambda: torch.sum(rows_k, dim=1, keepdim=True, out=sums),
        by_torch_and_numpy(ones_k, rows_k, sums)[1],
    )
    # which is faster depends on the processor, see sknn_deep/_hardware/slow_mkl.py
    for dtype in (torch.float32, torch.float64):
        x, weight = torch.rand(2048, 784, dtype=dtype), torch.rand(128, 784, dtype=dtype)
        by_row, by_column = x.new_empty(2048, 128), x.new_empty(128, 2048).mT
        name = f"output of 2048x784 by 784x128 in {str(dtype).removeprefix('torch.')}"
        found[f"{name}: by row / by column"] = (
            partial(torch.mm, x, weight.mT, out=by_row),
            partial(torch.mm, x, weight.mT, out=by_column),
        )
    return found


def sparse_products() -> dict[str, tuple]:
    """Return a batch's two products of a first layer, for densified rows and for sparse ones.

    The last rows have the highest density at which sparse rows are multiplied directly.
    """
    found = {}
    for n_columns, n_numbers in ((50_000, 60), (20_000, 100), (2000, 20), (2000, 40)):
        rows = sp.random(200, n_columns, n_numbers / n_columns, "csr", np.float32)
        weight, gradient = torch.rand(2, 100, n_columns)
        out, dense = torch.empty(200, 100), torch.empty(200, n_columns)
        batch = SparseBatch(rows)
        program = batch.forward(weight, out) + batch.gradient(out, gradient)

        def as_they_are(batch=batch, rows=rows, program=program) -> None:
            batch.load(rows)
            for kernel in program:
                kernel()

        def as_dense(rows=rows, weight=weight, gradient=gradient, out=out, dense=dense) -> None:
            rows.toarray(out=dense.numpy())
            torch.mm(dense, weight.mT, out=out)
            torch.mm(out.mT, dense, out=gradient)

        name = f"sparse products of 200x{n_columns}, {n_numbers} numbers a row, by 100 units"
        found[f"{name}: dense / as they are"] = as_dense, as_they_are
    return found


def pairs() -> dict[str, tuple]:
    """Return two functions for each choice: the replaced one, and the one in use."""
    found = products() | sparse_products()
    raw, out = torch.randn(200, 10), torch.empty(200, 10)
    raw_t, out_t = raw.mT.contiguous(), torch.empty(10, 200)
    found["softmax of 200x10: last dimension / first"] = (
        lambda: torch.softmax(raw, 1, out=out),
        lambda: torch.softmax(raw_t, 0, out=out_t),
    )
    mask, dropout = torch.empty(256, 128), Dropout(0.2)
    dropout.generator = torch.Generator()
    found["dropout's mask of 256x128: bernoulli_ / 16 bits"] = (
        lambda: mask.bernoulli_(0.8, generator=dropout.generator).div_(0.8),
        lambda: dropout.draw_(mask),
    )
    rows, ones, total = torch.rand(200, 64), torch.ones(1, 200), torch.empty(1, 64)
    found["sum of 200 rows of 64: sum / product with ones"] = (
        lambda: torch.sum(rows, dim=0, out=total[0]),
        lambda: torch.mm(ones, rows, out=total),
    )
    delta, a, sign = torch.rand(32, 32), torch.rand(32, 32), torch.empty(32, 32)
    found["derivative of 32x32 relu units: threshold_backward / sign, mul_"] = (
        lambda: torch.ops.aten.threshold_backward.grad_input(delta, a, 0, grad_input=delta),
        lambda: delta.mul_(torch.sign(a, out=sign)),
    )
    return found


def gathers() -> dict[str, Callable[[], float]]:
    """Return two ways to gather a batch of images that are scattered in memory."""
    images, out = torch.rand(60_000, 784), torch.empty(2048, 784)
    batches = torch.randperm(len(images))[: 20 * len(out)].view(20, -1)

    def by_numpy() -> None:
        for rows in batches.numpy():
            images.numpy().take(rows, axis=0, out=out.numpy(), mode="clip")

    def by_torch() -> None:
        for rows in batches:
            torch.index_select(images, 0, rows, out=out)

    return {"take": harness.timed(by_numpy), "index_select": harness.timed(by_torch)}


def moves() -> dict[str, Callable[[], float]]:
    """Return timings of Adam's update of a layer, alone and after products with its weights."""
    weights, m, v = torch.rand(3, 128, 784)
    gradient, x, delta = torch.rand(128, 784), torch.rand(200, 784), torch.rand(200, 128)
    out = torch.empty(200, 128)
    move = adam_kernel(weights, gradient, m, v, (0.9, 0.999), 1e-8)

    def use() -> None:
        torch.mm(x, weights.mT, out=out)
        torch.mm(delta.mT, x, out=gradient)

    def seconds(before: Callable[[], object]) -> float:
        total = 0.0
        for _ in range(200):
            before()
            start = time.perf_counter()
            move(1e-9)
            total += time.perf_counter() - start
        return total / 200

    return {"after": lambda: seconds(use), "alone": lambda: seconds(lambda: None)}


def hundred_steps() -> dict:
    """Return runs of 100 steps of one network: ours, and plain torch."""
    work = Work((784, 128, 64, 10), 200, 1, n_samples=20_000)
    rng = np.random.default_rng(0)
    X, y = rng.random((20_000, 784), dtype=np.float32), rng.integers(0, 10, 20_000)
    runs = in_process(work)
    return {name: runs[name](work, X, y) for name in ("sknn_deep", "torch")}


def main():
    """Time every choice and print the ratios."""
    arguments = harness.parser(__doc__).parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    rows, results = [], {}
    with harness.limited_threads(1):
        for name, (replaced, used) in pairs().items():
            runs = {"replaced": harness.repeated(replaced), "used": harness.repeated(used)}
            seconds = results[name] = harness.alternate(runs, arguments.rounds)
            ratio = harness.ratio(seconds, "replaced", "used")
            rows.append([name, harness.duration(seconds["used"]), ratio])
    runs = {name: harness.timed(run) for name, run in hundred_steps().items()}
    with harness.limited_threads(arguments.threads):
        seconds = results["gather"] = harness.alternate(gathers(), arguments.rounds)
        what = f"20 times 2048 images, {arguments.threads} threads: NumPy's take / index_select"
        ratio = harness.ratio(seconds, "take", "index_select")
        rows.append([what, harness.duration(seconds["index_select"]), ratio])
        seconds = results["move"] = harness.alternate(moves(), arguments.rounds)
        what = (
            f"Adam's move of 128x784 weights: after products on {arguments.threads} threads / alone"
        )
        rows.append(
            [what, harness.duration(seconds["alone"]), harness.ratio(seconds, "after", "alone")]
        )
        alone = harness.alternate(runs, arguments.rounds)
        with harness.busy_neighbours(1):
            beside = harness.alternate(runs, arguments.rounds)
    for name in runs:
        seconds = results[f"neighbour, {name}"] = {"alone": alone[name], "beside": beside[name]}
        ratio = harness.ratio(seconds, "beside", "alone")
        what = f"100 steps of {name}: beside a busy process / alone"
        rows.append([what, harness.duration(alone[name]), ratio])
    harness.print_machine()
    harness.print_table(["choice", "the latter takes", "ratio"], rows)
    harness.save(arguments.json, results)


if __name__ == "__main__":
    main()
