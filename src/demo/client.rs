//! The demonstration's two clients: `Append` over gRPC, and REST.

use std::{future::poll_fn, io, time::Duration};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use h2::{RecvStream, SendStream, client};
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use prost::Message as _;
use serde_json::Value;
use tokio::net::TcpStream;
use ttdust_proto::{
    ingestion::{AppendRequest, AppendResponse, Status},
    path,
};

use super::DemoError;

fn server_error(what: &str) -> impl FnOnce(h2::Error) -> DemoError {
    move |error| DemoError::Server(format!("{what}: {error}"))
}

async fn connect(address: &str) -> Result<TcpStream, DemoError> {
    let failed = |error: io::Error| DemoError::Io(format!("cannot connect to {address}"), error);
    let socket = TcpStream::connect(address).await.map_err(failed)?;
    socket.set_nodelay(true).map_err(failed)?;
    Ok(socket)
}

/// An `Append` call to one stream.
pub(super) struct Appender {
    stream_id: String,
    send: SendStream<Bytes>,
    response: Option<client::ResponseFuture>,
    body: Option<RecvStream>,
    received: BytesMut,
}

/// What became of a request.
pub(super) enum Acked {
    /// On stable storage.
    Committed {
        /// Records.
        accepted: u32,
        /// When they were ingested, Unix µs.
        timestamp: i64,
    },
    /// Not admitted: send it again after this time.
    RetryAfter(Duration),
}

impl Appender {
    pub(super) async fn connect(address: &str, stream_id: &str) -> Result<Self, DemoError> {
        let socket = connect(address).await?;
        let (send, connection) = client::handshake(socket).await.map_err(server_error("HTTP/2"))?;
        tokio::spawn(connection);
        let mut send = send.ready().await.map_err(server_error("HTTP/2"))?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://{address}{}", path::APPEND))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .map_err(|error| DemoError::Server(error.to_string()))?;
        let (response, send) = send.send_request(request, false).map_err(server_error("Append"))?;
        let stream_id = stream_id.to_owned();
        Ok(Self { stream_id, send, response: Some(response), body: None, received: BytesMut::new() })
    }

    pub(super) async fn send(&mut self, payloads: Vec<Bytes>) -> Result<(), DemoError> {
        // The stream is named once; later messages of the call go to the same one.
        let stream_id = std::mem::take(&mut self.stream_id);
        let message = AppendRequest { stream_id, payloads, ..AppendRequest::default() };
        let mut frame = BytesMut::with_capacity(5 + message.encoded_len());
        frame.put_u8(0);
        frame.put_u32(message.encoded_len() as u32);
        message.encode(&mut frame).expect("a BytesMut grows");
        while !frame.is_empty() {
            self.send.reserve_capacity(frame.len());
            if self.send.capacity() == 0 {
                let granted = poll_fn(|cx| self.send.poll_capacity(cx)).await;
                granted
                    .ok_or_else(|| DemoError::Server("the call was closed".to_owned()))?
                    .map_err(server_error("Append"))?;
            }
            let part = frame.split_to(self.send.capacity().min(frame.len())).freeze();
            self.send.send_data(part, false).map_err(server_error("Append"))?;
        }
        Ok(())
    }

    pub(super) async fn receive(&mut self) -> Result<Acked, DemoError> {
        if let Some(response) = self.response.take() {
            self.body = Some(response.await.map_err(server_error("Append"))?.into_body());
        }
        let body = self.body.as_mut().expect("the response has come");
        while self.received.len() < 5 || self.received.len() < 5 + length(&self.received) {
            let Some(data) = poll_fn(|cx| body.poll_data(cx)).await else {
                let trailers = body.trailers().await.map_err(server_error("Append"))?.unwrap_or_default();
                let message = trailers.get("grpc-message").and_then(|value| value.to_str().ok()).unwrap_or("no reason");
                return Err(DemoError::Server(format!("the call ended: {message}")));
            };
            let data = data.map_err(server_error("Append"))?;
            body.flow_control().release_capacity(data.len()).map_err(server_error("Append"))?;
            self.received.extend_from_slice(&data);
        }
        let length = length(&self.received);
        self.received.advance(5);
        let answer = AppendResponse::decode(self.received.split_to(length))
            .map_err(|error| DemoError::Server(format!("an answer does not decode: {error}")))?;
        match answer.status() {
            Status::Ok => Ok(Acked::Committed { accepted: answer.accepted, timestamp: answer.timestamp_unix_micros }),
            Status::RateLimited => {
                let millis = answer.retry_after_millis.unwrap_or(100);
                Ok(Acked::RetryAfter(Duration::from_millis(u64::from(millis))))
            }
            _ => Err(DemoError::Server(format!("records were refused: {answer:?}"))),
        }
    }
}

/// The length that a message's prefix tells.
fn length(received: &[u8]) -> usize {
    u32::from_be_bytes([received[1], received[2], received[3], received[4]]) as usize
}

/// REST, one connection a request.
pub(super) struct Rest {
    address: String,
}

impl Rest {
    pub(super) fn new(address: &str) -> Self {
        Self { address: address.to_owned() }
    }

    pub(super) async fn get(&self, path: &str) -> Result<Value, DemoError> {
        self.send(Method::GET, path, Bytes::new()).await
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> Result<Value, DemoError> {
        self.send(Method::POST, path, body.to_string().into()).await
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Value, DemoError> {
        let failed = |error: &dyn std::fmt::Display| DemoError::Server(format!("{method} {path}: {error}"));
        let socket = hyper_util::rt::TokioIo::new(connect(&self.address).await?);
        let (mut send, connection) = hyper::client::conn::http1::handshake(socket).await.map_err(|e| failed(&e))?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method.clone())
            .uri(path)
            .header("host", &self.address)
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|e| failed(&e))?;
        let response = send.send_request(request).await.map_err(|e| failed(&e))?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|e| failed(&e))?.to_bytes();
        if !status.is_success() {
            return Err(failed(&format_args!("{status}: {}", String::from_utf8_lossy(&body))));
        }
        serde_json::from_slice(&body).map_err(|e| failed(&e))
    }
}
