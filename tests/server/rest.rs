//! REST for tests: one request a connection, JSON in and out.

#![allow(dead_code, reason = "each test that includes this file uses a part of it")]

use std::{
    fmt::Debug,
    io::{Read as _, Write as _},
    net::TcpStream,
    str::FromStr,
};

use serde_json::{Value, json};

use crate::process::{DEADLINE, wait_for};

/// Sends a request and returns status and body.
pub fn call(address: &str, method: &str, path: &str, body: &str) -> (u16, Value) {
    let (status, _, body) = call_with(address, method, path, &[], body);
    (status, body)
}

/// The same with more headers; returns the answer's head, in lower case, too.
pub fn call_with(
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> (u16, String, Value) {
    let mut socket = TcpStream::connect(address).expect("connected");
    socket.set_read_timeout(Some(DEADLINE)).expect("a socket");
    let more: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-type: application/json\r\n{more}\
         content-length: {}\r\n\r\n",
        body.len()
    );
    socket.write_all(head.as_bytes()).and_then(|()| socket.write_all(body.as_bytes())).expect("sent");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("head and body");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, head.to_lowercase(), serde_json::from_str(body).unwrap_or(Value::String(body.to_owned())))
}

/// The value of a series of `/metrics`, as it is named there with its labels.
pub fn metric<T: FromStr<Err: Debug>>(address: &str, series: &str) -> T {
    let (_, text) = call(address, "GET", "/metrics", "");
    let line = text.as_str().expect("text").lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series}")).parse().expect("a number")
}

/// Waits until the rows of a stream up to this sequence number are in committed files.
pub fn wait_for_flush(address: &str, stream: &str, through: i64) {
    wait_for("a flush", || {
        let (_, stream) = call(address, "GET", &format!("/api/v1/streams/{stream}"), "");
        (stream["statistics"]["flushed_through"].as_i64() >= Some(through)).then_some(())
    });
}

/// All records that a query over all times gives, page by page; `options`: more of the query, such as `limit=7&order=desc`.
pub fn read_all(address: &str, stream: &str, options: &str) -> Vec<Value> {
    let (mut records, mut cursor) = (Vec::new(), String::new());
    loop {
        let all = "start=2020-01-01T00:00:00Z&end=2100-01-01T00:00:00Z";
        let path = format!("/api/v1/streams/{stream}/records?{all}&{options}{cursor}");
        let (status, page) = call(address, "GET", &path, "");
        assert_eq!(status, 200, "{page}");
        records.extend(page["records"].as_array().expect("records").iter().cloned());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return records,
        }
    }
}

/// A record's sequence number and payload.
pub fn numbered(record: &Value) -> (i64, Value) {
    (record["sequence_number"].as_i64().expect("a number"), record["payload"].clone())
}

/// Creates a schema and a stream of this name; returns the stream's id.
pub fn create_stream(address: &str, name: &str, definition: &Value) -> String {
    create_stream_with(address, name, definition, &[])
}

/// The same with key fields.
pub fn create_stream_with(address: &str, name: &str, definition: &Value, key_fields: &[&str]) -> String {
    let schema = json!({"name": name, "namespace": "tests", "compatibility_mode": "none", "definition": definition});
    let (status, schema) = call(address, "POST", "/api/v1/schemas", &schema.to_string());
    assert_eq!(status, 201, "{schema}");
    let stream = json!({"name": name, "schema_id": schema["id"], "key_fields": key_fields});
    let (status, stream) = call(address, "POST", "/api/v1/streams", &stream.to_string());
    assert_eq!(status, 201, "{stream}");
    stream["id"].as_str().expect("an id").to_owned()
}
