"""Errors for skorch callbacks that need something that trainings here do not provide."""

import re
from typing import Any

from skorch.callbacks import BatchScoring, Callback, PassthroughScoring


def is_of_skorch(callback: Callback) -> bool:
    """Return whether a callback's class is skorch's own."""
    return type(callback).__module__.startswith("skorch.")


def missing_keys(error: BaseException | None) -> list[str]:
    """Return the history keys that are missing according to an error.

    skorch's callbacks convert the history's ``KeyError`` to their own errors, so the causes of the
    error are searched, too.

    Examples
    --------
    >>> from skorch.history import History
    >>> try:
    ...     History([{"epoch": 1, "batches": []}])[-1, ("epoch", "valid_loss")]
    ... except KeyError as error:
    ...     print(missing_keys(error), missing_keys(KeyError("other")))
    ['epoch', 'valid_loss'] []
    """
    while error is not None:
        text = str(error.args[0]) if error.args else ""
        found = re.search(r"(?:Key )?(.+) was not found in history", text)
        if found:
            return re.findall(r"'([^']+)'", found[1])
        if isinstance(error, KeyError) and text.startswith("valid_"):  # of a row, a plain dict
            return [text]
        error = error.__cause__ or error.__context__
    return []


def missing_keys_message(name: str, event: str, keys: list[str], row: dict[str, Any]) -> str:
    """Return a message that names the missing keys and the remedy.

    Parameters
    ----------
    name : str
        Name of the callback.
    event : str
        The method that failed, such as "on_epoch_end".
    keys : list of str
        The keys that it looked for.
    row : dict
        The history's row of the current epoch.
    """
    keys = [key for key in keys if key not in row] or keys
    if event.startswith("on_batch"):
        reason = "but a batch has only train_loss and train_batch_size: look at epochs instead"
    elif "valid_loss" not in row and any(key.startswith("valid") for key in keys):
        reason = (
            "but there is no validation set: set early_stopping=True, pass X_val to fit, or let "
            "the callback go by the training loss (monitor='train_loss', of a Checkpoint "
            "monitor='train_loss_best')"
        )
    else:
        reason = (
            "but nothing has written it: put what records it, such as "
            f"EpochScoring(..., name={keys[0]!r}), before this callback"
        )
    return (
        f"The callback {name!r} looks for {', '.join(map(repr, keys))} in the history, {reason}. "
        f"The epoch has {', '.join(sorted(row))}."
    )


def check_scored_batches(name: str, callback: Callback, targets_are_encoded: bool) -> None:
    """Raise an error for skorch's batch scores if they would be missing or wrong."""
    if not isinstance(callback, BatchScoring | PassthroughScoring):
        return
    remedy = (
        "Use EpochScoring(scoring) for the validation set, and "
        "EpochScoring(scoring, on_train=True) for the training set."
    )
    # the loss of the validation set is in the history anyway
    is_known = isinstance(callback, PassthroughScoring) and callback.name == "valid_loss"
    if not callback.on_train and not is_known:
        raise ValueError(
            f"The callback {name!r} needs batches of the validation set, which is "
            f"evaluated as a whole. {remedy}"
        )
    if isinstance(callback, BatchScoring) and targets_are_encoded:
        raise ValueError(
            f"The callback {name!r} scores by the targets of single batches, but those of a "
            f"classifier are encoded for the network. {remedy}"
        )
