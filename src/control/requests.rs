//! Answers to requests that their clients may send again, and the audit log.

use super::{Control, ControlError};
use crate::catalog::{AuditEntry, AuditFilter, Page, RememberedRequest};

impl Control {
    /// The answer to an earlier request of `caller` with this key.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn remembered_request(&self, caller: &str, key: &str) -> Result<Option<RememberedRequest>, ControlError> {
        Ok(self.parts.catalog.remembered_request(caller.to_owned(), key.to_owned()).await?)
    }

    /// Keeps the answer to a request.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn remember_request(&self, request: RememberedRequest) -> Result<(), ControlError> {
        self.parts.catalog.remember_request(request).await?;
        Ok(())
    }

    /// Lines of the audit log, the newest first.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn audit(&self, filter: AuditFilter, page: Page) -> Result<Vec<AuditEntry>, ControlError> {
        Ok(self.parts.catalog.audit(filter, page).await?)
    }
}
