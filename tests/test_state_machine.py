"""Any calls in any order: nothing learned is lost, and errors say what is wrong.

A state machine calls the public interface of one estimator at random. It knows what the
estimator must predict just now, and compares after every call. ``python -m
fuzzing.fuzz_interface`` lets the same machine run for as long as is asked.
"""

import copy
import pickle
import warnings
from inspect import signature
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.utils.validation import check_is_fitted
from test_persistence import assert_same
from test_properties import COMMON, OWN, _in, _mostly, _names_what_is_wrong, targets, weights

from sknn_deep import (
    AutoencoderTransformer,
    DeepMLPClassifier,
    DeepMLPRegressor,
    load,
    save,
    summary,
)

QUICK = {"max_iter": 2, "hidden_layer_sizes": (3,), "device": "cpu", "random_state": 0}
RARE = {
    "noise": _in(0, 0.3),
    "noise_kind": _in("gaussian", "masking", "salt_pepper"),
    "sparsity": _in(0, 0.1),
    "contractive": _in(0, 0.1),
    "tied_weights": st.booleans(),
    "variational": st.booleans(),
    "allow_nan": st.booleans(),
    "order_code": st.booleans(),
    "loss": _in("squared_error", "absolute_error", "huber", "log_loss", "cosine"),
}
SPACES = {cls: {**COMMON, **own} for cls, own in OWN.items()}
SPACES[AutoencoderTransformer] |= RARE
OUTPUTS = {
    DeepMLPClassifier: ("predict", "predict_proba", "predict_log_proba"),
    DeepMLPRegressor: ("predict",),
    AutoencoderTransformer: ("transform", "reconstruction_error", "score_samples"),
}
DISPLAYS = {"repr": repr, "html": lambda estimator: estimator._repr_html_(), "summary": summary}
CONTAINERS = {
    "array": np.asarray,
    "list": lambda X: X.tolist(),
    "columns first": np.asfortranarray,
    "read only": lambda X: np.lib.stride_tricks.as_strided(X, writeable=False),
    "csr": sp.csr_array,
    "csc": sp.csc_matrix,
    "named": lambda X: pd.DataFrame(X, columns=[f"feature {i}" for i in range(X.shape[1])]),
    "renamed": lambda X: pd.DataFrame(X, columns=[f"column {i}" for i in range(X.shape[1])]),
}  # fmt: skip
# What a user is told of, and what is no error.
EXPECTED_WARNINGS = (
    "Got `batch_size` less than 1 or larger than sample size",
    "A column-vector y was passed",
    "R\\^2 score is not well-defined",
    "X has feature names, but",
    "X does not have valid feature names",
)  # fmt: skip
# How an error of scikit-learn's or of ours may begin that names no parameter.
OTHER_WORDS = (
    "is not fitted yet", "feature names", "features", "has no attribute", "partial_fit",
    "Classification metrics can't handle a mix", "Mix of label input types",
    "could not convert string to float", "Expected 2D array",
)  # fmt: skip


@st.composite
def parameters(draw, cls, max_size=4):
    """Draw some parameters of an estimator, one in ten of them odd."""
    space = SPACES[cls]
    names = draw(st.lists(st.sampled_from(sorted(space)), max_size=max_size, unique=True))
    return {name: draw(space[name]) for name in names}


@st.composite
def rows(draw, n_features):
    """Draw a matrix of few rows, mostly of so many features, in any container and type."""
    n_features = draw(_mostly(st.just(n_features), _in(1, n_features + 1)))
    rng = np.random.RandomState(draw(st.integers(0, 1000)))
    X = rng.normal(size=(draw(_mostly(_in(2, 5, 25), _in(0, 1))), n_features))
    X = draw(_mostly(_in(X, np.abs(X) / 5, (X > 0) * 1.0), _in(X * 1e3, X * 1e30, X * 0)))
    if X.size and draw(_mostly(_in(False), _in(False, True))):
        X.flat[draw(st.integers(0, X.size - 1))] = draw(_in(np.nan, np.inf))
    with np.errstate(over="ignore"):
        X = X.astype(draw(_mostly(_in("f8", "f4"), _in("f2", ">f8", "O"))), order="C")
    if X.dtype.kind == "O":
        return X
    kind = draw(_mostly(_in("array", "csr", "named"), _in(*CONTAINERS)))
    return X if X.dtype.str in ("<f2", ">f8") and kind.startswith("cs") else CONTAINERS[kind](X)


class Interface(RuleBasedStateMachine):
    """Calls of the public interface of one estimator.

    Attributes
    ----------
    estimator : estimator
    learned : list of ndarray or None
        What the estimator must return for ``probe``; None while it is not fitted.
    """

    n_steps = 0  # of all machines

    @initialize(data=st.data(), cls=st.sampled_from(sorted(OWN, key=str)))
    def construct(self, data, cls):
        self.estimator = cls(**{**QUICK, **data.draw(parameters(cls))})
        self.learned = None
        self.n_features = data.draw(_in(1, 2, 4))

    # ----------------------------------------------------------------------------------
    # calls that learn

    @rule(data=st.data(), with_validation_set=_mostly(_in(False), _in(True)))
    def fit(self, data, with_validation_set):
        given = self._draw_training_data(data)
        if with_validation_set:
            X_val, y_val, _ = self._draw_training_data(data).values()
            given |= {"X_val": X_val} | ({} if self._is_autoencoder else {"y_val": y_val})
        goes_on = self.estimator.warm_start is True and self.learned is not None
        if not goes_on and isinstance(self.estimator.random_state, int):
            twin = clone(self.estimator)
        else:
            twin = None
        if not self._train(self.estimator.fit, given):
            return
        if twin is not None:
            with _expected_warnings():
                twin.fit(**given)
            _assert_same(self._outputs(twin), self.learned)

    @rule(data=st.data(), names_classes=_mostly(_in(True), _in(False)))
    def partial_fit(self, data, names_classes):
        given = self._draw_training_data(data)
        if isinstance(self.estimator, DeepMLPClassifier) and names_classes:
            if self.learned is not None:
                given["classes"] = self.estimator.classes_
            elif np.ndim(given["y"]) == 1:
                given["classes"] = np.unique(given["y"])
        self._train(
            lambda **given: self.estimator.partial_fit(**given),  # it may not have the method
            given,
        )

    def _train(self, method, given):
        """Call ``fit`` or ``partial_fit``; return whether it worked."""
        message = self._call(method, **given)
        if message is None:
            self.learned = self._outputs()
            self._assert_good(given["X"])
            return True
        return False

    # ----------------------------------------------------------------------------------
    # calls that change nothing of what was learned

    @rule(data=st.data())
    def set_params(self, data):
        params = data.draw(parameters(type(self.estimator), max_size=2))
        assert self.estimator.set_params(**params) is self.estimator

    @rule(data=st.data())
    def heal(self, data):
        """Set valid parameters, so that the machine is not stuck with an odd one."""
        params = signature(type(self.estimator)).parameters
        defaults = {name: parameter.default for name, parameter in params.items()}
        self.estimator.set_params(**{**defaults, **QUICK, "warm_start": data.draw(st.booleans())})

    @rule(data=st.data())
    def predict(self, data):
        X = data.draw(rows(self.n_features))
        method = data.draw(st.sampled_from(OUTPUTS[type(self.estimator)]))
        outputs = []
        before = pickle.dumps(self.estimator)
        message = self._call(lambda X: outputs.append(getattr(self.estimator, method)(X)), X)
        assert pickle.dumps(self.estimator) == before
        if message is None:
            assert self.learned is not None
            assert len(outputs[0]) == _n_rows(X)

    @rule(data=st.data())
    def score(self, data):
        given = self._draw_training_data(data)
        before = pickle.dumps(self.estimator)
        scores = []
        message = self._call(lambda **given: scores.append(self.estimator.score(**given)), **given)
        assert pickle.dumps(self.estimator) == before
        if message is None:
            assert isinstance(scores[0], float)

    @rule(kind=st.sampled_from(sorted(DISPLAYS)))
    def display(self, kind):
        self._call(DISPLAYS[kind], self.estimator)

    @rule(protocol=st.integers(2, pickle.HIGHEST_PROTOCOL))
    def pickle_and_load(self, protocol):
        self._go_on_with(pickle.loads(pickle.dumps(self.estimator, protocol)))

    @rule(copied=_in(copy.copy, copy.deepcopy))
    def copy(self, copied):
        self._go_on_with(copied(self.estimator))

    @rule()
    def save_and_load(self):
        """Go on with what a file holds; where saving is refused, no file is left behind."""
        with TemporaryDirectory() as folder:
            path = Path(folder, "estimator.skops")
            message = self._call(save, self.estimator, path)
            assert [file.name for file in Path(folder).iterdir()] == [path.name] * (message is None)
            if message is None:
                loaded = load(path)
                assert_same(loaded.__getstate__(), self.estimator.__getstate__())
                self._go_on_with(loaded)

    def _go_on_with(self, twin):
        assert type(twin) is type(self.estimator)
        assert str(twin.get_params()) == str(self.estimator.get_params())
        self.estimator = twin

    @rule(stays=_mostly(_in(True), _in(False)))
    def clone(self, stays):
        twin = clone(self.estimator)
        assert str(twin.get_params()) == str(self.estimator.get_params())
        assert not [name for name in vars(twin) if name.endswith("_") and name[0] != "_"]
        with pytest.raises(NotFittedError):
            check_is_fitted(twin)
        if not stays:
            self.estimator, self.learned = twin, None

    @precondition(lambda self: self._is_autoencoder)
    @rule(n_samples=_in(1, 3))
    def decode(self, n_samples):
        code = np.zeros((n_samples, self.estimator._n_features_out if self.learned else 2))
        self._call(lambda: self.estimator.inverse_transform(code))
        self._call(lambda: self.estimator.get_feature_names_out())
        self._call(lambda: self.estimator.sample(n_samples, random_state=0))

    # ----------------------------------------------------------------------------------
    # what always holds

    @invariant()
    def predicts_what_it_has_learned(self):
        type(self).n_steps += 1
        if not hasattr(self, "estimator"):
            return
        if self.learned is None:
            with pytest.raises(NotFittedError):
                check_is_fitted(self.estimator)
        else:
            _assert_same(self._outputs(), self.learned)

    # ----------------------------------------------------------------------------------

    @property
    def _is_autoencoder(self):
        return isinstance(self.estimator, AutoencoderTransformer)

    def _draw_training_data(self, data):
        X = data.draw(rows(self.n_features))
        y = None
        if not self._is_autoencoder:
            y = data.draw(targets(type(self.estimator), _n_rows(X)))
        return {"X": X, "y": y, "sample_weight": data.draw(_mostly(st.none(), weights(_n_rows(X))))}

    def _call(self, function, *args, **kwargs):
        """Call a function; return the message where it refuses, or None."""
        message = None
        try:
            with _expected_warnings():
                function(*args, **kwargs)
        except (ValueError, TypeError, AttributeError) as error:
            message = str(error)
            is_good = _names_what_is_wrong(message, self.estimator)
            if not is_good and not any(words in message for words in OTHER_WORDS):
                raise
        return message

    def _outputs(self, estimator=None):
        """Return all that an estimator computes for a few rows of its own."""
        estimator = self.estimator if estimator is None else estimator
        probe = np.random.RandomState(0).normal(size=(5, estimator.n_features_in_))
        with _expected_warnings(), np.errstate(over="ignore"):
            return [getattr(estimator, method)(probe) for method in OUTPUTS[type(estimator)]]

    def _assert_good(self, X):
        """Check shape, type and finiteness of what is predicted for the training data."""
        for method in OUTPUTS[type(self.estimator)]:
            with _expected_warnings():
                output = getattr(self.estimator, method)(X)
            assert len(output) == _n_rows(X)
            if isinstance(self.estimator, DeepMLPClassifier) and method == "predict":
                assert set(np.ravel(output)) <= {*self.estimator.classes_, 0, 1}
            else:
                assert output.dtype == self.estimator._network_dtype
                assert np.isfinite(output).all() or not _has_squares(X, output.dtype)


def _n_rows(X):
    return X.shape[0] if hasattr(X, "shape") else len(X)


def _has_squares(X, dtype):
    """Return whether the squares of features are numbers of a type, as errors of rows need."""
    largest = abs(X).max() if sp.issparse(X) else np.abs(np.asarray(X, float)).max()
    return float(largest) ** 2 * np.shape(X)[1] < np.finfo(dtype).max


def _assert_same(outputs, expected):
    for output, other in zip(outputs, expected, strict=True):
        assert output.dtype == other.dtype
        np.testing.assert_array_equal(output, other)


class _expected_warnings(warnings.catch_warnings):
    """A context in which a warning is an error unless a user is to be told of it."""

    def __enter__(self):
        super().__enter__()
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ConvergenceWarning)
        for expected in EXPECTED_WARNINGS:
            warnings.filterwarnings("ignore", expected, UserWarning)
        # of scikit-learn's check of infinite numbers in half precision, and of its scores
        warnings.filterwarnings("ignore", "invalid value encountered in reduce", RuntimeWarning)
        warnings.filterwarnings("ignore", "overflow encountered in square", RuntimeWarning)


def run(max_examples, n_steps, **options):
    """Let the machine run so often, for at most so many steps each."""
    run_state_machine_as_test(
        Interface,
        settings=settings(
            max_examples=max_examples,
            stateful_step_count=n_steps,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            **options,
        ),
    )


def test_nothing_is_lost_whatever_is_called():
    run(max_examples=40, n_steps=20, derandomize=True)
