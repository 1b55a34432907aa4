"""Which products are rounded to bfloat16, and what a processor without the instructions does."""

import re
from types import MappingProxyType

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from sknn_deep import DeepMLPClassifier
from sknn_deep._hardware import bfloat16
from sknn_deep._hardware.bfloat16 import RoundedLayers, has_instructions, product_dtype

CPU = torch.device("cpu")
QUICK = {"hidden_layer_sizes": (16,), "max_iter": 2, "random_state": 0, "device": "cpu"}

pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer. Maximum iterations")


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({"avx512_f": True, "avx512_bf16": False}, False),
        ({"avx512_f": True, "avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"neon": True}, False),
        ({"neon": True, "bf16": True}, True),
    ],
    ids=str,
)
def test_instructions_are_those_that_torch_finds(known, expected, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: MappingProxyType(known))
    assert has_instructions.__wrapped__() == expected


def test_only_processors_without_instructions_do_not_round(monkeypatch):
    monkeypatch.setattr(bfloat16, "has_instructions", lambda: False)
    assert product_dtype("bfloat16", CPU) is None
    assert product_dtype("bfloat16", torch.device("cuda")) == torch.bfloat16
    monkeypatch.setattr(bfloat16, "has_instructions", lambda: True)
    assert product_dtype("bfloat16", CPU) == torch.bfloat16
    assert product_dtype("float32", CPU) is None


@pytest.mark.usefixtures("small_layers_are_rounded")
def test_without_instructions_all_is_float32_and_a_warning_says_so(digits, monkeypatch):
    expected = DeepMLPClassifier(**QUICK, dtype="float32").fit(digits.X, digits.y)
    monkeypatch.setattr(bfloat16, "has_instructions", lambda: False)
    classifier = DeepMLPClassifier(**QUICK, dtype="bfloat16")
    message = "dtype='bfloat16' trains and predicts in float32 here: this processor has no"
    with pytest.warns(UserWarning, match=re.escape(message)):
        classifier.fit(digits.X, digits.y)
    assert_array_equal(classifier.predict_proba(digits.X), expected.predict_proba(digits.X))


def test_layers_are_rounded_by_the_rows_of_the_block():
    """So parts of the rows, whatever their number, have the same outputs as all together."""
    layer, x = torch.nn.Linear(256, 128), torch.randn(128, 256)
    with torch.no_grad():
        expected = (x.bfloat16() @ layer.weight.bfloat16().mT).float() + layer.bias
        with RoundedLayers(64):  # 2**21 multiply-adds
            assert torch.equal(layer(x[:64]), expected[:64])
            assert torch.equal(layer(x[:1]), expected[:1])
        with RoundedLayers(63):
            assert torch.equal(
                layer(x[:63]), torch.nn.functional.linear(x[:63], *layer.parameters())
            )


@pytest.mark.parametrize("n_networks", [1, 2])
def test_predictions_of_large_layers_are_rounded(n_networks, digits):
    """As ``dtype`` says when they are asked for, whatever it was in the fit."""
    params = {**QUICK, "hidden_layer_sizes": (64,), "n_networks": n_networks}
    classifier = DeepMLPClassifier(**params, dtype="bfloat16").fit(digits.X, digits.y)
    X = np.tile(digits.X, (2, 1))
    rounded = classifier.predict_proba(X)
    exact = classifier.set_params(dtype="float32").predict_proba(X)
    assert rounded.dtype == exact.dtype == np.float32
    assert not np.array_equal(rounded, exact)
    assert_allclose(rounded, exact, atol=0.02)
    assert_allclose(rounded.sum(axis=1), 1, rtol=1e-6)
    few = classifier.predict_proba(X[:100])
    assert_array_equal(classifier.set_params(dtype="bfloat16").predict_proba(X[:100]), few)
