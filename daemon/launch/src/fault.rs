//! Layers that are left out, to see whether anybody notices. Only a launcher that is built for that has this:
//! the package `sandbox-launch-faulty`, which nothing ships. Everywhere else [`omits`] is a constant.

#[cfg(feature = "fault")]
pub(crate) use faulty::omits;

/// Nothing is ever left out.
#[cfg(not(feature = "fault"))]
pub(crate) const fn omits(_: &str) -> bool {
    false
}

#[cfg(feature = "fault")]
mod faulty {
    use std::sync::OnceLock;

    /// After the program's last byte: `omit=NAME`.
    const MARK: &[u8] = b"omit=";

    /// Asked first while the host's `/proc` is still there.
    pub(crate) fn omits(name: &str) -> bool {
        static OMITTED: OnceLock<String> = OnceLock::new();
        OMITTED.get_or_init(read) == name
    }

    fn read() -> String {
        let program = std::fs::read("/proc/self/exe").unwrap_or_default();
        let end = &program[program.len().saturating_sub(64)..];
        let at = end.windows(MARK.len()).rposition(|window| window == MARK);
        at.map_or_else(String::new, |at| String::from_utf8_lossy(&end[at + MARK.len()..]).into_owned())
    }
}
