//! Putting an object: what is sent is checked against what was staged, what is stored against both.
//!
//! A file of `s3.multipart_bytes` or less is one PUT; a longer one goes up in parts, a few at a time, and appears when all are
//! there. An upload that failed is aborted; what a crash leaves of one, the bucket's lifecycle rule has to end.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http::{HeaderMap, header::CONTENT_LENGTH};
use rusty_s3::actions::CreateMultipartUpload;
use tokio::task::spawn_blocking;

use super::{
    S3Objects,
    request::{Call, Operation},
};
use crate::{objects::ObjectError, outgoing::Answer};

/// Files that are sent at a time.
pub(super) const FILES_AT_ONCE: usize = 2;
/// Parts of a file that are sent at a time.
const PARTS_AT_ONCE: usize = 2;
/// A store takes no more parts.
const PARTS_MAX: u64 = 10_000;
/// An object is read back in such pieces.
const PIECE_BYTES: u64 = 8 << 20;

const CHECKSUM: &str = "x-amz-checksum-crc32c";
const CHECKSUM_TYPE: (&str, &str) = ("x-amz-checksum-type", "FULL_OBJECT");

/// What an object is to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) bytes: u64,
    pub(super) checksum: u32,
}

/// What the store says of an object.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    pub(super) bytes: u64,
    /// CRC32C of all of it, if the store keeps one.
    pub(super) checksum: Option<u32>,
}

/// What lies at a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Nothing,
    Same,
    Other,
}

/// A part that is there.
struct Part {
    number: u64,
    tag: String,
    content: Content,
}

fn in_base64(checksum: u32) -> String {
    STANDARD.encode(checksum.to_be_bytes())
}

/// A checksum of a whole object; one of parts' checksums (`…-3`) says nothing of the whole.
fn checksum_of(headers: &HeaderMap) -> Option<u32> {
    let bytes = STANDARD.decode(headers.get(CHECKSUM)?.as_bytes()).ok()?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

/// A PUT of all of an object, `once`: only if there is none.
pub(super) fn put_call(key: &str, body: Bytes, checksum: u32, once: bool) -> Call<'_> {
    let mut call = Call::new(Operation::Put, key);
    call.headers = vec![(CHECKSUM, in_base64(checksum)), ("content-type", "application/octet-stream".into())];
    if once {
        call.headers.push(("if-none-match", "*".into()));
    }
    call.body = body;
    call
}

/// An answer that must be a success.
pub(super) fn expect_done(call: &Call<'_>, answer: &Answer) -> Result<(), ObjectError> {
    match answer.status.as_u16() {
        200..=299 => Ok(()),
        status => Err(call.denied(format!("the store answers {status}"))),
    }
}

impl S3Objects {
    pub(super) async fn head(&self, key: &str) -> Result<Option<Head>, ObjectError> {
        let mut call = Call::new(Operation::Head, key);
        call.headers.push(("x-amz-checksum-mode", "ENABLED".into()));
        let answer = self.requests().call(&call).await?;
        match answer.status.as_u16() {
            200 => {
                let bytes = answer.headers.get(CONTENT_LENGTH).and_then(|text| text.to_str().ok()?.parse().ok());
                let bytes = bytes.ok_or_else(|| call.denied("the store does not say how long the object is"))?;
                Ok(Some(Head { bytes, checksum: checksum_of(&answer.headers) }))
            }
            404 => Ok(None),
            status => Err(call.denied(format!("the store answers {status}"))),
        }
    }

    /// Whether the object holds `wanted`: by the store's checksum, or by reading it.
    async fn look(&self, key: &str, wanted: Content) -> Result<Found, ObjectError> {
        let same = match self.head(key).await? {
            None => return Ok(Found::Nothing),
            Some(head) if head.bytes != wanted.bytes => false,
            Some(Head { checksum: Some(checksum), .. }) => checksum == wanted.checksum,
            Some(Head { checksum: None, .. }) => self.read_checksum(key, wanted.bytes).await? == wanted.checksum,
        };
        Ok(if same { Found::Same } else { Found::Other })
    }

    async fn read_checksum(&self, key: &str, bytes: u64) -> Result<u32, ObjectError> {
        let (mut checksum, mut at) = (0, 0);
        while at < bytes {
            let end = bytes.min(at + PIECE_BYTES);
            checksum = crc32c::crc32c_append(checksum, &self.read_range(key, at..end).await?);
            at = end;
        }
        Ok(checksum)
    }

    /// The store must hold now what was sent.
    async fn verify(&self, key: &str, wanted: Content) -> Result<(), ObjectError> {
        match self.look(key, wanted).await? {
            Found::Same => Ok(()),
            found => {
                tracing::error!(key, ?found, "the object store does not hold what it was sent");
                Err(Call::new(Operation::Head, key).unavailable("the store does not hold what it was sent"))
            }
        }
    }

    /// See [`crate::objects::Objects::put_bytes`].
    pub(in crate::objects) async fn put_bytes(&self, key: &str, body: Bytes) -> Result<(), ObjectError> {
        let content = Content { bytes: body.len() as u64, checksum: crc32c::crc32c(&body) };
        let call = put_call(key, body, content.checksum, false);
        expect_done(&call, &self.requests().call(&call).await?)?;
        self.verify(key, content).await
    }

    /// Puts a staged file, and takes it away once it is there and verified.
    pub(super) async fn upload(
        &self,
        staged: &Path,
        key: &str,
        content: Content,
        replace: bool,
    ) -> Result<(), ObjectError> {
        let _turn = self.0.uploads.acquire().await.expect("it is never closed");
        let once = !replace;
        // A store that ignores the condition is asked before; one writer a key makes that enough.
        if once && !self.abilities().await?.conditional {
            match self.look(key, content).await? {
                Found::Nothing => {}
                Found::Same => return remove_staged(staged).await,
                Found::Other => return Err(ObjectError::Different { key: key.to_owned() }),
            }
        }
        match self.send(staged, key, content, once).await {
            Ok(true) => self.verify(key, content).await?,
            // Somebody's object is there: our own, if an earlier try was not answered.
            Ok(false) => match self.look(key, content).await? {
                Found::Same => {}
                Found::Other => return Err(ObjectError::Different { key: key.to_owned() }),
                Found::Nothing => return Err(Call::new(Operation::Put, key).unavailable("an object came and went")),
            },
            Err(lost @ ObjectError::StagedLost { .. }) if once => {
                // It may have been sent before.
                if self.look(key, content).await? != Found::Same {
                    return Err(lost);
                }
            }
            Err(error) => return Err(error),
        }
        remove_staged(staged).await
    }

    /// Sends a file; `false`: there is an object already.
    async fn send(&self, staged: &Path, key: &str, content: Content, once: bool) -> Result<bool, ObjectError> {
        let path = staged.to_owned();
        let bytes = on_a_thread(staged, move || Ok(std::fs::metadata(path)?.len())).await?;
        check_staged(staged, content, Content { bytes, ..content })?;
        if bytes <= self.0.multipart_bytes {
            self.send_whole(staged, key, content, once).await
        } else {
            self.send_parts(staged, key, content, once).await
        }
    }

    /// Sends a file in one request; `false`: there is an object already.
    async fn send_whole(&self, staged: &Path, key: &str, content: Content, once: bool) -> Result<bool, ObjectError> {
        let body = read_piece(staged, 0, content.bytes).await?;
        check_staged(staged, content, Content { bytes: body.len() as u64, checksum: crc32c::crc32c(&body) })?;
        let call = put_call(key, body, content.checksum, once && self.abilities().await?.conditional);
        let answer = self.requests().call(&call).await?;
        match answer.status.as_u16() {
            412 if once => Ok(false),
            _ => expect_done(&call, &answer).map(|()| true),
        }
    }

    /// Sends a file in parts; `false`: there is an object already.
    async fn send_parts(&self, staged: &Path, key: &str, content: Content, once: bool) -> Result<bool, ObjectError> {
        let abilities = self.abilities().await?;
        let mut create = Call::new(Operation::CreateUpload, key);
        create.query.push(("uploads", "1".into()));
        create.headers.push(("content-type", "application/octet-stream".into()));
        if abilities.checksums {
            create.headers.push(("x-amz-checksum-algorithm", "CRC32C".into()));
            create.headers.push((CHECKSUM_TYPE.0, CHECKSUM_TYPE.1.into()));
        }
        let answer = self.requests().call(&create).await?;
        expect_done(&create, &answer)?;
        let text = String::from_utf8_lossy(&answer.body);
        let upload = CreateMultipartUpload::parse_response(&text)
            .map_err(|e| create.denied(format!("no answer of S3's: {e}")))?
            .upload_id()
            .to_owned();
        let outcome = async {
            let parts = self.put_parts(staged, key, &upload, content, abilities.checksums).await?;
            self.complete(key, &upload, &parts, content, once && abilities.conditional).await
        };
        let outcome = outcome.await;
        if !matches!(outcome, Ok(true)) {
            self.abort(key, &upload).await;
        }
        outcome
    }

    async fn put_parts(
        &self,
        staged: &Path,
        key: &str,
        upload: &str,
        content: Content,
        checksums: bool,
    ) -> Result<Vec<Part>, ObjectError> {
        let size = self.0.multipart_bytes.max(content.bytes.div_ceil(PARTS_MAX));
        let send = |number: u64| async move {
            let start = number * size;
            let body = read_piece(staged, start, size.min(content.bytes - start)).await?;
            let part = Content { bytes: body.len() as u64, checksum: crc32c::crc32c(&body) };
            let mut call = Call::new(Operation::PutPart, key);
            call.query = vec![("partNumber", (number + 1).to_string()), ("uploadId", upload.to_owned())];
            if checksums {
                call.headers.push((CHECKSUM, in_base64(part.checksum)));
            }
            call.body = body;
            let answer = self.requests().call(&call).await?;
            expect_done(&call, &answer)?;
            let tag = answer.headers.get(http::header::ETAG).and_then(|tag| tag.to_str().ok());
            let tag = tag.ok_or_else(|| call.denied("the store gives no ETag for a part"))?.to_owned();
            Ok::<_, ObjectError>(Part { number, tag, content: part })
        };
        let numbers = stream::iter(0..content.bytes.div_ceil(size));
        let mut parts: Vec<Part> = numbers.map(send).buffer_unordered(PARTS_AT_ONCE).try_collect().await?;
        parts.sort_unstable_by_key(|part| part.number);
        let mut whole = Content { bytes: 0, checksum: 0 };
        for part in &parts {
            let length = usize::try_from(part.content.bytes).expect("it was in memory");
            whole.checksum = crc32c::crc32c_combine(whole.checksum, part.content.checksum, length);
            whole.bytes += part.content.bytes;
        }
        check_staged(staged, content, whole)?;
        Ok(parts)
    }

    async fn complete(
        &self,
        key: &str,
        upload: &str,
        parts: &[Part],
        content: Content,
        conditional: bool,
    ) -> Result<bool, ObjectError> {
        let checksums = self.abilities().await?.checksums;
        let mut call = Call::new(Operation::CompleteUpload, key);
        call.query.push(("uploadId", upload.to_owned()));
        call.body = completion(parts, checksums).into();
        if conditional {
            call.headers.push(("if-none-match", "*".into()));
        }
        if checksums {
            call.headers.push((CHECKSUM, in_base64(content.checksum)));
            call.headers.push((CHECKSUM_TYPE.0, CHECKSUM_TYPE.1.into()));
        }
        let answer = self.requests().call(&call).await?;
        match answer.status.as_u16() {
            // The upload is gone: an earlier try, whose answer was lost, may have completed it.
            404 | 412 => Ok(false),
            _ => expect_done(&call, &answer).map(|()| true),
        }
    }

    /// Best effort: what stays, a lifecycle rule ends.
    async fn abort(&self, key: &str, upload: &str) {
        let mut call = Call::new(Operation::AbortUpload, key);
        call.query.push(("uploadId", upload.to_owned()));
        if let Err(error) = self.requests().call(&call).await {
            tracing::warn!(%error, "parts of an upload that failed stay in the bucket");
        }
    }
}

/// The list of parts, as XML.
fn completion(parts: &[Part], checksums: bool) -> String {
    let mut text = String::from("<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">");
    for part in parts {
        let tag = part.tag.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;");
        let number = part.number + 1;
        text.push_str(&format!("<Part><ETag>{tag}</ETag><PartNumber>{number}</PartNumber>"));
        if checksums {
            text.push_str(&format!("<ChecksumCRC32C>{}</ChecksumCRC32C>", in_base64(part.content.checksum)));
        }
        text.push_str("</Part>");
    }
    text.push_str("</CompleteMultipartUpload>");
    text
}

/// A staged file that is not what was written must not be sent.
fn check_staged(staged: &Path, wanted: Content, found: Content) -> Result<(), ObjectError> {
    if found == wanted {
        return Ok(());
    }
    let reason =
        format!("length and CRC32C are {:?}, not {:?}", (found.bytes, found.checksum), (wanted.bytes, wanted.checksum));
    Err(ObjectError::StagedLost { path: staged.to_owned(), reason })
}

/// A piece of a staged file.
async fn read_piece(staged: &Path, start: u64, bytes: u64) -> Result<Bytes, ObjectError> {
    let path = staged.to_owned();
    on_a_thread(staged, move || {
        let file = File::open(&path)?;
        let mut piece = vec![0; usize::try_from(bytes).map_err(io::Error::other)?];
        file.read_exact_at(&mut piece, start)?;
        Ok(Bytes::from(piece))
    })
    .await
}

async fn remove_staged(staged: &Path) -> Result<(), ObjectError> {
    let path: PathBuf = staged.to_owned();
    on_a_thread(staged, move || match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    })
    .await
}

/// Work on a staged file; one that is missing or cut is lost.
async fn on_a_thread<T: Send + 'static>(
    staged: &Path,
    run: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, ObjectError> {
    let outcome = spawn_blocking(run).await.unwrap_or_else(|error| Err(io::Error::other(error)));
    outcome.map_err(|source| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof => {
            ObjectError::StagedLost { path: staged.to_owned(), reason: source.to_string() }
        }
        _ => ObjectError::Io { what: format!("cannot work on the staged file {}", staged.display()), source },
    })
}
