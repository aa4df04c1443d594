//! Who may call where anyone may: with access open, programs, and not the web pages that a browser beside them shows.
//!
//! A browser lets any page send requests to this machine. It says in `Origin` which page it was; and a page whose own name is
//! made to lead to this machine (DNS rebinding) is known by that name in `Host`. Where credentials are checked neither matters:
//! no browser sends one of ours by itself.

use std::net::IpAddr;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use ttdust_shards::access::Access;

use super::{Shared, problem::Problem};

/// Refuses what may be a web page's.
pub(super) async fn check(State(app): State<Shared>, request: Request, next: Next) -> Response {
    if matches!(app.control.current().access, Access::Open)
        && let Err(detail) = judge(request.uri(), request.headers(), app.on_loopback)
    {
        return Problem::new(StatusCode::FORBIDDEN, "PERMISSION_DENIED", detail).into_response();
    }
    next.run(request).await
}

/// Whether a request is none of a web page from elsewhere; `on_loopback`: only this machine can reach the server.
fn judge(uri: &Uri, headers: &HeaderMap, on_loopback: bool) -> Result<(), &'static str> {
    let authority = |value: &HeaderValue| value.to_str().ok()?.parse::<Authority>().ok();
    if on_loopback {
        let named = headers.get_all(header::HOST).iter().all(|host| authority(host).is_some_and(|a| is_loopback(&a)));
        if !named || !uri.authority().is_none_or(is_loopback) {
            return Err(
                "access is open on this machine alone, and Host is another: call it by localhost or 127.0.0.1, or \
                set auth.mode = keys",
            );
        }
    }
    let of_the_server = |origin: &Authority| {
        let host = headers.get(header::HOST).and_then(authority);
        !on_loopback && host.is_some_and(|host| host == *origin)
    };
    let good = |origin: &HeaderValue| {
        let origin = origin.to_str().ok().and_then(|text| text.parse::<Uri>().ok());
        let origin = origin.as_ref().and_then(Uri::authority);
        origin.is_some_and(|origin| is_loopback(origin) || of_the_server(origin))
    };
    if !headers.get_all(header::ORIGIN).iter().all(good) {
        return Err(
            "access is open, and the request is a web page's from elsewhere: set auth.mode = keys to let it in with \
            a credential",
        );
    }
    Ok(())
}

/// Whether the name or address can be of nothing but this machine.
fn is_loopback(authority: &Authority) -> bool {
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = host.parse::<IpAddr>() {
        return address.to_canonical().is_loopback();
    }
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(host: &str, origin: Option<&str>, on_loopback: bool) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().expect("a header value"));
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().expect("a header value"));
        }
        judge(&Uri::from_static("/api/v1/streams"), &headers, on_loopback).is_ok()
    }

    #[test]
    fn on_loopback_only_names_of_this_machine_are_taken() {
        for host in ["localhost", "localhost:8080", "LOCALHOST", "a.localhost.", "127.0.0.1:80", "127.9.9.9", "[::1]:1"]
        {
            assert!(judged(host, None, true), "{host}");
        }
        for host in
            ["evil.example", "localhost.evil.example", "10.0.0.1", "[2001:db8::1]", "", "127.0.0.1.evil.example"]
        {
            assert!(!judged(host, None, true), "{host}");
            assert!(judged(host, None, false), "{host}: it may be the server's name");
        }
        assert!(judge(&Uri::from_static("/"), &HeaderMap::new(), true).is_ok(), "no browser");
        assert!(judge(&Uri::from_static("http://evil.example/"), &HeaderMap::new(), true).is_err());
    }

    #[test]
    fn a_page_from_elsewhere_is_refused() {
        for origin in ["http://localhost:3000", "http://127.0.0.1", "http://[::1]:8080"] {
            assert!(judged("localhost", Some(origin), true) && judged("dust", Some(origin), false), "{origin}");
        }
        for origin in ["https://evil.example", "null", "http://localhost.evil.example", "file://", ""] {
            assert!(!judged("localhost", Some(origin), true), "{origin}");
            assert!(!judged("dust:8080", Some(origin), false), "{origin}");
        }
        assert!(judged("dust:8080", Some("http://dust:8080"), false), "the server's own");
        assert!(!judged("dust:8080", Some("http://dust:9090"), false));
    }
}
