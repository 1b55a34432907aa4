"""The parameters of the estimators by what they are for, on their pages of the reference.

The docstrings list parameters in the order of the signature, which is scikit-learn's. With fifty of
them a reader looks for a group first. So the list on the page is sorted into groups, each under its
name, and a table of all groups with the defaults stands above it.
"""

import inspect
from functools import partial
from importlib import import_module

from docutils import nodes

GROUPS = {
    "Network": "n_components hidden_layer_sizes activation normalization "
    "decoder_hidden_layer_sizes code_activation output_activation tied_weights variational "
    "order_code init_from",
    "Loss": "loss quantile quantiles huber_delta loss_weights class_weight target_scaling",
    "Tables": "categorical_features allow_nan scaling numeric_embedding numeric_embedding_size "
    "n_bins n_frequencies frequency_scale max_one_hot category_embedding_size "
    "learned_scales",
    "Training": "solver solver_params learning_rate learning_rate_init adam_learning_rate_init "
    "power_t momentum nesterovs_momentum beta_1 beta_2 epsilon batch_size max_iter max_fun "
    "shuffle random_state warm_start max_grad_norm ema_decay verbose callbacks",
    "Regularisation": "alpha weight_decay embedding_weight_decay dropout dropout_schedule "
    "label_smoothing noise noise_kind sparsity contractive beta",
    "Validation and stopping": "early_stopping validation_fraction validation_splitter scoring "
    "n_iter_no_change tol calibration",
    "Ensembles": "n_networks varied_networks n_candidates max_time n_jobs",
    "Outliers": "contamination",
    "Hardware": "device dtype float32_precision n_processes",
}
GROUPS = {title: names.split() for title, names in GROUPS.items()}
ESTIMATORS = [
    "DeepMLPClassifier",
    "DeepMLPRegressor",
    "TabularMLPClassifier",
    "TabularMLPRegressor",
    "AutoencoderTransformer",
]


def setup(app):
    app.connect("doctree-read", _sort_parameters)
    return {"parallel_read_safe": True}


def _sort_parameters(app, doctree):
    for signature in doctree.findall(nodes.Element):
        if signature.tagname == "desc_signature" and signature.get("fullname") in ESTIMATORS:
            description = signature.parent
            field = next(filter(_is_parameters, description.findall(nodes.field)), None)
            if field is None:
                raise ValueError(f"{signature['fullname']} has no list of parameters to sort")
            _sort(field, signature["fullname"])


def _is_parameters(field):
    return field[0].astext() == "Parameters"


def _sort(field, estimator):
    listed = next(field[1].findall(nodes.definition_list))
    items = {item[0].astext().partition(" ")[0]: item for item in listed.children}
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(
            getattr(import_module("sknn_deep"), estimator)
        ).parameters.items()
    }
    grouped = {title: [name for name in names if name in items] for title, names in GROUPS.items()}
    left = set(items) - {name for names in grouped.values() for name in names}
    if left:
        raise ValueError(f"docs/_ext/parameter_groups.py has no group for {sorted(left)}")
    grouped = {title: names for title, names in grouped.items() if names}
    anchor = partial("{}-{}".format, estimator.lower())
    body = [_table(grouped, defaults, anchor)]
    for title, names in grouped.items():
        body.append(nodes.rubric("", title, classes=["parameter-group"]))
        entries = nodes.definition_list(classes=list(listed["classes"]))
        for name in names:
            items[name][0]["ids"].append(anchor(name.replace("_", "-")))
            entries += items[name]
        body.append(entries)
    listed.replace_self(body)


def _table(grouped, defaults, anchor):
    """Return a table with a row for each group: its name, and its parameters with defaults."""
    group = nodes.tgroup(cols=2)
    group += [nodes.colspec(colwidth=1), nodes.colspec(colwidth=5)]
    body = nodes.tbody()
    for title, names in grouped.items():
        paragraph = nodes.paragraph()
        for i, name in enumerate(names):
            default = defaults[name]
            shown = f'"{default}"' if isinstance(default, str) else repr(default)
            if default is inspect.Parameter.empty:
                shown = ""
            text = f"{name}={shown}" if shown else name
            target = anchor(name.replace("_", "-"))
            link = nodes.reference("", "", nodes.literal("", text), refid=target, internal=True)
            paragraph += [*([nodes.Text(" ")] if i else []), link]
        row = nodes.row()
        row += [nodes.entry("", nodes.paragraph("", title)), nodes.entry("", paragraph)]
        body += row
    group += body
    table = nodes.table("", classes=["parameter-groups"])
    table += group
    return table
