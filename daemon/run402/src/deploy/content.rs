//! Sending what the gateway does not have.
//!
//! Input: the contents that a plan misses. Output: nothing; they are promoted in the gateway's store, or
//! an error says which one could not be sent. A file is opened again, must still be the file that was
//! hashed, and is hashed again while it is sent: bytes that are not those of the plan never become a
//! content. Several contents go at once; memory does not depend on their sizes.

use super::digest::Digest;
use super::event::{Event, Observer, Silent};
use super::hash::{Identity, changed};
use super::plan::MissingContent;
use super::prepare::{Content, Origin};
use super::walk::Root;
use crate::client::{Auth, Client, read, why};
use crate::error::Error;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use indexmap::IndexMap;
use reqwest::Url;
use reqwest::header::{CONTENT_LENGTH, ETAG, HeaderName};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

const PLANS: &str = "/content/v1/plans";
const CHECKSUM: HeaderName = HeaderName::from_static("x-amz-checksum-sha256");
/// A content is tried so often, with these pauses between.
const ATTEMPTS: usize = 3;
const PAUSES: [Duration; ATTEMPTS - 1] = [Duration::from_secs(1), Duration::from_secs(2)];
/// What is read, hashed and sent at once. Two of them are in flight for each content.
const CHUNK_BYTES: usize = 1 << 20;
/// Of one content.
const PARTS_AT_ONCE: usize = 2;
/// How much of a refusal is repeated in the error.
const MAX_REFUSAL_CHARS: usize = 200;
const MAX_REFUSAL_BYTES: usize = 64 << 10;

/// How contents are sent.
#[derive(Debug, Clone)]
pub struct Uploads {
    /// Contents at once; at least one.
    pub concurrency: usize,
    /// Pauses before the second and third attempt are so much of the usual ones; tests shorten them.
    pub pauses: [Duration; ATTEMPTS - 1],
}

impl Default for Uploads {
    fn default() -> Self {
        Self { concurrency: 4, pauses: PAUSES }
    }
}

#[derive(Serialize)]
struct PlanRequest<'a> {
    content: Vec<Wanted<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    project_id: Option<&'a str>,
}

#[derive(Serialize)]
struct Wanted<'a> {
    sha256: Digest,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<&'a str>,
}

#[derive(Deserialize)]
struct PlanAnswer {
    plan_id: String,
    #[serde(default)]
    missing: Vec<Upload>,
}

/// Where one content goes.
#[derive(Debug, Deserialize)]
struct Upload {
    sha256: Digest,
    mode: Mode,
    #[serde(default)]
    parts: Vec<Part>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    Single,
    Multipart,
}

/// `byte_end` is the last byte; for nothing it is -1 or 0.
#[derive(Debug, Deserialize)]
struct Part {
    url: String,
    byte_start: u64,
    byte_end: i64,
}

fn failed(label: &str, message: impl Into<String>) -> Error {
    Error::deploy("CONTENT_UPLOAD_FAILED", "upload", label, message)
}

/// Sends what the plan misses and tells what is there already.
pub(crate) async fn send(
    client: &Client,
    project: &str,
    contents: &IndexMap<Digest, Content>,
    missing: &[MissingContent],
    uploads: &Uploads,
    observer: &dyn Observer,
) -> Result<(), Error> {
    let mut wanted = IndexMap::new();
    for entry in missing {
        let content = contents.get(&entry.sha256).ok_or_else(|| {
            failed("content", format!("the gateway asks for content {}, which is not in the release", entry.sha256))
        })?;
        match (entry.present, &content.origin) {
            (true, _) => observer.observe(Event::UploadSkipped {
                label: content.label.clone(),
                sha256: entry.sha256,
                reason: "present",
                slice_kind: Some(content.slice),
            }),
            (false, Origin::Elsewhere) => {
                let message = format!("{} was given by its hash only, and the gateway does not have it", content.label);
                return Err(failed(&content.label, message));
            }
            (false, _) => {
                wanted.insert(entry.sha256, content);
            }
        }
    }
    match wanted.is_empty() {
        true => Ok(()),
        false => upload(client, project, &wanted, uploads, observer, true).await,
    }
}

/// Sends a release that is too long for a request. Nothing is promoted when it is there already, and nobody
/// hears of it: it is none of the caller's files.
pub(crate) async fn send_manifest(
    client: &Client,
    project: &str,
    manifest: &IndexMap<Digest, Content>,
    uploads: &Uploads,
) -> Result<(), Error> {
    let wanted = manifest.iter().map(|(digest, content)| (*digest, content)).collect();
    upload(client, project, &wanted, uploads, &Silent, false).await
}

async fn upload(
    client: &Client,
    project: &str,
    wanted: &IndexMap<Digest, &Content>,
    uploads: &Uploads,
    observer: &dyn Observer,
    commit_always: bool,
) -> Result<(), Error> {
    let content = wanted.iter().map(|(digest, content)| Wanted {
        sha256: *digest,
        size: content.size,
        content_type: content.content_type.as_deref(),
    });
    let body = PlanRequest { content: content.collect(), project_id: client.is_bearer().then_some(project) };
    let answer: PlanAnswer = client
        .post(PLANS, Auth::Anon(project))
        .json(&body)?
        .receive("planning the upload")
        .await
        .map_err(Error::into_deploy)?;
    let total = answer.missing.len();
    let sends = answer.missing.into_iter().map(|upload| async move {
        let content = wanted.get(&upload.sha256).ok_or_else(|| {
            failed("content", format!("the gateway asks for content {}, which was not offered", upload.sha256))
        })?;
        one(client, &upload, content, uploads, observer).await?;
        Ok::<_, Error>((upload.sha256, *content))
    });
    let mut sent = futures::stream::iter(sends).buffer_unordered(uploads.concurrency.max(1));
    let mut done = 0;
    while let Some((sha256, content)) = sent.try_next().await? {
        done += 1;
        let slice_kind = Some(content.slice);
        observer.observe(Event::UploadProgress { label: content.label.clone(), sha256, done, total, slice_kind });
    }
    if total == 0 && !commit_always {
        return Ok(());
    }
    let path = format!("{PLANS}/{}/commit", encoded(&answer.plan_id));
    client
        .post(path, Auth::Anon(project))
        .json(&json!({}))?
        .send("promoting the upload")
        .await
        .map_err(Error::into_deploy)?;
    Ok(())
}

/// An id of the gateway's as one part of a path.
pub(crate) fn encoded(id: &str) -> percent_encoding::PercentEncode<'_> {
    const PLAIN: percent_encoding::AsciiSet =
        percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
    percent_encoding::utf8_percent_encode(id, const { &PLAIN })
}

/// Why an attempt did not succeed.
enum Attempt {
    /// The same again may work: no answer, the other side's fault, or a URL that has expired.
    Again(Error),
    Never(Error),
}

async fn one(
    client: &Client,
    upload: &Upload,
    content: &Content,
    uploads: &Uploads,
    observer: &dyn Observer,
) -> Result<(), Error> {
    check_parts(upload, content)?;
    let mut attempt = 0;
    loop {
        match every_part(client, upload, content, observer).await {
            Ok(()) => return Ok(()),
            Err(Attempt::Never(error)) => return Err(error),
            Err(Attempt::Again(error)) if attempt == uploads.pauses.len() => return Err(error),
            Err(Attempt::Again(error)) => {
                tracing::debug!(%error, label = content.label, attempt, "an upload is tried again");
                tokio::time::sleep(uploads.pauses[attempt]).await;
                attempt += 1;
            }
        }
    }
}

/// The range of a part, `[start, end)`.
fn range(part: &Part, size: u64) -> Option<(u64, u64)> {
    let end = u64::try_from(part.byte_end.checked_add(1)?).ok()?.min(size);
    (part.byte_start <= end).then_some((part.byte_start, end))
}

/// The parts are the whole content, each byte once and in order.
fn check_parts(upload: &Upload, content: &Content) -> Result<(), Error> {
    let mut at = 0;
    let single = upload.mode == Mode::Multipart || upload.parts.len() == 1;
    let whole = upload.parts.iter().all(|part| match range(part, content.size) {
        Some((start, end)) if start == at => {
            at = end;
            true
        }
        _ => false,
    });
    match single && whole && at == content.size && !upload.parts.is_empty() {
        true => Ok(()),
        false => Err(failed(&content.label, "the gateway's upload plan does not cover the content exactly once")),
    }
}

async fn every_part(
    client: &Client,
    upload: &Upload,
    content: &Content,
    observer: &dyn Observer,
) -> Result<(), Attempt> {
    let bytes = &Arc::new(Opened::open(content).map_err(Attempt::Never)?);
    let parts = (0..upload.parts.len()).map(|index| async move {
        let part = &upload.parts[index];
        let (start, end) = range(part, content.size).unwrap_or_default();
        let checksum = match upload.mode {
            Mode::Single => upload.sha256,
            Mode::Multipart => {
                let bytes = bytes.clone();
                let hashed = tokio::task::spawn_blocking(move || bytes.digest(start, end)).await;
                hashed.expect("hashing does not panic").map_err(Attempt::Never)?
            }
        };
        put(client, part, upload.mode, content, bytes, (start, end), checksum, observer).await
    });
    // While one is sent, the next is hashed.
    let mut sent = futures::stream::iter(parts).buffered(PARTS_AT_ONCE);
    while sent.try_next().await?.is_some() {}
    // The checksums of parts do not say that together they are what was planned.
    if upload.mode == Mode::Multipart {
        bytes.check_unchanged().map_err(Attempt::Never)?;
    }
    Ok(())
}

#[allow(clippy::too_many_arguments, reason = "one request has so many parts")]
async fn put(
    client: &Client,
    part: &Part,
    mode: Mode,
    content: &Content,
    bytes: &Arc<Opened>,
    (start, end): (u64, u64),
    checksum: Digest,
    observer: &dyn Observer,
) -> Result<(), Attempt> {
    let label = &content.label;
    let url = upload_url(&part.url, label).map_err(Attempt::Never)?;
    let in_query = url.query_pairs().any(|(name, _)| name.eq_ignore_ascii_case(CHECKSUM.as_str()));
    let mut request = client.http().put(url).header(CONTENT_LENGTH, end - start);
    if !in_query {
        request = request.header(CHECKSUM, checksum.base64());
    }
    // What goes wrong with our own bytes ends the request; the connection's error says nothing of it.
    let fault = Arc::new(std::sync::Mutex::new(None));
    let request = match bytes.clone().small(start, end) {
        Some(Ok(body)) if mode == Mode::Multipart || Digest::of(&body) == checksum => request.body(body),
        Some(Ok(_)) => return Err(Attempt::Never(bytes.changed())),
        Some(Err(error)) => return Err(Attempt::Never(bytes.unreadable(&error))),
        None => request.body(reqwest::Body::wrap_stream(stream(bytes.clone(), start, end, checksum, fault.clone()))),
    };
    let answered = request.send().await;
    if let Some(error) = fault.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take() {
        return Err(Attempt::Never(error));
    }
    let response = answered.map_err(|error| {
        let message = format!("{label} could not be uploaded: {}", why(&error));
        Attempt::Again(Error::network(message, error.without_url()).context("uploading"))
    })?;
    let status = response.status();
    let tagged = response.headers().contains_key(ETAG);
    if !status.is_success() {
        let said = read(response, MAX_REFUSAL_BYTES).await.unwrap_or_default();
        let said: String = String::from_utf8_lossy(&said).chars().take(MAX_REFUSAL_CHARS).collect();
        let mut error = failed(label, format!("{label} could not be uploaded: {status} {}", said.trim()));
        error.status = Some(status.as_u16());
        error.retryable = status.is_server_error() || status.as_u16() == 403;
        return Err(match error.retryable {
            true => Attempt::Again(error),
            false => Attempt::Never(error),
        });
    }
    if mode == Mode::Multipart && !tagged {
        return Err(Attempt::Never(failed(label, format!("a part of {label} was taken without an ETag"))));
    }
    observer.sent(end - start);
    Ok(())
}

fn upload_url(text: &str, label: &str) -> Result<Url, Error> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    url.ok_or_else(|| failed(label, "the gateway's upload URL is not an http or https URL"))
}

/// Reads ahead of the connection by one chunk. The last chunk is only sent when the hash is right, so that
/// the other side never gets the whole of something else.
fn stream(
    bytes: Arc<Opened>,
    start: u64,
    end: u64,
    expected: Digest,
    fault: Arc<std::sync::Mutex<Option<Error>>>,
) -> impl futures::Stream<Item = Result<Bytes, io::Error>> {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    tokio::task::spawn_blocking(move || {
        let mut hasher = Sha256::new();
        let mut at = start;
        while at < end {
            let next = end.min(at + CHUNK_BYTES as u64);
            let mut outcome = bytes.read(at, next).map_err(|error| bytes.unreadable(&error));
            if let Ok(chunk) = &outcome {
                hasher.update(chunk);
                if next == end && Digest::new(hasher.clone().finalize().into()) != expected {
                    outcome = Err(bytes.changed());
                }
            }
            let (item, stop) = match outcome {
                Ok(chunk) => (Ok(chunk), false),
                Err(error) => {
                    let said = io::Error::other(error.message.clone());
                    *fault.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(error);
                    (Err(said), true)
                }
            };
            // Nobody reads any more when the request has ended.
            if sender.blocking_send(item).is_err() || stop {
                return;
            }
            at = next;
        }
    });
    futures::stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) })
}

/// The bytes of a content, open for reading at any place.
#[derive(Debug)]
enum Opened {
    Memory { label: String, bytes: Bytes },
    File { file: File, root: Arc<Root>, path: PathBuf, identity: Identity },
}

impl Opened {
    fn open(content: &Content) -> Result<Self, Error> {
        match &content.origin {
            Origin::Memory(bytes) => Ok(Self::Memory { label: content.label.clone(), bytes: bytes.clone() }),
            Origin::File { root, path, identity } => {
                let file = root.file(path)?;
                let opened = Self::File { file, root: root.clone(), path: path.clone(), identity: *identity };
                opened.check_unchanged()?;
                Ok(opened)
            }
            Origin::Elsewhere => Err(failed(&content.label, "there are no bytes to send")),
        }
    }

    fn shown(&self) -> PathBuf {
        match self {
            Self::Memory { label, .. } => label.into(),
            Self::File { root, path, .. } => root.path().join(path),
        }
    }

    fn changed(&self) -> Error {
        changed(&self.shown())
    }

    fn unreadable(&self, error: &io::Error) -> Error {
        // A file that has become shorter ends before its end.
        match error.kind() {
            io::ErrorKind::UnexpectedEof => self.changed(),
            _ => Error::local("LOCAL_ERROR", format!("{} cannot be read: {error}", self.shown().display())),
        }
    }

    fn check_unchanged(&self) -> Result<(), Error> {
        match self {
            Self::Memory { .. } => Ok(()),
            Self::File { file, identity, .. } => match Identity::of(file) {
                Ok(now) if now == *identity => Ok(()),
                Ok(_) => Err(self.changed()),
                Err(error) => Err(self.unreadable(&error)),
            },
        }
    }

    fn read(&self, start: u64, end: u64) -> io::Result<Bytes> {
        let size = |at: u64| usize::try_from(at).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
        match self {
            Self::Memory { bytes, .. } => Ok(bytes.slice(size(start)?..size(end)?)),
            Self::File { file, .. } => {
                let mut chunk = vec![0; size(end - start)?];
                file.read_exact_at(&mut chunk, start)?;
                Ok(chunk.into())
            }
        }
    }

    /// The whole of it, when one chunk holds it.
    fn small(&self, start: u64, end: u64) -> Option<io::Result<Bytes>> {
        (end - start <= CHUNK_BYTES as u64).then(|| self.read(start, end))
    }

    fn digest(&self, start: u64, end: u64) -> Result<Digest, Error> {
        let mut hasher = Sha256::new();
        let mut at = start;
        while at < end {
            let next = end.min(at + CHUNK_BYTES as u64);
            hasher.update(self.read(at, next).map_err(|error| self.unreadable(&error))?);
            at = next;
        }
        Ok(Digest::new(hasher.finalize().into()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::SliceKind;
    use super::*;

    fn content(size: u64) -> Content {
        let origin = Origin::Memory(vec![0; usize::try_from(size).expect("a small size")].into());
        Content { size, content_type: None, label: "x".to_owned(), slice: SliceKind::Release, origin }
    }

    fn upload(mode: Mode, ranges: &[(u64, i64)]) -> Upload {
        let part = |(byte_start, byte_end): &(u64, i64)| Part {
            url: String::new(),
            byte_start: *byte_start,
            byte_end: *byte_end,
        };
        Upload { sha256: Digest::of(b""), mode, parts: ranges.iter().map(part).collect() }
    }

    #[test]
    fn parts_have_to_be_the_whole_content() {
        use Mode::{Multipart, Single};
        for (mode, ranges, size) in [
            (Single, &[(0, 9)][..], 10),
            (Single, &[(0, -1)], 0),
            (Single, &[(0, 0)], 0),
            (Multipart, &[(0, 4), (5, 9)], 10),
        ] {
            check_parts(&upload(mode, ranges), &content(size)).expect("it is covered");
        }
        for (mode, ranges, size) in [
            (Single, &[(0, 8)][..], 10),
            (Single, &[(0, 4), (5, 9)], 10),
            (Multipart, &[(0, 4), (6, 9)], 10),
            (Single, &[], 0),
            (Multipart, &[(0, 5), (5, 9)], 10),
            (Multipart, &[(5, 9), (0, 4)], 10),
            (Single, &[(1, 9)], 10),
            (Single, &[(0, i64::MAX)], 10),
            (Single, &[(0, -2)], 10),
            (Multipart, &[], 10),
        ] {
            check_parts(&upload(mode, ranges), &content(size)).expect_err(&format!("{ranges:?}"));
        }
    }

    #[test]
    fn only_web_addresses_are_uploaded_to() {
        for url in ["file:///etc/passwd", "ftp://x/y", "/relative", ""] {
            assert_eq!(upload_url(url, "x").expect_err(url).code, "CONTENT_UPLOAD_FAILED");
        }
        upload_url("https://bucket.example/x?sig=1", "x").expect("an https URL");
    }
}
