//! Names that nobody can guess, and the time.

use rand::RngExt;
use time::OffsetDateTime;

/// 24 hexadecimal digits.
pub(crate) fn random() -> String {
    hex::encode(rand::rng().random::<[u8; 12]>())
}

/// A key or token: 256 random bits.
pub(crate) fn secret(prefix: &str) -> String {
    format!("{prefix}{}", hex::encode(rand::rng().random::<[u8; 32]>()))
}

pub(crate) fn new(prefix: &str) -> String {
    format!("{prefix}_{}", random())
}

/// ISO 8601 with milliseconds and `Z`.
pub(crate) fn iso(time: OffsetDateTime) -> String {
    let (date, clock) = (time.date(), time.time());
    let (hour, minute, second, millisecond) = clock.as_hms_milli();
    format!("{date}T{hour:02}:{minute:02}:{second:02}.{millisecond:03}Z")
}

pub(crate) fn now() -> String {
    iso(OffsetDateTime::now_utc())
}
