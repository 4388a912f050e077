"""Tests of huggingface_hub's that are left out, and why."""

from __future__ import annotations

_PRIVATE = "expects calls of private functions that we do not call. Scenario the_states_of_a_local_file holds the same"

#: Those that pass through upstream's functions and are not held against ours, by the end of their ids.
LEFT_OUT: dict[str, str] = {
    "::test_tree_with_redacted_xet_hash_is_not_cached": (
        "replaces HfApi.list_repo_tree; we walk the pages ourselves, to follow no link off the endpoint. "
        "Scenario redacted_listings_are_not_kept holds the same"
    ),
    "::test_download_without_head_content_length": (
        "replaces the function that upstream's bytes come through. "
        "Scenario a_file_of_unknown_size_is_downloaded holds the same, but for Xet: we need no size there"
    ),
    "::test_hf_hub_download_with_user_agent": (
        "counts calls of a private function that our bytes do not come through. "
        "Scenario requests_say_who_asks holds the same"
    ),
    "::test_force_download_replaces_store_entry": (
        "has Xet fetch the bytes. Ours come over HTTP and stay out of the shared store. "
        "Scenario the_shared_store_is_read_and_never_written holds that"
    ),
    "::test_keep_lock_file": "we leave no lock files",
    "::test_metadata_ok_and_revision_is_a_commit_hash_and_mismatch": _PRIVATE,
    "::test_metadata_not_ok_and_revision_is_a_commit_hash": _PRIVATE,
    "::test_metadata_ok_and_etag_mismatch": _PRIVATE,
    "::test_metadata_ok_and_etag_match_and_force_download": _PRIVATE,
}

#: Those that the rig cannot run: they fail through upstream's functions too.
NOT_ON_RIG: dict[str, str] = {
    "::test_xet_file_skips_per_file_head_call": "uploads to Xet, which the rig's Hub does not take",
    "::test_download_from_a_gated_repo_with_hf_hub_download": "makes a repository gated by a request of its own",
    "::test_get_hf_file_metadata_from_a_lfs_file": "reads a repository of the real Hub that the rig does not have",
    "::test_dry_run_local_dir": "wants a cache that no other test has filled",
    "::test_resolve_endpoint_on_regular_file": "reads a repository of the real Hub that the rig does not have",
    "::test_resolve_endpoint_on_lfs_file": "reads a repository of the real Hub that the rig does not have",
    "::test_large_file_http_path_error": "reads a 50 GB file of the real Hub",
}
