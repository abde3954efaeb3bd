//! A client of the Model Context Protocol, written from the specification: revision 2025-11-25 with a session, or
//! 2026-07-28 without, over streamable HTTP; and `sandboxctl mcp` over pipes.

use crate::http::{Client, Incoming, Reply};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

const ACCEPT: (&str, &str) = ("Accept", "application/json, text/event-stream");
const WITH_SESSIONS: &str = "2025-11-25";
const WITHOUT_SESSIONS: &str = "2026-07-28";

/// What a call came to: what came on the way, and the answer.
#[derive(Debug, Clone)]
pub struct Answered {
    pub notifications: Vec<Value>,
    pub message: Value,
}

impl Answered {
    /// The result of a call that the protocol took.
    #[track_caller]
    pub fn result(&self) -> &Value {
        assert!(self.message.get("error").is_none(), "{}", self.message);
        &self.message["result"]
    }

    /// The first text of a tool's result.
    #[track_caller]
    pub fn text(&self) -> &str {
        self.result()["content"][0]["text"].as_str().unwrap_or_else(|| panic!("no text: {}", self.message))
    }

    /// The data of a tool's result that is no error.
    #[track_caller]
    pub fn data(&self) -> &Value {
        assert_ne!(self.result()["isError"], true, "{}", self.message);
        &self.result()["structuredContent"]
    }

    /// The text of a tool's result that is an error.
    #[track_caller]
    pub fn refused(&self) -> &str {
        assert_eq!(self.result()["isError"], true, "{}", self.message);
        assert!(self.text().starts_with("Error: "), "{}", self.message);
        self.text()
    }

    /// What progress notifications said.
    pub fn progress(&self) -> Vec<&str> {
        let messages = self.notifications.iter().filter(|message| message["method"] == "notifications/progress");
        messages.filter_map(|message| message["params"]["message"].as_str()).collect()
    }
}

/// A connection to `/mcp`.
#[derive(Debug)]
pub struct Session {
    client: Client,
    path: String,
    /// None for the revision without sessions.
    id: Option<String>,
    /// What the client can do.
    capabilities: Value,
    next: AtomicU64,
}

impl Session {
    /// Shakes hands, as revision 2025-11-25 does.
    #[track_caller]
    pub fn open(client: &Client) -> Self {
        Self::open_at(client, "/mcp")
    }

    /// At an address with a project of its own.
    #[track_caller]
    pub fn open_at(client: &Client, path: &str) -> Self {
        Self::open_as(client, path, json!({}))
    }

    /// As a client that can do something.
    #[track_caller]
    pub fn open_as(client: &Client, path: &str, capabilities: Value) -> Self {
        let mut session = Self::without_as(client, capabilities);
        path.clone_into(&mut session.path);
        let hello = json!({
            "jsonrpc": "2.0", "id": 0, "method": "initialize",
            "params": {
                "protocolVersion": WITH_SESSIONS, "capabilities": session.capabilities,
                "clientInfo": {"name": "tests", "version": "1"}
            }
        });
        let reply = client.send("POST", path, &[ACCEPT], hello.to_string().as_bytes());
        assert_eq!(reply.status, 200, "{}", reply.text());
        let result = answered(&reply).result().clone();
        assert_eq!(result["protocolVersion"], WITH_SESSIONS, "{result}");
        assert_eq!(result["serverInfo"]["name"], "sandboxd", "{result}");
        session.id = Some(reply.header("mcp-session-id").expect("a session").to_owned());
        let reply = session.post(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
        assert_eq!(reply.status, 202, "{}", reply.text());
        session
    }

    /// Each request stands for itself, as in revision 2026-07-28.
    pub fn without(client: &Client) -> Self {
        Self::without_as(client, json!({}))
    }

    /// The same, as a client that can do something.
    pub fn without_as(client: &Client, capabilities: Value) -> Self {
        Self { client: client.clone(), path: "/mcp".to_owned(), id: None, capabilities, next: AtomicU64::new(1) }
    }

    /// The same session, with another token or none.
    pub fn with_token(&self, token: Option<&str>) -> Self {
        let client = self.client.with_token(token);
        let (path, id, capabilities) = (self.path.clone(), self.id.clone(), self.capabilities.clone());
        Self { client, path, id, capabilities, next: AtomicU64::new(1000) }
    }

    /// A request with its id, as this revision writes it.
    pub fn request(&self, method: &str, mut params: Value) -> (u64, Value) {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        if self.id.is_none() {
            let fields = params["_meta"].as_object().cloned().unwrap_or_default();
            let mut meta = json!({
                "io.modelcontextprotocol/protocolVersion": WITHOUT_SESSIONS,
                "io.modelcontextprotocol/clientInfo": {"name": "tests", "version": "1"},
                "io.modelcontextprotocol/clientCapabilities": self.capabilities
            });
            meta.as_object_mut().expect("fields").extend(fields);
            params["_meta"] = meta;
        }
        (id, json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}))
    }

    fn headers<'a>(&'a self, message: &'a Value) -> Vec<(&'static str, &'a str)> {
        let mut headers = vec![ACCEPT];
        match &self.id {
            Some(id) => headers.extend([("Mcp-Session-Id", id.as_str()), ("MCP-Protocol-Version", WITH_SESSIONS)]),
            None => {
                headers.push(("MCP-Protocol-Version", WITHOUT_SESSIONS));
                headers.push(("Mcp-Method", message["method"].as_str().unwrap_or_default()));
                let name = ["name", "uri", "taskId"].iter().find_map(|name| message["params"][*name].as_str());
                headers.push(("Mcp-Name", name.unwrap_or_default()));
            }
        }
        headers
    }

    /// Sends a message as it is.
    #[track_caller]
    pub fn post(&self, message: &Value) -> Reply {
        self.client.send("POST", &self.path, &self.headers(message), message.to_string().as_bytes())
    }

    /// A message as the bytes of an HTTP request.
    pub fn bytes(&self, message: &Value) -> Vec<u8> {
        self.client.request("POST", &self.path, &self.headers(message), message.to_string().as_bytes())
    }

    /// Sends a message and reads the head of the answer; dropping it hangs up.
    #[track_caller]
    pub fn begin(&self, message: &Value) -> Incoming {
        let body = message.to_string();
        let answer = self.client.open("POST", &self.path, &self.headers(message), body.as_bytes());
        answer.unwrap_or_else(|error| panic!("{message}: {error}"))
    }

    /// Listens to what the server says by itself.
    #[track_caller]
    pub fn listen(&self) -> Incoming {
        self.listen_after(None)
    }

    /// Goes on with a stream, after an event of it.
    #[track_caller]
    pub fn listen_after(&self, last: Option<&str>) -> Incoming {
        let mut headers = vec![
            ("Accept", "text/event-stream"),
            ("Mcp-Session-Id", self.id.as_deref().expect("a session")),
            ("MCP-Protocol-Version", WITH_SESSIONS),
        ];
        headers.extend(last.map(|last| ("Last-Event-ID", last)));
        let stream = self.client.open("GET", &self.path, &headers, &[]).expect("the daemon answers");
        assert_eq!(stream.status, 200);
        stream
    }

    /// Ends the session.
    #[track_caller]
    pub fn close(&self) {
        let id = self.id.as_deref().expect("a session");
        let reply = self.client.send("DELETE", &self.path, &[("Mcp-Session-Id", id)], &[]);
        assert!((200..300).contains(&reply.status), "{}: {}", reply.status, reply.text());
    }

    #[track_caller]
    pub fn send(&self, method: &str, params: Value) -> Answered {
        let (id, message) = self.request(method, params);
        let reply = self.post(&message);
        let answered = answered(&reply);
        assert_eq!(answered.message["id"], id, "{}", reply.text());
        answered
    }

    /// Calls a tool.
    #[track_caller]
    pub fn call(&self, tool: &str, arguments: &Value) -> Answered {
        self.send("tools/call", json!({"name": tool, "arguments": arguments}))
    }

    /// Calls a tool and listens to its progress.
    #[track_caller]
    pub fn call_with_progress(&self, tool: &str, arguments: &Value) -> Answered {
        let params = json!({"name": tool, "arguments": arguments, "_meta": {"progressToken": "progress"}});
        self.send("tools/call", params)
    }

    /// All tools, by `tools/list`.
    #[track_caller]
    pub fn tools(&self) -> Vec<Value> {
        self.send("tools/list", json!({})).result()["tools"].as_array().expect("a list").clone()
    }
}

/// The last message of an answer, and those before it.
#[track_caller]
fn answered(reply: &Reply) -> Answered {
    let mut messages = messages(reply);
    let message = messages.pop().unwrap_or_else(|| panic!("no answer, status {}: {}", reply.status, reply.text()));
    Answered { notifications: messages, message }
}

/// One JSON document, or the data of server-sent events.
fn messages(reply: &Reply) -> Vec<Value> {
    if reply.header("content-type").is_some_and(|kind| kind.starts_with("application/json")) {
        return vec![reply.json()];
    }
    let text = reply.text();
    let data = text.lines().filter_map(|line| line.strip_prefix("data:")).filter(|data| !data.trim().is_empty());
    data.map(|data| serde_json::from_str(data).unwrap_or_else(|error| panic!("{error}: {data}"))).collect()
}

/// `sandboxctl mcp`, as an agent starts it.
#[derive(Debug)]
pub struct Pipes {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    next: u64,
}

impl Pipes {
    /// Starts it, and says nothing yet.
    pub fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("sandboxctl starts");
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        Self { child, input, output, next: 1 }
    }

    #[track_caller]
    pub fn write(&mut self, message: &Value) {
        let input = self.input.as_mut().expect("not closed");
        writeln!(input, "{message}").expect("it reads");
    }

    /// The next line, which has to be a message.
    #[track_caller]
    pub fn read(&mut self) -> Value {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("a pipe");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    #[track_caller]
    pub fn send(&mut self, method: &str, params: Value) -> Answered {
        let id = self.next;
        self.next += 1;
        self.write(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}));
        let mut notifications = Vec::new();
        loop {
            let message = self.read();
            if message["id"] == id {
                return Answered { notifications, message };
            }
            notifications.push(message);
        }
    }

    #[track_caller]
    pub fn shake_hands(&mut self) {
        let hello = json!({
            "protocolVersion": WITH_SESSIONS, "capabilities": {}, "clientInfo": {"name": "tests", "version": "1"}
        });
        assert_eq!(self.send("initialize", hello).result()["serverInfo"]["name"], "sandboxd");
        self.write(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
    }

    #[track_caller]
    pub fn call(&mut self, tool: &str, arguments: &Value) -> Answered {
        self.send("tools/call", json!({"name": tool, "arguments": arguments}))
    }

    /// Closes its standard input; what it still says, and its exit status.
    #[track_caller]
    pub fn close(mut self) -> (String, Option<i32>) {
        drop(self.input.take());
        let mut rest = String::new();
        std::io::Read::read_to_string(&mut self.output, &mut rest).expect("a pipe");
        (rest, self.child.wait().expect("it was started").code())
    }
}

impl Drop for Pipes {
    fn drop(&mut self) {
        // Gone already, in most tests.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Our program for the TypeScript SDK, and the SDK.
pub const TYPESCRIPT: &str = include_str!("../clients/typescript.mjs");
pub const TYPESCRIPT_SDK: &str = "@modelcontextprotocol/sdk@1.32.2";

/// The public conformance suite, and its next version.
pub const SUITE: &str = "@modelcontextprotocol/conformance@0.1.16";
pub const NEXT_SUITE: &str = "@modelcontextprotocol/conformance@0.2.0-alpha.12";
