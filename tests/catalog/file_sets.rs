//! Files that take the place of others, and files that go.

use ttdust::catalog::{
    Catalog, CatalogError, Commit, FileTotals, ManifestDebt, RetiredFile, StoredFile, StreamChange, StreamHour,
    StreamStatus,
};
use ttdust_shards::{ids::StreamId, parquet::PartitionHour};

use crate::{
    files::file,
    store::{Place, line, stream, with_stream},
};

fn merged(first: i64, last: i64) -> StoredFile {
    StoredFile { key: format!("s/{first}-{last}.l1"), level: 1, bytes: 150, ..file(first, last) }
}

fn keys(files: &[StoredFile]) -> Vec<String> {
    files.iter().map(|file| file.key.clone()).collect()
}

/// A stream with the files 1-10, 11-20, 21-30.
async fn three(catalog: &Catalog) -> (StreamId, Vec<StoredFile>) {
    let id = with_stream(catalog).await.id;
    let files = vec![file(1, 10), file(11, 20), file(21, 30)];
    assert_eq!(catalog.commit_files(id, files.clone(), 1).await, Ok(Commit::Done));
    (id, files)
}

async fn listed(catalog: &Catalog, id: StreamId) -> Vec<StoredFile> {
    catalog.files_after(id, 0, 100).await.expect("a list")
}

fn is_conflict<T>(outcome: &Result<T, CatalogError>) -> bool {
    matches!(outcome, Err(CatalogError::Conflict(_)))
}

pub async fn a_file_takes_the_place_of_those_whose_rows_it_holds(place: Place) {
    let catalog = place.open().await;
    let (id, files) = three(&catalog).await;
    for _ in 0..2 {
        // In any order, and again.
        let old = vec![files[1].key.clone(), files[0].key.clone()];
        assert_eq!(catalog.replace_files(id, old, merged(1, 20), 7).await, Ok(Commit::Done));
        assert_eq!(listed(&catalog, id).await, [merged(1, 20), files[2].clone()]);
    }
    assert_eq!(catalog.files_in(id, 0, i64::MAX).await, Ok(vec![merged(1, 20), files[2].clone()]));
    assert_eq!(catalog.file_totals(id).await, Ok(FileTotals { files: 2, bytes: 250, rows: 30 }));
    assert_eq!(catalog.stream(id).await.expect("it").flushed_through, 30);
    let retired = |file: &StoredFile| RetiredFile { key: file.key.clone(), stream: id, retired_at: 7 };
    assert_eq!(catalog.retired(7, 10).await, Ok(vec![]));
    assert_eq!(catalog.retired(8, 1).await, Ok(vec![retired(&files[0])]));
    assert_eq!(catalog.retired(8, 10).await, Ok(vec![retired(&files[0]), retired(&files[1])]));
    let asked = vec!["none".to_owned(), files[0].key.clone(), files[2].key.clone(), merged(1, 20).key];
    assert_eq!(catalog.unreferenced(asked.clone()).await, Ok(vec!["none".to_owned()]));
    catalog.forget_retired(keys(&files[..2])).await.expect("forgotten");
    catalog.forget_retired(keys(&files[..2])).await.expect("twice is no fault");
    assert_eq!(catalog.retired(8, 10).await, Ok(vec![]));
    assert_eq!(catalog.unreferenced(asked).await, Ok(vec!["none".to_owned(), files[0].key.clone()]));
    // Flushes go on where they were, and a merge of merges works as well.
    assert_eq!(catalog.commit_files(id, vec![file(31, 40)], 8).await, Ok(Commit::Done));
    let all = keys(&listed(&catalog, id).await);
    let whole = StoredFile { level: 2, key: "s/whole".into(), ..merged(1, 40) };
    assert_eq!(catalog.replace_files(id, all, whole.clone(), 9).await, Ok(Commit::Done));
    assert_eq!(listed(&catalog, id).await, [whole]);
}

pub async fn only_what_is_there_whole_is_replaced(place: Place) {
    let catalog = place.open().await;
    let (id, files) = three(&catalog).await;
    let other = stream("other", with_other_schema(&catalog, id).await);
    catalog.create_stream(other.clone(), line("x")).await.expect("created");
    let elsewhere = StoredFile { hour: PartitionHour(5), ..merged(1, 20) };
    for (of, old, new) in [
        (id, vec![files[0].key.clone(), "none".to_owned()], merged(1, 10)),
        (id, keys(&[files[0].clone(), files[2].clone()]), merged(1, 30)),
        (id, keys(&files[..2]), merged(1, 30)),
        (id, keys(&files[..2]), merged(2, 20)),
        (id, keys(&files[..2]), elsewhere),
        (id, keys(&files[..2]), StoredFile { level: 0, ..merged(1, 20) }),
        (id, keys(&files[..2]), StoredFile { max_timestamp: 201, ..merged(1, 20) }),
        (id, keys(&files[..2]), StoredFile { key: files[2].key.clone(), ..merged(1, 20) }),
        (id, vec![], merged(1, 20)),
        (other.id, keys(&files[..2]), merged(1, 20)),
    ] {
        let refused = catalog.replace_files(of, old, new.clone(), 7).await;
        assert!(is_conflict(&refused), "{new:?}: {refused:?}");
    }
    assert_eq!(listed(&catalog, id).await, files);
    assert_eq!(catalog.retired(8, 10).await, Ok(vec![]));
    let gone = catalog.replace_files(StreamId::generate(), keys(&files[..2]), merged(1, 20), 7).await;
    assert_eq!(gone, Ok(Commit::StreamGone));
}

async fn with_other_schema(catalog: &Catalog, id: StreamId) -> ttdust_shards::ids::SchemaId {
    catalog.stream(id).await.expect("it").schema
}

pub async fn the_first_files_go_and_the_rest_has_no_gap(place: Place) {
    let catalog = place.open().await;
    let (id, files) = three(&catalog).await;
    assert_eq!(catalog.drop_files(id, 9, 5).await, Ok(FileTotals::default()));
    for dropped in [FileTotals { files: 2, bytes: 200, rows: 20 }, FileTotals::default()] {
        assert_eq!(catalog.drop_files(id, 29, 5).await, Ok(dropped));
        assert_eq!(listed(&catalog, id).await, files[2..]);
    }
    assert_eq!(catalog.files_in(id, 0, i64::MAX).await, Ok(files[2..].to_vec()));
    assert_eq!(catalog.retired(6, 10).await.expect("a list").len(), 2);
    assert_eq!(catalog.drop_files(id, 1000, 6).await.expect("dropped").files, 1);
    assert_eq!(listed(&catalog, id).await, []);
    assert_eq!(catalog.stream(id).await.expect("it").flushed_through, 30, "it never falls");
    assert!(is_conflict(&catalog.commit_files(id, vec![file(32, 40)], 7).await));
    assert_eq!(catalog.commit_files(id, vec![file(31, 40)], 7).await, Ok(Commit::Done));
    assert_eq!(catalog.drop_files(StreamId::generate(), 10, 7).await, Ok(FileTotals::default()));
}

pub async fn a_late_commit_of_files_that_are_retired_is_no_change(place: Place) {
    let catalog = place.open().await;
    let (id, files) = three(&catalog).await;
    catalog.replace_files(id, keys(&files[..2]), merged(1, 20), 7).await.expect("replaced");
    catalog.drop_files(id, 20, 8).await.expect("dropped");
    let left = listed(&catalog, id).await;
    // The answer to their commit was lost.
    for again in [&files[..1], &files[1..2], &files[..]] {
        assert_eq!(catalog.commit_files(id, again.to_vec(), 9).await, Ok(Commit::Done));
        assert_eq!(listed(&catalog, id).await, left);
    }
    let other = StoredFile { checksum: 1, ..file(1, 10) };
    assert!(is_conflict(&catalog.commit_files(id, vec![other], 9).await), "other rows are no such commit");
    assert!(is_conflict(&catalog.commit_files(id, vec![file(1, 15)], 9).await));
}

pub async fn of_two_merges_of_the_same_files_one_wins(place: Place) {
    let (one, other) = (place.open().await, place.open().await);
    let (id, files) = three(&one).await;
    let (a, b, c) = tokio::join!(
        one.replace_files(id, keys(&files[..2]), merged(1, 20), 7),
        other.replace_files(id, keys(&files[1..]), merged(11, 30), 7),
        other.drop_files(id, 20, 7),
    );
    let dropped = c.expect("dropped").rows;
    assert!(!(a.is_ok() && b.is_ok()), "{a:?} {b:?}");
    let left = listed(&one, id).await;
    assert_eq!(left.iter().map(StoredFile::rows).sum::<u64>(), 30 - dropped, "{left:?}");
    assert!(left.windows(2).all(|pair| pair[0].last_sequence + 1 == pair[1].first_sequence), "{left:?}");
    assert_eq!(left.last().expect("one").last_sequence, 30);
}

pub async fn an_orphan_is_condemned_and_becomes_no_file(place: Place) {
    let catalog = place.open().await;
    let (id, files) = three(&catalog).await;
    catalog.replace_files(id, keys(&files[..2]), merged(1, 20), 7).await.expect("replaced");
    let orphan = StoredFile { checksum: 0, ..merged(11, 30) };
    let to_come = StoredFile { key: "s/31-40".into(), checksum: 0, ..file(31, 40) };
    let known = [merged(1, 20), files[0].clone(), files[2].clone()];
    let found: Vec<_> = [&[orphan.clone(), to_come.clone()][..], &known].concat();
    assert_eq!(catalog.condemn(StreamId::generate(), found.clone(), 8).await, Ok(0), "nothing is known of it");
    assert_eq!(catalog.condemn(id, found.clone(), 8).await, Ok(1));
    assert_eq!(catalog.condemn(id, found, 9).await, Ok(0));
    let condemned = RetiredFile { key: orphan.key.clone(), stream: id, retired_at: 8 };
    assert!(catalog.retired(9, 10).await.expect("a list").contains(&condemned));
    let both = keys(&[merged(1, 20), files[2].clone()]);
    let late = StoredFile { key: orphan.key.clone(), level: 2, ..merged(1, 30) };
    assert!(is_conflict(&catalog.replace_files(id, both.clone(), late.clone(), 10).await));
    assert_eq!(listed(&catalog, id).await, [merged(1, 20), files[2].clone()]);
    catalog.forget_retired(vec![orphan.key]).await.expect("forgotten");
    assert_eq!(catalog.replace_files(id, both, late, 11).await, Ok(Commit::Done));
    assert_eq!(catalog.commit_files(id, vec![to_come], 12).await, Ok(Commit::Done));
}

pub async fn hours_with_small_files_are_found_page_by_page(place: Place) {
    let catalog = place.open().await;
    let id = with_stream(&catalog).await.id;
    let at = |n: i64, hour, bytes| StoredFile { hour: PartitionHour(hour), bytes, ..file(n, n) };
    let files = vec![at(1, 1, 10), at(2, 1, 10), at(3, 2, 10), at(4, 2, 50), at(5, 3, 10), at(6, 4, 9), at(7, 4, 9)];
    catalog.commit_files(id, files.clone(), 1).await.expect("committed");
    let hour = |hour| StreamHour { stream: id, hour: PartitionHour(hour) };
    assert_eq!(catalog.hours_to_merge(50, None, 10).await, Ok(vec![hour(1), hour(4)]));
    assert_eq!(catalog.hours_to_merge(51, None, 2).await, Ok(vec![hour(1), hour(2)]));
    assert_eq!(catalog.hours_to_merge(51, Some(hour(2)), 10).await, Ok(vec![hour(4)]));
    assert_eq!(catalog.hours_to_merge(9, None, 10).await, Ok(vec![]));
    assert_eq!(catalog.files_of_hour(hour(2)).await, Ok(files[2..4].to_vec()));
    assert_eq!(catalog.files_after(id, 3, 2).await, Ok(files[3..5].to_vec()));
    let two = StoredFile { level: 2, key: "two".into(), last_sequence: 2, max_timestamp: 20, ..files[0].clone() };
    catalog.replace_files(id, keys(&files[..2]), two, 2).await.expect("replaced");
    assert_eq!(
        catalog.hours_to_merge(50, None, 10).await,
        Ok(vec![hour(4)]),
        "what is merged for good is not looked at"
    );
}

pub async fn manifests_are_owed_until_they_are_written(place: Place) {
    let catalog = place.open().await;
    let (id, files) = three(&catalog).await;
    let of = StreamHour { stream: id, hour: files[0].hour };
    let due = || async { catalog.manifests_due(10).await.expect("a list") };
    let first = due().await;
    assert_eq!(first.iter().map(|debt| debt.of).collect::<Vec<_>>(), [of]);
    catalog.replace_files(id, keys(&files[..2]), merged(1, 20), 7).await.expect("replaced");
    catalog.manifest_written(first[0]).await.expect("noted");
    let second = due().await;
    assert!(
        matches!(&second[..], [ManifestDebt { of: again, changes }] if *again == of && *changes > first[0].changes)
    );
    catalog.manifest_written(second[0]).await.expect("noted");
    assert_eq!(due().await, []);
    catalog.commit_files(id, files.clone(), 8).await.expect("they were committed before");
    assert_eq!(due().await, [], "what changes nothing owes nothing");
    catalog.drop_files(id, 20, 8).await.expect("dropped");
    assert_eq!(due().await.len(), 1);
}

pub async fn nothing_of_a_deleted_stream_is_left(place: Place) {
    let catalog = place.open().await;
    let (id, files) = three(&catalog).await;
    catalog.replace_files(id, keys(&files[..2]), merged(1, 20), 7).await.expect("replaced");
    let delete = StreamChange { status: Some(StreamStatus::Deleting), ..StreamChange::default() };
    catalog.change_stream(id, delete, 1, line("x")).await.expect("marked");
    let rest = catalog.replace_files(id, keys(&[merged(1, 20), files[2].clone()]), merged(1, 30), 8).await;
    assert_eq!(rest, Ok(Commit::StreamGone));
    assert_eq!(catalog.drop_files(id, 100, 8).await, Ok(FileTotals::default()));
    catalog.end_deletion(id, 2, line("x")).await.expect("ended");
    assert_eq!(catalog.retired(100, 10).await, Ok(vec![]));
    assert_eq!(catalog.manifests_due(10).await, Ok(vec![]));
    assert_eq!(listed(&catalog, id).await, []);
}

pub async fn a_list_is_set_whole_and_what_was_retired_comes_back(place: Place) {
    let catalog = place.open().await;
    let (id, files) = three(&catalog).await;
    let old = keys(&files[..2]);
    assert_eq!(catalog.replace_files(id, old, merged(1, 20), 7).await, Ok(Commit::Done));
    // As an older manifest has it, and one file more than the catalog knows.
    let list = [&files[..], &[file(31, 40)]].concat();
    for _ in 0..2 {
        assert_eq!(catalog.set_files(id, list.clone(), 45, 9).await, Ok(Commit::Done));
        assert_eq!(listed(&catalog, id).await, list);
        assert_eq!(catalog.stream(id).await.expect("it").flushed_through, 45);
        assert_eq!(catalog.retired(i64::MAX, 10).await, Ok(vec![]), "none of them is to go");
    }
    let hours: Vec<_> = catalog.manifests_due(10).await.expect("debts").iter().map(|debt| debt.of.hour).collect();
    assert_eq!(hours.iter().max(), list.iter().map(|file| &file.hour).max(), "manifests are owed");
    // The mark never falls, and nothing can be a list.
    assert_eq!(catalog.set_files(id, vec![], 3, 9).await, Ok(Commit::Done));
    assert_eq!((listed(&catalog, id).await, catalog.stream(id).await.expect("it").flushed_through), (vec![], 45));
    let gap = vec![file(1, 10), file(21, 30)];
    assert!(is_conflict(&catalog.set_files(id, gap, 45, 9).await));
    assert!(is_conflict(&catalog.set_files(id, vec![file(41, 50)], 45, 9).await), "past the mark");
    assert_eq!(catalog.set_files(StreamId::generate(), vec![], 0, 9).await, Ok(Commit::StreamGone));
}
