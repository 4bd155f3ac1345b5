//! Which group uses how much memory: its own process and everything that descends from it, engines above all.
//!
//! The files are those of proc(5). What counts is memory that is nobody else's (anonymous and shared memory); pages of
//! files, such as a model that is mapped, are the kernel's to take back and count as free in what a machine has.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use tandem_types::{GroupId, NodeName};

use crate::machine::PROC;

/// A process.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Process {
    parent: u32,
    /// The group that it is the process of.
    group: Option<GroupId>,
    bytes: u64,
}

/// The processes of a machine, as they were at one look.
#[derive(Debug, Default)]
pub(crate) struct Processes(HashMap<u32, Process>);

impl Processes {
    /// Those of this machine, which is `node`, by [`Processes::look`].
    pub(crate) fn here(node: &NodeName) -> Self {
        Self::look(Path::new(PROC), node, &own_program())
    }

    /// Looks at those of this machine, where groups of `node` are processes of `program` (its file's name). Blocks for as
    /// long as it takes to look at every process.
    pub(crate) fn look(proc: &Path, node: &NodeName, program: &[u8]) -> Self {
        let Ok(entries) = fs::read_dir(proc) else { return Self::default() };
        let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let read = |pid: u32| {
            let text = |name: &str| fs::read(proc.join(pid.to_string()).join(name)).ok();
            let (parent, bytes) = status(&String::from_utf8_lossy(&text("status")?))?;
            let group = text("cmdline").and_then(|line| serves(&line, program)).filter(|group| group.node == *node);
            Some((pid, Process { parent, group, bytes }))
        };
        Self(pids.filter_map(read).collect())
    }

    /// Bytes of memory that each group uses.
    pub(crate) fn uses(&self) -> BTreeMap<GroupId, u64> {
        self.by_group(self.0.iter().map(|(pid, process)| (*pid, process.bytes)))
    }

    /// Amounts of processes as those of their groups; what belongs to none is left out.
    pub(crate) fn by_group(&self, amounts: impl IntoIterator<Item = (u32, u64)>) -> BTreeMap<GroupId, u64> {
        let mut uses = BTreeMap::new();
        for (pid, bytes) in amounts {
            if let Some(group) = self.owner(pid) {
                *uses.entry(group.clone()).or_insert(0) += bytes;
            }
        }
        uses
    }

    /// The group of the nearest ancestor that is one's process. A chain of parents has an end, unless it was read while
    /// processes came and went.
    fn owner(&self, pid: u32) -> Option<&GroupId> {
        let mut process = self.0.get(&pid)?;
        for _ in 0..self.0.len() {
            if process.group.is_some() {
                return process.group.as_ref();
            }
            process = self.0.get(&process.parent)?;
        }
        None
    }
}

/// Parent and bytes out of `/proc/PID/status`.
fn status(text: &str) -> Option<(u32, u64)> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let kib = |name: &str| field(name).and_then(|value| value.strip_suffix(" kB")?.trim().parse::<u64>().ok());
    // The kernel's own threads have no memory of their own.
    let bytes = (kib("RssAnon").unwrap_or(0) + kib("RssShmem").unwrap_or(0)) * 1024;
    Some((field("PPid")?.parse().ok()?, bytes))
}

/// The group that a command line serves: `PROGRAM serve NODE/GROUP ..`.
fn serves(line: &[u8], program: &[u8]) -> Option<GroupId> {
    let mut words = line.split(|byte| *byte == 0);
    if file_name(words.next()?) != program || words.next()? != b"serve" {
        return None;
    }
    std::str::from_utf8(words.next()?).ok()?.parse().ok()
}

fn file_name(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

/// The name of this program's file, by which it was started.
fn own_program() -> Vec<u8> {
    std::env::args_os().next().map(|name| file_name(name.as_encoded_bytes()).to_vec()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(proc: &Path, pid: u32, parent: u32, kib: u64, line: &str) {
        let folder = proc.join(pid.to_string());
        fs::create_dir(&folder).unwrap();
        let status = format!("Name:\tx\nPPid:\t{parent}\nVmRSS:\t 999999 kB\nRssAnon:\t {kib} kB\nRssShmem:\t 1 kB\n");
        fs::write(folder.join("status"), status).unwrap();
        fs::write(folder.join("cmdline"), line.replace(' ', "\0")).unwrap();
    }

    #[test]
    fn a_group_is_its_process_and_all_below_it() {
        let proc = tempfile::tempdir().unwrap();
        for (pid, parent, kib, line) in [
            (1, 0, 5, "init"),
            (10, 1, 7, "tandem up"),
            (11, 10, 100, "tandem serve pc2/async_pipeline --fleet f"),
            (12, 11, 1_000, "tandem-llama --model m"),
            (13, 12, 10_000, "sh"),
            (14, 10, 200, "/usr/bin/tandem serve pc2/infra_core"),
            (15, 10, 400, "tandem serve mainpc/infra_core"),
            (16, 1, 800, "grep serve pc2/infra_core"),
            (17, 1, 800, "tandem serve"),
        ] {
            write(proc.path(), pid, parent, kib, line);
        }
        fs::create_dir(proc.path().join("18")).unwrap();
        fs::write(proc.path().join("version"), "Linux").unwrap();
        let look = |proc: &Path| Processes::look(proc, &"pc2".parse().unwrap(), b"tandem");
        let processes = look(proc.path());
        let found: Vec<(String, u64)> =
            processes.uses().into_iter().map(|(group, bytes)| (group.to_string(), bytes / 1024)).collect();
        assert_eq!(found, [("pc2/async_pipeline".to_owned(), 11_103), ("pc2/infra_core".to_owned(), 201)]);
        let of_cards = processes.by_group([(12, 1), (13, 2), (15, 4), (16, 8), (99, 16)]);
        assert_eq!(of_cards, [("pc2/async_pipeline".parse().unwrap(), 3)].into());
        assert_eq!(look(&proc.path().join("gone")).uses(), BTreeMap::new());
    }

    #[test]
    fn parents_in_a_circle_end() {
        let process = |parent| Process { parent, group: None, bytes: 1 };
        assert_eq!(Processes([(1, process(2)), (2, process(1))].into()).uses(), BTreeMap::new());
    }

    #[test]
    fn this_process_has_memory_and_a_parent() {
        let text = fs::read_to_string("/proc/self/status").unwrap();
        let (parent, bytes) = status(&text).unwrap();
        assert!(parent > 0 && bytes > 0, "{parent} {bytes}");
    }
}
