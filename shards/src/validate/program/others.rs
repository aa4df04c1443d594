//! Pieces of a record that must differ from each other: members that a schema does not name, elements that are unique.

/// The most pieces of one object or array: at worst each is compared with all before it.
const GROUP_MAX: usize = 64;

/// Pieces of the objects and arrays not yet closed, those of the innermost last.
#[derive(Debug, Default)]
pub(super) struct Others {
    pieces: Vec<(usize, usize)>,
}

/// The pieces of one object or array: from `begin` to the end, as long as it is the innermost.
pub(super) struct Group {
    begin: usize,
    /// The buckets that its pieces are in.
    buckets: u64,
}

impl Others {
    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.pieces.clear();
    }

    /// How many there are: a mark for [`Self::back_to`].
    pub(super) fn len(&self) -> usize {
        self.pieces.len()
    }

    /// Forgets what came after the mark.
    pub(super) fn back_to(&mut self, mark: usize) {
        self.pieces.truncate(mark);
    }

    /// A group without pieces.
    #[inline]
    pub(super) fn begin(&self) -> Group {
        Group { begin: self.pieces.len(), buckets: 0 }
    }

    /// Forgets the pieces of `group`.
    #[inline]
    pub(super) fn end(&mut self, group: &Group) {
        self.pieces.truncate(group.begin);
    }

    /// Adds the piece of `text` from `from` to `to`; false if the group has one like it, or too many.
    pub(super) fn add(&mut self, group: &mut Group, text: &[u8], from: usize, to: usize) -> bool {
        let Some(piece) = text.get(from..to) else { return false };
        let Some(before) = self.pieces.get(group.begin..) else { return false };
        let bucket = 1u64 << bucket(piece);
        let is_new = group.buckets & bucket == 0 || before.iter().all(|&(from, to)| text.get(from..to) != Some(piece));
        if !is_new || before.len() >= GROUP_MAX {
            return false;
        }
        group.buckets |= bucket;
        self.pieces.push((from, to));
        true
    }
}

/// A cheap hash below 64, of the length and the ends.
fn bucket(piece: &[u8]) -> u32 {
    let ends = match piece {
        [] => 0,
        [only] => u32::from(*only),
        [first, .., last] => u32::from(*first) << 8 | u32::from(*last),
    };
    let before_last = piece.iter().nth_back(1).map_or(0, |&byte| u32::from(byte));
    (ends ^ before_last << 16 ^ (piece.len() as u32) << 24).wrapping_mul(0x9e37_79b1) >> 26
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_taken_once_a_group() {
        let text: Vec<u8> = (0..200u32).flat_map(|number| format!("{number:04}").into_bytes()).collect();
        let mut others = Others::default();
        let (mut outer, mut taken) = (others.begin(), 0);
        while others.add(&mut outer, &text, taken * 4, taken * 4 + 4) {
            taken += 1;
        }
        assert_eq!((taken, others.len()), (GROUP_MAX, GROUP_MAX));
        let mut inner = others.begin();
        assert!(others.add(&mut inner, &text, 0, 4) && others.add(&mut inner, &text, 4, 8));
        assert!(!others.add(&mut inner, &text, 0, 4) && !others.add(&mut inner, &text, 0, 9000));
        assert!(others.add(&mut inner, &text, 0, 0) && !others.add(&mut inner, &text, 3, 3), "empty ones are alike");
        others.end(&inner);
        assert_eq!(others.len(), GROUP_MAX);
        others.back_to(1);
        let mut again = others.begin();
        for at in 0..GROUP_MAX {
            assert!(others.add(&mut again, &text, at * 4, at * 4 + 4));
            assert!(!others.add(&mut again, &text, at * 4, at * 4 + 4));
        }
    }
}
