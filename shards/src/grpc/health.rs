//! The standard health service: SERVING until the server drains.

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use ttdust_proto::health::{HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus};

use super::{
    framing::put_message,
    status::{Code, Status},
};
use crate::reactor::{Bell, Reactor};

const SERVICES: [&str; 5] = [
    "",
    "ttdust.ingestion.v1.IngestionService",
    "ttdust.query.v1.QueryService",
    "ttdust.admin.v1.AdminService",
    "grpc.health.v1.Health",
];

/// The status of the service that the request names; `None`: no such service.
fn status(reactor: &Reactor, service: &str) -> Option<ServingStatus> {
    let serving = if reactor.is_draining() { ServingStatus::NotServing } else { ServingStatus::Serving };
    SERVICES.contains(&service).then_some(serving)
}

/// `Check`.
///
/// # Errors
/// NOT_FOUND for a service that is not served.
pub fn check(reactor: &Reactor, message: Bytes) -> Result<HealthCheckResponse, Status> {
    let request = HealthCheckRequest::decode(message).map_err(|error| Status::bad_message(&error))?;
    let status = status(reactor, &request.service).ok_or_else(|| {
        let shown: String = request.service.chars().take(128).collect();
        Status::new(Code::NotFound, "SERVICE_NOT_FOUND", format!("no service {shown:?}"))
    })?;
    Ok(HealthCheckResponse { status: status.into() })
}

/// `Watch`: the status now, and again when the server drains.
pub async fn watch(
    reactor: &Reactor,
    bell: &Bell,
    message: Bytes,
    send: &mut h2::SendStream<Bytes>,
) -> Result<(), Status> {
    let request = HealthCheckRequest::decode(message).map_err(|error| Status::bad_message(&error))?;
    let mut told = None;
    loop {
        let now = status(reactor, &request.service).unwrap_or(ServingStatus::ServiceUnknown);
        if told != Some(now) {
            let mut out = BytesMut::new();
            put_message(&mut out, &HealthCheckResponse { status: now.into() });
            if send.send_data(out.freeze(), false).is_err() {
                return Ok(());
            }
            told = Some(now);
        }
        if reactor.is_draining() {
            return Err(Status::draining());
        }
        let gone = std::future::poll_fn(|cx| send.poll_reset(cx));
        let rung = bell.rung();
        futures_util::pin_mut!(gone, rung);
        if let futures_util::future::Either::Left(_) = futures_util::future::select(gone, rung).await {
            return Ok(());
        }
    }
}
