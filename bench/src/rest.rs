//! A little HTTP/1.1 client for the control plane, blocking.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    time::Duration,
};

use serde_json::{Value, json};

const TIMEOUT: Duration = Duration::from_secs(30);

/// The control plane said no, or was not there.
#[derive(Debug, thiserror::Error)]
pub enum RestError {
    /// Not reached.
    #[error("cannot reach {authority}: {source}; is the server running, and is this its HTTP port?")]
    Io {
        /// The server.
        authority: String,
        /// What the system said.
        source: io::Error,
    },
    /// Not HTTP, or not JSON.
    #[error("{authority} answered what is not {what}; is this its HTTP port?")]
    Malformed {
        /// The server.
        authority: String,
        /// What was expected.
        what: &'static str,
    },
    /// An error answer.
    #[error("{method} {path} answered {status}: {detail}")]
    Status {
        /// The method.
        method: &'static str,
        /// The path.
        path: String,
        /// The HTTP status.
        status: u16,
        /// `detail` of the problem, or the body's beginning.
        detail: String,
    },
}

/// The first address of `HOST:PORT`.
///
/// # Errors
/// What the system said.
pub fn resolve(authority: &str) -> io::Result<SocketAddr> {
    let none = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    authority.to_socket_addrs()?.next().ok_or_else(none)
}

/// The control plane at an address.
#[derive(Debug)]
pub struct Rest<'a> {
    /// `HOST:PORT`.
    pub authority: &'a str,
    /// Sent as a bearer token.
    pub api_key: Option<&'a str>,
}

impl Rest<'_> {
    /// Makes the schema `name` and streams `streams` with it that have these `key_fields`, or finds them; ids of the streams.
    ///
    /// # Errors
    /// See [`RestError`].
    pub fn create(
        &self,
        name: &str,
        definition: &Value,
        streams: &[String],
        key_fields: &[String],
    ) -> Result<Vec<String>, RestError> {
        let schema = json!({
            "name": name,
            "namespace": "bench",
            "description": "made by ttdust-bench",
            "definition": definition,
            "compatibility_mode": "none",
        });
        let schema_id = self.create_or_find("/api/v1/schemas", name, &schema)?;
        let create = |stream: &String| {
            let body = json!({
                "name": stream,
                "description": "made by ttdust-bench",
                "schema_id": schema_id,
                "key_fields": key_fields,
            });
            self.create_or_find("/api/v1/streams", stream, &body)
        };
        streams.iter().map(create).collect()
    }

    fn create_or_find(&self, path: &str, name: &str, body: &Value) -> Result<String, RestError> {
        let created = match self.call("POST", path, Some(body)) {
            Err(RestError::Status { status: 409, .. }) => None,
            other => Some(other?),
        };
        let malformed = |what| RestError::Malformed { authority: self.authority.to_owned(), what };
        let id = |value: &Value| value.get("id").and_then(Value::as_str).map(str::to_owned);
        if let Some(created) = created {
            return id(&created).ok_or_else(|| malformed("an object with an id"));
        }
        let mut token = String::new();
        loop {
            let page = self.call("GET", &format!("{path}?page_size=100{token}"), None)?;
            let lists = page.as_object().into_iter().flat_map(|page| page.values()).filter_map(Value::as_array);
            let named = |item: &&Value| item.get("name").and_then(Value::as_str) == Some(name);
            if let Some(found) = lists.flatten().find(named) {
                return id(found).ok_or_else(|| malformed("a list of objects with ids"));
            }
            match page.get("next_page_token").and_then(Value::as_str).filter(|next| !next.is_empty()) {
                Some(next) => token = format!("&page_token={next}"),
                None => return Err(malformed("a list that holds the name it says exists")),
            }
        }
    }

    /// Asks on a connection of its own.
    ///
    /// # Errors
    /// See [`RestError`].
    pub fn call(&self, method: &'static str, path: &str, body: Option<&Value>) -> Result<Value, RestError> {
        let wrap = |source| RestError::Io { authority: self.authority.to_owned(), source };
        let malformed = |what| RestError::Malformed { authority: self.authority.to_owned(), what };
        let (status, body) = self.exchange(method, path, body).map_err(wrap)?.ok_or_else(|| malformed("HTTP"))?;
        let value: Option<Value> = serde_json::from_slice(&body).ok();
        if !(200..300).contains(&status) {
            let detail = value.as_ref().and_then(|problem| problem.get("detail")).and_then(Value::as_str);
            let raw = || String::from_utf8_lossy(&body).chars().take(300).collect();
            let detail = detail.map_or_else(raw, str::to_owned);
            return Err(RestError::Status { method, path: path.to_owned(), status, detail });
        }
        value.ok_or_else(|| malformed("JSON"))
    }

    fn exchange(&self, method: &str, path: &str, body: Option<&Value>) -> io::Result<Option<(u16, Vec<u8>)>> {
        Connection::open(self.authority, self.api_key)?.exchange(method, path, body)
    }
}

/// A connection that is kept from request to request. Blocking.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    /// What every request says.
    headers: String,
    answer: Vec<u8>,
}

impl Connection {
    /// To `HOST:PORT`.
    ///
    /// # Errors
    /// What the system said.
    pub fn open(authority: &str, api_key: Option<&str>) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&resolve(authority)?, Duration::from_secs(5))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        let authorization = api_key.map_or_else(String::new, |key| format!("authorization: Bearer {key}\r\n"));
        let headers = format!(
            "host: {authority}\r\naccept: application/json\r\ncontent-type: application/json\r\n{authorization}"
        );
        Ok(Self { stream, headers, answer: Vec::new() })
    }

    /// Asks, and waits for the status and the body; `None`: the answer is not HTTP.
    ///
    /// # Errors
    /// What the system said.
    pub fn exchange(&mut self, method: &str, path: &str, body: Option<&Value>) -> io::Result<Option<(u16, Vec<u8>)>> {
        let body = body.map_or_else(String::new, Value::to_string);
        let request =
            format!("{method} {path} HTTP/1.1\r\n{}content-length: {}\r\n\r\n{body}", self.headers, body.len());
        self.stream.write_all(request.as_bytes())?;
        self.answer.clear();
        let mut part = [0; 16 << 10];
        loop {
            let read = self.stream.read(&mut part)?;
            self.answer.extend_from_slice(&part[..read]);
            let whole = parse(&self.answer);
            if whole.is_some() || read == 0 {
                return Ok(whole);
            }
        }
    }
}

/// Status and body of an answer that says its length; `None` if it is not whole, or not HTTP.
fn parse(answer: &[u8]) -> Option<(u16, Vec<u8>)> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    let mut pairs = head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
    let len = pairs.find(|(name, _)| name.eq_ignore_ascii_case("content-length"))?.1.trim().parse::<usize>().ok()?;
    Some((status, answer[end + 4..].get(..len)?.to_vec()))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn an_answer_ends_where_its_length_says() {
        let of =
            |text: &str| parse(text.as_bytes()).map(|(status, body)| (status, String::from_utf8(body).expect("text")));
        assert_eq!(of("HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n{}x"), Some((201, "{}".into())));
        assert_eq!(of("SSH-2.0-OpenSSH\r\n\r\n"), None);
        assert_eq!(of("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc"), None);
    }

    /// Answers one request after the other; what was asked, by first line.
    fn serve(answers: Vec<(u16, Value)>) -> (String, std::thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let authority = listener.local_addr().expect("bound").to_string();
        let server = std::thread::spawn(move || {
            let answer = |(status, body): (u16, Value)| {
                let (mut stream, _) = listener.accept().expect("a client");
                let mut request = vec![0; 1 << 16];
                let mut len = 0;
                while !request[..len].ends_with(b"}") && !request[..len].ends_with(b"\r\n\r\n") {
                    len += stream.read(&mut request[len..]).expect("a request");
                }
                let body = body.to_string();
                write!(stream, "HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len()).expect("sent");
                let text = String::from_utf8_lossy(&request[..len]).into_owned();
                text.lines().next().expect("a request line").to_owned()
            };
            answers.into_iter().map(answer).collect()
        });
        (authority, server)
    }

    #[test]
    fn what_exists_already_is_found() {
        let (authority, server) = serve(vec![
            (201, json!({ "id": "sch_1" })),
            (409, json!({ "detail": "exists" })),
            (200, json!({ "streams": [{ "name": "other", "id": "str_0" }], "next_page_token": "t" })),
            (200, json!({ "streams": [{ "name": "clicks", "id": "str_1" }], "next_page_token": "" })),
        ]);
        let rest = Rest { authority: &authority, api_key: Some("k") };
        let ids = rest.create("clicks", &json!({}), &["clicks".to_owned()], &[]).expect("created");
        assert_eq!(ids, ["str_1"]);
        let asked = server.join().expect("the server ran");
        assert_eq!(asked[3], "GET /api/v1/streams?page_size=100&page_token=t HTTP/1.1");
    }

    #[test]
    fn a_problem_is_told_with_its_detail() {
        let (authority, server) = serve(vec![(400, json!({ "title": "Bad", "detail": "definition is no schema" }))]);
        let rest = Rest { authority: &authority, api_key: None };
        let error = rest.create("x", &json!({}), &[], &[]).expect_err("refused");
        assert_eq!(error.to_string(), "POST /api/v1/schemas answered 400: definition is no schema");
        server.join().expect("the server ran");
    }
}
