//! Counters of a leaf, read through descriptors that stay open.
//!
//! Input: files of a leaf; output: numbers. A reading is one pread(2) each, because it is made once
//! per run on the way to the answer. What a number means for one run is decided in `leaf`.

use super::CgroupError;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A counter file with its name for errors.
#[derive(Debug)]
pub(super) struct Counter {
    path: PathBuf,
    file: File,
    writable: bool,
}

impl Counter {
    pub(super) fn open(path: &Path) -> Result<Self, CgroupError> {
        match File::open(path) {
            Ok(file) => Ok(Self { path: path.to_owned(), file, writable: false }),
            Err(source) => Err(CgroupError::Open { path: path.to_owned(), source }),
        }
    }

    /// `None` where this kernel has no such file.
    pub(super) fn open_if_present(path: &Path) -> Result<Option<Self>, CgroupError> {
        match Self::open(path) {
            Ok(counter) => Ok(Some(counter)),
            Err(CgroupError::Open { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writable where the kernel lets the file be written, which is how it says that it can be reset.
    fn open_resettable(path: &Path) -> Result<Option<Self>, CgroupError> {
        match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => Ok(Some(Self { path: path.to_owned(), file, writable: true })),
            Err(_) => Self::open_if_present(path),
        }
    }

    fn text<'buffer>(&self, buffer: &'buffer mut [u8; 1024]) -> Result<&'buffer str, CgroupError> {
        let length = self.file.read_at(buffer, 0).map_err(|source| self.unreadable(source))?;
        std::str::from_utf8(&buffer[..length]).map_err(|error| self.unreadable(io::Error::other(error)))
    }

    /// The file is one number.
    pub(super) fn number(&self) -> Result<u64, CgroupError> {
        let mut buffer = [0; 1024];
        let text = self.text(&mut buffer)?.trim_end();
        text.parse().map_err(|error| self.unreadable(io::Error::other(error)))
    }

    /// The file is lines of a key and a number.
    pub(super) fn keys<const N: usize>(&self, keys: [&str; N]) -> Result<[Option<u64>; N], CgroupError> {
        let mut buffer = [0; 1024];
        let text = self.text(&mut buffer)?;
        Ok(keys.map(|key| keyed(text, key)))
    }

    /// The peak from here on; only for counters opened as resettable.
    fn reset(&self) -> Result<(), CgroupError> {
        self.file.write_at(b"0", 0).map(drop).map_err(|source| CgroupError::Write {
            path: self.path.clone(),
            value: "0".to_owned(),
            source,
        })
    }

    fn unreadable(&self, source: io::Error) -> CgroupError {
        CgroupError::Read { path: self.path.clone(), source }
    }
}

/// The number after `key` in a flat keyed file such as `memory.events`.
pub(super) fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.split_once(' ').filter(|(name, _)| *name == key)?.1.trim().parse().ok())
}

/// Processor time, ever growing.
#[derive(Debug)]
pub(super) struct CpuMeter {
    counter: Counter,
    key: Option<&'static str>,
}

impl CpuMeter {
    pub(super) fn nanoseconds(path: &Path) -> Result<Self, CgroupError> {
        Ok(Self { counter: Counter::open(path)?, key: None })
    }

    /// A flat keyed file with a number of microseconds.
    pub(super) fn keyed(path: &Path, key: &'static str) -> Result<Self, CgroupError> {
        Ok(Self { counter: Counter::open(path)?, key: Some(key) })
    }

    pub(super) fn microseconds(&self) -> Result<u64, CgroupError> {
        match self.key {
            None => Ok(self.counter.number()? / 1000),
            Some(key) => Ok(self.counter.keys([key])?[0].unwrap_or_default()),
        }
    }
}

/// What happened to memory so far, ever growing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct MemoryCounts {
    pub(super) oom_kills: u64,
    pub(super) limit_hits: u64,
}

#[derive(Debug)]
pub(super) enum MemoryEvents {
    V1 { oom_control: Counter, failures: Counter },
    V2 { events: Counter },
}

impl MemoryEvents {
    pub(super) fn v1(oom_control: &Path, failures: &Path) -> Result<Self, CgroupError> {
        Ok(Self::V1 { oom_control: Counter::open(oom_control)?, failures: Counter::open(failures)? })
    }

    pub(super) fn v2(events: &Path) -> Result<Self, CgroupError> {
        Ok(Self::V2 { events: Counter::open(events)? })
    }

    fn read(&self) -> Result<MemoryCounts, CgroupError> {
        let (oom_kills, limit_hits) = match self {
            Self::V1 { oom_control, failures } => (oom_control.keys(["oom_kill"])?[0], Some(failures.number()?)),
            Self::V2 { events } => events.keys(["oom_kill", "max"])?.into(),
        };
        Ok(MemoryCounts { oom_kills: oom_kills.unwrap_or_default(), limit_hits: limit_hits.unwrap_or_default() })
    }
}

/// Memory charged to a leaf.
#[derive(Debug)]
pub(super) struct MemoryMeter {
    held: Counter,
    peak: Option<Counter>,
    events: MemoryEvents,
}

impl MemoryMeter {
    pub(super) fn open(held: &Path, peak: &Path, events: MemoryEvents) -> Result<Self, CgroupError> {
        Ok(Self { held: Counter::open(held)?, peak: Counter::open_resettable(peak)?, events })
    }

    /// Bytes charged now.
    pub(super) fn held(&self) -> Result<u64, CgroupError> {
        self.held.number()
    }

    pub(super) fn counts(&self) -> Result<MemoryCounts, CgroupError> {
        self.events.read()
    }

    /// Starts the peak anew where the kernel can (v1; v2 since 6.12, for this descriptor alone), and
    /// otherwise answers the peak so far: a higher one later is then known to be new.
    pub(super) fn begin_peak(&mut self) -> Result<PeakSince, CgroupError> {
        let Some(peak) = &mut self.peak else { return Ok(PeakSince::Unknown) };
        if peak.writable && peak.reset().is_err() {
            peak.writable = false;
        }
        if peak.writable { Ok(PeakSince::Reset) } else { Ok(PeakSince::Above(peak.number()?)) }
    }

    /// The peak since then, if it can be told.
    pub(super) fn peak(&self, since: PeakSince) -> Result<Option<u64>, CgroupError> {
        let Some(peak) = &self.peak else { return Ok(None) };
        let now = peak.number()?;
        Ok(match since {
            PeakSince::Reset => Some(now),
            PeakSince::Above(before) => (now > before).then_some(now),
            PeakSince::Unknown => None,
        })
    }
}

/// From where on a peak counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PeakSince {
    /// It was reset.
    Reset,
    /// It could not be reset: this was the highest ever before.
    Above(u64),
    /// The kernel keeps none.
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_whole_words() {
        let text = "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n";
        assert_eq!(keyed(text, "oom_kill"), Some(2));
        assert_eq!(keyed(text, "max"), Some(12));
        assert_eq!(keyed(text, "oom_"), None);
        assert_eq!(keyed("oom_kill_disable 0\nunder_oom 0\noom_kill 7\n", "oom_kill"), Some(7));
        assert_eq!(keyed("oom_kill x\n", "oom_kill"), None);
    }

    #[test]
    fn counters_read_the_present_value_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cpuacct.usage");
        std::fs::write(&path, "1500\n").unwrap();
        let meter = CpuMeter::nanoseconds(&path).unwrap();
        assert_eq!(meter.microseconds().unwrap(), 1);
        std::fs::write(&path, "7000\n").unwrap();
        assert_eq!(meter.microseconds().unwrap(), 7);
    }

    #[test]
    fn a_peak_that_cannot_be_reset_is_told_only_when_it_rose() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let events = MemoryEvents::v2(&file("memory.events", "max 0\noom_kill 0\n")).unwrap();
        let mut meter =
            MemoryMeter::open(&file("memory.current", "5\n"), &file("memory.peak", "90\n"), events).unwrap();
        meter.peak.as_mut().unwrap().writable = false;
        let since = meter.begin_peak().unwrap();
        assert_eq!(since, PeakSince::Above(90));
        assert_eq!(meter.peak(since).unwrap(), None);
        file("memory.peak", "120\n");
        assert_eq!(meter.peak(since).unwrap(), Some(120));
    }
}
