"""Dropout masks on an accelerator, drawn for several batches at once.

For a small batch, launching a kernel takes longer than its work, and each network of a stack has
its own generator, so that it draws the same numbers as when trained alone. So each network draws
the masks of up to 16 batches in one call. The groups are counted from the first batch of an epoch,
so they do not depend on how batches are gathered.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from sknn_deep._networks.random_layers import Dropout

MOST_BATCHES = 16
# Most numbers that a network draws in one call, unless a single batch needs more.
_NUMBERS = 2**20


class Masks:
    """The masks of a layer of one network or a stack.

    Parameters
    ----------
    modules : list of Dropout, length K
    shape : sequence of int
        (batch, units) of the longest batch; with a leading dimension of K for a stack.
    like : Tensor
        Provides the type and device.

    Attributes
    ----------
    n_batches : int
        Number of batches per draw, a power of two.
    """

    def __init__(self, modules: list[Dropout], shape: Sequence[int], like: Tensor):
        self._modules, n_rows, n_units = modules, shape[-2], shape[-1]
        self.n_batches = MOST_BATCHES
        while self.n_batches > 1 and self.n_batches * n_rows * n_units > _NUMBERS:
            self.n_batches //= 2
        self._masks = like.new_empty((self.n_batches, *shape))
        self._rates: list[float] = []
        self._kept = like.new_empty((2, *shape[:-2], 1, 1))  # the probability, and its inverse

    def update(self) -> None:
        """Adopt the current dropout rates of the modules."""
        rates = [module.p for module in self._modules]
        if rates != self._rates:
            kept = 1 - torch.tensor(rates, dtype=torch.float64, device="cpu")
            both = torch.stack([kept, 1 / kept]).to(self._kept.dtype)
            self._kept.copy_(both.view(self._kept.shape), non_blocking=True)
            self._rates = rates

    def draw(self) -> None:
        """Draw the masks of the next batches."""
        kept, factor = self._kept
        if kept.ndim == 2:
            self._masks.bernoulli_(kept, generator=self._modules[0].generator)
        else:
            for number, module in enumerate(self._modules):
                self._masks[:, number].bernoulli_(kept[number], generator=module.generator)
        self._masks.mul_(factor)

    def of_batch(self, number: int, n_rows: int) -> Tensor:
        """Return the mask of a batch of the epoch, shape ([K,] n_rows, units)."""
        return self._masks[number % self.n_batches, ..., :n_rows, :]
