//! What a command prints on standard output: tables for people, the server's own JSON for programs.
//!
//! On a terminal columns are aligned and lines are cut to its width. Elsewhere a tab stands between columns and nothing is cut,
//! so that `cut`, `awk` and `sort` get whole values.

use std::{
    io::{self, BufWriter, IsTerminal as _, Stdout, Write as _},
    os::fd::AsFd as _,
};

use clap::ValueEnum;
use serde_json::{Value, value::RawValue};

use super::{
    failure::{Failure, Outcome},
    text::{cell, plain},
};

/// The form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Form {
    /// For people.
    #[default]
    Table,
    /// For programs: the server's JSON, one object a line where there are several.
    Json,
}

/// A column of a table, or a line of an object.
#[derive(Clone, Copy)]
pub(super) struct Column {
    title: &'static str,
    /// JSON Pointer of the value.
    pointer: &'static str,
    shown: fn(&Value) -> String,
}

/// A column of values as they are.
pub(super) const fn column(title: &'static str, pointer: &'static str) -> Column {
    Column { title, pointer, shown: cell }
}

/// A column of values as `shown` has them.
pub(super) const fn column_of(title: &'static str, pointer: &'static str, shown: fn(&Value) -> String) -> Column {
    Column { title, pointer, shown }
}

/// Standard output.
pub(super) struct Output {
    pub(super) form: Form,
    /// Columns of the terminal, if it is one.
    width: Option<usize>,
    bold: bool,
    out: BufWriter<Stdout>,
}

impl Output {
    pub(super) fn new(form: Form, no_color: bool) -> Self {
        let stdout = io::stdout();
        let width = stdout.is_terminal().then(|| columns_of(&stdout));
        Self { form, width, bold: width.is_some() && !no_color, out: BufWriter::new(stdout) }
    }

    /// Whether it goes to a person's terminal.
    pub(super) fn is_terminal(&self) -> bool {
        self.width.is_some()
    }

    /// Whether it may be told from the rest by more than its words.
    pub(super) fn has_color(&self) -> bool {
        self.bold
    }

    /// A line as it is.
    pub(super) fn line(&mut self, text: impl AsRef<[u8]>) -> Outcome {
        self.out.write_all(text.as_ref()).and_then(|()| self.out.write_all(b"\n")).map_err(Failure::output)
    }

    /// JSON on one line: line breaks, which stand only between tokens, become spaces.
    pub(super) fn json(&mut self, text: &str) -> Outcome {
        if text.contains(['\n', '\r']) {
            return self.line(text.trim_end().replace(['\n', '\r'], " "));
        }
        self.line(text)
    }

    /// Sends what was printed on its way.
    pub(super) fn flush(&mut self) -> Outcome {
        self.out.flush().map_err(Failure::output)
    }

    /// The entries of a list.
    pub(super) fn list(&mut self, items: &[Box<RawValue>], columns: &[Column]) -> Outcome {
        if self.form == Form::Json {
            items.iter().try_for_each(|item| self.json(item.get()))?;
            return self.flush();
        }
        let rows = items.iter().map(|item| {
            let item: Value = serde_json::from_str(item.get()).unwrap_or_default();
            columns.iter().map(|column| column.cell(&item)).collect()
        });
        self.table(columns.iter().map(|column| column.title.to_owned()).collect(), rows.collect())
    }

    /// One object, a line a member.
    pub(super) fn object(&mut self, text: &str, columns: &[Column]) -> Outcome {
        if self.form == Form::Json {
            self.json(text)?;
            return self.flush();
        }
        let object: Value = serde_json::from_str(text).unwrap_or_default();
        let lines = columns.iter().map(|column| (column.title.to_lowercase(), column.cell(&object)));
        self.members(lines.collect())
    }

    /// Names and values, a line each.
    pub(super) fn members(&mut self, lines: Vec<(String, String)>) -> Outcome {
        let widest = lines.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        for (name, value) in lines {
            match self.width {
                // A value of one object is read whole: it may take more than a line of the terminal.
                Some(_) => self.line(format!("{name:widest$}  {value}"))?,
                None => self.line(format!("{name}\t{value}"))?,
            }
        }
        self.flush()
    }

    /// Rows under their titles.
    pub(super) fn table(&mut self, titles: Vec<String>, rows: Vec<Vec<String>>) -> Outcome {
        let Some(width) = self.width else {
            self.line(titles.join("\t"))?;
            rows.iter().try_for_each(|row| self.line(row.join("\t")))?;
            return self.flush();
        };
        let mut widths: Vec<_> = titles.iter().map(|title| title.chars().count()).collect();
        for row in &rows {
            for (widest, cell) in widths.iter_mut().zip(row) {
                *widest = (*widest).max(cell.chars().count());
            }
        }
        let head = aligned(&titles, &widths, width);
        if self.bold {
            self.line(format!("\u{1b}[1m{head}\u{1b}[0m"))?;
        } else {
            self.line(head)?;
        }
        rows.iter().try_for_each(|row| self.line(aligned(row, &widths, width)))?;
        self.flush()
    }

    /// A line that others follow, cut to the terminal's width.
    pub(super) fn row(&mut self, cells: &[String]) -> Outcome {
        match self.width {
            Some(width) => self.line(cut(&cells.join("  "), width)),
            None => self.line(cells.join("\t")),
        }
    }
}

impl Column {
    fn cell(&self, object: &Value) -> String {
        (self.shown)(object.pointer(self.pointer).unwrap_or(&Value::Null))
    }
}

fn columns_of(terminal: &Stdout) -> usize {
    const USUAL: usize = 80;
    let size = rustix::termios::tcgetwinsize(terminal.as_fd());
    // Some say 0 of what they do not know.
    size.ok().map(|size| usize::from(size.ws_col)).filter(|&columns| columns > 0).unwrap_or(USUAL)
}

fn aligned(row: &[String], widths: &[usize], width: usize) -> String {
    let cells = row.iter().zip(widths).map(|(cell, widest)| format!("{cell:widest$}"));
    cut(cells.collect::<Vec<_>>().join("  ").trim_end(), width)
}

/// The text in at most `width` characters.
pub(super) fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(width - 1).collect();
    short.push('…');
    short
}

/// Tells something on standard error that is no part of the answer.
pub(super) fn note(text: &str) {
    // With nobody to read it nothing is lost.
    let _ = writeln!(io::stderr(), "{}", plain(text));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_aligned_and_cut() {
        let row = ["a".to_owned(), "é".to_owned(), "c".to_owned()];
        assert_eq!(aligned(&row, &[3, 2, 5], 80), "a    é   c");
        assert_eq!(aligned(&row, &[3, 2, 5], 5), "a   …");
        assert_eq!(cut("abc", 3), "abc");
    }

    #[test]
    fn a_column_shows_what_its_pointer_names() {
        let object = serde_json::json!({"a": {"b": 1}});
        assert_eq!(column("B", "/a/b").cell(&object), "1");
        assert_eq!(column("C", "/a/c").cell(&object), "-");
    }
}
