//! The folder of adapters: which are there, and whether they fit the model. Everything here blocks, so that the thread
//! that computes finds a file that was read and is in the system's memory.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tandem_engine::gguf::AdapterInfo;
use tandem_engine::{ADAPTER_UNFIT, NO_ADAPTER};
use tandem_types::{Code, Fault};

use crate::LlamaOptions;

/// Tells whether a file is still the one that was looked at: inode, length, time of change.
type Stamp = (u64, u64, i64, i64);

/// Adapters whose files are remembered; one more costs reading its header again.
const REMEMBERED: usize = 64;

/// An adapter as its file was when it was looked at.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Adapter {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    /// Differs from that of every other adapter and of every other file by this name.
    pub(crate) number: u64,
    stamp: Stamp,
}

impl Adapter {
    /// Whether its file is still the one that was looked at.
    pub(crate) fn is_same(&self) -> bool {
        stamp(&self.path).is_ok_and(|stamp| stamp == self.stamp)
    }
}

/// The adapters of one model.
#[derive(Debug)]
pub(crate) struct Folder {
    path: Option<PathBuf>,
    model: PathBuf,
    model_name: String,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    adapters: Vec<Arc<Adapter>>,
    last: u64,
}

impl Folder {
    /// The folder of the options, for their model.
    pub(crate) fn new(options: &LlamaOptions) -> Self {
        Self {
            path: options.adapters.clone(),
            model: options.path.clone(),
            model_name: options.name.clone(),
            known: Mutex::default(),
        }
    }

    /// An adapter by its name, which must be one. A file that is new or has changed is read and compared with the model.
    ///
    /// # Errors
    /// `not_found`, `no_adapter`; `failed_precondition`, `adapter_unfit`, with everything that is wrong with it.
    pub(crate) fn find(&self, name: &str) -> Result<Arc<Adapter>, Fault> {
        let Some(folder) = &self.path else {
            let message = format!("no adapter `{name}`: the engine of {} has no folder of adapters", self.model_name);
            return Err(Fault::new(Code::NotFound, NO_ADAPTER, message));
        };
        let path = folder.join(format!("{name}.gguf"));
        let stamp = stamp(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                let message = format!("no adapter `{name}`: {} does not exist", path.display());
                Fault::new(Code::NotFound, NO_ADAPTER, message)
            }
            _ => unfit(name, &path, &format!("cannot be read: {error}")),
        })?;
        if let Some(known) = self.remembered(name, stamp) {
            return Ok(known);
        }
        AdapterInfo::read(&path, &self.model).map_err(|error| unfit(name, &path, &error))?;
        // Read here, it need not be fetched from the disk by the thread that computes.
        let warmed = File::open(&path).and_then(|mut file| io::copy(&mut file, &mut io::sink()));
        warmed.map_err(|error| unfit(name, &path, &format!("cannot be read: {error}")))?;
        Ok(self.remember(name, path, stamp))
    }

    fn remembered(&self, name: &str, stamp: Stamp) -> Option<Arc<Adapter>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.adapters.iter().find(|adapter| adapter.name == name && adapter.stamp == stamp).cloned()
    }

    fn remember(&self, name: &str, path: PathBuf, stamp: Stamp) -> Arc<Adapter> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        // Another request may have read the same file meanwhile.
        if let Some(same) = known.adapters.iter().find(|adapter| adapter.name == name && adapter.stamp == stamp) {
            return same.clone();
        }
        known.adapters.retain(|adapter| adapter.name != name);
        if known.adapters.len() >= REMEMBERED {
            known.adapters.remove(0);
        }
        known.last += 1;
        let adapter = Arc::new(Adapter { name: name.to_owned(), path, number: known.last, stamp });
        known.adapters.push(adapter.clone());
        adapter
    }
}

/// The fault of an adapter that cannot be used.
pub(crate) fn unfit(name: &str, path: &Path, why: &dyn std::fmt::Display) -> Fault {
    let message = format!("adapter `{name}`, {}, {why}", path.display());
    Fault::new(Code::FailedPrecondition, ADAPTER_UNFIT, message)
}

fn stamp(path: &Path) -> io::Result<Stamp> {
    let meta = fs::metadata(path)?;
    Ok((meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec()))
}
