"""Which tests run when. Each tier has a time limit on two cores:

* default: `make test`, 6 minutes;
* slow: on every change, after the default tests, 20 minutes;
* exhaustive: before a release, with all others (`make test-all`). It has the combinations of which the other tiers have
  samples, and some tests that take minutes.

Marks in the files assign most of the slow tests. The tables below assign tests, by file and function ("*" for all of a
file), to a later tier; the cases in the list stay in the earlier one.
"""

from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent

SLOW: dict[str, dict[str, list[str]]] = {
    "test_conditional.py": {"test_keras_file": []},
    "test_docstrings.py": {"test_examples_run": ["kvae", "kvae.data.series", "kvae.models.vae", "kvae.likelihoods",
                                                 "kvae.export.runtime", "kvae.distributions.base"]},
    "test_estimators.py": {"test_contributions_of_images": [], "test_images_of_every_shape": [],
                           "test_the_criterion_of_images_is_the_one_that_misses_no_synthetic_anomaly": [],
                           "test_the_default_model_of_tables_scales_the_columns": []},
    "test_evaluation.py": {"test_a_model_of_mixed_precision_can_be_scored_in_float32": [],
                           "test_feature_model_shares_the_weights_and_can_be_fine_tuned": []},
    "test_events.py": {"test_default_networks_of_every_kind_of_event": ["series"], "test_conditional_series": [],
                       "test_default_models_of_series": [],
                       "test_vamp_prior_has_pseudo_inputs_in_standardised_units": []},
    "test_fitted_prior.py": {"*": []},
    "test_hierarchy.py": {"test_evidence_equals_quadrature": [], "test_features_are_those_of_the_top_level": [],
                          "test_objectives": [],
                          "test_conditional_hierarchy_uses_the_condition_in_both_passes": []},
    "test_loading_sizes.py": {"test_huge_integers_are_refused": ["VAE", "Encoder", "Decoder", "TopDown", "Conv2D",
                                                                 "Columns"]},
    "test_model_inputs.py": {"test_the_likelihood_evaluates_the_target": [],
                             "test_dictionaries_of_tensorflow_datasets_are_accepted": []},
    "test_parts.py": {"test_gradients_and_round_trip": ["posterior FullCovarianceNormal", "likelihood Normal learned",
                                                        "likelihood DiscretizedLogisticMixture", "prior VampPrior",
                                                        "objective TargetRate"],
                      "test_fit": ["0-mixed_bfloat16"]},
    "test_priors.py": {"test_density_equals_scipy_in_float64": ["StandardNormal", "Mixture", "RealNVP"],
                       "test_temperature_zero_gives_typical_latents": ["StandardNormal", "Mixture"],
                       "test_row_depends_only_on_seed_and_index": ["StandardNormal", "VampPrior"],
                       "test_config_and_weights_round_trip": ["Mixture", "RealNVP"],
                       "test_gradients_of_every_weight_and_finite_extremes": ["Mixture", "RealNVP"],
                       "test_fitted_mixture_equals_scikit_learn": ["full"]},
    "test_random.py": {"test_words_equal_jax": []},
    "test_recipes.py": {"test_recipe_round_trip_and_terms": ["vae", "iwae", "vamp", "ladder", "sigma_vae",
                                                             "conditional_vae"]},
    "test_refined.py": {"test_two_latents_by_quadrature_and_the_sandwich": [], "test_every_posterior": [],
                        "test_the_truth_is_between_the_bounds_of_an_audit": [], "test_every_prior": [],
                        "test_every_likelihood": [], "test_auto_refines_where_few_samples_count": [],
                        "test_values_that_are_not_finite_are_reported": []},
    "test_resume.py": {"test_counters_survive_the_rest_of_an_epoch": [], "test_a_file_that_does_not_fit_is_refused": [],
                       "test_the_rest_of_an_epoch_has_at_least_one_batch": []},
    "test_semi_supervised.py": {"test_labels_out_of_range_are_refused": ["labels0"], "test_unbounded_data": []},
    "test_series_runs.py": {"test_likelihoods_of_real_numbers_are_scaled": ["normal-low-rank"],
                            "test_evaluate_and_features_work_on_the_run": [],
                            "test_a_run_of_separate_windows_has_its_splits_and_labels": [],
                            "test_scores_are_those_of_the_values_in_their_units": []},
    "test_tables.py": {"test_training_is_reproducible_and_hides_values": [], "test_rows_depend_only_on_the_seed": [],
                       "test_the_model_file_contains_the_schema": [],
                       "test_the_result_of_a_row_is_independent_of_other_rows": []},
    "test_vae.py": {"test_images_of_another_shape_are_refused_before_and_after_a_pass": ["array"],
                    "test_images_outside_0_1_are_refused": ["255.0"], "test_inputs_of_fit": ["x"],
                    "test_user_models_are_used_and_saved": [], "test_val_loss_is_not_weighted_by_beta": []},
    "export/test_export_calibration.py": {"*": []},
    "export/test_export_explain.py": {"*": []},
    "export/test_export_fuzz.py": {"test_every_damaged_file_is_refused": ["float32-False"]},
    "export/test_export_logging.py": {"test_every_user_of_quiet_restores_settings": ["converting"]},
    "export/test_export_nats.py": {"test_a_float32_file_has_the_likelihood_of_keras": [],
                                   "test_int8_loses_more_than_float32": []},
    "export/test_export_rows.py": {"*": []},
    "export/test_export_series.py": {"*": []},
}  # fmt: skip

EXHAUSTIVE: dict[str, dict[str, list[str]]] = {
    "test_cli.py": {"test_a_recipe_is_trained_saved_and_loaded": [], "test_the_demo_of_faces": []},
    "test_describe.py": {
        "test_a_failing_step_does_not_end_the_description": ["evaluate", "write_report"],
        "test_figures_of_every_shape_of_images": ["a row", "four channels"],
        "test_resuming_adds_missing_results": ["the figures", "half of the numbers"],
        "test_steps_that_the_data_do_not_allow_are_reported_and_the_others_run": ["no labels", "one test image"],
    },
    "test_estimators.py": {"test_scikit_learn_checks": []},
    "test_evaluation.py": {"test_a_part_that_xla_cannot_compile_is_scored": ["likelihood-network0"]},
    "test_features_ray.py": {"test_a_killed_worker_is_restarted_without_losing_rows": []},
    "test_features_streaming.py": {"test_streaming_a_folder_with_broken_images_survives_kills": []},
    "test_hierarchy.py": {"test_fifty_layers_train": []},
    "test_keras_tools.py": {
        "test_a_quantized_model_is_saved_and_loaded": ["conditional-int8", "VAE-int4", "VAE-float8"],
        "test_copies": ["VAE-pickle", "Autoencoder-clone_model", "SemiSupervisedVAE-deepcopy", "gated, a flow-to_json",
                        "a subclassed decoder-from_config"],
        "test_export_of_a_model_that_was_never_called": ["VAE-onnx", "conditional-litert",
                                                         "Autoencoder-tf_saved_model", "classifier-litert"],
    },
    "test_loading_sizes.py": {
        "test_other_values_are_refused_or_harmless": ["MLP", "TopDown", "Decoder", "Conv2D", "LSTM", "RandAugment"],
        "test_recipes_are_accepted": ["deep", "vamp", "iaf_vae", "sigma_vae"],
    },
    "test_nonfinite.py": {"test_a_skipped_step_leaves_every_state_alone": ["graph", "two replicas, loss scale"]},
    "test_notebooks.py": {"test_notebook_runs": ["01_train_and_generate", "03_on_the_phone", "06_is_this_normal"]},
    "test_optimizers.py": {"test_the_steps_are_those_of_keras": ["{}", "{'global_clipnorm': 1.0}"]},
    "test_packaging.py": {"test_a_wheel_runs_the_demo_with_the_oldest_dependencies": []},
    "test_parts.py": {"test_file_equals_keras": ["0", "2", "6"], "test_fit": ["1-xla", "2-mixed_bfloat16", "6-xla"],
                      "test_gradients_and_round_trip": ["prior FlowMatching", "posterior TopDownNormal",
                                                        "objective DReG", "objective DIP-II",
                                                        "likelihood OptimalNormal", "likelihood LowRankNormal"]},
    "test_priors.py": {"test_density_integrates_to_one_and_samples_follow_it": ["Mixture", "FlowMatching",
                                                                                "VampPrior"]},
    "test_recipes.py": {"test_the_saved_model_has_the_recipes_property": ["beta_vae", "ladder", "vamp", "control_vae"],
                        "test_recipe_round_trip_and_terms": ["deep_color", "flow_prior_vae", "iaf_vae", "dip_vae",
                                                             "control_vae", "phone_vae", "residual_flow"]},
    "test_refined.py": {"test_every_likelihood": ["DiscretizedLogistic", "Laplace", "Scaled"],
                        "test_every_posterior": ["InverseAutoregressive"], "test_every_prior": ["Mixture", "RealNVP"]},
    "test_resume.py": {"test_kills_at_random_moments": [], "test_the_command_with_a_full_disk": []},
    "test_settings.py": {
        "test_a_model_works_under_every_setting": ["floatx float64", "policy float16"],
        "test_every_model_trains_under_every_setting": ["VAE-floatx float64", "conditional-floatx float16",
                                                        "Autoencoder-floatx float16", "VAE-policy bfloat16"],
        "test_every_part_computes_in_float32": ["posterior FullCovarianceNormal-floatx float16",
                                                "likelihood LowRankNormal-floatx float16",
                                                "prior VampPrior-floatx float16",
                                                "objective DIP-II-floatx float16",
                                                "likelihood DiscretizedLogisticMixture-floatx float64",
                                                "prior RealNVP-floatx float64"],
    },
    "test_workers.py": {"test_a_killed_worker_is_restarted": [],
                        "test_the_command_with_two_workers_equals_one": []},
    "export/test_export_models.py": {
        "test_litert_equals_keras_at_any_batch_size": ["hierarchy, odd sizes-int8", "mixed_float16-float32",
                                                       "Autoencoder-int8"],
        "test_saved_model_as_a_keras_layer": ["hierarchy, odd sizes"],
        "test_saved_model_equals_keras": ["hierarchy, odd sizes", "Autoencoder"],
    },
    "export/test_export_networks.py": {"test_golden_pairs_are_replayed_on_old_runtimes": ["2.7.0"]},
    "export/test_export_refusals.py": {"test_an_interrupted_export_keeps_the_earlier_one": []},
}  # fmt: skip


def slow_but(quick, names):
    """Return parameters for all names; those that aren't `quick` are slow."""
    return [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in names]


def assign(items: list[pytest.Item]) -> None:
    """Mark the tests of the tables."""
    for item in items:
        file, function, case = _name(item)
        for table, mark in ((SLOW, pytest.mark.slow), (EXHAUSTIVE, pytest.mark.exhaustive)):
            functions = table.get(file, {})
            kept = functions.get(function, functions.get("*"))
            if kept is not None and case not in kept:
                item.add_marker(mark)


def check(items: list[pytest.Item]) -> None:
    """Raise a `pytest.UsageError` if a table has a test or a case that these files don't have."""
    found: dict[str, dict[str, set[str]]] = {}
    for file, function, case in map(_name, items):
        found.setdefault(file, {}).setdefault(function, set()).add(case)
    for table in (SLOW, EXHAUSTIVE):
        for file in table.keys() & found.keys():
            for function, kept in ((name, kept) for name, kept in table[file].items() if name != "*"):
                cases = found[file].get(function)
                if cases is None or set(kept) - cases:
                    raise pytest.UsageError(f"tests/tiers.py: {file} doesn't have {function} with all of {kept}")


def _name(item: pytest.Item) -> tuple[str, str, str]:
    """Return the file, relative to this folder, the function, and the case of a test."""
    case = item.callspec.id if hasattr(item, "callspec") else ""
    return item.path.relative_to(FOLDER).as_posix(), getattr(item, "originalname", item.name), case
