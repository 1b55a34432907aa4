"""Deep dense networks for people who think in scikit-learn."""

from sknn_deep._estimators.autoencoder import AutoencoderTransformer
from sknn_deep._estimators.classifier import DeepMLPClassifier
from sknn_deep._estimators.hidden_activations import HiddenActivations
from sknn_deep._estimators.regressor import DeepMLPRegressor
from sknn_deep._estimators.tabular import TabularMLPClassifier, TabularMLPRegressor
from sknn_deep._networks.summary import summary
from sknn_deep.onnx import to_onnx
from sknn_deep.persistence import TRUSTED_TYPES, load, save

__all__ = [
    "TRUSTED_TYPES",
    "AutoencoderTransformer",
    "DeepMLPClassifier",
    "DeepMLPRegressor",
    "HiddenActivations",
    "TabularMLPClassifier",
    "TabularMLPRegressor",
    "load",
    "save",
    "summary",
    "to_onnx",
]
__version__ = "0.1.0"
