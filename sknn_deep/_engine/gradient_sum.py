"""The sum of a gradient over several processes, overlapped with backpropagation.

Backpropagation finishes the last layer first, and the layers' matrices are consecutive in the flat
gradient. So once a layer is done, the gradient of its matrix and of those behind it is complete,
and is sent while the layers before it are computed. Every process divides the gradient at the same
layers and sends the parts in the same order, so the sum has the same bits each time.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate

from torch import Tensor

from sknn_deep._hardware.products import Kernel
from sknn_deep._hardware.ranks import Ranks

# Smaller parts are sent together with the next layer's, as each is a message to every process.
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
        ``gradient``. Empty if they change after backpropagation has passed their layer.

    Returns
    -------
    begin : dict of Kernel
        By layer number, the kernel to call once the layer's gradient is complete.
    finish : Kernel
        The kernel to call once the whole gradient is complete.
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
