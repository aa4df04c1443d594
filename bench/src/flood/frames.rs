//! HTTP/2 frames written by hand, so that they can be such as no honest client sends, and as much of reading them as tells how a
//! connection ended.

#![allow(dead_code, reason = "each program that includes this file uses a part of it")]

/// What a client's side of a connection begins with.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Types of frames.
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

/// The flags that are used here.
pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// The setting that says how much may be sent ahead in a call.
pub const INITIAL_WINDOW_SIZE: u16 = 4;

const HEAD_BYTES: usize = 9;

/// Appends a frame.
pub fn put(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = (payload.len() as u32).to_be_bytes();
    out.extend_from_slice(&length[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// Appends a frame of one setting.
pub fn put_setting(out: &mut Vec<u8>, setting: u16, value: u32) {
    let payload = [&setting.to_be_bytes()[..], &value.to_be_bytes()].concat();
    put(out, SETTINGS, 0, 0, &payload);
}

/// Appends a gRPC message in a frame.
pub fn put_message(out: &mut Vec<u8>, stream: u32, message: &[u8]) {
    let payload = [&[0], &(message.len() as u32).to_be_bytes()[..], message].concat();
    put(out, DATA, 0, stream, &payload);
}

/// The header block of a gRPC call: HPACK without a table.
pub fn call(path: &str) -> Vec<u8> {
    // From the static table: POST and http.
    let mut block = vec![0x83, 0x86];
    let mut field = |name: &[u8], value: &str| {
        block.extend_from_slice(name);
        assert!(value.len() < 127, "its length is one byte");
        block.push(value.len() as u8);
        block.extend_from_slice(value.as_bytes());
    };
    // Names from the static table: path, authority, content type; and one that is not in it.
    field(&[4], path);
    field(&[1], "ttdust");
    field(&[0x0f, 0x10], "application/grpc");
    field(b"\x00\x02te", "trailers");
    block
}

/// Walks over what a server sends.
#[derive(Debug, Default)]
pub struct Walk {
    partial: Vec<u8>,
    /// The error code that it said goodbye with.
    pub goaway: Option<u32>,
    /// Frames that came.
    pub frames: u64,
}

impl Walk {
    /// Takes more bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.partial.extend_from_slice(bytes);
        let mut at = 0;
        while let Some(head) = self.partial.get(at..at + HEAD_BYTES) {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let Some(payload) = self.partial.get(at + HEAD_BYTES..at + HEAD_BYTES + length) else { break };
            if head[3] == GOAWAY && length >= 8 {
                self.goaway = payload[4..8].try_into().ok().map(u32::from_be_bytes);
            }
            self.frames += 1;
            at += HEAD_BYTES + length;
        }
        self.partial.drain(..at);
    }
}
