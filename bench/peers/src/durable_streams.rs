//! Durable Streams: a request is one POST, of bytes (opaque) or of an array of JSON; the answer comes after the sync.

use std::io::{self, Write as _};

use crate::{
    protocol::{Protocol, Queue, Shape, refused},
    wire::Wire,
};

const STREAM: &str = "/events";

/// See the module's comment.
#[derive(Debug)]
pub struct DurableStreams {
    queue: Queue,
    content: &'static str,
}

fn content(shape: &Shape) -> &'static str {
    if shape.opaque { "application/octet-stream" } else { "application/json" }
}

/// The status of an answer whose head is whole, and the answer's length.
fn answer(input: &[u8]) -> io::Result<Option<(u16, usize)>> {
    let Some(end) = input.windows(4).position(|part| part == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&input[..end]).map_err(|_| refused("Durable Streams", &input[..end]))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| refused("Durable Streams", head.as_bytes()))?;
    let mut pairs = head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
    let len = pairs.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let len: usize = len.and_then(|(_, len)| len.trim().parse().ok()).unwrap_or(0);
    Ok((input.len() >= end + 4 + len).then_some((status, end + 4 + len)))
}

/// Makes the stream.
///
/// # Errors
/// The server refuses it.
pub fn prepare(wire: &mut Wire, shape: &Shape) -> io::Result<()> {
    let kind = content(shape);
    let put = format!("PUT {STREAM} HTTP/1.1\r\nhost: peers\r\ncontent-type: {kind}\r\ncontent-length: 0\r\n\r\n");
    wire.send(put.as_bytes())?;
    let status = wire.read(answer)?;
    if !(200..300).contains(&status) {
        return Err(io::Error::other(format!("Durable Streams answers {status} to the creation of a stream")));
    }
    Ok(())
}

impl DurableStreams {
    /// A connection.
    #[must_use]
    pub fn new(shape: &Shape) -> Self {
        Self { queue: Queue::default(), content: content(shape) }
    }
}

impl Protocol for DurableStreams {
    fn request(&mut self, out: &mut Vec<u8>, shape: &Shape, slot: u32, first: usize) {
        self.queue.push(slot, 1);
        // An array has two brackets more, and as many commas as lines have ends.
        let brackets = if shape.opaque { 0 } else { 2 };
        let _ = write!(
            out,
            "POST {STREAM} HTTP/1.1\r\nhost: peers\r\ncontent-type: {}\r\ncontent-length: {}\r\n\r\n",
            self.content,
            shape.joined_len(first) + brackets
        );
        if shape.opaque {
            return shape.joined(out, first);
        }
        for (index, record) in shape.request(first).enumerate() {
            out.push(if index == 0 { b'[' } else { b',' });
            out.extend_from_slice(record);
        }
        out.push(b']');
    }

    fn answers(&mut self, input: &[u8], _out: &mut Vec<u8>, done: &mut Vec<u32>) -> io::Result<usize> {
        let mut used = 0;
        while let Some((status, len)) = answer(&input[used..])? {
            if !(200..300).contains(&status) {
                return Err(refused("Durable Streams", &input[used..used + len]));
            }
            self.queue.answered(done)?;
            used += len;
        }
        Ok(used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::tests::{fed, shape};

    #[test]
    fn a_request_is_acked_by_its_answer() {
        let input =
            b"HTTP/1.1 204 No Content\r\nStream-Next-Offset: 7\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
        let shape = shape(3, false);
        assert_eq!(fed(|| DurableStreams::new(&shape), &shape, &[1, 0], input), [1, 0]);
        let bad = b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n";
        assert!(DurableStreams::new(&shape).answers(bad, &mut Vec::new(), &mut Vec::new()).is_err());
    }

    #[test]
    fn the_length_is_that_of_the_body() {
        for opaque in [false, true] {
            let (shape, mut out) = (shape(3, opaque), Vec::new());
            DurableStreams::new(&shape).request(&mut out, &shape, 0, 0);
            let text = String::from_utf8(out).expect("text");
            let (head, body) = text.split_once("\r\n\r\n").expect("a head");
            assert!(head.ends_with(&format!("content-length: {}", body.len())), "{text}");
            assert_eq!(body, if opaque { "x\nxx\nxxx" } else { "[x,xx,xxx]" });
        }
    }
}
