//! The rules of the catalog's interface, one test each, run against every store: what holds for one holds for the other.

#[path = "catalog/audit.rs"]
mod audit;
#[path = "catalog/changes.rs"]
mod changes;
#[path = "catalog/file_sets.rs"]
mod file_sets;
#[path = "catalog/files.rs"]
mod files;
#[path = "catalog/jobs.rs"]
mod jobs;
#[path = "catalog/keys.rs"]
mod keys;
#[path = "catalog/migrations.rs"]
mod migrations;
#[path = "server/postgres.rs"]
mod postgres;
#[path = "catalog/schemas.rs"]
mod schemas;
#[path = "catalog/store.rs"]
mod store;
#[path = "catalog/streams.rs"]
mod streams;

/// Makes a test of each rule for each store. A rule that is not in the list is dead code, which is an error.
macro_rules! suite {
    ($($group:ident: $($rule:ident),+;)+) => {
        mod on_sqlite {
            $(mod $group {
                $(#[test]
                fn $rule() {
                    crate::store::run(crate::$group::$rule(crate::store::Place::sqlite()));
                })+
            })+
        }
        mod on_postgres {
            $(mod $group {
                $(#[test]
                fn $rule() {
                    crate::store::run(crate::$group::$rule(crate::store::Place::postgres()));
                })+
            })+
        }
    };
}

suite! {
    schemas:
        what_is_stored_is_read_back_after_a_restart,
        names_are_unique_in_their_namespace,
        versions_follow_each_other_and_are_found,
        a_version_and_a_pipeline_that_are_judged_by_each_other_do_not_both_come,
        a_schema_is_changed_at_the_version_that_was_read,
        the_version_in_force_is_retired_only_when_nothing_uses_it,
        of_two_that_add_the_same_version_one_wins;
    streams:
        names_are_unique_and_schemas_exist,
        lists_are_paged_and_filtered,
        a_change_needs_the_version_that_was_read,
        a_stream_keeps_every_version_of_its_pipelines,
        a_deletion_is_final_and_leaves_a_tombstone,
        a_stream_that_is_being_created_is_not_for_the_shards,
        of_two_that_take_the_same_name_one_wins,
        of_two_changes_of_the_same_version_one_wins,
        ten_thousand_streams_are_read_at_once;
    files:
        files_commit_once_without_gap_or_overlap,
        a_refused_commit_leaves_nothing_behind,
        files_of_a_stream_that_is_gone_or_going_are_not_wanted,
        of_two_flushes_of_the_same_rows_one_is_kept;
    file_sets:
        a_file_takes_the_place_of_those_whose_rows_it_holds,
        only_what_is_there_whole_is_replaced,
        the_first_files_go_and_the_rest_has_no_gap,
        a_late_commit_of_files_that_are_retired_is_no_change,
        of_two_merges_of_the_same_files_one_wins,
        an_orphan_is_condemned_and_becomes_no_file,
        hours_with_small_files_are_found_page_by_page,
        manifests_are_owed_until_they_are_written,
        nothing_of_a_deleted_stream_is_left,
        a_list_is_set_whole_and_what_was_retired_comes_back;
    keys:
        keys_are_kept_until_they_are_deleted,
        the_last_use_of_a_key_never_moves_backward;
    audit:
        every_change_leaves_a_line_and_raises_the_generation,
        what_is_refused_leaves_no_line,
        lines_are_listed_newest_first_and_filtered,
        a_line_of_no_change_raises_no_generation,
        what_the_caller_says_of_the_object_is_kept,
        the_first_answer_to_a_request_is_the_one_that_is_remembered,
        a_request_is_remembered_from_its_beginning_and_answered_or_forgotten_once,
        old_answers_are_forgotten,
        the_log_only_grows;
    jobs:
        a_job_goes_on_until_it_ends_and_then_stays_as_it_is,
        jobs_are_listed_newest_first_filtered_and_forgotten,
        there_is_no_more_than_so_many_that_have_not_ended,
        of_those_that_are_created_at_once_no_more_are_kept;
    changes:
        what_changed_is_the_difference_of_what_there_is,
        what_is_too_long_ago_is_not_remembered;
    migrations:
        a_plan_changes_nothing_and_a_second_run_has_nothing_to_do,
        a_catalog_of_a_newer_program_is_refused,
        two_that_begin_at_once_make_one_catalog;
}
