//! Why there is no policy: mistakes in files with their places, unknown names, unreadable files.
//!
//! Everything here can be shown as one line (`Display`), as a report with the source text
//! ([`PolicyError::report`]), or through [`miette`].

use crate::{Fault, Place};
use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, SourceCode};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// One mistake in a policy file. `Display` is `file:line:column: what is wrong`.
#[derive(Debug, Clone)]
pub struct Mistake {
    place: Place,
    fault: Fault,
}

impl Mistake {
    pub(crate) fn new(place: Place, fault: Fault) -> Self {
        Self { place, fault }
    }

    pub fn place(&self) -> &Place {
        &self.place
    }

    pub fn fault(&self) -> &Fault {
        &self.fault
    }

    pub fn fix(&self) -> String {
        self.fault.fix()
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.fault)
    }
}

// No source: a fault's message already says why a value is not one.
impl std::error::Error for Mistake {}

impl Diagnostic for Mistake {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(self.fix()))
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(self.place.source().named())
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        Some(Box::new(std::iter::once(LabeledSpan::new_with_span(Some("here".to_owned()), self.place.span()))))
    }
}

/// Why a policy cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PolicyError {
    /// Never empty; in the order in which they stand in the files.
    #[error("{}", Lines(.0))]
    Invalid(Vec<Mistake>),
    #[error("there is no policy `{name}`; {fix}")]
    Unknown { name: String, fix: String },
    #[error("cannot read {}", path.display())]
    Unreadable { path: PathBuf, source: Arc<std::io::Error> },
    #[error("{} is larger than {max} bytes, which no policy file is", path.display())]
    TooLarge { path: PathBuf, max: u64 },
}

impl PolicyError {
    /// The mistakes of [`PolicyError::Invalid`].
    pub fn mistakes(&self) -> &[Mistake] {
        match self {
            Self::Invalid(mistakes) => mistakes,
            _ => &[],
        }
    }

    /// What is wrong with the lines it is about and how to mend it, for a terminal.
    pub fn report(&self, color: bool) -> String {
        let theme = if color { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
        let handler = GraphicalReportHandler::new_themed(theme).with_width(100).with_links(false);
        let mut report = String::new();
        for mistake in self.mistakes() {
            // Writing to a String fails only where a span lies outside its text, which `Place` excludes.
            if handler.render_report(&mut report, mistake).is_err() {
                report.push_str(&format!("{mistake}\n  {}\n", mistake.fix()));
            }
        }
        if report.is_empty() {
            report = format!("{self}\n");
            let mut cause = std::error::Error::source(self);
            while let Some(error) = cause {
                report.push_str(&format!("  {error}\n"));
                cause = error.source();
            }
        }
        report
    }
}

impl Diagnostic for PolicyError {
    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn Diagnostic> + 'a>> {
        match self {
            Self::Invalid(mistakes) => Some(Box::new(mistakes.iter().map(|mistake| mistake as &dyn Diagnostic))),
            _ => None,
        }
    }
}

/// One line for each mistake, with its fix.
struct Lines<'a>(&'a [Mistake]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{mistake}; {}", mistake.fix())?;
        }
        Ok(())
    }
}
