//! Files of a project, as agents read and write them.

use super::answer::{Answer, HALF_BYTES};
use super::tool::{Call, Effect, Tool};
use crate::files::Kind;
use crate::output::begun_character;
use crate::service::Error;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sandbox_wire::{Code, Problem};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

/// In one answer, which has it as text and as data.
const MAX_READ: usize = 4 * HALF_BYTES;
const MAX_LISTED: usize = 1000;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[schemars(inline)]
enum Encoding {
    #[default]
    #[serde(rename = "utf-8", alias = "utf8")]
    Utf8,
    #[serde(rename = "base64")]
    Base64,
}

impl Encoding {
    fn name(self) -> &'static str {
        match self {
            Self::Utf8 => "utf-8",
            Self::Base64 => "base64",
        }
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub(crate) struct ReadFileInput {
    /// The project's id or url_id.
    #[serde(default)]
    project_id: String,
    /// The file, from the project's folder on, such as `src/index.js`.
    file_path: String,
    /// `utf-8` for text, `base64` for anything else; `utf-8` when absent.
    #[serde(default)]
    encoding: Encoding,
    /// The first byte wanted; `next` of the answer before. 0 when absent.
    #[serde(default)]
    #[schemars(range(min = 0))]
    offset: u64,
}

pub(crate) struct ReadFile;

impl Tool for ReadFile {
    const NAME: &'static str = "read_file";
    const TITLE: &'static str = "Read a file";
    const DESCRIPTION: &'static str = "Reads a file of the project, at most 80 KiB of it at a time (60 KiB as base64): the text \
        is the content, and `next` says where a longer file goes on. Links are followed within the project only. Use \
        run_command with grep or sed to look for something in large files. Needs a token with the scope `files`. \
        Example: {\"project_id\": \"shop\", \"file_path\": \"package.json\"}";
    const EFFECT: Effect = Effect::Reads;
    type Input = ReadFileInput;

    fn output() -> Value {
        json!({
            "type": "object",
            "properties": {
                "file_path": {"type": "string"},
                "content": {"type": "string"},
                "encoding": {"type": "string", "enum": ["utf-8", "base64"]},
                "size": {"type": "integer", "description": "bytes of the whole file"},
                "offset": {"type": "integer"},
                "next": {"type": "integer", "description": "`offset` of the next call; absent at the end of the file"}
            },
            "required": ["file_path", "content", "encoding", "size", "offset"]
        })
    }

    async fn call(call: Call, input: ReadFileInput) -> Result<Answer, Error> {
        let entry = call.project_for_files(&input.project_id)?;
        let max = match input.encoding {
            Encoding::Utf8 => MAX_READ,
            Encoding::Base64 => MAX_READ / 4 * 3,
        };
        let mut piece = call.service.read_file(&entry, &input.file_path, input.offset, max).await?;
        let mut next = input.offset + piece.bytes.len() as u64;
        if input.encoding == Encoding::Utf8 && next < piece.size {
            let whole = piece.bytes.len() - begun_character(&piece.bytes);
            piece.bytes.truncate(whole);
            next = input.offset + whole as u64;
        }
        let content = match input.encoding {
            Encoding::Base64 => STANDARD.encode(&piece.bytes),
            Encoding::Utf8 => String::from_utf8(piece.bytes).map_err(|_| {
                Problem::new(Code::InvalidRequest, format!("{} is not UTF-8 text", input.file_path))
                    .with("field", "encoding")
                    .next("read it with \"encoding\": \"base64\"")
            })?,
        };
        let next = (next < piece.size).then_some(next);
        let data = json!({
            "file_path": input.file_path, "content": content, "encoding": input.encoding.name(), "size": piece.size,
            "offset": input.offset, "next": next
        });
        let answer = Answer::new(content, &data);
        Ok(match next {
            Some(next) => answer.note(format!("The file has {} bytes; it goes on at offset {next}.", piece.size)),
            None => answer,
        })
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub(crate) struct WriteFileInput {
    /// The project's id or url_id.
    #[serde(default)]
    project_id: String,
    /// The file, from the project's folder on, such as `src/index.js`. Folders that are missing are made.
    file_path: String,
    /// All of the new content.
    content: String,
    /// How `content` is written: `utf-8`, or `base64` for what is not text. `utf-8` when absent.
    #[serde(default)]
    encoding: Encoding,
}

pub(crate) struct WriteFile;

impl Tool for WriteFile {
    const NAME: &'static str = "write_file";
    const TITLE: &'static str = "Write a file";
    const DESCRIPTION: &'static str = "Writes a file of the project, whole and in one step: it is made, with the folders above \
        it, or replaced, and keeps its mode. For changing a part of a large file use run_command with sed, or git apply. \
        Needs a token with the scope `files`. \
        Example: {\"project_id\": \"shop\", \"file_path\": \"src/index.js\", \"content\": \"console.log('hi')\\n\"}";
    const EFFECT: Effect = Effect::Replaces;
    type Input = WriteFileInput;

    fn output() -> Value {
        json!({
            "type": "object",
            "properties": {
                "file_path": {"type": "string"}, "bytes": {"type": "integer"},
                "created": {"type": "boolean", "description": "false when it replaced a file"}
            },
            "required": ["file_path", "bytes", "created"]
        })
    }

    async fn call(call: Call, input: WriteFileInput) -> Result<Answer, Error> {
        let entry = call.project_for_files(&input.project_id)?;
        let bytes = match input.encoding {
            Encoding::Utf8 => input.content.into_bytes(),
            Encoding::Base64 => STANDARD.decode(input.content).map_err(|error| {
                Problem::new(Code::InvalidRequest, format!("content is not base64: {error}")).with("field", "content")
            })?,
        };
        let length = bytes.len();
        let created = call.service.write_file(&entry, &input.file_path, bytes).await?;
        let text = format!("{} {}, {length} bytes", if created { "Made" } else { "Replaced" }, input.file_path);
        Ok(Answer::new(text, &json!({"file_path": input.file_path, "bytes": length, "created": created})))
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub(crate) struct ListFilesInput {
    /// The project's id or url_id.
    #[serde(default)]
    project_id: String,
    /// The folder, from the project's on; the project's own when absent.
    path: Option<String>,
    /// How many levels of folders are listed: 1 to 32, 2 when absent.
    #[schemars(range(min = 1, max = 32))]
    depth: Option<u32>,
}

pub(crate) struct ListFiles;

impl Tool for ListFiles {
    const NAME: &'static str = "list_files";
    const TITLE: &'static str = "List files";
    const DESCRIPTION: &'static str = "Lists files and folders of the project with their sizes, sorted by path, at most 1000 of \
        them; node_modules and .git are named but not entered. Folders end with `/`, links with `@`. Needs a token with the \
        scope `files`. Example: {\"project_id\": \"shop\", \"path\": \"src\", \"depth\": 3}";
    const EFFECT: Effect = Effect::Reads;
    type Input = ListFilesInput;

    fn output() -> Value {
        let file = json!({
            "type": "object",
            "properties": {
                "path": {"type": "string", "description": "from the folder that is listed"},
                "kind": {"type": "string", "enum": ["file", "folder", "link", "other"]},
                "size": {"type": "integer"}
            },
            "required": ["path", "kind"]
        });
        json!({
            "type": "object",
            "properties": {
                "path": {"type": "string"},
                "files": {"type": "array", "items": file},
                "complete": {"type": "boolean", "description": "false when there are more than are listed"}
            },
            "required": ["path", "files", "complete"]
        })
    }

    async fn call(call: Call, input: ListFilesInput) -> Result<Answer, Error> {
        let entry = call.project_for_files(&input.project_id)?;
        let path = input.path.filter(|path| !path.is_empty()).unwrap_or_else(|| ".".to_owned());
        let depth = input.depth.unwrap_or(2);
        let (found, complete) = call.service.list_files(&entry, &path, depth, MAX_LISTED).await?;
        let mut lines = Vec::with_capacity(found.len());
        let mut files = Vec::with_capacity(found.len());
        for file in found {
            let (line, kind) = match file.kind {
                Kind::File => (format!("{} {}", file.path, file.size), "file"),
                Kind::Folder => (format!("{}/", file.path), "folder"),
                Kind::Link => (format!("{}@", file.path), "link"),
                Kind::Other => (file.path.clone(), "other"),
            };
            lines.push(line);
            let size = (file.kind == Kind::File).then_some(file.size);
            files.push(json!({"path": file.path, "kind": kind, "size": size}));
        }
        let text = if lines.is_empty() { "(empty)".to_owned() } else { lines.join("\n") };
        let answer = Answer::new(text, &json!({"path": path, "files": files, "complete": complete}));
        Ok(if complete { answer } else { answer.note(format!("Only {MAX_LISTED} are listed; name a folder below.")) })
    }
}
