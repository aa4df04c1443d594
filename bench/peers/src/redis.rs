//! Redis Streams: a request is as many XADD as it has records, pipelined; it is acked when all of them are answered.

use std::io;

use crate::{
    protocol::{Protocol, Queue, Shape, refused, text_line},
    wire::Wire,
};

/// See the module's comment.
#[derive(Debug, Default)]
pub struct Redis {
    queue: Queue,
}

fn put_add(out: &mut Vec<u8>, len: usize) {
    out.extend_from_slice(b"*5\r\n$4\r\nXADD\r\n$6\r\nevents\r\n$1\r\n*\r\n$1\r\nd\r\n$");
    out.extend_from_slice(len.to_string().as_bytes());
    out.extend_from_slice(b"\r\n");
}

impl Protocol for Redis {
    fn request(&mut self, out: &mut Vec<u8>, shape: &Shape, slot: u32, first: usize) {
        self.queue.push(slot, shape.messages());
        if shape.opaque {
            put_add(out, shape.joined_len(first));
            shape.joined(out, first);
            out.extend_from_slice(b"\r\n");
            return;
        }
        for record in shape.request(first) {
            put_add(out, record.len());
            out.extend_from_slice(record);
            out.extend_from_slice(b"\r\n");
        }
    }

    fn answers(&mut self, input: &[u8], _out: &mut Vec<u8>, done: &mut Vec<u32>) -> io::Result<usize> {
        let mut rest = input;
        // An answer is the entry's id: $LEN CR LF ID CR LF.
        while let Some((head, after)) = text_line(rest) {
            if head.first() != Some(&b'$') {
                return Err(refused("Redis", head));
            }
            let len: usize = std::str::from_utf8(&head[1..])
                .ok()
                .and_then(|len| len.parse().ok())
                .ok_or_else(|| refused("Redis", head))?;
            let Some(after) = after.get(len + 2..) else { break };
            self.queue.answered(done)?;
            rest = after;
        }
        Ok(input.len() - rest.len())
    }
}

/// How many entries the stream has.
///
/// # Errors
/// The server does not say.
pub fn stored(wire: &mut Wire) -> io::Result<u64> {
    wire.send(b"*2\r\n$4\r\nXLEN\r\n$6\r\nevents\r\n")?;
    wire.read(|input| {
        let Some((line, rest)) = text_line(input) else { return Ok(None) };
        let count = line.strip_prefix(b":").and_then(|count| std::str::from_utf8(count).ok()?.parse().ok());
        Ok(Some((count.ok_or_else(|| refused("Redis", line))?, input.len() - rest.len())))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::tests::{fed, shape};

    #[test]
    fn a_request_is_acked_by_as_many_answers_as_it_has_records() {
        let input = b"$3\r\n1-0\r\n$3\r\n1-1\r\n$4\r\n10-0\r\n$4\r\n10-1\r\n";
        assert_eq!(fed(Redis::default, &shape(2, false), &[5, 3], input), [5, 3]);
        assert_eq!(fed(Redis::default, &shape(2, true), &[5, 3], &input[..18]), [5, 3]);
    }

    #[test]
    fn an_error_is_told() {
        let mut redis = Redis::default();
        let error = redis.answers(b"-MISCONF no disk\r\n", &mut Vec::new(), &mut Vec::new()).expect_err("refused");
        assert_eq!(error.to_string(), "Redis says: -MISCONF no disk");
    }

    #[test]
    fn a_command_is_an_array_of_five() {
        let mut out = Vec::new();
        Redis::default().request(&mut out, &shape(1, false), 0, 1);
        assert_eq!(out, b"*5\r\n$4\r\nXADD\r\n$6\r\nevents\r\n$1\r\n*\r\n$1\r\nd\r\n$2\r\nxx\r\n");
    }
}
