//! Encode and decode of a frame: a header, entries, zeros up to a multiple of 4096.
//!
//! Little endian. Header of 64 bytes: u32 magic · u16 format version · u16 zero · u32 body bytes (the entries, without the
//! zeros) · u32 entries · u16 shard · u16 zero · u32 checksum of the previous frame (0: the first) · u64 segment id · u64 epoch
//! · u64 LSN · u64 log start (the oldest segment still needed when the frame was sealed) · u32 blocks of the segment's file
//! · u32 CRC32C of the 60 bytes before it and the body.
//!
//! The magic is not zero, so zeros never decode. The segment id tells a frame from the stale ones of a recycled file. The
//! epoch is drawn anew by every run of a log; all frames of a segment have the same, which the segment's name tells: see
//! [`super::segment`]. A later format keeps magic, version, segment id and epoch where they are.

use super::Lsn;
use crate::{ids::ShardId, io::BLOCK_BYTES};

/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 64;

/// The largest frame, in bytes: bounds what a reader allocates.
pub const MAX_FRAME_BYTES: usize = 32 << 20;

/// The format version that is written: since 2 an entry may have a writer's session, since 3 a pipeline's version.
pub const FORMAT_VERSION: u16 = 3;
/// The oldest that is read.
const OLDEST_VERSION: u16 = 1;

const MAGIC: u32 = u32::from_le_bytes(*b"TTDw");
const CHECKSUM_AT: usize = 60;

/// What a frame's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// Bytes of the entries.
    pub body_bytes: u32,
    /// How many entries.
    pub entries: u32,
    /// The shard that wrote it.
    pub shard: ShardId,
    /// The checksum of the frame before it in the log; 0: none.
    pub previous_checksum: u32,
    /// The segment it was written to.
    pub segment: u64,
    /// The run of the log that wrote it: the id of its first segment in the upper half, a random number in the lower.
    pub epoch: u64,
    /// Its position.
    pub lsn: Lsn,
    /// The oldest segment that was still needed.
    pub log_start: u64,
    /// The length of the segment's file, in blocks: a file that is shorter was cut.
    pub segment_blocks: u32,
    /// Its checksum. Ignored by [`FrameHeader::seal`].
    pub checksum: u32,
}

/// Why bytes are not a frame of the wanted segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// No frame begins here: no magic.
    #[error("no frame begins here")]
    Absent,
    /// A frame of another segment, left over from before the file was recycled, or what a client made to look like one.
    #[error("a frame of segment {0:016x}, or what looks like one, stands here")]
    Stale(u64),
    /// The header's length is out of bounds, or a reserved field is not zero.
    #[error("the frame's header is not whole")]
    Header,
    /// The frame is longer than what is left of the file.
    #[error("the frame is cut off by the end of the file")]
    Short,
    /// The checksum does not match.
    #[error("the frame's checksum is wrong")]
    Checksum,
    /// A whole frame of a format that this program does not know.
    #[error("the frame has format version {0}, this program knows up to {FORMAT_VERSION}: use a newer program")]
    Version(u16),
    /// A whole frame of another shard.
    #[error("the frame was written by shard {0}: the file is in the wrong folder")]
    Shard(ShardId),
}

impl FrameError {
    /// Whether a frame of the wanted segment seems to have begun here: torn, damaged or foreign.
    pub(super) fn is_suspect(self) -> bool {
        !matches!(self, Self::Absent | Self::Stale(_))
    }

    /// Whether it cannot come of a torn write: it must not be passed over. (A torn write leaves old or new sectors, and a
    /// header is in one sector; a new header's frame fits into the file.)
    pub(super) fn is_refusal(self) -> bool {
        matches!(self, Self::Version(_) | Self::Shard(_) | Self::Short)
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("a slice of 2"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("a slice of 4"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("a slice of 8"))
}

impl FrameHeader {
    /// Bytes of header and entries.
    #[must_use]
    pub fn used_bytes(&self) -> usize {
        HEADER_BYTES + self.body_bytes as usize
    }

    /// Bytes on disk: whole blocks.
    #[must_use]
    pub fn padded_bytes(&self) -> usize {
        self.used_bytes().next_multiple_of(BLOCK_BYTES)
    }

    /// Writes the header into the first bytes of `frame`, whose body is in place, and returns the frame's checksum.
    pub(super) fn seal(&self, frame: &mut [u8]) -> u32 {
        let used = self.used_bytes();
        assert!(used <= frame.len() && frame.len() <= MAX_FRAME_BYTES && frame.len().is_multiple_of(BLOCK_BYTES));
        let header = &mut frame[..HEADER_BYTES];
        header.fill(0);
        header[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        header[4..6].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        header[8..12].copy_from_slice(&self.body_bytes.to_le_bytes());
        header[12..16].copy_from_slice(&self.entries.to_le_bytes());
        header[16..18].copy_from_slice(&self.shard.0.to_le_bytes());
        header[20..24].copy_from_slice(&self.previous_checksum.to_le_bytes());
        header[24..32].copy_from_slice(&self.segment.to_le_bytes());
        header[32..40].copy_from_slice(&self.epoch.to_le_bytes());
        header[40..48].copy_from_slice(&self.lsn.0.to_le_bytes());
        header[48..56].copy_from_slice(&self.log_start.to_le_bytes());
        header[56..60].copy_from_slice(&self.segment_blocks.to_le_bytes());
        let checksum = checksum(&frame[..used]);
        frame[CHECKSUM_AT..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
        checksum
    }

    /// The header that `block` (at least [`HEADER_BYTES`]) begins with, if it may be of `segment`. Nothing is checked that
    /// needs the body: see [`FrameHeader::verify`]. The length is within bounds.
    ///
    /// # Errors
    /// No such header is here.
    pub(super) fn peek(block: &[u8], segment: u64) -> Result<Self, FrameError> {
        if u32_at(block, 0) != MAGIC {
            return Err(FrameError::Absent);
        }
        let header = Self {
            body_bytes: u32_at(block, 8),
            entries: u32_at(block, 12),
            shard: ShardId(u16_at(block, 16)),
            previous_checksum: u32_at(block, 20),
            segment: u64_at(block, 24),
            epoch: u64_at(block, 32),
            lsn: Lsn(u64_at(block, 40)),
            log_start: u64_at(block, 48),
            segment_blocks: u32_at(block, 56),
            checksum: u32_at(block, CHECKSUM_AT),
        };
        if header.segment != segment {
            return Err(FrameError::Stale(header.segment));
        }
        if header.body_bytes as usize > MAX_FRAME_BYTES - HEADER_BYTES {
            return Err(FrameError::Header);
        }
        Ok(header)
    }

    /// Whether it can stand in a segment whose frames bear `epoch` (`None`: any).
    pub(super) fn is_of(&self, epoch: Option<u64>) -> bool {
        epoch.is_none_or(|epoch| epoch == self.epoch)
    }

    /// Checks the rest of a header that was peeked at, now that the whole frame is at hand.
    ///
    /// # Errors
    /// The frame is not whole, or not for this program or `shard`, or not of the segment's `epoch`.
    pub(super) fn verify(&self, frame: &[u8], shard: ShardId, epoch: Option<u64>) -> Result<(), FrameError> {
        let used = frame.get(..self.used_bytes()).ok_or(FrameError::Short)?;
        if checksum(used) != self.checksum {
            return Err(FrameError::Checksum);
        }
        // Before anything is made of what it says: somebody wrote it, but it need not have been us.
        if !self.is_of(epoch) {
            return Err(FrameError::Stale(self.segment));
        }
        // From here on these are the bytes that somebody wrote.
        match u16_at(used, 4) {
            OLDEST_VERSION..=FORMAT_VERSION => {}
            version => return Err(FrameError::Version(version)),
        }
        if self.shard != shard {
            return Err(FrameError::Shard(self.shard));
        }
        // No log comes to the last position: the next one would have none.
        let is_no_place = [Lsn(0), Lsn(u64::MAX)].contains(&self.lsn);
        let says_nothing = is_no_place || self.entries == 0 || self.log_start > self.segment;
        if u16_at(used, 6) != 0 || u16_at(used, 18) != 0 || says_nothing {
            return Err(FrameError::Header);
        }
        Ok(())
    }
}

fn checksum(used: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&used[..CHECKSUM_AT]), &used[HEADER_BYTES..])
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: Option<u64> = Some(1 << 32 | 77);

    fn header() -> FrameHeader {
        FrameHeader {
            body_bytes: 5000,
            entries: 2,
            shard: ShardId(3),
            previous_checksum: 0xdead_beef,
            segment: 9,
            epoch: 1 << 32 | 77,
            lsn: Lsn(41),
            log_start: 4,
            segment_blocks: 7,
            checksum: 0,
        }
    }

    fn sealed() -> Vec<u8> {
        let mut frame = vec![0; header().padded_bytes()];
        frame[HEADER_BYTES..header().used_bytes()].fill(0x5a);
        header().seal(&mut frame);
        frame
    }

    #[test]
    fn a_frame_reads_back_as_it_was_sealed() -> Result<(), FrameError> {
        let frame = sealed();
        let read = FrameHeader::peek(&frame, 9)?;
        read.verify(&frame, ShardId(3), EPOCH)?;
        assert_eq!(FrameHeader { checksum: 0, ..read }, header());
        assert_eq!(frame.len(), 8192);
        Ok(())
    }

    #[test]
    fn what_is_not_this_segments_frame_is_told_apart() -> Result<(), FrameError> {
        let frame = sealed();
        assert_eq!(FrameHeader::peek(&[0; HEADER_BYTES], 0), Err(FrameError::Absent));
        assert_eq!(FrameHeader::peek(&frame, 8), Err(FrameError::Stale(9)));
        let read = FrameHeader::peek(&frame, 9)?;
        assert_eq!(read.verify(&frame, ShardId(4), None), Err(FrameError::Shard(ShardId(3))));
        assert_eq!(read.verify(&frame[..4096], ShardId(3), EPOCH), Err(FrameError::Short));
        assert_eq!(read.verify(&frame, ShardId(4), Some(1 << 32 | 78)), Err(FrameError::Stale(9)));

        let mut newer = frame.clone();
        newer[4] = 4;
        let checksum = checksum(&newer[..header().used_bytes()]);
        newer[CHECKSUM_AT..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(FrameHeader::peek(&newer, 9)?.verify(&newer, ShardId(3), EPOCH), Err(FrameError::Version(4)));

        for version in [1, 2] {
            let mut older = frame.clone();
            older[4] = version;
            let checksum = super::checksum(&older[..header().used_bytes()]);
            older[CHECKSUM_AT..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
            let read = FrameHeader::peek(&older, 9)?.verify(&older, ShardId(3), EPOCH);
            assert_eq!(read, Ok(()), "earlier versions are read");
        }

        let mut long = frame;
        long[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(FrameHeader::peek(&long, 9), Err(FrameError::Header), "bounded before anything is allocated");
        Ok(())
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let frame = sealed();
        for bit in 0..header().used_bytes() * 8 {
            let mut flipped = frame.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let read = FrameHeader::peek(&flipped, 9).and_then(|h| h.verify(&flipped, ShardId(3), EPOCH));
            assert!(read.is_err(), "bit {bit}");
        }
    }
}
