//! CSV (RFC 4180, and with other delimiters and quotes): each row becomes an object whose members are the columns.

use super::{
    Row, Rows,
    fields::{Kinds, Members, put_text},
    input::{Broken, Input},
    spec::Options,
};

/// What is read at a time.
const CHUNK_BYTES: usize = 256 << 10;
/// Rows that are handed on at a time, and what they take, about.
const ROWS_MAX: usize = 1000;
const ROWS_BYTES: usize = 512 << 10;
/// Columns of a row.
const COLUMNS_MAX: usize = 4096;

/// Reads rows.
#[derive(Debug)]
pub(super) struct Delimited {
    records: Records,
    members: Members,
    null: String,
    /// `None`: the header is to be read.
    columns: Option<Vec<Column>>,
    /// What ends the reading, once the rows before it are handed on.
    broken: Option<Broken>,
}

#[derive(Debug)]
struct Column {
    name: String,
    /// The name as JSON, and a colon.
    member: Vec<u8>,
    kinds: Kinds,
}

/// The fields of one row.
#[derive(Debug, Default)]
struct Fields {
    text: Vec<u8>,
    /// Where each ends in `text`, and whether it was quoted.
    ends: Vec<(usize, bool)>,
    /// The line that it begins on.
    line: u64,
    /// It has more than a row may have: what it holds is not all.
    is_too_long: bool,
}

impl Fields {
    fn get(&self, at: usize) -> (&[u8], bool) {
        let start = if at == 0 { 0 } else { self.ends[at - 1].0 };
        let (end, quoted) = self.ends[at];
        (&self.text[start..end], quoted)
    }

    /// A line with nothing on it.
    fn is_blank(&self) -> bool {
        self.ends.len() == 1 && self.get(0) == (&[][..], false)
    }
}

/// Cuts the input into rows of fields.
#[derive(Debug)]
struct Records {
    input: Input,
    buffer: Vec<u8>,
    at: usize,
    ended: bool,
    /// Lines that ended before `at`.
    lines: u64,
    delimiter: u8,
    quote: Option<u8>,
    bytes_max: usize,
}

impl Records {
    /// The next byte.
    fn byte(&mut self) -> Result<Option<u8>, Broken> {
        if self.at == self.buffer.len() {
            if self.ended {
                return Ok(None);
            }
            self.buffer.clear();
            self.at = 0;
            self.ended = self.input.read_more(&mut self.buffer, CHUNK_BYTES)? == 0;
            if self.ended {
                return Ok(None);
            }
        }
        self.at += 1;
        Ok(Some(self.buffer[self.at - 1]))
    }

    fn push(&self, fields: &mut Fields, byte: u8) {
        if fields.text.len() < self.bytes_max {
            fields.text.push(byte);
        } else {
            fields.is_too_long = true;
        }
    }

    fn end_field(fields: &mut Fields, quoted: bool) {
        if fields.ends.len() < COLUMNS_MAX {
            fields.ends.push((fields.text.len(), quoted));
        } else {
            fields.is_too_long = true;
        }
    }

    /// The next row; `false`: there is none.
    fn next(&mut self, fields: &mut Fields) -> Result<bool, Broken> {
        fields.text.clear();
        fields.ends.clear();
        fields.is_too_long = false;
        fields.line = self.lines + 1;
        let (mut quoted, mut begins, mut any) = (false, true, false);
        loop {
            let Some(byte) = self.byte()? else {
                if any {
                    Self::end_field(fields, quoted);
                }
                return Ok(any);
            };
            any = true;
            match byte {
                b'\n' => {
                    self.lines += 1;
                    if !quoted
                        && fields.text.last() == Some(&b'\r')
                        && fields.ends.last().is_none_or(|e| e.0 < fields.text.len())
                    {
                        fields.text.pop();
                    }
                    Self::end_field(fields, quoted);
                    return Ok(true);
                }
                byte if byte == self.delimiter => {
                    Self::end_field(fields, quoted);
                    (quoted, begins) = (false, true);
                    continue;
                }
                byte if begins && Some(byte) == self.quote => {
                    quoted = true;
                    self.quoted(fields, byte)?;
                }
                // Between a closed quote and the line's end.
                b'\r' if quoted => {}
                byte => self.push(fields, byte),
            }
            begins = false;
        }
    }

    /// The rest of a field that began with `quote`, up to the quote that closes it.
    fn quoted(&mut self, fields: &mut Fields, quote: u8) -> Result<(), Broken> {
        let line = self.lines + 1;
        loop {
            match self.byte()? {
                None => return Err(Broken(format!("the quote that is opened on line {line} is never closed"))),
                Some(byte) if byte == quote => match self.byte()? {
                    Some(byte) if byte == quote => self.push(fields, quote),
                    Some(_) => {
                        self.at -= 1;
                        return Ok(());
                    }
                    None => return Ok(()),
                },
                Some(byte) => {
                    self.lines += u64::from(byte == b'\n');
                    self.push(fields, byte);
                }
            }
        }
    }
}

impl Delimited {
    /// The rows of `input`, for a stream of this schema; a record has `record_bytes` at most.
    pub(super) fn new(input: Input, options: &Options, definition: &str, record_bytes: usize) -> Result<Self, Broken> {
        let records = Records {
            input,
            buffer: Vec::new(),
            at: 0,
            ended: false,
            lines: 0,
            delimiter: options.delimiter,
            quote: options.quote,
            bytes_max: record_bytes,
        };
        let members = Members::of(definition);
        let columns = options.columns.as_ref().map(|names| columns(names, &members)).transpose()?;
        Ok(Self { records, members, null: options.null.clone(), columns, broken: None })
    }

    fn read_header(&mut self, fields: &mut Fields) -> Result<bool, Broken> {
        if !self.records.next(fields)? {
            return Ok(false);
        }
        if fields.is_too_long {
            return Err(Broken(format!("its header is longer than a record, or has more than {COLUMNS_MAX} columns")));
        }
        let name = |at| {
            let text = fields.get(at).0;
            let text = if at == 0 { text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text) } else { text };
            let text = std::str::from_utf8(text).map_err(|_| Broken("its header is not UTF-8".to_owned()))?;
            Ok(text.trim().to_owned())
        };
        let names: Vec<String> = (0..fields.ends.len()).map(name).collect::<Result<_, Broken>>()?;
        self.columns = Some(columns(&names, &self.members)?);
        Ok(true)
    }

    fn row(&self, columns: &[Column], fields: &Fields) -> Row {
        let line = fields.line;
        if fields.is_too_long {
            let message = format!("the row has more than {} bytes or {COLUMNS_MAX} fields", self.records.bytes_max);
            return Row::bad(line, message, "");
        }
        if fields.ends.len() != columns.len() {
            let message = format!("the row has {} fields, and there are {} columns", fields.ends.len(), columns.len());
            return Row::bad(line, message, "");
        }
        let mut out = Vec::with_capacity(fields.text.len() + columns.iter().map(|c| c.member.len() + 4).sum::<usize>());
        out.push(b'{');
        for (at, column) in columns.iter().enumerate() {
            let (text, quoted) = fields.get(at);
            let Ok(text) = std::str::from_utf8(text) else {
                return Row::bad(line, "the field is not UTF-8".to_owned(), &column.name);
            };
            let is_null = !quoted && (text == self.null || column.kinds.is_absent(text));
            if is_null && !column.kinds.null {
                continue;
            }
            if out.len() > 1 {
                out.push(b',');
            }
            out.extend_from_slice(&column.member);
            if is_null { out.extend_from_slice(b"null") } else { column.kinds.put(&mut out, text) }
        }
        out.push(b'}');
        Row { line, payload: Ok(out.into()) }
    }
}

fn columns(names: &[String], members: &Members) -> Result<Vec<Column>, Broken> {
    let mut columns: Vec<Column> = Vec::with_capacity(names.len());
    for name in names {
        if name.is_empty() {
            return Err(Broken(
                "a column has no name: name all of them in the header, or in options.columns".to_owned(),
            ));
        }
        if columns.iter().any(|column| column.name == *name) {
            return Err(Broken(format!("two columns are named {name:?}")));
        }
        let mut member = Vec::new();
        put_text(&mut member, name);
        member.push(b':');
        columns.push(Column { name: name.clone(), member, kinds: members.kinds(name) });
    }
    Ok(columns)
}

impl Rows for Delimited {
    fn next(&mut self) -> Result<Vec<Row>, Broken> {
        if let Some(broken) = self.broken.take() {
            return Err(broken);
        }
        let (mut rows, mut bytes, mut fields) = (Vec::new(), 0, Fields::default());
        if self.columns.is_none() && !self.read_header(&mut fields)? {
            return Ok(rows);
        }
        let columns = self.columns.take().expect("it was read");
        while rows.len() < ROWS_MAX && bytes < ROWS_BYTES {
            match self.records.next(&mut fields) {
                Ok(true) if fields.is_blank() => {}
                Ok(true) => {
                    bytes += fields.text.len();
                    rows.push(self.row(&columns, &fields));
                }
                Ok(false) => break,
                Err(broken) => {
                    self.broken = Some(broken);
                    break;
                }
            }
        }
        self.columns = Some(columns);
        match self.broken.take() {
            Some(broken) if rows.is_empty() => Err(broken),
            broken => {
                self.broken = broken;
                Ok(rows)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ttdust_shards::parquet::source::FileSource;

    use super::{
        super::spec::{Compression, Format, Spec},
        *,
    };

    const SCHEMA: &str = r#"{"properties": {"n": {"type": "integer"}, "s": {"type": "string"},
        "o": {"type": ["number", "null"]}}}"#;

    /// The line of a row, and the record or what is wrong.
    type Read = (u64, Result<String, String>);

    fn read(text: &[u8], options: &[(&str, &str)]) -> Result<Vec<Read>, Broken> {
        let options: BTreeMap<_, _> = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let options = Spec { source_uri: String::new(), format: Format::Csv, options }.options().expect("valid");
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("object");
        std::fs::write(&path, text).expect("a file");
        let input = Input::open(FileSource::from(path).open().expect("open"), Compression::None)?;
        let mut rows = Delimited::new(input, &options, SCHEMA, 1000)?;
        let mut all = Vec::new();
        loop {
            let next = rows.next()?;
            if next.is_empty() {
                return Ok(all);
            }
            all.extend(next.into_iter().map(|row| {
                let payload = row.payload.map(|text| String::from_utf8(text.to_vec()).expect("UTF-8"));
                (row.line, payload.map_err(|bad| bad.message))
            }));
        }
    }

    fn good(text: &[u8], options: &[(&str, &str)]) -> Vec<(u64, String)> {
        let rows = read(text, options).expect("rows");
        rows.into_iter().map(|(line, row)| (line, row.expect("good"))).collect()
    }

    #[test]
    fn rows_become_objects_by_the_header_and_the_schema() {
        let text =
            b"\xef\xbb\xbfn,s,o,more\r\n1,a,2.5,x\r\n2,,,\r\n\r\n-3,\"say \"\"hi\"\",\nyou\",,\"\"\r\n4,12,1e3,true";
        let expected = [
            (2, r#"{"n":1,"s":"a","o":2.5,"more":"x"}"#),
            (3, r#"{"n":2,"o":null}"#),
            (5, r#"{"n":-3,"s":"say \"hi\",\nyou","o":null,"more":""}"#),
            (7, r#"{"n":4,"s":"12","o":1e3,"more":"true"}"#),
        ];
        assert_eq!(good(text, &[]), expected.map(|(line, text)| (line, text.to_owned())));
    }

    #[test]
    fn delimiters_quotes_and_nulls_are_a_matter_of_choice() {
        let options = [("delimiter", "\\t"), ("quote", "'"), ("header", "false"), ("columns", "n,s"), ("null", "\\N")];
        let found = good(b"1\t'a\tb'\n2\t\\N\n3\t''\n4\tit's\n", &options);
        let expected =
            [(1, r#"{"n":1,"s":"a\tb"}"#), (2, r#"{"n":2}"#), (3, r#"{"n":3,"s":""}"#), (4, r#"{"n":4,"s":"it's"}"#)];
        assert_eq!(found, expected.map(|(line, text)| (line, text.to_owned())));
        assert_eq!(good(b"n,s\n1,\"a\n", &[("quote", "")]), [(2, r#"{"n":1,"s":"\"a"}"#.to_owned())]);
    }

    #[test]
    fn a_row_of_another_form_is_bad_by_itself() {
        let long = "x".repeat(1001);
        let text = format!("n,s\n1\n2,a,b\n3,{long}\n4,good\n5,\"{long}\"\n");
        let rows = read(text.as_bytes(), &[]).expect("rows");
        let lines: Vec<_> = rows.iter().map(|(line, row)| (*line, row.is_ok())).collect();
        assert_eq!(lines, [(2, false), (3, false), (4, false), (5, true), (6, false)]);
        assert!(rows[0].1.as_ref().expect_err("bad").contains("1 fields"));
        let rows = read(b"n,s\n1,\xff\n2,b\n", &[]).expect("rows");
        assert_eq!(rows.iter().map(|(_, row)| row.is_ok()).collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn what_has_no_rows_at_all_is_refused_or_empty() {
        assert!(good(b"", &[]).is_empty() && good(b"n,s\n", &[]).is_empty());
        for (text, reason) in [
            (&b"n,n\n1,2\n"[..], "two columns"),
            (b"n,,s\n1,2,3\n", "no name"),
            (b"n,s\n1,\"open\n2,b\n", "line 2"),
            (b"\xff\n", "UTF-8"),
        ] {
            let broken = read(text, &[]).expect_err("broken");
            assert!(broken.0.contains(reason), "{broken}");
        }
    }

    #[test]
    fn any_text_is_read_back_as_a_writer_of_csv_has_written_it() {
        let mut state = 7u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let alphabet = [",", "\"", "\n", "\r\n", "a", "é", " ", ";", "\\"];
        let mut text = String::from("s,more\n");
        let mut expected = Vec::new();
        for _ in 0..2000 {
            let mut field = || -> String { (0..random(6)).map(|_| alphabet[random(9) as usize]).collect() };
            let (one, other) = (field(), field());
            let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
            text.push_str(&format!("{},{}\n", quoted(&one), quoted(&other)));
            expected.push(serde_json::json!({"s": one, "more": other}));
        }
        let found: Vec<serde_json::Value> =
            good(text.as_bytes(), &[]).iter().map(|(_, row)| serde_json::from_str(row).expect("JSON")).collect();
        assert_eq!(found, expected);
    }
}
