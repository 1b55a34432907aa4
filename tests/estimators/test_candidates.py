"""Candidates: many configurations, and the ensemble of those that go best together."""

import pickle
import signal
from functools import partial
from threading import Lock

import joblib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.metrics import log_loss, mean_squared_error
from sklearn.model_selection import cross_validate

import sknn_deep
from sknn_deep import TabularMLPClassifier, TabularMLPRegressor
from sknn_deep._estimators import candidates
from sknn_deep._estimators.candidates import draw_configurations, select
from sknn_deep._estimators.jobs import Job, group_alike
from sknn_deep._networks.number_inputs import BASES
from tests.estimators.test_tables import make_table

X, Y = make_table(0, 160)
LABELS = np.where(np.median(Y) < Y, "high", "low")
KINDS = {TabularMLPClassifier: LABELS, TabularMLPRegressor: Y}
QUICK = {"hidden_layer_sizes": (8,), "max_iter": 3, "random_state": 0, "n_candidates": 4}

SLOW = {"learning_rate_init": 1e-7, "adam_learning_rate_init": 1e-7}
SOME_SLOW = [[SLOW, {}, {}, {}], *[[{}]] * 8, [{}], [SLOW], [SLOW], [{}]]
LONGER = QUICK | {"max_iter": 10, "n_iter_no_change": np.inf}


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.__name__)
def fitted(request):
    return request.param(**QUICK).fit(X[:120], KINDS[request.param][:120])


def outputs(estimator, rows=X):
    name = "predict_proba" if hasattr(estimator, "predict_proba") else "predict"
    return getattr(estimator, name)(rows)


def test_the_table_of_candidates_tells_what_came_of_each(fitted):
    table = fitted.candidates_
    assert len(table) == 4
    assert table["weight"].sum() == pytest.approx(1)
    assert (table["weight"] > 0).sum() == len(fitted.estimators_) == len(fitted.ensemble_weights_)
    assert table["hidden_layer_sizes"][0] == (8,), "the first is the estimator itself"
    assert {"validation_loss", "n_iter", "seconds", "dropout", "n_bins"} <= set(table)
    chosen = table[table["weight"] > 0]
    sizes = [network.hidden_layer_sizes for network in fitted.estimators_]
    assert chosen["hidden_layer_sizes"].tolist() == sizes


def test_the_prediction_is_the_weighted_mean(fitted):
    rows = fitted._validate_input(X)
    found = [network._outputs(rows) for network in fitted.estimators_]
    expected = np.average(found, axis=0, weights=fitted.ensemble_weights_)
    if hasattr(fitted, "temperature_"):
        powers = expected ** (1 / fitted.temperature_)
        expected = powers / powers.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(outputs(fitted), expected, rtol=1e-4)
    assert fitted.score(X, KINDS[type(fitted)]) > -1


def test_the_ensemble_is_no_worse_than_any_candidate_on_the_validation_rows():
    y = Y[:120]
    fitted = TabularMLPRegressor(**QUICK).fit(X[:80], y[:80], X_val=X[80:120], y_val=y[80:])
    of_ensemble = mean_squared_error(y[80:], fitted.predict(X[80:120])) / 2
    best = fitted.candidates_["validation_loss"].min()
    assert of_ensemble <= best * (1 + 1e-5)
    labels = LABELS[:120]
    classifier = TabularMLPClassifier(**QUICK)
    classifier.fit(X[:80], labels[:80], X_val=X[80:120], y_val=labels[80:])
    of_ensemble = log_loss(labels[80:], classifier.predict_proba(X[80:120]))
    assert of_ensemble <= classifier.candidates_["validation_loss"].min() + 1e-5


def test_a_seed_gives_the_same_ensemble(fitted):
    again = type(fitted)(**QUICK).fit(X[:120], KINDS[type(fitted)][:120])
    np.testing.assert_array_equal(outputs(again), outputs(fitted))


def test_files_keep_the_ensemble(fitted, tmp_path):
    sknn_deep.save(fitted, tmp_path / "file")
    for other in (pickle.loads(pickle.dumps(fitted)), sknn_deep.load(tmp_path / "file")):
        np.testing.assert_array_equal(outputs(other), outputs(fitted))
        assert other.candidates_.equals(fitted.candidates_)


def test_all_candidates_hold_out_the_same_rows():
    X_far = X.assign(size=X["size"].where(np.arange(len(X)) % 2 == 0, 1e9))
    estimator = TabularMLPRegressor(**QUICK, validation_fraction=0.5).fit(X_far, Y)
    centers = [network.module_.input.parts[0].center[0].item() for network in estimator.estimators_]
    assert len(set(centers)) == 1


def test_the_time_ends_the_drawing():
    estimator = TabularMLPRegressor(**QUICK | {"n_candidates": 10_000, "max_iter": 2})
    estimator.set_params(max_time=1.0).fit(X, Y)
    assert 1 <= len(estimator.candidates_) < 10_000
    assert np.isfinite(estimator.predict(X)).all()


@pytest.fixture(scope="module")
def some_slow():
    """Offer candidates, some of which fall behind, that one process has trained."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(candidates, "draw_configurations", lambda *args: SOME_SLOW)
        return TabularMLPRegressor(**LONGER | {"n_candidates": 16}, n_jobs=1).fit(X, Y)


def test_what_falls_behind_is_given_up(some_slow):
    table = some_slow.candidates_
    assert table["n_iter"].tolist() == [10] * 13 + [3] * 2 + [10]
    assert (table["validation_loss"][13:15] > table["validation_loss"][1:13].max()).all()


def test_a_candidate_that_diverges_is_left_out(monkeypatch):
    drawn = [{}, {"learning_rate_init": 1e30, "adam_learning_rate_init": 1e30}, {}]
    monkeypatch.setattr(candidates, "draw_configurations", lambda *args: [drawn])
    table = TabularMLPRegressor(**QUICK).fit(X, Y).candidates_
    assert np.isinf(table["validation_loss"][1])
    assert table["weight"][1] == 0
    monkeypatch.setattr(candidates, "draw_configurations", lambda *args: [drawn[1:2]])
    with pytest.raises(ValueError, match="lower learning_rate_init"):
        TabularMLPRegressor(**QUICK).fit(X, Y)


def test_weights_of_classes_count_in_the_selection():
    seen = []

    class Watched(TabularMLPClassifier):
        def _loss_of_outputs(self, output, y, weight):
            seen.append(weight)
            return super()._loss_of_outputs(output, y, weight)

    Watched(**QUICK, class_weight={"high": 3.0, "low": 1.0}).fit(X, LABELS)
    assert set(seen[0]) == {1.0, 3.0}


def test_callbacks_of_scikit_learn_hear_of_each_candidate(capsys):
    monitor = ScoringMonitor(scoring="r2")
    estimator = TabularMLPRegressor(**QUICK).set_callbacks(ProgressBar(), monitor)
    estimator.fit(X, Y)
    log = monitor.get_logs().data_as_pandas
    assert len(log) == QUICK["n_candidates"] + 1, "and of the search"
    assert log["r2"].iloc[-1] == pytest.approx(estimator.score(X, Y))
    assert "TabularMLPRegressor" in capsys.readouterr().out
    alone = TabularMLPRegressor(**QUICK).fit(X, Y)
    np.testing.assert_array_equal(outputs(alone), outputs(estimator))


def test_a_callback_of_scikit_learn_may_stop_the_search():
    class StopAfterTwo:
        def setup(self, estimator, context):
            pass

        teardown = on_fit_task_begin = setup

        def on_fit_task_end(self, estimator, context):
            return context.task_name == "candidate" and context.task_id == 1

    estimator = TabularMLPRegressor(**QUICK).set_callbacks(StopAfterTwo()).fit(X, Y)
    assert len(estimator.candidates_) == 2


def test_configurations_are_drawn_from_the_whole_space():
    groups = draw_configurations(501, np.random.RandomState(0))
    assert [len(group) for group in groups] == [4, *[1] * 497]
    assert groups[0][0] == {}, "the first is the estimator itself"
    assert groups[0][1].keys() == {
        "learning_rate_init", "adam_learning_rate_init", "weight_decay",
    }  # fmt: skip
    drawn = [params for group in groups[1:] for params in group]
    values = {name: [params[name] for params in drawn] for name in drawn[0]}
    assert all(params.keys() == values.keys() for params in drawn)
    assert set(values["numeric_embedding"]) == set(BASES)
    assert {len(sizes) for sizes in values["hidden_layer_sizes"]} == {1, 2, 3}
    assert set(values["n_bins"]) == {64, 128, 256}
    assert 0 == min(values["dropout"]) < max(values["dropout"]) < 0.5
    assert 0.001 < min(values["learning_rate_init"]) < max(values["learning_rate_init"]) < 0.02
    for group in groups:
        for params in group:
            TabularMLPRegressor(**params)._validate_params()
        # that is what makes them one stack
        jobs = [Job(TabularMLPRegressor(**params), X, Y) for params in group]
        assert len(group_alike(jobs)) == 1


def test_networks_that_predict_no_numbers_have_no_place():
    outputs = [np.array([np.nan]), np.array([1.0]), np.array([3.0])]
    assert select(outputs, lambda mean: float(abs(mean - 1.2).sum())).tolist() == [0, 9, 1]


def test_a_network_may_have_several_places():
    def loss(output):
        return abs(float(output) - 1.0)

    outputs = [np.array(value) for value in (0.0, 3.0)]
    assert select(outputs, loss).tolist() == [2, 1]
    assert select(outputs[:1], loss).tolist() == [1]


@pytest.mark.parametrize(
    ("params", "what"),
    [
        ({"warm_start": True}, "warm_start"),
        ({"early_stopping": False}, "early_stopping=False without X_val"),
        ({"solver": "lbfgs", "dropout": 0.0}, "solver='lbfgs'"),
    ],
)
def test_what_does_not_go_with_candidates_is_refused(params, what):
    with pytest.raises(ValueError, match=f"n_candidates=4 cannot be combined with {what}"):
        TabularMLPRegressor(**QUICK | params).fit(X, Y)


@pytest.mark.parametrize(("params", "method"), [({"warm_start": True}, "fit"), ({}, "partial_fit")])
def test_nothing_goes_on_with_candidates(params, method, fitted):
    model = pickle.loads(pickle.dumps(fitted)).set_params(n_candidates=1, **params)
    model.set_params(n_networks=len(model.estimators_), early_stopping=False)
    with pytest.raises(ValueError, match="previous call has picked candidates. Set"):
        getattr(model, method)(X, KINDS[type(model)])


def test_a_time_that_ends_no_drawing_is_refused():
    with pytest.raises(ValueError, match="max_time=5 ends the drawing .* raise n_candidates"):
        TabularMLPRegressor(max_time=5).fit(X, Y)


def test_without_candidates_there_is_no_table():
    with pytest.raises(AttributeError, match="n_candidates=1"):
        _ = TabularMLPRegressor(max_iter=2).fit(X, Y).candidates_


def test_progress_is_printed(capsys):
    TabularMLPRegressor(**QUICK, verbose=True).fit(X, Y)
    assert "Candidate 4 of 4: validation loss" in capsys.readouterr().out


def test_candidates_of_the_estimators_shape_are_trained_as_one_stack(monkeypatch):
    seen = []
    whole = candidates.fit_jobs

    def watched(jobs, **kwargs):
        whole(jobs, **kwargs)
        seen.append([job.fused for job in jobs])

    monkeypatch.setattr(candidates, "fit_jobs", watched)
    TabularMLPRegressor(**QUICK | {"n_candidates": 5}).fit(X, Y)
    assert seen == [[True] * 4, [False]]


def test_few_candidates_are_as_many():
    assert draw_configurations(1, np.random.RandomState(0)) == [[{}]]
    assert len(TabularMLPRegressor(**QUICK | {"n_candidates": 2}).fit(X, Y).candidates_) == 2


def test_a_candidate_is_what_a_fit_of_its_parameters_alone_gives():
    fitted = TabularMLPRegressor(**QUICK).fit(X[:120], Y[:120], X_val=X[120:], y_val=Y[120:])
    network = fitted.estimators_[-1]
    alone = clone(network).fit(X[:120], Y[:120], X_val=X[120:], y_val=Y[120:])
    rows = fitted._validate_input(X)
    np.testing.assert_allclose(network.predict(rows), alone.predict(X), rtol=1e-4)


@pytest.mark.parametrize("backend", ["loky", "threading", "multiprocessing"])
def test_candidates_of_several_jobs_are_those_of_one(backend, some_slow, monkeypatch):
    monkeypatch.setattr(candidates, "draw_configurations", lambda *args: SOME_SLOW)
    several, expected = clone(some_slow).set_params(n_jobs=2), some_slow.candidates_
    with joblib.parallel_config(backend):
        told = several.fit(X, Y).candidates_
    assert told["n_iter"].tolist() == [10] * 13 + [3] * 2 + [10]
    assert told.drop(columns="seconds").equals(expected.drop(columns="seconds"))
    np.testing.assert_array_equal(outputs(several), outputs(some_slow))


def test_what_the_first_ones_cannot_tell_is_not_given_up(monkeypatch):
    diverging = {"learning_rate_init": 1e30, "adam_learning_rate_init": 1e30}
    drawn = [[{}] * 4, *[[diverging]] * 8, [SLOW]]
    monkeypatch.setattr(candidates, "draw_configurations", lambda *args: drawn)
    table = TabularMLPRegressor(**LONGER).fit(X, Y).candidates_
    assert np.isinf(table["validation_loss"]).sum() == 8
    assert table["n_iter"].iloc[-1] == 10


def test_the_time_ends_the_drawing_of_several_jobs():
    estimator = TabularMLPRegressor(**QUICK | {"n_candidates": 10_000, "max_iter": 2}, n_jobs=2)
    with joblib.parallel_config("threading"):  # which take no time to start
        estimator.set_params(max_time=1.0).fit(X, Y)
    assert 1 <= len(estimator.candidates_) < 10_000


def test_a_parameter_that_cannot_travel_is_refused():
    params = QUICK | {"n_candidates": 6, "n_jobs": 2}
    estimator = TabularMLPRegressor(**params, scoring=partial(score_under, Lock()))
    with pytest.raises(TypeError, match="scoring=.* cannot be sent to the processes"):
        estimator.fit(X, Y)
    assert not vars(estimator).get("estimators_")


def score_under(lock, estimator, X, y):
    with lock:
        return estimator.score(X, y)


def test_a_candidate_that_diverges_in_another_process_is_left_out():
    # the others have rates of their own
    params = QUICK | {"n_candidates": 6, "n_jobs": 2}
    estimator = TabularMLPRegressor(**params, learning_rate_init=1e30)
    table = estimator.set_params(adam_learning_rate_init=1e30).fit(X, Y).candidates_
    assert np.isinf(table["validation_loss"][0])
    assert table["weight"][0] == 0


class InterruptAfter:
    """Press Ctrl-C once so many candidates have been trained."""

    def __init__(self, n_candidates):
        self.n_candidates = n_candidates

    def setup(self, estimator, context):
        pass

    teardown = on_fit_task_begin = setup

    def on_fit_task_end(self, estimator, context):
        if context.task_name == "candidate" and context.task_id + 1 == self.n_candidates:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_an_interruption_keeps_what_has_been_trained(n_jobs):
    params = QUICK | {"n_candidates": 9, "n_jobs": n_jobs}
    estimator = TabularMLPRegressor(**params).set_callbacks(InterruptAfter(5))
    match = "interrupted by user: the ensemble is that of 5 cand"
    with joblib.parallel_config("threading"), pytest.warns(UserWarning, match=match) as told:
        estimator.fit(X, Y)
    assert len(told) == 1
    assert estimator.interrupted_
    assert len(estimator.candidates_) == 5
    whole = TabularMLPRegressor(**params).fit(X, Y)
    assert not whole.interrupted_
    losses, of_whole = (model.candidates_["validation_loss"] for model in (estimator, whole))
    assert set(losses) <= set(of_whole)
    if n_jobs == 1:
        assert losses.equals(of_whole[:5])


def test_an_interruption_ends_the_search_that_fits_the_candidates():
    estimator = TabularMLPRegressor(**QUICK).set_callbacks(InterruptAfter(2))
    with pytest.raises(KeyboardInterrupt):
        cross_validate(estimator, X, Y, cv=2)
