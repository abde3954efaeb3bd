//! Which form of an answer a caller wants: RFC 9110, section 12.5.1. Pure.

use sandbox_wire::{Code, Problem};

/// The forms that a run's answer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// One JSON document, at the end.
    Json,
    Stream(Framing),
}

/// How events follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// Server-sent events.
    Sse,
    /// One JSON object per line.
    Ndjson,
}

impl Framing {
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::Sse => "text/event-stream",
            Self::Ndjson => "application/x-ndjson",
        }
    }
}

/// The form that the caller likes best; the first of several that are liked the same.
pub(crate) fn form(accept: Option<&str>) -> Result<Form, Problem> {
    let Some(accept) = accept else { return Ok(Form::Json) };
    let mut best: Option<(u32, Form)> = None;
    for range in accept.split(',') {
        let mut parts = range.split(';').map(str::trim);
        let form = match parts.next().unwrap_or_default().to_ascii_lowercase().as_str() {
            "" | "*/*" | "application/*" | "application/json" => Form::Json,
            "text/*" | "text/event-stream" => Form::Stream(Framing::Sse),
            "application/x-ndjson" | "application/ndjson" => Form::Stream(Framing::Ndjson),
            _ => continue,
        };
        let quality = parts.find_map(|part| part.strip_prefix("q=")).map_or(1000, thousandths);
        if quality > 0 && best.is_none_or(|(liked, _)| quality > liked) {
            best = Some((quality, form));
        }
    }
    best.map(|(_, form)| form).ok_or_else(|| {
        Problem::new(Code::NotAcceptable, "none of the media types in Accept can be given")
            .next("accept application/json, text/event-stream or application/x-ndjson")
    })
}

/// For calls that only stream: SSE unless lines are liked better.
pub(crate) fn framing(accept: Option<&str>) -> Result<Framing, Problem> {
    match form(accept)? {
        Form::Stream(framing) => Ok(framing),
        Form::Json => Ok(Framing::Sse),
    }
}

/// A quality value; what is none counts as 1.
fn thousandths(text: &str) -> u32 {
    match text.parse::<f32>() {
        // Between 0 and 1000: the cast loses nothing that matters.
        Ok(quality) if (0.0..=1.0).contains(&quality) => (quality * 1000.0) as u32,
        _ => 1000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_liked_form_wins() {
        let (sse, lines) = (Form::Stream(Framing::Sse), Form::Stream(Framing::Ndjson));
        for (accept, expected) in [
            ("*/*", Form::Json),
            ("application/json", Form::Json),
            ("text/event-stream", sse),
            ("TEXT/EVENT-STREAM; charset=utf-8", sse),
            ("application/x-ndjson", lines),
            ("application/json;q=0.5, text/event-stream", sse),
            ("text/event-stream, application/json", sse),
            ("application/json, text/event-stream", Form::Json),
            ("text/html, application/x-ndjson;q=0.1", lines),
            ("text/event-stream;q=0, */*;q=0.1", Form::Json),
            ("", Form::Json),
        ] {
            assert_eq!(form(Some(accept)), Ok(expected), "{accept}");
        }
        assert_eq!(form(None), Ok(Form::Json));
        assert_eq!(form(Some("text/html")).expect_err("nothing fits").code, Code::NotAcceptable);
        assert_eq!(framing(None), Ok(Framing::Sse));
        assert_eq!(framing(Some("application/x-ndjson")), Ok(Framing::Ndjson));
    }
}
