//! The log's reader: whatever a file holds, it is read, refused with a place, or repaired; never a panic, and of a log that was
//! damaged without a forged checksum what comes back is a beginning of what was written.
//!
//! The first byte of an input chooses: raw bytes as a segment, frames that are whole but for what they say, one entry, or
//! changes of a sound log.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use ttdust_shards::{
    config::WalConfig,
    ids::{ShardId, StreamId},
    io::{BLOCK_BYTES, Disk as _, sim::SimDisk},
    wal::{
        Wal,
        entry::{self, EntryDraft, Layout},
        frame, inspect,
        recovery::{self, Recovered},
        segment,
    },
};

const SHARD: ShardId = ShardId(0);
const DIR: &str = "/wal/0";
const EPOCH: u64 = 1 << 32 | 9;
const SEGMENT_BLOCKS: usize = 4;
/// Records of the sound log.
const RECORDS: i64 = 10;
/// Where frames and entries have their checksum, and where it ends.
const CHECKSUM: std::ops::Range<usize> = 60..64;

/// A chosen form, and what it is filled with.
pub fn wal(input: &[u8]) {
    let Some((&form, rest)) = input.split_first() else { return };
    match form % 4 {
        0 => {
            let disk = SimDisk::new(1);
            disk.set_contents(&path(1), whole_blocks(rest.to_vec()));
            judge(&disk);
        }
        1 => judge(&framed(rest)),
        2 => one_entry(rest),
        _ => damaged(rest),
    }
}

fn path(id: u64) -> PathBuf {
    Path::new(DIR).join(segment::file_name(id, Some(EPOCH)))
}

fn whole_blocks(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES), 0);
    bytes
}

fn seal(bytes: &mut [u8]) -> u32 {
    let sum = crc32c::crc32c_append(crc32c::crc32c(&bytes[..CHECKSUM.start]), &bytes[CHECKSUM.end..]);
    bytes[CHECKSUM].copy_from_slice(&sum.to_le_bytes());
    sum
}

/// What must hold of any log.
fn judge(disk: &SimDisk) {
    let dir = Path::new(DIR);
    let mut frames = 0;
    let listed = inspect::inspect(disk, dir, None, &mut |_| frames += 1).expect("the disk is sound");
    assert_eq!(listed.frames, frames);
    let verified = inspect::verify(disk, dir, SHARD);
    let recovered = recovery::recover(disk, dir, SHARD);
    assert_eq!(verified.is_ok(), recovered.is_ok(), "{verified:?} {recovered:?}");
    let recovered = match recovered {
        Ok(recovered) => recovered,
        Err(_) => {
            inspect::repair(disk, dir, SHARD).expect("the disk is sound").expect("there is something to repair");
            recovery::recover(disk, dir, SHARD).expect("a repaired log is good")
        }
    };
    let records = read(&recovered);
    let again = recovery::recover(disk, dir, SHARD).expect("what was recovered is good");
    assert_eq!(read(&again), records, "and stays what it is");
}

/// Every record: its sequence number and payload.
fn read(recovered: &Recovered) -> Vec<(i64, Bytes)> {
    let mut records = Vec::new();
    for batch in &recovered.batches {
        let rows = batch.rows().expect("what was recovered can be read");
        assert_eq!(rows.count(), batch.header().count as usize);
        for index in 0..rows.count() {
            let _ = rows.key(index);
            records.push((batch.header().first_sequence + index as i64, rows.payload(index)));
        }
        let _ = (rows.session(), rows.metadata());
    }
    records
}

/// Segments of frames with right checksums, whose headers and entries are the input's.
fn framed(mut rest: &[u8]) -> SimDisk {
    let mut files: [Vec<u8>; 3] = Default::default();
    let mut previous = 0u32;
    while let Some((head, body)) = rest.split_at_checked(14) {
        let length = usize::from(u16::from_le_bytes([head[0], head[1]])) % 3000;
        let (body, after) = body.split_at((length & !7).min(body.len() & !7));
        rest = if after.len() < rest.len() { after } else { &[] };
        let wide = |byte: u8| if byte == 255 { u64::MAX } else { u64::from(byte) };
        let mut bytes = vec![0; frame::HEADER_BYTES];
        bytes.extend_from_slice(body);
        if body.len() >= entry::HEADER_BYTES && head[12] & 1 == 0 {
            // One entry that fills the frame.
            let entry = &mut bytes[frame::HEADER_BYTES..];
            entry[..4].copy_from_slice(&(body.len() as u32).to_le_bytes());
            seal(entry);
        }
        bytes[..4].copy_from_slice(b"TTDw");
        bytes[4..6].copy_from_slice(&(u16::from(head[2]) % 5).to_le_bytes());
        let claimed = if head[12] & 2 == 0 { body.len() as u32 } else { u32::from_le_bytes([head[3]; 4]) };
        bytes[8..12].copy_from_slice(&claimed.to_le_bytes());
        bytes[12..16].copy_from_slice(&u32::from(head[4]).to_le_bytes());
        bytes[16..18].copy_from_slice(&u16::from(head[5]).to_le_bytes());
        let before = if head[12] & 4 == 0 { previous } else { u32::from(head[6]) };
        bytes[20..24].copy_from_slice(&before.to_le_bytes());
        let file = usize::from(head[7] % 3);
        bytes[24..32].copy_from_slice(&(file as u64 + 1 + u64::from(head[7] / 200)).to_le_bytes());
        bytes[32..40].copy_from_slice(&EPOCH.wrapping_add(wide(head[8]) << 32).to_le_bytes());
        bytes[40..48].copy_from_slice(&wide(head[9]).to_le_bytes());
        bytes[48..56].copy_from_slice(&wide(head[10]).to_le_bytes());
        bytes[56..60].copy_from_slice(&u32::from(head[11]).to_le_bytes());
        previous = seal(&mut bytes);
        if files[file].len() < 16 * BLOCK_BYTES {
            files[file].extend_from_slice(&whole_blocks(bytes));
        }
    }
    let disk = SimDisk::new(1);
    for (file, bytes) in files.into_iter().enumerate().filter(|(_, bytes)| !bytes.is_empty()) {
        disk.set_contents(&path(file as u64 + 1), bytes);
    }
    disk
}

fn one_entry(bytes: &[u8]) {
    let plain = Layout::decode(bytes);
    let checked = Layout::decode_checked(bytes);
    assert!(checked.is_err() || checked == plain);
    if let Ok(layout) = plain {
        let mut whole = bytes[..layout.header.entry_bytes as usize].to_vec();
        seal(&mut whole);
        assert_eq!(Layout::decode_checked(&whole), Ok(layout), "the checksum alone was missing");
    }
}

fn payload(sequence: i64) -> Bytes {
    let length = [3, 60, 2500, 700, 4200][sequence as usize % 5];
    Bytes::from((0..length).map(|i| (i as i64 * 7 + sequence * 31) as u8 | 1).collect::<Vec<_>>())
}

/// A log of a record a frame.
fn sound() -> SimDisk {
    let (disk, dir) = (SimDisk::new(1), Path::new(DIR));
    let config = WalConfig {
        segment_bytes: (SEGMENT_BLOCKS * BLOCK_BYTES) as u64,
        quota_bytes: 1 << 30,
        frame_bytes: 2 * BLOCK_BYTES,
        segments_ahead: 1,
        archive: false,
    };
    let mut wal = Wal::with_epoch_salt(SHARD, config, Recovered::empty(SHARD).end, 9);
    for sequence in 1..=RECORDS {
        wal.append(&EntryDraft {
            stream: StreamId::from_bytes([5; 16]),
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
            wal.offer_segment(segment::prepare(&disk, dir, request).expect("the disk is sound"));
        }
        let op = wal.next_write().expect("a frame and a segment are at hand");
        let result = op.segment.file.write_durable(&op.data, op.offset);
        wal.written(op.lsn, result).expect("the disk is sound");
    }
    disk
}

/// Bytes of a sound log are changed, but no checksum of a frame: to find one by chance takes billions of inputs.
fn damaged(edits: &[u8]) {
    let (disk, dir) = (sound(), Path::new(DIR));
    let mut names = disk.list(dir).expect("the disk is sound");
    names.sort();
    for edit in edits.chunks_exact(4) {
        let path = dir.join(&names[usize::from(edit[0]) % names.len()]);
        let mut bytes = disk.contents(&path).expect("it is there");
        let at = usize::from(u16::from_le_bytes([edit[1], edit[2]])) % bytes.len();
        if !CHECKSUM.contains(&(at % BLOCK_BYTES)) {
            bytes[at] ^= edit[3];
            disk.set_contents(&path, bytes);
        }
    }
    if let Ok(recovered) = recovery::recover(&disk, dir, SHARD) {
        for ((sequence, found), expected) in read(&recovered).iter().zip(1..) {
            assert_eq!((*sequence, found), (expected, &payload(expected)), "a beginning of what was written");
        }
    }
    judge(&disk);
}
