//! The page token of a query: opaque to clients, an order and a sequence number to us. Valid for ever, because a record's
//! sequence number stays what it is when its row moves from the buffer to a file, and from file to file.

/// In which order records come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Order {
    /// The oldest first.
    #[default]
    Ascending,
    /// The newest first.
    Descending,
}

impl Order {
    /// What a cursor begins with.
    fn digit(self) -> char {
        match self {
            Self::Ascending => '1',
            Self::Descending => '2',
        }
    }

    /// What stands before the sequence number under the checksum, so that no other text of ours is a cursor.
    fn prefix(self) -> &'static [u8] {
        match self {
            Self::Ascending => b"ttdust-cursor-1:",
            Self::Descending => b"ttdust-cursor-2:",
        }
    }
}

/// The text cannot be used as a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CursorError {
    /// It is none.
    #[error(
        "the cursor is not one that this server gave: pass `next_cursor` on unchanged, or leave it out to begin anew"
    )]
    Unknown,
    /// It goes on in the other order.
    #[error("the cursor is of an answer in the other order: ask in the same order for each page")]
    OtherOrder,
}

/// A cursor for the rows that come after sequence number `after` in this order.
#[must_use]
pub fn encode_cursor(after: i64, order: Order) -> String {
    format!("{}{after:016x}{:08x}", order.digit(), checksum(after, order))
}

/// The sequence number in a cursor of this order.
///
/// # Errors
/// [`CursorError`]: it is no cursor, was changed, is of a newer version, or of the other order.
pub fn decode_cursor(text: &str, order: Order) -> Result<i64, CursorError> {
    let other = match order {
        Order::Ascending => Order::Descending,
        Order::Descending => Order::Ascending,
    };
    match (decode(text, order), decode(text, other)) {
        (Some(after), _) => Ok(after),
        (None, Some(_)) => Err(CursorError::OtherOrder),
        (None, None) => Err(CursorError::Unknown),
    }
}

fn decode(text: &str, order: Order) -> Option<i64> {
    let digits = text.strip_prefix(order.digit()).filter(|digits| digits.len() == 24)?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)) {
        return None;
    }
    let (after, sum) = digits.split_at(16);
    let after = u64::from_str_radix(after, 16).ok()?.cast_signed();
    let sum = u32::from_str_radix(sum, 16).ok()?;
    (after >= 0 && sum == checksum(after, order)).then_some(after)
}

fn checksum(after: i64, order: Order) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(order.prefix()), &after.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [Order; 2] = [Order::Ascending, Order::Descending];

    #[test]
    fn a_cursor_comes_back() {
        for order in BOTH {
            for after in [0, 1, 4096, 1 << 40, i64::MAX] {
                assert_eq!(decode_cursor(&encode_cursor(after, order), order), Ok(after));
            }
        }
        assert_eq!(encode_cursor(258, Order::Ascending), "10000000000000102ec40b1c3", "the form is a contract");
    }

    #[test]
    fn a_cursor_goes_on_in_its_own_order_alone() {
        let (up, down) = (encode_cursor(7, Order::Ascending), encode_cursor(7, Order::Descending));
        assert_eq!(decode_cursor(&up, Order::Descending), Err(CursorError::OtherOrder));
        assert_eq!(decode_cursor(&down, Order::Ascending), Err(CursorError::OtherOrder));
        let swapped = format!("2{}", &up[1..]);
        assert_eq!(decode_cursor(&swapped, Order::Descending), Err(CursorError::Unknown));
    }

    #[test]
    fn any_change_is_seen() {
        for order in BOTH {
            let cursor = encode_cursor(123_456, order);
            for index in 0..cursor.len() {
                for replacement in ["0", "1", "2", "7", "a", "F", "+", " "] {
                    let mut changed = cursor.clone();
                    changed.replace_range(index..=index, replacement);
                    assert_eq!(decode_cursor(&changed, order).is_ok(), changed == cursor, "{changed}");
                }
            }
            for text in ["", "1", "2", "ü", &cursor[1..], &format!("{cursor}0")] {
                assert_eq!(decode_cursor(text, order), Err(CursorError::Unknown), "{text}");
            }
            assert_eq!(decode_cursor(&encode_cursor(-1, order), order), Err(CursorError::Unknown));
        }
    }
}
