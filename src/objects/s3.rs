//! Objects in a bucket of S3 or of a store that speaks it.
//!
//! Correctness rests on names that say what they hold and on one writer a key; a conditional PUT, where the store has it (a
//! probe tells, since some ignore the condition), also shows what nobody should have put there. What was put is verified by the
//! store's own length and CRC32C, or read back where the store keeps no CRC32C. Everything runs on the control runtime; see
//! [`request`] for time limits and tries.

mod breaker;
mod credentials;
mod figures;
mod ranges;
mod request;
mod upload;

use std::{
    path::Path,
    sync::Arc,
    thread::{self, ThreadId},
};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use rusty_s3::{Bucket, UrlStyle, actions::ListObjectsV2};
use tokio::{
    runtime::Handle,
    sync::{OnceCell, Semaphore},
};
use url::Url;

use super::{ObjectEntry, ObjectError, names::is_key};
use crate::{
    calendar::parse_time,
    config::{S3Credentials, S3Options},
    outgoing::{Connections, NamedBy},
};
use request::{Call, Operation, Requests};

pub use credentials::{CredentialsError, FreshCredentials};
pub use figures::S3Figures;

/// Keys of one page that a store gives.
const PAGE: usize = 1000;
/// Objects removed at a time.
const REMOVALS: usize = 8;

/// What the store can do, as a probe showed.
#[derive(Debug, Clone, Copy)]
struct Abilities {
    /// It refuses to overwrite when asked to.
    conditional: bool,
    /// It keeps a CRC32C and tells it.
    checksums: bool,
}

/// The objects of one bucket, cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct S3Objects(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    requests: Requests,
    abilities: OnceCell<Abilities>,
    /// Files that are sent at a time: what they hold in memory is bounded.
    uploads: Semaphore,
    multipart_bytes: u64,
    credentials: S3Credentials,
    bucket_name: String,
    /// The objects are somebody else's: their keys are any.
    is_foreign: bool,
    place: String,
    runtime: Handle,
    runtime_thread: ThreadId,
}

impl S3Objects {
    /// On the current runtime and thread. Asks the store nothing; reads files, blocking.
    pub(super) fn open(options: &S3Options, figures: S3Figures) -> Result<Self, ObjectError> {
        Self::open_as(false, options, figures)
    }

    /// The same for objects that are somebody else's.
    pub(super) fn open_foreign(options: &S3Options, figures: S3Figures) -> Result<Self, ObjectError> {
        Self::open_as(true, options, figures)
    }

    fn open_as(is_foreign: bool, options: &S3Options, figures: S3Figures) -> Result<Self, ObjectError> {
        let denied = |reason: String| ObjectError::Denied { what: "S3 configuration".into(), reason };
        let endpoint = Url::parse(&options.endpoint).map_err(|e| denied(format!("s3.endpoint: {e}")))?;
        let host = endpoint.host_str().ok_or_else(|| denied("s3.endpoint names no host".into()))?.to_owned();
        let style = if options.path_style { UrlStyle::Path } else { UrlStyle::VirtualHost };
        let bucket = Bucket::new(endpoint.clone(), style, options.bucket.clone(), options.region.clone())
            .map_err(|e| denied(format!("s3.endpoint: {e}")))?;
        let target = bucket.base_url().host_str().unwrap_or(&host).to_owned();
        let port = endpoint.port_or_known_default().ok_or_else(|| denied("s3.endpoint names no port".into()))?;
        let tls = (endpoint.scheme() == "https").then_some(options.ca_path.as_deref());
        let named_by = NamedBy { endpoint: "s3.endpoint", ca_path: "s3.ca_path" };
        let connections = Connections::new(target.trim_matches(['[', ']']), port, tls, named_by)
            .map_err(|e| denied(format!("TLS to the store: {e}")))?;
        let credentials = credentials::read(&options.credentials).map_err(|e| denied(e.to_string()))?.0;
        let prefix = if options.prefix.is_empty() { String::new() } else { format!("{}/", options.prefix) };
        let shared = Shared {
            requests: Requests::new(bucket, prefix, credentials, connections, options.timeout, figures),
            abilities: OnceCell::new(),
            uploads: Semaphore::new(upload::FILES_AT_ONCE),
            multipart_bytes: options.multipart_bytes,
            credentials: options.credentials.clone(),
            bucket_name: options.bucket.clone(),
            is_foreign,
            place: format!("S3 bucket {} at {host}:{port}", options.bucket),
            runtime: Handle::current(),
            runtime_thread: thread::current().id(),
        };
        Ok(Self(Arc::new(shared)))
    }

    fn requests(&self) -> &Requests {
        &self.0.requests
    }

    fn runtime(&self) -> &Handle {
        &self.0.runtime
    }

    fn runtime_thread(&self) -> ThreadId {
        self.0.runtime_thread
    }

    pub(super) fn place(&self) -> &str {
        &self.0.place
    }

    /// As other programs name an object.
    fn name_of(&self, key: &str) -> String {
        format!("s3://{}/{}{key}", self.0.bucket_name, self.requests().prefix())
    }

    /// The credentials as they are now where they come from. Blocking.
    pub(super) fn fresh_credentials(&self) -> Result<FreshCredentials, CredentialsError> {
        credentials::read(&self.0.credentials)
    }

    pub(super) fn use_credentials(&self, fresh: FreshCredentials) {
        self.requests().set_credentials(fresh.0);
    }

    /// What the store can do; asked once.
    async fn abilities(&self) -> Result<Abilities, ObjectError> {
        self.0.abilities.get_or_try_init(|| self.probe()).await.copied()
    }

    /// Puts, reads and removes an object of our own, and so shows that all we need is allowed.
    pub(super) async fn probe_once(&self) -> Result<(), ObjectError> {
        self.abilities().await.map(|_| ())
    }

    async fn probe(&self) -> Result<Abilities, ObjectError> {
        let key = format!(".probe/{}", uuid::Uuid::new_v4().simple());
        let content = Bytes::from_static(b"ttdust was here");
        let checksum = crc32c::crc32c(&content);
        let plain = upload::put_call(&key, content.clone(), checksum, false);
        upload::expect_done(&plain, &self.requests().call(&plain).await?)?;
        let again = upload::put_call(&key, content.clone(), checksum, true);
        let conditional = match self.requests().call(&again).await?.status.as_u16() {
            412 => true,
            200..=299 | 501 => false,
            status => return Err(again.denied(format!("{status} in answer to a conditional PUT"))),
        };
        let head = self.head(&key).await?;
        let checksums = head.is_some_and(|head| head.checksum == Some(checksum));
        let read = self.read_range(&key, 2..content.len() as u64).await?;
        if read != content[2..] {
            let reason = "the store does not give the range that was asked for";
            return Err(Call::new(Operation::Get, &key).denied(reason));
        }
        self.list_page("", None, 1).await?;
        self.remove(&key).await?;
        tracing::info!(place = %self.place(), conditional_put = conditional, crc32c = checksums, "the object store was probed");
        Ok(Abilities { conditional, checksums })
    }

    pub(super) async fn get(&self, key: &str, limit: u64) -> Result<Bytes, ObjectError> {
        let mut call = Call::new(Operation::Get, key);
        call.limit = limit;
        let answer = self.requests().call(&call).await?;
        match answer.status.as_u16() {
            200 => Ok(answer.body),
            404 => Err(ObjectError::NotFound { key: key.to_owned() }),
            status => Err(call.denied(format!("{status} in answer to a GET"))),
        }
    }

    pub(super) async fn size(&self, key: &str) -> Result<Option<u64>, ObjectError> {
        Ok(self.head(key).await?.map(|head| head.bytes))
    }

    pub(super) async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<ObjectEntry>, ObjectError> {
        let mut found: Vec<ObjectEntry> = Vec::new();
        let mut after = after.map(str::to_owned);
        loop {
            let page = self.list_page(prefix, after.as_deref(), (limit - found.len()).min(PAGE)).await?;
            let last = page.last;
            found.extend(page.entries);
            match last {
                Some(last) if page.more && found.len() < limit => {
                    if after.is_some_and(|after| last <= after) {
                        return Err(Call::new(Operation::List, "").denied("the listing does not go on after a key"));
                    }
                    after = Some(last);
                }
                _ => return Ok(found),
            }
        }
    }

    /// One page of a listing. Goes on after a key rather than by the store's token, which not every page has.
    async fn list_page(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, ObjectError> {
        let ours = self.requests().prefix();
        let mut call = Call::new(Operation::List, "");
        call.query = vec![
            ("list-type", "2".into()),
            ("encoding-type", "url".into()),
            ("max-keys", limit.to_string()),
            ("prefix", format!("{ours}{prefix}")),
        ];
        if let Some(after) = after.filter(|after| !after.is_empty()) {
            call.query.push(("start-after", format!("{ours}{after}")));
        }
        let answer = self.requests().call(&call).await?;
        if answer.status.as_u16() != 200 {
            return Err(call.denied(format!("{} in answer to a listing", answer.status.as_u16())));
        }
        let text = String::from_utf8_lossy(&answer.body);
        let parsed =
            ListObjectsV2::parse_response(&text).map_err(|e| call.denied(format!("no listing of S3's: {e}")))?;
        let mut page = Page { more: parsed.next_continuation_token.is_some(), last: None, entries: Vec::new() };
        for object in parsed.contents {
            let Some(key) = object.key.strip_prefix(ours) else {
                return Err(call.denied("the listing holds keys that were not asked for"));
            };
            page.last = Some(key.to_owned());
            // What is no key of ours is somebody else's, or our probe's.
            if self.0.is_foreign || is_key(key) {
                let modified = object.last_modified.as_deref().and_then(|text| parse_time(text).ok());
                let (Some(bytes), Some(modified_unix_micros)) = (object.size, modified) else {
                    return Err(call.denied("the listing lacks lengths or times"));
                };
                page.entries.push(ObjectEntry { key: key.to_owned(), bytes, modified_unix_micros });
            }
        }
        Ok(page)
    }

    pub(super) async fn remove(&self, key: &str) -> Result<(), ObjectError> {
        let call = Call::new(Operation::Delete, key);
        let answer = self.requests().call(&call).await?;
        match answer.status.as_u16() {
            200..=299 | 404 => Ok(()),
            status => Err(call.denied(format!("{status} in answer to a DELETE"))),
        }
    }

    pub(super) async fn remove_prefix(&self, folder: &str) -> Result<(), ObjectError> {
        let prefix = format!("{folder}/");
        loop {
            let page = self.list(&prefix, None, PAGE).await?;
            let done = page.len() < PAGE;
            let removals = stream::iter(page).map(|entry| async move { self.remove(&entry.key).await });
            removals.buffer_unordered(REMOVALS).try_collect::<()>().await?;
            if done {
                return Ok(());
            }
        }
    }

    pub(super) async fn check(&self) -> Result<(), ObjectError> {
        self.list_page("", None, 1).await.map(|_| ())
    }

    pub(super) async fn put(
        &self,
        staged: &Path,
        key: &str,
        bytes: u64,
        checksum: u32,
        replace: bool,
    ) -> Result<(), ObjectError> {
        self.upload(staged, key, upload::Content { bytes, checksum }, replace).await
    }
}

/// A page of a listing.
struct Page {
    entries: Vec<ObjectEntry>,
    /// The last key of the page, whoever's it is.
    last: Option<String>,
    more: bool,
}
