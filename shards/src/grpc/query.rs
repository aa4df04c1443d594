//! `QueryTimeRange`: asked of control's workers, so that no shard waits for a file.

use std::{rc::Rc, sync::Arc};

use bytes::Bytes;
use prost::Message as _;
use ttdust_proto::query::{QueryMetadata, Record, TimeRangeQueryRequest, TimeRangeQueryResponse};

use super::{
    access::permitted,
    status::{Code, Status},
};
use crate::{
    access::{Action, Principal},
    ids::RecordId,
    message::QueryFailure,
    query::{LIMIT_DEFAULT, LIMIT_MAX, TimeRangeQuery, decode_cursor, encode_cursor},
    reactor::{Bell, Reactor, Reply},
};

/// One `QueryTimeRange` call.
///
/// # Errors
/// How the call ends.
pub async fn time_range(
    reactor: &Reactor,
    caller: &Principal,
    bell: &Rc<Bell>,
    message: Bytes,
) -> Result<TimeRangeQueryResponse, Status> {
    let started = std::time::Instant::now();
    let request = TimeRangeQueryRequest::decode(message).map_err(|error| Status::bad_message(&error))?;
    let catalog = reactor.catalog();
    let stream = permitted(caller, Action::ReadRecords, &catalog, &request.stream_id)?.id;
    let slot = reactor.query(Arc::clone(&caller.id), plan(stream, &request)?, bell);
    let reply = loop {
        match slot.take() {
            Some(reply) => break reply,
            None => bell.rung().await,
        }
    };
    let Reply::Answer(answer) = reply else { unreachable!("a query's slot gets an answer") };
    let answer = answer.map_err(|failure| match failure {
        QueryFailure::Overloaded => Status {
            retry_after: Some(std::time::Duration::from_millis(100)),
            ..Status::new(Code::ResourceExhausted, "QUERIES_OVERLOADED", "too many queries wait: try again")
        },
        QueryFailure::RateLimited(over) => Status::rate_limited(over),
        QueryFailure::Deleting => {
            Status::new(Code::FailedPrecondition, "STREAM_DELETING", "the stream is being deleted")
        }
        QueryFailure::Internal(message) => Status::new(Code::Internal, "QUERY_FAILED", message),
    })?;
    let metadata = QueryMetadata {
        total_records_scanned: answer.rows_scanned as i64,
        partitions_scanned: answer.partitions_scanned as i64,
        cache_hits: 0,
        execution_time_micros: started.elapsed().as_micros() as i64,
    };
    let records = answer
        .records
        .into_iter()
        .map(|row| Record {
            record_id: RecordId::of(stream, row.sequence).to_string(),
            stream_id: stream.to_string(),
            sequence_number: row.sequence,
            timestamp_unix_micros: row.timestamp_unix_micros,
            payload: row.payload,
            metadata: row.metadata.into_iter().collect(),
        })
        .collect();
    Ok(TimeRangeQueryResponse { records, next_cursor: answer.next_after.map(encode_cursor), metadata: Some(metadata) })
}

fn plan(stream: crate::ids::StreamId, request: &TimeRangeQueryRequest) -> Result<TimeRangeQuery, Status> {
    let invalid = |reason, message: String| Status::new(Code::InvalidArgument, reason, message);
    let (start, end) = (request.start_time_unix_micros, request.end_time_unix_micros);
    if start >= end {
        let message =
            format!("start {start} is not before end {end}: both are Unix microseconds, the end is exclusive");
        return Err(invalid("BAD_TIME_RANGE", message));
    }
    let limit = match request.limit {
        None => LIMIT_DEFAULT,
        Some(limit) => usize::try_from(limit)
            .ok()
            .filter(|limit| (1..=LIMIT_MAX).contains(limit))
            .ok_or_else(|| invalid("BAD_LIMIT", format!("limit {limit} is not 1 to {LIMIT_MAX}")))?,
    };
    let after_sequence = match &request.cursor {
        None => None,
        Some(cursor) => Some(decode_cursor(cursor).map_err(|error| invalid("BAD_CURSOR", error.to_string()))?),
    };
    Ok(TimeRangeQuery { stream, start_unix_micros: start, end_unix_micros: end, limit, after_sequence })
}
