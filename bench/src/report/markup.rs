//! HTML in which only text of this program's own can be markup: whatever is known at run time is escaped.

use std::fmt::{self, Display, Write as _};

/// A document that grows.
#[derive(Debug, Default)]
pub struct Markup(String);

/// Writes what passes through it with everything escaped that could be markup, or end an attribute.
struct Escaping<'a>(&'a mut String);

impl fmt::Write for Escaping<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            match c {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                // Nothing that a page may not hold, nor turns the direction of what follows.
                c if (c.is_control() && !matches!(c, '\n' | '\t'))
                    || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') =>
                {
                    self.0.push('\u{fffd}');
                }
                c => self.0.push(c),
            }
        }
        Ok(())
    }
}

impl Markup {
    /// Markup that stands in this program.
    pub fn raw(&mut self, markup: &'static str) -> &mut Self {
        self.0.push_str(markup);
        self
    }

    /// Text of any origin.
    pub fn text(&mut self, text: impl Display) -> &mut Self {
        write!(Escaping(&mut self.0), "{text}").expect("a String grows");
        self
    }

    /// An element around text.
    pub fn element(&mut self, name: &'static str, text: impl Display) -> &mut Self {
        self.open(name, &[]).text(text).close(name)
    }

    /// The beginning of an element.
    pub fn open(&mut self, name: &'static str, attributes: &[(&'static str, &dyn Display)]) -> &mut Self {
        self.0.push('<');
        self.0.push_str(name);
        self.attributes(attributes);
        self.0.push('>');
        self
    }

    /// Its end.
    pub fn close(&mut self, name: &'static str) -> &mut Self {
        self.0.push_str("</");
        self.0.push_str(name);
        self.0.push('>');
        self
    }

    /// An element with nothing in it.
    pub fn empty(&mut self, name: &'static str, attributes: &[(&'static str, &dyn Display)]) -> &mut Self {
        self.0.push('<');
        self.0.push_str(name);
        self.attributes(attributes);
        self.0.push_str("/>");
        self
    }

    fn attributes(&mut self, attributes: &[(&'static str, &dyn Display)]) {
        for (name, value) in attributes {
            self.0.push(' ');
            self.0.push_str(name);
            self.0.push_str("=\"");
            self.text(value);
            self.0.push('"');
        }
    }

    /// The document.
    #[must_use]
    pub fn into_string(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_the_program_s_own_is_never_markup() {
        let mut markup = Markup::default();
        let evil = "\"><script>alert('1')</script>&\u{0}\u{202e}";
        markup.open("p", &[("title", &evil)]).text(evil).close("p");
        let safe = "&quot;&gt;&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&amp;\u{fffd}\u{fffd}";
        assert_eq!(markup.into_string(), format!("<p title=\"{safe}\">{safe}</p>"));
    }
}
