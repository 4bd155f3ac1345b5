//! Models and adapters: what they are, which role each serves, what memory they were seen to need, how much they are used.

mod rows;
mod sqlite;
#[cfg(test)]
mod tests;

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tandem_types::{Fault, IdempotencyKey, Role, Timestamp};

pub use sqlite::SqliteModels;

/// How long use is counted back.
pub const USES_KEPT: Duration = Duration::from_hours(30 * 24);

/// What is known of a model, or of an adapter, from its file and its maker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Its name in the catalogue.
    pub name: String,
    /// Path of its file.
    pub path: String,
    /// Bytes of its file.
    pub file_bytes: u64,
    /// SHA-256 of its file, hexadecimal.
    pub sha256: String,
    /// `gguf` and others.
    pub format: String,
    /// The rest, as JSON: licence, roles, languages, context, calibration.
    pub body: String,
    /// Of an adapter: the model it was made for. Left out where there is none, so that a write sent twice is recognised
    /// whichever version of the program kept it first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
}

/// A registered model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    /// What it is.
    pub manifest: Manifest,
    /// Why it must not be used; none when it may.
    pub quarantined: Option<String>,
    /// When it was registered last.
    pub registered: Timestamp,
}

/// An adapter laid over the model of a role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// Its name.
    pub adapter: String,
    /// Percentage of the role's conversations that get it.
    pub percent: u8,
    /// The adapter that the other conversations get; none for the model alone.
    pub others: Option<String>,
}

/// A role and the model that serves it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// The role.
    pub role: Role,
    /// The model.
    pub model: String,
    /// The adapter on it.
    pub adapter: Option<Published>,
    /// Why, in words.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
    /// When it was rolled back; none while it stands or when another one followed it.
    pub undone: Option<Timestamp>,
}

/// Circumstances under which a model's memory was measured.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Circumstances {
    /// The model.
    pub model: String,
    /// Context tokens of each slot.
    pub context: u32,
    /// Conversations at once.
    pub slots: u32,
    /// The engine and its version.
    pub engine: String,
    /// The card's name, or `cpu`.
    pub device: String,
}

/// Measured memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// The highest peak seen, bytes.
    pub peak_bytes: u64,
    /// How often it was measured.
    pub count: u64,
    /// When last.
    pub at: Timestamp,
}

/// Use of a ticket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Use {
    /// The model.
    pub model: String,
    /// The role that was asked for.
    pub role: Role,
    /// Tokens read.
    pub prompt_tokens: u64,
    /// Tokens written.
    pub completion_tokens: u64,
    /// How long the engine worked.
    pub busy: Duration,
    /// Whether it ended well.
    pub ok: bool,
}

/// Use of a model in one role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uses {
    /// The model.
    pub model: String,
    /// The role.
    pub role: Role,
    /// Tickets.
    pub tickets: u64,
    /// Tokens read.
    pub prompt_tokens: u64,
    /// Tokens written.
    pub completion_tokens: u64,
    /// How long the engine worked.
    pub busy: Duration,
    /// Uses that did not end well.
    pub failures: u64,
}

/// What an evaluation of a model found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evaluation {
    /// Its id.
    pub id: String,
    /// The model.
    pub model: String,
    /// The adapter laid over it.
    pub adapter: Option<String>,
    /// The suite of questions.
    pub suite: String,
    /// When it began.
    pub started: Timestamp,
    /// The report, as JSON.
    pub body: String,
}

/// Keeps what is known of models.
///
/// Every call answers reason `disk` when the store cannot be read or written; keyed calls answer `conflict`, reason
/// `key_reused`, when the key came with another body.
#[async_trait]
pub trait ModelStore: Send + Sync {
    /// Registers a model, or its newer file; that lifts its quarantine.
    async fn register(&self, key: IdempotencyKey, manifest: Manifest, now: Timestamp) -> Result<Model, Fault>;

    /// All models by name.
    async fn models(&self) -> Result<Vec<Model>, Fault>;

    /// One model; `not_found` when it is not registered.
    async fn model(&self, name: &str) -> Result<Model, Fault>;

    /// Takes a model out of use.
    ///
    /// # Errors
    /// `not_found` when it is not registered.
    async fn quarantine(&self, name: &str, why: &str) -> Result<(), Fault>;

    /// Binds a role to a model, with or without an adapter.
    ///
    /// # Errors
    /// `not_found` when the model or the adapter is not registered.
    async fn bind(
        &self,
        key: IdempotencyKey,
        role: Role,
        model: String,
        adapter: Option<Published>,
        reason: String,
        now: Timestamp,
    ) -> Result<Binding, Fault>;

    /// Undoes a role's standing binding, with those before it that differ in the adapter's share only, and returns the one
    /// before them, which stands again.
    ///
    /// # Errors
    /// `failed_precondition` when there is none before it; then nothing changes.
    async fn roll_back(&self, key: IdempotencyKey, role: Role, now: Timestamp) -> Result<Binding, Fault>;

    /// The standing binding of each role, by role.
    async fn bindings(&self) -> Result<Vec<Binding>, Fault>;

    /// Every binding a role has had, the latest first; at most `limit`.
    async fn history(&self, role: &Role, limit: u32) -> Result<Vec<Binding>, Fault>;

    /// Notes a measured peak; the highest counts.
    async fn measured(&self, of: Circumstances, peak_bytes: u64, now: Timestamp) -> Result<Measured, Fault>;

    /// What was measured under exactly these circumstances.
    async fn measurement(&self, of: Circumstances) -> Result<Option<Measured>, Fault>;

    /// Counts a use.
    async fn note_use(&self, key: IdempotencyKey, one: Use, now: Timestamp) -> Result<(), Fault>;

    /// Use since the UTC day of `from`, by model and role.
    async fn uses(&self, from: Timestamp) -> Result<Vec<Uses>, Fault>;

    /// Keeps an evaluation; of two with the same id the first stays.
    async fn evaluated(&self, evaluation: Evaluation) -> Result<(), Fault>;

    /// An evaluation by its id.
    async fn evaluation(&self, id: &str) -> Result<Option<Evaluation>, Fault>;

    /// The evaluation of a model, alone or with an adapter, that began last.
    async fn last_evaluation(&self, model: &str, adapter: Option<&str>) -> Result<Option<Evaluation>, Fault>;

    /// Removes use counts past their time; how many.
    async fn prune(&self, now: Timestamp) -> Result<u64, Fault>;
}
