//! Model files: which are here, whether they are whole, what their headers say. Everything here blocks.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use tandem_engine::catalogue::{self, Store};
use tandem_engine::gguf::GgufInfo;
use tandem_types::{Code, Fault, reason};

use super::logic::{Card, FileState};

/// Tells whether a file changed since it was last looked at.
type Stamp = (u64, i64, i64);

/// A model or an adapter that somebody registered, beside those of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Registered {
    /// What is known of it.
    pub(super) card: Card,
    /// Where its file is.
    pub(super) path: PathBuf,
}

/// The files of all models.
pub(super) struct Files {
    store: Store,
    registered: HashMap<String, Registered>,
    looked: HashMap<String, Looked>,
}

/// What a look found.
struct Looked {
    path: PathBuf,
    stamp: Option<Stamp>,
    state: FileState,
}

impl Files {
    /// The files of the catalogue in `folder`, or in the user's cache when none is given, and those of registered models.
    pub(super) fn open(folder: Option<PathBuf>) -> Result<Self, Fault> {
        let store = match folder {
            Some(folder) => {
                let (models, mirror) = catalogue::built_in()?;
                Store::new(folder, models, mirror)
            }
            None => Store::open()?,
        };
        Ok(Self { store, registered: HashMap::new(), looked: HashMap::new() })
    }

    /// The catalogue.
    pub(super) fn catalogue(&self) -> &catalogue::Catalogue {
        self.store.catalogue()
    }

    /// What the catalogue says of the models that there are engines for.
    pub(super) fn cards(&self) -> Vec<Card> {
        let card = |model: &catalogue::Model| Card {
            name: model.name.clone(),
            roles: model.roles.clone(),
            quality: model.quality,
            context_tokens: u32::try_from(model.context_tokens).unwrap_or(u32::MAX),
            file_bytes: model.size_bytes,
            sha256: model.sha256.clone(),
            licence: model.licence.clone(),
            languages: model.languages.clone(),
            base: None,
        };
        self.store.catalogue().models().iter().filter(|model| model.format.is_served()).map(card).collect()
    }

    /// Makes a registered model known.
    pub(super) fn add(&mut self, model: Registered) {
        self.looked.remove(&model.card.name);
        self.registered.insert(model.card.name.clone(), model);
    }

    /// How the file of a model is doing. Only a file that changed since the last look is read.
    pub(super) fn look(&mut self, name: &str) -> FileState {
        if let Some(looked) = self.looked.get(name)
            && looked.stamp.is_some()
            && looked.stamp == stamp(&looked.path)
        {
            return looked.state.clone();
        }
        let path = match self.path(name) {
            Ok(path) => path,
            Err(fault) => return FileState::Absent(fault.message),
        };
        // Taken before reading, so that a change in the meantime is seen by the next look.
        let stamp = stamp(&path);
        let state = self.read(name, &path);
        self.looked.insert(name.to_owned(), Looked { path, stamp, state: state.clone() });
        state
    }

    /// As [`Files::look`], with the file hashed again whatever was found before.
    pub(super) fn verify(&mut self, name: &str) -> FileState {
        if !self.registered.contains_key(name) {
            // Hashing notes what it found, which the look below takes up.
            if let Err(fault) = self.store.verify(name) {
                return FileState::Absent(fault.message);
            }
        }
        self.looked.remove(name);
        self.look(name)
    }

    /// Where the file of a model is or would be.
    pub(super) fn path(&self, name: &str) -> Result<PathBuf, Fault> {
        match self.registered.get(name) {
            Some(model) => Ok(model.path.clone()),
            None => self.store.look(name).map(|entry| entry.path),
        }
    }

    fn read(&self, name: &str, path: &Path) -> FileState {
        let found = match self.registered.get(name) {
            Some(model) => check(model).map(Ok),
            None => match self.store.look(name).map(|entry| entry.state) {
                Ok(catalogue::State::Corrupt(why)) => {
                    Ok(Err(format!("{why}: fetch it again with `tandem models pull {name}`")))
                }
                Ok(catalogue::State::Present) => Ok(Ok(())),
                Ok(catalogue::State::Absent | catalogue::State::Partial(_)) | Err(_) => {
                    self.store.path_of(name).map(drop).map(Ok)
                }
            },
        };
        let is_adapter = self.registered.get(name).is_some_and(|registered| registered.card.base.is_some());
        match found {
            Err(fault) if fault.code == Code::Internal => FileState::Quarantined(fault.message),
            Err(fault) => FileState::Absent(fault.message),
            Ok(Err(why)) => FileState::Quarantined(format!("{} {why}", path.display())),
            // It was compared with its model when it was registered, and is still that file.
            Ok(Ok(())) if is_adapter => FileState::Adapter { path: path.to_owned() },
            Ok(Ok(())) => match GgufInfo::read(path) {
                Ok(info) => FileState::Here { path: path.to_owned(), info: Arc::new(info) },
                Err(error) => FileState::Quarantined(format!("{} {error}", path.display())),
            },
        }
    }
}

/// Reads the whole file of a registered model and compares it.
///
/// # Errors
/// `not_found` when it is not there; `internal` when it is another file than was registered.
pub(super) fn check(model: &Registered) -> Result<(), Fault> {
    let path = model.path.display();
    let found = sha256_of(&model.path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            Fault::not_found(format!("{path} is not there; put the file of {} there", model.card.name))
        }
        _ => Fault::unavailable(reason::DISK, format!("cannot read {path}: {error}")),
    })?;
    if found == model.card.sha256 {
        return Ok(());
    }
    let problem = format!("{path} has sha256 {found} instead of {}", model.card.sha256);
    Err(Fault::new(Code::Internal, reason::DISK, problem))
}

fn sha256_of(path: &Path) -> io::Result<String> {
    copy(path, &mut io::sink())
}

/// Copies a file; the hash of what was copied, hexadecimal.
pub(super) fn copy(path: &Path, to: &mut impl io::Write) -> io::Result<String> {
    let mut file = BufReader::with_capacity(1 << 20, File::open(path)?);
    let (mut hasher, mut block) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        let read = file.read(&mut block)?;
        if read == 0 {
            break;
        }
        hasher.update(&block[..read]);
        to.write_all(&block[..read])?;
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn stamp(path: &Path) -> Option<Stamp> {
    let meta = fs::metadata(path).ok()?;
    Some((meta.len(), meta.mtime(), meta.mtime_nsec()))
}
