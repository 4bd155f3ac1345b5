//! What is kept on disk about models: manifests, bindings with their history, measured memory, use.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tandem_store::models::{
    Binding, Circumstances, Evaluation, Manifest, Model, ModelStore, Published, USES_KEPT, Use, Uses,
};
use tandem_types::{Fault, IdempotencyKey, Role, Timestamp};

use super::files::Registered;
use super::logic::{Calibration, Card, Profile};

/// The engine and its version. Engines are built together with this program, so its version is theirs.
const ENGINE: &str = concat!("llama ", env!("CARGO_PKG_VERSION"));
/// Where engines run.
const DEVICE: &str = "cpu";
/// Why a binding stands that is only there to go back to.
const PLANNED: &str = "as the fleet file says";
/// How the reason of a binding begins that takes the place of what the fleet file says.
const INSTEAD: &str = "instead of `";

/// The part of a manifest that has no column of its own.
#[derive(Debug, Serialize, Deserialize)]
struct Body {
    licence: String,
    roles: Vec<Role>,
    languages: Vec<String>,
    context_tokens: u32,
    // Manifests that were kept before have none.
    #[serde(default)]
    quality: u64,
}

/// The store of this agent.
#[derive(Clone)]
pub(super) struct Books {
    store: Arc<dyn ModelStore>,
}

impl Books {
    pub(super) fn new(store: Arc<dyn ModelStore>) -> Self {
        Self { store }
    }

    /// Notes the models of the catalogue, so that roles can be bound to them. Returns the others that are registered, and
    /// the names of all that are in quarantine.
    pub(super) async fn enter(
        &self,
        cards: &[Card],
        now: Timestamp,
    ) -> Result<(Vec<Registered>, BTreeSet<String>), Fault> {
        let known = self.store.models().await?;
        for card in cards {
            let same = |model: &&Model| model.manifest.name == card.name && model.manifest.sha256 == card.sha256;
            if known.iter().find(same).is_none() {
                self.register(fresh_key(), card, Path::new(""), now).await?;
            }
        }
        let bad = known.iter().filter(|model| model.quarantined.is_some()).map(|model| model.manifest.name.clone());
        let others = known.iter().filter(|model| cards.iter().all(|card| card.name != model.manifest.name));
        let others = others.map(|model| registered(&model.manifest)).collect::<Result<_, _>>()?;
        Ok((others, bad.collect()))
    }

    /// Registers a model or an adapter.
    pub(super) async fn register(
        &self,
        key: IdempotencyKey,
        card: &Card,
        path: &Path,
        now: Timestamp,
    ) -> Result<(), Fault> {
        let body = Body {
            licence: card.licence.clone(),
            roles: card.roles.clone(),
            languages: card.languages.clone(),
            context_tokens: card.context_tokens,
            quality: card.quality,
        };
        let manifest = Manifest {
            name: card.name.clone(),
            path: path.to_string_lossy().into_owned(),
            file_bytes: card.file_bytes,
            sha256: card.sha256.clone(),
            format: "gguf".to_owned(),
            body: serde_json::to_string(&body)
                .map_err(|e| Fault::internal(format!("cannot write the manifest of {}: {e}", card.name)))?,
            base: card.base.clone(),
        };
        self.store.register(key, manifest, now).await.map(drop)
    }

    /// Notes why a model must not be used.
    pub(super) async fn quarantine(&self, name: &str, why: &str) -> Result<(), Fault> {
        self.store.quarantine(name, why).await
    }

    /// What each role is bound to: as `planned`, or as it was bound since, unless the plan has changed after that. And what
    /// is published for it then.
    pub(super) async fn words(
        &self,
        planned: &BTreeMap<Role, String>,
    ) -> Result<(BTreeMap<Role, String>, BTreeMap<Role, Published>), Fault> {
        let (mut words, mut published) = (planned.clone(), BTreeMap::new());
        for binding in self.store.bindings().await? {
            let plan = planned.get(&binding.role).map_or("", String::as_str);
            if let Some(word) = word(&binding, plan) {
                words.insert(binding.role.clone(), word);
                published.extend(binding.adapter.map(|adapter| (binding.role, adapter)));
            }
        }
        Ok((words, published))
    }

    /// Binds a role in the place of what the plan says, with or without an adapter. `own` is the model it has now, to go
    /// back to.
    pub(super) async fn bind(
        &self,
        key: IdempotencyKey,
        role: &Role,
        (model, adapter): (&str, Option<Published>),
        (plan, own): (&str, Option<String>),
        now: Timestamp,
    ) -> Result<(), Fault> {
        if let (Some(own), true) = (own, self.store.history(role, 1).await?.is_empty()) {
            self.store.bind(fresh_key(), role.clone(), own, None, PLANNED.to_owned(), now).await?;
        }
        let reason = format!("{INSTEAD}{plan}`, by hand");
        self.store.bind(key, role.clone(), model.to_owned(), adapter, reason, now).await.map(drop)
    }

    /// Goes back one binding.
    pub(super) async fn roll_back(&self, key: IdempotencyKey, role: &Role, now: Timestamp) -> Result<(), Fault> {
        self.store.roll_back(key, role.clone(), now).await.map(drop)
    }

    /// What was measured for an engine of this profile.
    pub(super) async fn calibration(&self, model: &str, profile: Profile) -> Result<Option<Calibration>, Fault> {
        let measured = self.store.measurement(circumstances(model, profile)).await?;
        Ok(measured.map(|measured| Calibration { peak_bytes: measured.peak_bytes, load: None }))
    }

    /// Notes a measured peak.
    pub(super) async fn measured(&self, model: &str, profile: Profile, peak: u64, now: Timestamp) -> Result<(), Fault> {
        self.store.measured(circumstances(model, profile), peak, now).await.map(drop)
    }

    /// Keeps what an evaluation found.
    pub(super) async fn evaluated(&self, evaluation: Evaluation) -> Result<(), Fault> {
        self.store.evaluated(evaluation).await
    }

    /// An evaluation by its id.
    pub(super) async fn evaluation(&self, id: &str) -> Result<Option<Evaluation>, Fault> {
        self.store.evaluation(id).await
    }

    /// The last evaluation of a model, alone or with an adapter.
    pub(super) async fn last_evaluation(&self, model: &str, adapter: &str) -> Result<Option<Evaluation>, Fault> {
        self.store.last_evaluation(model, Some(adapter).filter(|name| !name.is_empty())).await
    }

    /// Counts a use.
    pub(super) async fn used(&self, key: IdempotencyKey, one: Use, now: Timestamp) -> Result<(), Fault> {
        self.store.note_use(key, one, now).await
    }

    /// Use of the last 30 days.
    pub(super) async fn uses(&self, now: Timestamp) -> Result<Vec<Uses>, Fault> {
        self.store.uses(now - USES_KEPT).await
    }

    /// Removes counts past their time.
    pub(super) async fn prune(&self, now: Timestamp) -> Result<(), Fault> {
        self.store.prune(now).await.map(drop)
    }
}

fn circumstances(model: &str, profile: Profile) -> Circumstances {
    Circumstances {
        model: model.to_owned(),
        context: profile.context_tokens,
        slots: profile.slots,
        engine: ENGINE.to_owned(),
        device: DEVICE.to_owned(),
    }
}

fn registered(manifest: &Manifest) -> Result<Registered, Fault> {
    let body: Body = serde_json::from_str(&manifest.body)
        .map_err(|e| Fault::internal(format!("the stored manifest of {} cannot be read: {e}", manifest.name)))?;
    Ok(Registered {
        path: PathBuf::from(&manifest.path),
        card: Card {
            name: manifest.name.clone(),
            roles: body.roles,
            quality: body.quality,
            context_tokens: body.context_tokens,
            file_bytes: manifest.file_bytes,
            sha256: manifest.sha256.clone(),
            licence: body.licence,
            languages: body.languages,
            base: manifest.base.clone(),
        },
    })
}

/// What a binding says while the plan says `plan`; none when the plan has the word.
fn word(binding: &Binding, plan: &str) -> Option<String> {
    let instead_of = binding.reason.strip_prefix(INSTEAD)?.split('`').next()?;
    (instead_of == plan).then(|| binding.model.clone())
}

/// A key for a write that nobody sends twice.
pub(super) fn fresh_key() -> IdempotencyKey {
    IdempotencyKey(uuid::Uuid::new_v4().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binding_by_hand_holds_until_the_plan_changes() {
        let binding = |reason: &str| Binding {
            role: "llm.fast".parse().unwrap(),
            model: "b".into(),
            adapter: None,
            reason: reason.into(),
            since: Timestamp::default(),
            undone: None,
        };
        for (reason, plan, says) in [
            ("instead of `auto`, by hand", "auto", Some("b")),
            ("instead of `auto`, by hand", "a", None),
            ("instead of ``, by hand", "", Some("b")),
            (PLANNED, "auto", None),
        ] {
            assert_eq!(word(&binding(reason), plan).as_deref(), says, "{reason} {plan}");
        }
    }
}
