"""scikit-learn's checks for the tests, and those that one kind of configuration need not repeat."""

from functools import cache

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

OUTLIER_CHECKS = ("check_outliers_fit_predict", "check_outliers_train")

# What the same code does whatever the value of a parameter of the training: the defaults and small
# networks are put to these checks.
SAME_FOR_ALL_VALUES = {
    # the constructor, the parameters and the methods
    "check_dict_unchanged",
    "check_do_not_raise_errors_in_init_or_set_params",
    "check_dont_overwrite_parameters",
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_estimator_tags_renamed",
    "check_estimators_fit_returns_self",
    "check_estimators_overwrite_params",
    "check_estimators_pickle",
    "check_estimators_unfitted",
    "check_fit_check_is_fitted",
    "check_fit_score_takes_y",
    "check_get_params_invariance",
    "check_mixin_order",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_set_params",
    "check_transformers_unfitted",
    "check_valid_tag_types",
    # how data are passed, weights of classes as those of rows
    "check_array_api_input",
    "check_class_weight_classifiers",
    "check_classifier_data_not_an_array",
    "check_classifiers_classes",
    "check_classifiers_multilabel_representation_invariance",
    "check_dtype_object",
    "check_estimator_sparse_array",
    "check_estimator_sparse_matrix",
    "check_estimator_sparse_tag",
    "check_estimators_dtypes",
    "check_f_contiguous_array_estimator",
    "check_n_features_in",
    "check_n_features_in_after_fitting",
    "check_pipeline_consistency",
    "check_readonly_memmap_input",
    "check_regressor_data_not_an_array",
    "check_regressors_int",
    "check_sample_weight_equivalence_on_sparse_data",
    "check_sample_weights_list",
    "check_sample_weights_not_an_array",
    "check_sample_weights_not_overwritten",
    "check_sample_weights_pandas_series",
    "check_transformer_data_not_an_array",
    "check_transformer_preserve_dtypes",
    # which data are taken and which refused
    "check_all_zero_sample_weights_error",
    "check_classifiers_regression_target",
    "check_complex_data",
    "check_estimators_empty_data_messages",
    "check_estimators_nan_inf",
    "check_fit1d",
    "check_fit2d_predict1d",
    "check_positive_only_tag_during_fit",
    "check_requires_y_none",
    "check_sample_weights_shape",
    "check_supervised_y_2d",
    "check_supervised_y_no_nan",
    # what is answered: that each row gets its own answer is checked for one row at a time, too
    "check_classifiers_multilabel_output_format_decision_function",
    "check_classifiers_multilabel_output_format_predict",
    "check_classifiers_multilabel_output_format_predict_proba",
    "check_methods_sample_order_invariance",
    "check_non_transformer_estimators_n_iter",
    "check_transformer_n_iter",
    # which rows are outliers, given the losses of all
    *OUTLIER_CHECKS,
}


def with_checks(estimators, but=frozenset(), expected_failures=None):
    """Parametrize with estimators and scikit-learn's checks, all but those of some names.

    Where some are left out, so are those that repeat others on read-only memory maps.
    """
    every = parametrize_with_checks(estimators, expected_failed_checks=expected_failures)
    names, cases = every.args

    def is_wanted(case):
        check = getattr(case, "values", case)[1]
        is_map = getattr(check, "keywords", {}).get("readonly_memmap", False)
        return not but or (not is_map and getattr(check, "func", check).__name__ not in but)

    # an estimator's name is its repr, which takes a millisecond: once, and not for each check
    ids = cache(every.kwargs["ids"])
    return pytest.mark.parametrize(names, [*filter(is_wanted, cases)], ids=ids)
