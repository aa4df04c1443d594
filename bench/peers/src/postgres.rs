//! PostgreSQL: a request is one transaction of one prepared INSERT, of one row or of an array; pipelined where a connection has more
//! than one in flight, though its backend does one after the other.

use std::io;

use crate::{
    protocol::{Protocol, Queue, Shape, refused},
    wire::Wire,
};

const TEXT: u32 = 25;
const TEXT_ARRAY: u32 = 1009;

/// See the module's comment.
#[derive(Debug, Default)]
pub struct Postgres {
    queue: Queue,
}

/// Appends a message of `kind` whose body `body` writes.
fn put(out: &mut Vec<u8>, kind: u8, body: impl FnOnce(&mut Vec<u8>)) {
    if kind != 0 {
        out.push(kind);
    }
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    body(out);
    let len = (out.len() - at) as u32;
    out[at..at + 4].copy_from_slice(&len.to_be_bytes());
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
    out.push(0);
}

/// The next message: its kind, its body, its length in all.
fn next(input: &[u8]) -> Option<(u8, &[u8], usize)> {
    let (&[kind, a, b, c, d], _) = input.split_first_chunk::<5>()?;
    let len = u32::from_be_bytes([a, b, c, d]) as usize;
    Some((kind, input.get(5..1 + len)?, 1 + len))
}

/// Reads up to the server's being ready; the last row's last column.
fn ready(wire: &mut Wire) -> io::Result<Option<String>> {
    let mut last = None;
    loop {
        let (kind, body) = wire.read(|input| Ok(next(input).map(|(kind, body, len)| ((kind, body.to_vec()), len))))?;
        match kind {
            b'Z' => return Ok(last),
            b'E' => return Err(error(&body)),
            b'R' if body[..4] != [0; 4] => return Err(io::Error::other("PostgreSQL wants a password: allow `trust`")),
            // A row of one column: count of columns, length, text.
            b'D' => last = body.get(6..).map(|text| String::from_utf8_lossy(text).into_owned()),
            _ => {}
        }
    }
}

fn error(body: &[u8]) -> io::Error {
    let message = body.split(|&byte| byte == 0).find_map(|field| field.strip_prefix(b"M"));
    refused("PostgreSQL", message.unwrap_or(body))
}

fn greet(wire: &mut Wire) -> io::Result<()> {
    let mut out = Vec::new();
    put(&mut out, 0, |out| {
        out.extend_from_slice(&196_608u32.to_be_bytes());
        for text in ["user", "peers", "database", "postgres", ""] {
            put_text(out, text);
        }
    });
    wire.send(&out)?;
    ready(wire).map(drop)
}

fn query(wire: &mut Wire, text: &str) -> io::Result<Option<String>> {
    let mut out = Vec::new();
    put(&mut out, b'Q', |out| put_text(out, text));
    wire.send(&out)?;
    ready(wire)
}

/// Makes the table, after a look at whether commits are synced.
///
/// # Errors
/// They are not, or the server refuses.
pub fn prepare(wire: &mut Wire, json: bool) -> io::Result<()> {
    greet(wire)?;
    for setting in ["fsync", "synchronous_commit", "full_page_writes"] {
        if query(wire, &format!("SHOW {setting}"))?.as_deref() != Some("on") {
            return Err(io::Error::other(format!("PostgreSQL runs without {setting}: its acks promise nothing")));
        }
    }
    let kind = if json { "jsonb" } else { "text" };
    query(
        wire,
        &format!("CREATE TABLE events (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, payload {kind} NOT NULL)"),
    )
    .map(drop)
}

/// How many rows the table has.
///
/// # Errors
/// The server does not say.
pub fn stored(wire: &mut Wire) -> io::Result<u64> {
    greet(wire)?;
    let count = query(wire, "SELECT count(*) FROM events")?.and_then(|count| count.parse().ok());
    count.ok_or_else(|| io::Error::other("PostgreSQL does not say how many rows there are"))
}

impl Postgres {
    /// A connection with its statement.
    ///
    /// # Errors
    /// The server refuses it.
    pub fn open(wire: &mut Wire, shape: &Shape, json: bool) -> io::Result<Self> {
        greet(wire)?;
        let cast = if json { "::jsonb" } else { "" };
        let (parameter, source) = match shape.messages() {
            1 => (TEXT, format!("VALUES ($1::text{cast})")),
            _ => (TEXT_ARRAY, format!("SELECT unnest($1::text[]){cast}")),
        };
        let mut out = Vec::new();
        put(&mut out, b'P', |out| {
            put_text(out, "s");
            put_text(out, &format!("INSERT INTO events (payload) {source}"));
            out.extend_from_slice(&1u16.to_be_bytes());
            out.extend_from_slice(&parameter.to_be_bytes());
        });
        put(&mut out, b'S', |_| {});
        wire.send(&out)?;
        ready(wire)?;
        Ok(Self::default())
    }
}

/// Appends a value's length and what `value` writes.
fn put_value(out: &mut Vec<u8>, value: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    value(out);
    let len = (out.len() - at - 4) as u32;
    out[at..at + 4].copy_from_slice(&len.to_be_bytes());
}

impl Protocol for Postgres {
    fn request(&mut self, out: &mut Vec<u8>, shape: &Shape, slot: u32, first: usize) {
        self.queue.push(slot, 1);
        put(out, b'B', |out| {
            put_text(out, "");
            put_text(out, "s");
            // One parameter, binary.
            for number in [1u16, 1, 1] {
                out.extend_from_slice(&number.to_be_bytes());
            }
            put_value(out, |out| match shape.messages() {
                1 => shape.joined(out, first),
                count => {
                    // One dimension, no nulls, of text, from 1 on.
                    for number in [1, 0, TEXT, count, 1] {
                        out.extend_from_slice(&number.to_be_bytes());
                    }
                    for record in shape.request(first) {
                        put_value(out, |out| out.extend_from_slice(record));
                    }
                }
            });
            out.extend_from_slice(&0u16.to_be_bytes());
        });
        put(out, b'E', |out| {
            put_text(out, "");
            out.extend_from_slice(&0u32.to_be_bytes());
        });
        put(out, b'S', |_| {});
    }

    fn answers(&mut self, input: &[u8], _out: &mut Vec<u8>, done: &mut Vec<u32>) -> io::Result<usize> {
        let mut used = 0;
        while let Some((kind, body, len)) = next(&input[used..]) {
            match kind {
                b'E' => return Err(error(body)),
                // The transaction has ended, and so was committed.
                b'Z' => self.queue.answered(done)?,
                _ => {}
            }
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
    fn a_request_is_acked_when_its_transaction_has_ended() {
        let mut input = Vec::new();
        for _ in 0..2 {
            put(&mut input, b'2', |_| {});
            put(&mut input, b'C', |out| put_text(out, "INSERT 0 1"));
            put(&mut input, b'Z', |out| out.push(b'I'));
        }
        assert_eq!(fed(Postgres::default, &shape(3, false), &[8, 9], &input), [8, 9]);
    }

    #[test]
    fn an_error_is_told_by_its_message() {
        let mut input = Vec::new();
        put(&mut input, b'E', |out| {
            for field in ["SERROR", "Mdisk full", ""] {
                put_text(out, field);
            }
        });
        let error = Postgres::default().answers(&input, &mut Vec::new(), &mut Vec::new()).expect_err("refused");
        assert_eq!(error.to_string(), "PostgreSQL says: disk full");
    }

    #[test]
    fn an_array_has_its_head_and_each_value_its_length() {
        let mut out = Vec::new();
        Postgres::default().request(&mut out, &shape(2, false), 0, 0);
        let array =
            [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 25, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 1, b'x', 0, 0, 0, 2, b'x', b'x'];
        assert!(out.windows(array.len()).any(|part| part == array), "{out:?}");
        let (kind, _, bind) = next(&out).expect("whole");
        assert_eq!((kind, next(&out[bind..]).expect("whole").0, out[out.len() - 5]), (b'B', b'E', b'S'));
    }
}
