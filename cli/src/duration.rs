//! Durations as people type them: `90s`, `2m`, `1m30s`, `500ms`, `1.5s`, `90`.
//!
//! Only the shape is checked here; whether a deadline is in range is the daemon's answer.

use std::str::FromStr;

/// A duration in milliseconds, as the wire carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Millis(pub(crate) i64);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a duration; write 90s, 2m, 1m30s or 500ms")]
pub(crate) struct InvalidDuration;

impl FromStr for Millis {
    type Err = InvalidDuration;

    /// A number without unit is seconds.
    fn from_str(text: &str) -> Result<Self, InvalidDuration> {
        let mut rest = text.trim();
        let mut total = 0.0;
        if rest.is_empty() {
            return Err(InvalidDuration);
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
            let (number, tail) = rest.split_at(digits);
            let unit_end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
            let (unit, next) = tail.split_at(unit_end);
            let number: f64 = number.parse().map_err(|_| InvalidDuration)?;
            total += number * millis_per(unit).ok_or(InvalidDuration)?;
            rest = next;
        }
        // Far above every limit, far below where a double loses milliseconds.
        if total > 1e12 {
            return Err(InvalidDuration);
        }
        Ok(Self(total.round() as i64))
    }
}

fn millis_per(unit: &str) -> Option<f64> {
    match unit {
        "ms" => Some(1.0),
        "" | "s" => Some(1e3),
        "m" | "min" => Some(60e3),
        "h" => Some(3600e3),
        _ => None,
    }
}

/// A duration for people: `41.7 ms`, `3.2 s`, `2 min 5 s`.
pub(crate) fn spoken(ms: f64) -> String {
    if ms < 1000.0 {
        format!("{} ms", trim(ms))
    } else if ms < 120e3 {
        format!("{} s", trim(ms / 1000.0))
    } else {
        let seconds = (ms / 1000.0).round() as u64;
        match seconds % 60 {
            0 => format!("{} min", seconds / 60),
            rest => format!("{} min {rest} s", seconds / 60),
        }
    }
}

/// At most one decimal, none when it is zero.
fn trim(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_parse() {
        for (text, ms) in [
            ("90s", 90_000),
            ("90", 90_000),
            ("2m", 120_000),
            ("1m30s", 90_000),
            ("500ms", 500),
            ("1.5s", 1_500),
            ("0", 0),
            ("0.25ms", 0),
            ("1h", 3_600_000),
            (" 5s ", 5_000),
        ] {
            assert_eq!(text.parse(), Ok(Millis(ms)), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_duration_is_refused() {
        for text in ["", " ", "s", "-1s", "1x", "1.2.3s", "soon", "1e9s", "9999999999999", "+1s", "∞", "1 s"] {
            assert_eq!(text.parse::<Millis>(), Err(InvalidDuration), "{text}");
        }
    }

    #[test]
    fn durations_are_spoken_shortly() {
        assert_eq!(spoken(41.72), "41.7 ms");
        assert_eq!(spoken(90_000.0), "90 s");
        assert_eq!(spoken(125_000.0), "2 min 5 s");
        assert_eq!(spoken(300_000.0), "5 min");
    }
}
