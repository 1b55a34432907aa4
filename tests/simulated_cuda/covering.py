"""Few combinations in which every pair of values of any two factors occurs."""

import itertools
import random
from collections.abc import Mapping, Sequence


def covering(factors: Mapping[str, Sequence]) -> list[dict]:
    """Return rows, each with one value of each factor, that together hold all pairs of values.

    Each row begins with a pair that none has yet, and takes of some random completions the one
    with the most such pairs.
    """
    draw = random.Random(0)
    names = list(factors)
    missing = {
        ((a, i), (b, k))
        for a, b in itertools.combinations(names, 2)
        for i in range(len(factors[a]))
        for k in range(len(factors[b]))
    }
    rows = []
    while missing:
        first = min(missing)
        candidates = [
            {name: draw.randrange(len(factors[name])) for name in names} | dict(first)
            for _ in range(50)
        ]
        best = max(candidates, key=lambda row: len(missing & _pairs(row, names)))
        missing -= _pairs(best, names)
        rows.append({name: factors[name][number] for name, number in best.items()})
    return rows


def _pairs(row: Mapping[str, int], names: Sequence[str]) -> set[tuple]:
    return {((a, row[a]), (b, row[b])) for a, b in itertools.combinations(names, 2)}
