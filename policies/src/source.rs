//! Where in which policy file something is written.
//!
//! Input: the text of a file and byte ranges in it; output: file, line and column for people, and
//! source spans for [`miette`]. Knows nothing of policies.

use miette::{NamedSource, SourceSpan};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// One policy file: its name as shown to people, and its text.
#[derive(Debug, Clone)]
pub struct Source {
    named: NamedSource<String>,
}

impl Source {
    pub fn new(name: impl AsRef<str>, text: impl Into<String>) -> Self {
        Self { named: NamedSource::new(name, text.into()).with_language("TOML") }
    }

    pub fn name(&self) -> &str {
        self.named.name()
    }

    pub fn text(&self) -> &str {
        self.named.inner()
    }

    pub(crate) fn named(&self) -> &NamedSource<String> {
        &self.named
    }
}

/// A byte range of a policy file.
#[derive(Debug, Clone)]
pub struct Place {
    source: Arc<Source>,
    span: Range<usize>,
}

impl Place {
    /// A range that does not lie in the text is cut to it.
    pub(crate) fn new(source: &Arc<Source>, span: Range<usize>) -> Self {
        let len = source.text().len();
        let start = span.start.min(len);
        Self { source: Arc::clone(source), span: start..span.end.clamp(start, len) }
    }

    pub fn file(&self) -> &str {
        self.source.name()
    }

    /// Counted from 1.
    pub fn line(&self) -> usize {
        1 + self.before().iter().filter(|b| **b == b'\n').count()
    }

    /// Counted from 1, in characters.
    pub fn column(&self) -> usize {
        let before = self.before();
        let line = before.iter().rposition(|b| *b == b'\n').map_or(0, |newline| newline + 1);
        1 + String::from_utf8_lossy(&before[line..]).chars().count()
    }

    /// `file:line`.
    pub fn short(&self) -> String {
        format!("{}:{}", self.file(), self.line())
    }

    pub(crate) fn source(&self) -> &Source {
        &self.source
    }

    pub(crate) fn span(&self) -> SourceSpan {
        (self.span.start, self.span.len()).into()
    }

    fn before(&self) -> &[u8] {
        &self.source.text().as_bytes()[..self.span.start]
    }
}

/// `file:line:column`.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file(), self.line(), self.column())
    }
}

/// Something a file says, and where.
#[derive(Debug, Clone)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) place: Place,
    /// Position of the file in its chain of `extends`: 0 is the root, the file itself the last.
    pub(crate) depth: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_lines_and_characters_from_one() {
        let source = Arc::new(Source::new("a.toml", "é = 1\nb = 2\n"));
        assert_eq!(Place::new(&source, 0..1).to_string(), "a.toml:1:1");
        assert_eq!(Place::new(&source, 3..4).to_string(), "a.toml:1:3");
        assert_eq!(Place::new(&source, 7..8).to_string(), "a.toml:2:1");
        assert_eq!(Place::new(&source, 400..900).to_string(), "a.toml:3:1");
    }
}
