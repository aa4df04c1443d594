//! `AdminService`, and the methods of other services that are for control: decoded here, decided and done by control.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use prost::Message;
use ttdust_proto::{admin, ingestion, path};

use super::{
    framing::put_message,
    status::{Code, Status},
};
use crate::{
    access::Principal,
    message::{AdminReply, AdminRequest},
    reactor::{Bell, Reactor, Reply},
    trace::SpanContext,
};

/// `path`, if it is one of these methods.
#[must_use]
pub fn known(path: &str) -> Option<&'static str> {
    [
        path::CREATE_STREAM,
        path::UPDATE_STREAM,
        path::DELETE_STREAM,
        path::LIST_STREAMS,
        path::GET_STREAM,
        path::INGEST_BATCH,
        path::GET_BATCH_JOB,
    ]
    .into_iter()
    .find(|known| *known == path)
}

/// One call; the answer as a frame.
///
/// # Errors
/// How the call ends.
pub async fn call(
    reactor: &Reactor,
    caller: Principal,
    bell: &Rc<Bell>,
    path: &str,
    (message, trace): (Bytes, Option<SpanContext>),
) -> Result<Bytes, Status> {
    let slot = reactor.administer(caller, decode(path, message)?, trace, bell);
    let reply = loop {
        match slot.take() {
            Some(reply) => break reply,
            None => bell.rung().await,
        }
    };
    let Reply::Admin(reply) = reply else { unreachable!("an admin call's slot gets its answer") };
    let mut out = BytesMut::new();
    match (path, reply.map_err(Status::admin)?) {
        (path::CREATE_STREAM, AdminReply::Stream(stream)) => {
            put_message(&mut out, &admin::CreateStreamResponse { stream: Some(stream) });
        }
        (path::UPDATE_STREAM, AdminReply::Stream(stream)) => {
            put_message(&mut out, &admin::UpdateStreamResponse { stream: Some(stream) });
        }
        (_, AdminReply::Stream(stream)) => put_message(&mut out, &admin::GetStreamResponse { stream: Some(stream) }),
        (_, AdminReply::Deleted) => put_message(&mut out, &admin::DeleteStreamResponse { success: true }),
        (_, AdminReply::Streams(streams, next_cursor)) => {
            put_message(&mut out, &admin::ListStreamsResponse { streams, next_cursor });
        }
        (path::INGEST_BATCH, AdminReply::Job(job)) => put_message(
            &mut out,
            &ingestion::IngestBatchResponse {
                job_id: job.job_id,
                status: job.status,
                records_processed: job.records_processed,
                records_succeeded: job.records_succeeded,
                records_failed: job.records_failed,
                errors: job.errors,
            },
        ),
        (_, AdminReply::Job(job)) => put_message(&mut out, &job),
    }
    Ok(out.freeze())
}

fn decode(path: &str, message: Bytes) -> Result<AdminRequest, Status> {
    fn of<T: Message + Default>(message: Bytes) -> Result<T, Status> {
        T::decode(message).map_err(|error| Status::bad_message(&error))
    }
    let config = |config: Option<admin::StreamConfig>| {
        config.ok_or_else(|| Status::new(Code::InvalidArgument, "CONFIG_REQUIRED", "config is missing"))
    };
    Ok(match path {
        path::CREATE_STREAM => AdminRequest::Create(config(of::<admin::CreateStreamRequest>(message)?.config)?),
        path::UPDATE_STREAM => AdminRequest::Update(config(of::<admin::UpdateStreamRequest>(message)?.config)?),
        path::GET_STREAM => AdminRequest::Get(of::<admin::GetStreamRequest>(message)?.stream_id),
        path::DELETE_STREAM => {
            let request = of::<admin::DeleteStreamRequest>(message)?;
            AdminRequest::Delete { stream: request.stream_id, force: request.force }
        }
        path::LIST_STREAMS => {
            let request = of::<admin::ListStreamsRequest>(message)?;
            AdminRequest::List { limit: request.limit, cursor: request.cursor }
        }
        path::INGEST_BATCH => AdminRequest::IngestBatch(of(message)?),
        path::GET_BATCH_JOB => AdminRequest::GetBatchJob(of::<ingestion::GetBatchJobRequest>(message)?.job_id),
        other => unreachable!("{other} is no method of the service"),
    })
}
