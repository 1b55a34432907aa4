"""Tasks of ``benchmarks.train``, at a smaller size."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.contenders import in_process
from benchmarks.train import WORKS, floor
from sknn_deep import TabularMLPClassifier, TabularMLPRegressor

MADE = [key for key, work in WORKS.items() if not (work.has_test_set or work.units[0] == 64)]


def _small(key):
    work = WORKS[key]
    first, *hidden, last = work.units
    units = (min(first, 300), *hidden, min(last, 200))
    n_rows = 2 * max(100, units[-1])  # each class occurs
    few = {"numbers_in_a_row": 20} if work.numbers_in_a_row else {}
    return replace(work, units=units, n_samples=n_rows, batch_size=50, epochs=1, **few)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("key", MADE)
def test_contenders_train_the_task(key):
    work = _small(key)
    data = work.data()
    assert data.X.shape == (work.n_samples, work.units[0])
    qualities = {
        name: work.quality(contender(work, data.X, data.y)(), data)
        for name, contender in in_process(work).items()
        if name != "skorch"
    }
    assert all(map(np.isfinite, qualities.values()))
    floor(work)()


def test_the_others_take_part_where_they_can():
    alone = {key for key, work in WORKS.items() if list(in_process(work)) == ["sknn_deep"]}
    assert alone == {"tabular-regressor", "tabular-classifier"}
    keras = {key for key, work in WORKS.items() if work.suits_keras}
    assert keras == {
        *("tiny", "small", "digits", "mnist-200", "mnist-2048", "wide-2048", "wider-2048"),
        *("mnist-float64", "mnist-regularised", "autoencoder", "classes-2000", "classes-10000"),
    }


@pytest.mark.parametrize("kind", [TabularMLPClassifier, TabularMLPRegressor])
def test_batches_of_tables_are_as_large_as_by_default(kind):
    name = "classifier" if kind is TabularMLPClassifier else "regressor"
    work, estimator = WORKS[f"tabular-{name}"], kind()
    n_rows = int(work.n_samples * (1 - estimator.validation_fraction))
    assert estimator._batch_size_for(n_rows) == work.batch_size
    assert str(work) == f"{kind.__name__}, 8,000 rows of 8 numbers"
