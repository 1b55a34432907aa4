"""Export of fitted estimators as ONNX graphs, with skl2onnx."""

from sknn_deep.onnx._converters import register
from sknn_deep.onnx._export import to_onnx

__all__ = ["register", "to_onnx"]
