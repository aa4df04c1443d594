//! `/ui`: the console, a page that shows the server to people. Its files are in the program, hold nothing of the server, and need
//! no credential; what the page shows it asks REST for, with the key that its reader pastes into it.
//!
//! No operation of REST, and not in its document: programs have no use for it.

use std::sync::LazyLock;

use axum::{
    Router,
    extract::Path,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::get,
};
use sha2::{Digest as _, Sha256};

use super::{Shared, problem::Problem};

/// What all its paths begin with.
const UI: &str = "/ui";
const PAGE: &str = "index.html";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// Scripts and styles of this server and no others, no connection to elsewhere, and no page around it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
    frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

macro_rules! files {
    ($($name:literal: $kind:ident),* $(,)?) => {
        &[$(($name, $kind, include_bytes!(concat!("ui/", $name)))),*]
    };
}

/// The page's files: name, type and content.
const FILES: &[(&str, &str, &[u8])] = files! {
    "index.html": HTML,
    "console.css": CSS,
    "views.css": CSS,
    "icon.svg": SVG,
    "console.js": SCRIPT,
    "api.js": SCRIPT,
    "credential.js": SCRIPT,
    "diff.js": SCRIPT,
    "dom.js": SCRIPT,
    "format.js": SCRIPT,
    "health.js": SCRIPT,
    "history.js": SCRIPT,
    "jobs.js": SCRIPT,
    "json.js": SCRIPT,
    "metrics.js": SCRIPT,
    "notice.js": SCRIPT,
    "overview.js": SCRIPT,
    "plot.js": SCRIPT,
    "query.js": SCRIPT,
    "schemas.js": SCRIPT,
    "sse.js": SCRIPT,
    "streams.js": SCRIPT,
    "tail.js": SCRIPT,
};

/// The ETags of [`FILES`]: a new program has new ones where a file is another.
static TAGS: LazyLock<Vec<String>> = LazyLock::new(|| FILES.iter().map(|(_, _, content)| tag(content)).collect());

fn tag(content: &[u8]) -> String {
    let hex: String = Sha256::digest(content)[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("\"{hex}\"")
}

/// Adds the console to the router.
pub(super) fn serve(router: Router<Shared>) -> Router<Shared> {
    router
        .route(UI, get(async |headers: HeaderMap| answer(PAGE, &headers)))
        .route("/ui/", get(async || redirect()))
        .route("/ui/{file}", get(async |Path(name): Path<String>, headers: HeaderMap| answer(&name, &headers)))
}

/// Whether the path, as it is routed, is one of the console's.
pub(super) fn is_of(path: &str) -> bool {
    path.strip_prefix(UI).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn answer(name: &str, asked: &HeaderMap) -> Response {
    let Some(at) = FILES.iter().position(|(known, ..)| *known == name) else {
        return Problem::new(StatusCode::NOT_FOUND, "NOT_FOUND", "the console has no such file").into_response();
    };
    let (_, kind, content) = FILES[at];
    let mut response = if is_known(asked, &TAGS[at]) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        ([(header::CONTENT_TYPE, kind)], content).into_response()
    };
    let tag = HeaderValue::from_str(&TAGS[at]).expect("hexadecimal digits in quotes");
    response.headers_mut().insert(header::ETAG, tag);
    guarded(response)
}

/// To the page, by a path that holds behind a proxy that serves the server under another one.
fn redirect() -> Response {
    guarded((StatusCode::PERMANENT_REDIRECT, [(header::LOCATION, "../ui")]).into_response())
}

/// With what tells a browser how far to trust it.
fn guarded(mut response: Response) -> Response {
    const HEADERS: [(HeaderName, &str); 4] = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        // Kept, and asked about each time.
        (header::CACHE_CONTROL, "no-cache"),
    ];
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Whether the client has the file with this tag already.
fn is_known(asked: &HeaderMap, tag: &str) -> bool {
    let values = asked.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let mut tags = values.flat_map(|value| value.split(',')).map(str::trim);
    tags.any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asking(if_none_match: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::IF_NONE_MATCH, if_none_match.parse().expect("a header value"))])
    }

    #[test]
    fn a_file_that_the_client_has_is_not_sent_again() {
        let first = answer(PAGE, &HeaderMap::new());
        assert_eq!(first.status(), StatusCode::OK);
        let tag = first.headers()[header::ETAG].to_str().expect("text");
        for known in [tag, "*", &format!("W/{tag}"), &format!("\"x\", {tag}")] {
            assert_eq!(answer(PAGE, &asking(known)).status(), StatusCode::NOT_MODIFIED, "{known}");
        }
        for other in ["", "\"x\"", "x", tag.trim_matches('"')] {
            assert_eq!(answer(PAGE, &asking(other)).status(), StatusCode::OK, "{other}");
        }
    }

    #[test]
    fn every_answer_tells_how_far_to_trust_it() {
        let names = FILES.iter().map(|(name, ..)| answer(name, &HeaderMap::new()));
        for response in names.chain([answer(PAGE, &asking("*")), redirect()]) {
            assert!(response.headers()[header::CONTENT_SECURITY_POLICY].to_str().is_ok_and(|p| p == POLICY));
            assert_eq!(response.headers()[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
        }
        for name in ["", "..", "../ui.rs", "nothing.js", "INDEX.HTML"] {
            assert_eq!(answer(name, &HeaderMap::new()).status(), StatusCode::NOT_FOUND, "{name}");
        }
    }

    /// What the policy would refuse, and what would make markup of what the server says.
    #[test]
    fn the_files_load_nothing_from_elsewhere_and_write_no_markup() {
        for (name, kind, content) in FILES {
            let text = std::str::from_utf8(content).expect("UTF-8").to_lowercase();
            let mut banned = vec!["innerhtml", "outerhtml", "insertadjacenthtml", "document.write", "eval(", "srcdoc"];
            if *kind != SVG {
                banned.push("https://");
            }
            if *kind == CSS {
                banned.extend(["@import", "url("]);
            }
            if *kind == HTML {
                banned.extend(["<style", "style=", "onclick", "onload"]);
            }
            for word in banned {
                assert!(!text.contains(word), "{name} holds {word}");
            }
            assert!(text.lines().count() < 800, "{name} is too long");
        }
    }

    #[test]
    fn its_paths_are_told_from_others() {
        assert!(is_of("/ui") && is_of("/ui/") && is_of("/ui/{file}"));
        assert!(!is_of("/uix") && !is_of("/api/v1/ui") && !is_of("/"));
    }
}
