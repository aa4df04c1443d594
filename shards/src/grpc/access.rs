//! A caller's right to a call, in gRPC's terms.

use super::status::{Code, Status};
use crate::{
    access::{Action, Principal},
    io::{Clock as _, real::SystemClock},
    snapshot::{CatalogSnapshot, StreamEntry},
};

/// The stream that `text` means to `caller`, who wants to do `action` with it under `catalog`, which may be newer than the one
/// that it showed its credential to: the caller is then what it is under the newer one.
///
/// # Errors
/// UNAUTHENTICATED: the credential is gone. PERMISSION_DENIED: the role may not. NOT_FOUND: there is no such stream, or none
/// that the caller may use.
pub fn permitted<'a>(
    caller: &mut Principal,
    action: Action,
    catalog: &'a CatalogSnapshot,
    text: &str,
) -> Result<&'a std::sync::Arc<StreamEntry>, Status> {
    *caller = catalog.access.renew(caller, SystemClock::new().unix_micros()).map_err(Status::unauthenticated)?;
    caller.require(action).map_err(Status::forbidden)?;
    if text.is_empty() {
        return Err(Status::new(Code::InvalidArgument, "STREAM_REQUIRED", "stream_id is empty"));
    }
    let stream = catalog.resolve(text).filter(|stream| caller.sees(stream.id, &stream.name));
    stream.ok_or_else(|| Status::unknown_stream(text))
}
