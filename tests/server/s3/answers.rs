//! What the store does with a request, and what it says.

use std::collections::{BTreeMap, HashMap};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Method, Response, request::Parts};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use ttdust::calendar::{now_unix_micros, rfc3339};

use super::{ACCESS_KEY, BUCKET, Body, Broken, Object, State, signature::decode};

/// A request, understood.
pub struct Asked {
    pub operation: &'static str,
    pub key: String,
    bucket: String,
    query: HashMap<String, String>,
}

impl Asked {
    pub fn new(parts: &Parts) -> Self {
        let pairs = parts.uri.query().unwrap_or("").split('&').filter(|pair| !pair.is_empty());
        let query: HashMap<_, _> = pairs
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(name, value)| (decode(name), decode(value)))
            .collect();
        let path = decode(parts.uri.path());
        let (bucket, key) = path[1..].split_once('/').unwrap_or((&path[1..], ""));
        let has = |name: &str| query.contains_key(name);
        let operation = match parts.method {
            Method::PUT if has("partNumber") => "put_part",
            Method::PUT => "put",
            Method::HEAD => "head",
            Method::POST if has("uploads") => "create_upload",
            Method::POST => "complete_upload",
            Method::DELETE if has("uploadId") => "abort_upload",
            Method::DELETE => "delete",
            _ if has("list-type") => "list",
            _ => "get",
        };
        Self { operation, key: key.to_owned(), bucket: bucket.to_owned(), query }
    }

    fn parameter(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }
}

/// What is said.
pub struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
}

impl Reply {
    fn new(status: u16, body: impl Into<Bytes>) -> Self {
        Self { status, headers: Vec::new(), body: body.into() }
    }

    fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.headers.push((name, value.to_string()));
        self
    }

    pub fn into_response(self, asked: &Asked, cut: bool) -> Response<Body> {
        let mut response = Response::builder().status(self.status);
        for (name, value) in &self.headers {
            response = response.header(*name, value);
        }
        let bare = asked.operation == "head";
        if !bare {
            response = response.header("content-length", self.body.len());
        }
        let body: Body = if bare {
            Full::new(Bytes::new()).map_err(Broken::from).boxed()
        } else if cut {
            let half = self.body.slice(..self.body.len() / 2);
            StreamBody::new(stream::iter([Ok(Frame::data(half)), Err(Broken)])).boxed()
        } else {
            Full::new(self.body).map_err(Broken::from).boxed()
        };
        response.body(body).expect("a response")
    }
}

pub fn reply_error(status: u16, code: &str) -> Reply {
    let text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";
    // As AWS has it, which tells more than others are to see.
    let more = format!("<AWSAccessKeyId>{ACCESS_KEY}</AWSAccessKeyId><StringToSign>{ACCESS_KEY}</StringToSign>");
    let more = if status == 403 { more } else { String::new() };
    Reply::new(status, format!("{text}<Error><Code>{code}</Code><Message>as asked for</Message>{more}</Error>"))
}

fn in_base64(checksum: u32) -> String {
    STANDARD.encode(checksum.to_be_bytes())
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Does what is asked.
pub fn answer(state: &mut State, asked: &Asked, headers: &HeaderMap, body: Bytes) -> Reply {
    if asked.bucket != BUCKET {
        return reply_error(404, "NoSuchBucket");
    }
    match asked.operation {
        "put" => put(state, asked, headers, body),
        "get" => get(state, asked, headers),
        "head" => head(state, asked, headers),
        "list" => list(state, asked),
        "delete" => {
            state.objects.remove(&asked.key);
            Reply::new(204, "")
        }
        "create_upload" => {
            state.made += 1;
            let upload = format!("upload-{}", state.made);
            state.uploads.insert(upload.clone(), (asked.key.clone(), BTreeMap::new()));
            let name = "InitiateMultipartUploadResult";
            Reply::new(200, xml(name, &format!("<UploadId>{upload}</UploadId>")))
        }
        "put_part" => {
            if let Some(wrong) = wrong_checksum(state, headers, &body) {
                return wrong;
            }
            let number = asked.parameter("partNumber").parse().expect("a number");
            let Some((_, parts)) = state.uploads.get_mut(asked.parameter("uploadId")) else {
                return reply_error(404, "NoSuchUpload");
            };
            parts.insert(number, body);
            Reply::new(200, "").with("etag", format!("\"part-{number}\""))
        }
        "complete_upload" => complete(state, asked, headers, &body),
        "abort_upload" => match state.uploads.remove(asked.parameter("uploadId")) {
            None => reply_error(404, "NoSuchUpload"),
            Some(_) => Reply::new(204, ""),
        },
        other => panic!("{other} is no operation"),
    }
}

fn wrong_checksum(state: &State, headers: &HeaderMap, body: &[u8]) -> Option<Reply> {
    let given = header(headers, "x-amz-checksum-crc32c")?;
    (state.checksums && given != in_base64(crc32c::crc32c(body))).then(|| reply_error(400, "BadDigest"))
}

/// The refusal of a conditional request.
fn taken(state: &State, asked: &Asked, headers: &HeaderMap) -> Option<Reply> {
    let asks = header(headers, "if-none-match") == Some("*");
    (asks && state.conditional && state.objects.contains_key(&asked.key))
        .then(|| reply_error(412, "PreconditionFailed"))
}

fn put(state: &mut State, asked: &Asked, headers: &HeaderMap, body: Bytes) -> Reply {
    if let Some(refused) = wrong_checksum(state, headers, &body).or_else(|| taken(state, asked, headers)) {
        return refused;
    }
    state.objects.insert(asked.key.clone(), Object { content: body, modified: now_unix_micros() });
    Reply::new(200, "").with("etag", "\"whole\"")
}

fn get(state: &State, asked: &Asked, headers: &HeaderMap) -> Reply {
    let Some(object) = state.objects.get(&asked.key) else { return reply_error(404, "NoSuchKey") };
    let Some(range) = header(headers, "range") else { return Reply::new(200, object.content.clone()) };
    let (first, last) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')).expect("one range");
    let (first, last): (usize, usize) = (first.parse().expect("a number"), last.parse().expect("a number"));
    let all = object.content.len();
    if first >= all {
        return reply_error(416, "InvalidRange");
    }
    let last = last.min(all - 1);
    Reply::new(206, object.content.slice(first..=last)).with("content-range", format!("bytes {first}-{last}/{all}"))
}

fn head(state: &State, asked: &Asked, headers: &HeaderMap) -> Reply {
    let Some(object) = state.objects.get(&asked.key) else { return reply_error(404, "NoSuchKey") };
    let reply = Reply::new(200, "").with("content-length", object.content.len());
    if state.checksums && header(headers, "x-amz-checksum-mode") == Some("ENABLED") {
        return reply.with("x-amz-checksum-crc32c", in_base64(crc32c::crc32c(&object.content)));
    }
    reply
}

fn list(state: &State, asked: &Asked) -> Reply {
    let (prefix, after) = (asked.parameter("prefix"), asked.parameter("start-after"));
    let limit: usize = asked.parameter("max-keys").parse().expect("a number");
    let wanted = |key: &&String| key.starts_with(prefix) && (after.is_empty() || key.as_str() > after);
    let mut keys: Vec<_> = state.objects.keys().filter(wanted).take(limit.min(1000) + 1).collect();
    let more = keys.len() > limit.min(1000);
    keys.truncate(limit.min(1000));
    let mut text = format!("<Name>{BUCKET}</Name><EncodingType>url</EncodingType><IsTruncated>{more}</IsTruncated>");
    for key in keys {
        let object = &state.objects[key];
        let (bytes, modified) = (object.content.len(), rfc3339(object.modified));
        text.push_str(&format!(
            "<Contents><Key>{key}</Key><LastModified>{modified}</LastModified><Size>{bytes}</Size></Contents>"
        ));
    }
    if more {
        text.push_str("<NextContinuationToken>opaque</NextContinuationToken>");
    }
    Reply::new(200, xml("ListBucketResult", &text))
}

fn complete(state: &mut State, asked: &Asked, headers: &HeaderMap, body: &[u8]) -> Reply {
    if !state.uploads.contains_key(asked.parameter("uploadId")) {
        return reply_error(404, "NoSuchUpload");
    }
    if let Some(refused) = taken(state, asked, headers) {
        return refused;
    }
    let listed = String::from_utf8_lossy(body).matches("<PartNumber>").count();
    let (key, parts) = state.uploads.remove(asked.parameter("uploadId")).expect("it is there");
    if listed != parts.len() || parts.keys().copied().ne(1..=listed as u32) {
        return reply_error(400, "InvalidPart");
    }
    let content: Vec<u8> = parts.into_values().flatten().collect();
    if let Some(wrong) = wrong_checksum(state, headers, &content) {
        return wrong;
    }
    state.objects.insert(key, Object { content: content.into(), modified: now_unix_micros() });
    Reply::new(200, xml("CompleteMultipartUploadResult", "<ETag>\"parts\"</ETag>"))
}

fn xml(name: &str, inner: &str) -> String {
    let head = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";
    format!("{head}<{name} xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">{inner}</{name}>")
}
