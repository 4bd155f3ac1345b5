//! The models on this machine: `<cache>/models/<name>/<file>`, checked once and then trusted until the file changes.

use std::ffi::OsString;
use std::fs::{self, File, Metadata, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tandem_types::{Code, Fault, reason};

use super::mirror::Mirror;
use super::model::{Catalogue, Model};
use super::partial::sha256_of;

/// How much of a model is on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Nothing.
    Absent,
    /// So many bytes of a fetch that has not ended.
    Partial(u64),
    /// The file, with the hash of the catalogue.
    Present,
    /// A file that is not the catalogue's, and what is wrong with it.
    Corrupt(String),
}

/// A model of the catalogue and what is here of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<'s> {
    /// The model.
    pub model: &'s Model,
    /// How much of it is here.
    pub state: State,
    /// Where its file is or would be.
    pub path: PathBuf,
}

/// The models on this machine, and the ways to more of them.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
    pub(super) catalogue: Catalogue,
    pub(super) mirror: Mirror,
}

impl Store {
    /// A store in the folder `root`; it need not exist yet.
    pub fn new(root: PathBuf, catalogue: Catalogue, mirror: Mirror) -> Self {
        Self { root, catalogue, mirror }
    }

    /// The user's store with the built-in catalogue: in `$TANDEM_CACHE`, else `$XDG_CACHE_HOME/tandem`, else
    /// `~/.cache/tandem`. Fails when the environment names none of them.
    pub fn open() -> Result<Self, Fault> {
        let cache = cache_folder(|name| std::env::var_os(name)).ok_or_else(|| {
            Fault::invalid_field("TANDEM_CACHE", "is not set, and neither is HOME: set it to a folder for models")
        })?;
        let (catalogue, mirror) = super::built_in()?;
        Ok(Self::new(cache.join("models"), catalogue, mirror))
    }

    /// What the store knows of.
    pub fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// The models that packages hold too.
    pub fn mirror(&self) -> &Mirror {
        &self.mirror
    }

    /// Every model of the catalogue and what is here of it. A file that is new or has changed is hashed once.
    pub fn list(&self) -> Result<Vec<Entry<'_>>, Fault> {
        self.catalogue.models().iter().map(|model| self.entry(model, Trust::Marker)).collect()
    }

    /// The same for one model.
    pub fn look(&self, name: &str) -> Result<Entry<'_>, Fault> {
        self.entry(self.catalogue.model(name)?, Trust::Marker)
    }

    /// The same for one model, with its file hashed again whatever was found before.
    pub fn verify(&self, name: &str) -> Result<Entry<'_>, Fault> {
        self.entry(self.catalogue.model(name)?, Trust::Nothing)
    }

    /// The file of a model that is here and whole; the fault says how to get it otherwise.
    pub fn path_of(&self, name: &str) -> Result<PathBuf, Fault> {
        let entry = self.look(name)?;
        let get = format!("get it with `tandem models pull {name}`");
        let problem = match entry.state {
            State::Present => return Ok(entry.path),
            State::Absent => format!("model {name} is not on this machine: {get}"),
            State::Partial(bytes) => {
                format!("model {name} is not whole, {bytes} of {} bytes are here: {get}", entry.model.size_bytes)
            }
            State::Corrupt(why) => format!("{} {why}: {get}, this file is kept aside", entry.path.display()),
        };
        Err(Fault::unavailable(reason::NO_MODEL, problem))
    }

    /// Deletes all that is here of a model, files kept aside included, and tells how many bytes that were. A model
    /// that is being fetched is left alone and `unavailable`.
    pub fn remove(&self, name: &str) -> Result<u64, Fault> {
        let place = self.place(self.catalogue.model(name)?);
        if !place.folder.exists() {
            return Ok(0);
        }
        let lock = place.open_lock()?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::Error(error)) => return Err(disk("lock", &place.folder, &error)),
            Err(TryLockError::WouldBlock) => {
                let message = format!("model {name} is being fetched: stop that before you delete it");
                return Err(Fault::unavailable(reason::MODEL_LOADING, message));
            }
        }
        let bytes = folder_bytes(&place.folder);
        fs::remove_dir_all(&place.folder).map_err(|error| disk("delete", &place.folder, &error))?;
        Ok(bytes)
    }

    pub(super) fn place(&self, model: &Model) -> Place {
        let folder = self.root.join(&model.name);
        Place {
            file: folder.join(&model.file),
            partial: folder.join(format!("{}.partial", model.file)),
            marker: folder.join("verified"),
            parts: folder.join("parts"),
            lock: self.root.join(format!("{}.lock", model.name)),
            folder,
        }
    }

    fn entry<'s>(&self, model: &'s Model, trust: Trust) -> Result<Entry<'s>, Fault> {
        let place = self.place(model);
        let state = inspect(model, &place, trust).map_err(|error| disk("read", &place.file, &error))?;
        Ok(Entry { model, state, path: place.file })
    }

    pub(super) fn state(&self, model: &Model) -> Result<State, Fault> {
        self.entry(model, Trust::Marker).map(|entry| entry.state)
    }
}

/// Where the files of one model are.
pub(super) struct Place {
    pub(super) folder: PathBuf,
    pub(super) file: PathBuf,
    pub(super) partial: PathBuf,
    marker: PathBuf,
    pub(super) parts: PathBuf,
    lock: PathBuf,
}

impl Place {
    /// The file whose lock serialises the writers of this model, in all processes.
    pub(super) fn open_lock(&self) -> Result<File, Fault> {
        let open = || {
            self.lock.parent().map_or(Ok(()), fs::create_dir_all)?;
            File::options().create(true).truncate(false).write(true).open(&self.lock)
        };
        open().map_err(|error| disk("open", &self.lock, &error))
    }

    /// Notes that the file has the model's hash, so that it need not be hashed again until it changes.
    pub(super) fn mark_verified(&self, model: &Model) {
        // Without the note, as in a store that may only be read, the file is hashed at each start: slower, not wrong.
        let _ = fs::metadata(&self.file).and_then(|meta| fs::write(&self.marker, stamp(model, &meta)));
    }

    /// Renames a file to `NAME.corrupt-<n>` and tells its new path.
    pub(super) fn set_aside(&self, file: &Path) -> io::Result<PathBuf> {
        let numbered = |number: u32| {
            let mut path = self.file.clone().into_os_string();
            path.push(format!(".corrupt-{number}"));
            PathBuf::from(path)
        };
        let mut number = 1;
        while numbered(number).try_exists()? {
            number += 1;
        }
        fs::rename(file, numbered(number)).map(|()| numbered(number))
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Trust {
    /// A file that has not changed since it was hashed.
    Marker,
    /// Only a hash made now.
    Nothing,
}

fn inspect(model: &Model, place: &Place, trust: Trust) -> io::Result<State> {
    let Some(meta) = found(&place.file)? else {
        let partial = found(&place.partial)?;
        let bytes = partial.map_or(0, |meta| meta.len());
        return Ok(if bytes == 0 { State::Absent } else { State::Partial(bytes) });
    };
    if meta.len() != model.size_bytes {
        return Ok(State::Corrupt(format!("has {} bytes instead of {}", meta.len(), model.size_bytes)));
    }
    if trust == Trust::Marker && fs::read_to_string(&place.marker).is_ok_and(|text| text == stamp(model, &meta)) {
        return Ok(State::Present);
    }
    let sha256 = sha256_of(&place.file)?;
    if sha256 != model.sha256 {
        return Ok(State::Corrupt(format!("has sha256 {sha256} instead of {}", model.sha256)));
    }
    place.mark_verified(model);
    Ok(State::Present)
}

fn found(path: &Path) -> io::Result<Option<Metadata>> {
    match fs::metadata(path) {
        Ok(meta) => Ok(Some(meta)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn stamp(model: &Model, meta: &Metadata) -> String {
    format!("{} {} {}.{:09}\n", model.sha256, meta.len(), meta.mtime(), meta.mtime_nsec())
}

/// Tandem's cache folder, from the variables of an environment.
pub(super) fn cache_folder(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let folder = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    folder("TANDEM_CACHE")
        .or_else(|| Some(folder("XDG_CACHE_HOME")?.join("tandem")))
        .or_else(|| Some(folder("HOME")?.join(".cache/tandem")))
}

/// Bytes of all files in a folder and below; files that vanish while it looks count as nothing.
pub(super) fn folder_bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let meta = entry.metadata().ok()?;
            Some(if meta.is_dir() { folder_bytes(&entry.path()) } else { meta.len() })
        })
        .sum()
}

/// A fault of the disk: what could not be done to which path.
pub(super) fn disk(what: &str, path: &Path, error: &io::Error) -> Fault {
    let code = if error.kind() == io::ErrorKind::StorageFull { Code::ResourceExhausted } else { Code::Internal };
    Fault::new(code, reason::DISK, format!("cannot {what} {}: {error}", path.display()))
}
