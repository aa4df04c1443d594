//! The configuration of the running server: what is in force, and changes of what need not wait for a restart.

use std::sync::{Arc, PoisonError};

use serde_json::{Map, Value};
use tokio::sync::oneshot;

use super::{Actor, Control, ControlError, FieldError};
use crate::config::{Loaded, RELOADABLE, SETTINGS};

/// Settings to read again, with changes that go before all sources, for whoever knows how to put them in force.
#[derive(Debug)]
pub struct Reload {
    /// Keys and values.
    pub changes: Vec<(String, String)>,
    /// What is in force then, or why nothing was changed.
    pub answer: oneshot::Sender<Result<Arc<Loaded>, ControlError>>,
}

impl Control {
    /// What is in force.
    #[must_use]
    pub fn settings(&self) -> Arc<Loaded> {
        Arc::clone(&self.settings.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Tells what is in force from now on.
    pub fn set_settings(&self, settings: Arc<Loaded>) {
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = settings;
    }

    /// Changes settings until the next start: all of them, or none. A line of it is in the audit log, unless the catalog is
    /// away: limits must be changed all the same then, and the JSON log has the line.
    ///
    /// # Errors
    /// `Invalid`: no such setting, one that needs a restart, or a value that cannot be used. `Conflict`: certificates or
    /// credentials of the server's own, which are read again as well, cannot be used.
    pub async fn change_settings(
        &self,
        actor: &Actor,
        changes: Vec<(String, String)>,
    ) -> Result<Arc<Loaded>, ControlError> {
        let mut fields = Vec::new();
        for (key, _) in &changes {
            let detail = if !SETTINGS.iter().any(|setting| setting.key == key) {
                "is no setting: GET /api/v1/config lists them all"
            } else if !RELOADABLE.contains(&key.as_str()) {
                "needs a restart: change the file and start the server again"
            } else {
                continue;
            };
            fields.push(FieldError { pointer: format!("/settings/{key}"), detail: detail.into() });
        }
        if !fields.is_empty() {
            return Err(ControlError::Invalid { detail: "nothing was changed".into(), fields });
        }
        let keys: Vec<_> = changes.iter().map(|(key, _)| key.clone()).collect();
        let before = values(&self.settings(), &keys);
        let (answer, wait) = oneshot::channel();
        let gone = || ControlError::Unavailable("the server is shutting down".into());
        self.parts.reloads.send(Reload { changes, answer }).await.map_err(|_| gone())?;
        let settings = wait.await.map_err(|_| gone())??;
        let after = values(&settings, &keys);
        let (by, trace_id) = (&actor.caller.id, &actor.trace_id);
        tracing::info!(%before, %after, actor = %by, request_id = trace_id, "settings changed until the next start");
        let mut line = actor.did("config.change", "config", "config");
        (line.before, line.after) = (Some(before), Some(after));
        if let Err(error) = self.parts.catalog.append_audit(line).await {
            tracing::error!(%error, actor = %by, request_id = trace_id, "the change of the settings above is not in the audit log");
        }
        Ok(settings)
    }
}

/// The settings as `GET /api/v1/config` shows them, secrets hidden.
fn values(loaded: &Loaded, keys: &[String]) -> Value {
    let all = SETTINGS.iter().zip(&loaded.values);
    let asked = all.filter(|(setting, _)| keys.iter().any(|key| key == setting.key));
    asked.map(|(setting, (text, _))| (setting.key.to_owned(), Value::from(text.as_str()))).collect::<Map<_, _>>().into()
}
