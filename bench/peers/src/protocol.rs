//! What a connection needs to know of a server's protocol.

use std::{collections::VecDeque, io};

/// What requests are made of.
#[derive(Debug)]
pub struct Shape {
    /// Records a request.
    pub batch: u32,
    /// Whether a request is one message that holds all its records.
    pub opaque: bool,
    /// Connections in all.
    pub connections: u16,
    /// The records, cycled.
    pub records: Vec<Vec<u8>>,
}

impl Shape {
    /// The records of the request that begins at record `first`.
    pub fn request(&self, first: usize) -> impl Iterator<Item = &[u8]> {
        let count = self.records.len();
        (first..first + self.batch as usize).map(move |index| self.records[index % count].as_slice())
    }

    /// All records of a request as one, a line each.
    pub fn joined(&self, out: &mut Vec<u8>, first: usize) {
        for (index, record) in self.request(first).enumerate() {
            if index > 0 {
                out.push(b'\n');
            }
            out.extend_from_slice(record);
        }
    }

    /// Bytes of [`Shape::joined`].
    pub fn joined_len(&self, first: usize) -> usize {
        self.request(first).map(|record| record.len() + 1).sum::<usize>() - 1
    }

    /// Messages, rows or entries a request.
    #[must_use]
    pub fn messages(&self) -> u32 {
        if self.opaque { 1 } else { self.batch }
    }
}

/// One connection's side of a protocol.
pub trait Protocol {
    /// Appends the request `slot`, with the records from `first` on.
    fn request(&mut self, out: &mut Vec<u8>, shape: &Shape, slot: u32, first: usize);

    /// Reads answers from `input`: says how much of it was read, and adds the slots of the requests that are acked as a whole to
    /// `done`. What must be said in return goes to `out`.
    ///
    /// # Errors
    /// The server refused a request, or said what this client does not understand.
    fn answers(&mut self, input: &[u8], out: &mut Vec<u8>, done: &mut Vec<u32>) -> io::Result<usize>;
}

/// Requests that are answered in their order, each by a number of answers.
#[derive(Debug, Default)]
pub struct Queue {
    open: VecDeque<(u32, u32)>,
}

impl Queue {
    /// A request with `answers` to come.
    pub fn push(&mut self, slot: u32, answers: u32) {
        self.open.push_back((slot, answers));
    }

    /// One answer came.
    ///
    /// # Errors
    /// Nothing was asked.
    pub fn answered(&mut self, done: &mut Vec<u32>) -> io::Result<()> {
        let (slot, left) =
            self.open.front_mut().ok_or_else(|| io::Error::other("the server answered a request that was not made"))?;
        *left -= 1;
        if *left == 0 {
            done.push(*slot);
            self.open.pop_front();
        }
        Ok(())
    }
}

/// Up to and without the next CR LF, and what follows it.
#[must_use]
pub fn text_line(input: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = input.windows(2).position(|pair| pair == b"\r\n")?;
    Some((&input[..at], &input[at + 2..]))
}

/// An error that tells what the server said.
pub fn refused(server: &str, said: &[u8]) -> io::Error {
    io::Error::other(format!("{server} says: {}", String::from_utf8_lossy(&said[..said.len().min(300)])))
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A shape of `batch` records that are told apart by their length.
    pub fn shape(batch: u32, opaque: bool) -> Shape {
        Shape { batch, opaque, connections: 1, records: (1..=7).map(|len| vec![b'x'; len]).collect() }
    }

    /// Feeds `input` in pieces of each size to a protocol with the requests `slots`; which were acked.
    pub fn fed<P: Protocol>(new: impl Fn() -> P, shape: &Shape, slots: &[u32], input: &[u8]) -> Vec<u32> {
        let mut last = None;
        for size in 1..=input.len() {
            let (mut protocol, mut done, mut held) = (new(), Vec::new(), Vec::new());
            for &slot in slots {
                protocol.request(&mut Vec::new(), shape, slot, 0);
            }
            for piece in input.chunks(size) {
                held.extend_from_slice(piece);
                let used = protocol.answers(&held, &mut Vec::new(), &mut done).expect("good answers");
                held.drain(..used);
            }
            assert!(held.is_empty(), "pieces of {size} leave {held:?}");
            assert!(last.is_none_or(|last| last == done), "pieces of {size}");
            last = Some(done);
        }
        last.expect("some input")
    }

    #[test]
    fn a_request_goes_round_and_is_joined_by_lines() {
        let shape = shape(3, true);
        assert_eq!(shape.request(6).map(<[u8]>::len).collect::<Vec<_>>(), [7, 1, 2]);
        let mut out = Vec::new();
        shape.joined(&mut out, 6);
        assert_eq!(out, b"xxxxxxx\nx\nxx");
        assert_eq!(shape.joined_len(6), out.len());
    }

    #[test]
    fn a_queue_waits_for_all_answers_and_for_none_too_many() {
        let (mut queue, mut done) = (Queue::default(), Vec::new());
        queue.push(4, 2);
        queue.answered(&mut done).expect("asked");
        assert_eq!(done, []);
        queue.answered(&mut done).expect("asked");
        assert_eq!(done, [4]);
        assert!(queue.answered(&mut done).is_err());
    }
}
