"""Words of messages that depend on a number."""


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number and what it counts.

    Parameters
    ----------
    number : int
    noun : str
        For one.
    plural : str, default=""
        For any other number; the noun and "s" if empty.

    Examples
    --------
    >>> from sknn_deep._wording import counted
    >>> counted(1, "row"), counted(2000, "row"), counted(0, "class", "classes")
    ('1 row', '2,000 rows', '0 classes')
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
