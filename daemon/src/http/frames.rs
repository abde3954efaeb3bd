//! Events as bytes: server-sent events (HTML standard, section 9.2) or one JSON object per line. Pure.
//!
//! Written by hand into one buffer, because chunks are large and frequent; the shapes are those of
//! [`sandbox_wire::Event`], and a test holds them together.

use super::accept::Framing;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sandbox_wire::event::{RunOutcome, StreamResult};
use sandbox_wire::{Problem, RunId, Stream};
use serde::Serialize;
use std::io::Write;

/// Writes events one after the other.
#[derive(Debug)]
pub(crate) struct Frames {
    framing: Framing,
    buffer: Vec<u8>,
}

impl Frames {
    pub(crate) fn new(framing: Framing) -> Self {
        Self { framing, buffer: Vec::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.buffer.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// What was written since the last time.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.buffer)
    }

    pub(crate) fn start(&mut self, run: &RunId) {
        self.begin("start", Some(0));
        self.field("run_id", run);
        self.end();
    }

    pub(crate) fn chunk(&mut self, seq: u64, stream: Stream, offset: u64, data: &[u8]) {
        let name = match stream {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        };
        self.buffer.reserve(data.len() + data.len() / 8 + 128);
        self.begin(name, Some(seq));
        self.field("seq", &seq);
        self.field("offset", &offset);
        match std::str::from_utf8(data) {
            Ok(text) => self.field("data", text),
            Err(_) => {
                self.key("data");
                self.buffer.push(b'"');
                let start = self.buffer.len();
                let length = base64::encoded_len(data.len(), true).expect("a chunk is far below the limit of usize");
                self.buffer.resize(start + length, 0);
                let written = STANDARD.encode_slice(data, &mut self.buffer[start..]);
                written.expect("there is room for exactly this text");
                self.buffer.push(b'"');
                self.field("encoding", "base64");
            }
        }
        self.end();
    }

    pub(crate) fn gap(&mut self, seq: u64, stdout_bytes: u64, stderr_bytes: u64) {
        self.begin("gap", Some(seq));
        self.field("seq", &seq);
        self.field("stdout_bytes", &stdout_bytes);
        self.field("stderr_bytes", &stderr_bytes);
        self.end();
    }

    pub(crate) fn ping(&mut self) {
        self.begin("ping", None);
        self.end();
    }

    /// The end of a run: `result`, or what it is called where it is not the last event.
    pub(crate) fn ended(&mut self, name: &str, seq: u64, outcome: RunOutcome) {
        self.begin(name, Some(seq));
        self.object(&StreamResult { seq, result: outcome });
        self.end();
    }

    /// The stream cannot go on.
    pub(crate) fn problem(&mut self, problem: &Problem) {
        self.event("problem", problem);
    }

    /// An event that nobody goes on from.
    pub(crate) fn event(&mut self, name: &str, value: &impl Serialize) {
        self.begin(name, None);
        self.object(value);
        self.end();
    }

    fn begin(&mut self, name: &str, seq: Option<u64>) {
        // Writing into a Vec cannot fail, here and below.
        let _ = match (self.framing, seq) {
            (Framing::Sse, Some(seq)) => write!(self.buffer, "event: {name}\nid: {seq}\ndata: {{"),
            (Framing::Sse, None) => write!(self.buffer, "event: {name}\ndata: {{"),
            (Framing::Ndjson, _) => write!(self.buffer, "{{\"event\":\"{name}\""),
        };
    }

    fn key(&mut self, name: &str) {
        if self.buffer.last() != Some(&b'{') {
            self.buffer.push(b',');
        }
        let _ = write!(self.buffer, "\"{name}\":");
    }

    fn field<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) {
        self.key(name);
        let _ = serde_json::to_writer(&mut self.buffer, value);
    }

    /// The fields of an object, without its braces.
    fn object<T: Serialize>(&mut self, value: &T) {
        if self.buffer.last() != Some(&b'{') {
            self.buffer.push(b',');
        }
        let brace = self.buffer.len();
        let _ = serde_json::to_writer(&mut self.buffer, value);
        self.buffer.remove(brace);
        self.buffer.pop();
    }

    fn end(&mut self) {
        self.buffer.extend_from_slice(match self.framing {
            Framing::Sse => b"}\n\n",
            Framing::Ndjson => b"}\n",
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sandbox_wire::event::Chunk;
    use sandbox_wire::{Code, Encoding, Enforced, Event, RunState, Usage};

    fn outcome() -> RunOutcome {
        RunOutcome {
            exit_code: Some(0),
            run_id: RunId::generate(),
            status: RunState::Exited,
            signal: None,
            timed_out: false,
            oom_killed: false,
            killed_by: None,
            duration_ms: 1.5,
            stdout_bytes: 3,
            stderr_bytes: 0,
            usage: Usage::default(),
            lingering: 0,
            denials: Vec::new(),
            enforced: Enforced::default(),
        }
    }

    #[test]
    fn lines_are_the_events_of_the_wire() {
        let outcome = outcome();
        let run_id = outcome.run_id.clone();
        let mut frames = Frames::new(Framing::Ndjson);
        frames.start(&run_id);
        frames.chunk(1, Stream::Stdout, 0, "a\n\"\u{1}é".as_bytes());
        frames.chunk(2, Stream::Stderr, 7, b"\xff\0");
        frames.gap(3, 10, 0);
        frames.ping();
        frames.ended("result", 4, outcome.clone());
        let text = String::from_utf8(frames.take()).expect("JSON is UTF-8");
        let events: Vec<Event> = text.lines().map(|line| serde_json::from_str(line).expect("an event")).collect();
        let utf8 = Chunk { seq: 1, offset: 0, data: "a\n\"\u{1}é".to_owned(), encoding: Encoding::Utf8 };
        let bytes = Chunk { seq: 2, offset: 7, data: "/wA=".to_owned(), encoding: Encoding::Base64 };
        let expected = [
            Event::Start { run_id },
            Event::Stdout(utf8),
            Event::Stderr(bytes),
            Event::Gap { seq: 3, stdout_bytes: 10, stderr_bytes: 0 },
            Event::Ping {},
            Event::Result(Box::new(StreamResult { seq: 4, result: outcome })),
        ];
        assert_eq!(events, expected);
    }

    #[test]
    fn server_sent_events_have_name_id_and_one_line_of_data() {
        let mut frames = Frames::new(Framing::Sse);
        frames.chunk(5, Stream::Stdout, 9, b"a\r\nb\n");
        frames.ping();
        let text = String::from_utf8(frames.take()).expect("UTF-8");
        let expected = "event: stdout\nid: 5\ndata: {\"seq\":5,\"offset\":9,\"data\":\"a\\r\\nb\\n\"}\n\nevent: ping\ndata: {}\n\n";
        assert_eq!(text, expected);
        assert!(frames.is_empty());
    }

    #[test]
    fn a_problem_ends_a_stream_readably() {
        let problem = Problem::new(Code::Internal, "x");
        let mut frames = Frames::new(Framing::Ndjson);
        frames.problem(&problem);
        let line: serde_json::Value = serde_json::from_slice(&frames.take()).expect("JSON");
        assert_eq!((line["event"].as_str(), line["code"].as_str()), (Some("problem"), Some("internal")));
        assert_eq!(serde_json::from_value::<Problem>(line).expect("a problem"), problem);
    }
}
