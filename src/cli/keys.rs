//! `ttdust key`.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::{
    api::segment,
    failure::{Failure, Outcome},
    output::{Column, column, column_of, note},
    session::Session,
    text::time,
};

const KEYS: &str = "/api/v1/api-keys";

/// What may be done with API keys.
#[derive(Subcommand)]
pub enum KeyCommand {
    /// Create a key, and show its text this one time.
    Create(Create),
    /// List keys, in the order of their creation, without their secrets.
    List {
        /// At most so many.
        #[arg(long, value_name = "N", default_value_t = usize::MAX, hide_default_value = true)]
        limit: usize,
    },
    /// Delete a key: it is refused from now on.
    Delete {
        /// Its id, key_….
        id: String,
    },
}

/// A key to create.
#[derive(Args)]
pub struct Create {
    /// What its holder may do: admin, operator, schema_admin, writer or reader.
    #[arg(long)]
    role: String,
    /// What a writer or reader may use: an id, a name, or a pattern such as web.*; may be given again.
    #[arg(long = "stream", value_name = "STREAM")]
    streams: Vec<String>,
    /// For people.
    #[arg(long, default_value = "", hide_default_value = true)]
    name: String,
    /// When it ends, such as 2027-01-01T00:00:00Z; default: never.
    #[arg(long, value_name = "TIME")]
    expires_at: Option<String>,
    /// Write its text to this new file, which only its owner reads, rather than to the screen.
    #[arg(long, value_name = "FILE")]
    to_file: Option<PathBuf>,
}

const LIST: &[Column] = &[
    column("ID", "/key_id"),
    column("NAME", "/name"),
    column("ROLE", "/role"),
    column("STREAMS", "/streams"),
    column_of("CREATED", "/created_at", time),
    column_of("ENDS", "/expires_at", time),
    column_of("LAST USED", "/last_used_at", time),
];

const NEW: &[Column] = &[
    column("ID", "/key_id"),
    column("NAME", "/name"),
    column("ROLE", "/role"),
    column("STREAMS", "/streams"),
    column_of("ENDS", "/expires_at", time),
    column("KEY", "/api_key"),
];

/// Does what `command` says.
pub(super) async fn run(command: KeyCommand, session: &mut Session) -> Outcome {
    let Session { api, output } = session;
    match command {
        KeyCommand::Create(new) => create(new, session).await,
        KeyCommand::List { limit } => output.list(&api.list(KEYS, &[], "api_keys", limit).await?, LIST),
        KeyCommand::Delete { id } => {
            api.delete(&format!("{KEYS}/{}", segment(&id))).await?;
            note("deleted: it is refused from now on");
            Ok(())
        }
    }
}

async fn create(new: Create, session: &mut Session) -> Outcome {
    let body = json!({"name": new.name, "role": new.role, "streams": new.streams, "expires_at": new.expires_at});
    // Before the key: one that cannot be kept is better not made.
    let file = new.to_file.as_deref().map(|path| Ok((path, private(path)?))).transpose()?;
    let answer = match session.api.post(KEYS, &[], &body).await {
        Ok(answer) => answer,
        Err(failure) => {
            // It is empty, and was not there before.
            let _ = file.map(|(path, _)| fs::remove_file(path));
            return Err(failure);
        }
    };
    let Some((path, mut file)) = file else {
        session.output.object(answer.text()?, NEW)?;
        note("the key is shown this one time: keep it now");
        return Ok(());
    };
    let mut whole: Map<String, Value> = answer.parse()?;
    let secret = whole.remove("api_key");
    let secret = secret.as_ref().and_then(Value::as_str).unwrap_or_default();
    file.write_all(format!("{secret}\n").as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(|e| Failure::file(path, &e))?;
    session.output.object(&Value::Object(whole).to_string(), &NEW[..NEW.len() - 1])?;
    note(&format!("the key is in {}", path.display()));
    Ok(())
}

/// A new file that only its owner reads.
fn private(path: &Path) -> Result<fs::File, Failure> {
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.map_err(|error| Failure::file(path, &error))
}
