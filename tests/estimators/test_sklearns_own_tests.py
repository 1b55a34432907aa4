"""scikit-learn's own tests of its MLP, as they are installed, run on our two classes.

The module is executed anew while `sklearn.neural_network` offers ours under scikit-learn's names,
so that the parametrised tests take ours, too.
"""

import importlib.util

import pytest
import sklearn.neural_network

from sknn_deep import DeepMLPClassifier, DeepMLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore")  # the tests say themselves which they expect

# These look at what only scikit-learn's implementation has.
PRIVATE = {
    "test_fit": "sets `_coef_grads` and calls `_backprop`",
    "test_gradient": "calls `_loss_grad_lbfgs`",
    "test_learning_rate_warmstart": "reads `_optimizer.learning_rate`",
    "test_adaptive_learning_rate": "reads `_optimizer.learning_rate`",
    "test_n_iter_no_change": "reads `_no_improvement_count`",
    "test_n_iter_no_change_inf": "reads `_no_improvement_count`",
}


def _tests_on_ours():
    """Return the test functions of scikit-learn's module, by name."""
    spec = importlib.util.find_spec("sklearn.neural_network.tests.test_mlp")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sklearn.neural_network, "MLPClassifier", DeepMLPClassifier)
        patch.setattr(sklearn.neural_network, "MLPRegressor", DeepMLPRegressor)
        spec.loader.exec_module(module)
    assert module.MLPClassifier is DeepMLPClassifier
    assert module.MLPRegressor is DeepMLPRegressor
    return {name: test for name, test in vars(module).items() if name.startswith("test_")}


TESTS = _tests_on_ours()
for name, test in TESTS.items():  # where pytest finds them
    globals()[name] = pytest.mark.skip(reason=PRIVATE[name])(test) if name in PRIVATE else test


@pytest.fixture
def global_random_seed():
    """Stand in for the fixture of scikit-learn's test suite, at its default."""
    return 42


def test_nothing_but_the_tests_of_private_attributes_is_skipped():
    assert PRIVATE.keys() <= TESTS.keys()
    assert len(PRIVATE) == 6
    assert len(TESTS) > 35
