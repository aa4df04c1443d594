//! `ttdust settings` and `ttdust health`: how a running server is set and how it is.

use std::collections::BTreeMap;

use clap::Subcommand;
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use super::{
    failure::{Failure, Outcome},
    output::{Column, Form, column, column_of},
    session::Session,
    text::rate,
};

const CONFIG: &str = "/api/v1/config";

/// What may be done with the settings of a running server.
#[derive(Subcommand)]
pub enum SettingsCommand {
    /// List what is in force and where each value comes from.
    List {
        /// Only keys that begin so, such as rate.
        #[arg(value_name = "PREFIX", default_value = "", hide_default_value = true)]
        prefix: String,
    },
    /// Change settings until the next start: all or none.
    Set {
        /// A setting that needs no restart; may be given again.
        #[arg(required = true, value_name = "KEY=VALUE")]
        changes: Vec<String>,
    },
}

const LIST: &[Column] = &[
    column("KEY", "/key"),
    column("VALUE", "/value"),
    column("SOURCE", "/source"),
    column("RELOADABLE", "/reloadable"),
];

const PARTS: &[Column] = &[
    column("PART", "/part"),
    column("STATUS", "/status"),
    column_of("MS", "/latency_ms", rate),
    column("DETAIL", "/detail"),
];

#[derive(Deserialize)]
struct Settings {
    settings: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct Readiness {
    status: String,
    components: BTreeMap<String, Value>,
}

/// Does what `command` says.
pub(super) async fn run(command: SettingsCommand, session: &mut Session) -> Outcome {
    let Session { api, output } = session;
    let (answer, prefix, changed) = match command {
        SettingsCommand::List { prefix } => (api.get(CONFIG, &[]).await?, prefix, Vec::new()),
        SettingsCommand::Set { changes } => {
            let pair = |text: &String| {
                let (key, value) = text
                    .split_once('=')
                    .ok_or_else(|| Failure::usage(format!("{text:?} should be KEY=VALUE, such as log.level=debug")))?;
                Ok((key.trim().to_owned(), Value::from(value.trim())))
            };
            let changes = changes.iter().map(pair).collect::<Result<serde_json::Map<_, _>, Failure>>()?;
            let keys = changes.keys().cloned().collect();
            (api.patch(CONFIG, &json!({ "settings": changes })).await?, String::new(), keys)
        }
    };
    if output.form == Form::Json && prefix.is_empty() && changed.is_empty() {
        output.json(answer.text()?)?;
        return output.flush();
    }
    let shown = |key: &String| key.starts_with(&prefix) && (changed.is_empty() || changed.contains(key));
    let settings = answer.parse::<Settings>()?.settings.into_iter().filter(|(key, _)| shown(key));
    output.list(&named("key", settings), LIST)
}

/// Objects that stand under their names, each with its name in it.
fn named(member: &str, objects: impl Iterator<Item = (String, Value)>) -> Vec<Box<RawValue>> {
    let with_name = |(name, mut object): (String, Value)| {
        if let Some(members) = object.as_object_mut() {
            members.insert(member.to_owned(), name.into());
        }
        RawValue::from_string(object.to_string()).expect("it is JSON")
    };
    objects.map(with_name).collect()
}

/// Shows how the server and its parts are. One that cannot do its work is told by the status.
pub(super) async fn health(session: &mut Session) -> Outcome {
    let Session { api, output } = session;
    let text = api.health().await?;
    let readiness: Readiness = text.parse()?;
    if output.form == Form::Json {
        output.json(text.text()?)?;
        output.flush()?;
    } else {
        output.list(&named("part", readiness.components.into_iter()), PARTS)?;
    }
    if readiness.status == "ok" {
        return Ok(());
    }
    Err(Failure::later(
        format!("{} cannot do its work", api.place()),
        "the parts that are down say why; the server goes on by itself once they are back",
    ))
}
