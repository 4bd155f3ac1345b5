//! Finding the place where this process may make control groups.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::settings::Version;
use super::{Caps, ControlGroup, Controller, Enforcement, PROCESSES, are_kept, put};

/// How the folder of a process's groups begins; its number follows.
const PREFIX: &str = "tandem-";
/// The file through which version 2 hands controllers down.
const HAND_DOWN: &str = "cgroup.subtree_control";

/// Where this process makes control groups: in one group of its own, so that weights are among them and the whole of them
/// weighs as much against others as any group.
#[derive(Debug, Clone)]
pub struct ControlGroups {
    version: Version,
    homes: Arc<Homes>,
}

/// The folder for new groups of each controller, or why there is none.
#[derive(Debug)]
struct Homes(BTreeMap<Controller, Result<PathBuf, String>>);

impl Drop for Homes {
    fn drop(&mut self) {
        for home in self.0.values().flatten() {
            // One that is in use is left to whoever comes next.
            let _ = fs::remove_dir(home);
        }
    }
}

impl ControlGroups {
    /// Finds what the kernel offers this process, and removes what processes that ended have left behind.
    ///
    /// With version 2 this process moves into a group of its own, because a group whose controllers are handed down must
    /// have no processes itself.
    ///
    /// # Errors
    /// Why nothing can be enforced.
    pub fn find() -> Result<Self, String> {
        let read = |path: &str| fs::read_to_string(path).map_err(|e| format!("{path}: {e}"));
        let (mounts, own) = (read("/proc/self/mountinfo")?, read("/proc/self/cgroup")?);
        let found = Self::from_kernel(&mounts, &own, std::process::id())?;
        found.sweep(|pid| Path::new("/proc").join(pid.to_string()).exists());
        Ok(found)
    }

    pub(super) fn from_kernel(mounts: &str, own: &str, pid: u32) -> Result<Self, String> {
        let mounts: Vec<Mount<'_>> = mounts.lines().filter_map(Mount::read).collect();
        let second = mounts.iter().find(|mount| mount.kind == "cgroup2").and_then(|mount| mount.folder(own, ""));
        if let Some(folder) = second
            && let Some(found) = Self::second(&folder, pid)?
        {
            return Ok(found);
        }
        let home = |part: Controller| {
            let folder = mounts.iter().find(|mount| mount.controls(part)).and_then(|m| m.folder(own, part.name()));
            let home = folder.ok_or_else(|| no_controller(part)).map(|folder| folder.join(format!("{PREFIX}{pid}")));
            (part, home.and_then(|home| make(&home).map(|()| home)))
        };
        let homes: BTreeMap<_, _> = Controller::ALL.into_iter().map(home).collect();
        if mounts.iter().all(|mount| mount.kind != "cgroup") {
            return Err("this machine has no control groups".to_owned());
        }
        match homes.values().all(Result::is_err).then(|| homes.values().find_map(|home| home.as_ref().err())).flatten()
        {
            Some(why) => Err(why.clone()),
            None => Ok(Self { version: Version::One, homes: Arc::new(Homes(homes)) }),
        }
    }

    /// Version 2 below `folder`; none where it has none of the controllers.
    fn second(folder: &Path, pid: u32) -> Result<Option<Self>, String> {
        let words = fs::read_to_string(folder.join("cgroup.controllers")).unwrap_or_default();
        let offered = |part: &Controller| words.split_whitespace().any(|word| word == part.name());
        let parts: Vec<Controller> = Controller::ALL.into_iter().filter(offered).collect();
        if parts.is_empty() {
            return Ok(None);
        }
        let home = folder.join(format!("{PREFIX}{pid}"));
        hand_down(folder, &home, &parts, pid)?;
        let of = |part| (part, if parts.contains(&part) { Ok(home.clone()) } else { Err(no_controller(part)) });
        let homes = Arc::new(Homes(Controller::ALL.map(of).into()));
        Ok(Some(Self { version: Version::Two, homes }))
    }

    /// What groups made here could be held to; whether the kernel takes a certain cap is seen when it is set.
    pub fn offer(&self) -> Enforcement {
        let parts = self.homes.0.iter().map(|(part, home)| (*part, home.clone().map(|_| ())));
        Enforcement { version: Some(self.version), parts: parts.collect() }
    }

    /// Makes a control group called `name` with these caps. A part that the kernel does not take is said in its
    /// enforcement.
    ///
    /// # Errors
    /// Why there is none at all.
    pub fn make(&self, name: &str, caps: &Caps) -> Result<ControlGroup, String> {
        let (mut folders, mut parts) = (BTreeMap::new(), Vec::new());
        for (part, home) in &self.homes.0 {
            let settings = self.version.settings(*part, caps);
            let made = home.clone().and_then(|home| {
                let folder = home.join(name);
                make(&folder).map(|()| folder)
            });
            let verdict = made.and_then(|folder| {
                let outcome = put(&folder, &settings);
                folders.insert(*part, folder);
                outcome
            });
            // Where nothing is asked for, nothing can be said to be kept.
            if verdict.is_err() || !settings.is_empty() {
                parts.push((*part, verdict));
            }
        }
        if folders.is_empty() {
            let why = parts.into_iter().find_map(|(_, verdict)| verdict.err());
            return Err(why.unwrap_or_default());
        }
        let enforcement = Enforcement { version: Some(self.version), parts };
        Ok(ControlGroup { version: self.version, folders, enforcement })
    }

    /// Removes empty groups whose maker has ended; one that is not empty goes when its processes have.
    pub(super) fn sweep(&self, lives: impl Fn(u32) -> bool) {
        for base in self.homes.0.values().flatten().filter_map(|home| home.parent()) {
            for entry in fs::read_dir(base).into_iter().flatten().flatten() {
                let name = entry.file_name();
                let maker = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse::<u32>().ok());
                if maker.is_some_and(|pid| !lives(pid)) {
                    let inner = fs::read_dir(entry.path()).into_iter().flatten().flatten();
                    inner.filter(|e| e.path().is_dir()).for_each(|e| drop(fs::remove_dir(e.path())));
                    let _ = fs::remove_dir(entry.path());
                }
            }
        }
    }
}

impl ControlGroup {
    /// The control group called `name` that a process is in, made by a process that has ended. Nothing is written: what it
    /// holds its processes to is what is read there.
    ///
    /// # Errors
    /// When the process is in none.
    pub fn of(pid: u32, name: &str, caps: &Caps) -> Result<Self, String> {
        let read = |path: &str| fs::read_to_string(path).map_err(|e| format!("{path}: {e}"));
        Self::from_kernel(&read("/proc/self/mountinfo")?, &read(&format!("/proc/{pid}/cgroup"))?, name, caps)
    }

    pub(super) fn from_kernel(mounts: &str, of: &str, name: &str, caps: &Caps) -> Result<Self, String> {
        let mounts: Vec<Mount<'_>> = mounts.lines().filter_map(Mount::read).collect();
        let made = |folder: &PathBuf| {
            let home = folder.parent().and_then(Path::file_name).and_then(|home| home.to_str());
            folder.file_name().is_some_and(|own| own == name) && home.is_some_and(|home| home.starts_with(PREFIX))
        };
        let second = mounts.iter().find(|mount| mount.kind == "cgroup2");
        let second = second.and_then(|mount| mount.folder(of, "")).filter(made);
        let version = if second.is_some() { Version::Two } else { Version::One };
        let folder = |part: Controller| match &second {
            Some(folder) => Some(folder.clone()),
            None => mounts.iter().find(|mount| mount.controls(part))?.folder(of, part.name()).filter(made),
        };
        let folders: BTreeMap<Controller, PathBuf> =
            Controller::ALL.into_iter().filter_map(|part| Some((part, folder(part)?))).collect();
        if folders.is_empty() {
            return Err("the process is in no control group of its own".to_owned());
        }
        let verdict = |part: Controller| {
            let settings = version.settings(part, caps);
            let kept = folders.get(&part).ok_or_else(|| no_controller(part)).and_then(|f| are_kept(f, &settings));
            (kept.is_err() || !settings.is_empty()).then_some((part, kept))
        };
        let parts = Controller::ALL.into_iter().filter_map(verdict).collect();
        Ok(Self { version, enforcement: Enforcement { version: Some(version), parts }, folders })
    }
}

fn no_controller(part: Controller) -> String {
    format!("the kernel gives no {} controller", part.name())
}

/// Makes a folder, which may be there already.
fn make(folder: &Path) -> Result<(), String> {
    match fs::create_dir(folder) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(format!("{}: {e}", folder.display())),
        _ => Ok(()),
    }
}

/// Hands controllers down from `folder` to groups in `home`, after this process has left it.
fn hand_down(folder: &Path, home: &Path, parts: &[Controller], pid: u32) -> Result<(), String> {
    let words: Vec<String> = parts.iter().map(|part| format!("+{}", part.name())).collect();
    let own = home.join("node");
    let write =
        |file: PathBuf, text: &str| fs::write(&file, text).map_err(|e| (e.kind(), format!("{}: {e}", file.display())));
    make(home)?;
    make(&own)?;
    let handed = write(own.join(PROCESSES), &pid.to_string())
        .and_then(|()| write(folder.join(HAND_DOWN), &words.join(" ")))
        .and_then(|()| write(home.join(HAND_DOWN), &words.join(" ")))
        .map_err(|(kind, why)| match kind {
            io::ErrorKind::ResourceBusy => format!(
                "{} has other processes beside this one; start the node as a service of its own, or with `systemd-run \
                 --user --scope -p Delegate=yes`",
                folder.display()
            ),
            _ => why,
        });
    if handed.is_err() {
        // Back to where it was, as far as the kernel lets it.
        let _ = fs::write(folder.join(PROCESSES), pid.to_string());
        let _ = fs::remove_dir(&own);
        let _ = fs::remove_dir(home);
    }
    handed
}

/// A mounted tree of control groups (proc_pid_mountinfo(5)).
struct Mount<'m> {
    root: &'m str,
    at: &'m str,
    kind: &'m str,
    options: &'m str,
}

impl<'m> Mount<'m> {
    fn read(line: &'m str) -> Option<Self> {
        let (place, what) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let mut what = what.split(' ');
        let (root, at, kind, options) = (place.next()?, place.next()?, what.next()?, what.nth(1)?);
        kind.starts_with("cgroup").then_some(Self { root, at, kind, options })
    }

    /// Whether it is the tree of a controller of version 1.
    fn controls(&self, part: Controller) -> bool {
        self.kind == "cgroup" && self.options.split(',').any(|option| option == part.name())
    }

    /// The folder of a process in the tree of a controller; the empty name is that of version 2 (cgroups(7)).
    fn folder(&self, of: &str, controller: &str) -> Option<PathBuf> {
        let path = of.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (names, path) = (fields.next()?, fields.next()?);
            names.split(',').any(|name| name == controller).then_some(path)
        })?;
        // In a container the mount shows the tree from the container's own group on.
        let below = path.strip_prefix(self.root.trim_end_matches('/')).unwrap_or(path);
        Some(Path::new(self.at).join(below.trim_start_matches('/')))
    }
}
