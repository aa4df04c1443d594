//! RabbitMQ: a request is as many messages as it has records, published to a quorum queue; it is acked when all are confirmed, which
//! the queue does after its log is synced.

use std::{collections::VecDeque, io};

use crate::{
    protocol::{Protocol, Shape, refused},
    wire::Wire,
};

const QUEUE: &str = "events";
const CHANNEL: u16 = 1;
const FRAME_END: u8 = 0xce;
const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;
/// Class and method numbers of AMQP 0-9-1.
const START: (u16, u16) = (10, 10);
const TUNE: (u16, u16) = (10, 30);
const OPEN_OK: (u16, u16) = (10, 41);
const CONNECTION_CLOSE: (u16, u16) = (10, 50);
const CHANNEL_OPEN_OK: (u16, u16) = (20, 11);
const CHANNEL_CLOSE: (u16, u16) = (20, 40);
const DECLARE_OK: (u16, u16) = (50, 11);
const ACK: (u16, u16) = (60, 80);
const NACK: (u16, u16) = (60, 120);
const SELECT_OK: (u16, u16) = (85, 11);

/// See the module's comment.
#[derive(Debug)]
pub struct Amqp {
    batch: u32,
    /// The number of the oldest message that is not settled.
    oldest: u64,
    /// From it on: whether each is confirmed.
    confirmed: VecDeque<bool>,
    /// Requests in their order: slot, messages without a confirm.
    open: VecDeque<(u32, u32)>,
    /// The number of the first message of the oldest open request.
    first_open: u64,
}

fn put_frame(out: &mut Vec<u8>, kind: u8, channel: u16, body: impl FnOnce(&mut Vec<u8>)) {
    out.push(kind);
    out.extend_from_slice(&channel.to_be_bytes());
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    body(out);
    let len = (out.len() - at - 4) as u32;
    out[at..at + 4].copy_from_slice(&len.to_be_bytes());
    out.push(FRAME_END);
}

fn put_method(out: &mut Vec<u8>, channel: u16, method: (u16, u16), arguments: impl FnOnce(&mut Vec<u8>)) {
    put_frame(out, METHOD, channel, |out| {
        out.extend_from_slice(&method.0.to_be_bytes());
        out.extend_from_slice(&method.1.to_be_bytes());
        arguments(out);
    });
}

fn put_short(out: &mut Vec<u8>, text: &str) {
    out.push(text.len() as u8);
    out.extend_from_slice(text.as_bytes());
}

fn put_long(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// The next frame: its kind, its body, its length in all.
fn next(input: &[u8]) -> Option<(u8, &[u8], usize)> {
    let (&[kind, _, _, a, b, c, d], rest) = input.split_first_chunk::<7>()?;
    let len = u32::from_be_bytes([a, b, c, d]) as usize;
    (rest.len() > len).then(|| (kind, &rest[..len], 8 + len))
}

fn method(body: &[u8]) -> Option<((u16, u16), &[u8])> {
    let (&[a, b, c, d], arguments) = body.split_first_chunk::<4>()?;
    Some(((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])), arguments))
}

/// Waits for `wanted`; its arguments.
fn expect(wire: &mut Wire, wanted: (u16, u16)) -> io::Result<Vec<u8>> {
    loop {
        let (kind, body) = wire.read(|input| Ok(next(input).map(|(kind, body, len)| ((kind, body.to_vec()), len))))?;
        match method(&body).filter(|_| kind == METHOD) {
            Some((found, arguments)) if found == wanted => return Ok(arguments.to_vec()),
            Some((CONNECTION_CLOSE | CHANNEL_CLOSE, arguments)) => return Err(refused("RabbitMQ", arguments)),
            _ => {}
        }
    }
}

fn greet(wire: &mut Wire) -> io::Result<()> {
    wire.send(b"AMQP\0\0\x09\x01")?;
    expect(wire, START)?;
    let mut out = Vec::new();
    put_method(&mut out, 0, (10, 11), |out| {
        put_long(out, b"");
        put_short(out, "PLAIN");
        put_long(out, b"\0guest\0guest");
        put_short(out, "en_US");
    });
    wire.send(&out)?;
    let tune = expect(wire, TUNE)?;
    out.clear();
    put_method(&mut out, 0, (10, 31), |out| {
        out.extend_from_slice(tune.get(..6).unwrap_or(&[0; 6]));
        // No heartbeats.
        out.extend_from_slice(&0u16.to_be_bytes());
    });
    put_method(&mut out, 0, (10, 40), |out| {
        put_short(out, "/");
        out.extend_from_slice(&[0, 0]);
    });
    wire.send(&out)?;
    expect(wire, OPEN_OK)?;
    out.clear();
    put_method(&mut out, CHANNEL, (20, 10), |out| put_short(out, ""));
    wire.send(&out)?;
    expect(wire, CHANNEL_OPEN_OK).map(drop)
}

/// Declares the queue, or looks at it; how many messages wait in it.
fn declare(wire: &mut Wire, passive: bool) -> io::Result<u32> {
    let mut out = Vec::new();
    put_method(&mut out, CHANNEL, (50, 10), |out| {
        out.extend_from_slice(&[0, 0]);
        put_short(out, QUEUE);
        // Durable, or only asked about.
        out.push(if passive { 0b11 } else { 0b10 });
        let mut table = Vec::new();
        put_short(&mut table, "x-queue-type");
        table.push(b'S');
        put_long(&mut table, b"quorum");
        put_long(out, &table);
    });
    wire.send(&out)?;
    let told = expect(wire, DECLARE_OK)?;
    let name = usize::from(*told.first().unwrap_or(&0));
    let count = told.get(1 + name..5 + name).and_then(|count| count.try_into().ok()).map(u32::from_be_bytes);
    count.ok_or_else(|| refused("RabbitMQ", &told))
}

/// Makes the queue.
///
/// # Errors
/// The server refuses it.
pub fn prepare(wire: &mut Wire) -> io::Result<()> {
    greet(wire)?;
    declare(wire, false).map(drop)
}

/// How many messages wait.
///
/// # Errors
/// The server does not say.
pub fn stored(wire: &mut Wire) -> io::Result<u64> {
    greet(wire)?;
    declare(wire, true).map(u64::from)
}

impl Amqp {
    /// A connection in confirm mode.
    ///
    /// # Errors
    /// The server refuses it.
    pub fn open(wire: &mut Wire, shape: &Shape) -> io::Result<Self> {
        greet(wire)?;
        let mut out = Vec::new();
        put_method(&mut out, CHANNEL, (85, 10), |out| out.push(0));
        wire.send(&out)?;
        expect(wire, SELECT_OK)?;
        Ok(Self {
            batch: shape.messages(),
            oldest: 1,
            confirmed: VecDeque::new(),
            open: VecDeque::new(),
            first_open: 1,
        })
    }

    fn publish(&mut self, out: &mut Vec<u8>, len: usize, body: impl FnOnce(&mut Vec<u8>)) {
        put_method(out, CHANNEL, (60, 40), |out| {
            out.extend_from_slice(&[0, 0]);
            put_short(out, "");
            put_short(out, QUEUE);
            out.push(0);
        });
        put_frame(out, HEADER, CHANNEL, |out| {
            out.extend_from_slice(&60u16.to_be_bytes());
            out.extend_from_slice(&0u16.to_be_bytes());
            out.extend_from_slice(&(len as u64).to_be_bytes());
            // Only the delivery mode: persistent.
            out.extend_from_slice(&0x1000u16.to_be_bytes());
            out.push(2);
        });
        put_frame(out, BODY, CHANNEL, body);
        self.confirmed.push_back(false);
    }

    /// The message `number`, or all up to it, is safe.
    fn confirm(&mut self, number: u64, all: bool, done: &mut Vec<u32>) -> io::Result<()> {
        let unknown = || io::Error::other("RabbitMQ confirmed a message that was not sent");
        let at = usize::try_from(number.checked_sub(self.oldest).ok_or_else(unknown)?).map_err(|_| unknown())?;
        if at >= self.confirmed.len() {
            return Err(unknown());
        }
        let from = if all { 0 } else { at };
        for index in from..=at {
            if !std::mem::replace(&mut self.confirmed[index], true) {
                let request = (self.oldest + index as u64 - self.first_open) / u64::from(self.batch);
                let (slot, left) = self.open.get_mut(request as usize).ok_or_else(unknown)?;
                *left -= 1;
                if *left == 0 {
                    done.push(*slot);
                }
            }
        }
        while self.confirmed.front() == Some(&true) {
            self.confirmed.pop_front();
            self.oldest += 1;
        }
        while self.open.front().is_some_and(|(_, left)| *left == 0) {
            self.open.pop_front();
            self.first_open += u64::from(self.batch);
        }
        Ok(())
    }
}

impl Protocol for Amqp {
    fn request(&mut self, out: &mut Vec<u8>, shape: &Shape, slot: u32, first: usize) {
        self.open.push_back((slot, self.batch));
        if shape.opaque {
            return self.publish(out, shape.joined_len(first), |out| shape.joined(out, first));
        }
        for record in shape.request(first) {
            self.publish(out, record.len(), |out| out.extend_from_slice(record));
        }
    }

    fn answers(&mut self, input: &[u8], out: &mut Vec<u8>, done: &mut Vec<u32>) -> io::Result<usize> {
        let mut used = 0;
        while let Some((kind, body, len)) = next(&input[used..]) {
            used += len;
            if kind == HEARTBEAT {
                put_frame(out, HEARTBEAT, 0, |_| {});
                continue;
            }
            match method(body).filter(|_| kind == METHOD) {
                Some((ACK, arguments)) => {
                    let (number, rest) =
                        arguments.split_first_chunk::<8>().ok_or_else(|| refused("RabbitMQ", arguments))?;
                    self.confirm(u64::from_be_bytes(*number), rest.first() == Some(&1), done)?;
                }
                Some((NACK | CONNECTION_CLOSE | CHANNEL_CLOSE, arguments)) => {
                    return Err(refused("RabbitMQ", arguments));
                }
                _ => {}
            }
        }
        Ok(used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::tests::{fed, shape};

    fn amqp(batch: u32) -> Amqp {
        Amqp { batch, oldest: 1, confirmed: VecDeque::new(), open: VecDeque::new(), first_open: 1 }
    }

    fn ack(out: &mut Vec<u8>, number: u64, all: bool) {
        put_method(out, CHANNEL, ACK, |out| {
            out.extend_from_slice(&number.to_be_bytes());
            out.push(u8::from(all));
        });
    }

    #[test]
    fn a_request_is_acked_when_each_message_is_in_whatever_order() {
        let mut input = Vec::new();
        for (number, all) in [(5, false), (2, true), (6, false), (4, true)] {
            ack(&mut input, number, all);
        }
        assert_eq!(fed(|| amqp(2), &shape(2, false), &[4, 5, 6], &input), [4, 6, 5]);
    }

    #[test]
    fn a_confirm_of_nothing_is_told() {
        for number in [0, 3, u64::MAX] {
            let (mut amqp, mut input) = (amqp(2), Vec::new());
            amqp.request(&mut Vec::new(), &shape(2, false), 0, 0);
            ack(&mut input, number, true);
            assert!(amqp.answers(&input, &mut Vec::new(), &mut Vec::new()).is_err(), "{number}");
        }
    }
}
