//! The document of REST, OpenAPI 3.1: made from the routes, so it says what this very program serves. A route is added where
//! its handler is, in that module's `routes`; a status that is answered with a problem is added to `problem::FAILURES`.

use std::{
    collections::{BTreeSet, HashMap},
    sync::LazyLock,
};

use axum::{
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};

use super::{
    answer,
    operation::{Answers, Described, Route, Schemas, header_references},
    problem::{FAILURES, Failure},
    routes,
};

/// How a caller stands; see `rates`.
pub(super) const RATE_LIMIT: [&str; 3] = ["RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset"];

/// Headers of answers, by name: what they hold, and whether they are always there.
const HEADERS: &[(&str, &str, bool, &str)] = &[
    ("Allow", "The methods that the path takes.", true, "^[A-Z]+(, ?[A-Z]+)*$"),
    ("Cache-Control", "no-store: the answer holds a secret. Missing where the secret is.", false, "^no-store$"),
    ("ETag", "The version of the object, for If-Match.", true, "^\"[0-9]+\"$"),
    ("Idempotent-Replayed", "The answer is that of an earlier request with this Idempotency-Key.", false, "^true$"),
    ("Location", "The path of what was created.", true, "^/"),
    (RATE_LIMIT[0], "What the caller may do in the time of its limit. Missing where there is none.", false, "^[0-9]+$"),
    (RATE_LIMIT[1], "What is left of it.", false, "^[0-9]+$"),
    (RATE_LIMIT[2], "In how many seconds all of it is there again.", false, "^[0-9]+$"),
    ("Retry-After", "In how many seconds to try again.", true, "^[0-9]+$"),
    ("WWW-Authenticate", "How to show a credential.", true, "^Bearer"),
    ("X-Request-Id", "The request's id, as it stands in the log and the audit log.", true, "^[A-Za-z0-9._-]{1,128}$"),
];

const ABOUT: &str = "The control plane of TTDust, and a way to write and read records for whoever speaks no gRPC, which is the faster one.\n\nEvery answer that is no success is a \
    problem (RFC 9457) of the media type `application/problem+json`; its `code` is made to be compared, its `detail` to be \
    read. A path that is not here, but for the console's \
    under /ui, is answered with 404, a method that is not here with 405 and `Allow`, what may be a web page's \
    request with 403 where no credential is asked for; HEAD is answered \
    wherever GET is. Unknown parameters and members are refused with 400. Lists come in pages: `page_size` entries, and \
    `next_page_token` for the next ones, null at the end.";

static DOCUMENT: LazyLock<String> = LazyLock::new(|| {
    let mut text = serde_json::to_string_pretty(&document()).expect("a value always serialises");
    text.push('\n');
    text
});

/// The document as JSON text.
#[must_use]
pub fn text() -> &'static str {
    &DOCUMENT
}

/// The document, as an answer.
#[derive(Debug)]
pub(super) struct Document;

impl Answers for Document {
    fn describe(to: &mut Described) {
        let schema = json!({"type": "object", "required": ["openapi", "info", "paths"]});
        to.answer_of(StatusCode::OK, &[], &json!({"application/json": {"schema": schema}}));
    }
}

impl IntoResponse for Document {
    fn into_response(self) -> Response {
        answer::json(text())
    }
}

pub(super) fn routes_of_document() -> Vec<Route> {
    vec![Route::get("/openapi.json", "getOpenApi", "Read this document", async || Document)]
}

/// Statuses that an operation may answer with: of this method, at this path.
pub(super) fn is_documented(method: &Method, path: &str, status: StatusCode) -> bool {
    type Statuses = HashMap<&'static str, Vec<(Method, BTreeSet<u16>)>>;
    static STATUSES: LazyLock<Statuses> = LazyLock::new(|| {
        let mut statuses = Statuses::new();
        for route in routes().into_iter().flat_map(|group| group.routes) {
            statuses.entry(route.path).or_default().push((route.method.clone(), route.statuses()));
        }
        statuses
    });
    let method = if method == Method::HEAD { &Method::GET } else { method };
    let known = STATUSES.get(path).and_then(|methods| methods.iter().find(|(known, _)| known == method));
    // See `origin` for the other.
    let of_any = matches!(status, StatusCode::METHOD_NOT_ALLOWED | StatusCode::FORBIDDEN);
    known.map_or(of_any, |(_, statuses)| statuses.contains(&status.as_u16()))
}

/// The document.
pub(super) fn document() -> Value {
    let (mut paths, mut tags, mut schemas) = (Map::new(), Vec::new(), Schemas::new());
    for group in routes() {
        tags.push(json!({"name": group.tag, "description": group.about}));
        for route in group.routes {
            let operation;
            (operation, schemas) = route.document(group.tag, schemas);
            let path = paths.entry(route.path).or_insert_with(|| json!({}));
            path[route.method.as_str().to_ascii_lowercase()] = operation;
        }
    }
    let mut schemas = schemas.take();
    schemas.insert("Problem".into(), problem_schema());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "TTDust",
            "summary": "Schemas, streams, keys, records and queries",
            "description": ABOUT,
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "Apache License 2.0", "identifier": env!("CARGO_PKG_LICENSE")},
        },
        "servers": [{"url": "/", "description": "The server that gave this document"}],
        "tags": tags,
        "paths": paths,
        "components": {
            "schemas": schemas,
            "headers": HEADERS.iter().map(header).collect::<Map<_, _>>(),
            "responses": FAILURES.iter().map(response).collect::<Map<_, _>>(),
            "parameters": {"RequestId": request_id_parameter()},
            "securitySchemes": security_schemes(),
        },
    })
}

fn header((name, about, required, pattern): &(&str, &str, bool, &str)) -> (String, Value) {
    let schema = json!({"type": "string", "pattern": pattern});
    ((*name).to_owned(), json!({"description": about, "required": required, "schema": schema}))
}

fn response(failure: &Failure) -> (String, Value) {
    let of_status = json!({"properties": {"status": {"const": failure.status}, "code": {"enum": failure.codes}}});
    let schema = json!({"allOf": [{"$ref": "#/components/schemas/Problem"}, of_status]});
    let response = json!({
        "description": format!("{} `code`: {}.", failure.about, failure.codes.join(", ")),
        "headers": header_references(&[failure.headers, &RATE_LIMIT].concat()),
        "content": {"application/problem+json": {"schema": schema}},
    });
    (failure.name.to_owned(), response)
}

fn problem_schema() -> Value {
    let codes: BTreeSet<_> = FAILURES.iter().flat_map(|failure| failure.codes).collect();
    let text = |about: &str| json!({"type": "string", "description": about});
    let field = json!({
        "type": "object",
        "required": ["pointer", "detail"],
        "properties": {
            "pointer": text("A JSON Pointer into the body, or the name of a parameter."),
            "detail": text("What is wrong and what to do."),
        },
    });
    json!({
        "type": "object",
        "description": "Why a request was not done (RFC 9457).",
        "required": ["type", "title", "status", "detail", "code", "trace_id"],
        "properties": {
            "type": {"type": "string", "format": "uri", "description": "`urn:ttdust:error:` and the code."},
            "title": text("The name of the status."),
            "status": {"type": "integer", "minimum": 400, "maximum": 599, "description": "The status."},
            "detail": text("What is wrong and what to do, for people."),
            "code": {"enum": codes, "description": "The reason, for programs; the same as in gRPC."},
            "trace_id": text("The request's id."),
            "errors": {"type": "array", "items": field, "description": "The fields at fault, where fields are."},
        },
    })
}

fn request_id_parameter() -> Value {
    json!({
        "name": "X-Request-Id",
        "in": "header",
        "required": false,
        "description": "An id for the request. Without one of 1 to 128 letters, digits, '.', '_' and '-', the server gives it one.",
        "schema": {"type": "string"},
    })
}

fn security_schemes() -> Value {
    json!({
        "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, or a JWT (RS256) where the server takes them."},
        "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "An API key."},
        "certificate": {"type": "mutualTLS", "description": "A client certificate whose name has a role, where the server asks for them."},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_and_link_leads_somewhere_and_names_are_unique() {
        let document = document();
        let (mut references, mut linked) = (Vec::new(), Vec::new());
        collect(&document, &mut |name, value| match (name, value.as_str()) {
            ("$ref", Some(path)) => references.push(path.to_owned()),
            ("links", _) => linked.extend(value.as_object().expect("links").keys().cloned()),
            _ => {}
        });
        assert!(references.len() > 100, "the search works");
        for reference in &references {
            let pointer = reference.strip_prefix('#').expect("a reference into the document");
            assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
        }
        let operations: Vec<_> = operations(&document).collect();
        let unique: BTreeSet<_> =
            operations.iter().map(|(_, _, operation)| operation["operationId"].to_string()).collect();
        assert_eq!(unique.len(), operations.len());
        assert!(linked.iter().all(|id| unique.contains(&json!(id).to_string())), "{linked:?}");
    }

    #[test]
    fn everything_says_what_it_is() {
        let document = document();
        for (path, method, operation) in operations(&document) {
            assert!(operation["summary"].as_str().is_some_and(|text| !text.is_empty()), "{method} {path}");
            for parameter in operation["parameters"].as_array().expect("a list") {
                let described = parameter["description"].as_str().is_some_and(|text| !text.is_empty());
                assert!(described || parameter["$ref"].is_string(), "{method} {path}: {parameter}");
            }
            let secured = !operation["security"].as_array().expect("a list").is_empty();
            assert_eq!(secured, path.starts_with(super::super::operation::API), "{method} {path}");
            for part in path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')) {
                let parameters = operation["parameters"].as_array().expect("a list");
                assert!(parameters.iter().any(|p| p["in"] == "path" && p["name"] == part), "{method} {path}: {part}");
            }
        }
    }

    fn operations(document: &Value) -> impl Iterator<Item = (&String, &String, &Value)> {
        let paths = document["paths"].as_object().expect("an object");
        paths.iter().flat_map(|(path, methods)| {
            methods.as_object().expect("an object").iter().map(move |(method, operation)| (path, method, operation))
        })
    }

    fn collect(value: &Value, found: &mut impl FnMut(&str, &Value)) {
        match value {
            Value::Object(members) => members.iter().for_each(|(name, value)| {
                found(name, value);
                collect(value, found);
            }),
            Value::Array(entries) => entries.iter().for_each(|entry| collect(entry, found)),
            _ => {}
        }
    }
}
