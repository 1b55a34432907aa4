"""The steps of a fit: validate, train and commit, or leave the estimator as it was.

Single fits, ``partial_fit``, warm starts, the networks of an ensemble, fused searches and
checkpoints all run through :class:`Fit`::

    fit = Fit(estimator, call)
    with fit.surroundings(), fit.undone_on_error():
        fit.prepare()   # validates, makes the network and the batches
        fit.train()     # or a stack trains many
        fit.commit()    # sets the fitted state on the estimator

Random numbers are drawn in scikit-learn's order from NumPy's generator: initial weights, the
validation split, a permutation for each epoch. The seed of torch's generator is drawn after the
weights, and only for a network with dropout or noise. So with ``solver="sgd"`` in float64 on a CPU,
the weights after 20 epochs agree with those of scikit-learn's MLP to rounding
(``tests/estimators/test_same_as_sklearn.py``).

With an integer ``random_state`` no global generator is read or written: layers are constructed
without drawing, and dropout and noise have a generator of their own.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import torch
from skorch.history import History

from sknn_deep._engine.batches import Batches
from sknn_deep._engine.chunk import Chunk, whole
from sknn_deep._engine.features import Features, SparseRows
from sknn_deep._engine.samples import Samples
from sknn_deep._estimators.call import Call, Validated
from sknn_deep._estimators.callback_parameter import (
    description,
    open_checkpoint,
    skorch_callbacks,
)
from sknn_deep._estimators.fitted_state import fitted_names, fitted_state, set_fitted_state
from sknn_deep._estimators.held_out import make_validation, split_rows, without_feature_names
from sknn_deep._estimators.hooks import NetworkHooks
from sknn_deep._estimators.kept_engine import KeptEngine, keeps_engine
from sknn_deep._estimators.memory_advice import memory_explained
from sknn_deep._estimators.optimizer import forget_optimizer, move_network, optimizer_of
from sknn_deep._estimators.rollback import Rollback
from sknn_deep._hardware.bfloat16 import product_dtype
from sknn_deep._hardware.device import (
    accepted_dtypes,
    numpy_dtype,
    on_device,
    resolve_device,
    seeded_generator,
    torch_dtype,
)
from sknn_deep._hardware.precision import float32_products
from sknn_deep._hardware.ranks import Ranks, present_ranks
from sknn_deep._hardware.threads import fixed_threads, one_thread
from sknn_deep._networks.models import new_network
from sknn_deep._sklearn import check_random_state, check_sample_weight, num_samples
from sknn_deep._training.checkpoint import CheckpointFile
from sknn_deep._training.fingerprint import described_call
from sknn_deep._training.interruption import is_one_of_many
from sknn_deep._training.progress import Progress
from sknn_deep._training.sklearn_callbacks import SklearnCallbacks, told_of
from sknn_deep._training.skorch_net import Net
from sknn_deep._training.training import DivergenceError, Training, Validation
from sknn_deep._training.whole_set import WholeSetTraining
from sknn_deep._user_warnings import warn_user

# Errors after which nothing of the training is kept. After other errors, such as those of a
# callback, the completed epochs are kept.
_LEAVE_NOTHING = (KeyboardInterrupt, torch.OutOfMemoryError, DivergenceError)

# L-BFGS reads an autoencoder's sparse rows, which are also its targets, in batches of about this
# many numbers, but of enough rows for matrix products to be efficient.
_DENSE_NUMBERS, _FEWEST_ROWS = 2**22, 200


def fit_network(
    estimator: NetworkHooks,
    call: Call,
    is_enough: Callable[[list[float]], bool] | None = None,
) -> None:
    """Fit one network: ``fit`` and ``partial_fit`` of a single network.

    Parameters
    ----------
    estimator : estimator
    call : Call
    is_enough : callable or None
        Called after each epoch with the validation scores so far; returns whether to stop.
    """
    fit = Fit(estimator, call)
    with fit.surroundings(), fit.undone_on_error():
        fit.prepare()
        fit.train(is_enough)
        fit.commit()


class Fit:
    """One call of ``fit`` or ``partial_fit``, of one network.

    Everything that the call learns is set on a draft, a copy of the estimator with the same
    parameters, and transferred at the end: until then the estimator is unchanged. The draft has the
    fitted state of an earlier call only if this call continues from it. A network that continues is
    trained in place, so it, its optimiser and its records are restored if the call fails.

    With a draft, only objects that are trained in place can be left half changed, so nothing else
    has to be saved and restored.

    Parameters
    ----------
    estimator : estimator
    call : Call
    shared : Validated, default=None
        Training data already validated by a fit with the same parameters.

    Attributes
    ----------
    draft : estimator
    training : Training or WholeSetTraining
        Trains the network; set by :meth:`prepare`.
    """

    training: Training | WholeSetTraining

    def __init__(self, estimator: NetworkHooks, call: Call, shared: Validated | None = None):
        self.estimator, self.call, self._shared = estimator, call, shared
        self._ranks = present_ranks()
        is_fitted = hasattr(estimator, "module_")
        self._goes_on = is_fitted and (call.incremental or estimator.warm_start)
        self.draft = draft_of(estimator, self._goes_on)
        if self._ranks is not None and self._ranks.rank:  # only rank 0 prints and calls callbacks
            self.draft.callbacks, self.draft.verbose = None, False
        self._rollback = Rollback(estimator) if self._goes_on else None
        self._checkpoint: CheckpointFile | None = None
        self._held_out: Samples | None = None
        self._is_committed = False

    # ------------------------------------------------------------------ the steps

    @contextmanager
    def surroundings(self) -> Iterator[None]:
        """Set torch's modes, its device and, with a checkpoint, its threads."""
        self.draft._check_combinations(self.call)
        device = self._device
        self._checkpoint = open_checkpoint(self.draft.callbacks, self.call.incremental)
        with ExitStack() as stack:
            # the caller may have switched gradients off
            if torch.is_inference_mode_enabled() or not torch.is_grad_enabled():
                stack.enter_context(torch.inference_mode(False))
                stack.enter_context(torch.enable_grad())
            if device.type != "cpu":
                stack.enter_context(on_device(device))
                stack.enter_context(float32_products(self.draft.float32_precision, device))
            if self._checkpoint is not None:
                stack.enter_context(fixed_threads(self._checkpoint.n_threads))
            yield

    @contextmanager
    def undone_on_error(self) -> Iterator[None]:
        """Restore the estimator if the block raises before anything was committed."""
        try:
            yield
        except BaseException:
            if not self._is_committed:
                self.undo()
            raise

    def undo(self) -> None:
        """Restore everything that was trained in place."""
        vars(self.estimator).pop("_kept_engine", None)  # also frees the memory that it holds
        if self._rollback is not None:
            self._rollback.restore()

    def prepare(self) -> None:
        """Validate the data; make the network, the batches and the training."""
        present = check_random_state(self.draft.random_state)
        checkpoint = self._checkpoint
        random_state = present if checkpoint is None else checkpoint.first_random_state(present)
        if self._ranks is not None:
            random_state = self._ranks.first(random_state)
        samples = self._validate()
        if self._ranks is not None:
            self._ranks.check_alike({"The shape of X": samples.X.shape})
        self._make_network(samples, random_state)
        batches, validation, held_out = self._arrange(samples, random_state)
        if checkpoint is not None:
            checkpoint.belongs_to(self._described(samples, held_out))
            # to reproduce the training, the user's own generator must continue, too
            if isinstance(self.draft.random_state, np.random.RandomState):
                random_state = present
        if self.draft.solver == "lbfgs":
            self.training = self._whole_set_training(batches)
        elif isinstance(batches, Batches):
            self.training = self._training(batches, validation, random_state)

    def train(self, is_enough: Callable[[list[float]], bool] | None = None) -> None:
        """Train to the end, or until ``is_enough`` stops it."""
        try:
            self.training.begin()
            with self._memory_explained(num_samples(self.call.X)):
                if isinstance(self.training, Training):
                    self.training.run(self._checkpoint, is_enough)
                else:
                    self.training.run()
        except BaseException as error:
            if self.training.n_iter and not isinstance(error, _LEAVE_NOTHING):
                self.hand_over(describe=False)
            raise

    def commit(self) -> None:
        """Compute the descriptive attributes, and set the fitted state on the estimator."""
        try:
            self.hand_over(describe=True)
        except KeyboardInterrupt:  # training is complete, so its result is kept
            self.hand_over(describe=True)
            if is_one_of_many():
                raise
            self.estimator.interrupted_ = True
            warn_user("Training interrupted by user.")

    def hand_over(self, *, describe: bool) -> None:
        """Set the fitted state so far on the estimator.

        Parameters
        ----------
        describe : bool
            Whether to also set the attributes that the trained network computes from its training
            data.
        """
        draft = self.draft
        kept = vars(draft).get("_kept_engine")
        if kept is not None and isinstance(self.training, Training):
            kept.engine, kept.generator = self.training.engine, draft.module_.generator
        draft.module_.leave_training()
        draft._progress.stop_watching()
        vars(draft).update(self.training.fitted_attributes())
        if describe:
            with self._memory_explained(len(self._validated.X)):
                batches = self.training.batches
                own = batches.undivided() if isinstance(batches, Batches) else batches
                draft._describe_training(own, self.call.incremental)
                if self._held_out is not None:
                    held_out = self._held_out
                    draft._learn_from_held_out(held_out.X, held_out.y, held_out.given_weight)
        set_fitted_state(self.estimator, fitted_state(draft))
        self._is_committed = True

    # ------------------------------------------------------------------ the data

    @property
    def validated(self) -> Validated:
        """The training data of this fit, for others with the same parameters."""
        return self._validated

    def _validate(self) -> Samples:
        """Validate the training data; set the attributes learned from them on the draft."""
        draft, call = self.draft, self.call
        if self._shared is None:
            dtypes = accepted_dtypes(draft.dtype, self._device)
            if self._goes_on:
                dtypes = [numpy_dtype(draft.module_.flat.dtype)]
            X, y, targets = draft._validate_training_data(call, dtypes, reset=not self._goes_on)
            self._validated = Validated(X, y, targets, fitted_state(draft))
        else:
            self._validated = self._shared
            vars(draft).update(self._shared.learned)
        X, y = self._validated.X, self._validated.y
        given_weight = check_sample_weight(call.sample_weight, X)
        weight = draft._weigh_classes(y, given_weight, learn=True)
        return Samples(X, y, self._validated.targets, weight, given_weight)

    def _validate_held_out(self) -> Samples:
        """Return the user's validation set, validated."""
        draft, call = self.draft, self.call
        dtype = numpy_dtype(draft.module_.flat.dtype)
        X, y, targets = draft._validate_held_out_data(call.X_val, call.y_val, dtype)
        given_weight = check_sample_weight(call.sample_weight_val, X)
        weight = draft._weigh_classes(y, given_weight, learn=False)
        return Samples(X, y, targets, weight, given_weight)

    def _arrange(
        self, samples: Samples, random_state: np.random.RandomState
    ) -> tuple[Batches | Chunk, Validation | None, Samples | None]:
        """Return the training rows, the validation set, and the user's own set, if there is one."""
        draft, flat, n_samples = self.draft, self.draft.module_.flat, samples.X.shape[0]
        if draft.solver == "lbfgs":
            draft._check_enough_rows(n_samples)
            samples = self._scaled(samples, None)
            with self._memory_explained(n_samples):
                return self._all_rows(samples), None, None
        rows, held_out, own_set = None, None, None
        if self.call.X_val is not None:
            own_set = held_out = self._validate_held_out()
        elif draft.early_stopping:
            rows, held_out_rows = split_rows(draft, samples, random_state, self.call.groups)
            held_out = samples.take(held_out_rows)
            n_samples = len(rows)
        samples = self._scaled(samples, rows)
        validation, self._held_out = None, held_out
        if held_out is not None:
            validation = make_validation(draft, draft._in_network_units(held_out))
        batch_size = draft._batch_size_for(n_samples)
        draft._check_enough_rows(n_samples)
        with self._memory_explained(n_samples):
            batches = Batches(
                samples,
                rows=rows,
                batch_size=batch_size,
                n_outputs=draft.module_.linear_layers()[-1].out_features,
                min_batch_size=2 if draft.normalization == "batch" else 1,
                device=flat.device,
                dtype=flat.dtype,
                ranks=self._ranks,
                may_be_sparse=draft.module_.takes_sparse_rows,
            )
        return batches, validation, own_set

    def _all_rows(self, samples: Samples) -> Batches | Chunk:
        """Return the rows for L-BFGS: one batch, unless that would densify the targets."""
        network, n_rows = self.draft.module_, self._lbfgs_batch_size
        options: dict[str, Any] = {"device": network.flat.device, "dtype": network.flat.dtype}
        if n_rows is not None:
            return Batches(samples, batch_size=n_rows, **options)
        may_be_sparse = network.takes_sparse_rows
        return whole(samples, ranks=self._ranks, may_be_sparse=may_be_sparse, **options)

    @property
    def _lbfgs_batch_size(self) -> int | None:
        """Rows per batch over which L-BFGS sums the loss; None for a single batch of all rows."""
        X, has_targets = self._validated.X, self._validated.targets is not None
        # batch normalisation needs the statistics of all rows
        is_whole = self.draft.normalization == "batch" or self._ranks is not None
        if is_whole or has_targets or not isinstance(X, SparseRows):
            return None
        return min(len(X), max(_FEWEST_ROWS, _DENSE_NUMBERS // X.shape[1]))

    def _scaled(self, samples: Samples, rows: np.ndarray | None) -> Samples:
        """Return samples in the network's units, which a new network learns first."""
        if not self._goes_on:
            self.draft._learn_scales(samples, rows)
        return self.draft._in_network_units(samples)

    def _described(self, samples: Samples, held_out: Samples | None) -> dict[str, Any]:
        """Return what identifies this call of ``fit``, for a checkpoint."""
        draft = self.draft
        data = {"X": samples.X, "y": samples.y, "sample_weight": samples.given_weight}
        if self.call.groups is not None:
            data["groups"] = np.asarray(self.call.groups)
        if held_out is not None:
            named = {"X_val": held_out.X, "y_val": held_out.y}
            data |= {**named, "sample_weight_val": held_out.given_weight}
        if self._goes_on:
            learned = [tensor.cpu().numpy().ravel() for tensor in draft.module_.snapshot()]
            data["the network that warm_start goes on with"] = np.concatenate(learned)
        callbacks = [description(callback) for callback in skorch_callbacks(draft.callbacks)]
        device = str(draft.module_.flat.device)
        return described_call(draft, data, device=device, callbacks=callbacks)

    # ------------------------------------------------------------------ the network

    def _make_network(self, samples: Samples, random_state: np.random.RandomState) -> None:
        """Prepare the network, a new one or that of the previous call."""
        draft, n_features = self.draft, samples.X.shape[1]
        device = self._device
        dtype = torch_dtype(samples.X.dtype)
        with memory_explained(draft, samples.X.shape[0], n_features, dtype, self._copied_bytes):
            config = draft._network_config(n_features, dtype)
            if self._goes_on:
                self._resume(config, device)
            else:
                self._start(config, device, random_state)
                draft._prepare_network(samples)
        if draft.module_.is_random:
            # drawn only if it is used: without dropout, the sequence of draws must be
            # scikit-learn's
            draft.module_.set_generator(
                seeded_generator(random_state, device, draft.t_, self._kept_generator)
            )
        if self._ranks is not None:
            self._share_batches(self._ranks)

    def _share_batches(self, ranks: Ranks) -> None:
        """Prepare the network for training on this process's part of each batch."""
        network = self.draft.module_
        if network.needs_autograd and self.draft.normalization == "batch":
            raise ValueError(
                "normalization='batch' with variational=True or contractive is not written for "
                "several processes; set normalization='layer', or train on one process."
            )
        network.set_share(ranks.share)

    def _start(
        self, config: dict[str, Any], device: torch.device, random_state: np.random.RandomState
    ) -> None:
        """Make a new network and empty records."""
        draft = self.draft
        draft.n_iter_, draft.t_ = 0, 0
        with one_thread():  # waking several takes longer than they save
            # drawn with NumPy and moved in one copy
            draft.module_ = new_network(draft._network_class, config)
            draft.module_.initialize(random_state, draft._initial_activations())
            if device.type != "cpu":
                draft.module_.to(device)
        draft.n_layers_ = len(draft.module_.stages()) + 1
        draft._progress = Progress()
        draft.history_ = History()  # stays empty with L-BFGS
        draft._fixed = draft._fixed_parameters()

    def _resume(self, config: dict[str, Any], device: torch.device) -> None:
        """Check that an earlier call's network can be continued, and move it to the device."""
        draft, incremental = self.draft, self.call.incremental
        asked = _flat_items(config) | draft._fixed_parameters()
        present = _flat_items(draft.module_.config) | draft._fixed
        present["dtype"] = asked["dtype"] = draft.module_.flat.dtype
        if draft.dtype != "auto":
            asked["dtype"] = torch_dtype(accepted_dtypes(draft.dtype, device)[0])
        if not incremental:  # a warm start has a new optimiser
            present["solver"] = asked["solver"]
        changed = [key for key in asked if asked[key] != present[key]]
        unfit = [key for key in changed if key.split()[-1] not in _WITHOUT_WEIGHTS]
        if unfit:
            changes = ", ".join(f"{key} {present[key]} -> {asked[key]}" for key in unfit)
            raise ValueError(
                "warm_start and partial_fit go on with the network of the previous call; the "
                f"present parameters and data need a different one ({changes}). Set "
                "warm_start=False, or make a new estimator."
            )
        if not incremental:
            draft._fixed = {**draft._fixed, "solver": draft.solver}
            forget_optimizer(draft)
        if changed:
            draft.module_ = draft.module_.reconfigured(config)
        move_network(draft, device)

    def _memory_explained(self, n_samples: int) -> AbstractContextManager[None]:
        dtype, n_features = self.draft.module_.flat.dtype, self._validated.X.shape[1]
        if self.draft.solver == "lbfgs":
            n_samples = self._lbfgs_batch_size or n_samples
        return memory_explained(
            self.draft, n_samples, n_features, dtype, self._copied_bytes, self._stored_per_row
        )

    @cached_property
    def _device(self) -> torch.device:
        return resolve_device(self.draft.device)

    @cached_property
    def _product_dtype(self) -> torch.dtype | None:
        """Type to which the factors of products are rounded, or None."""
        rounding = product_dtype(self.draft.dtype, self._device)
        if rounding is None and self.draft.dtype == "bfloat16":
            warn_user(
                "dtype='bfloat16' trains and predicts in float32 here: this processor has no "
                "instructions for bfloat16 (AVX512-BF16 or AMX), without which products take two "
                "to five times as long as in float32. Pass dtype='float32' to get the same "
                "without this warning."
            )
        return rounding

    def _copied_bytes(self) -> int:
        """Return the size of a copy of the features: on a device, or of another type or order."""
        X: Features = self._validated.X
        if self._device.type != "cpu":
            return X.resident_bytes
        own, given = X.unwrapped(), self.call.X
        are_arrays = isinstance(own, np.ndarray) and isinstance(given, np.ndarray)
        return X.nbytes if are_arrays and not np.may_share_memory(own, given) else 0

    def _stored_per_row(self) -> float | None:
        """Return the stored numbers per row if sparse rows are multiplied directly, else None."""
        X, has_targets = self._validated.X, self._validated.targets is not None
        if not (isinstance(X, SparseRows) and has_targets and self.draft.module_.takes_sparse_rows):
            return None
        n_rows = len(X) if self.draft.solver == "lbfgs" else self.draft._batch_size_for(len(X))
        return X.stored_per_row if X.suits_products(n_rows) else None

    # ------------------------------------------------------------------ training

    def _whole_set_training(self, rows: Batches | Chunk) -> WholeSetTraining:
        draft = self.draft
        return WholeSetTraining(
            draft,
            draft.module_,
            draft._make_loss(),
            rows,
            self._sklearn_callbacks(n_epochs=0),
            self._ranks,
        )

    def _training(
        self,
        batches: Batches,
        validation: Validation | None,
        random_state: np.random.RandomState,
    ) -> Training:
        draft = self.draft
        if validation is not None:
            draft._progress.watch_validation(draft.module_, keeps_best=not self.call.incremental)
        loss, optimizer = draft._make_loss(), optimizer_of(draft, self.call.incremental)
        kept = self._kept_engine(batches, optimizer)
        bridge = [] if self.call.incremental else self._sklearn_callbacks(draft.max_iter)
        return Training(
            draft,
            draft.module_,
            loss=loss,
            optimizer=optimizer,
            penalties={
                "alpha": draft.alpha,
                "weight_decay": draft._decoupled_weight_decay(),
                "embedding_weight_decay": draft._embedding_weight_decay(),
                "max_grad_norm": draft.max_grad_norm,
            },
            product_dtype=self._product_dtype,
            batches=batches,
            validation=validation,
            random_state=random_state,
            progress=draft._progress,
            history=draft.history_,
            net=self._net(loss, optimizer, bridge),
            incremental=self.call.incremental,
            engine=None if kept is None else kept.engine,
            keeps_engine=kept is not None,
            ranks=self._ranks,
        )

    def _kept_engine(self, batches: Batches, optimizer: torch.optim.Optimizer) -> KeptEngine | None:
        """Return the engine kept between calls of ``partial_fit``, or None if that does not pay."""
        draft = self.draft
        kept = vars(draft).pop("_kept_engine", None)
        is_alone = self._ranks is None
        if not (self.call.incremental and is_alone and keeps_engine(draft, self._device)):
            return None
        params = draft.get_params(deep=False)
        if kept is None or not kept.fits(params, optimizer):
            kept = KeptEngine(params, optimizer)
        kept.share(batches)
        draft._kept_engine = kept
        return kept

    @property
    def _kept_generator(self) -> torch.Generator | None:
        kept = vars(self.draft).get("_kept_engine")
        return None if kept is None else kept.generator

    def _net(
        self, loss: Any, optimizer: torch.optim.Optimizer, bridge: list[SklearnCallbacks]
    ) -> Net | None:
        """Return skorch's net for the callbacks, if there are any."""
        draft = self.draft
        own = skorch_callbacks(draft.callbacks)
        if not own and not bridge:
            return None
        return Net(
            draft.module_,
            loss=loss,
            optimizer=optimizer,
            history=draft.history_,
            callbacks=[*bridge, *own],
            records_batches=bool(own),
            verbose=int(draft.verbose),
            scored=without_feature_names(draft),
        )

    def _sklearn_callbacks(self, n_epochs: int) -> list[SklearnCallbacks]:
        """Return the bridge to the callbacks set with ``set_callbacks``, if any are."""
        of_network = told_of(self.estimator)
        if of_network is not None:
            return [of_network.of_training(self._learned)]
        return sklearn_callbacks(self.estimator, n_epochs, self.call, self._learned)

    def _learned(self) -> dict[str, Any]:
        """Return the fitted state so far; the optimiser belongs to this fit alone."""
        learned = fitted_state(self.draft)
        for name in ("_optimizer", "_kept_engine"):
            learned.pop(name, None)
        return learned


def sklearn_callbacks(
    estimator: Any,
    n_parts: int,
    call: Call,
    learned: Callable[[], dict[str, Any] | None],
    part_name: str = "epoch",
) -> list[SklearnCallbacks]:
    """Return the bridge to the callbacks that were set with ``set_callbacks``, if any were.

    Parameters
    ----------
    estimator : estimator
        The one being fitted.
    n_parts : int
        Largest number of epochs, networks or candidates.
    call : Call
        With the data as the user passed them, which the callbacks receive. Weights are passed as
        metadata, so that monitors can weight their scores.
    learned : callable
        See :class:`SklearnCallbacks`.
    part_name : {"epoch", "network", "candidate"}, default="epoch"
        Networks may be trained at the same time.
    """
    ranks = present_ranks()
    if not getattr(estimator, "_skl_callbacks", None) or (ranks is not None and ranks.rank):
        return []
    weight = call.sample_weight
    metadata = {} if weight is None else {"sample_weight": weight}
    task = {"estimator": estimator, "X": call.X, "y": call.y, "metadata": metadata}
    context = estimator._init_callback_context(
        max_subtasks=n_parts, sequential_subtasks=part_name != "network"
    )
    return [SklearnCallbacks(context, task, learned, part_name)]


def draft_of(estimator: NetworkHooks, goes_on: bool) -> NetworkHooks:
    """Return a copy of an estimator, with its fitted state only if the fit continues from it."""
    draft = object.__new__(type(estimator))
    # measurements on the trained network describe it before this call
    own = vars(draft)
    own.update(vars(estimator))
    for name in fitted_names(estimator, "trained network" if goes_on else None):
        own.pop(name, None)
    own.pop("_home", None)  # within a fit, its arrays are NumPy arrays
    return draft


# Entries of a network's configuration that a warm start and partial_fit may change.
_WITHOUT_WEIGHTS = ("dropout", "noise")


def _flat_items(config: dict[str, Any]) -> dict[str, Any]:
    """Return a network's configuration without nesting, for a comparison entry by entry."""
    items: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            items |= {f"{key} {name}": part for name, part in value.items()}
        else:
            items[key] = value
    return items
