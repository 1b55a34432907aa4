"""SciPy's L-BFGS over a whole training set, with the gradient in closed form.

The loss and its gradient are consistent. With several regression outputs, scikit-learn passes the
mean of the loss over the outputs but the gradient of the sum. Here both belong to the sum, so the
line search is consistent.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import scipy.optimize
import torch
from sklearn.exceptions import ConvergenceWarning

from sknn_deep._engine.backprop import Backprop, Workspace
from sknn_deep._engine.batches import Batches
from sknn_deep._engine.chunk import Chunk
from sknn_deep._engine.losses import Loss
from sknn_deep._hardware.pace import Pace
from sknn_deep._hardware.ranks import Ranks
from sknn_deep._networks.flat import Network, gradient_of
from sknn_deep._user_warnings import warn_user


def fit_lbfgs(
    network: Network,
    loss: Loss,
    chunk: Chunk | Batches,
    *,
    alpha: float,
    tol: float,
    max_iter: int,
    max_fun: int,
    watch: Callable[[int, float], None] | None = None,
    ranks: Ranks | None = None,
) -> tuple[float, int, bool]:
    """Minimise the loss over the whole set with SciPy's L-BFGS-B [1]_.

    Parameters
    ----------
    network : Network
        Its current weights are the starting point; it holds the optimum afterwards.
    loss : Loss
    chunk : Chunk or Batches
        The whole set in one batch; or in several, whose losses and gradients are summed, so that
        no more rows than one batch are in memory.
    alpha, tol, max_iter, max_fun
        See the estimators.
    watch : callable, default=None
        Called with the number and the loss of each iteration, on the reported scale.
    ranks : Ranks, default=None
        The processes that minimise the loss together, each computing that of its own rows.

    Returns
    -------
    loss : float
        The loss at the optimum, penalty included, on the reported scale.
    n_iter : int
    interrupted : bool
        Whether the user interrupted; the network then holds the last iterate.

    References
    ----------
    .. [1] R. H. Byrd, P. Lu, J. Nocedal, C. Zhu (1995). A limited memory algorithm for
       bound constrained optimization. SIAM J. Sci. Comput. 16(5).
    """
    pace = Pace.of(network.flat.device)
    backprop = Backprop([network], loss, pace=pace, ranks=ranks)
    square = pace.pinned(torch.dot, 0)
    if isinstance(chunk, Batches):
        largest = backprop.largest_kernels(chunk.longest)
        write_gradient = partial(_sum_over, chunk, backprop, network)
        rate = alpha / chunk.weight_sum
    else:
        own = chunk if ranks is None else chunk.of_rank(ranks)
        largest = backprop.largest_kernels(len(own.X))
        with pace.steps(**largest):
            work = backprop.workspace(own)
            work.load()
        write_gradient = partial(_write, work, ranks)
        rate = alpha / chunk.weight_sums[0]

    @np.errstate(all="ignore")
    def loss_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        with pace.steps(**largest):
            network.flat.copy_(torch.from_numpy(flat))
            data_loss, weights = write_gradient(), network.weights
            gradient_of(weights).add_(weights, alpha=rate)
            value = data_loss + 0.5 * rate * square(weights, weights).item()
            pace.step_done()
        return value, gradient_of(network.flat).cpu().numpy().astype(np.float64)

    @np.errstate(all="ignore")
    def reported(value: float, flat: np.ndarray) -> float:
        weights = flat[: network.weights.numel()]
        penalty = 0.5 * rate * float(weights @ weights)
        return float((value - penalty) * loss.reported_scale + penalty)

    latest = scipy.optimize.OptimizeResult(nit=0)

    def keep(intermediate_result: scipy.optimize.OptimizeResult) -> None:
        x, fun = intermediate_result.x.copy(), intermediate_result.fun
        latest.update(x=x, fun=fun, nit=latest.nit + 1)
        if watch is not None:
            watch(latest.nit, reported(fun, x))

    interrupted = False
    network.train()
    try:
        result = scipy.optimize.minimize(
            loss_and_gradient,
            network.flat.cpu().numpy().astype(np.float64),
            method="L-BFGS-B",
            jac=True,
            callback=keep,
            options={"maxfun": max_fun, "maxiter": max_iter, "gtol": tol},
        )
    except KeyboardInterrupt:
        if latest.nit == 0:
            raise
        result, interrupted = latest, True
    network.flat.copy_(torch.from_numpy(result.x))
    if isinstance(chunk, Chunk):  # else there is no batch normalisation
        network.learn_statistics(chunk.X)
    network.eval()
    n_iter = min(int(result.nit), max_iter)
    if not interrupted and result.status != 0:
        _warn_of_failure(result, n_iter, max_iter)
    return reported(result.fun, result.x), n_iter, interrupted


def _write(work: Workspace, ranks: Ranks | None) -> float:
    """Write the gradient of the loss of all rows; return the loss."""
    (program,) = work.programs
    for kernel in program:
        kernel()
    loss = work.loss(0)
    if ranks is not None:
        ranks.add_(loss)
    return loss.item()


def _sum_over(batches: Batches, backprop: Backprop, network: Network) -> float:
    """Do the same as :func:`_write`, batch by batch."""
    gradient, loss = gradient_of(network.flat), 0.0
    total = torch.zeros_like(gradient)
    all_weights = batches.weight_sum
    for chunk in batches:
        work = backprop.workspace(chunk)
        work.load()
        for number, (program, weight_sum) in enumerate(
            zip(work.programs, chunk.weight_sums, strict=True)
        ):
            for kernel in program:
                kernel()
            share = weight_sum / all_weights
            total.add_(gradient, alpha=share)
            loss += share * work.loss(number).item()
    gradient.copy_(total)
    return loss


def _warn_of_failure(result: scipy.optimize.OptimizeResult, n_iter: int, max_iter: int) -> None:
    """Warn with scikit-learn's message, but attribute the warning to the user's line."""
    more = ""
    if n_iter == max_iter:
        more = (
            f"\nIncrease the number of iterations to improve the convergence (max_iter={max_iter})."
        )
    warn_user(
        f"lbfgs failed to converge after {n_iter} iteration(s) (status={result.status}):\n"
        f"{result.message}\n{more}\nYou might also want to scale the data as shown in:\n"
        "    https://scikit-learn.org/stable/modules/preprocessing.html",
        ConvergenceWarning,
    )
