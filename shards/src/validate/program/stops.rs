//! How far a string is plain: up to a quote, a backslash or a control character.

use super::HIGH_BITS;
#[cfg(target_arch = "x86_64")]
use sixteen::{WIDTH, first_stop};
#[cfg(not(target_arch = "x86_64"))]
use word::{WIDTH, first_stop};

/// How many bytes of `rest` are plain, and a word that has any of [`HIGH_BITS`] if not all of them are ASCII.
#[inline]
pub(super) fn plain(rest: &[u8]) -> (usize, u64) {
    let (mut length, mut high) = (0, 0);
    let mut left = rest;
    while let Some((chunk, after)) = left.split_first_chunk() {
        let (stop, bits) = first_stop(chunk);
        high |= bits;
        length += stop;
        if stop < WIDTH {
            return (length, high);
        }
        left = after;
    }
    for &byte in left {
        if byte < 0x20 || byte == b'"' || byte == b'\\' {
            break;
        }
        high |= u64::from(byte);
        length += 1;
    }
    (length, high)
}

/// Sixteen bytes at once, as each x86-64 can.
#[cfg(target_arch = "x86_64")]
mod sixteen {
    use std::arch::x86_64::{
        __m128i, _mm_cmpeq_epi8, _mm_loadu_si128, _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128, _mm_set1_epi8,
    };

    use super::HIGH_BITS;

    pub(super) const WIDTH: usize = 16;

    /// Where the first byte is that is not plain, or [`WIDTH`]; and [`HIGH_BITS`] if a byte before it is beyond ASCII.
    #[inline]
    #[allow(unsafe_code, reason = "the compiler does not take it that SSE2 is always there")]
    pub(super) fn first_stop(chunk: &[u8; WIDTH]) -> (usize, u64) {
        // SAFETY: each x86-64 has SSE2, and the 16 bytes that are loaded, from wherever, are those of `chunk`.
        let (stops, tops) = unsafe {
            let bytes = _mm_loadu_si128(std::ptr::from_ref(chunk).cast::<__m128i>());
            let is_quote = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(b'"' as i8));
            let is_backslash = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(b'\\' as i8));
            let is_control = _mm_cmpeq_epi8(_mm_min_epu8(bytes, _mm_set1_epi8(0x1f)), bytes);
            let stops = _mm_or_si128(_mm_or_si128(is_quote, is_backslash), is_control);
            (_mm_movemask_epi8(stops) as u32, _mm_movemask_epi8(bytes) as u32)
        };
        let stop = (stops | (1 << WIDTH)).trailing_zeros();
        let beyond = tops & ((1 << stop) - 1);
        (stop as usize, if beyond == 0 { 0 } else { HIGH_BITS })
    }
}

/// Eight bytes at once, as any machine can.
#[cfg(any(test, not(target_arch = "x86_64")))]
mod word {
    use super::HIGH_BITS;

    pub(super) const WIDTH: usize = 8;

    /// A byte in each byte of a word.
    const fn each(byte: u8) -> u64 {
        u64::from_le_bytes([byte; 8])
    }

    /// Where the first byte is that is not plain, or [`WIDTH`]; and all bytes before it, or-ed.
    #[inline]
    pub(super) fn first_stop(chunk: &[u8; WIDTH]) -> (usize, u64) {
        let word = u64::from_le_bytes(*chunk);
        let quote = word ^ each(b'"');
        let backslash = word ^ each(b'\\');
        // The lowest top bit that is set is that of the first stop; those above it mean nothing.
        let stops = (quote.wrapping_sub(each(1)) & !quote)
            | (backslash.wrapping_sub(each(1)) & !backslash)
            | (word.wrapping_sub(each(0x20)) & !word);
        match stops & HIGH_BITS {
            0 => (WIDTH, word),
            stops => {
                let before = stops.trailing_zeros() / 8;
                (before as usize, word & ((1u64 << (before * 8)) - 1))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_stops_or_not_at_every_place() {
        for byte in 0..=u8::MAX {
            for at in 0..40 {
                for filler in [b'a', 0x21, 0x23, 0x5d, 0x7f, 0x80, 0xff] {
                    let mut text = [filler; 40];
                    text[at] = byte;
                    let is_stop = byte < 0x20 || byte == b'"' || byte == b'\\';
                    let wanted = if is_stop { at } else { 40 };
                    let (length, high) = plain(&text);
                    assert_eq!(length, wanted, "{byte} {at} {filler}");
                    let beyond = text[..wanted].iter().any(|byte| *byte >= 0x80);
                    assert_eq!(high & HIGH_BITS != 0, beyond, "{byte} {at} {filler}");
                    if let Some(chunk) = text.first_chunk() {
                        let (stop, high) = word::first_stop(chunk);
                        assert_eq!(stop, wanted.min(word::WIDTH), "{byte} {at} {filler}");
                        let beyond = text[..stop].iter().any(|byte| *byte >= 0x80);
                        assert_eq!(high & HIGH_BITS != 0, beyond, "{byte} {at} {filler}");
                    }
                }
            }
        }
    }
}
