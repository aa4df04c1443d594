//! A record as members that can be taken away, renamed, moved and rewritten, while the bytes of all others stay as they are.
//!
//! The text is scanned once, an object below the top only when a step goes into it. Members are numbered in the order of the
//! text, so that the place where a name was found last time is the first guess for the next record. No bytes panic: what is no
//! JSON object is `None`.

use std::ops::Range;

/// No member.
const NONE: u32 = u32::MAX;
/// The most objects inside each other that are written: as many as a record may have.
const DEPTH_MAX: usize = 64;

/// Bytes of the record, or of what was made for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Text {
    is_made: bool,
    start: u32,
    end: u32,
}

impl Text {
    fn of_record(range: Range<usize>) -> Self {
        // A record is far below 4 GiB.
        Self { is_made: false, start: range.start as u32, end: range.end as u32 }
    }

    /// A part of what was made.
    pub(super) fn made(range: Range<usize>) -> Self {
        Self { is_made: true, ..Self::of_record(range) }
    }

    fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

#[derive(Debug, Clone, Copy)]
enum Value {
    /// As text.
    Text(Text),
    /// An object that was looked into: its first member.
    Open(u32),
}

#[derive(Debug, Clone, Copy)]
struct Member {
    parent: u32,
    next: u32,
    /// Without escapes.
    name: Text,
    /// As it is written, with its quotes.
    written: Text,
    value: Value,
    /// Name and value in the record.
    whole: (u32, u32),
    is_there: bool,
    is_changed: bool,
    is_marked: bool,
}

/// A name on the way to a field, and where guesses about it are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) text: Box<str>,
    pub(super) guess: usize,
}

/// Members that stay, and what stays of them; without `inner`: all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) name: Name,
    pub(super) inner: Option<Vec<Kept>>,
}

/// A member's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scalar<'r> {
    Null,
    Boolean(bool),
    /// As it is written.
    Number(&'r str),
    /// As it is written, without its quotes.
    String {
        text: &'r str,
        is_escaped: bool,
    },
    /// An object or an array.
    Nested,
}

/// A record that is worked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place(u32);

/// The members of the record at hand, in memory that is kept from record to record.
#[derive(Debug, Default)]
pub(super) struct Members {
    members: Vec<Member>,
    first: u32,
    is_changed: bool,
    guesses: Vec<u32>,
    /// Scratch.
    order: Vec<u32>,
    /// The pipeline's own texts, and after them what was made for this record.
    made: Vec<u8>,
    own_bytes: usize,
}

impl Members {
    /// For a pipeline with so many guesses and these texts.
    pub(super) fn new(guesses: usize, texts: &[u8]) -> Self {
        Self { guesses: vec![NONE; guesses], made: texts.to_vec(), own_bytes: texts.len(), ..Self::default() }
    }

    /// Takes the next record. `None`: it is no JSON object.
    pub(super) fn begin(&mut self, record: &[u8]) -> Option<()> {
        self.members.clear();
        self.made.truncate(self.own_bytes);
        self.is_changed = false;
        let start = skip_space(record, 0);
        let (first, end) = self.scan(record, start, NONE)?;
        self.first = first;
        (skip_space(record, end) == record.len()).then_some(())
    }

    /// Scans the object that begins at `at`; its first member, and where it ends.
    fn scan(&mut self, record: &[u8], at: usize, parent: u32) -> Option<(u32, usize)> {
        if *record.get(at)? != b'{' {
            return None;
        }
        let mut at = skip_space(record, at + 1);
        if *record.get(at)? == b'}' {
            return Some((NONE, at + 1));
        }
        let first = self.members.len();
        loop {
            let start = at;
            if *record.get(at)? != b'"' {
                return None;
            }
            let (name_end, is_escaped) = string_end(record, at + 1)?;
            let name = if is_escaped {
                self.unescaped(record.get(at..name_end)?)?
            } else {
                Text::of_record(at + 1..name_end - 1)
            };
            at = skip_space(record, name_end);
            if *record.get(at)? != b':' {
                return None;
            }
            let value = skip_space(record, at + 1);
            let end = value_end(record, value)?;
            let next = self.members.len() as u32 + 1;
            self.members.push(Member {
                parent,
                next,
                name,
                written: Text::of_record(start..name_end),
                value: Value::Text(Text::of_record(value..end)),
                whole: (start as u32, end as u32),
                is_there: true,
                is_changed: false,
                is_marked: false,
            });
            at = skip_space(record, end);
            match *record.get(at)? {
                b',' => at = skip_space(record, at + 1),
                b'}' => break,
                _ => return None,
            }
        }
        self.members.last_mut()?.next = NONE;
        Some((first as u32, at + 1))
    }

    #[cold]
    fn unescaped(&mut self, quoted: &[u8]) -> Option<Text> {
        let name: String = serde_json::from_slice(quoted).ok()?;
        Some(self.make(name.as_bytes()))
    }

    /// Keeps `text` for this record.
    pub(super) fn make(&mut self, text: &[u8]) -> Text {
        let start = self.made.len();
        self.made.extend_from_slice(text);
        Text::made(start..self.made.len())
    }

    fn bytes<'a>(&'a self, record: &'a [u8], text: Text) -> &'a [u8] {
        if text.is_made { &self.made[text.range()] } else { &record[text.range()] }
    }

    fn list(&self, parent: u32) -> u32 {
        match self.members.get(parent as usize).map(|member| member.value) {
            None => self.first,
            Some(Value::Open(first)) => first,
            Some(Value::Text(_)) => NONE,
        }
    }

    /// The member of this name in the object `parent`.
    fn member(&mut self, record: &[u8], parent: u32, name: &Name) -> Option<u32> {
        let is_it = |member: &Member| {
            member.is_there && member.parent == parent && self.bytes(record, member.name) == name.text.as_bytes()
        };
        let guess = self.guesses[name.guess];
        if self.members.get(guess as usize).is_some_and(is_it) {
            return Some(guess);
        }
        let mut at = self.list(parent);
        while at != NONE {
            let member = &self.members[at as usize];
            if is_it(member) {
                self.guesses[name.guess] = at;
                return Some(at);
            }
            at = member.next;
        }
        None
    }

    /// Looks into an object. `None`: it is none.
    fn open(&mut self, record: &[u8], member: u32) -> Option<()> {
        let Value::Text(text) = self.members[member as usize].value else { return Some(()) };
        if text.is_made || record.get(text.start as usize) != Some(&b'{') {
            return None;
        }
        let (first, _) = self.scan(record, text.start as usize, member)?;
        self.members[member as usize].value = Value::Open(first);
        Some(())
    }

    /// The object that `names` lead to, as a parent.
    fn object(&mut self, record: &[u8], names: &[Name]) -> Option<u32> {
        names.iter().try_fold(NONE, |parent, name| {
            let member = self.member(record, parent, name)?;
            self.open(record, member)?;
            Some(member)
        })
    }

    /// The field that `path` leads to through objects, if it is there.
    pub(super) fn find(&mut self, record: &[u8], path: &[Name]) -> Option<Place> {
        let (last, before) = path.split_last()?;
        let parent = self.object(record, before)?;
        self.member(record, parent, last).map(Place)
    }

    /// Its value.
    pub(super) fn scalar<'a>(&'a self, record: &'a [u8], place: Place) -> Scalar<'a> {
        let Value::Text(text) = self.members[place.0 as usize].value else { return Scalar::Nested };
        // A record was checked before it was taken; a text of ours is UTF-8.
        let Ok(text) = std::str::from_utf8(self.bytes(record, text)) else { return Scalar::Nested };
        match text.as_bytes() {
            [b'"', .., b'"'] if text.len() > 1 => {
                let text = &text[1..text.len() - 1];
                Scalar::String { text, is_escaped: text.contains('\\') }
            }
            b"null" => Scalar::Null,
            b"true" => Scalar::Boolean(true),
            b"false" => Scalar::Boolean(false),
            [b'-' | b'0'..=b'9', ..] => Scalar::Number(text),
            _ => Scalar::Nested,
        }
    }

    /// Notes that the record is not what it was at `member`.
    fn change(&mut self, member: u32) {
        self.is_changed = true;
        let mut at = member;
        while let Some(member) = self.members.get_mut(at as usize) {
            member.is_changed = true;
            at = member.parent;
        }
    }

    /// Takes a field away.
    pub(super) fn remove(&mut self, Place(member): Place) {
        self.members[member as usize].is_there = false;
        self.change(self.members[member as usize].parent);
    }

    /// Gives a field another value, as JSON text.
    pub(super) fn set(&mut self, Place(member): Place, value: Text) {
        self.members[member as usize].value = Value::Text(value);
        self.change(member);
    }

    /// Gives a field another name; a member that had it before goes.
    pub(super) fn rename(&mut self, record: &[u8], Place(member): Place, (name, written): (Text, Text)) {
        let parent = self.members[member as usize].parent;
        let mut at = self.list(parent);
        while at != NONE {
            let other = self.members[at as usize];
            if at != member && other.is_there && self.bytes(record, other.name) == self.bytes(record, name) {
                self.members[at as usize].is_there = false;
            }
            at = other.next;
        }
        let member_there = &mut self.members[member as usize];
        (member_there.name, member_there.written) = (name, written);
        self.change(member);
    }

    /// Takes away what is not in `kept`. Of a member that is to be kept in part and is no object, nothing is kept.
    pub(super) fn keep(&mut self, record: &[u8], kept: &[Kept]) {
        self.keep_in(record, NONE, kept);
    }

    fn keep_in(&mut self, record: &[u8], parent: u32, kept: &[Kept]) {
        for Kept { name, inner } in kept {
            let Some(member) = self.member(record, parent, name) else { continue };
            let is_kept = match inner {
                None => true,
                Some(inner) => {
                    let is_object = self.open(record, member).is_some();
                    if is_object {
                        self.keep_in(record, member, inner);
                    }
                    is_object
                }
            };
            self.members[member as usize].is_marked = is_kept;
        }
        let mut at = self.list(parent);
        let mut is_changed = false;
        while let Some(member) = self.members.get_mut(at as usize) {
            is_changed |= member.is_there && !member.is_marked;
            member.is_there &= member.is_marked;
            member.is_marked = false;
            at = member.next;
        }
        if is_changed {
            self.change(parent);
        }
    }

    /// Puts these members of an object before its others.
    pub(super) fn reorder(&mut self, record: &[u8], object: &[Name], names: &[Name]) {
        let Some(parent) = self.object(record, object) else { return };
        let mut last = NONE;
        let mut is_changed = false;
        let old = self.list(parent);
        let mut append = |members: &mut Self, member: u32| {
            let before = match last {
                NONE => std::mem::replace(members.list_mut(parent), member),
                last => std::mem::replace(&mut members.members[last as usize].next, member),
            };
            is_changed |= before != member;
            last = member;
        };
        // The old order is lost where it is changed, so it is read ahead.
        let mut rest = std::mem::take(&mut self.order);
        rest.clear();
        let following = |at: &u32| self.members.get(*at as usize).map(|member| member.next);
        rest.extend(std::iter::successors(Some(old), following).take_while(|at| *at != NONE));
        for name in names {
            let Some(member) = self.member_of(record, &rest, parent, name) else { continue };
            self.members[member as usize].is_marked = true;
            append(self, member);
        }
        for &member in &rest {
            if !std::mem::take(&mut self.members[member as usize].is_marked) {
                append(self, member);
            }
        }
        append(self, NONE);
        self.order = rest;
        if is_changed {
            self.change(parent);
        }
    }

    /// As [`Self::member`], while the list is being changed.
    fn member_of(&mut self, record: &[u8], all: &[u32], parent: u32, name: &Name) -> Option<u32> {
        let is_it = |at: u32| {
            let member = &self.members[at as usize];
            member.is_there && member.parent == parent && self.bytes(record, member.name) == name.text.as_bytes()
        };
        let guess = self.guesses[name.guess];
        if (guess as usize) < self.members.len() && is_it(guess) {
            return Some(guess);
        }
        let found = all.iter().copied().find(|at| is_it(*at))?;
        self.guesses[name.guess] = found;
        Some(found)
    }

    fn list_mut(&mut self, parent: u32) -> &mut u32 {
        if parent != NONE
            && let Value::Open(first) = &mut self.members[parent as usize].value
        {
            return first;
        }
        &mut self.first
    }

    /// Whether anything is not as it was.
    pub(super) fn is_changed(&self) -> bool {
        self.is_changed
    }

    /// Writes the record as it is now.
    pub(super) fn write(&self, record: &[u8], out: &mut Vec<u8>) {
        self.write_object(record, self.first, out, DEPTH_MAX);
    }

    fn write_object(&self, record: &[u8], first: u32, out: &mut Vec<u8>, depth: usize) {
        out.push(b'{');
        let mut is_first = true;
        // Neighbours that are as they were are one copy.
        let mut run: Option<(u32, u32, u32)> = None;
        let mut comma = |out: &mut Vec<u8>| {
            if !std::mem::take(&mut is_first) {
                out.push(b',');
            }
        };
        let mut at = first;
        while let Some(member) = self.members.get(at as usize) {
            let (number, next) = (at, member.next);
            at = next;
            if !member.is_there {
                continue;
            }
            if !member.is_changed {
                run = match run {
                    Some((start, _, last)) if last + 1 == number => Some((start, member.whole.1, number)),
                    before => {
                        if let Some((start, end, _)) = before {
                            comma(out);
                            out.extend_from_slice(&record[start as usize..end as usize]);
                        }
                        Some((member.whole.0, member.whole.1, number))
                    }
                };
                continue;
            }
            if let Some((start, end, _)) = run.take() {
                comma(out);
                out.extend_from_slice(&record[start as usize..end as usize]);
            }
            comma(out);
            out.extend_from_slice(self.bytes(record, member.written));
            out.push(b':');
            match member.value {
                Value::Text(text) => out.extend_from_slice(self.bytes(record, text)),
                Value::Open(first) if depth > 0 => self.write_object(record, first, out, depth - 1),
                Value::Open(_) => out.extend_from_slice(b"null"),
            }
        }
        if let Some((start, end, _)) = run {
            comma(out);
            out.extend_from_slice(&record[start as usize..end as usize]);
        }
        out.push(b'}');
    }
}

fn skip_space(text: &[u8], mut at: usize) -> usize {
    while matches!(text.get(at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
        at += 1;
    }
    at
}

/// Past the closing quote of the string whose first character is at `at`, and whether it has escapes.
fn string_end(text: &[u8], mut at: usize) -> Option<(usize, bool)> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    // The lowest bit that is set is at the first zero byte.
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word & (ONES << 7);
    let mut is_escaped = false;
    loop {
        if let Some(chunk) = text.get(at..).and_then(<[u8]>::first_chunk) {
            let word = u64::from_le_bytes(*chunk);
            let hits = zeros(word ^ (ONES * b'"' as u64)) | zeros(word ^ (ONES * b'\\' as u64));
            if hits == 0 {
                at += 8;
                continue;
            }
            at += hits.trailing_zeros() as usize / 8;
        }
        match *text.get(at)? {
            b'"' => return Some((at + 1, is_escaped)),
            b'\\' => {
                is_escaped = true;
                at += 2;
            }
            _ => at += 1,
        }
    }
}

/// Past the value that begins at `at`.
fn value_end(text: &[u8], at: usize) -> Option<usize> {
    match *text.get(at)? {
        b'"' => string_end(text, at + 1).map(|(end, _)| end),
        b'{' | b'[' => nested_end(text, at),
        b',' | b':' | b'}' | b']' => None,
        _ => {
            let is_end = |byte: &u8| matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r' | b':' | b'"');
            let rest = &text[at..];
            Some(at + rest.iter().position(is_end).unwrap_or(rest.len()))
        }
    }
}

fn nested_end(text: &[u8], mut at: usize) -> Option<usize> {
    let mut depth = 0usize;
    loop {
        match *text.get(at)? {
            b'"' => {
                at = string_end(text, at + 1)?.0;
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
        at += 1;
    }
}
