//! The server's public interface as the commands call it: paths and JSON in, answers or failures out.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use serde_json::{Value, value::RawValue};
use tokio::time::timeout;
use url::{Url, form_urlencoded};

use super::{
    connection::{Connections, NoAnswer, Place, endpoint},
    failure::{Failure, Problem},
    output::note,
};
use crate::{config::Secret, outgoing::with_causes};

/// The longest page of a list.
const PAGE_SIZE: usize = 500;
const JSON: &str = "application/json";

/// A credential, and where it comes from, for people.
#[derive(Debug, Clone)]
pub(super) struct Credential {
    pub(super) secret: Secret,
    pub(super) origin: String,
}

/// A server.
pub(super) struct Api {
    connections: Connections,
    /// As it is told to people.
    place: String,
    host: String,
    /// The part of the path that stands before all others, without a slash at its end.
    prefix: String,
    authorization: Option<HeaderValue>,
    /// Where the credential comes from; none: there is none.
    credential_origin: Option<String>,
    answer_timeout: Duration,
}

/// A request to come.
pub(super) struct Call<'a> {
    pub(super) method: Method,
    /// From `/api` on; parts that come from outside have gone through [`segment`].
    pub(super) path: &'a str,
    pub(super) query: &'a [(&'a str, String)],
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// An answer, read to its end.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Answer {
    /// Its JSON text.
    pub(super) fn text(&self) -> Result<&str, Failure> {
        std::str::from_utf8(&self.body).map_err(|_| not_ours("an answer is no UTF-8"))
    }

    /// Its JSON.
    pub(super) fn parse<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_slice(&self.body).map_err(|error| not_ours(&format!("an answer cannot be read: {error}")))
    }
}

fn not_ours(what: &str) -> Failure {
    Failure::Unreachable {
        what: what.to_owned(),
        remedy: "is this a TTDust server, of a version near to this program's?".to_owned(),
    }
}

/// A part of a path that is a name or an id.
pub(super) fn segment(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' => encoded.push(char::from(byte)),
            // A part of dots alone would be taken for a way up.
            b'.' if text.bytes().any(|byte| byte != b'.') => encoded.push('.'),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

impl Api {
    pub(super) fn new(
        place: &Place,
        credential: Option<Credential>,
        answer_timeout: Duration,
    ) -> Result<Self, Failure> {
        let url: Url = endpoint(&place.endpoint)?;
        let connections = Connections::new(place, &url)?;
        if credential.is_some() && connections.are_in_the_open() {
            note("warning: the key crosses the network unencrypted: use https, or a tunnel to the server's machine");
        }
        let (authorization, credential_origin) = match credential {
            None => (None, None),
            Some(credential) => {
                let text = format!("Bearer {}", credential.secret.reveal());
                let mut value = HeaderValue::try_from(text).map_err(|_| {
                    Failure::usage(format!("the key from {} is no API key or token", credential.origin))
                })?;
                value.set_sensitive(true);
                (Some(value), Some(credential.origin))
            }
        };
        let host = url.host_str().unwrap_or("").to_owned();
        let host = url.port().map_or_else(|| host.clone(), |port| format!("{host}:{port}"));
        Ok(Self {
            connections,
            place: url.as_str().trim_end_matches('/').to_owned(),
            host,
            prefix: url.path().trim_end_matches('/').to_owned(),
            authorization,
            credential_origin,
            answer_timeout,
        })
    }

    /// Where the server is, for people.
    pub(super) fn place(&self) -> &str {
        &self.place
    }

    pub(super) async fn get(&self, path: &str, query: &[(&str, String)]) -> Result<Answer, Failure> {
        self.call(Method::GET, path, query, None).await
    }

    pub(super) async fn post(&self, path: &str, query: &[(&str, String)], body: &Value) -> Result<Answer, Failure> {
        self.post_text(path, query, body.to_string()).await
    }

    /// The same with JSON that is written already.
    pub(super) async fn post_text(
        &self,
        path: &str,
        query: &[(&str, String)],
        body: String,
    ) -> Result<Answer, Failure> {
        self.call(Method::POST, path, query, Some(body.into())).await
    }

    pub(super) async fn patch(&self, path: &str, body: &Value) -> Result<Answer, Failure> {
        self.call(Method::PATCH, path, &[], Some(body.to_string().into())).await
    }

    pub(super) async fn delete(&self, path: &str) -> Result<Answer, Failure> {
        self.call(Method::DELETE, path, &[], None).await
    }

    /// All entries of a list, `most` at most, as the server wrote them. `member` holds a page's.
    pub(super) async fn list(
        &self,
        path: &str,
        query: &[(&str, String)],
        member: &str,
        most: usize,
    ) -> Result<Vec<Box<RawValue>>, Failure> {
        let mut items = Vec::new();
        let mut token: Option<String> = None;
        while items.len() < most {
            let mut query = query.to_vec();
            query.push(("page_size", PAGE_SIZE.min(most - items.len()).to_string()));
            query.extend(token.take().map(|token| ("page_token", token)));
            let mut page: BTreeMap<String, Box<RawValue>> = self.get(path, &query).await?.parse()?;
            let wrong = || not_ours(&format!("the list {path} has no {member}"));
            let found = page.remove(member).ok_or_else(wrong)?;
            items.extend(serde_json::from_str::<Vec<Box<RawValue>>>(found.get()).map_err(|_| wrong())?);
            token = page.remove("next_page_token").and_then(|token| serde_json::from_str(token.get()).ok());
            if token.is_none() {
                break;
            }
        }
        Ok(items)
    }

    /// How the server and its parts are, also where they are not well: that is no problem, but the answer.
    pub(super) async fn health(&self) -> Result<Answer, Failure> {
        let path = "/health/ready";
        let call = Call { method: Method::GET, path, query: &[], headers: HeaderMap::new(), body: Bytes::new() };
        let answer = self.exchange(call).await.map_err(|error| error.into_failure(&self.place))?;
        let is_state = matches!(answer.status, StatusCode::OK | StatusCode::SERVICE_UNAVAILABLE);
        if is_state { Ok(answer) } else { self.checked(path, answer) }
    }

    /// A request with JSON in its body, or none.
    async fn call(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, String)],
        body: Option<Bytes>,
    ) -> Result<Answer, Failure> {
        let mut headers = HeaderMap::new();
        if body.is_some() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(JSON));
        }
        let call = Call { method, path, query, headers, body: body.unwrap_or_default() };
        let answer = self.exchange(call).await.map_err(|error| error.into_failure(&self.place))?;
        self.checked(path, answer)
    }

    /// Sends a request and reads its answer, whatever it is.
    pub(super) async fn exchange(&self, call: Call<'_>) -> Result<Answer, NoAnswer> {
        let answered = timeout(self.answer_timeout, async {
            let (response, sender) = self.connections.send(self.request(&call)?).await?;
            let (parts, body) = response.into_parts();
            let body = read(body).await?;
            self.connections.keep(sender);
            Ok(Answer { status: parts.status, headers: parts.headers, body })
        });
        answered.await.unwrap_or_else(|_| {
            let seconds = self.answer_timeout.as_secs_f32();
            Err(NoAnswer::Broken(format!("it took longer than {seconds} s (--timeout)")))
        })
    }

    /// The answer to a call of `path`, if it is a success.
    pub(super) fn checked(&self, path: &str, answer: Answer) -> Result<Answer, Failure> {
        if answer.status.is_success() { Ok(answer) } else { Err(self.refusal(path, &answer)) }
    }

    /// Sends a request whose answer goes on and on, and returns once it has begun.
    pub(super) async fn open(&self, call: Call<'_>) -> Result<Result<Incoming, Failure>, NoAnswer> {
        let path = call.path;
        let opened = timeout(self.answer_timeout, async {
            let (response, _used_up) = self.connections.send(self.request(&call)?).await?;
            let (parts, body) = response.into_parts();
            if parts.status.is_success() {
                return Ok(Ok(body));
            }
            let answer = Answer { status: parts.status, headers: parts.headers, body: read(body).await? };
            Ok(Err(self.refusal(path, &answer)))
        });
        opened.await.unwrap_or_else(|_| Err(NoAnswer::Broken("it did not begin to answer in time (--timeout)".into())))
    }

    fn request(&self, call: &Call<'_>) -> Result<Request<Full<Bytes>>, NoAnswer> {
        let mut target = format!("{}{}", self.prefix, call.path);
        if !call.query.is_empty() {
            let mut query = form_urlencoded::Serializer::new(String::new());
            query.extend_pairs(call.query);
            target = format!("{target}?{}", query.finish());
        }
        let mut request = Request::new(Full::new(call.body.clone()));
        *request.method_mut() = call.method.clone();
        *request.uri_mut() = target
            .parse()
            .map_err(|_| NoAnswer::NotSent(Failure::usage(format!("{} is too long for an address", call.path))))?;
        *request.headers_mut() = call.headers.clone();
        let headers = request.headers_mut();
        let host = HeaderValue::try_from(&self.host).expect("a host of a URL is ASCII");
        headers.insert(header::HOST, host);
        headers.insert(header::USER_AGENT, HeaderValue::from_static(concat!("ttdust/", env!("CARGO_PKG_VERSION"))));
        if let Some(authorization) = &self.authorization {
            headers.insert(header::AUTHORIZATION, authorization.clone());
        }
        Ok(request)
    }

    /// An answer that is no success, with what to do about it.
    fn refusal(&self, path: &str, answer: &Answer) -> Failure {
        let status = answer.status;
        let problem = serde_json::from_slice::<Problem>(&answer.body).ok().filter(|problem| !problem.code.is_empty());
        let Some(mut problem) = problem else {
            return Failure::Unreachable {
                what: format!("{} answered {status}, and not as a TTDust server does", self.place),
                remedy: "is the endpoint right, and what stands between here and there?".to_owned(),
            };
        };
        problem.status = status.as_u16();
        let retry_after = answer.headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
        problem.retry_after_seconds = retry_after.and_then(|text| text.parse().ok());
        problem.remedy = self.remedy(path, &problem);
        Failure::Refused(Box::new(problem))
    }

    fn remedy(&self, path: &str, problem: &Problem) -> String {
        let list = |what: &str| format!("`ttdust {what} list` shows those that there are for you");
        match problem.status {
            401 => match &self.credential_origin {
                None => {
                    "give a key: `ttdust profile set NAME --endpoint URL --api-key-file FILE`, or TTDUST_API_KEY".into()
                }
                Some(origin) => {
                    format!("{} does not take the key from {origin}: ask its admin for one that is good", self.place)
                }
            },
            403 => "use a key whose role permits it".into(),
            404 if path.starts_with("/api/v1/streams") => list("stream"),
            404 if path.starts_with("/api/v1/schemas") => list("schema"),
            404 if path.starts_with("/api/v1/api-keys") => list("key"),
            404 if path.starts_with("/api/v1/pipelines") => list("pipeline"),
            404 if path.starts_with("/api/v1/jobs") => list("import"),
            412 => "someone else changed it meanwhile: look at it, and do it again".into(),
            503 => "`ttdust health` tells which part is down".into(),
            504 => "ask for less at once: a shorter time (--start, --end) or fewer records (--limit)".into(),
            _ => String::new(),
        }
    }
}

async fn read(body: Incoming) -> Result<Bytes, NoAnswer> {
    let cut = |error: hyper::Error| NoAnswer::Broken(format!("the answer was cut: {}", with_causes(&error)));
    Ok(body.collect().await.map_err(cut)?.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_a_path_stays_one_part_of_it() {
        for (text, part) in
            [("clicks.v1-a_b", "clicks.v1-a_b"), ("a/b?c", "a%2Fb%3Fc"), ("..", "%2E%2E"), ("é", "%C3%A9")]
        {
            assert_eq!(segment(text), part);
        }
    }

    #[test]
    fn a_key_is_never_shown() {
        let credential = Credential { secret: Secret::new("ttd_live_s3cret".into()), origin: "a test".into() };
        assert!(!format!("{credential:?}").contains("s3cret"));
        let place = Place { endpoint: "localhost:1".into(), ..Place::default() };
        let api = Api::new(&place, Some(credential), Duration::from_secs(1)).expect("valid");
        assert!(!format!("{:?}", api.authorization).contains("s3cret"));
        let broken = Credential { secret: Secret::new("s3\ncret".into()), origin: "a test".into() };
        let told = Api::new(&place, Some(broken), Duration::from_secs(1)).err().expect("no header").told();
        assert!(told.contains("a test") && !told.contains("cret"), "{told}");
    }
}
