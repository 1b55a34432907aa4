"""The README's figures on real data: each recipe keeps the bound that the issue sets."""

import importlib.util
import operator
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "quality.py"
COMPARISONS = {">=": operator.ge, "<=": operator.le}


@pytest.fixture(scope="module")
def quality():
    """Offer the benchmark as a module."""
    spec = importlib.util.spec_from_file_location("quality", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_recipe_has_a_bound(quality):
    assert set(quality.BOUNDS) == {recipe.__name__ for recipe in quality.RECIPES}
    signs = {sign for bounds in quality.BOUNDS.values() for sign, _ in bounds}
    assert signs <= set(COMPARISONS)


@pytest.mark.parametrize(
    ("name", "bound"),
    [
        ("plain_classifier", [(">=", 0.976)]),
        ("recipe_classifier", [(">=", 0.983)]),
        ("codes_of_32", [("<=", 0.0090), (">=", 0.975), (">=", 0.996)]),
        ("codes_of_2", [("<=", 0.0385), (">=", 0.75), (">=", None)]),
        ("california_housing", [("<=", 0.50)]),
    ],
)
def test_bounds_are_those_that_were_promised(name, bound, quality):
    assert quality.BOUNDS[name] == bound


@pytest.mark.parametrize(
    ("value", "sign", "bound", "kept"),
    [
        (0.5, ">=", 0.5, True),
        (0.4, ">=", 0.5, False),
        (0.5, "<=", 0.5, True),
        (0.6, "<=", 0.5, False),
        (np.nan, ">=", 0.5, False),
        (0.1, ">=", None, True),
    ],
)
def test_a_figure_is_held_against_its_bound(value, sign, bound, kept, quality):
    assert quality.keeps(value, sign, bound) is kept


# The other recipes take minutes; `python -m benchmarks.quality` runs them all.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Stochastic Optimizer. Maximum iterations")
@pytest.mark.parametrize(("name", "data"), [("plain_classifier", "mnist")])
def test_recipe_keeps_its_bound(name, data, quality, request):
    request.getfixturevalue(data)  # skips where the data are not at hand
    ((_, value, _),) = getattr(quality, name)()
    ((comparison, bound),) = quality.BOUNDS[name]
    assert COMPARISONS[comparison](value, bound), f"{name}: {value:.5f}, not {comparison} {bound}"
