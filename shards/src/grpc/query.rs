//! `QueryTimeRange` and `LookupByKey`: asked of control's workers, so that no shard waits for a file.

use std::{rc::Rc, sync::Arc, time::Instant};

use bytes::Bytes;
use prost::Message as _;
use ttdust_proto::query::{
    KeyLookupRequest, KeyLookupResponse, Order as WireOrder, QueryMetadata, Record, TimeField as WireTimeField,
    TimeRangeQueryRequest, TimeRangeQueryResponse,
};

use super::{
    access::permitted,
    status::{Code, Status},
};
use crate::{
    access::{Action, Principal},
    ids::{RecordId, StreamId},
    memory::Held,
    query::{
        Cancel, KeyLookup, LIMIT_DEFAULT, LIMIT_MAX, Order, Query, QueryAnswer, RecordRow, TimeField, TimeRangeQuery,
        decode_cursor, encode_cursor,
    },
    reactor::{Bell, Reactor, Reply},
    trace::SpanContext,
};

/// One `QueryTimeRange` call. Dropped, it is cancelled.
///
/// # Errors
/// How the call ends.
pub async fn time_range(
    reactor: &Reactor,
    mut caller: Principal,
    bell: &Rc<Bell>,
    (message, trace): (Bytes, Option<SpanContext>),
    deadline: Option<Instant>,
) -> Result<(TimeRangeQueryResponse, Held), Status> {
    let started = Instant::now();
    let request = TimeRangeQueryRequest::decode(message).map_err(|error| Status::bad_message(&error))?;
    let catalog = reactor.catalog();
    let stream = permitted(&mut caller, Action::ReadRecords, &catalog, &request.stream_id)?.id;
    let query = plan(stream, &request)?;
    let order = query.order;
    // A page is made in the time that the client has, so that a long search goes on with the next.
    let answer = ask(reactor, &caller, bell, (Query::TimeRange(query), trace), deadline).await?;
    let metadata = QueryMetadata {
        total_records_scanned: answer.rows_scanned as i64,
        partitions_scanned: answer.partitions_scanned as i64,
        cache_hits: answer.cache_hits as i64,
        execution_time_micros: started.elapsed().as_micros() as i64,
        partial: answer.is_partial,
    };
    let next_cursor = answer.next_after.map(|after| encode_cursor(after, order));
    let records = answer.records.into_iter().map(|row| record(stream, row)).collect();
    Ok((TimeRangeQueryResponse { records, next_cursor, metadata: Some(metadata) }, answer.held))
}

/// One `LookupByKey` call. Dropped, it is cancelled.
///
/// # Errors
/// How the call ends.
pub async fn lookup(
    reactor: &Reactor,
    mut caller: Principal,
    bell: &Rc<Bell>,
    (message, trace): (Bytes, Option<SpanContext>),
) -> Result<(KeyLookupResponse, Held), Status> {
    let request = KeyLookupRequest::decode(message).map_err(|error| Status::bad_message(&error))?;
    let catalog = reactor.catalog();
    let stream = permitted(&mut caller, Action::ReadRecords, &catalog, &request.stream_id)?;
    let query = KeyLookup::plan(stream, &request.key_field, &request.key_value)
        .map_err(|error| Status::new(Code::InvalidArgument, error.reason, error.message))?;
    let id = stream.id;
    let mut answer = ask(reactor, &caller, bell, (Query::Lookup(query), trace), None).await?;
    let record = answer.records.pop().map(|row| record(id, row));
    Ok((KeyLookupResponse { found: record.is_some(), record }, answer.held))
}

async fn ask(
    reactor: &Reactor,
    caller: &Principal,
    bell: &Rc<Bell>,
    (query, trace): (Query, Option<SpanContext>),
    deadline: Option<Instant>,
) -> Result<QueryAnswer, Status> {
    let cancel = Cancel::waits_until(deadline);
    let _waiting = cancel.on_drop();
    let slot = reactor.query(Arc::clone(&caller.id), query, cancel, trace, bell);
    let reply = loop {
        match slot.take() {
            Some(reply) => break reply,
            None => bell.rung().await,
        }
    };
    let Reply::Answer(answer) = reply else { unreachable!("a query's slot gets an answer") };
    answer.map_err(Status::query)
}

fn record(stream: StreamId, row: RecordRow) -> Record {
    Record {
        record_id: RecordId::of(stream, row.sequence).to_string(),
        stream_id: stream.to_string(),
        sequence_number: row.sequence,
        timestamp_unix_micros: row.timestamp_unix_micros,
        payload: row.payload,
        metadata: row.metadata.into_iter().collect(),
    }
}

fn plan(stream: StreamId, request: &TimeRangeQueryRequest) -> Result<TimeRangeQuery, Status> {
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
    let order = match request.order.map(WireOrder::try_from) {
        None | Some(Ok(WireOrder::Unspecified | WireOrder::Asc)) => Order::Ascending,
        Some(Ok(WireOrder::Desc)) => Order::Descending,
        Some(Err(unknown)) => return Err(invalid("BAD_ORDER", format!("order {unknown} is neither ASC nor DESC"))),
    };
    let time_field = match request.time_field.map(WireTimeField::try_from) {
        None | Some(Ok(WireTimeField::Unspecified | WireTimeField::Ingest)) => TimeField::Ingest,
        Some(Ok(WireTimeField::Event)) => TimeField::Event,
        Some(Err(unknown)) => {
            return Err(invalid("BAD_TIME_FIELD", format!("time_field {unknown} is neither INGEST nor EVENT")));
        }
    };
    let after_sequence = match &request.cursor {
        None => None,
        Some(cursor) => Some(decode_cursor(cursor, order).map_err(|error| invalid("BAD_CURSOR", error.to_string()))?),
    };
    let (start_unix_micros, end_unix_micros) = (start, end);
    Ok(TimeRangeQuery { stream, time_field, start_unix_micros, end_unix_micros, limit, order, after_sequence })
}
