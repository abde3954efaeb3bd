//! `sandboxctl mcp`: the daemon's tools for an agent that talks to us over standard input and output.
//!
//! Input: JSON-RPC messages, one a line; output: the same. Each message goes to the daemon's `/mcp` as it is, and what
//! comes back goes out as it is: see MCP, "Transports". A daemon that has ended meanwhile, as an idle one does, is
//! started again, and the client's session with it.

use super::place::Place;
use crate::args::{Globals, McpArgs, McpClient};
use crate::client::{Client, ClientError};
use crate::connect;
use crate::failure::Failure;
use crate::render;
use futures::StreamExt;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Response, StatusCode};
use sandbox_wire::Problem;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::{BufRead, Write};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
const METHOD: HeaderName = HeaderName::from_static("mcp-method");
const NAME: HeaderName = HeaderName::from_static("mcp-name");
/// In `_meta` of requests that need no session.
const META_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
/// JSON-RPC's "internal error".
const INTERNAL_ERROR: i32 = -32603;
const PARSE_ERROR: i32 = -32700;
/// Messages that wait for their reader.
const QUEUE: usize = 64;

pub(crate) async fn mcp(globals: &Globals, args: McpArgs) -> Result<u8, Failure> {
    if let Some(client) = args.print_config {
        render::text(&configuration(client));
        return Ok(0);
    }
    let place = Place::of(args.project.as_deref(), args.dir.as_deref())?;
    let bridge = Arc::new(Bridge {
        globals: globals.clone(),
        place,
        tools: args.tools,
        link: tokio::sync::Mutex::default(),
        session: Mutex::default(),
        heard: Mutex::default(),
        running: Mutex::default(),
        output: write_lines(),
    });
    // A daemon that cannot be had is said at once, and not at the first tool.
    bridge.link(None).await?;
    let mut lines = read_lines();
    while let Some(line) = lines.recv().await {
        bridge.take(line).await;
    }
    bridge.give_up().await;
    bridge.leave().await;
    Ok(0)
}

/// What connects both sides.
struct Bridge {
    globals: Globals,
    place: Place,
    /// The groups that are listed; all when empty.
    tools: Vec<String>,
    link: tokio::sync::Mutex<Option<Link>>,
    session: Mutex<Session>,
    /// The session in which we listen to what the daemon says by itself.
    heard: Mutex<Option<HeaderValue>>,
    /// Requests without an answer, by their ids as JSON.
    running: Mutex<HashMap<String, AbortHandle>>,
    output: mpsc::Sender<String>,
}

/// A daemon, and the project at it.
#[derive(Clone)]
struct Link {
    client: Client,
    path: String,
    /// Counts the daemons.
    number: u32,
}

/// What a client of a revision with sessions has agreed on.
#[derive(Default, Clone)]
struct Session {
    id: Option<HeaderValue>,
    version: Option<HeaderValue>,
    /// With which it began, to begin anew at another daemon.
    initialize: Option<Value>,
}

impl Bridge {
    fn running(&self) -> std::sync::MutexGuard<'_, HashMap<String, AbortHandle>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn session(&self) -> Session {
        self.session.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The daemon; another one when the one of this number is gone.
    async fn link(&self, gone: Option<u32>) -> Result<Link, Failure> {
        let mut link = self.link.lock().await;
        if let Some(link) = link.as_ref().filter(|link| gone.is_none_or(|gone| link.number != gone)) {
            return Ok(link.clone());
        }
        let client = connect::client(&self.globals).await?;
        let project = self.place.project(&client).await?;
        let number = gone.map_or(0, |gone| gone + 1);
        let mut path = format!("/mcp?project={project}");
        let plain = |group: &&String| group.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        let groups: Vec<&str> = self.tools.iter().filter(plain).map(String::as_str).collect();
        if !groups.is_empty() {
            path += &format!("&tools={}", groups.join(","));
        }
        let new = Link { client, path, number };
        *link = Some(new.clone());
        Ok(new)
    }

    /// A message of the client's.
    async fn take(self: &Arc<Self>, line: String) {
        let Ok(message) = serde_json::from_str::<Value>(&line) else {
            self.refuse(&Value::Null, PARSE_ERROR, "this line is not JSON").await;
            return;
        };
        let id = message.get("id").filter(|id| !id.is_null()).cloned();
        match (id, message.get("method").and_then(Value::as_str)) {
            (Some(id), Some(method)) => {
                let is_initialize = method == "initialize";
                let bridge = Arc::clone(self);
                let key = id.to_string();
                let (begin, begun) = tokio::sync::oneshot::channel::<()>();
                let task = tokio::spawn(async move {
                    // Not before it is on the list.
                    let _ = begun.await;
                    bridge.request(&id, message).await;
                    bridge.listen().await;
                    bridge.running().remove(&id.to_string());
                });
                self.running().insert(key, task.abort_handle());
                let _ = begin.send(());
                // What follows it relies on the session that it begins.
                if is_initialize {
                    let _ = task.await;
                }
            }
            (_, Some("notifications/cancelled")) => {
                let cancelled = message.pointer("/params/requestId").map(Value::to_string);
                if let Err(failure) = self.send(&message).await {
                    eprintln!("sandboxctl: {}", render::plain(&failure.problem().error));
                }
                // Without a session, hanging up is what cancels.
                if let Some(task) = cancelled.and_then(|id| self.running().remove(&id)) {
                    task.abort();
                }
            }
            // In order: what follows may rely on it.
            _ => {
                if let Err(failure) = self.send(&message).await {
                    eprintln!("sandboxctl: {}", render::plain(&failure.problem().error));
                }
                self.listen().await;
            }
        }
    }

    /// Sends a request and passes on everything that comes for it.
    async fn request(&self, id: &Value, message: Value) {
        let answered = match self.send(&message).await {
            Ok(response) => self.pass_on(response, &message).await,
            Err(failure) => Err(failure.problem().error),
        };
        if let Err(why) = answered {
            self.refuse(id, INTERNAL_ERROR, &why).await;
        }
    }

    /// To the daemon, or to its successor with a session anew.
    async fn send(&self, message: &Value) -> Result<Response, Failure> {
        let link = self.link(None).await?;
        let first = self.post(&link, message).await;
        let lost = match &first {
            Err(ClientError::Unreachable { .. }) => true,
            // A session that this daemon does not know: its predecessor's.
            Ok(response) => response.status() == StatusCode::NOT_FOUND && self.session().id.is_some(),
            Err(_) => false,
        };
        if !lost {
            return Ok(first?);
        }
        let link = self.link(Some(link.number)).await?;
        if let Some(initialize) = self.session().initialize {
            let response = self.post(&link, &initialize).await?;
            self.remember(&response, &initialize);
            // Read to its end, so that the session has begun.
            let _ = response.bytes().await;
            let initialized = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
            self.post(&link, &initialized).await?;
        }
        Ok(self.post(&link, message).await?)
    }

    /// Passes on what the daemon says by itself, once for each session that has begun.
    async fn listen(self: &Arc<Self>) {
        let session = self.session();
        let (Some(id), Some(version)) = (session.id, session.version) else { return };
        let before = self.heard.lock().unwrap_or_else(PoisonError::into_inner).replace(id.clone());
        let link = self.link.lock().await.clone();
        let Some(link) = link.filter(|_| before.as_ref() != Some(&id)) else { return };
        let bridge = Arc::clone(self);
        tokio::spawn(async move {
            let accept = HeaderValue::from_static("text/event-stream");
            let headers = HeaderMap::from_iter([(ACCEPT, accept), (SESSION, id), (VERSION, version)]);
            // It is only news: without it the client asks by itself.
            let Ok(response) = link.client.exchange(Method::GET, &link.path, headers, Vec::new()).await else { return };
            let mut events = Events::default();
            let mut bytes = response.bytes_stream();
            while let Some(Ok(piece)) = bytes.next().await {
                for data in events.take(&piece) {
                    if let Ok(event) = serde_json::from_str::<Value>(&data) {
                        bridge.write(&event).await;
                    }
                }
            }
        });
    }

    async fn post(&self, link: &Link, message: &Value) -> Result<Response, ClientError> {
        let headers = headers(message, &self.session());
        link.client.exchange(Method::POST, &link.path, headers, message.to_string().into_bytes()).await
    }

    /// What an answer to `initialize` settles.
    fn remember(&self, response: &Response, initialize: &Value) {
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        session.id = response.headers().get(SESSION).cloned();
        session.initialize = Some(initialize.clone());
    }

    /// The answer, and what comes before it; or why there is none.
    async fn pass_on(&self, response: Response, message: &Value) -> Result<(), String> {
        let is_initialize = message["method"] == "initialize";
        if is_initialize {
            self.remember(&response, message);
        }
        let status = response.status();
        let is_stream =
            response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
        if !is_stream {
            let body = response.bytes().await.map_err(|error| format!("the daemon's answer broke off: {error}"))?;
            // An error of the protocol has a status of its own, and is an answer.
            if let Ok(answer) = serde_json::from_slice::<Value>(&body)
                && answer.get("jsonrpc").is_some()
            {
                self.write(&answer).await;
                return Ok(());
            }
            return Err(match serde_json::from_slice::<Problem>(&body) {
                Ok(problem) => problem.error,
                Err(_) => format!("the daemon answered with {status}: {}", String::from_utf8_lossy(&body).trim()),
            });
        }
        let mut events = Events::default();
        let mut bytes = response.bytes_stream();
        let mut is_answered = false;
        while let Some(piece) = bytes.next().await {
            let piece = piece.map_err(|error| format!("the daemon's answer broke off: {error}"))?;
            for data in events.take(&piece) {
                let Ok(event) = serde_json::from_str::<Value>(&data) else { continue };
                if event.get("id").is_some() && event.get("method").is_none() {
                    is_answered = true;
                    if is_initialize && let Some(version) = event.pointer("/result/protocolVersion") {
                        let version = version.as_str().and_then(|text| HeaderValue::from_str(text).ok());
                        self.session.lock().unwrap_or_else(PoisonError::into_inner).version = version;
                    }
                }
                self.write(&event).await;
            }
        }
        if is_answered { Ok(()) } else { Err("the daemon has stopped before it answered".to_owned()) }
    }

    /// Whoever started us is gone, and with it what it asked for.
    async fn give_up(&self) {
        let running: Vec<_> = self.running().drain().collect();
        for (id, task) in running {
            let id: Value = serde_json::from_str(&id).unwrap_or_default();
            let cancelled = json!({
                "jsonrpc": "2.0", "method": "notifications/cancelled",
                "params": {"requestId": id, "reason": "the client has gone away"}
            });
            // Without a session hanging up is enough, and without a daemon nothing runs.
            let _ = self.send(&cancelled).await;
            task.abort();
        }
    }

    async fn refuse(&self, id: &Value, code: i32, why: &str) {
        self.write(&json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": why}})).await;
    }

    async fn write(&self, message: &Value) {
        // When nobody reads any more, standard input ends, too.
        let _ = self.output.send(message.to_string()).await;
    }

    /// Ends the session, if there is one, at the daemon.
    async fn leave(&self) {
        let session = self.session();
        let link = self.link.lock().await.clone();
        if let (Some(id), Some(link)) = (session.id, link) {
            let headers = HeaderMap::from_iter([(SESSION, id)]);
            // It ends by itself when this does not get there.
            let _ = link.client.exchange(Method::DELETE, &link.path, headers, Vec::new()).await;
        }
    }
}

/// MCP, "Transports", "Protocol version header" and, of the revision without sessions, "Standard request headers".
fn headers(message: &Value, session: &Session) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let mut set = |name: HeaderName, text: Option<&str>| {
        headers.extend(text.and_then(|text| HeaderValue::from_str(text).ok()).map(|value| (name, value)));
    };
    let params = &message["params"];
    if let Some(version) = params["_meta"][META_VERSION].as_str() {
        set(VERSION, Some(version));
        set(METHOD, message["method"].as_str());
        set(NAME, ["name", "uri", "taskId"].iter().find_map(|name| params[*name].as_str()));
    } else if message["method"] != "initialize" {
        headers.extend(session.id.clone().map(|id| (SESSION, id)));
        headers.extend(session.version.clone().map(|version| (VERSION, version)));
    }
    headers
}

/// Lines of standard input, as long as it is there.
fn read_lines() -> mpsc::Receiver<String> {
    let (send, receive) = mpsc::channel(QUEUE);
    // Reading blocks, and cannot be given up.
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            if !line.trim().is_empty() && send.blocking_send(line).is_err() {
                break;
            }
        }
    });
    receive
}

/// Standard output carries messages and nothing else.
fn write_lines() -> mpsc::Sender<String> {
    let (send, mut receive) = mpsc::channel::<String>(QUEUE);
    std::thread::spawn(move || {
        let mut output = std::io::stdout().lock();
        while let Some(line) = receive.blocking_recv() {
            if output.write_all(line.as_bytes()).and_then(|()| output.write_all(b"\n")).is_err() {
                break;
            }
            let _ = output.flush();
        }
    });
    send
}

/// The data of server-sent events (HTML standard, section 9.2.6), as bytes come in.
#[derive(Debug, Default)]
struct Events {
    line: Vec<u8>,
    data: Vec<String>,
}

impl Events {
    /// The data of all events that end in these bytes.
    fn take(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut done = Vec::new();
        for byte in bytes {
            if *byte != b'\n' {
                self.line.push(*byte);
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let line = line.strip_suffix(b"\r").unwrap_or(&line);
            if line.is_empty() {
                let data = std::mem::take(&mut self.data).join("\n");
                if !data.trim().is_empty() {
                    done.push(data);
                }
            } else if let Some(data) = line.strip_prefix(b"data:") {
                let data = data.strip_prefix(b" ").unwrap_or(data);
                self.data.push(String::from_utf8_lossy(data).into_owned());
            }
        }
        done
    }
}

/// What a client's configuration says to start this program.
fn configuration(client: McpClient) -> String {
    let server = json!({"command": "sandboxctl", "args": ["mcp"]});
    let pretty = |value: &Value| serde_json::to_string_pretty(value).expect("JSON is text") + "\n";
    match client {
        // .mcp.json of a project
        McpClient::ClaudeCode | McpClient::Cursor => pretty(&json!({"mcpServers": {"sandbox": server}})),
        // .vscode/mcp.json
        McpClient::Vscode => {
            let server = json!({"type": "stdio", "command": "sandboxctl", "args": ["mcp"]});
            pretty(&json!({"servers": {"sandbox": server}}))
        }
        // ~/.codex/config.toml
        McpClient::Codex => "[mcp_servers.sandbox]\ncommand = \"sandboxctl\"\nargs = [\"mcp\"]\n".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_may_be_cut_anywhere() {
        let text = "data: \nid: 0\n\ndata: {\"a\":1}\r\n\r\n: comment\ndata: {\"b\":\ndata: 2}\n\n";
        for cut in 0..text.len() {
            let (first, rest) = text.as_bytes().split_at(cut);
            let mut events = Events::default();
            let mut all = events.take(first);
            all.extend(events.take(rest));
            assert_eq!(all, ["{\"a\":1}", "{\"b\":\n2}"], "{cut}");
        }
    }

    #[test]
    fn messages_without_a_session_say_in_headers_what_they_are() {
        let session = Session { id: Some(HeaderValue::from_static("s")), ..Session::default() };
        let call =
            json!({"method": "tools/call", "params": {"name": "run_command", "_meta": {META_VERSION: "2026-07-28"}}});
        let headers = headers(&call, &session);
        assert_eq!(
            (&headers[VERSION], &headers[METHOD], &headers[NAME]),
            (
                &HeaderValue::from_static("2026-07-28"),
                &HeaderValue::from_static("tools/call"),
                &HeaderValue::from_static("run_command")
            )
        );
        assert!(headers.get(SESSION).is_none());
        let listed = super::headers(&json!({"method": "tools/list"}), &session);
        assert!(listed.get(SESSION).is_some() && listed.get(METHOD).is_none());
        assert!(super::headers(&json!({"method": "initialize"}), &session).get(SESSION).is_none());
    }

    #[test]
    fn each_client_is_told_how_to_start_this() {
        for client in [McpClient::ClaudeCode, McpClient::Cursor, McpClient::Vscode] {
            let text = configuration(client);
            let value: Value = serde_json::from_str(&text).expect("JSON");
            assert!(value.to_string().contains("\"args\":[\"mcp\"]"), "{text}");
        }
        let codex: toml::Value = toml::from_str(&configuration(McpClient::Codex)).expect("TOML");
        assert_eq!(codex["mcp_servers"]["sandbox"]["command"].as_str(), Some("sandboxctl"));
    }
}
