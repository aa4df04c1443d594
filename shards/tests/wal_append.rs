//! The log as a state machine, over the real disk: what is appended comes back from the batches, in memory and spilled.

use std::{io, path::Path, sync::Arc};

use bytes::Bytes;
use ttdust_shards::{
    config::WalConfig,
    ids::{ShardId, StreamId},
    io::{
        BLOCK_BYTES, Disk, is_aligned,
        real::RealDisk,
        sim::{SimDisk, SimRng},
    },
    wal::{Lsn, SyncedFrame, Wal, entry::EntryDraft, recovery::Recovered, segment},
};

const SHARD: ShardId = ShardId(2);

fn config(segment_bytes: u64) -> WalConfig {
    WalConfig { segment_bytes, quota_bytes: 1 << 30, frame_bytes: 64 << 10, segments_ahead: 2, archive: false }
}

fn new_wal(segment_bytes: u64) -> Wal {
    Wal::new(SHARD, config(segment_bytes), Recovered::empty(SHARD).end)
}

fn serve(wal: &mut Wal, disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    while let Some(request) = wal.wants_segment() {
        wal.offer_segment(segment::prepare(disk, dir, request)?);
    }
    Ok(())
}

/// Writes everything that waits.
fn commit(wal: &mut Wal, disk: &dyn Disk, dir: &Path) -> io::Result<Vec<SyncedFrame>> {
    let mut frames = Vec::new();
    loop {
        serve(wal, disk, dir)?;
        match wal.next_write() {
            Some(op) => {
                assert!(is_aligned(&op.data) && op.data.len().is_multiple_of(BLOCK_BYTES));
                let result = op.segment.file.write_durable(&op.data, op.offset);
                frames.push(wal.written(op.lsn, result).map_err(io::Error::other)?);
            }
            None if wal.unsynced_bytes() == 0 => return Ok(frames),
            None => {}
        }
    }
}

fn draft<'a>(stream: StreamId, first: i64, payloads: &'a [Bytes], keys: &'a [Bytes]) -> EntryDraft<'a> {
    EntryDraft {
        stream,
        first_sequence: first,
        timestamp_unix_micros: 1_700_000_000_000_000 + first,
        schema_version: 3,
        pipeline_version: 0,
        payloads,
        keys,
        metadata: b"meta",
        session: &[],
    }
}

#[test]
fn what_is_appended_is_what_the_batches_hold_in_memory_and_spilled() -> io::Result<()> {
    let dir = tempfile::tempdir()?;
    let disk = RealDisk::default();
    let mut wal = new_wal(1 << 20);
    let stream = StreamId::generate();
    let payloads: Vec<Bytes> = (0..1000).map(|i| Bytes::from(vec![b'a' + (i % 26) as u8; i % 700])).collect();
    let key = |i: usize| if i.is_multiple_of(3) { Bytes::new() } else { Bytes::from(format!("k{i}")) };
    let keys: Vec<Bytes> = (0..1000).map(key).collect();

    assert_eq!(wal.append(&draft(stream, 1, &payloads[..100], &keys[..100])), Lsn(1));
    assert_eq!(wal.append(&draft(stream, 101, &payloads[100..101], &[])), Lsn(1));
    assert_eq!(wal.append(&draft(stream, 102, &payloads[101..], &keys[101..])), Lsn(2), "over a frame's limit alone");
    assert_eq!((wal.last_lsn(), wal.synced_lsn()), (Lsn(2), Lsn(0)));
    let frames = commit(&mut wal, &disk, dir.path())?;
    assert_eq!((wal.synced_lsn(), wal.unsynced_bytes()), (Lsn(2), 0));
    let batches: Vec<_> = frames.into_iter().flat_map(|frame| frame.batches).collect();
    assert_eq!(batches.iter().map(|batch| batch.header().count).collect::<Vec<_>>(), [100, 1, 899]);

    for mut batch in batches {
        assert!(batch.is_resident() && batch.memory_bytes() >= batch.header().entry_bytes as usize);
        for spilled in [false, true] {
            if spilled {
                batch.spill();
                assert_eq!(batch.memory_bytes(), 0);
            }
            let rows = batch.rows()?;
            let first = batch.header().first_sequence as usize - 1;
            assert_eq!((rows.count(), rows.metadata().as_ref()), (batch.header().count as usize, &b"meta"[..]));
            for index in 0..rows.count() {
                assert_eq!(rows.payload(index), payloads[first + index]);
                assert_eq!(rows.payload_bytes(index), payloads[first + index]);
                let key = if first == 100 { &b""[..] } else { &keys[first + index][..] };
                assert_eq!(rows.key(index), key);
            }
        }
    }
    Ok(())
}

#[test]
fn a_lone_record_takes_one_block_and_commits_fill_while_one_is_written() -> io::Result<()> {
    let dir = tempfile::tempdir()?;
    let disk = RealDisk::default();
    let mut wal = new_wal(1 << 20);
    let stream = StreamId::generate();
    let one = [Bytes::from_static(b"{}")];
    wal.append(&draft(stream, 1, &one, &[]));
    assert!(wal.next_write().is_none(), "no segment is at hand");
    serve(&mut wal, &disk, dir.path())?;
    let op = wal.next_write().expect("a frame and a segment are there");
    assert_eq!((op.data.len(), op.offset), (BLOCK_BYTES, 0));
    for sequence in 2..50 {
        assert_eq!(wal.append(&draft(stream, sequence, &one, &[])), Lsn(2));
        assert!(wal.next_write().is_none(), "one is under way");
    }
    let frame = wal.written(op.lsn, Ok(())).expect("it was written");
    assert_eq!((frame.lsn, frame.batches.len()), (Lsn(1), 1));
    let op = wal.next_write().expect("the next one has filled");
    assert_eq!((op.lsn, op.offset), (Lsn(2), BLOCK_BYTES as u64));
    assert_eq!(wal.written(op.lsn, Ok(())).expect("it was written").batches.len(), 48);
    Ok(())
}

#[test]
fn a_failed_write_poisons_the_log_for_good() -> io::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut wal = new_wal(1 << 20);
    serve(&mut wal, &RealDisk::default(), dir.path())?;
    let one = [Bytes::from_static(b"{}")];
    wal.append(&draft(StreamId::generate(), 1, &one, &[]));
    let op = wal.next_write().expect("a frame waits");
    let poisoned = wal.written(op.lsn, Err(io::ErrorKind::StorageFull.into())).expect_err("the write failed");
    assert!(poisoned.to_string().contains("outcome is unknown"), "{poisoned}");
    wal.append(&draft(StreamId::generate(), 1, &one, &[]));
    assert!(wal.is_poisoned() && wal.next_write().is_none() && wal.synced_lsn() == Lsn(0));
    Ok(())
}

#[test]
fn segments_roll_are_released_oldest_first_and_recycled() -> io::Result<()> {
    let dir = tempfile::tempdir()?;
    let disk = RealDisk::default();
    let segment_bytes = 4 * BLOCK_BYTES as u64;
    let mut wal = new_wal(segment_bytes);
    let stream = StreamId::generate();
    let one = [Bytes::from_static(b"{}")];
    let mut held = Vec::new();
    for sequence in 1..=16 {
        wal.append(&draft(stream, sequence, &one, &[]));
        held.extend(commit(&mut wal, &disk, dir.path())?.into_iter().flat_map(|frame| frame.batches));
    }
    assert_eq!((wal.usage().segments_active, wal.usage().used_bytes), (4, 4 * segment_bytes));
    let names = disk.list(dir.path())?;
    held.drain(4..12);
    assert!(wal.release().is_empty(), "the oldest is still held, so none is released");
    assert_eq!(wal.usage().segments_active, 4);
    held.clear();
    assert!(wal.release().is_empty(), "no synced frame says yet that they are not needed");
    assert_eq!(wal.usage().segments_active, 1, "they count as free; the newest synced frame's segment stays");
    wal.append(&draft(stream, 16, &one, &[]));
    commit(&mut wal, &disk, dir.path())?;
    let [first, second] = [0, 1].map(|at| dir.path().join(&names[at]));
    assert!(!first.exists(), "the oldest was recycled at once");
    let released = wal.release();
    assert_eq!(released.iter().map(|released| &released.path).collect::<Vec<_>>(), [&second]);
    segment::remove(&disk, &released[0])?;
    segment::remove(&disk, &released[0])?;

    let files = disk.list(dir.path())?.len();
    for sequence in 17..=24 {
        wal.append(&draft(stream, sequence, &one, &[]));
        held.extend(commit(&mut wal, &disk, dir.path())?.into_iter().flat_map(|frame| frame.batches));
    }
    assert_eq!(disk.list(dir.path())?.len(), files, "no file was made: some were recycled");
    for (batch, sequence) in held.iter_mut().zip(17..) {
        batch.spill();
        assert_eq!((batch.header().first_sequence, batch.rows()?.count()), (sequence, 1));
    }
    Ok(())
}

#[test]
fn a_frame_larger_than_a_segment_gets_a_larger_one() -> io::Result<()> {
    let dir = tempfile::tempdir()?;
    let disk = RealDisk::default();
    let mut wal = new_wal(4 * BLOCK_BYTES as u64);
    let stream = StreamId::generate();
    serve(&mut wal, &disk, dir.path())?;
    let small = [Bytes::from_static(b"{}")];
    let large = [Bytes::from(vec![b'x'; 8 << 20])];
    for (sequence, payloads) in [(1, &small), (2, &large), (3, &small), (4, &large), (5, &small)] {
        wal.append(&draft(stream, sequence, payloads, &[]));
    }
    let frames = commit(&mut wal, &disk, dir.path())?;
    let mut batches: Vec<_> = frames.into_iter().flat_map(|frame| frame.batches).collect();
    assert_eq!(batches.iter().map(|batch| batch.header().first_sequence).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    let ids: Vec<_> = batches.iter().map(|batch| batch.segment().id).collect();
    assert!(ids.is_sorted(), "ids rise along the log: {ids:?}");
    batches[3].spill();
    assert_eq!(batches[3].rows()?.payload(0), large[0]);
    drop(batches);
    assert!(wal.release().is_empty(), "no synced frame says yet that they are not needed");
    wal.append(&draft(stream, 6, &small, &[]));
    commit(&mut wal, &disk, dir.path())?;
    assert!(wal.release().iter().any(|released| released.bytes > 8 << 20), "an odd size is not kept");
    Ok(())
}

#[test]
fn batches_share_the_frames_memory() -> io::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut wal = new_wal(1 << 20);
    let payloads = [Bytes::from_static(b"[1]"), Bytes::from_static(b"[2]")];
    wal.append(&draft(StreamId::generate(), 1, &payloads, &[]));
    serve(&mut wal, &RealDisk::default(), dir.path())?;
    let op = wal.next_write().expect("a frame waits");
    let memory = op.data.as_ptr_range();
    let frame = wal.written(op.lsn, Ok(())).expect("it was written");
    let payload = frame.batches[0].rows()?.payload(1);
    assert!(memory.contains(&payload.as_ptr()), "a slice, not a copy");
    assert_eq!(
        Arc::strong_count(frame.batches[0].segment()),
        3,
        "the batch, the log and the write each hold the segment"
    );
    Ok(())
}

#[test]
fn on_a_disk_that_is_nearly_full_what_is_admitted_finds_room_without_another_segment() -> io::Result<()> {
    let mut refusals = 0;
    for seed in 0..200 {
        let (disk, dir, mut rng) = (SimDisk::new(seed), Path::new("log"), SimRng::new(seed));
        let mut wal = new_wal(256 << 10);
        disk.create_dir(dir)?;
        wal.learn_free_bytes(1 << 20);
        assert!(!wal.has_room(|| 1), "no segment is there yet");
        disk.set_free_bytes(1 << 20);
        serve(&mut wal, &disk, dir)?;
        // From now on there are no more segments.
        while wal.has_room(|| 1) {
            let payloads: Vec<Bytes> =
                (0..1 + rng.below(40)).map(|_| vec![7; rng.below(9000) as usize].into()).collect();
            let bytes = payloads.iter().map(Bytes::len).sum::<usize>() + 4 * payloads.len() + 256;
            if wal.has_room(|| bytes) {
                wal.append(&draft(StreamId::generate(), 1, &payloads, &[]));
            } else {
                refusals += 1;
            }
            if rng.one_in(3) {
                write_all(&mut wal)?;
            }
        }
        write_all(&mut wal)?;
        assert_eq!(wal.unsynced_bytes(), 0, "seed {seed}: something was admitted that found no room");
    }
    assert!(refusals > 200, "{refusals} refusals: the room was never short");
    Ok(())
}

/// Writes what finds room in the segments at hand.
fn write_all(wal: &mut Wal) -> io::Result<()> {
    while let Some(op) = wal.next_write() {
        let result = op.segment.file.write_durable(&op.data, op.offset);
        wal.written(op.lsn, result).map_err(io::Error::other)?;
    }
    Ok(())
}
