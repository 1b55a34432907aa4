"""The sum of a gradient over several processes, which begins while it is still computed.

Backpropagation is done with the last layer first, and the matrices of the layers lie one after the
other in the flat gradient. So what lies behind a layer's matrix is complete once that layer has
been passed, and is sent while the layers before it are computed. Every process cuts the gradient
at the same layers and sends the parts in the same order, so the sum has the same bits each time.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate

from torch import Tensor

from sknn_deep._hardware.products import Kernel
from sknn_deep._hardware.ranks import Ranks

# A part with fewer bytes waits for the next layer's: each is another message to every process.
LEAST_BYTES = 2**20


def gradient_sum(
    ranks: Ranks, gradient: Tensor, matrices: Sequence[Tensor]
) -> tuple[dict[int, Kernel], Kernel]:
    """Return the kernels that replace a gradient by its sum over the ranks.

    Parameters
    ----------
    ranks : Ranks
    gradient : Tensor of shape (n_parameters,)
    matrices : sequence of Tensor
        Gradients of the layers' matrices, from the first layer to the last: the beginning of
        ``gradient``. Empty where they change after their layer has been passed.

    Returns
    -------
    begin : dict of Kernel
        By the number of a layer: what to call once its gradient is complete.
    finish : Kernel
        What to call once all of it is.
    """
    starts = list(accumulate((matrix.numel() for matrix in matrices), initial=0))
    end = stop = starts[-1]
    waits: list[Callable[[], None]] = []
    begin: dict[int, Kernel] = {}
    for layer in range(len(matrices) - 1, 0, -1):
        part = gradient[starts[layer] : stop]
        if part.nbytes >= LEAST_BYTES:
            begin[layer] = partial(_begin, ranks, part, waits)
            stop = starts[layer]
    rest = [gradient[:stop], gradient[end:]] if begin else [gradient]
    return begin, partial(_finish, ranks, rest, waits)


def _begin(ranks: Ranks, part: Tensor, waits: list[Callable[[], None]]) -> None:
    waits.append(ranks.begin_to_add_(part))


def _finish(ranks: Ranks, rest: list[Tensor], waits: list[Callable[[], None]]) -> None:
    for part in rest:
        _begin(ranks, part, waits)
    while waits:
        waits.pop(0)()
