"""What all pictures share: colours and axes."""

from sknn_deep._sklearn import check_matplotlib_support

# Ten colours that stay apart for colour-blind eyes, on white and on black: M. Petroff (2021),
# Accessible color sequences for data visualization, arXiv:2107.02270.
PALETTE = (
    "#3f90da",
    "#ffa90e",
    "#bd1f01",
    "#94a4a2",
    "#832db6",
    "#a96b59",
    "#e76300",
    "#b9ac70",
    "#717581",
    "#92dadd",
)


def resolve_axes(display, ax, size):
    """Set a display's axes and figure, new ones of the given size where there are none yet."""
    check_matplotlib_support(f"{type(display).__name__}.plot")
    import matplotlib.pyplot as plt

    if ax is None:
        _, ax = plt.subplots(figsize=size, layout="constrained")
    display.ax_, display.figure_ = ax, ax.figure
    return ax
