//! Sending a stored content: conditional requests and ranges as in RFC 9110, with memory that does not
//! depend on the size.

use crate::error::{Refusal, Result};
use crate::gateway::Gateway;
use axum::body::Body;
use axum::http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_NONE_MATCH, IF_RANGE, RANGE,
};
use axum::http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use bytes::Bytes;
use run402::deploy::Digest;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

const CHUNK_BYTES: u64 = 256 << 10;

/// How long an answer may be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CacheClass {
    /// Its name changes with its content.
    Immutable,
    /// A minute, then asked again.
    Short,
    /// Asked every time.
    Revalidate,
    /// For the caller alone.
    Private,
}

impl CacheClass {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Immutable => "immutable",
            Self::Short => "short",
            Self::Revalidate => "revalidate",
            Self::Private => "private",
        }
    }

    const fn header(self) -> &'static str {
        match self {
            Self::Immutable => "public, max-age=31536000, immutable",
            Self::Short => "public, max-age=60, must-revalidate",
            Self::Revalidate => "no-cache",
            Self::Private => "private, no-cache",
        }
    }
}

/// A content of the store, as it is to be sent.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) content_type: String,
    pub(crate) cache: CacheClass,
}

/// Which bytes are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Whole,
    /// `[start, end)`.
    Part(u64, u64),
    Nothing,
}

pub(crate) async fn content(
    gateway: &Gateway,
    stored: &Stored,
    method: &Method,
    headers: &HeaderMap,
    status: StatusCode,
) -> Result<Response<Body>> {
    let tag = format!("\"{}\"", stored.digest);
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let mut response = Response::builder()
        .header(ETAG, &tag)
        .header(CACHE_CONTROL, stored.cache.header())
        .header(ACCEPT_RANGES, "bytes")
        .header("x-content-type-options", "nosniff");
    if status == StatusCode::OK && text(IF_NONE_MATCH).is_some_and(|tags| matches(tags, &tag)) {
        return response.status(StatusCode::NOT_MODIFIED).body(Body::empty()).map_err(Refusal::internal);
    }
    let content_type = HeaderValue::from_str(&stored.content_type);
    response =
        response.header(CONTENT_TYPE, content_type.unwrap_or(HeaderValue::from_static("application/octet-stream")));
    // A part of a content that has changed since would be a part of something else.
    let same = text(IF_RANGE).is_none_or(|given| given == tag);
    let ranged = status == StatusCode::OK && same && *method == Method::GET;
    let wanted = match text(RANGE).filter(|_| ranged) {
        Some(range) => parse_range(range, stored.size),
        None => Wanted::Whole,
    };
    let (start, end, status) = match wanted {
        Wanted::Whole => (0, stored.size, status),
        Wanted::Part(start, end) => {
            response = response.header(CONTENT_RANGE, format!("bytes {start}-{}/{}", end - 1, stored.size));
            (start, end, StatusCode::PARTIAL_CONTENT)
        }
        Wanted::Nothing => {
            let response = response.status(StatusCode::RANGE_NOT_SATISFIABLE);
            let range = format!("bytes */{}", stored.size);
            return response.header(CONTENT_RANGE, range).body(Body::empty()).map_err(Refusal::internal);
        }
    };
    let response = response.status(status).header(CONTENT_LENGTH, end - start);
    if *method == Method::HEAD {
        return response.body(Body::empty()).map_err(Refusal::internal);
    }
    let digest = stored.digest;
    let file = gateway.blocking(move |gateway| Ok(gateway.contents().open_content(&digest)?)).await?;
    response.body(Body::from_stream(stream(file, start, end))).map_err(Refusal::internal)
}

fn matches(tags: &str, tag: &str) -> bool {
    tags.trim() == "*" || tags.split(',').any(|given| given.trim().trim_start_matches("W/") == tag)
}

/// One range; several, and what is not understood, are answered with the whole.
fn parse_range(text: &str, size: u64) -> Wanted {
    let Some(range) = text.trim().strip_prefix("bytes=") else { return Wanted::Whole };
    let Some((first, last)) = range.split_once('-').filter(|_| !range.contains(',')) else { return Wanted::Whole };
    let number = |text: &str| match text.trim() {
        "" => Ok(None),
        digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().map(Some).map_err(|_| ()),
        _ => Err(()),
    };
    match (number(first), number(last)) {
        (Ok(Some(first)), Ok(None)) if first < size => Wanted::Part(first, size),
        (Ok(Some(first)), Ok(Some(last))) if first <= last && first < size => {
            Wanted::Part(first, size.min(last.saturating_add(1)))
        }
        (Ok(Some(first)), Ok(Some(last))) if first > last => Wanted::Whole,
        (Ok(None), Ok(Some(count))) if count > 0 && size > 0 => Wanted::Part(size.saturating_sub(count), size),
        (Ok(Some(_)), Ok(_)) | (Ok(None), Ok(Some(_))) => Wanted::Nothing,
        _ => Wanted::Whole,
    }
}

fn stream(file: File, start: u64, end: u64) -> impl futures::Stream<Item = io::Result<Bytes>> {
    futures::stream::try_unfold((file, start), move |(file, at)| async move {
        if at >= end {
            return Ok(None);
        }
        let read = tokio::task::spawn_blocking(move || {
            let count = usize::try_from(CHUNK_BYTES.min(end - at)).unwrap_or(usize::MAX);
            let mut chunk = vec![0; count];
            file.read_exact_at(&mut chunk, at)?;
            Ok::<_, io::Error>((Bytes::from(chunk), file))
        });
        let (chunk, file) = read.await.map_err(io::Error::other)??;
        let next = at + chunk.len() as u64;
        Ok(Some((chunk, (file, next))))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_the_rfc_says() {
        for (text, wanted) in [
            ("bytes=0-4", Wanted::Part(0, 5)),
            ("bytes=5-", Wanted::Part(5, 10)),
            ("bytes=-3", Wanted::Part(7, 10)),
            ("bytes=-30", Wanted::Part(0, 10)),
            ("bytes=0-99999999999999999999", Wanted::Whole),
            ("bytes=9-9", Wanted::Part(9, 10)),
            ("bytes=10-", Wanted::Nothing),
            ("bytes=-0", Wanted::Nothing),
            ("bytes=4-2", Wanted::Whole),
            ("bytes=0-1,3-4", Wanted::Whole),
            ("items=0-1", Wanted::Whole),
            ("bytes=a-b", Wanted::Whole),
            ("bytes=-", Wanted::Whole),
            ("bytes=0-18446744073709551615", Wanted::Part(0, 10)),
        ] {
            assert_eq!(parse_range(text, 10), wanted, "{text}");
        }
        assert_eq!(parse_range("bytes=-5", 0), Wanted::Nothing);
    }

    #[test]
    fn tags_are_compared_weakly() {
        assert!(matches("*", "\"a\"") && matches("\"b\", W/\"a\"", "\"a\"") && !matches("\"ab\"", "\"a\""));
    }
}
