//! What the kernel says of a process and its threads, read from `/proc`.

use std::collections::BTreeMap;
use std::fs;

/// Threads that are told of one by one; a process with more is told of by its first ones.
const THREADS_MOST: usize = 256;

/// A line of `/proc/PID/stat` (proc_pid_stat(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    state: char,
    started_ticks: u64,
}

impl Stat {
    /// Of `pid`; none when there is no such process.
    pub fn of(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    fn parse(line: &str) -> Option<Self> {
        // The command name may hold spaces and brackets; fields count from after its last bracket.
        let fields: Vec<&str> = line.rsplit_once(')')?.1.split_whitespace().collect();
        Some(Self { state: fields.first()?.chars().next()?, started_ticks: fields.get(19)?.parse().ok()? })
    }

    /// When it started, in clock ticks since boot: with its id this names one process for as long as the machine runs.
    pub fn started_ticks(self) -> u64 {
        self.started_ticks
    }

    /// Whether it only waits for somebody to take note of its end.
    pub fn has_ended(self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }

    /// Whether it stands still because a signal or a debugger stopped it.
    pub fn is_stopped(self) -> bool {
        matches!(self.state, 'T' | 't')
    }
}

/// What each thread of a process does now, equal ones together: `3 x tokio-rt-worker: S (sleeping) in futex_wait`.
pub fn threads(pid: u32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for task in tasks.take(THREADS_MOST) {
        let read = |name: &str| fs::read_to_string(task.path().join(name)).unwrap_or_default();
        // A thread that ended meanwhile has nothing to say.
        if let Some(words) = thread(&read("comm"), &read("status"), &read("wchan")) {
            *kinds.entry(words).or_default() += 1;
        }
    }
    let line = |(words, count): (String, usize)| if count == 1 { words } else { format!("{count} x {words}") };
    kinds.into_iter().map(line).collect()
}

fn thread(name: &str, status: &str, waits: &str) -> Option<String> {
    let state = status.lines().find_map(|line| line.strip_prefix("State:"))?.trim();
    // The kernel says 0 of a thread that waits nowhere, and of all to whom it tells nothing.
    let place = match waits.trim() {
        "" | "0" => String::new(),
        place => format!(" in {place}"),
    };
    Some(format!("{}: {state}{place}", name.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_past_a_difficult_name() {
        let line = "7 (a b) c)) T 1 7 7 0 -1 4194304 100 0 0 0 30 12 0 0 20 0 1 0 99 0 0";
        let stat = Stat::parse(line).unwrap();
        assert_eq!(stat.started_ticks(), 99);
        assert!(stat.is_stopped() && !stat.has_ended());
        assert_eq!(Stat::parse("7 (a"), None);
        assert!(Stat::of(std::process::id()).is_some_and(|stat| !stat.is_stopped() && !stat.has_ended()));
        assert_eq!(Stat::of(u32::MAX), None);
    }

    #[test]
    fn a_thread_is_told_in_one_line() {
        let words = thread("worker\n", "Name:\tworker\nState:\tS (sleeping)\nTgid:\t1\n", "futex_wait_queue");
        assert_eq!(words.as_deref(), Some("worker: S (sleeping) in futex_wait_queue"));
        assert_eq!(thread("w", "State:\tR (running)\n", "0").as_deref(), Some("w: R (running)"));
        assert_eq!(thread("w", "", ""), None);
        assert!(threads(std::process::id()).iter().any(|line| line.contains("(running)")));
        assert!(threads(u32::MAX).is_empty());
    }
}
