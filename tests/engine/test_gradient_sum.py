"""The sum over processes begins while the gradient is computed, and covers all of it once."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from sknn_deep import AutoencoderTransformer, DeepMLPRegressor
from sknn_deep._engine import gradient_sum
from sknn_deep._hardware.ranks import Ranks, training_together

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3))
SMALL = {"max_iter": 2, "batch_size": 20, "random_state": 0, "dtype": "float64"}


class Alone(Ranks):
    """One rank, whose sum of a part is there only once it is waited for.

    Until then the part is not a number, and neither is, when the first part of a step is sent,
    what has not been sent: it must be computed afterwards.
    """

    def __init__(self):
        super().__init__(0, 1)
        self.begun = []

    def begin_to_add_(self, tensor):
        if tensor.ndim == 0 or len(tensor) == 2:  # losses
            return lambda: None
        sent = tensor.clone()
        whole = tensor if tensor._base is None else tensor._base
        if not self.begun or self.begun[-1] == "all":
            start = tensor.storage_offset()
            whole[:start] = torch.nan
        tensor.fill_(torch.nan)
        self.begun.append(len(tensor))

        def wait():
            tensor.copy_(sent)
            if tensor.storage_offset() + len(tensor) == len(whole):
                self.begun.append("all")

        return wait

    def copy_first_(self, tensor):
        return tensor

    def first(self, value):
        return value

    def collected(self, value):
        return [value]


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        # 3-7-8-9-1: with 9 in a row the last matrix waits for the one before; those of the first
        # layer and the biases come last
        (DeepMLPRegressor(hidden_layer_sizes=(7, 8, 9), **SMALL), [81, 56, 21, 25]),
        (DeepMLPRegressor(hidden_layer_sizes=(2, 2), **SMALL), [17]),
        (AutoencoderTransformer(2, (9,), tied_weights=True, **SMALL), [68]),
    ],
    ids=["by layers", "too small", "tied matrices"],
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_layers_are_sent_while_those_before_are_computed(monkeypatch, estimator, expected):
    monkeypatch.setattr(gradient_sum, "LEAST_BYTES", 8 * 50)
    y = X[:, 0]
    alone = estimator.fit(X, y).module_.flat.clone()
    ranks = Alone()
    with training_together(ranks):
        estimator.fit(X, y)
    assert ranks.begun == [*expected, "all"] * 4
    assert_array_equal(estimator.module_.flat, alone)
