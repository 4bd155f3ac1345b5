//! What a process uses, read from `/proc`.

use serde::{Deserialize, Serialize};

/// Memory and processor time of one process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Resident memory.
    pub resident_bytes: u64,
    /// Most resident memory so far.
    pub peak_bytes: u64,
    /// Clock ticks of processor time, user and system.
    pub cpu_ticks: u64,
}

/// Reads the figures of `pid`; none when it has ended.
pub fn usage(pid: u32) -> Option<Usage> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    parse(&status, &stat)
}

fn parse(status: &str, stat: &str) -> Option<Usage> {
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim_start_matches(':').split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
    };
    // The command name may hold spaces and brackets; fields count from after its last bracket (proc(5)).
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|f| f.parse::<u64>().ok());
    Some(Usage { resident_bytes: bytes("VmRSS")?, peak_bytes: bytes("VmHWM")?, cpu_ticks: ticks(11)? + ticks(12)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_past_a_difficult_name() {
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        let stat = "7 (a b) c)) S 1 7 7 0 -1 4194304 100 0 0 0 30 12 0 0 20 0 1 0 5 0 0";
        let expected = Usage { resident_bytes: 1 << 20, peak_bytes: 2 << 20, cpu_ticks: 42 };
        assert_eq!(parse(status, stat), Some(expected));
    }

    #[test]
    fn this_process_uses_something() {
        assert!(usage(std::process::id()).unwrap().resident_bytes > 0);
        assert_eq!(usage(u32::MAX), None);
    }
}
