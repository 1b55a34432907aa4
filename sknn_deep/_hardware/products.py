"""Matrix products: which library computes them, and how their factors lie in memory."""

from collections.abc import Callable, Sequence

from torch import Tensor

# A product of so few multiply-adds OpenBLAS computes on one thread, however many it may take, and
# its call costs less than torch's; where a factor is transposed, as in the forward pass, MKL is
# faster sooner. A sum of rows is a product by a vector, which OpenBLAS spreads sooner.
SMALL_PRODUCT, SMALL_FORWARD_PRODUCT, SMALL_SUM = 2**18, 2**16, 9000
# Up to so many multiply-adds each NumPy takes no more time than MKL for the products of a stack,
# where it has one thread.
MEDIUM_PRODUCT = 2**20
# With so few rows a stack's outputs take MKL less time than OpenBLAS, unless they are narrow.
FEW_ROWS = 64
# OpenBLAS packs the factors of outputs of so many units for more rows than that; without it they
# take less time.
_BLOCK_COLUMNS, _BLOCK_ROWS = range(5, 17), 100
Kernel = Callable[[], object]
Program = list[Kernel]


def in_blocks(left: Tensor, right: Tensor, out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return a product as those of blocks of its rows, all of one length, where that is faster."""
    n_rows, n_columns = out.shape[-2:]
    if n_columns in _BLOCK_COLUMNS and n_rows > _BLOCK_ROWS:
        for length in range(_BLOCK_ROWS, _BLOCK_ROWS // 2, -1):
            if n_rows % length == 0:
                blocks = (n_rows // length, length)
                return left.unflatten(-2, blocks), right.unsqueeze(-3), out.unflatten(-2, blocks)
    return left, right, out


# Rows shorter than this make a product several times slower than the same numbers stored
# by column: MKL works on whole vector registers of its output.
_NARROW = 32


def is_narrow(n_rows: int, n_columns: int) -> bool:
    """Return whether a matrix is stored by column, because its rows are short."""
    return n_columns < min(_NARROW, n_rows)


def empty_matrix(shape: Sequence[int], like: Tensor) -> Tensor:
    """Return an uninitialised matrix, or a stack of some, by column where it is narrow."""
    *leading, n_rows, n_columns = shape
    if is_narrow(n_rows, n_columns):
        return like.new_empty((*leading, n_columns, n_rows)).mT
    return like.new_empty(shape)
