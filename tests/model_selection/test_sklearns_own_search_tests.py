"""scikit-learn's own tests of its searches and of `cross_validate`, as they are installed, on ours.

The modules are executed anew while `sklearn.model_selection` offers ours under scikit-learn's
names, so that the parametrised tests take ours, too.
"""

import importlib.util
import inspect
import sys

import joblib
import pytest
import sklearn.model_selection
from sklearn.experimental import enable_halving_search_cv  # noqa: F401

from sknn_deep import model_selection as ours

pytestmark = pytest.mark.filterwarnings("ignore")  # the tests say themselves which they expect

OURS = {
    "GridSearchCV": ours.FusedGridSearchCV,
    "RandomizedSearchCV": ours.FusedRandomizedSearchCV,
    "HalvingGridSearchCV": ours.FusedHalvingGridSearchCV,
    "HalvingRandomSearchCV": ours.FusedHalvingRandomSearchCV,
    "cross_validate": ours.cross_validate,
}
DIFFERENT = {
    "test_custom_run_search": (AttributeError, "scikit-learn's base class has no fused_"),
    "test_base_estimator_inputs": (AssertionError, "set_params once a candidate, not once a fit"),
}
# No limit and no aggressive elimination are the defaults, which all other tests have.
SPARED = {"test_aggressive_elimination": (False, "unlimited")}
SLOW = ["test_aggressive_elimination", "test_gridsearchcv_cross_val_predict_with_method"]


def _tests_on_ours(module_name):
    """Return the test functions of scikit-learn's module that use what is ours, by name."""
    origin = importlib.util.find_spec(f"sklearn.model_selection.tests.{module_name}").origin
    spec = importlib.util.spec_from_file_location(f"{module_name}_on_ours", origin)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # where pickle looks
    with pytest.MonkeyPatch.context() as patch:
        for name, our in OURS.items():
            patch.setattr(sklearn.model_selection, name, our)
        spec.loader.exec_module(module)
    return {
        name: _parametrized(test)
        for name, test in vars(module).items()
        if name.startswith("test_") and any(used in inspect.getsource(test) for used in OURS)
    }


def _parametrized(test):
    """Return a test whose parameters are lists, without functions of scikit-learn beside ours."""
    marks = []
    for mark in getattr(test, "pytestmark", []):
        if mark.name == "parametrize":
            cases = list(mark.args[1])  # pytest wants no generators any more
            on_ours = [
                case for case in cases if isinstance(case, tuple) and ours.cross_validate in case
            ]
            spared = SPARED.get(test.__name__)
            cases = [
                case
                for case in on_ours or cases
                if not (isinstance(case, tuple) and spared and case[: len(spared)] == spared)
            ]
            mark = pytest.mark.parametrize(mark.args[0], cases, **mark.kwargs).mark
        marks.append(mark)
    test.pytestmark = marks
    return test


TESTS = {
    name: test
    for module in ("test_search", "test_successive_halving", "test_validation")
    for name, test in _tests_on_ours(module).items()
}
for name, (error, reason) in DIFFERENT.items():
    pytest.mark.xfail(reason=reason, raises=error)(TESTS[name])
for name in SLOW:
    pytest.mark.slow(TESTS[name])
globals().update(TESTS)  # where pytest finds them


@pytest.fixture
def global_random_seed():
    """Stand in for the fixture of scikit-learn's test suite, at its default."""
    return 42


@pytest.fixture(autouse=True)
def _in_threads():
    """Let two jobs be threads: to start processes takes longer than all tests."""
    with joblib.parallel_config("threading"):
        yield


def test_the_tests_of_searches_are_found():
    for our in OURS:
        assert sum(our in inspect.getsource(test) for test in TESTS.values()) > 5, our
