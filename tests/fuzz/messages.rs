//! What comes in a gRPC call: bytes cut into messages in whatever pieces they come, and messages of every method.

use std::fmt::Debug;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use prost::Message;
use ttdust_proto::{admin, health, ingestion, query, reflection};
use ttdust_shards::{Encoding, Messages, status::Status};

/// The limit of a message here: small, so that it is reached.
const LIMIT: usize = 4096;

/// The first byte chooses what is read, the second how it is cut and compressed.
pub fn grpc_messages(input: &[u8]) {
    let Some((&[kind, manner], rest)) = input.split_first_chunk() else { return };
    match kind % 20 {
        0..=3 => cut(rest, manner),
        4 => comes_back::<ingestion::AppendRequest>(rest),
        5 => comes_back::<ingestion::IngestRequest>(rest),
        6 => comes_back::<ingestion::IngestBatchRequest>(rest),
        7 => comes_back::<ingestion::GetBatchJobRequest>(rest),
        8 => comes_back::<query::TimeRangeQueryRequest>(rest),
        9 => comes_back::<query::KeyLookupRequest>(rest),
        10 => comes_back::<query::StreamingReadRequest>(rest),
        11 => comes_back::<admin::CreateStreamRequest>(rest),
        12 => comes_back::<admin::UpdateStreamRequest>(rest),
        13 => comes_back::<admin::DeleteStreamRequest>(rest),
        14 => comes_back::<admin::ListStreamsRequest>(rest),
        15 => comes_back::<admin::GetStreamRequest>(rest),
        16 => comes_back::<health::HealthCheckRequest>(rest),
        17 => comes_back::<reflection::ServerReflectionRequest>(rest),
        // What this server answers with is read by its own tools.
        18 => comes_back::<ingestion::AppendResponse>(rest),
        _ => comes_back::<ingestion::IngestResponse>(rest),
    }
}

/// A message that can be read is the same when it is written and read again.
fn comes_back<M: Message + Default + PartialEq + Debug>(bytes: &[u8]) {
    let Ok(message) = M::decode(Bytes::copy_from_slice(bytes)) else { return };
    let written = message.encode_to_vec();
    assert_eq!(written.len(), message.encoded_len());
    let again = M::decode(&*written).expect("it was written by us");
    assert_eq!(again.encode_to_vec(), written, "{message:?}");
}

/// All messages, and how the reading ended.
fn read(bytes: &[u8], encoding: Encoding, piece: usize) -> (Vec<Bytes>, Result<(), Status>) {
    let mut messages = Messages::new(encoding, LIMIT);
    let mut found = Vec::new();
    let ended = (|| {
        for piece in bytes.chunks(piece) {
            messages.put(Bytes::copy_from_slice(piece));
            while let Some(message) = messages.take()? {
                found.push(message);
            }
        }
        messages.end()
    })();
    (found, ended)
}

/// However the bytes are cut, the messages are the same, and none is over the limit.
fn cut(bytes: &[u8], manner: u8) {
    let mut headers = HeaderMap::new();
    let name = ["identity", "gzip", "zstd", "other"][usize::from(manner & 3)];
    headers.insert("grpc-encoding", name.parse().expect("a header"));
    let Ok(encoding) = Encoding::of_request(&headers) else { return };
    let whole = read(bytes, encoding, bytes.len().max(1));
    let pieces = read(bytes, encoding, usize::from(manner >> 2).max(1));
    assert_eq!(whole.0, pieces.0);
    assert_eq!(whole.1.as_ref().map_err(|s| (s.code, s.reason)), pieces.1.as_ref().map_err(|s| (s.code, s.reason)));
    let mut sent = BytesMut::new();
    for message in &whole.0 {
        assert!(message.len() <= LIMIT, "{} bytes", message.len());
        sent.extend_from_slice(message);
    }
    if encoding == Encoding::Identity && whole.1.is_ok() {
        assert_eq!(sent.len() + 5 * whole.0.len(), bytes.len(), "nothing is left out");
    }
}
