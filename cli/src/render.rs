//! Text and JSON on standard output: tables, documents, sizes.
//!
//! No colour and no cursor movement: a pipe and a terminal get the same bytes. A reader that has gone
//! away ends the program the way SIGPIPE ends others.

use comfy_table::{Table, presets};
use sandbox_wire::Command;
use serde::Serialize;
use std::io::Write;

/// 128 + SIGPIPE: what a shell shows for a program whose reader went away.
pub(crate) const EXIT_BROKEN_PIPE: u8 = 141;

/// Prints a text as it is.
pub(crate) fn text(text: &str) {
    let mut stdout = std::io::stdout().lock();
    if let Err(error) = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => std::process::exit(EXIT_BROKEN_PIPE.into()),
            _ => {
                eprintln!("sandboxctl: cannot write to standard output: {error}");
                std::process::exit(1);
            }
        }
    }
}

/// Prints one JSON document and a newline.
pub(crate) fn json(value: &impl Serialize) {
    match serde_json::to_string_pretty(value) {
        Ok(document) => text(&format!("{document}\n")),
        Err(error) => eprintln!("sandboxctl: cannot write the answer as JSON: {error}"),
    }
}

/// Prints columns under their names; cells lose control characters.
pub(crate) fn table<const N: usize>(names: [&str; N], rows: impl IntoIterator<Item = [String; N]>) {
    text(&columns(names, rows));
}

fn columns<const N: usize>(names: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(names);
    for row in rows {
        table.add_row(row.iter().map(|cell| one_line(cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut text: String = table.lines().map(|line| line.trim_end().to_owned() + "\n").collect();
    if text.is_empty() {
        text.push('\n');
    }
    text
}

/// Replaces what a terminal would obey; newlines and tabs stay.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// As [`plain`], on one line.
fn one_line(text: &str) -> String {
    plain(text).replace(['\n', '\t'], " ")
}

/// A command for a list: the shell line or the words, cut to `limit` characters.
pub(crate) fn command(command: &Command, limit: usize) -> String {
    let line = match command {
        Command::Shell(line) => line.clone(),
        Command::Argv(words) => words.join(" "),
    };
    let line = one_line(line.trim());
    if line.chars().count() <= limit {
        return line;
    }
    line.chars().take(limit.saturating_sub(1)).chain(['…']).collect()
}

/// Seconds are enough for people: `2026-01-31T12:00:05.123456Z` becomes `2026-01-31 12:00:05Z`.
pub(crate) fn time(rfc3339: &str) -> String {
    match rfc3339.split_once('.') {
        Some((seconds, _)) => format!("{}Z", seconds.replace('T', " ")),
        None => rfc3339.replace('T', " "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_without_trailing_blanks() {
        let rows = [["a".to_owned(), "long cell".to_owned()], ["bcd\x1b".to_owned(), String::new()]];
        assert_eq!(columns(["ID", "NAME"], rows), "ID    NAME\na     long cell\nbcd\u{fffd}\n");
    }

    #[test]
    fn commands_are_cut_on_character_borders() {
        assert_eq!(command(&Command::Shell("äöü äöü".to_owned()), 4), "äöü…");
        assert_eq!(command(&Command::Argv(vec!["ls".into(), "-l".into()]), 10), "ls -l");
        assert_eq!(command(&Command::Shell("a\nb".to_owned()), 10), "a b");
    }
}
