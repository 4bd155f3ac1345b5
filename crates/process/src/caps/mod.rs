//! What a process and everything it starts may use, held to it by the kernel's control groups.
//!
//! Both versions of the kernel's interface are spoken (Linux, "Control Group v2" and "Control Groups version 1"). Each
//! setting is read back after it was written, and what was not taken is said with the reason: a limit that nothing was
//! seen to keep is none.

mod kernel;
mod settings;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub use kernel::ControlGroups;
use settings::Version;

/// What a process and its children may use together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Caps {
    /// Memory in bytes, without swap; none for as much as there is.
    pub memory_bytes: Option<u64>,
    /// Ceiling in processors, such as 1.5; none for all.
    pub cpus: Option<f64>,
    /// Share of the processor against others, where 100 is usual.
    pub cpu_weight: u32,
    /// Processes and threads.
    pub tasks: u64,
}

/// What a control group keeps watch over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Controller {
    /// Memory.
    Memory,
    /// Processor time.
    Cpu,
    /// Processes and threads.
    Pids,
}

impl Controller {
    const ALL: [Self; 3] = [Self::Memory, Self::Cpu, Self::Pids];

    /// Its name in the kernel.
    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Pids => "pids",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "CPU",
            Self::Pids => "tasks",
        }
    }
}

/// What holds a process to its caps, each part that has one as it was seen to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enforcement {
    version: Option<Version>,
    parts: Vec<(Controller, Result<(), String>)>,
}

impl Enforcement {
    /// Nothing does.
    pub fn none(why: &str) -> Self {
        Self { version: None, parts: Controller::ALL.map(|part| (part, Err(why.to_owned()))).into() }
    }

    /// Each part that there is a cap for (`memory`, `CPU`, `tasks`), and whether the kernel keeps it.
    pub fn parts(&self) -> impl Iterator<Item = (&'static str, bool)> {
        self.parts.iter().map(|(part, verdict)| (part.words(), verdict.is_ok()))
    }
}

impl fmt::Display for Enforcement {
    /// `cgroup v1: memory, CPU, tasks`, or what is missing of it and why.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept: Vec<&str> = self.parts.iter().filter(|(_, v)| v.is_ok()).map(|(part, _)| part.words()).collect();
        if let (Some(version), false) = (self.version, kept.is_empty()) {
            write!(f, "{version}: {}", kept.join(", "))?;
        }
        // Parts that lack the same say so once.
        let mut lacking: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (part, verdict) in &self.parts {
            if let Err(why) = verdict {
                lacking.entry(why).or_default().push(part.words());
            }
        }
        for (n, (why, parts)) in lacking.iter().enumerate() {
            if n > 0 || !kept.is_empty() {
                f.write_str("; ")?;
            }
            if parts.len() < Controller::ALL.len() {
                write!(f, "{} ", parts.join(", "))?;
            }
            write!(f, "not enforced: {why}")?;
        }
        Ok(())
    }
}

/// A control group that was made for one process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlGroup {
    version: Version,
    /// Its folder for each controller; with version 2 the same for all.
    folders: BTreeMap<Controller, PathBuf>,
    enforcement: Enforcement,
}

impl ControlGroup {
    /// What it holds its processes to.
    pub fn enforcement(&self) -> &Enforcement {
        &self.enforcement
    }

    /// The files through which a process gets in, each once.
    pub(crate) fn doors(&self) -> Vec<PathBuf> {
        let mut folders: Vec<&PathBuf> = self.folders.values().collect();
        folders.dedup();
        folders.into_iter().map(|folder| folder.join(PROCESSES)).collect()
    }

    /// Whether a process is in all of it.
    pub fn holds(&self, pid: u32) -> bool {
        let inside = |door: PathBuf| {
            fs::read_to_string(door).is_ok_and(|pids| pids.lines().any(|line| line.trim().parse() == Ok(pid)))
        };
        self.doors().into_iter().all(inside)
    }

    /// Most bytes its processes had together; none where the kernel does not count.
    pub(crate) fn peak_bytes(&self) -> Option<u64> {
        let folder = self.folders.get(&Controller::Memory)?;
        fs::read_to_string(folder.join(self.version.peak())).ok()?.trim().parse().ok()
    }

    /// Processes in it that the kernel ended because its memory was used up.
    pub(crate) fn memory_kills(&self) -> u64 {
        let Some(folder) = self.folders.get(&Controller::Memory) else { return 0 };
        let events = fs::read_to_string(folder.join(self.version.events())).unwrap_or_default();
        let count = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
    }

    /// Removes it; fails while a process is in it.
    pub fn remove(&self) -> io::Result<()> {
        let mut folders: Vec<&PathBuf> = self.folders.values().collect();
        folders.dedup();
        folders.into_iter().try_for_each(|folder| match fs::remove_dir(folder) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            outcome => outcome,
        })
    }
}

/// The file that lists the processes of a control group, in both versions.
const PROCESSES: &str = "cgroup.procs";

/// Writes every setting of a controller and reads it back.
fn put(folder: &Path, settings: &[settings::Setting]) -> Result<(), String> {
    for setting in settings {
        let file = folder.join(setting.file);
        if setting.optional && !file.exists() {
            continue;
        }
        fs::write(&file, &setting.value).map_err(|e| format!("{}: {e}", file.display()))?;
        is_kept(&file, setting)?;
    }
    Ok(())
}

/// Reads every setting of a controller.
fn are_kept(folder: &Path, settings: &[settings::Setting]) -> Result<(), String> {
    let files = settings.iter().map(|setting| (folder.join(setting.file), setting));
    files.filter(|(file, setting)| !setting.optional || file.exists()).try_for_each(|(f, setting)| is_kept(&f, setting))
}

fn is_kept(file: &Path, setting: &settings::Setting) -> Result<(), String> {
    let now = fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
    let is_met = setting.is_met(now.trim());
    if is_met { Ok(()) } else { Err(format!("{} is `{}`, not `{}`", file.display(), now.trim(), setting.value)) }
}
