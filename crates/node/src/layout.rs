//! Where things are on disk.

use std::fs::DirBuilder;
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use tandem_types::{Fault, GroupId, reason};

/// Longest path of a Unix socket, without its closing zero (`sun_path` in unix(7)).
const SOCKET_PATH_MOST: usize = 107;

/// Longest file name of a socket in the run folder, such as `up-4194304.notify`.
const SOCKET_NAME_MOST: usize = 20;

/// The folders of one data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    data: PathBuf,
    run: PathBuf,
}

impl Layout {
    /// The layout under `data`, an absolute path. Sockets go into `data/run`, or below `runtime` (`$XDG_RUNTIME_DIR`)
    /// where the path would be too long for a socket.
    ///
    /// # Errors
    /// When neither is short enough.
    pub fn new(data: PathBuf, runtime: Option<&Path>) -> Result<Self, Fault> {
        let fits = |run: &Path| run.as_os_str().len() + 1 + SOCKET_NAME_MOST <= SOCKET_PATH_MOST;
        // One runtime folder serves several data folders.
        let apart =
            runtime.map(|folder| folder.join(format!("tandem-{:08x}", fnv(data.as_os_str().as_encoded_bytes()))));
        let run = [Some(data.join("run")), apart].into_iter().flatten().find(|run| fits(run));
        match run {
            Some(run) => Ok(Self { data, run }),
            None => Err(Fault::unavailable(
                reason::DISK,
                format!(
                    "the path {} is too long for the sockets in it (at most {} bytes): choose a shorter one with \
                     --data, or set XDG_RUNTIME_DIR",
                    data.display(),
                    SOCKET_PATH_MOST - SOCKET_NAME_MOST - "/run/".len(),
                ),
            )),
        }
    }

    /// Makes the folders, open to their owner only.
    pub fn make(&self) -> Result<(), Fault> {
        for folder in [&self.data, &self.logs(), &self.ends_folder(), &self.run, &self.data.join("run")] {
            DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|e| {
                Fault::unavailable(
                    reason::DISK,
                    format!(
                        "cannot make the folder {}: {e}; check who owns its parent, or use --data",
                        folder.display()
                    ),
                )
            })?;
        }
        Ok(())
    }

    /// The data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Folder of a group's stores.
    pub fn stores(&self, group: &GroupId) -> PathBuf {
        self.data.join(group.node.as_str()).join(group.group.as_str())
    }

    /// Folder of logs.
    pub fn logs(&self) -> PathBuf {
        self.data.join("logs")
    }

    /// The log of a group.
    pub fn log(&self, group: &GroupId) -> PathBuf {
        self.logs().join(format!("{}.log", group.group))
    }

    /// Folder of how groups ended.
    pub(crate) fn ends_folder(&self) -> PathBuf {
        self.data.join("ends")
    }

    /// How a group's processes ended.
    pub(crate) fn ends(&self, group: &GroupId) -> PathBuf {
        self.ends_folder().join(format!("{}.jsonl", group.group))
    }

    /// How long the last starts took.
    pub(crate) fn starts(&self) -> PathBuf {
        self.data.join("starts.jsonl")
    }

    /// The log of a node that runs in the background.
    pub fn node_log(&self) -> PathBuf {
        self.logs().join("node.log")
    }

    /// Folder of who belongs to the fleet: keys, certificates, members. It is made when there is something to put in.
    pub fn trust(&self) -> PathBuf {
        self.data.join("trust")
    }

    /// Folder of sockets and of what is known of running processes.
    pub fn run(&self) -> &Path {
        &self.run
    }

    /// The fleet file of the fleet that this machine founded or joined.
    pub fn own_fleet(&self) -> PathBuf {
        self.data.join("fleet.toml")
    }

    /// Begins a life of the node: its number is higher than that of any life before, whatever the clock says.
    ///
    /// # Errors
    /// When the number cannot be kept.
    pub fn begin_life(&self) -> Result<u64, Fault> {
        let path = self.data.join("life");
        let failed =
            |e: std::io::Error| Fault::unavailable(reason::DISK, format!("cannot write {}: {e}", path.display()));
        let last = match std::fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().unwrap_or(0),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => 0,
            Err(e) => return Err(failed(e)),
        };
        // A file that was lost or spoilt must not lead to a number that peers have seen: the clock is ahead of any count.
        let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let life = (last + 1).max(clock);
        write_whole(&path, &life.to_string()).map_err(failed).map(|()| life)
    }

    /// Keeps the text of a fleet file as that of the fleet that this machine belongs to.
    ///
    /// # Errors
    /// When it cannot be written; then what was there stays.
    pub fn keep_fleet(&self, text: &str) -> Result<(), Fault> {
        let path = self.own_fleet();
        write_whole(&path, text)
            .map_err(|e| Fault::unavailable(reason::DISK, format!("cannot write {}: {e}", path.display())))
    }

    /// The node's control socket.
    pub fn socket(&self) -> PathBuf {
        self.run.join("node.sock")
    }

    /// The lock of the node that has this data directory.
    pub fn lock(&self) -> PathBuf {
        self.data.join("run/node.lock")
    }

    /// The fleet file as the node read it: groups that start later read the same.
    pub fn fleet(&self) -> PathBuf {
        self.data.join("run/fleet.toml")
    }

    /// Readiness socket of the group at this place of the start order; names of groups may be too long for it.
    pub(crate) fn notify(&self, place: usize) -> PathBuf {
        self.run.join(format!("group-{place}.notify"))
    }

    /// The place in the start order of whoever has this readiness socket; none when it is no group's of this directory.
    pub(crate) fn notify_place(&self, socket: &Path) -> Option<usize> {
        let name = socket.file_name().filter(|_| socket.parent() == Some(&self.run))?.to_str()?;
        name.strip_prefix("group-")?.strip_suffix(".notify")?.parse().ok()
    }

    /// What is known of a group's process.
    pub(crate) fn record(&self, group: &GroupId) -> PathBuf {
        self.run.join(format!("{}.process", group.group))
    }
}

/// Writes a file so that a crash leaves either the old one or the new one, and the new one stays.
pub(crate) fn write_whole(path: &Path, text: &str) -> std::io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = std::fs::File::create(&fresh)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)?;
    path.parent().map_or(Ok(()), |folder| std::fs::File::open(folder)?.sync_all())
}

/// FNV-1a, 32 bit (RFC 9923, section 2).
fn fnv(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_go_where_their_path_fits() {
        let long = PathBuf::from(format!("/{}", "x".repeat(90)));
        let plain = Layout::new("/d".into(), None).unwrap();
        assert_eq!(plain.socket(), Path::new("/d/run/node.sock"));
        assert_eq!(plain.notify_place(&plain.notify(12)), Some(12));
        assert_eq!(plain.notify_place(Path::new("/d/run/up-7.notify")), None);
        let apart = Layout::new(long.clone(), Some(Path::new("/run/user/0"))).unwrap();
        assert!(apart.socket().starts_with("/run/user/0"), "{apart:?}");
        assert!(apart.lock().starts_with(&long), "one data folder has one lock, wherever its sockets are");
        let other = Layout::new(long.join("y"), Some(Path::new("/run/user/0"))).unwrap();
        assert_ne!(apart.run(), other.run());
        let fault = Layout::new(long, None).unwrap_err();
        assert!(fault.message.contains("--data") && fault.message.contains("at most 82 bytes"), "{fault}");
    }

    #[test]
    fn each_life_has_a_higher_number_even_when_the_file_is_spoilt() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path().join("d"), None).unwrap();
        layout.make().unwrap();
        let (first, second) = (layout.begin_life().unwrap(), layout.begin_life().unwrap());
        assert!(second > first);
        std::fs::write(layout.data().join("life"), "spoilt").unwrap();
        assert!(layout.begin_life().unwrap() >= first);
        std::fs::write(layout.data().join("life"), u64::from(u32::MAX).to_string()).unwrap();
        assert_eq!(layout.begin_life().unwrap(), u64::from(u32::MAX) + 1, "a clock that was set back changes nothing");
    }

    #[test]
    fn the_hash_is_the_published_one() {
        assert_eq!((fnv(b""), fnv(b"a"), fnv(b"foobar")), (0x811c_9dc5, 0xe40c_292c, 0xbf9c_f968));
    }
}
