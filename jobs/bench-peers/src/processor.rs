//! Processor time, from `/proc`.

use std::{fs, thread};

/// The unit of `/proc`, whatever the kernel's own is.
const PER_SECOND: f64 = 100.0;

/// Seconds since some time in the past.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) server: f64,
    pub(crate) workers: f64,
    /// Of all processors together.
    pub(crate) idle: f64,
    /// The same, of everything.
    pub(crate) all: f64,
}

impl Times {
    pub(crate) fn read(server: Option<u32>, workers: &[u32]) -> Self {
        let stat = fs::read_to_string("/proc/stat").unwrap();
        let fields: Vec<f64> = stat.lines().next().unwrap().split_whitespace().skip(1).map(seconds).collect();
        // User, nice, system, idle, waiting for the disk, two of interrupts, stolen; guests are in the first two.
        Self {
            server: server.map_or(0.0, with_children),
            workers: workers.iter().filter_map(|pid| Some(process(*pid)?.1)).sum(),
            idle: fields[3] + fields[4],
            all: fields[..8].iter().sum(),
        }
    }

    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            server: self.server - before.server,
            workers: self.workers - before.workers,
            idle: self.idle - before.idle,
            all: self.all - before.all,
        }
    }

    /// What share of the processors something had, in percent.
    pub(crate) fn percent(self, seconds: f64) -> f64 {
        100.0 * seconds / self.all
    }

    pub(crate) fn others(self) -> f64 {
        (self.all - self.idle - self.server - self.workers).max(0.0)
    }
}

pub(crate) fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

fn seconds(field: &str) -> f64 {
    field.parse::<f64>().unwrap() / PER_SECOND
}

/// The parent of a process, and the processor time that it has used; `None` if it has ended.
fn process(pid: u32) -> Option<(u32, f64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before may have spaces.
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
    Some((fields[1].parse().ok()?, seconds(fields[11]) + seconds(fields[12])))
}

/// The processor time of a process and its children.
fn with_children(pid: u32) -> f64 {
    let all = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let family = all.filter_map(|other| process(other).filter(|(parent, _)| other == pid || *parent == pid));
    family.map(|(_, used)| used).sum()
}
