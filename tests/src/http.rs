//! A small HTTP/1.1 client that can also misbehave: send nonsense, stop reading, go away.
//!
//! Follows RFC 9112. Blocking, one connection per call unless a [`Connection`] is kept.

use serde_json::Value;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// No call of a test takes longer; one that does has hung.
const READ_TIME: Duration = Duration::from_secs(150);
const BUFFER_BYTES: usize = 256 << 10;

/// Whom to call, and as whom.
#[derive(Debug, Clone)]
pub struct Client {
    /// `127.0.0.1:7402`
    pub address: String,
    pub token: Option<String>,
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("not JSON ({error}), status {}: {}", self.status, self.text()))
    }

    /// The `code` of a problem; empty when there is none.
    pub fn code(&self) -> String {
        let problem: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        problem["code"].as_str().unwrap_or_default().to_owned()
    }

    /// Asserts that the call worked; its JSON.
    #[track_caller]
    pub fn ok(&self) -> Value {
        assert!((200..300).contains(&self.status), "status {}: {}", self.status, self.text());
        if self.body.is_empty() { Value::Null } else { self.json() }
    }

    /// Asserts that the call was refused, in the documented shape.
    #[track_caller]
    pub fn refused(&self, status: u16, code: &str) -> Value {
        assert_eq!((self.status, self.code().as_str()), (status, code), "{}", self.text());
        let problem = self.json();
        assert!(problem["error"].as_str().is_some_and(|error| !error.is_empty()), "{problem}");
        assert!(problem["retryable"].is_boolean(), "{problem}");
        assert!(problem["request_id"].as_str().is_some_and(|id| !id.is_empty()), "{problem}");
        problem
    }
}

fn find<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// The head of an answer, and its body as it comes. Dropping it closes the connection.
#[derive(Debug)]
pub struct Incoming {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    connection: Connection,
    framing: Framing,
}

#[derive(Debug, Clone, Copy)]
enum Framing {
    Length(u64),
    /// Bytes left of the chunk that is being read.
    Chunked(u64),
    /// Ends with the connection.
    Close,
    Done,
}

impl Incoming {
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    /// Reads the rest.
    pub fn finish(mut self) -> io::Result<Reply> {
        let mut body = Vec::new();
        self.read_to_end(&mut body)?;
        Ok(Reply { status: self.status, headers: std::mem::take(&mut self.headers), body })
    }

    /// What a test does to the connection below: a smaller receive buffer, another timeout.
    pub fn socket(&self) -> &TcpStream {
        &self.connection.writer
    }
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let reader = &mut self.connection.reader;
        loop {
            match self.framing {
                Framing::Done => return Ok(0),
                Framing::Close => return reader.read(buffer),
                Framing::Length(0) => self.framing = Framing::Done,
                Framing::Length(left) => {
                    let read = read_some(reader, buffer, left)?;
                    self.framing = Framing::Length(left - read as u64);
                    return Ok(read);
                }
                Framing::Chunked(0) => {
                    let line = read_line(reader)?;
                    let size = line.split(';').next().unwrap_or_default().trim();
                    let size = u64::from_str_radix(size, 16).map_err(|_| invalid(format!("chunk size {line:?}")))?;
                    self.framing = Framing::Chunked(size);
                    if size == 0 {
                        while !read_line(reader)?.is_empty() {}
                        self.framing = Framing::Done;
                    }
                }
                Framing::Chunked(left) => {
                    let read = read_some(reader, buffer, left)?;
                    self.framing = Framing::Chunked(left - read as u64);
                    if left == read as u64 {
                        read_line(reader)?;
                    }
                    return Ok(read);
                }
            }
        }
    }
}

fn read_some(reader: &mut impl Read, buffer: &mut [u8], left: u64) -> io::Result<usize> {
    let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
    match reader.read(&mut buffer[..most])? {
        0 if most > 0 => Err(io::ErrorKind::UnexpectedEof.into()),
        read => Ok(read),
    }
}

fn read_line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// A kept connection.
#[derive(Debug)]
pub struct Connection {
    writer: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Connection {
    pub fn open(address: &str) -> io::Result<Self> {
        let writer = TcpStream::connect(address)?;
        writer.set_nodelay(true)?;
        writer.set_read_timeout(Some(READ_TIME))?;
        writer.set_write_timeout(Some(READ_TIME))?;
        let reader = BufReader::with_capacity(BUFFER_BYTES, writer.try_clone()?);
        Ok(Self { writer, reader })
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.writer.write_all(bytes)
    }

    /// Reads the head of the next answer.
    pub fn head(mut self) -> io::Result<Incoming> {
        let (status, headers) = self.read_head()?;
        let framing = framing(status, &headers);
        Ok(Incoming { status, headers, connection: self, framing })
    }

    /// Sends a request and reads its whole answer; the connection can be used again.
    pub fn exchange(&mut self, request: &[u8]) -> io::Result<(u16, Vec<u8>)> {
        self.send(request)?;
        let (status, headers) = self.read_head()?;
        match framing(status, &headers) {
            Framing::Length(length) => {
                let mut body = vec![0; usize::try_from(length).map_err(|_| invalid("length".to_owned()))?];
                self.reader.read_exact(&mut body)?;
                Ok((status, body))
            }
            Framing::Chunked(_) => Ok((status, self.read_chunks()?)),
            other => Err(invalid(format!("an answer with an end was expected, not {other:?}"))),
        }
    }

    /// RFC 9112, section 7.1, without trailers.
    fn read_chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = read_line(&mut self.reader)?;
            let length = usize::from_str_radix(line.trim(), 16).map_err(|_| invalid(format!("chunk {line:?}")))?;
            let start = body.len();
            body.resize(start + length, 0);
            self.reader.read_exact(&mut body[start..])?;
            read_line(&mut self.reader)?;
            if length == 0 {
                return Ok(body);
            }
        }
    }

    fn read_head(&mut self) -> io::Result<(u16, Vec<(String, String)>)> {
        loop {
            let line = read_line(&mut self.reader)?;
            let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
            let status = status.ok_or_else(|| invalid(format!("status line {line:?}")))?;
            let mut headers = Vec::new();
            loop {
                let line = read_line(&mut self.reader)?;
                match line.split_once(':') {
                    Some((name, value)) => headers.push((name.to_owned(), value.trim().to_owned())),
                    None => break,
                }
            }
            // 100 Continue is not the answer yet.
            if status >= 200 {
                return Ok((status, headers));
            }
        }
    }
}

fn framing(status: u16, headers: &[(String, String)]) -> Framing {
    if status == 204 || status == 304 {
        return Framing::Done;
    }
    if find(headers, "transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        return Framing::Chunked(0);
    }
    match find(headers, "content-length").and_then(|value| value.parse().ok()) {
        Some(length) => Framing::Length(length),
        None => Framing::Close,
    }
}

/// GET of a path of a site.
#[track_caller]
pub fn fetch(url: &str, path: &str) -> Reply {
    let address = url.trim_start_matches("http://").trim_end_matches('/');
    Client { address: address.to_owned(), token: None }.get(path)
}

impl Client {
    /// The same daemon, another token or none.
    pub fn with_token(&self, token: Option<&str>) -> Self {
        Self { address: self.address.clone(), token: token.map(str::to_owned) }
    }

    /// Request line, headers and body as bytes; the headers given win over the usual ones.
    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
        let mut text = format!("{method} {path} HTTP/1.1\r\n");
        let mut usual = vec![("Host", self.address.clone()), ("Accept", "application/json".to_owned())];
        if let Some(token) = &self.token {
            usual.push(("Authorization", format!("Bearer {token}")));
        }
        if !body.is_empty() || method == "POST" || method == "PUT" || method == "PATCH" {
            usual.push(("Content-Type", "application/json".to_owned()));
            usual.push(("Content-Length", body.len().to_string()));
        }
        let given = |name: &str| headers.iter().any(|(other, _)| other.eq_ignore_ascii_case(name));
        for (name, value) in usual.iter().filter(|(name, _)| !given(name)) {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        for (name, value) in headers.iter().filter(|(_, value)| !value.is_empty()) {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(body);
        bytes
    }

    /// Sends a request and reads the head of the answer. A header with an empty value is left out.
    pub fn open(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> io::Result<Incoming> {
        let mut headers = headers.to_vec();
        headers.push(("Connection", "close"));
        self.raw(&self.request(method, path, &headers, body))
    }

    /// Sends bytes as they are and reads the head of the answer.
    pub fn raw(&self, bytes: &[u8]) -> io::Result<Incoming> {
        let mut connection = Connection::open(&self.address)?;
        // A server may refuse, and close, before it has read everything.
        let sent = connection.send(bytes);
        connection.head().map_err(|error| sent.err().unwrap_or(error))
    }

    /// A whole call with any headers and body.
    #[track_caller]
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let answer = self.open(method, path, headers, body).and_then(Incoming::finish);
        answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], &[])
    }

    #[track_caller]
    pub fn post(&self, path: &str, body: &Value) -> Reply {
        self.send("POST", path, &[], body.to_string().as_bytes())
    }

    #[track_caller]
    pub fn patch(&self, path: &str, body: &Value) -> Reply {
        self.send("PATCH", path, &[], body.to_string().as_bytes())
    }

    #[track_caller]
    pub fn delete(&self, path: &str) -> Reply {
        self.send("DELETE", path, &[], &[])
    }
}
