//! What several fixtures answer with: small media, and JSON that is known to be of a type of the protocol.

use rmcp::model::{CallToolResponse, CallToolResult, ContentBlock, ResourceContents};
use serde_json::Value;

/// A PNG of one red pixel.
pub(crate) const PNG: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC";

/// A WAV file with no sample.
pub(crate) const WAV: &str = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YQAAAAA=";

pub(crate) fn text(text: impl Into<String>) -> CallToolResult {
    CallToolResult::success(vec![ContentBlock::text(text)])
}

pub(crate) fn answer(words: impl Into<String>) -> CallToolResponse {
    text(words).into()
}

pub(crate) fn resource(uri: &str, mime_type: &str, text: impl Into<String>) -> ResourceContents {
    ResourceContents::text(text, uri).with_mime_type(mime_type)
}

/// For texts of this program that are what the protocol says.
pub(crate) fn of_json<T: serde::de::DeserializeOwned>(json: Value) -> T {
    serde_json::from_value(json).expect("a fixture is written as the protocol has it")
}
