//! One node per data directory.

use std::fs::{File, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tandem_types::{Code, Fault, Timestamp, reason};

/// Who has a data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its process.
    pub pid: u32,
    /// The node it runs.
    pub node: String,
    /// The fleet file it runs, as it was named.
    pub fleet: String,
    /// Since when.
    pub since: Timestamp,
}

/// The right to be the node of a data directory; given back when it is dropped or the process ends, however that is.
#[derive(Debug)]
pub struct DataLock {
    file: File,
    former: Option<Holder>,
}

impl DataLock {
    /// Takes the lock at `path` for `me`.
    ///
    /// # Errors
    /// `conflict` when another node has it, with everything known about that node.
    pub fn take(path: &Path, me: &Holder) -> Result<Self, Fault> {
        let failed = |e: std::io::Error| {
            Fault::unavailable(reason::DISK, format!("cannot write the lock {}: {e}", path.display()))
        };
        let mut file =
            File::options().create(true).truncate(false).read(true).write(true).open(path).map_err(failed)?;
        let mut looks = 0;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::Error(e)) => return Err(failed(e)),
                // Whoever only looks who has it holds it for an instant.
                Err(TryLockError::WouldBlock) if looks < 5 => {
                    looks += 1;
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(TryLockError::WouldBlock) => return Err(Self::taken(Self::read(&mut file))),
            }
        }
        let former = Self::read(&mut file);
        let text = serde_json::to_vec(me).map_err(|e| Fault::internal(format!("cannot write down the node: {e}")))?;
        file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(&text)).map_err(failed)?;
        Ok(Self { file, former })
    }

    fn taken(holder: Option<Holder>) -> Fault {
        let who = holder.map_or("another node".to_owned(), |holder| {
            format!("node {} (process {}, fleet {})", holder.node, holder.pid, holder.fleet)
        });
        Fault::new(
            Code::Conflict,
            reason::SECOND_OWNER,
            format!(
                "{who} runs on this data directory already: `tandem status` shows it, `tandem down` ends it, --data DIR \
                 takes another directory"
            ),
        )
    }

    /// The node that had the directory before, unless it ended in order.
    pub fn former(&self) -> Option<&Holder> {
        self.former.as_ref()
    }

    /// Who has the lock at `path` now, if anyone.
    pub fn holder(path: &Path) -> Option<Holder> {
        let mut file = File::open(path).ok()?;
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => Self::read(&mut file),
            _ => None,
        }
    }

    /// Says that the node ended in order, so that the next one need not look for what is left of it.
    pub(crate) fn clear(&mut self) {
        // Were it left, the next start would only look around once more.
        let (Ok(()) | Err(_)) = self.file.set_len(0);
    }

    fn read(file: &mut File) -> Option<Holder> {
        let mut text = String::new();
        file.rewind().ok()?;
        file.read_to_string(&mut text).ok()?;
        serde_json::from_str(&text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_node_is_told_who_has_the_directory() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.lock");
        let me = Holder { pid: 7, node: "solo".into(), fleet: "fleets/solo.toml".into(), since: Timestamp(1) };
        assert_eq!(DataLock::holder(&path), None);
        let lock = DataLock::take(&path, &me).unwrap();
        assert_eq!(lock.former(), None);
        assert_eq!(DataLock::holder(&path), Some(me.clone()));
        let fault = DataLock::take(&path, &me).unwrap_err();
        for word in ["solo", "process 7", "fleets/solo.toml", "tandem down"] {
            assert!(fault.message.contains(word), "{fault}");
        }
        drop(lock);
        assert_eq!(DataLock::holder(&path), None);
        let mut lock = DataLock::take(&path, &me).unwrap();
        assert_eq!(lock.former(), Some(&me), "it did not end in order");
        lock.clear();
        drop(lock);
        assert_eq!(DataLock::take(&path, &me).unwrap().former(), None);
    }
}
