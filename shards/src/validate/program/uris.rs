//! The usual forms of URIs and of references to them (RFC 3986). User names, and addresses in brackets, are for the reference to
//! judge.

/// Part of a scheme.
const SCHEME: u8 = 1;
/// Part of the name of a host.
const HOST: u8 = 2;
/// Part of a path, a query or a fragment.
const PATH: u8 = 4;

const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0u8;
    while byte < 128 {
        classes[byte as usize] = match byte {
            b'-' | b'.' => SCHEME | HOST | PATH,
            b'_' | b'~' => HOST | PATH,
            b'+' => SCHEME | PATH,
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b',' | b';' | b'=' | b'@' | b':' | b'/' | b'?' => PATH,
            _ if byte.is_ascii_alphanumeric() => SCHEME | HOST | PATH,
            _ => 0,
        };
        byte += 1;
    }
    classes
};

fn class(byte: u8) -> u8 {
    CLASSES[usize::from(byte)]
}

/// How many bytes that open `text` are of `wanted`.
fn run(text: &[u8], wanted: u8) -> usize {
    text.iter().take_while(|&&byte| class(byte) & wanted != 0).count()
}

/// Whether `text` is surely a URI.
pub(super) fn is_uri(text: &[u8]) -> bool {
    let scheme = run(text, SCHEME);
    text.first().is_some_and(u8::is_ascii_alphabetic)
        && text.get(scheme) == Some(&b':')
        && text.get(scheme + 1..).is_some_and(has_authority_and_path)
}

/// Whether `text` is surely a reference to a URI.
pub(super) fn is_reference(text: &[u8]) -> bool {
    // A colon in the first segment makes what is before it a scheme.
    let end = text.iter().find(|byte| matches!(byte, b':' | b'/' | b'?' | b'#'));
    if end == Some(&b':') { is_uri(text) } else { has_authority_and_path(text) }
}

fn has_authority_and_path(text: &[u8]) -> bool {
    let Some(rest) = text.strip_prefix(b"//") else { return is_path(text) };
    let mut at = run(rest, HOST);
    if rest.get(at) == Some(&b':') {
        at += 1 + rest.iter().skip(at + 1).take_while(|byte| byte.is_ascii_digit()).count();
    }
    rest.get(at..).is_some_and(|path| matches!(path.first(), None | Some(b'/' | b'?' | b'#')) && is_path(path))
}

/// A path, a query and a fragment.
fn is_path(text: &[u8]) -> bool {
    let (mut at, mut in_fragment) = (0, false);
    while let Some(&byte) = text.get(at) {
        if class(byte) & PATH != 0 {
            at += 1;
        } else if byte == b'%'
            && text.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
        {
            at += 3;
        } else if byte == b'#' && !in_fragment {
            in_fragment = true;
            at += 1;
        } else {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_usual_forms() {
        let uris = [
            "http://a.example",
            "https://a.example:8080/b/c%20d?e=f&g#h/?i",
            "http://a.example:/",
            "urn:isbn:0451450523",
            "mailto:a@b.cd",
            "file:///etc/hosts",
            "a:",
            "x-y+z.1:%41",
        ];
        let references =
            ["", "/", "//a.example/b", "/a/b:c", "a/b:c", "a@b", "?a:b", "#", "#a:b", "./a", "a%20b/c", "?#?", ";"];
        let neither = [
            "http://a b",
            "http://[::1]/",
            "http://u@a.example/",
            "http://a.example:8x/",
            "http://é",
            "a\\b",
            "/a#b#c",
            "/%4",
            "/%zz",
            "1a:b",
            ":a",
            "a@b:c",
            "%41:b",
            "/<",
            "/\"",
            "/`",
            "/{",
            "/|",
            "/^",
            "/[",
            "\n",
            "//a.example@b",
        ];
        for uri in uris {
            assert!(is_uri(uri.as_bytes()) && is_reference(uri.as_bytes()), "{uri}");
        }
        for reference in references {
            assert!(!is_uri(reference.as_bytes()) && is_reference(reference.as_bytes()), "{reference}");
        }
        for text in neither {
            assert!(!is_uri(text.as_bytes()) && !is_reference(text.as_bytes()), "{text}");
        }
    }
}
