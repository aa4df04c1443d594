//! Rate limits of REST: each request is counted once, one with records by what it brings, and its answer says how the caller stands, in the `RateLimit-*` headers
//! of draft-ietf-httpapi-ratelimit-headers-06.

use std::sync::{Arc, OnceLock};

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, request::Parts};
use ttdust_shards::{
    access::Principal,
    rate::{Category, RateLimited},
};

use super::{
    Shared,
    problem::{Problem, whole_seconds},
};
use crate::coordination::Standing;

/// As [`super::openapi::RATE_LIMIT`] describes them.
const LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("ratelimit-reset");

/// Whether a request was counted, and how its caller stands since; `None` inside: no limit.
#[derive(Debug, Clone, Default)]
pub(super) struct Limited(Arc<OnceLock<Option<Standing>>>);

impl Limited {
    /// That of a request.
    pub(super) fn of(parts: &Parts) -> Self {
        parts.extensions.get::<Self>().cloned().unwrap_or_default()
    }

    /// Counts the request, if it is not counted yet.
    pub(super) async fn admit(&self, app: &Shared, parts: &Parts, caller: &Principal) -> Result<(), Problem> {
        if self.0.get().is_some() {
            return Ok(());
        }
        let Some(category) = category(&parts.method, parts.uri.path()) else { return Ok(()) };
        let verdict = app.control.admit(category, &caller.id).await;
        let standing = match &verdict {
            Ok(standing) => *standing,
            Err(over) => Some(standing_of(over)),
        };
        // A request is handled by one task: nobody was faster.
        let _ = self.0.set(standing);
        verdict.map(|_| ()).map_err(Problem::from)
    }

    /// Counts what a request with records brings.
    pub(super) async fn admit_records(
        &self,
        app: &Shared,
        caller: &Principal,
        records: usize,
        bytes: usize,
    ) -> Result<(), Problem> {
        let verdict = app.control.admit_records(&caller.id, records, bytes).await;
        let standing = match &verdict {
            Ok(standing) => *standing,
            Err(over) => Some(standing_of(over)),
        };
        // As above.
        let _ = self.0.set(standing);
        verdict.map(|_| ()).map_err(Problem::from)
    }

    /// Says how the caller stands.
    pub(super) fn put_headers(&self, headers: &mut HeaderMap) {
        let Some(Some(standing)) = self.0.get() else { return };
        headers.insert(LIMIT, HeaderValue::from(standing.limit));
        headers.insert(REMAINING, HeaderValue::from(standing.remaining));
        headers.insert(RESET, HeaderValue::from(whole_seconds(standing.reset)));
    }
}

fn standing_of(over: &RateLimited) -> Standing {
    Standing { limit: over.limit, remaining: 0, reset: over.retry_after }
}

/// What a request counts as; `None`: by its records, once they are known.
fn category(method: &Method, path: &str) -> Option<Category> {
    match path.rsplit('/').next() {
        Some("records") if method == Method::POST => None,
        Some("records" | "tail") => Some(Category::Query),
        _ => Some(Category::Admin),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_records_is_a_query_writing_them_is_counted_by_records_and_all_else_is_admin() {
        assert_eq!(category(&Method::GET, "/api/v1/streams/clicks/records"), Some(Category::Query));
        assert_eq!(category(&Method::GET, "/api/v1/streams/clicks/tail"), Some(Category::Query));
        assert_eq!(category(&Method::POST, "/api/v1/streams/clicks/records"), None);
        assert_eq!(category(&Method::GET, "/api/v1/streams/records-of-today"), Some(Category::Admin));
        assert_eq!(category(&Method::POST, "/api/v1/config"), Some(Category::Admin));
    }

    #[test]
    fn an_answer_says_how_its_caller_stands() {
        let limited = Limited::default();
        let mut headers = HeaderMap::new();
        limited.put_headers(&mut headers);
        assert!(headers.is_empty(), "not counted");
        let reset = std::time::Duration::from_millis(1001);
        limited.0.set(Some(Standing { limit: 9, remaining: 4, reset })).expect("the first");
        limited.put_headers(&mut headers);
        assert_eq!([&headers[LIMIT], &headers[REMAINING], &headers[RESET]], ["9", "4", "2"]);
    }
}
