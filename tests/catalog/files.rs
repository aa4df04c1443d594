//! Committed files.

use ttdust::catalog::{CatalogError, Commit, FileTotals, StoredFile, StreamChange, StreamStatus};
use ttdust_shards::{ids::StreamId, parquet::PartitionHour};

use crate::store::{Place, line, stream, with_stream};

pub fn file(first: i64, last: i64) -> StoredFile {
    StoredFile {
        key: format!("s/{first}-{last}"),
        hour: PartitionHour(-1),
        first_sequence: first,
        last_sequence: last,
        min_timestamp: first * 10,
        max_timestamp: last * 10,
        bytes: 100,
        checksum: u32::MAX,
        level: 0,
    }
}

pub async fn files_commit_once_without_gap_or_overlap(place: Place) {
    let catalog = place.open().await;
    let first = with_stream(&catalog).await;
    let id = first.id;
    let both = vec![file(1, 10), file(11, 20)];
    assert_eq!(catalog.commit_files(id, both.clone(), 1).await, Ok(Commit::Done));
    assert_eq!(catalog.commit_files(id, both.clone(), 2).await, Ok(Commit::Done));
    for bad in [file(11, 21), file(5, 20), file(20, 30), file(22, 30)] {
        let refused = catalog.commit_files(id, vec![bad.clone()], 3).await;
        assert!(matches!(refused, Err(CatalogError::Conflict(_))), "{bad:?}");
    }
    let changed = StoredFile { checksum: 0, ..file(1, 10) };
    assert!(matches!(catalog.commit_files(id, vec![changed], 3).await, Err(CatalogError::Conflict(_))));
    let now = catalog.stream(id).await.expect("it");
    assert_eq!((now.flushed_through, now.version), (20, 1), "a flush is no change of the stream");
    assert_eq!(catalog.files_in(id, 0, i64::MAX).await, Ok(both.clone()));
    assert_eq!(catalog.files_in(id, 101, 110).await, Ok(vec![]));
    assert_eq!(catalog.files_in(id, 100, 110).await, Ok(vec![both[0].clone()]));
    let other = stream("other", first.schema);
    catalog.create_stream(other.clone(), line("x")).await.expect("created");
    assert_eq!(catalog.file_totals(other.id).await, Ok(FileTotals::default()));
    catalog.commit_files(other.id, vec![StoredFile { key: "other".into(), ..file(1, 1) }], 4).await.expect("committed");
    assert_eq!(catalog.file_totals(id).await, Ok(FileTotals { files: 2, bytes: 200, rows: 20 }));
    assert_eq!(catalog.all_file_totals().await, Ok(FileTotals { files: 3, bytes: 300, rows: 21 }));
    assert_eq!(catalog.holds_file(both[1].key.clone()).await, Ok(true));
    assert_eq!(catalog.holds_file("none".into()).await, Ok(false));
}

pub async fn a_refused_commit_leaves_nothing_behind(place: Place) {
    let catalog = place.open().await;
    let id = with_stream(&catalog).await.id;
    let gap = vec![file(1, 10), file(12, 20)];
    assert!(matches!(catalog.commit_files(id, gap, 1).await, Err(CatalogError::Conflict(_))));
    assert_eq!(catalog.file_totals(id).await, Ok(FileTotals::default()));
    assert_eq!(catalog.stream(id).await.expect("it").flushed_through, 0);
}

pub async fn files_of_a_stream_that_is_gone_or_going_are_not_wanted(place: Place) {
    let catalog = place.open().await;
    let gone = catalog.commit_files(StreamId::generate(), vec![file(1, 2)], 1).await;
    assert_eq!(gone, Ok(Commit::StreamGone));
    let id = with_stream(&catalog).await.id;
    assert_eq!(catalog.commit_files(id, vec![file(1, 2)], 1).await, Ok(Commit::Done));
    let delete = StreamChange { status: Some(StreamStatus::Deleting), ..StreamChange::default() };
    catalog.change_stream(id, delete, 1, line("x")).await.expect("marked");
    assert_eq!(catalog.commit_files(id, vec![file(3, 4)], 1).await, Ok(Commit::StreamGone));
    assert_eq!(catalog.file_totals(id).await.expect("totals").files, 1);
    catalog.end_deletion(id, 2, line("x")).await.expect("ended");
    assert_eq!(catalog.file_totals(id).await, Ok(FileTotals::default()));
    assert_eq!(catalog.commit_files(id, vec![file(3, 4)], 1).await, Ok(Commit::StreamGone));
    assert_eq!(catalog.stream(id).await.expect("a tombstone").flushed_through, 2);
}

pub async fn of_two_flushes_of_the_same_rows_one_is_kept(place: Place) {
    let (one, other) = (place.open().await, place.open().await);
    let id = with_stream(&one).await.id;
    for n in 0..10 {
        let (first, short, long) = (n * 10 + 1, n * 10 + 5, n * 10 + 10);
        let (a, b) = tokio::join!(
            one.commit_files(id, vec![file(first, long)], 1),
            other.commit_files(id, vec![file(first, short), file(short + 1, long)], 1),
        );
        assert!(a.is_ok() != b.is_ok(), "{a:?} {b:?}");
        assert_eq!(one.stream(id).await.expect("it").flushed_through, long);
    }
    assert_eq!(one.file_totals(id).await.expect("totals").rows, 100);
}
