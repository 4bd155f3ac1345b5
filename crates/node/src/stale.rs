//! Groups that go on running after their node died: written down while they run, found, ended.
//!
//! Each record names its process by id and start time, because process ids come again. A process whose record is lost is
//! known by what it was started with, so that it can be ended before its group starts anew.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, getpgid};
use serde::{Deserialize, Serialize};
use tandem_process::Stat;
use tandem_types::{Fault, GroupId, Timestamp, reason};

use crate::adopt::{NOTIFY, Origin};
use crate::layout::Layout;
use crate::spec::Limits;

/// How often an ending process of somebody else is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// That a process said READY.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Readiness {
    /// When.
    pub(crate) at: Timestamp,
    /// Milliseconds after its start.
    pub(crate) ms: u64,
}

/// A group's process whose node has died. What another version of this program did not write down is left empty.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Orphan {
    /// The group.
    pub group: GroupId,
    /// Its process, leader of a process group.
    pub pid: u32,
    /// Its start in clock ticks since boot.
    pub started_ticks: u64,
    /// The run of the kernel it was started in: after a restart of the machine ids and ticks come again.
    #[serde(default)]
    pub(crate) boot: String,
    /// Its place in the start order.
    pub place: usize,
    /// When it was started.
    #[serde(default)]
    pub(crate) since: Timestamp,
    /// That it was ready.
    #[serde(default)]
    pub(crate) ready: Option<Readiness>,
    /// How often its group had been started again.
    #[serde(default)]
    pub(crate) restarts: u32,
    /// What it may use.
    #[serde(default)]
    pub(crate) limits: Option<Limits>,
    /// Hash of what it read when it started.
    #[serde(default)]
    pub(crate) reads: String,
    /// Whether it was told to end.
    #[serde(default)]
    pub(crate) ending: bool,
}

impl Orphan {
    /// Writes it down, all of it or nothing: a node may die at any moment.
    pub(crate) fn write(&self, path: &Path) -> Result<(), Fault> {
        let text =
            serde_json::to_vec(self).map_err(|e| Fault::internal(format!("cannot write down a process: {e}")))?;
        let new = path.with_extension("new");
        std::fs::write(&new, text)
            .and_then(|()| std::fs::rename(&new, path))
            .map_err(|e| Fault::unavailable(reason::DISK, format!("cannot write {}: {e}", path.display())))
    }

    /// Whether this very process still runs.
    pub fn runs(&self) -> bool {
        if !self.boot.is_empty() && self.boot != boot() {
            return false;
        }
        Stat::of(self.pid).is_some_and(|stat| !stat.has_ended() && stat.started_ticks() == self.started_ticks)
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

/// The kernel's name for its present run (random(4)); empty where it gives none.
pub(crate) fn boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
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

/// Groups of this directory that run although nothing is written down of them, or nothing that can be read.
fn strays(layout: &Layout, known: &[Orphan]) -> Vec<Orphan> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| known.iter().all(|orphan| orphan.pid != *pid)).filter_map(|pid| stray(layout, pid)).collect()
}

/// What the kernel knows of a process that a node of this directory has started as a group.
fn stray(layout: &Layout, pid: u32) -> Option<Orphan> {
    let origin = Origin::of(pid)?;
    let place = layout.notify_place(Path::new(origin.env.get(NOTIFY)?))?;
    let group = origin.args.iter().find_map(|word| word.to_str()?.parse().ok())?;
    let stat = Stat::of(pid).filter(|stat| !stat.has_ended())?;
    // What a group starts may have inherited the same.
    let id = Pid::from_raw(pid.try_into().ok()?);
    (getpgid(Some(id)) == Ok(id)).then(|| Orphan {
        group,
        pid,
        started_ticks: stat.started_ticks(),
        boot: boot(),
        place,
        since: Timestamp::default(),
        ready: None,
        restarts: 0,
        limits: None,
        reads: String::new(),
        ending: false,
    })
}

/// Groups that still run although nobody holds the data directory, last to start first. Only meaningful for who holds
/// its lock, or knows that nobody does.
pub fn orphans(layout: &Layout) -> Vec<Orphan> {
    let mut found: Vec<Orphan> =
        records(layout).into_iter().filter_map(|(_, orphan)| orphan).filter(Orphan::runs).collect();
    found.extend(strays(layout, &found));
    found.sort_by_key(|orphan| std::cmp::Reverse(orphan.place));
    found
}

/// Ends orphans one after the other in the order given, each within `grace`, and removes what was written down of
/// processes that do not run. Answers those that had to be killed.
pub async fn end_orphans(layout: &Layout, which: Vec<Orphan>, grace: Duration) -> Vec<Orphan> {
    let mut killed = Vec::new();
    for orphan in which {
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
    for (path, orphan) in records(layout) {
        if !orphan.is_some_and(|orphan| orphan.runs()) {
            // Were one left, it would name a process that does not run.
            let (Ok(()) | Err(_)) = std::fs::remove_file(path);
        }
    }
    killed
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt as _;
    use std::process::Stdio;

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
        let mut children = ["spared", "ended"]
            .map(|_| std::process::Command::new("/bin/sleep").arg("1000").process_group(0).spawn().unwrap());
        let record = |name: &str, pid: u32, ticks: u64, place: usize| {
            let text = serde_json::json!({ "group": id(name), "pid": pid, "started_ticks": ticks, "place": place });
            let orphan: Orphan = serde_json::from_value(text).unwrap();
            orphan.write(&layout.record(&orphan.group)).unwrap();
            orphan
        };
        let ticks = |pid| Stat::of(pid).unwrap().started_ticks();
        let [first, second] = [children[0].id(), children[1].id()];
        let spared = record("spared", first, ticks(first), 0);
        let ended = record("ended", second, ticks(second), 1);
        record("reused", first, 1, 2);
        let before =
            Orphan { boot: "an earlier run of the kernel".into(), ..record("earlier", first, ticks(first), 3) };
        before.write(&layout.record(&before.group)).unwrap();
        assert_eq!(orphans(&layout), [ended.clone(), spared.clone()]);
        assert_eq!(end_orphans(&layout, vec![ended.clone()], Duration::from_secs(10)).await, []);
        assert!(spared.runs() && !ended.runs());
        assert_eq!(records(&layout).len(), 1);
        assert_eq!(end_orphans(&layout, vec![spared], Duration::from_secs(10)).await, []);
        assert!(records(&layout).is_empty());
        for child in &mut children {
            child.wait().unwrap();
        }
    }

    #[tokio::test]
    async fn a_group_is_found_whose_record_is_spoilt_or_gone() {
        let folder = tempfile::tempdir().unwrap();
        let layout = layout(folder.path());
        let start = |notify: &Path, leads: bool| {
            let mut command = std::process::Command::new("/bin/sh");
            command.args(["-c", "read line", "solo/stray"]).env("NOTIFY_SOCKET", notify).stdin(Stdio::piped());
            if leads { command.process_group(0) } else { &mut command }.spawn().unwrap()
        };
        let mut stray = start(&layout.notify(3), true);
        let others = [
            start(&layout.notify(3), false),
            start(&folder.path().join("group-3.notify"), true),
            start(&layout.run().join("engine.notify"), true),
        ];
        std::fs::write(layout.record(&id("stray")), "spoilt").unwrap();
        let found = orphans(&layout);
        let told: Vec<_> = found.iter().map(|orphan| (&orphan.group, orphan.pid, orphan.place)).collect();
        assert_eq!(told, [(&id("stray"), stray.id(), 3)]);
        assert_eq!(end_orphans(&layout, found, Duration::from_secs(10)).await, []);
        assert!(orphans(&layout).is_empty() && records(&layout).is_empty());
        stray.wait().unwrap();
        for mut other in others {
            other.kill().unwrap();
            other.wait().unwrap();
        }
    }
}
