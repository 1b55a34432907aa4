"""Nodes of an ONNX graph, added to what skl2onnx builds."""

from typing import Any

import numpy as np


class Graph:
    """A graph to which nodes are added; tensors go by their names.

    Parameters
    ----------
    scope, container
        As skl2onnx hands them to a converter.
    dtype : dtype
        In which the network computes, float32 or float64.
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
        """Add a node with one output, by a name that is given or new; return the name."""
        name = out or self._scope.get_unique_variable_name(kind.lower())
        node_name = self._scope.get_unique_operator_name(kind)
        self._container.add_node(
            kind, list(inputs), name, op_domain=domain, name=node_name, **attributes
        )
        return name

    def constant(self, values: Any) -> str:
        """Return the name of a tensor of given values, numbers or texts, in their type."""
        from onnx import helper

        array = np.asarray(values)
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(object if is_text(array) else array.dtype))
        content = array.ravel().tolist() if is_text(array) else array.ravel()
        name: str = self._scope.get_unique_variable_name("constant")
        self._container.add_initializer(name, kind, array.shape, content)
        return name

    def number(self, value: float) -> str:
        """Return the name of a number in the type of the network."""
        return self.constant(np.asarray(value, self.dtype))

    def numbers(self, values: Any) -> str:
        """Return the name of an array in the type of the network."""
        return self.constant(np.asarray(values, self.dtype))

    def columns(self, x: str, numbers: Any) -> str:
        """Return columns of a matrix, given their numbers."""
        return self.node("Gather", x, self.constant(np.asarray(numbers)), axis=1)

    def cast(self, x: str, dtype: np.dtype | type, out: str | None = None) -> str:
        """Return a tensor in another type."""
        from onnx import helper

        return self.node("Cast", x, out=out, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def is_text(array: np.ndarray) -> bool:
    """Return whether an array holds texts."""
    return array.dtype.kind in "OU"
