//! Groups that go on running after their node died: found, and ended before the next node starts.
//!
//! Each group's process is written down while it runs, with its start time, because process ids come again.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use tandem_types::{Fault, GroupId, reason};

use crate::layout::Layout;

/// How often an ending process of somebody else is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// A group's process whose node has died.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orphan {
    /// The group.
    pub group: GroupId,
    /// Its process, leader of a process group.
    pub pid: u32,
    /// Its start in clock ticks since boot.
    pub started_ticks: u64,
    /// Its place in the start order.
    pub place: usize,
}

impl Orphan {
    /// What to write down of a process that has just been started; none when it has ended already.
    pub(crate) fn of(group: &GroupId, pid: u32, place: usize) -> Option<Self> {
        Some(Self { group: group.clone(), pid, started_ticks: started_ticks(pid)?, place })
    }

    pub(crate) fn write(&self, path: &Path) -> Result<(), Fault> {
        let text =
            serde_json::to_vec(self).map_err(|e| Fault::internal(format!("cannot write down a process: {e}")))?;
        std::fs::write(path, text)
            .map_err(|e| Fault::unavailable(reason::DISK, format!("cannot write {}: {e}", path.display())))
    }

    /// Whether this very process still runs.
    pub fn runs(&self) -> bool {
        started_ticks(self.pid) == Some(self.started_ticks)
    }

    fn signal(&self, signal: Signal) {
        if let Ok(pid) = i32::try_from(self.pid)
            && self.runs()
        {
            // It may end between the look and the signal, which is what the signal is for.
            let (Ok(()) | Err(_)) = killpg(Pid::from_raw(pid), signal);
        }
    }
}

/// When a process started, in clock ticks since boot; none when it has ended (proc(5), field 22).
fn started_ticks(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    // A zombie only waits for somebody to take note of its end.
    let ended = fields.first().is_some_and(|state| matches!(*state, "Z" | "X"));
    if ended { None } else { fields.get(19)?.parse().ok() }
}

fn records(layout: &Layout) -> Vec<(PathBuf, Option<Orphan>)> {
    let entries = std::fs::read_dir(layout.run()).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "process"))
        .map(|path| {
            let read = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok());
            (path, read)
        })
        .collect()
}

/// Groups that still run although nobody holds the data directory, last to start first. Only meaningful for who holds
/// its lock, or knows that nobody does.
pub fn orphans(layout: &Layout) -> Vec<Orphan> {
    let mut found: Vec<Orphan> =
        records(layout).into_iter().filter_map(|(_, orphan)| orphan).filter(Orphan::runs).collect();
    found.sort_by_key(|orphan| std::cmp::Reverse(orphan.place));
    found
}

/// Ends orphans one after the other, last to start first, each within `grace`, and removes what was written down of
/// them. Answers those that had to be killed.
pub async fn end_orphans(layout: &Layout, grace: Duration) -> Vec<Orphan> {
    let mut killed = Vec::new();
    for orphan in orphans(layout) {
        orphan.signal(Signal::SIGTERM);
        let end = Instant::now() + grace;
        while orphan.runs() && Instant::now() < end {
            tokio::time::sleep(LOOK).await;
        }
        if orphan.runs() {
            orphan.signal(Signal::SIGKILL);
            while orphan.runs() {
                tokio::time::sleep(LOOK).await;
            }
            killed.push(orphan);
        }
    }
    for (path, _) in records(layout) {
        // Were one left, it would name a process that does not run.
        let (Ok(()) | Err(_)) = std::fs::remove_file(path);
    }
    killed
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt as _;

    fn layout(folder: &Path) -> Layout {
        let layout = Layout::new(folder.join("d"), Some(folder)).unwrap();
        layout.make().unwrap();
        layout
    }

    fn id(name: &str) -> GroupId {
        format!("solo/{name}").parse().unwrap()
    }

    #[tokio::test]
    async fn a_running_orphan_is_found_and_ended_and_an_ended_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let layout = layout(folder.path());
        let mut child = std::process::Command::new("/bin/sleep").arg("1000").process_group(0).spawn().unwrap();
        let alive = Orphan::of(&id("alive"), child.id(), 0).unwrap();
        alive.write(&layout.record(&alive.group)).unwrap();
        let reused = Orphan { group: id("reused"), started_ticks: 1, ..alive.clone() };
        reused.write(&layout.record(&reused.group)).unwrap();
        assert_eq!(orphans(&layout), std::slice::from_ref(&alive));
        assert_eq!(end_orphans(&layout, Duration::from_secs(10)).await, []);
        assert!(!alive.runs());
        assert!(records(&layout).is_empty());
        child.wait().unwrap();
    }
}
