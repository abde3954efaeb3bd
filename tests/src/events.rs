//! Events of a live run, read from SSE or NDJSON as they come.
//!
//! Follows the HTML standard, section "server-sent events", as far as a server may rely on it.

use crate::http::Incoming;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sandbox_wire::Event;
use serde_json::Value;
use std::io::{BufRead, BufReader};

/// The media type of one JSON object per line.
pub const NDJSON: &str = "application/x-ndjson";
/// The media type of server-sent events.
pub const SSE: &str = "text/event-stream";

/// One event: its name, its SSE id where it has one, and its data.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    pub name: String,
    pub id: Option<String>,
    pub data: Value,
}

impl Seen {
    /// The typed event; fails the test when it has another shape.
    #[track_caller]
    pub fn event(&self) -> Event {
        let mut data = self.data.clone();
        data["event"] = self.name.clone().into();
        serde_json::from_value(data).unwrap_or_else(|error| panic!("not an event ({error}): {self:?}"))
    }

    /// The bytes of a chunk.
    #[track_caller]
    pub fn bytes(&self) -> Vec<u8> {
        let text = self.data["data"].as_str().unwrap_or_else(|| panic!("not a chunk: {self:?}"));
        match self.data["encoding"].as_str() {
            Some("base64") => STANDARD.decode(text).expect("base64"),
            _ => text.as_bytes().to_vec(),
        }
    }

    pub fn seq(&self) -> Option<u64> {
        self.data["seq"].as_u64()
    }

    pub fn offset(&self) -> Option<u64> {
        self.data["offset"].as_u64()
    }

    /// Whether it carries output.
    pub fn is_output(&self) -> bool {
        self.name == "stdout" || self.name == "stderr"
    }
}

/// Reads one event after another.
#[derive(Debug)]
pub struct EventReader {
    lines: BufReader<Incoming>,
    sse: bool,
}

impl EventReader {
    #[track_caller]
    pub fn new(answer: Incoming) -> Self {
        let kind = answer.header("content-type").unwrap_or_default().to_owned();
        if answer.status != 200 || !(kind.starts_with(SSE) || kind.starts_with(NDJSON)) {
            let status = answer.status;
            let text = answer.finish().map(|reply| reply.text());
            panic!("not a stream of events: {status}, {kind:?}, {text:?}");
        }
        Self { lines: BufReader::with_capacity(256 << 10, answer), sse: kind.starts_with(SSE) }
    }

    /// Everything up to the end of the stream, pings left out.
    pub fn all(self) -> Vec<Seen> {
        self.filter(|event| event.name != "ping").collect()
    }

    /// Reads on until an event of this name.
    #[track_caller]
    pub fn until(&mut self, name: &str) -> Seen {
        self.find(|event| event.name == name).unwrap_or_else(|| panic!("the stream ended without '{name}'"))
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.lines.read_line(&mut line) {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(line.trim_end_matches(['\r', '\n']).to_owned()),
        }
    }

    fn next_json(&mut self) -> Option<Seen> {
        let line = self.line()?;
        let mut data: Value = serde_json::from_str(&line).expect("every line is a JSON object");
        let name = data["event"].as_str().unwrap_or_default().to_owned();
        if let Some(fields) = data.as_object_mut() {
            fields.remove("event");
        }
        Some(Seen { name, id: None, data })
    }

    fn next_sse(&mut self) -> Option<Seen> {
        let (mut name, mut id, mut text) = ("message".to_owned(), None, String::new());
        loop {
            let line = self.line()?;
            if line.is_empty() {
                if text.is_empty() {
                    continue; // a comment, or nothing
                }
                let mut data: Value = serde_json::from_str(&text).expect("data is JSON");
                if let Some(fields) = data.as_object_mut() {
                    fields.remove("event");
                }
                return Some(Seen { name, id, data });
            }
            let (field, value) = line.split_once(':').unwrap_or((&line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => name = value.to_owned(),
                "id" => id = Some(value.to_owned()),
                "data" => text.push_str(value),
                _ => {}
            }
        }
    }
}

impl Iterator for EventReader {
    type Item = Seen;
    fn next(&mut self) -> Option<Seen> {
        if self.sse { self.next_sse() } else { self.next_json() }
    }
}

/// The bytes of one stream, after checking that no byte is missing or twice.
#[track_caller]
pub fn joined(events: &[Seen], stream: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for event in events.iter().filter(|event| event.name == stream) {
        assert_eq!(event.offset(), Some(bytes.len() as u64), "offsets are consecutive");
        bytes.extend_from_slice(&event.bytes());
    }
    bytes
}
