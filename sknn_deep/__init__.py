"""Deep dense networks for people who think in scikit-learn."""

from sknn_deep._autoencoder import AutoencoderTransformer
from sknn_deep._classifier import DeepMLPClassifier
from sknn_deep._regressor import DeepMLPRegressor
from sknn_deep._summary import summary

__all__ = ["AutoencoderTransformer", "DeepMLPClassifier", "DeepMLPRegressor", "summary"]
__version__ = "0.1.0"
