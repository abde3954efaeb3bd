//! Sizes, durations and counts: how they are written, and which are sane.
//!
//! Input: `"2GiB"`, `"120s"`, plain numbers; output: bytes, milliseconds, counts within their range.
//! Does not know how a limit is enforced.

use serde::de::{Deserialize, Deserializer, Visitor};
use std::fmt;
use std::str::FromStr;

/// No command runs longer in one call, whatever a policy says.
pub const MAX_TIMEOUT_MS: u64 = 300_000;

/// A size in bytes; written with a binary unit: `"64KiB"`, `"512MiB"`, `"2GiB"`, `"1TiB"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

/// A duration in milliseconds; written with a unit: `"500ms"`, `"120s"`, `"2m"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Millis(pub u64);

/// Why a text is not a size or duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuantityFault {
    #[error("does not start with a whole number")]
    NoNumber,
    #[error("has no unit")]
    NoUnit,
    #[error("has an unknown unit")]
    UnknownUnit,
    #[error("is too large for this computer")]
    TooLarge,
    #[error("is negative")]
    Negative,
}

const BYTE_UNITS: [(&str, u64); 5] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
const MILLI_UNITS: [(&str, u64); 3] = [("ms", 1), ("s", 1_000), ("m", 60_000)];

fn measure(text: &str, units: &[(&str, u64)], bare: Option<u64>) -> Result<u64, QuantityFault> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(if text.starts_with('-') { QuantityFault::Negative } else { QuantityFault::NoNumber });
    }
    let factor = match units.iter().find(|(name, _)| *name == unit) {
        Some((_, factor)) => *factor,
        None if unit.is_empty() => bare.ok_or(QuantityFault::NoUnit)?,
        None => return Err(QuantityFault::UnknownUnit),
    };
    number.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)).ok_or(QuantityFault::TooLarge)
}

impl FromStr for Bytes {
    type Err = QuantityFault;
    fn from_str(text: &str) -> Result<Self, QuantityFault> {
        measure(text, &BYTE_UNITS, Some(1)).map(Self)
    }
}

impl FromStr for Millis {
    type Err = QuantityFault;
    fn from_str(text: &str) -> Result<Self, QuantityFault> {
        measure(text, &MILLI_UNITS, None).map(Self)
    }
}

/// The largest unit that gives a whole number: parsing it gives the same size.
impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = BYTE_UNITS.iter().find(|(_, factor)| self.0 != 0 && self.0.is_multiple_of(*factor));
        let (unit, factor) = exact.copied().unwrap_or(("B", 1));
        write!(f, "{}{unit}", self.0 / factor)
    }
}

/// Seconds where they are whole, else milliseconds.
impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            whole if whole.is_multiple_of(1_000) => write!(f, "{}s", whole / 1_000),
            odd => write!(f, "{odd}ms"),
        }
    }
}

/// A size or duration as a person wrote it, not yet judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Quantity {
    Number(i64),
    Text(String),
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = Quantity;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number, or text with a unit such as \"512MiB\" or \"120s\"")
            }
            fn visit_i64<E>(self, number: i64) -> Result<Quantity, E> {
                Ok(Quantity::Number(number))
            }
            fn visit_str<E>(self, text: &str) -> Result<Quantity, E> {
                Ok(Quantity::Text(text.to_owned()))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// The limits that are whole numbers; `cpu` is the other one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Limit {
    Memory,
    Pids,
    Disk,
    DiskRate,
    Tmp,
    OpenFiles,
    Output,
    Timeout,
    MaxTimeout,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    Bytes,
    Millis,
    Count,
}

/// Both ends belong to it; `default` is used when no file of the chain says anything.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Range {
    pub(crate) min: u64,
    pub(crate) max: u64,
    pub(crate) default: u64,
}

pub(crate) const CPU_MIN: f64 = 0.01;
pub(crate) const CPU_MAX: f64 = 1024.0;
pub(crate) const CPU_DEFAULT: f64 = 2.0;
/// Faster than any disk: 1 TiB a second is as fast as the disk is.
pub(crate) const UNLIMITED_DISK_RATE: u64 = 1 << 40;

impl Limit {
    /// The key in `[limits]`.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Disk => "disk",
            Self::DiskRate => "disk_rate",
            Self::Tmp => "tmp",
            Self::OpenFiles => "open_files",
            Self::Output => "output",
            Self::Timeout => "timeout",
            Self::MaxTimeout => "max_timeout",
        }
    }

    /// The key with its section.
    pub(crate) fn rule(self) -> &'static str {
        match self {
            Self::Memory => "limits.memory",
            Self::Pids => "limits.pids",
            Self::Disk => "limits.disk",
            Self::DiskRate => "limits.disk_rate",
            Self::Tmp => "limits.tmp",
            Self::OpenFiles => "limits.open_files",
            Self::Output => "limits.output",
            Self::Timeout => "limits.timeout",
            Self::MaxTimeout => "limits.max_timeout",
        }
    }

    pub(crate) fn unit(self) -> Unit {
        match self {
            Self::Memory | Self::Disk | Self::DiskRate | Self::Tmp | Self::Output => Unit::Bytes,
            Self::Timeout | Self::MaxTimeout => Unit::Millis,
            Self::Pids | Self::OpenFiles => Unit::Count,
        }
    }

    pub(crate) fn range(self) -> Range {
        const MIB: u64 = 1 << 20;
        const GIB: u64 = 1 << 30;
        const TIB: u64 = 1 << 40;
        let (min, max, default) = match self {
            // A shell with its libraries needs a few MiB; less than 16 kills it while it loads.
            Self::Memory => (16 * MIB, 64 * TIB, 2 * GIB),
            // The command and one child. The ceiling is the kernel's PID_MAX_LIMIT.
            Self::Pids => (2, 1 << 22, 512),
            Self::Disk => (MIB, 1024 * TIB, 8 * GIB),
            // Slower than a floppy disk, nothing starts in sensible time. The ceiling is no limit.
            Self::DiskRate => (64 << 10, UNLIMITED_DISK_RATE, UNLIMITED_DISK_RATE),
            Self::Tmp => (MIB, 64 * TIB, GIB),
            // The ceiling is the kernel's default fs.nr_open.
            Self::OpenFiles => (16, 1 << 20, 4096),
            Self::Output => (64 << 10, TIB, 64 * MIB),
            Self::Timeout => (1, MAX_TIMEOUT_MS, 120_000),
            Self::MaxTimeout => (1, MAX_TIMEOUT_MS, MAX_TIMEOUT_MS),
        };
        Range { min, max, default }
    }
}

impl Unit {
    pub(crate) fn read(self, quantity: &Quantity) -> Result<u64, QuantityFault> {
        match (self, quantity) {
            (Self::Bytes, Quantity::Text(text)) => text.parse().map(|Bytes(bytes)| bytes),
            (Self::Millis, Quantity::Text(text)) => text.parse().map(|Millis(millis)| millis),
            (Self::Count, Quantity::Text(text)) => measure(text, &[], Some(1)),
            (_, Quantity::Number(number)) if *number < 0 => Err(QuantityFault::Negative),
            (Self::Millis, Quantity::Number(_)) => Err(QuantityFault::NoUnit),
            (_, Quantity::Number(number)) => Ok(number.unsigned_abs()),
        }
    }

    /// As a person would write it.
    pub(crate) fn show(self, value: u64) -> String {
        match self {
            Self::Bytes => Bytes(value).to_string(),
            Self::Millis => Millis(value).to_string(),
            Self::Count => value.to_string(),
        }
    }

    pub(crate) fn example(self) -> &'static str {
        match self {
            Self::Bytes => "write a whole number with KiB, MiB, GiB or TiB, such as \"512MiB\"",
            Self::Millis => "write a whole number with ms, s or m, such as \"120s\"",
            Self::Count => "write a whole number, such as 512",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_have_binary_units() {
        let cases = [
            ("2GiB", Ok(2 << 30)),
            ("512MiB", Ok(512 << 20)),
            ("64KiB", Ok(64 << 10)),
            ("4096", Ok(4096)),
            ("4096B", Ok(4096)),
            ("0", Ok(0)),
            ("2GB", Err(QuantityFault::UnknownUnit)),
            ("2 GiB", Err(QuantityFault::UnknownUnit)),
            ("1.5GiB", Err(QuantityFault::UnknownUnit)),
            ("-1MiB", Err(QuantityFault::Negative)),
            ("", Err(QuantityFault::NoNumber)),
            ("GiB", Err(QuantityFault::NoNumber)),
            ("99999999999999999999", Err(QuantityFault::TooLarge)),
            ("18446744073709551615KiB", Err(QuantityFault::TooLarge)),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<Bytes>().map(|Bytes(b)| b), expected, "{text}");
        }
    }

    #[test]
    fn durations_need_a_unit() {
        let cases = [
            ("120s", Ok(120_000)),
            ("500ms", Ok(500)),
            ("2m", Ok(120_000)),
            ("120", Err(QuantityFault::NoUnit)),
            ("2h", Err(QuantityFault::UnknownUnit)),
            ("2M", Err(QuantityFault::UnknownUnit)),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<Millis>().map(|Millis(ms)| ms), expected, "{text}");
        }
    }

    #[test]
    fn defaults_lie_in_their_ranges() {
        use Limit::{Disk, DiskRate, MaxTimeout, Memory, OpenFiles, Output, Pids, Timeout, Tmp};
        for limit in [Memory, Pids, Disk, DiskRate, Tmp, OpenFiles, Output, Timeout, MaxTimeout] {
            let Range { min, max, default } = limit.range();
            assert!(min <= default && default <= max, "{limit:?}");
        }
    }

    proptest! {
        #[test]
        fn shown_sizes_read_back(bytes: u64) {
            prop_assert_eq!(Bytes(bytes).to_string().parse(), Ok(Bytes(bytes)));
        }

        #[test]
        fn shown_durations_read_back(ms: u64) {
            prop_assert_eq!(Millis(ms).to_string().parse(), Ok(Millis(ms)));
        }

        #[test]
        fn no_text_panics(text: String) {
            let _size = text.parse::<Bytes>();
            let _duration = text.parse::<Millis>();
        }
    }
}
