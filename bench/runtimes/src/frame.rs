//! The memory that a frame of the log is built in: aligned for `O_DIRECT`, of one size.

/// What `O_DIRECT` wants memory, places and lengths to be multiples of.
pub const BLOCK_BYTES: usize = 4096;
/// The largest frame. The closed loop of the load has less than this in flight.
pub const FRAME_BYTES: usize = 8 << 20;

/// See the module's comment.
#[derive(Debug)]
pub struct Frame {
    memory: Vec<u8>,
    begin: usize,
}

impl Default for Frame {
    fn default() -> Self {
        let memory = vec![0; FRAME_BYTES + BLOCK_BYTES];
        let begin = memory.as_ptr().align_offset(BLOCK_BYTES);
        Self { memory, begin }
    }
}

impl AsRef<[u8]> for Frame {
    fn as_ref(&self) -> &[u8] {
        &self.memory[self.begin..self.begin + FRAME_BYTES]
    }
}

impl AsMut<[u8]> for Frame {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.begin..self.begin + FRAME_BYTES]
    }
}

/// The part of a frame that goes to disk.
#[derive(Debug)]
pub struct Filled {
    /// The frame.
    pub frame: Frame,
    /// How much of it, a multiple of [`BLOCK_BYTES`].
    pub len: usize,
}

impl AsRef<[u8]> for Filled {
    fn as_ref(&self) -> &[u8] {
        &self.frame.as_ref()[..self.len]
    }
}
