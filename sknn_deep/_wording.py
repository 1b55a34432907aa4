"""Singular and plural in messages."""


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number and a noun in singular or plural.

    Parameters
    ----------
    number : int
    noun : str
        The singular.
    plural : str, default=""
        The plural; the noun with an "s" if empty.

    Examples
    --------
    >>> from sknn_deep._wording import counted
    >>> counted(1, "row"), counted(2000, "row"), counted(0, "class", "classes")
    ('1 row', '2,000 rows', '0 classes')
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
