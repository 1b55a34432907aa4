"""Nested values as one text and arrays, and back to the last bit."""

import json
import math

import numpy as np
import pytest
import torch

from sknn_deep._files.packing import pack, unpack

ROWS = [
    {"epoch": i, "loss": 0.1 * i, "best": i % 2 == 0, "batches": [{"n": 1}] * i} for i in range(9)
]


@pytest.mark.parametrize(
    "value",
    [
        ROWS,
        {"packed as": "tuple", "items": [1]},
        {1: "a", "1": "b", None: 0.5, False: (), (2, "c"): np.float32(0.1)},
        [2**80, -0.0, math.inf, "\ud800", "\0"],
        [np.int8(1), np.bool_(False), np.float16(0.1), np.longlong(2**62)],
    ],
    ids=["rows", "reserved key", "keys", "numbers", "NumPy's numbers"],
)
def test_values_come_back_with_their_types(value):
    packed = pack(value, strict=True)
    assert json.loads(packed["text"]) is not None
    assert packed["parts"] == []
    assert repr(unpack(packed, strict=True)) == repr(value)


def test_arrays_and_tensors_are_parts_that_share_their_memory():
    array, tensor = np.arange(3.0), torch.arange(2.0)
    packed = pack({"a": [array], "b": tensor})
    assert packed["parts"][0] is array
    restored = unpack(packed)
    assert restored["a"][0] is array
    assert restored["b"].data_ptr() == tensor.data_ptr()


def test_other_objects_are_parts_unless_it_is_strict():
    value = {"rows": [1, {"where": object()}]}
    assert unpack(pack(value)) == value
    with pytest.raises(TypeError, match=r"rows\.1\.where=<object .* that no file can hold"):
        pack(value, strict=True)
    with pytest.raises(ValueError, match="other parts than arrays"):
        unpack(pack(value), strict=True)
