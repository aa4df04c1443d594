//! An object becomes rows: by its format, and as the options of its import say.

use std::path::Path;

use ttdust_shards::parquet::source::{FileSource, OpenSource};

use super::{
    Format, Rows, Spec,
    columnar::Columnar,
    delimited::Delimited,
    input::{Broken, Input},
    lines::Lines,
    spec::Options,
};

/// What the rows become: records of a stream of this schema, with so many bytes at most.
#[derive(Debug, Clone, Copy)]
pub(super) struct Form<'a> {
    pub(super) definition: &'a str,
    pub(super) bytes_max: usize,
}

/// The rows of the object of this name.
pub(super) fn open(
    source: OpenSource,
    name: &Path,
    (format, options): (Format, &Options),
    form: Form<'_>,
) -> Result<Box<dyn Rows>, Broken> {
    let compression = options.compression.of(name);
    let Form { definition, bytes_max } = form;
    Ok(match format {
        Format::JsonLines => Box::new(Lines::new(Input::open(source, compression)?, bytes_max)),
        Format::Csv => Box::new(Delimited::new(Input::open(source, compression)?, options, definition, bytes_max)?),
        Format::Parquet => Box::new(Columnar::open(source, options, definition)?),
    })
}

/// A row as it is handed on: its record, or what is wrong.
type Read<'a> = Result<&'a [u8], &'a str>;

/// Hands each row of an object on as an import of this kind reads it: its line, and the record or what is wrong. For tests and
/// fuzzing.
///
/// # Errors
/// The options or the object cannot be used; what was handed on before stands.
#[doc(hidden)]
pub fn each_row(
    source: &FileSource,
    spec: &Spec,
    definition: &str,
    bytes_max: usize,
    each: &mut dyn FnMut(u64, Read<'_>),
) -> Result<(), String> {
    let options = spec.options().map_err(|error| error.detail)?;
    let opened = source.open().map_err(|error| error.to_string())?;
    let form = Form { definition, bytes_max };
    let mut rows = open(opened, source.name(), (spec.format, &options), form).map_err(|broken| broken.0)?;
    loop {
        let next = rows.next().map_err(|broken| broken.0)?;
        if next.is_empty() {
            return Ok(());
        }
        for row in &next {
            each(row.line, row.payload.as_ref().map(AsRef::as_ref).map_err(|bad| bad.message.as_str()));
        }
    }
}
