"""Products of factors that are rounded to bfloat16."""

import torch
from torch import Tensor

# Products of fewer multiply-adds take a CPU less time in single precision, because rounding
# their factors and calling oneDNN take longer than the product.
FEWEST_TO_ROUND = 2**21


def is_worth_rounding(n_rows: int, weight: Tensor) -> bool:
    """Return whether the products of a layer take less time if their factors are rounded.

    Parameters
    ----------
    n_rows : int
        Of a batch.
    weight : Tensor of shape (..., out_features, in_features)
    """
    is_on_host = weight.device.type == "cpu"
    return not is_on_host or n_rows * weight[..., :, :].shape[-1] * weight.shape[-2] >= FEWEST_TO_ROUND
