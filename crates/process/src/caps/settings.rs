//! What is written into which file for a cap. No IO.

use std::fmt;

use super::{Caps, Controller};

/// Length of the period in which a ceiling of processor time counts, microseconds.
const PERIOD_US: u64 = 100_000;
/// Memory is counted in pages.
const PAGE: u64 = 4_096;

/// Version of the kernel's interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    /// One tree for each controller.
    One,
    /// One tree for all.
    Two,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::One => "cgroup v1",
            Self::Two => "cgroup v2",
        })
    }
}

/// A value for a file of a control group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) file: &'static str,
    pub(super) value: String,
    /// Kernels without it do the same without being told, or have no swap.
    pub(super) optional: bool,
}

impl Setting {
    fn new(file: &'static str, value: impl ToString) -> Self {
        Self { file, value: value.to_string(), optional: false }
    }

    fn optional(file: &'static str, value: impl ToString) -> Self {
        Self { optional: true, ..Self::new(file, value) }
    }

    /// Whether the file, read again, says what was written; amounts of memory are cut to whole pages.
    pub(super) fn is_met(&self, now: &str) -> bool {
        match (self.value.parse::<u64>(), now.parse::<u64>()) {
            (Ok(wanted), Ok(now)) => now <= wanted && wanted - now < PAGE,
            _ => self.value == now,
        }
    }
}

impl Version {
    /// The settings of a controller for these caps, in the order in which they are written.
    pub(super) fn settings(self, part: Controller, caps: &Caps) -> Vec<Setting> {
        let quota = caps.cpus.map(|cpus| ((cpus * PERIOD_US as f64) as u64).max(1_000));
        match (self, part) {
            (Self::One, Controller::Memory) => caps.memory_bytes.map_or_else(Vec::new, |bytes| {
                vec![
                    Setting::new("memory.limit_in_bytes", bytes),
                    // With swap counted there is none beyond the limit; where it is not counted it is avoided.
                    Setting::optional("memory.memsw.limit_in_bytes", bytes),
                    Setting::optional("memory.swappiness", 0),
                ]
            }),
            (Self::Two, Controller::Memory) => caps.memory_bytes.map_or_else(Vec::new, |bytes| {
                vec![
                    // Just below the limit the kernel takes back what it can before it ends a process.
                    Setting::new("memory.high", bytes - bytes / 32),
                    Setting::new("memory.max", bytes),
                    Setting::optional("memory.swap.max", 0),
                ]
            }),
            (Self::One, Controller::Cpu) => {
                let mut settings = vec![Setting::new("cpu.shares", (u64::from(caps.cpu_weight) * 1_024 / 100).max(2))];
                if let Some(quota) = quota {
                    settings.push(Setting::new("cpu.cfs_period_us", PERIOD_US));
                    settings.push(Setting::new("cpu.cfs_quota_us", quota));
                }
                settings
            }
            (Self::Two, Controller::Cpu) => {
                let mut settings = vec![Setting::new("cpu.weight", caps.cpu_weight.clamp(1, 10_000))];
                settings.extend(quota.map(|quota| Setting::new("cpu.max", format!("{quota} {PERIOD_US}"))));
                settings
            }
            (_, Controller::Pids) => vec![Setting::new("pids.max", caps.tasks)],
        }
    }

    /// The file that says how much memory there was at most.
    pub(super) fn peak(self) -> &'static str {
        match self {
            Self::One => "memory.max_usage_in_bytes",
            Self::Two => "memory.peak",
        }
    }

    /// The file that counts what was ended for memory.
    pub(super) fn events(self) -> &'static str {
        match self {
            Self::One => "memory.oom_control",
            Self::Two => "memory.events",
        }
    }
}
