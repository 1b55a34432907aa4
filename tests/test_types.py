"""What a type checker and an editor are told: every public name typed, users' mistakes found."""

import importlib
import inspect
import pkgutil
import re
import types
import typing
from pathlib import Path

import mypy.api
import pytest
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import Colormap
from matplotlib.figure import Figure, SubFigure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator

import sknn_deep
from sknn_deep import AutoencoderTransformer, DeepMLPClassifier, DeepMLPRegressor
from sknn_deep._sklearn import StrOptions

ESTIMATORS = [AutoencoderTransformer, DeepMLPClassifier, DeepMLPRegressor]
PUBLIC_MODULES = [sknn_deep] + [
    importlib.import_module(f"sknn_deep.{info.name}")
    for info in pkgutil.iter_modules(sknn_deep.__path__)
    if not info.name.startswith("_")
]
# Names in annotations that only type checkers import: matplotlib is imported to draw.
DRAWN = {
    "Artist": Artist, "Axes": Axes, "AxesImage": AxesImage, "Colormap": Colormap,
    "Figure": Figure, "SubFigure": SubFigure, "Line2D": Line2D, "PathCollection": PathCollection,
    "ArrayLike": ArrayLike, "BaseEstimator": BaseEstimator,
}  # fmt: skip

GOOD = '''
import tempfile
from pathlib import Path
from typing import Any, assert_type

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from skorch.callbacks import LRScheduler
from sklearn.model_selection import KFold

import sknn_deep
from sknn_deep import AutoencoderTransformer, DeepMLPClassifier, DeepMLPRegressor
from sknn_deep.callbacks import TrainingCheckpoint
from sknn_deep.model_selection import FusedGridSearchCV, FusedRandomizedSearchCV, cross_validate

X = np.random.default_rng(0).uniform(size=(30, 4))
labels = ["a", "b", "c"] * 10
classifier = DeepMLPClassifier((8, 4), "tanh", max_iter=2, class_weight={"a": 2}, random_state=0)
assert_type(classifier.fit(X, labels, X_val=X.tolist(), y_val=labels), DeepMLPClassifier)
assert_type(classifier.predict_proba(pd.DataFrame(X)), np.ndarray)
assert_type(classifier.score(sp.csr_array(X), labels), float)
assert_type(classifier.loss_curve_, list[float])
assert_type(classifier.partial_fit(X, labels).classes_, np.ndarray)


class Mine(DeepMLPRegressor):
    """A subclass keeps its type."""


regressor = Mine(hidden_layer_sizes=8, activation=["relu"] * 1, max_iter=2, n_networks=2)
assert_type(regressor.fit(X, X[:, 0]), Mine)
assert_type(regressor.predict(X), np.ndarray)
assert_type(regressor.predict(torch.from_numpy(X), return_std=True), tuple[np.ndarray, np.ndarray])
assert_type(regressor.estimators_[0].coefs_, list[np.ndarray])
folder = Path(tempfile.mkdtemp())
checkpoint = TrainingCheckpoint(folder / "training", every=1)
autoencoder = AutoencoderTransformer(2, solver=torch.optim.SGD, callbacks=[checkpoint], max_iter=1)
assert_type(autoencoder.fit(X).transform(X), np.ndarray)
autoencoder.set_params(callbacks=[LRScheduler()])
assert_type(autoencoder.encoder_, torch.nn.Module)
assert_type(sknn_deep.summary(classifier).n_parameters, int)
grid = {"alpha": [0.01, 0.1], "hidden_layer_sizes": [(3,), (4, 4)]}
search = FusedGridSearchCV(DeepMLPClassifier(max_iter=2), grid, cv=KFold(2), scoring="accuracy")
assert_type(search.fit(X, labels).best_params_, dict[str, Any])
FusedRandomizedSearchCV(DeepMLPClassifier(), {"alpha": np.logspace(-4, 0)}, n_iter=3)
scores = cross_validate(DeepMLPClassifier(max_iter=2), X, labels, cv=2)
assert_type(scores, dict[str, np.ndarray])
both = cross_validate(DeepMLPClassifier(max_iter=2), X, labels, cv=2, return_estimator=True)
assert_type(both["estimator"], Any)
sknn_deep.save(classifier, folder / "classifier")
loaded = sknn_deep.load(folder / "classifier")
assert isinstance(loaded, DeepMLPClassifier)
assert_type(loaded.predict(X), np.ndarray)
'''

PRELUDE = """
import numpy as np
import sknn_deep
from sknn_deep import AutoencoderTransformer, DeepMLPClassifier, DeepMLPRegressor
from sknn_deep.callbacks import TrainingCheckpoint
from sknn_deep.model_selection import FusedGridSearchCV, cross_validate
X = np.zeros((9, 2))
y = np.zeros(9)
classifier, regressor = DeepMLPClassifier(), DeepMLPRegressor()
"""
# A mistake in each line, and the kind of error that mypy finds there.
MISTAKES = {
    "DeepMLPClassifier(hidden_layer_size=(8,))": "call-arg",
    "DeepMLPRegressor(learning_rate_int=0.1)": "call-arg",
    "AutoencoderTransformer(varational=True)": "call-arg",
    "FusedGridSearchCV(classifier, {}, n_job=2)": "call-arg",
    "TrainingCheckpoint('training', evry=2)": "call-arg",
    "DeepMLPClassifier((8,), 'relu', 'adam')": "call-arg",
    "DeepMLPClassifier(hidden_layer_sizes=(8.5,))": "arg-type",
    "DeepMLPClassifier(max_iter='20')": "arg-type",
    "DeepMLPClassifier(learning_rate='one-cycle')": "arg-type",
    "DeepMLPRegressor(loss='log_loss')": "arg-type",
    "DeepMLPRegressor(normalization='btach')": "arg-type",
    "AutoencoderTransformer(dtype=np.float32)": "arg-type",
    "DeepMLPClassifier(activation=1)": "arg-type",
    "classifier.fit(X, y, sample_weights=y)": "call-arg",
    "classifier.fit(X)": "call-arg",
    "classifier.fit(None, y)": "arg-type",
    "classifier.partial_fit(X, y, clases=[0, 1])": "call-arg",
    "regressor.predict(X).std_dev()": "attr-defined",
    "regressor.predict(X, return_std=True).mean()": "attr-defined",
    "mean, std = regressor.predict(X, return_std=1)": "call-overload",
    "cross_validate(classifier, X, y, return_indexes=True)": "call-overload",
    "FusedGridSearchCV(classifier, ['alpha'])": "list-item",
    "sknn_deep.summary(classifier, n_features='784')": "arg-type",
    "sknn_deep.load()": "call-arg",
}


# Parts of torch that take mypy most of its time, and have no say in the types of ours.
LARGE = [
    f"torch.{part}.*"
    for part in (
        "_decomp", "_dispatch", "_dynamo", "_export", "_functorch", "_higher_order_ops",
        "_inductor", "_prims", "_prims_common", "_refs", "_subclasses", "ao", "compiler",
        "distributed", "export", "fx", "masked", "onnx", "profiler", "sparse", "testing", "utils",
    )
]  # fmt: skip


def _errors(folder, **scripts):
    """Return what mypy finds in a user's scripts, by script and line the kind and the message."""
    root = Path(sknn_deep.__path__[0]).parent
    config = folder / "mypy.ini"
    config.write_text(
        # scikit-learn has no types: a user's mypy knows nothing of it
        f"[mypy]\nmypy_path = {root}\nignore_missing_imports = True\n"
        "[mypy-sknn_deep.*]\nfollow_imports = silent\n"  # as of a package that is installed
        # large, and nothing that a user of ours meets
        f"[mypy-{','.join(LARGE)}]\nfollow_imports = skip\n",
        encoding="utf-8",
    )
    paths = [folder / f"{name}.py" for name in scripts]
    for path, script in zip(paths, scripts.values(), strict=True):
        path.write_text(script, encoding="utf-8")
    options = ["--config-file", config, "--cache-dir", folder / "cache", *paths]
    report, trouble, _ = mypy.api.run([str(option) for option in options])
    assert trouble == ""
    assert re.search(r"^(Success|Found \d+ error)", report, re.MULTILINE), report
    found = re.findall(r"^.*?(\w+)\.py:(\d+): error: (.*)  \[([a-z-]+)\]$", report, re.MULTILINE)
    errors = {name: {} for name in scripts}
    for name, line, message, kind in found:
        errors[name][int(line)] = (kind, message)
    return errors


@pytest.mark.slow
def test_mistakes_in_a_users_script_are_found_and_no_others(tmp_path):
    errors = _errors(tmp_path, good=GOOD, bad=PRELUDE + "\n".join(MISTAKES))
    assert errors["good"] == {}
    expected = dict(enumerate(MISTAKES.values(), start=len(PRELUDE.splitlines()) + 1))
    assert {line: kind for line, (kind, _) in errors["bad"].items()} == expected, errors["bad"]


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_the_script_that_is_checked_runs():
    exec(compile(GOOD, "script.py", "exec"), {"__name__": "__main__"})


def _public_names():
    """Return the functions, classes, methods and properties that users meet, by module and name."""
    names = {}
    for module in PUBLIC_MODULES:
        for name in getattr(module, "__all__", []):
            value = getattr(module, name)
            where = f"{module.__name__}:{name}"
            if not inspect.isclass(value):
                if callable(value):  # a constant has the type of its value
                    names[where] = value
                continue
            for attribute, member in inspect.getmembers_static(value):
                own = getattr(value, attribute) if attribute != "__init__" else value.__init__
                function = member.fget if isinstance(member, property) else own
                is_public = attribute == "__init__" or not attribute.startswith("_")
                if is_public and inspect.isroutine(function) and _is_ours(function):
                    names[f"{where}.{attribute}"] = function
    return names


def _is_ours(function):
    return (getattr(function, "__module__", None) or "").startswith("sknn_deep")


PUBLIC_NAMES = _public_names()


@pytest.mark.parametrize("name", sorted(PUBLIC_NAMES))
def test_every_public_name_is_typed(name):
    function = inspect.unwrap(PUBLIC_NAMES[name])
    signature = inspect.signature(function)
    untyped = [
        parameter.name
        for parameter in signature.parameters.values()
        if parameter.name not in ("self", "cls") and parameter.annotation is parameter.empty
    ]
    assert not untyped
    if not name.endswith("__init__"):
        assert signature.return_annotation is not signature.empty


def test_public_names_are_those_of_users():
    names = set(PUBLIC_NAMES)
    assert {
        "sknn_deep:DeepMLPClassifier.__init__",
        "sknn_deep:DeepMLPClassifier.fit",
        "sknn_deep:DeepMLPRegressor.partial_fit",
        "sknn_deep:DeepMLPRegressor.coefs_",
        "sknn_deep:load",
        "sknn_deep.model_selection:FusedGridSearchCV.__init__",
        "sknn_deep.model_selection:FusedGridSearchCV.fit",
        "sknn_deep.plotting:LossCurveDisplay.from_estimator",
        "sknn_deep.datasets:fetch_mnist",
    } <= names


@pytest.mark.parametrize("name", sorted(PUBLIC_NAMES))
def test_annotations_name_what_exists(name):
    function = inspect.unwrap(PUBLIC_NAMES[name])
    assert typing.get_type_hints(function, localns=DRAWN) is not None


def _literals(hint):
    """Return the values that an annotation names, but those inside of a sequence."""
    if typing.get_origin(hint) is typing.Literal:
        return set(typing.get_args(hint))
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return set().union(*map(_literals, typing.get_args(hint) if is_union else ()))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_literals_are_the_texts_that_a_parameter_accepts(estimator):
    hints = typing.get_type_hints(estimator)
    compared = set()
    for name, constraints in estimator._parameter_constraints.items():
        options = [part.options for part in constraints if isinstance(part, StrOptions)]
        if options and name != "scoring":  # scorers can be added
            assert _literals(hints[name]) == set().union(*options), name
            compared.add(name)
    assert {"activation", "solver", "learning_rate", "batch_size", "dtype"} <= compared


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_fitted_attributes_are_declared_as_they_are_documented(estimator):
    text = inspect.cleandoc(estimator.__doc__)
    section = re.search(r"^Attributes\n-+\n(.*?)\n\nSee Also\n", text, re.DOTALL | re.MULTILINE)
    entries = re.findall(r"^(\S[^\n]*?) : ", section[1], re.MULTILINE)
    documented = {name for names in entries for name in names.split(", ")}
    members = inspect.getmembers_static(estimator)
    properties = [name for name, member in members if isinstance(member, property)]
    present = [*typing.get_type_hints(estimator), *properties]
    public = {name for name in present if name.endswith("_") and not name.startswith("_")}
    assert public == documented
