//! Making models known that are not in the catalogue.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use tandem_contract::Call;
use tandem_contract::pb::tandem::model::v1 as pb;
use tandem_engine::gguf::{GgufError, GgufInfo};
use tandem_engine::{NAME_RULE, is_name};
use tandem_types::{Code, Fault, Role};

use super::Suite;
use super::files::{Registered, check};
use super::logic::{AUTO, Card, FileState};
use crate::fields::Fields;

/// Reason: another model or adapter has this name.
pub(super) const NAME_TAKEN: &str = "name_taken";

impl Suite {
    /// Makes a model or an adapter known after its file was hashed.
    pub(super) async fn register_model(
        self: Arc<Self>,
        _: Call,
        request: pb::RegisterModelRequest,
    ) -> Result<pb::RegisterModelResponse, Fault> {
        let manifest = request.model.into_option().ok_or_else(|| Fault::invalid_field("model", "is missing"))?;
        let mut fields = Fields::default();
        let key = fields.key(&request.idempotency_key);
        let model = registered(&manifest, &mut fields);
        if !manifest.base.is_empty() {
            return self.register_adapter(key, model, fields).await;
        }
        let (key, mut model) = fields.all(key.zip(model))?;
        let name = model.card.name.clone();
        if self.desk().adapter(&name).is_some() {
            let message = format!("{name} is an adapter; give your model another name");
            return Err(Fault::new(Code::Conflict, NAME_TAKEN, message));
        }
        let of_catalogue = {
            let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
            files.cards().iter().any(|card| card.name == name)
        };
        if of_catalogue {
            let message = format!("{name} is a model of the catalogue; give yours another name");
            return Err(Fault::new(Code::Conflict, NAME_TAKEN, message));
        }
        let checked = tokio::task::spawn_blocking(move || inspect(&mut model).map(|()| model));
        let model =
            checked.await.map_err(|e| Fault::internal(format!("the thread that hashes a model file ended: {e}")))??;
        let now = self.now();
        self.books.register(key, &model.card, &model.path, now).await?;
        self.files.lock().unwrap_or_else(PoisonError::into_inner).add(model.clone());
        self.desk().add_model(model.card, FileState::Unchecked);
        self.clone().check_files().await?;
        Ok(pb::RegisterModelResponse { model: self.model_answer(&name)?.into(), ..Default::default() })
    }
}

/// Reads a manifest; says what is wrong in `fields`.
fn registered(info: &pb::ModelInfo, fields: &mut Fields) -> Option<Registered> {
    let is_adapter = !info.base.is_empty();
    fields.require(is_name(&info.name) && info.name != AUTO, "model.name", NAME_RULE);
    fields.require(
        Path::new(&info.path).is_absolute(),
        "model.path",
        "must be the whole path of a file on this machine",
    );
    let hash = info.sha256.len() == 64 && info.sha256.bytes().all(|b| b.is_ascii_hexdigit());
    fields.require(hash, "model.sha256", "must be 64 hexadecimal digits");
    fields.require(!info.licence.is_empty(), "model.licence", "is missing; give its SPDX name, or `unknown`");
    fields.require(info.format == "gguf", "model.format", "must be `gguf`");
    if is_adapter {
        fields.require(info.roles.is_empty(), "model.roles", "must be empty: an adapter goes where its model goes");
    } else {
        fields.require(!info.roles.is_empty(), "model.roles", "is empty; say what the model is for");
    }
    let mut roles = Vec::new();
    for (index, role) in info.roles.iter().enumerate() {
        roles.extend(fields.parse::<Role>(&format!("model.roles[{index}]"), role));
    }
    Some(Registered {
        path: PathBuf::from(&info.path),
        card: Card {
            name: info.name.clone(),
            roles,
            // Without one `auto` takes it only where there is nothing else.
            quality: info.quality,
            context_tokens: info.context_tokens,
            file_bytes: info.file_bytes,
            sha256: info.sha256.to_lowercase(),
            licence: info.licence.clone(),
            languages: info.languages.clone(),
            base: is_adapter.then(|| info.base.clone()),
        },
    })
}

/// Hashes the file and takes from its header what the manifest left open.
fn inspect(model: &mut Registered) -> Result<(), Fault> {
    check(model).map_err(|fault| Fault {
        // A wrong hash is the caller's mistake here, not corruption.
        code: if fault.code == Code::Internal { Code::FailedPrecondition } else { fault.code },
        ..fault
    })?;
    let info = GgufInfo::read(&model.path).map_err(|error| {
        let how = if matches!(error, GgufError::Adapter) { ": name that as `base`" } else { "" };
        Fault::invalid_field("model.path", format!("{} {error}{how}", model.path.display()))
    })?;
    model.card.file_bytes = info.file_bytes;
    if model.card.context_tokens == 0 {
        model.card.context_tokens = info.context_length;
    }
    Ok(())
}
