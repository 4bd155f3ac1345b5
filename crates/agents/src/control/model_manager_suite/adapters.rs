//! Making adapters known, and publishing them.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use tandem_contract::Call;
use tandem_contract::pb::tandem::model::v1 as pb;
use tandem_engine::gguf::{AdapterInfo, GgufError};
use tandem_types::{Code, Fault, IdempotencyKey, Role, Violation, reason};

use super::Suite;
use super::files::{Registered, copy};
use super::logic::FileState;
use super::register::NAME_TAKEN;
use crate::fields::Fields;

impl Suite {
    /// Makes an adapter known: its file is copied into the folder of adapters, hashed, compared with its model, and takes
    /// its name there at once.
    pub(super) async fn register_adapter(
        self: Arc<Self>,
        key: Option<IdempotencyKey>,
        adapter: Option<Registered>,
        mut fields: Fields,
    ) -> Result<pb::RegisterModelResponse, Fault> {
        let base = adapter.as_ref().and_then(|adapter| adapter.card.base.clone()).unwrap_or_default();
        if self.desk().check_model(&base).is_err() {
            fields.wrong("model.base", format!("`{base}` is no model that is known here"));
        }
        let (key, mut adapter) = fields.all(key.zip(adapter))?;
        let name = adapter.card.name.clone();
        self.check_name(&adapter)?;
        let model = self.file_of(&base)?;
        let folder = self.adapters.clone();
        let kept = tokio::task::spawn_blocking(move || keep(&mut adapter, &folder, &model).map(|()| adapter));
        let adapter =
            kept.await.map_err(|e| Fault::internal(format!("the thread that copies an adapter ended: {e}")))??;
        self.books.register(key, &adapter.card, &adapter.path, self.now()).await?;
        self.files.lock().unwrap_or_else(PoisonError::into_inner).add(adapter.clone());
        self.desk().add_adapter(adapter.card, FileState::Unchecked);
        self.clone().check_files().await?;
        Ok(pb::RegisterModelResponse { model: self.model_answer(&name)?.into(), ..Default::default() })
    }

    /// A name stands for one file: whoever was given the adapter, or its evaluation, must not get another by that name.
    fn check_name(&self, adapter: &Registered) -> Result<(), Fault> {
        let desk = self.desk();
        let name = &adapter.card.name;
        let other = match desk.adapter(name) {
            Some(known) => known.sha256 != adapter.card.sha256 || known.base != adapter.card.base,
            None => desk.check_model(name).is_ok(),
        };
        if other {
            let message = format!("another model or adapter is called {name}; give yours another name");
            return Err(Fault::new(Code::Conflict, NAME_TAKEN, message));
        }
        Ok(())
    }

    /// The file of a model that is here and whole.
    fn file_of(&self, name: &str) -> Result<PathBuf, Fault> {
        match self.desk().file(name) {
            Some(FileState::Here { path, .. }) => Ok(path.clone()),
            Some(FileState::Absent(why) | FileState::Quarantined(why)) => {
                let message = format!("an adapter is compared with its model: {why}");
                Err(Fault::new(Code::FailedPrecondition, reason::NO_MODEL, message))
            }
            _ => Err(Fault::unavailable(reason::MODEL_LOADING, format!("the file of {name} is being checked"))),
        }
    }

    /// Lays an adapter over the model of a role, for a share of its conversations or all of them.
    pub(super) async fn publish_adapter(
        self: Arc<Self>,
        _: Call,
        request: pb::PublishAdapterRequest,
    ) -> Result<pb::PublishAdapterResponse, Fault> {
        let mut fields = Fields::default();
        let (key, role) = (fields.key(&request.idempotency_key), fields.parse::<Role>("role", &request.role));
        fields.require(!request.adapter.is_empty(), "adapter", "is missing");
        let percent = u8::try_from(request.canary_percent).ok().filter(|percent| (1..=100).contains(percent));
        fields.require(percent.is_some(), "canary_percent", "must be 1 to 100");
        let ((key, role), percent) = fields.all(key.zip(role).zip(percent))?;
        let ((model, published), own) = {
            let desk = self.desk();
            (desk.check_publishing(&role, &request.adapter, percent)?, desk.own_model(&role))
        };
        let bound = (model.as_str(), Some(published));
        self.books.bind(key, &role, bound, (self.plan(&role), own), self.now()).await?;
        self.rebound(&role).await?;
        Ok(pb::PublishAdapterResponse { role: self.role_answer(&role)?.into(), ..Default::default() })
    }
}

/// Copies the file of an adapter to its place and checks the copy; from then on its path is there.
///
/// # Errors
/// `invalid_argument` with everything that is wrong with the file; `failed_precondition` where its hash is.
fn keep(adapter: &mut Registered, folder: &Path, model: &Path) -> Result<(), Fault> {
    let disk = |what: &str, path: &Path, error: &io::Error| {
        let code = if error.kind() == io::ErrorKind::StorageFull { Code::ResourceExhausted } else { Code::Unavailable };
        Fault::new(code, reason::DISK, format!("cannot {what} {}: {error}", path.display()))
    };
    fs::create_dir_all(folder).map_err(|error| disk("make", folder, &error))?;
    let arriving = Arriving(folder.join(format!("{ARRIVING}{}", uuid::Uuid::new_v4())));
    let mut copied = File::create_new(&arriving.0).map_err(|error| disk("write", &arriving.0, &error))?;
    let found = copy(&adapter.path, &mut copied).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            let name = &adapter.card.name;
            Fault::not_found(format!("{} is not there; put the file of {name} there", adapter.path.display()))
        }
        _ => disk("copy", &adapter.path, &error),
    })?;
    let mut wrong = Vec::new();
    if found != adapter.card.sha256 {
        let problem = format!("{} has {found}", adapter.path.display());
        wrong.push(Violation { field: "model.sha256".to_owned(), problem });
    }
    let of_file = |problem: String| Violation { field: "model.path".to_owned(), problem };
    match AdapterInfo::read(&arriving.0, model) {
        Ok(info) => adapter.card.file_bytes = info.file_bytes,
        Err(GgufError::Unfit(problems)) => wrong.extend(problems.into_iter().map(of_file)),
        Err(error) => wrong.push(of_file(format!("{} {error}", adapter.path.display()))),
    }
    if !wrong.is_empty() {
        let hash = wrong.iter().any(|violation| violation.field == "model.sha256");
        let fault = Fault::invalid(wrong);
        return Err(Fault { code: if hash { Code::FailedPrecondition } else { fault.code }, ..fault });
    }
    let place = folder.join(format!("{}.gguf", adapter.card.name));
    copied.sync_all().map_err(|error| disk("write", &arriving.0, &error))?;
    fs::rename(&arriving.0, &place).map_err(|error| disk("rename a file to", &place, &error))?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| disk("write", folder, &error))?;
    adapter.path = place;
    Ok(())
}

/// How the name of a file begins that is being copied; no adapter's does.
const ARRIVING: &str = ".arriving-";

/// A file that is being copied; removed unless it got another name.
struct Arriving(PathBuf);

impl Drop for Arriving {
    fn drop(&mut self) {
        // It has its name now, or goes with the next start.
        let _ = fs::remove_file(&self.0);
    }
}

/// Removes what an earlier life was copying when it ended.
pub(super) fn sweep(folder: &Path) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(ARRIVING)) {
        drop(Arriving(entry.path()));
    }
}
