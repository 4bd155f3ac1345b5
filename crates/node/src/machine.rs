//! What the machine and the processes of its groups use: what the kernel says, and nothing else.
//!
//! The files are those of proc(5). Shares of the processor are ticks against ticks, so that neither their length nor a clock matters.

use std::collections::BTreeMap;
use std::fs;

use serde::{Deserialize, Serialize};
use tandem_process::usage;
use tandem_types::{GroupName, Timestamp};

/// What a machine and its groups use; a figure that the kernel does not give is absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MachineUse {
    /// When it was measured, by that machine's clock.
    pub sampled: Timestamp,
    /// Processors.
    pub cpus: u32,
    /// Busy share of all processors since the measurement before, 0 to 1.
    pub cpu_ratio: Option<f64>,
    /// Memory in all.
    pub memory_total_bytes: Option<u64>,
    /// Memory in use: all less what is available.
    pub memory_used_bytes: Option<u64>,
    /// Its groups that run.
    pub groups: Vec<GroupUse>,
}

/// What the process of a group uses; its engines are processes of their own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupUse {
    /// Which group.
    pub group: GroupName,
    /// Resident memory.
    pub resident_bytes: u64,
    /// Processors it kept busy since the measurement before: 1 is one of them all the time.
    pub cpu_ratio: Option<f64>,
}

/// Times of all processors together, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ticks {
    idle: u64,
    all: u64,
    cpus: u32,
}

/// Measures this machine, again and again.
#[derive(Debug, Default)]
pub(crate) struct Sampler {
    last: Option<Ticks>,
    /// Ticks of each process when it was last looked at.
    processes: BTreeMap<u32, u64>,
}

impl Sampler {
    /// Measures now; `groups` are those that run, with their processes.
    pub(crate) fn measure(&mut self, groups: &[(GroupName, u32)], now: Timestamp) -> MachineUse {
        let read = |name: &str| fs::read_to_string(format!("/proc/{name}")).unwrap_or_default();
        let ticks = ticks(&read("stat"));
        let (total, used) = memory(&read("meminfo"));
        let passed =
            self.last.zip(ticks).and_then(|(before, now)| Some((before, now, now.all.checked_sub(before.all)?)));
        let passed = passed.filter(|(_, _, all)| *all > 0);
        let mut processes = BTreeMap::new();
        let mut of_group = |(group, pid): &(GroupName, u32)| {
            let usage = usage(*pid)?;
            processes.insert(*pid, usage.cpu_ticks);
            let worked = self.processes.get(pid).and_then(|before| usage.cpu_ticks.checked_sub(*before));
            let cpu_ratio = passed.zip(worked).map(|((_, now, all), worked)| share(worked, all) * f64::from(now.cpus));
            Some(GroupUse { group: group.clone(), resident_bytes: usage.resident_bytes, cpu_ratio })
        };
        let groups = groups.iter().filter_map(&mut of_group).collect();
        self.processes = processes;
        self.last = ticks;
        MachineUse {
            sampled: now,
            cpus: ticks.map_or(0, |ticks| ticks.cpus),
            cpu_ratio: passed.map(|(before, now, all)| busy(before, now, all)),
            memory_total_bytes: total,
            memory_used_bytes: used,
            groups,
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "ticks between two measurements stay far below 2^52")]
fn share(part: u64, all: u64) -> f64 {
    part as f64 / all as f64
}

fn busy(before: Ticks, now: Ticks, all: u64) -> f64 {
    // Waiting for input may go back by a tick when a processor sleeps.
    let idle = now.idle.saturating_sub(before.idle).min(all);
    share(all - idle, all)
}

/// The first line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal; guest time is part of user. Each processor
/// has a line below it.
fn ticks(stat: &str) -> Option<Ticks> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let fields: Vec<u64> = line.split_whitespace().take(8).map_while(|field| field.parse().ok()).collect();
    let idle = fields.get(3)? + fields.get(4).copied().unwrap_or(0);
    let cpus = stat.lines().filter(|line| line.starts_with("cpu") && !line.starts_with("cpu ")).count();
    Some(Ticks { idle, all: fields.iter().sum(), cpus: u32::try_from(cpus).unwrap_or(u32::MAX) })
}

/// Memory in all, and of it in use, out of `/proc/meminfo`.
fn memory(meminfo: &str) -> (Option<u64>, Option<u64>) {
    let bytes = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
    };
    let total = bytes("MemTotal");
    (total, total.zip(bytes("MemAvailable")).map(|(total, available)| total.saturating_sub(available)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str =
        "cpu  100 5 50 800 40 1 3 1 7 0\ncpu0 50 5 25 400 20 1 3 1 7 0\ncpu1 50 0 25 400 20 0 0 0 0 0\nintr 1 2\n";

    #[test]
    fn processor_time_is_what_was_not_idle() {
        let before = ticks(STAT).unwrap();
        assert_eq!(before, Ticks { idle: 840, all: 1000, cpus: 2 });
        for (idle, all, expected) in [(990, 1200, 0.25), (839, 1010, 1.0), (900, 1010, 0.0)] {
            assert_eq!(busy(before, Ticks { idle, all, cpus: 2 }, all - 1000), expected, "{idle} of {all}");
        }
        for broken in ["", "cpu0 1 2 3 4", "cpu  a b c d", "cpu  1 2"] {
            assert_eq!(ticks(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn memory_in_use_is_what_is_not_available() {
        let text = "MemTotal:       4096 kB\nMemFree:   1 kB\nMemAvailable:    1024 kB\n";
        assert_eq!(memory(text), (Some(4 << 20), Some(3 << 20)));
        assert_eq!(memory("MemTotal: 4 kB\n"), (Some(4096), None));
    }

    #[test]
    fn a_first_look_says_nothing_about_a_time_and_a_process_that_has_ended_is_left_out() {
        let mut sampler = Sampler::default();
        let groups = [("here".parse().unwrap(), std::process::id()), ("gone".parse().unwrap(), u32::MAX)];
        let first = sampler.measure(&groups, Timestamp(1));
        assert_eq!((first.cpu_ratio, first.groups.len()), (None, 1));
        assert!(first.groups[0].resident_bytes > 0 && first.groups[0].cpu_ratio.is_none(), "{first:?}");
        assert!(first.cpus > 0 && first.memory_used_bytes < first.memory_total_bytes, "{first:?}");
        // Until the kernel has counted a tick.
        let next = loop {
            let next = sampler.measure(&groups, Timestamp(2));
            if next.cpu_ratio.is_some() {
                break next;
            }
        };
        assert!((0.0..=1.0).contains(&next.cpu_ratio.unwrap()), "{next:?}");
        assert!(next.groups[0].cpu_ratio.is_some(), "{next:?}");
    }
}
