//! Recovery against every kind of damage: what comes back is a prefix of what was synced, or the damage is named. Never
//! another record, never a panic; and records are only missing from the end, where a torn write cannot be told from damage.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use ttdust_shards::{
    config::WalConfig,
    ids::{ShardId, StreamId},
    io::{
        BLOCK_BYTES, Disk,
        real::RealDisk,
        sim::{Crash, SECTOR_BYTES, SimDisk, SimRng},
    },
    wal::{
        Lsn, Wal,
        batch::RowBatch,
        entry::EntryDraft,
        inspect,
        recovery::{self, Recovered, RecoveryError},
        segment,
    },
};

const SHARD: ShardId = ShardId(0);
const DIR: &str = "/wal/0";

fn config(blocks: u64) -> WalConfig {
    WalConfig {
        segment_bytes: blocks * BLOCK_BYTES as u64,
        quota_bytes: 1 << 30,
        frame_bytes: 2 * BLOCK_BYTES,
        segments_ahead: 1,
        archive: false,
    }
}

fn payload(sequence: i64) -> Bytes {
    let len = [3, 60, 2500, 700, 4200][sequence as usize % 5];
    Bytes::from((0..len).map(|i| (i as i64 * 7 + sequence * 31) as u8 | 1).collect::<Vec<_>>())
}

fn stream() -> StreamId {
    StreamId::from_bytes([5; 16])
}

/// Appends and syncs a record a frame.
fn write(wal: &mut Wal, disk: &dyn Disk, dir: &Path, sequences: std::ops::RangeInclusive<i64>) -> Vec<RowBatch> {
    let mut batches = Vec::new();
    for sequence in sequences {
        wal.append(&EntryDraft {
            stream: stream(),
            first_sequence: sequence,
            timestamp_unix_micros: sequence,
            schema_version: 1,
            pipeline_version: 0,
            payloads: &[payload(sequence)],
            keys: &[Bytes::from(sequence.to_string())],
            metadata: b"m",
            session: &[],
        });
        while let Some(request) = wal.wants_segment() {
            wal.offer_segment(segment::prepare(disk, dir, request).expect("the disk is sound"));
        }
        let op = wal.next_write().expect("a frame and a segment are at hand");
        let result = op.segment.file.write_durable(&op.data, op.offset);
        batches.extend(wal.written(op.lsn, result).expect("the disk is sound").batches);
    }
    batches
}

/// A log of so many records, in segments of so many blocks.
fn log_of(records: i64, blocks: u64) -> SimDisk {
    let disk = SimDisk::new(1);
    let mut wal = Wal::with_epoch_salt(SHARD, config(blocks), Recovered::empty(SHARD).end, 9);
    write(&mut wal, &disk, Path::new(DIR), 1..=records);
    disk
}

fn recover(disk: &SimDisk) -> Result<Recovered, RecoveryError> {
    recovery::recover(disk, Path::new(DIR), SHARD)
}

/// The records that came back: 1 to the returned number, with the right bytes.
fn check(recovered: &Recovered) -> i64 {
    for (batch, sequence) in recovered.batches.iter().zip(1..) {
        let rows = batch.rows().expect("what was recovered can be read");
        assert_eq!((batch.header().first_sequence, rows.count()), (sequence, 1));
        assert_eq!(rows.payload(0), payload(sequence));
        assert_eq!(rows.key(0), sequence.to_string().as_bytes());
    }
    recovered.batches.len() as i64
}

fn segments(disk: &SimDisk) -> Vec<PathBuf> {
    let names = disk.list(Path::new(DIR)).expect("the disk is sound");
    names.iter().map(|name| Path::new(DIR).join(name)).collect()
}

/// Where the frames stand: path, offset, bytes.
fn frames(disk: &SimDisk) -> Vec<(PathBuf, u64, usize)> {
    let mut frames = Vec::new();
    let report = inspect::inspect(disk, Path::new(DIR), None, &mut |frame| {
        let name = segment::file_name(frame.segment, Some(frame.epoch));
        frames.push((Path::new(DIR).join(name), frame.offset, frame.bytes));
    });
    assert!(report.expect("the disk is sound").damage.is_empty());
    frames
}

#[test]
fn a_sound_log_comes_back_whole_and_goes_on() {
    let disk = log_of(12, 6);
    for round in 0..3 {
        let recovered = recover(&disk).expect("nothing is damaged");
        let last = check(&recovered);
        assert_eq!((last, recovered.end.last_lsn), (12 + round * 4, Lsn(12 + round as u64 * 4)));
        assert!(recovered.truncated.is_none());
        let mut wal = Wal::new(SHARD, config(6), recovered.end);
        assert_eq!(write(&mut wal, &disk, Path::new(DIR), last + 1..=last + 4).len(), 4);
        disk.crash(Crash::Power);
        disk.restart();
    }
}

#[test]
fn a_log_on_a_real_disk_comes_back_whole_and_goes_on() {
    let dir = tempfile::tempdir().expect("a folder for the test");
    let (disk, dir) = (RealDisk::default(), dir.path().join("0"));
    disk.create_dir(&dir).expect("the disk is sound");
    for round in 0..4 {
        let recovered = recovery::recover(&disk, &dir, SHARD).expect("nothing is damaged");
        let last = check(&recovered);
        assert_eq!(last, round * 9);
        let mut wal = Wal::new(SHARD, config(6), recovered.end);
        write(&mut wal, &disk, &dir, last + 1..=last + 9);
    }
}

#[test]
fn an_empty_or_missing_folder_is_an_empty_log() {
    let recovered = recover(&SimDisk::new(3)).expect("there is nothing to be damaged");
    assert!(recovered.batches.is_empty() && recovered.end.last_lsn == Lsn(0));
    let dir = tempfile::tempdir().expect("a folder for the test");
    let recovered = recovery::recover(&RealDisk::default(), &dir.path().join("none"), SHARD);
    assert!(recovered.expect("it is empty").batches.is_empty());
}

#[test]
fn a_file_cut_at_any_byte_is_a_prefix_or_named() {
    let disk = log_of(7, 5);
    for path in segments(&disk) {
        let whole = disk.contents(&path).expect("it was listed");
        for len in 0..whole.len() {
            disk.set_contents(&path, whole[..len].to_vec());
            match recover(&disk) {
                Ok(recovered) => {
                    let last = check(&recovered);
                    assert_eq!(last, 7, "{path:?} cut at {len}: records are gone and nothing was said");
                }
                Err(error) => assert!(matches!(error, RecoveryError::Damaged { .. }), "{error}"),
            }
            assert_eq!(recover(&disk).is_ok(), inspect::verify(&disk, Path::new(DIR), SHARD).is_ok());
        }
        disk.set_contents(&path, whole);
    }
}

/// The one case that cannot be told from a torn write: damage in the last frame. It is cut off and told of.
fn check_damage(disk: &SimDisk, what: &str, in_last_frame: bool) {
    match recover(disk) {
        Ok(recovered) if in_last_frame => {
            let last = check(&recovered);
            assert!(last == 7 || last == 6, "{what}: {last}");
        }
        Ok(recovered) => assert_eq!(check(&recovered), 7, "{what}: records are gone and nothing was said"),
        Err(error) => assert!(matches!(error, RecoveryError::Damaged { .. }), "{what}: {error}"),
    }
}

#[test]
fn every_flipped_bit_is_a_prefix_or_named() {
    let disk = log_of(7, 5);
    let frames = frames(&disk);
    let (last_path, last_offset, last_bytes) = frames.last().expect("there are seven").clone();
    for path in segments(&disk) {
        let whole = disk.contents(&path).expect("it was listed");
        for byte in 0..whole.len() {
            let last_frame = last_offset as usize..last_offset as usize + last_bytes;
            let in_last_frame = path == last_path && last_frame.contains(&byte);
            for bit in 0..8 {
                let mut flipped = whole.clone();
                flipped[byte] ^= 1 << bit;
                disk.set_contents(&path, flipped);
                check_damage(&disk, &format!("{path:?} flipped at {byte}, bit {bit}"), in_last_frame);
            }
        }
        disk.set_contents(&path, whole);
    }
}

#[test]
fn zeroed_and_swapped_sectors_are_a_prefix_or_named() {
    let disk = log_of(7, 5);
    let frames = frames(&disk);
    let (last_path, last_offset, last_bytes) = frames.last().expect("there are seven").clone();
    for path in segments(&disk) {
        let whole = disk.contents(&path).expect("it was listed");
        let sectors = whole.len() / SECTOR_BYTES;
        let touches_last = |sector: usize| {
            let at = (sector * SECTOR_BYTES) as u64;
            path == last_path && (last_offset..last_offset + last_bytes as u64).contains(&at)
        };
        for first in 0..sectors {
            let mut zeroed = whole.clone();
            zeroed[first * SECTOR_BYTES..(first + 1) * SECTOR_BYTES].fill(0);
            disk.set_contents(&path, zeroed);
            check_damage(&disk, &format!("{path:?} sector {first} zeroed"), touches_last(first));
            for second in (first + 1..sectors).step_by(3) {
                let mut swapped = whole.clone();
                let (left, right) = swapped.split_at_mut(second * SECTOR_BYTES);
                left[first * SECTOR_BYTES..(first + 1) * SECTOR_BYTES].swap_with_slice(&mut right[..SECTOR_BYTES]);
                disk.set_contents(&path, swapped);
                let in_last = touches_last(first) || touches_last(second);
                check_damage(&disk, &format!("{path:?} sectors {first} and {second} swapped"), in_last);
            }
        }
        disk.set_contents(&path, whole);
    }
}

#[test]
fn a_missing_or_swapped_segment_in_the_middle_is_refused() {
    let disk = log_of(14, 5);
    let all = segments(&disk);
    let used: Vec<_> = all.iter().filter(|path| frames(&disk).iter().any(|(used, ..)| used == *path)).collect();
    assert!(used.len() >= 4, "{used:?}");
    for path in &used[1..used.len() - 1] {
        let whole = disk.contents(path).expect("it was listed");
        disk.lose(path);
        let error = recover(&disk).expect_err("a segment is missing");
        assert!(matches!(error, RecoveryError::Damaged { .. }), "{error}");
        disk.set_contents(path, whole);
    }
    let [second, third] = [1, 2].map(|at| disk.contents(used[at]).expect("it was listed"));
    disk.set_contents(used[1], third);
    disk.set_contents(used[2], second);
    assert!(matches!(recover(&disk), Err(RecoveryError::Damaged { .. })));
}

#[test]
fn a_log_of_another_shard_is_refused_not_emptied() {
    let disk = log_of(3, 5);
    let error = recovery::recover(&disk, Path::new(DIR), ShardId(1)).expect_err("another shard wrote it");
    assert!(error.to_string().contains("shard 0"), "{error}");
    assert_eq!(check(&recover(&disk).expect("nothing was changed")), 3);
}

#[test]
fn a_stale_recycled_segment_holds_nothing() {
    let disk = log_of(14, 5);
    let used = frames(&disk);
    let whole = check(&recover(&disk).expect("nothing is damaged"));
    // As a crash right after the recycling leaves it: the name of a new segment, the frames of an old one.
    for (path, ..) in &used {
        let stale = disk.contents(path).expect("it was listed");
        let new = Path::new(DIR).join(segment::file_name(99, Some(99 << 32)));
        disk.set_contents(&new, stale);
        let recovered = recover(&disk).expect("stale frames are no damage");
        assert_eq!((check(&recovered), recovered.end.last_segment), (whole, 99));
        let mut wal = Wal::new(SHARD, config(5), recovered.end);
        let request = wal.wants_segment().expect("a new log needs one");
        assert!(request.id > 99, "an id is never used twice");
        disk.lose(&new);
    }
}

/// What a client can make: a whole frame, in all but the half of the epoch that nobody is told.
fn forged(segment: u64, log_start: u64, version: u8, shard: u16) -> Vec<u8> {
    let mut frame = vec![0; 4096];
    frame[0..4].copy_from_slice(b"TTDw");
    frame[4] = version;
    frame[12] = 1;
    frame[16..18].copy_from_slice(&shard.to_le_bytes());
    frame[24..32].copy_from_slice(&segment.to_le_bytes());
    frame[32..40].copy_from_slice(&(segment << 32 | 0x41).to_le_bytes());
    frame[40..48].copy_from_slice(&0x7f7f_7f7f_u64.to_le_bytes());
    frame[48..56].copy_from_slice(&log_start.to_le_bytes());
    let checksum = crc32c::crc32c(&frame[..60]);
    frame[60..64].copy_from_slice(&checksum.to_le_bytes());
    frame
}

#[test]
fn a_frame_that_a_client_made_and_that_a_recycled_file_still_holds_is_none() {
    let disk = log_of(14, 5);
    let whole = check(&recover(&disk).expect("nothing is damaged"));
    let new = Path::new(DIR).join(segment::file_name(99, Some(99 << 32 | 0x1234_5678)));
    for (log_start, version, shard) in [(0x7f7f_7f7f_7f7f_7f7f, 1, 0), (99, 1, 0), (1, 1, 0), (1, 9, 0), (1, 1, 7)] {
        // Also one that seems to reach past the end of its file.
        for cut in [2, 4] {
            let mut file = vec![0x20; 4096];
            (0..3).for_each(|_| file.extend(forged(99, log_start, version, shard)));
            file.truncate(cut * 4096);
            if cut == 2 {
                file[4096 + 8..4096 + 12].copy_from_slice(&8192_u32.to_le_bytes());
            }
            disk.set_contents(&new, file);
            let recovered = recover(&disk).expect("it is no damage");
            assert_eq!((check(&recovered), recovered.end.last_segment), (whole, 99));
            assert_eq!(recovered.truncated, None);
            disk.lose(&new);
        }
    }
    // In a file with the name that the first version gave, nothing tells it from a frame of ours.
    let file = [vec![0x20; 4096], forged(99, 1, 1, 0)].concat();
    disk.set_contents(&Path::new(DIR).join(segment::file_name(99, None)), file);
    assert!(matches!(recover(&disk), Err(RecoveryError::Damaged { .. })), "refused, so nothing is lost");
}

#[test]
fn a_write_torn_at_any_sectors_is_cut_off_and_never_comes_back() {
    for seed in 0..300 {
        let mut rng = SimRng::new(seed);
        let disk = SimDisk::new(seed);
        let mut wal = Wal::with_epoch_salt(SHARD, config(5), Recovered::empty(SHARD).end, 9);
        write(&mut wal, &disk, Path::new(DIR), 1..=4);
        while let Some(request) = wal.wants_segment() {
            wal.offer_segment(segment::prepare(&disk, Path::new(DIR), request).expect("the disk is sound"));
        }
        let lost = [payload(4), payload(9)];
        wal.append(&EntryDraft {
            stream: stream(),
            first_sequence: 5,
            timestamp_unix_micros: 0,
            schema_version: 1,
            pipeline_version: 0,
            payloads: &lost,
            keys: &[],
            metadata: b"",
            session: &[],
        });
        let op = wal.next_write().expect("a frame waits");
        disk.crash_after(2 + rng.below(2), Crash::Power);
        op.segment.file.write_durable(&op.data, op.offset).expect_err("the power went");
        disk.restart();
        let recovered = recover(&disk).expect("a torn tail is no damage");
        if recovered.batches.len() == 5 {
            continue;
        }
        assert_eq!((check(&recovered), recovered.end.last_lsn), (4, Lsn(4)));
        let mut wal = Wal::new(SHARD, config(5), recovered.end);
        write(&mut wal, &disk, Path::new(DIR), 5..=6);
        // The torn frame becomes whole after all, late: it is not taken for damage, nor for a record.
        let node = disk.node(&op.segment.path).expect("it holds frames");
        disk.write_late(node, &op.data, op.offset);
        assert_eq!(check(&recover(&disk).expect("the later run counts")), 6, "seed {seed}");
    }
}

#[test]
fn recovery_may_be_cut_short_at_every_step() {
    for crash in [Crash::Power, Crash::Kill] {
        for step in 1.. {
            let disk = log_of(9, 5);
            disk.set_contents(&Path::new(DIR).join("00000000000000ff.tmp"), vec![1; 100]);
            disk.crash_after(step, crash);
            let cut = recover(&disk).is_err();
            disk.restart();
            assert_eq!(check(&recover(&disk).expect("it is as sound as before")), 9, "step {step}");
            assert!(segments(&disk).iter().all(|path| path.extension().is_some_and(|e| e == "wal")));
            if !cut {
                break;
            }
        }
    }
}

#[test]
fn repair_gives_up_what_is_damaged_and_destroys_nothing() {
    let sound = log_of(14, 5);
    let frames = frames(&sound);
    assert_eq!(inspect::repair(&sound, Path::new(DIR), SHARD).expect("the disk is sound"), None);
    for (damaged, (path, offset, _)) in frames.iter().enumerate().take(frames.len() - 1) {
        let disk = log_of(14, 5);
        let mut bytes = disk.contents(path).expect("it was listed");
        bytes[*offset as usize + 70] ^= 4;
        disk.set_contents(path, bytes.clone());
        let error = inspect::verify(&disk, Path::new(DIR), SHARD).expect_err("it is damaged");
        assert!(
            matches!(&error, RecoveryError::Damaged { path: named, offset: at, .. } if named == path && at == offset)
        );
        assert!(recover(&disk).is_err());
        assert_eq!(disk.contents(path).as_ref(), Some(&bytes), "verify and recovery change nothing");

        let repaired =
            inspect::repair(&disk, Path::new(DIR), SHARD).expect("the disk is sound").expect("it was damaged");
        assert_eq!(
            (repaired.last_lsn, repaired.frames_lost),
            (Lsn(damaged as u64), 13 - damaged as u64),
            "{repaired:?}"
        );
        assert!(repaired.aside.iter().any(|aside| disk.contents(aside).as_ref() == Some(&bytes)), "a copy is kept");
        assert_eq!(repaired.records_lost, repaired.frames_lost);
        let recovered = recover(&disk).expect("it was repaired");
        let last = check(&recovered);
        assert_eq!(last, damaged as i64);
        let mut wal = Wal::new(SHARD, config(5), recovered.end);
        write(&mut wal, &disk, Path::new(DIR), last + 1..=last + 5);
        assert_eq!(check(&recover(&disk).expect("it goes on")), last + 5);
    }
}

#[test]
fn repair_of_a_cut_file_gives_it_its_length_back() {
    let disk = log_of(14, 5);
    let (path, offset, _) = frames(&disk)[5].clone();
    assert!(offset > 0, "something of the segment is kept");
    let whole = disk.contents(&path).expect("it was listed");
    disk.set_contents(&path, whole[..offset as usize].to_vec());
    let repaired = inspect::repair(&disk, Path::new(DIR), SHARD).expect("the disk is sound").expect("it was cut");
    assert_eq!(repaired.last_lsn, Lsn(5));
    assert_eq!(disk.contents(&path).map(|bytes| bytes.len()), Some(whole.len()));
    assert_eq!(check(&recover(&disk).expect("it was repaired")), 5);
}

#[test]
fn inspect_lists_a_segment_or_a_folder() {
    let disk = log_of(14, 5);
    let mut listed = Vec::new();
    let report = inspect::inspect(&disk, Path::new(DIR), None, &mut |frame| listed.push(frame.clone()));
    let report = report.expect("the disk is sound");
    assert_eq!((report.frames, report.records, report.last_lsn), (14, 14, Lsn(14)));
    assert_eq!(listed.iter().map(|frame| frame.lsn.0).collect::<Vec<_>>(), (1..=14).collect::<Vec<_>>());
    assert!(listed.iter().all(|frame| frame.streams.contains(&stream()) && frame.entries == 1));
    let (path, ..) = frames(&disk)[5].clone();
    let one = inspect::inspect(&disk, &path, None, &mut |_| {}).expect("the disk is sound");
    assert_eq!(one.segments.len(), 1);
    assert!(one.frames > 0 && one.frames < 14 && one.damage.is_empty());
}

#[test]
fn any_bytes_as_a_segment_are_survived() {
    let mut rng = SimRng::new(7);
    let template = log_of(7, 5);
    let path = segments(&template)[0].clone();
    let whole = template.contents(&path).expect("it was listed");
    for _ in 0..400 {
        let disk = SimDisk::new(1);
        let mut bytes = whole.clone();
        for _ in 0..1 + rng.below(40) {
            let at = rng.below(bytes.len() as u64) as usize;
            // Mostly into the headers, where the lengths are.
            let at = if rng.one_in(3) { at } else { at / BLOCK_BYTES * BLOCK_BYTES + at % 160 };
            bytes[at] = rng.next_u64() as u8;
        }
        disk.set_contents(&path, bytes);
        if let Ok(recovered) = recover(&disk) {
            check(&recovered);
        }
        inspect::inspect(&disk, Path::new(DIR), None, &mut |_| {}).expect("inspect reports damage, and goes on");
    }
}
