//! Bytes of a terminal as keys.

use std::{io::Read as _, thread};

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// What was pressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    /// A character; of Ctrl-C the one with number 3.
    Char(char),
    Up,
    Down,
    Left,
    Right,
    PageUp,
    PageDown,
    Home,
    End,
}

/// What was read of a key that takes several bytes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Within {
    #[default]
    Nothing,
    Escape,
    /// The number that it begins with.
    Sequence(u8),
}

/// Reads keys, also those that come in pieces.
#[derive(Debug, Default)]
pub(super) struct Keys(Within);

impl Keys {
    /// The keys that end in `bytes`.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Vec<Key> {
        bytes.iter().filter_map(|&byte| self.byte(byte)).collect()
    }

    fn byte(&mut self, byte: u8) -> Option<Key> {
        let (within, key) = match (self.0, byte) {
            (_, 0x1b) => (Within::Escape, None),
            (Within::Nothing, _) => (Within::Nothing, byte.is_ascii().then(|| Key::Char(char::from(byte)))),
            (Within::Escape, b'[' | b'O') => (Within::Sequence(0), None),
            // The Escape key, and another after it.
            (Within::Escape, _) => (Within::Nothing, Some(Key::Char(char::from(byte)))),
            (Within::Sequence(number), b'0'..=b'9') => {
                (Within::Sequence(number.saturating_mul(10).saturating_add(byte - b'0')), None)
            }
            (Within::Sequence(number), 0x40..=0x7e) => (Within::Nothing, of_sequence(number, byte)),
            // What stands between numbers.
            (Within::Sequence(_), _) => (Within::Sequence(0), None),
        };
        self.0 = within;
        key
    }
}

fn of_sequence(number: u8, end: u8) -> Option<Key> {
    Some(match (end, number) {
        (b'A', _) => Key::Up,
        (b'B', _) => Key::Down,
        (b'C', _) => Key::Right,
        (b'D', _) => Key::Left,
        (b'H', _) | (b'~', 1 | 7) => Key::Home,
        (b'F', _) | (b'~', 4 | 8) => Key::End,
        (b'~', 5) => Key::PageUp,
        (b'~', 6) => Key::PageDown,
        _ => return None,
    })
}

/// The keys of standard input, until it ends. They are read on a thread, which ends with the process: that a terminal is read
/// without waiting would be seen by all who have it open.
pub(super) fn of_stdin() -> std::io::Result<UnboundedReceiver<Key>> {
    let (pressed, keys) = unbounded_channel();
    thread::Builder::new().name("keys".to_owned()).spawn(move || {
        let (mut read, mut bytes, mut stdin) = (Keys::default(), [0; 64], std::io::stdin().lock());
        while let Ok(count @ 1..) = stdin.read(&mut bytes) {
            for key in read.feed(&bytes[..count]) {
                if pressed.send(key).is_err() {
                    return;
                }
            }
        }
    })?;
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_whole_and_in_pieces() {
        let text = b"q\x1b[A\x1bOB\x1b[5~\x1b[6~\x1b[1;5C\x1b[D\x1b[H\x1b[4~\x03\x1b[200~x\x1bs";
        let keys = [
            Key::Char('q'),
            Key::Up,
            Key::Down,
            Key::PageUp,
            Key::PageDown,
            Key::Right,
            Key::Left,
            Key::Home,
            Key::End,
            Key::Char('\u{3}'),
            Key::Char('x'),
            Key::Char('s'),
        ];
        assert_eq!(Keys::default().feed(text), keys);
        let mut read = Keys::default();
        let pieces: Vec<_> = text.iter().flat_map(|&byte| read.feed(&[byte])).collect();
        assert_eq!(pieces, keys);
        assert_eq!(Keys::default().feed("é\u{1b}[99999999999Z".as_bytes()), []);
    }
}
