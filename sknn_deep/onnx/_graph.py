"""Adds nodes to the ONNX graph that skl2onnx builds."""

from typing import Any

import numpy as np


class Graph:
    """A graph to which nodes are added; tensors are identified by name.

    Parameters
    ----------
    scope, container
        As skl2onnx passes them to a converter.
    dtype : dtype
        The network's type, float32 or float64.
    """

    def __init__(self, scope: Any, container: Any, dtype: np.dtype | type):
        self._scope, self._container = scope, container
        self.dtype = np.dtype(dtype)

    def node(
        self,
        kind: str,
        *inputs: str,
        out: str | None = None,
        domain: str = "",
        **attributes: Any,
    ) -> str:
        """Add a node with one output, under the given or a new name; return the name."""
        name = out or self._scope.get_unique_variable_name(kind.lower())
        node_name = self._scope.get_unique_operator_name(kind)
        self._container.add_node(
            kind, list(inputs), name, op_domain=domain, name=node_name, **attributes
        )
        return name

    def constant(self, values: Any) -> str:
        """Add a tensor of numbers or strings, in their type; return its name."""
        from onnx import helper

        array = np.asarray(values)
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(object if is_text(array) else array.dtype))
        content = array.ravel().tolist() if is_text(array) else array.ravel()
        name: str = self._scope.get_unique_variable_name("constant")
        self._container.add_initializer(name, kind, array.shape, content)
        return name

    def number(self, value: float) -> str:
        """Add a number in the type of the network; return its name."""
        return self.constant(np.asarray(value, self.dtype))

    def numbers(self, values: Any) -> str:
        """Add an array in the type of the network; return its name."""
        return self.constant(np.asarray(values, self.dtype))

    def columns(self, x: str, numbers: Any) -> str:
        """Return columns of a matrix, given their indices."""
        return self.node("Gather", x, self.constant(np.asarray(numbers)), axis=1)

    def cast(self, x: str, dtype: np.dtype | type, out: str | None = None) -> str:
        """Return a tensor converted to another type."""
        from onnx import helper

        return self.node("Cast", x, out=out, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def is_text(array: np.ndarray) -> bool:
    """Return whether an array holds strings."""
    return array.dtype.kind in "OU"
