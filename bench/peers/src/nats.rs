//! NATS JetStream: each connection publishes to a stream of its own; a request is one message, or an atomic batch of them, and is
//! acked by the publish ack.

use std::io::{self, Write as _};

use crate::{
    protocol::{Protocol, Shape, refused, text_line},
    wire::Wire,
};

/// See the module's comment.
#[derive(Debug)]
pub struct Nats {
    number: u16,
    /// Tells batches apart.
    batches: u64,
    header: Vec<u8>,
}

fn subject(number: u16) -> String {
    format!("events{number}")
}

/// Greets, and subscribes to what is sent to `inbox`.
fn greet(wire: &mut Wire, inbox: &str) -> io::Result<()> {
    wire.send(
        b"CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,\"no_responders\":true,\"protocol\":1,\"lang\":\"peer-load\",\
          \"version\":\"1\"}\r\n",
    )?;
    wire.send(format!("SUB {inbox}.* 1\r\nPING\r\n").as_bytes())?;
    wire.read(|input| {
        let mut rest = input;
        while let Some((line, after)) = text_line(rest) {
            match line {
                b"PONG" => return Ok(Some(((), input.len() - after.len()))),
                _ if line.starts_with(b"-ERR") => return Err(refused("NATS", line)),
                _ => rest = after,
            }
        }
        Ok(None)
    })
}

/// A request to the server's API, and its answer.
fn ask(wire: &mut Wire, inbox: &str, api: &str, body: &str) -> io::Result<serde_json::Value> {
    wire.send(format!("PUB $JS.API.{api} {inbox}.0 {}\r\n{body}\r\n", body.len()).as_bytes())?;
    let answer: serde_json::Value = loop {
        // Nothing but the answer and pings comes to a connection that has just greeted; those can wait.
        let came = wire.read(|input| {
            let Some((message, used)) = next(input)? else { return Ok(None) };
            let Came::Answer { body, .. } = message else { return Ok(Some((None, used))) };
            let value = serde_json::from_slice(body).map_err(|_| refused("NATS", body))?;
            Ok(Some((Some(value), used)))
        })?;
        if let Some(answer) = came {
            break answer;
        }
    };
    match answer.get("error") {
        Some(error) => Err(refused("NATS", error.to_string().as_bytes())),
        None => Ok(answer),
    }
}

/// Makes the streams.
///
/// # Errors
/// The server refuses them.
pub fn prepare(wire: &mut Wire, shape: &Shape) -> io::Result<()> {
    greet(wire, "_INBOX.prepare")?;
    for number in 0..shape.connections {
        let name = subject(number);
        let config = format!(
            "{{\"name\":\"{name}\",\"subjects\":[\"{name}\"],\"storage\":\"file\",\"retention\":\"limits\",\"discard\":\"old\",\
             \"num_replicas\":1,\"allow_atomic\":true}}"
        );
        ask(wire, "_INBOX.prepare", &format!("STREAM.CREATE.{name}"), &config)?;
    }
    Ok(())
}

/// How many messages the streams have.
///
/// # Errors
/// The server does not say.
pub fn stored(wire: &mut Wire, shape: &Shape) -> io::Result<u64> {
    greet(wire, "_INBOX.stored")?;
    let mut count = 0;
    for number in 0..shape.connections {
        let info = ask(wire, "_INBOX.stored", &format!("STREAM.INFO.{}", subject(number)), "")?;
        let messages = info.pointer("/state/messages").and_then(serde_json::Value::as_u64);
        count += messages.ok_or_else(|| refused("NATS", info.to_string().as_bytes()))?;
    }
    Ok(count)
}

impl Nats {
    /// Connection `number`.
    ///
    /// # Errors
    /// The server refuses it.
    pub fn open(wire: &mut Wire, _shape: &Shape, number: u16) -> io::Result<Self> {
        greet(wire, &format!("_INBOX.c{number}"))?;
        Ok(Self { number, batches: 0, header: Vec::new() })
    }

    fn batch(&mut self, out: &mut Vec<u8>, shape: &Shape, slot: u32, first: usize) {
        self.batches += 1;
        for (index, record) in shape.request(first).enumerate() {
            let last = index + 1 == shape.batch as usize;
            let header = &mut self.header;
            header.clear();
            let _ = write!(
                header,
                "NATS/1.0\r\nNats-Batch-Id:c{}-{}\r\nNats-Batch-Sequence:{}\r\n",
                self.number,
                self.batches,
                index + 1
            );
            if last {
                header.extend_from_slice(b"Nats-Batch-Commit:1\r\n");
            }
            header.extend_from_slice(b"\r\n");
            let _ = write!(out, "HPUB events{} ", self.number);
            if last {
                let _ = write!(out, "_INBOX.c{}.{slot} ", self.number);
            }
            let _ = write!(out, "{} {}\r\n", header.len(), header.len() + record.len());
            out.extend_from_slice(header);
            out.extend_from_slice(record);
            out.extend_from_slice(b"\r\n");
        }
    }
}

impl Protocol for Nats {
    fn request(&mut self, out: &mut Vec<u8>, shape: &Shape, slot: u32, first: usize) {
        if shape.batch > 1 && !shape.opaque {
            return self.batch(out, shape, slot, first);
        }
        let _ = write!(out, "PUB events{0} _INBOX.c{0}.{slot} {1}\r\n", self.number, shape.joined_len(first));
        shape.joined(out, first);
        out.extend_from_slice(b"\r\n");
    }

    fn answers(&mut self, input: &[u8], out: &mut Vec<u8>, done: &mut Vec<u32>) -> io::Result<usize> {
        let mut used = 0;
        while let Some((came, len)) = next(&input[used..])? {
            used += len;
            match came {
                Came::Nothing => {}
                Came::Ping => out.extend_from_slice(b"PONG\r\n"),
                Came::Answer { subject, body } => {
                    // {"stream":"events0","seq":7}, or with "error".
                    if !body.starts_with(b"{") || body.windows(8).any(|part| part == b"\"error\":") {
                        return Err(refused("NATS", body));
                    }
                    let slot = subject.rsplit(|&byte| byte == b'.').next().unwrap_or_default();
                    let slot = std::str::from_utf8(slot).ok().and_then(|slot| slot.parse().ok());
                    done.push(slot.ok_or_else(|| refused("NATS", subject))?);
                }
            }
        }
        Ok(used)
    }
}

enum Came<'a> {
    Nothing,
    Ping,
    Answer { subject: &'a [u8], body: &'a [u8] },
}

/// The next thing that the server sent, and its length.
fn next(input: &[u8]) -> io::Result<Option<(Came<'_>, usize)>> {
    let Some((line, rest)) = text_line(input) else { return Ok(None) };
    let head = input.len() - rest.len();
    if line.starts_with(b"PING") {
        return Ok(Some((Came::Ping, head)));
    }
    if line.starts_with(b"-ERR") {
        return Err(refused("NATS", line));
    }
    let with_headers = line.starts_with(b"HMSG ");
    if !with_headers && !line.starts_with(b"MSG ") {
        return Ok(Some((Came::Nothing, head)));
    }
    // [H]MSG SUBJECT SID [HEADER-BYTES] TOTAL-BYTES
    let mut words = line.split(|&byte| byte == b' ').skip(1);
    let subject = words.next().unwrap_or_default();
    let total = words.last().and_then(|total| std::str::from_utf8(total).ok()?.parse::<usize>().ok());
    let total = total.ok_or_else(|| refused("NATS", line))?;
    let Some(body) = rest.get(..total) else { return Ok(None) };
    if rest.len() < total + 2 {
        return Ok(None);
    }
    // Only errors of the server itself come with headers: nobody listens to the subject, for one.
    if with_headers {
        return Err(refused("NATS", body));
    }
    Ok(Some((Came::Answer { subject, body }, head + total + 2)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::tests::{fed, shape};

    fn nats() -> Nats {
        Nats { number: 2, batches: 0, header: Vec::new() }
    }

    #[test]
    fn acks_name_their_slot_and_come_in_any_order() {
        let input = b"MSG _INBOX.c2.1 1 24\r\n{\"stream\":\"e\",\"seq\":200}\r\nPING\r\nMSG _INBOX.c2.0 1 2\r\n{}\r\n";
        assert_eq!(fed(nats, &shape(1, false), &[0, 1], input), [1, 0]);
    }

    #[test]
    fn what_is_no_good_ack_is_told() {
        for bad in [
            "MSG _INBOX.c2.1 1 28\r\n{\"error\":{\"code\":400,\"x\":1}}\r\n",
            "HMSG _INBOX.c2.1 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n",
            "MSG _INBOX.c2.1 1 0\r\n\r\n",
            "-ERR 'no'\r\n",
        ] {
            assert!(nats().answers(bad.as_bytes(), &mut Vec::new(), &mut Vec::new()).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_the_last_of_a_batch_asks_for_an_ack() {
        let mut out = Vec::new();
        nats().request(&mut out, &shape(2, false), 7, 0);
        let out = String::from_utf8(out).expect("text");
        let head = "NATS/1.0\r\nNats-Batch-Id:c2-1\r\nNats-Batch-Sequence:";
        let (one, two) = (format!("{head}1\r\n\r\n"), format!("{head}2\r\nNats-Batch-Commit:1\r\n\r\n"));
        let wanted = format!(
            "HPUB events2 {} {}\r\n{one}x\r\nHPUB events2 _INBOX.c2.7 {} {}\r\n{two}xx\r\n",
            one.len(),
            one.len() + 1,
            two.len(),
            two.len() + 2
        );
        assert_eq!(out, wanted);
    }
}
