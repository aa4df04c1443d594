//! Answers to requests that their clients may send again, and the audit log.

use super::{Control, ControlError};
use crate::catalog::{AuditEntry, AuditFilter, Page, RememberedRequest};

impl Control {
    /// Remembers a request as begun, before anything of it is done. Answers what is remembered of its caller and key then: it, or
    /// an earlier one, with or without an answer.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn begin_request(&self, request: RememberedRequest) -> Result<RememberedRequest, ControlError> {
        Ok(self.parts.catalog.remember_request(request).await?)
    }

    /// Keeps the answer to a request that was begun.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn answer_request(&self, request: RememberedRequest) -> Result<(), ControlError> {
        Ok(self.parts.catalog.answer_request(request).await?)
    }

    /// Forgets a request that was begun, and of which nothing was done.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn forget_request(&self, request: RememberedRequest) -> Result<(), ControlError> {
        Ok(self.parts.catalog.forget_request(request.caller, request.key).await?)
    }

    /// Lines of the audit log, the newest first.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn audit(&self, filter: AuditFilter, page: Page) -> Result<Vec<AuditEntry>, ControlError> {
        Ok(self.parts.catalog.audit(filter, page).await?)
    }
}
