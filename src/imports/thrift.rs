//! What a Parquet file claims, looked at before anybody believes it: Thrift's compact encoding, walked within bounds.
//!
//! A reader of Parquet makes room for what lengths say, and goes down as deep as groups go. Here every length is held against the
//! bytes that are there, and every depth against a limit, before that reader sees them.

/// Structures and lists inside each other.
const DEPTH_MAX: usize = 32;

/// It is not what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Malformed(pub(super) &'static str);

const CUT: Malformed = Malformed("it is cut short");

/// Kinds of values in the compact encoding.
const TRUE: u8 = 1;
const FALSE: u8 = 2;
const BYTE: u8 = 3;
const I16: u8 = 4;
const I32: u8 = 5;
const I64: u8 = 6;
const DOUBLE: u8 = 7;
const BINARY: u8 = 8;
const LIST: u8 = 9;
const SET: u8 = 10;
const MAP: u8 = 11;
const STRUCT: u8 = 12;

/// Reads values.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

/// A field of a structure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Field {
    id: i16,
    kind: u8,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// How many bytes are left.
    pub(super) fn left(&self) -> usize {
        self.rest.len()
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        let (&byte, rest) = self.rest.split_first().ok_or(CUT)?;
        self.rest = rest;
        Ok(byte)
    }

    fn skip_bytes(&mut self, count: u64) -> Result<(), Malformed> {
        let count = usize::try_from(count).map_err(|_| CUT)?;
        self.rest = self.rest.get(count..).ok_or(CUT)?;
        Ok(())
    }

    pub(super) fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed("a number in it does not end"))
    }

    fn signed(&mut self) -> Result<i64, Malformed> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    fn field(&mut self, last: i16) -> Result<Option<Field>, Malformed> {
        let head = self.byte()?;
        if head == 0 {
            return Ok(None);
        }
        let kind = head & 0x0f;
        let id = match head >> 4 {
            0 => i16::try_from(self.signed()?).map_err(|_| Malformed("a field in it has no number"))?,
            delta => last.checked_add(i16::from(delta)).ok_or(Malformed("a field in it has no number"))?,
        };
        Ok(Some(Field { id, kind }))
    }

    /// Kind and number of the entries of a list, of which each takes a byte at least.
    fn list(&mut self) -> Result<(u8, usize), Malformed> {
        let head = self.byte()?;
        let count = match head >> 4 {
            15 => self.varint()?,
            count => u64::from(count),
        };
        let count = usize::try_from(count).ok().filter(|count| *count <= self.rest.len());
        Ok((head & 0x0f, count.ok_or(Malformed("a list in it claims more than there is"))?))
    }

    fn skip(&mut self, kind: u8, depth: usize) -> Result<(), Malformed> {
        if depth > DEPTH_MAX {
            return Err(Malformed("it nests too deep"));
        }
        match kind {
            TRUE | FALSE => Ok(()),
            BYTE => self.byte().map(drop),
            I16 | I32 | I64 => self.varint().map(drop),
            DOUBLE => self.skip_bytes(8),
            BINARY => {
                let length = self.varint()?;
                self.skip_bytes(length)
            }
            LIST | SET => {
                let (kind, count) = self.list()?;
                (0..count).try_for_each(|_| self.skip_entry(kind, depth + 1))
            }
            MAP => {
                let count = self.varint()?;
                if count == 0 {
                    return Ok(());
                }
                if count > self.rest.len() as u64 {
                    return Err(Malformed("a map in it claims more than there is"));
                }
                let kinds = self.byte()?;
                (0..count).try_for_each(|_| {
                    self.skip_entry(kinds >> 4, depth + 1)?;
                    self.skip_entry(kinds & 0x0f, depth + 1)
                })
            }
            STRUCT => self.fields(depth + 1, |_, _| Ok(false)),
            _ => Err(Malformed("it holds a value of an unknown kind")),
        }
    }

    /// In lists a truth value takes a byte, unlike in fields.
    fn skip_entry(&mut self, kind: u8, depth: usize) -> Result<(), Malformed> {
        if matches!(kind, TRUE | FALSE) { self.byte().map(drop) } else { self.skip(kind, depth) }
    }

    /// The fields of a structure. `take` reads the value of one that it wants, and says so; the others are passed over.
    fn fields(
        &mut self,
        depth: usize,
        mut take: impl FnMut(&mut Self, Field) -> Result<bool, Malformed>,
    ) -> Result<(), Malformed> {
        let mut last = 0;
        while let Some(field) = self.field(last)? {
            last = field.id;
            if !take(self, field)? {
                self.skip(field.kind, depth)?;
            }
        }
        Ok(())
    }
}

/// Looks through the metadata of a file: that all of it can be read, that the tree of its columns is a tree, no deeper than
/// `depth`, and has no more than `columns` of them.
pub(super) fn check_metadata(bytes: &[u8], depth: usize, columns: usize) -> Result<(), Malformed> {
    let mut children = Vec::new();
    let mut reader = Reader::new(bytes);
    reader.fields(0, |reader, field| {
        // FileMetaData.schema: a list of SchemaElement, the tree in the order of a walk.
        if field != (Field { id: 2, kind: LIST }) {
            return Ok(false);
        }
        let (kind, count) = reader.list()?;
        if kind != STRUCT {
            return Err(Malformed("its schema is no list of elements"));
        }
        if count > 4 * columns {
            return Err(Malformed("it has too many columns"));
        }
        children.clear();
        for _ in 0..count {
            let mut of_element = 0;
            reader.fields(2, |reader, field| {
                let wanted = field == Field { id: 5, kind: I32 };
                if wanted {
                    of_element = reader.signed()?;
                }
                Ok(wanted)
            })?;
            children.push(of_element);
        }
        Ok(true)
    })?;
    check_tree(&children, depth, columns)
}

/// Whether these numbers of children, in the order of a walk, make one tree.
fn check_tree(children: &[i64], depth: usize, columns: usize) -> Result<(), Malformed> {
    const NO_TREE: Malformed = Malformed("its schema is no tree");
    let mut open: Vec<i64> = Vec::new();
    let mut leaves = 0;
    for (at, &count) in children.iter().enumerate() {
        match open.last_mut() {
            Some(left) => *left -= 1,
            None if at == 0 => {}
            None => return Err(NO_TREE),
        }
        if count < 0 || count > children.len() as i64 {
            return Err(NO_TREE);
        }
        if count > 0 {
            open.push(count);
        } else {
            leaves += 1;
        }
        if open.len() > depth {
            return Err(Malformed("its columns nest too deep"));
        }
        while open.last() == Some(&0) {
            open.pop();
        }
    }
    if leaves > columns {
        return Err(Malformed("it has too many columns"));
    }
    if open.is_empty() && !children.is_empty() { Ok(()) } else { Err(NO_TREE) }
}

/// A page, as its header has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PageHeader {
    /// How long the header itself is.
    pub(super) bytes: usize,
    /// How long the page is when it is decompressed.
    pub(super) uncompressed: i64,
    /// How long it is as it stands.
    pub(super) compressed: i64,
    /// So many bytes at its front are never compressed.
    pub(super) plain: i64,
    /// Whether the others are, if its column's pages are.
    pub(super) is_packed: bool,
}

impl PageHeader {
    /// Takes what the header of a page of the second version says of its levels.
    fn take_levels(&mut self, reader: &mut Reader<'_>) -> Result<(), Malformed> {
        let (mut definition, mut repetition) = (0i64, 0i64);
        self.is_packed = true;
        reader.fields(1, |reader, field| {
            let number = match field {
                Field { id: 5, kind: I32 } => &mut definition,
                Field { id: 6, kind: I32 } => &mut repetition,
                Field { id: 7, kind: TRUE | FALSE } => {
                    self.is_packed = field.kind == TRUE;
                    return Ok(true);
                }
                _ => return Ok(false),
            };
            *number = reader.signed()?;
            Ok(true)
        })?;
        if definition < 0 || repetition < 0 {
            return Err(Malformed("a page of it has no levels"));
        }
        self.plain = definition.saturating_add(repetition);
        Ok(())
    }
}

/// The header that `bytes` begins with.
pub(super) fn page_header(bytes: &[u8]) -> Result<PageHeader, Malformed> {
    let mut reader = Reader::new(bytes);
    let mut header = PageHeader { bytes: 0, uncompressed: -1, compressed: -1, plain: 0, is_packed: true };
    reader.fields(0, |reader, field| {
        let number = match field {
            Field { id: 2, kind: I32 } => &mut header.uncompressed,
            Field { id: 3, kind: I32 } => &mut header.compressed,
            // DataPageHeaderV2.
            Field { id: 8, kind: STRUCT } => return header.take_levels(reader).map(|()| true),
            _ => return Ok(false),
        };
        *number = reader.signed()?;
        Ok(true)
    })?;
    header.bytes = bytes.len() - reader.left();
    if header.uncompressed < 0 || header.compressed < 0 {
        return Err(Malformed("a page of it has no length"));
    }
    if header.plain > header.uncompressed.min(header.compressed) {
        return Err(Malformed("a page of it has levels longer than itself"));
    }
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn varint(mut value: u64) -> Vec<u8> {
        let mut out = Vec::new();
        while value >= 0x80 {
            out.push(value as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
        out
    }

    /// A page header of these lengths, with a text of this claimed length in it.
    fn header(uncompressed: u64, compressed: u64, text: u64) -> Vec<u8> {
        let mut out = vec![0x15, 0x00, 0x15];
        out.extend(varint(uncompressed << 1));
        out.push(0x15);
        out.extend(varint(compressed << 1));
        out.push(0x28);
        out.extend(varint(text));
        out.extend([b'x'; 5]);
        out.push(0);
        out
    }

    #[test]
    fn a_page_header_tells_its_lengths_and_is_held_against_what_is_there() {
        let good = header(1000, 10, 5);
        let expected = PageHeader { bytes: good.len(), uncompressed: 1000, compressed: 10, plain: 0, is_packed: true };
        assert_eq!(page_header(&[good.as_slice(), b"the page"].concat()), Ok(expected));
        assert_eq!(page_header(&header(1000, 10, u64::MAX)), Err(CUT));
        assert_eq!(page_header(&header(1000, 10, 1 << 40)), Err(CUT));
        for end in 0..good.len() {
            assert!(page_header(&good[..end]).is_err(), "{end}");
        }
        assert_eq!(page_header(&[0]), Err(Malformed("a page of it has no length")));
    }

    #[test]
    fn a_page_of_the_second_version_says_which_part_of_it_is_compressed() {
        // 40 bytes, 20 compressed; then the structure, from its fifth field on.
        const HEAD: [u8; 8] = [0x15, 0x06, 0x15, 0x50, 0x15, 0x28, 0x5c, 0x55];
        let of = |definition: u64, repetition: u64, is_packed: &[u8]| {
            let (definition, repetition) = (varint(definition << 1), varint(repetition << 1));
            let bytes = [&HEAD[..], &definition, &[0x15], &repetition, is_packed, &[0, 0]].concat();
            page_header(&bytes).map(|header| (header.bytes == bytes.len(), header.plain, header.is_packed))
        };
        assert_eq!(of(3, 4, &[]), Ok((true, 7, true)));
        assert_eq!(of(20, 0, &[0x11]), Ok((true, 20, true)));
        assert_eq!(of(0, 1, &[0x12]), Ok((true, 1, false)));
        assert!(of(20, 1, &[]).is_err(), "more than there is");
        let below_zero = [&HEAD[..], &[0x01, 0x15, 0x04, 0, 0]].concat();
        assert_eq!(page_header(&below_zero), Err(Malformed("a page of it has no levels")));
    }

    #[test]
    fn lists_that_claim_more_than_there_is_and_depths_without_end_are_refused() {
        let huge = [&[0x19, 0xf5][..], &varint(1 << 31), &[0]].concat();
        assert_eq!(page_header(&huge), Err(Malformed("a list in it claims more than there is")));
        // Each byte opens another structure.
        assert_eq!(page_header(&vec![0x1c; 100_000]), Err(Malformed("it nests too deep")));
        // Or another list of one.
        let lists = [&[0x19][..], &vec![0x19; 100_000]].concat();
        assert_eq!(page_header(&lists), Err(Malformed("it nests too deep")));
    }

    #[test]
    fn only_a_tree_of_bounded_depth_is_a_schema() {
        let of = |children: &[i64]| check_tree(children, 3, 4);
        assert_eq!(of(&[2, 0, 0]), Ok(()));
        assert_eq!(of(&[2, 1, 0, 1, 0]), Ok(()));
        assert_eq!(of(&[0]), Ok(()));
        for children in [&[][..], &[2, 0], &[1, 0, 0], &[-1], &[i64::MAX, 0], &[1, 1, 1, 1, 0], &[5, 0, 0, 0, 0, 0]] {
            assert!(of(children).is_err(), "{children:?}");
        }
    }
}
