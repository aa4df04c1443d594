//! The page token of a query: opaque to clients, a sequence number to us. Valid for ever, because a record's sequence number
//! stays what it is when its row moves from the buffer to a file.

/// What version 1 puts before the sequence number: also under the checksum, so that no other text of ours is a cursor.
const PREFIX: &[u8] = b"ttdust-cursor-1:";

/// The text is not a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the cursor is not one that this server gave: pass `next_cursor` on unchanged, or leave it out to begin anew")]
pub struct CursorError;

/// A cursor for the rows past sequence number `after`.
#[must_use]
pub fn encode_cursor(after: i64) -> String {
    format!("1{after:016x}{:08x}", checksum(after))
}

/// The sequence number in a cursor.
///
/// # Errors
/// [`CursorError`]: it is no cursor, was changed, or is of a newer version.
pub fn decode_cursor(text: &str) -> Result<i64, CursorError> {
    let digits = text.strip_prefix('1').filter(|digits| digits.len() == 24).ok_or(CursorError)?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)) {
        return Err(CursorError);
    }
    let (after, sum) = digits.split_at(16);
    let after = u64::from_str_radix(after, 16).map_err(|_| CursorError)?.cast_signed();
    let sum = u32::from_str_radix(sum, 16).map_err(|_| CursorError)?;
    if after < 0 || sum != checksum(after) {
        return Err(CursorError);
    }
    Ok(after)
}

fn checksum(after: i64) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(PREFIX), &after.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back() {
        for after in [0, 1, 4096, 1 << 40, i64::MAX] {
            assert_eq!(decode_cursor(&encode_cursor(after)), Ok(after));
        }
        assert_eq!(encode_cursor(258), "10000000000000102ec40b1c3", "the form is a contract");
    }

    #[test]
    fn any_change_is_seen() {
        let cursor = encode_cursor(123_456);
        for index in 0..cursor.len() {
            for replacement in ["0", "1", "7", "a", "F", "+", " "] {
                let mut changed = cursor.clone();
                changed.replace_range(index..=index, replacement);
                assert_eq!(decode_cursor(&changed).is_ok(), changed == cursor, "{changed}");
            }
        }
        for text in ["", "1", "2", "ü", &cursor[1..], &format!("{cursor}0")] {
            assert_eq!(decode_cursor(text), Err(CursorError), "{text}");
        }
        assert_eq!(decode_cursor(&encode_cursor(-1)), Err(CursorError));
    }
}
