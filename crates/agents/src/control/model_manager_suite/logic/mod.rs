//! The desk: which model serves which role, what it may take of the share, who holds a ticket for it.
//!
//! One state machine without IO and without a clock. Its methods are spread over topics: `binding` says which model a
//! role gets, `adapters` what is laid over it for whom, `lending` gives tickets, `loading` decides what starts and what gives way, `watching` takes in what
//! engines do, `telling` says how everything is doing.

mod adapters;
mod binding;
mod engine;
mod lending;
mod loading;
mod room;
mod telling;
#[cfg(test)]
mod tests;
mod tickets;
mod watching;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tandem_engine::gguf::{Estimate, GgufInfo, KvType, Shape, estimate_memory};
use tandem_engine::{LeaseId, Ledger};
use tandem_types::{Fault, GroupId, Role, State, Timestamp};

pub(super) use tandem_store::models::Published;

pub(super) use engine::{Info, Order, Seen, Step};
pub(super) use lending::{Answer, Ask, Grant};
pub(super) use telling::{Change, ModelView, RoleView};

use adapters::Adapter;
use binding::Chain;
use engine::{Engine, Setback, Want};
use tickets::Tickets;

/// The role that is always resident.
pub(super) const TINY: &str = "llm.tiny";
/// The role of conversation, loaded at start when it fits.
pub(super) const FAST: &str = "llm.fast";
/// In a binding: the best model that is here and fits.
pub(super) const AUTO: &str = "auto";

/// How an engine is started: what one conversation may have, and how many there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Profile {
    /// Tokens of prompt and answer of one conversation.
    pub(super) context_tokens: u32,
    /// Conversations side by side.
    pub(super) slots: u32,
}

impl Profile {
    /// The smallest profile that serves both.
    fn join(self, other: Self) -> Self {
        Self { context_tokens: self.context_tokens.max(other.context_tokens), slots: self.slots.max(other.slots) }
    }

    /// Whether an engine of this profile also serves the other.
    fn covers(self, other: Self) -> bool {
        self.join(other) == self
    }
}

/// What a role asks of its engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RoleNeed {
    /// How its engine is started.
    pub(super) profile: Profile,
    /// The most its engine may take when the model is chosen here, bytes.
    pub(super) at_most: u64,
}

/// What is known of a model, or of an adapter, without looking at its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Card {
    /// Its name.
    pub(super) name: String,
    /// Roles it suits.
    pub(super) roles: Vec<Role>,
    /// Of two models the one with the higher number answers better.
    pub(super) quality: u64,
    /// Longest context it was made for.
    pub(super) context_tokens: u32,
    /// Bytes of its file.
    pub(super) file_bytes: u64,
    /// SHA-256 of its file, hexadecimal.
    pub(super) sha256: String,
    /// SPDX name of its licence.
    pub(super) licence: String,
    /// Languages its makers declare.
    pub(super) languages: Vec<String>,
    /// Of an adapter: the model it was made for.
    pub(super) base: Option<String>,
}

impl Card {
    /// Whether its makers declare a language, given as a tag; `fil` is `tl`, and Taglish needs Tagalog.
    fn speaks(&self, language: &str) -> bool {
        let primary = |tag: &str| match tag.split(['-', '_']).next().unwrap_or_default().to_ascii_lowercase().as_str() {
            "fil" | "taglish" => "tl".to_owned(),
            other => other.to_owned(),
        };
        self.languages.iter().any(|known| primary(known) == primary(language))
    }
}

/// How the file of a model is doing.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum FileState {
    /// Nobody has looked yet.
    Unchecked,
    /// Not on this machine, or not whole; how to get it.
    Absent(String),
    /// There, with the right hash and a header that was read.
    Here {
        /// Where.
        path: PathBuf,
        /// What its header says.
        info: Arc<GgufInfo>,
    },
    /// There, with the right hash, and an adapter.
    Adapter {
        /// Where.
        path: PathBuf,
    },
    /// There and wrong; it is not loaded until it changes.
    Quarantined(String),
}

/// What an engine of one profile was measured to take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Calibration {
    /// Most bytes resident.
    pub(super) peak_bytes: u64,
    /// Time from start to ready, as long as this life knows it.
    pub(super) load: Option<Duration>,
}

/// A model and everything that happens with it.
#[derive(Debug)]
struct Model {
    card: Card,
    file: FileState,
    calibrations: Vec<(Profile, Calibration)>,
    pinned: bool,
    engine: Engine,
    want: Option<Want>,
    setback: Option<Setback>,
    /// When it was last asked for.
    used: Timestamp,
    /// Adapters that its engine may hold although they are published for no role.
    tried: BTreeSet<String>,
    /// Adapters that its engine holds or will, and their bytes.
    laid: BTreeMap<String, u64>,
}

/// Bounds of the desk.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    /// How long a ticket lasts.
    pub(super) ticket_life: Duration,
    /// Tickets out at once.
    pub(super) tickets: usize,
    /// Tokens an engine computes in one step.
    pub(super) batch: u32,
    /// What a role that the catalogue does not bound asks for.
    pub(super) need: RoleNeed,
}

/// What was told of a role.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    state: State,
    cause: String,
    model: String,
    published: Option<Published>,
    since: Timestamp,
}

/// Models, engines, leases and tickets of one share.
pub(super) struct Desk {
    group: GroupId,
    limits: Limits,
    ledger: Ledger,
    needs: BTreeMap<Role, RoleNeed>,
    words: BTreeMap<Role, String>,
    chains: BTreeMap<Role, Chain>,
    models: BTreeMap<String, Model>,
    adapters: BTreeMap<String, Adapter>,
    /// What is laid over the models of roles.
    published: BTreeMap<Role, Published>,
    tickets: Tickets,
    /// The host has told of its engines. Before that, a load could be a second one.
    host_seen: bool,
    /// Grows with each change of an engine, so that an older list of engines is known as such.
    epoch: u64,
    /// Engines that were stopped, and when, for lists made before that.
    gone: HashMap<String, u64>,
    told: BTreeMap<Role, Told>,
    changes: Vec<Change>,
}

impl Desk {
    /// An empty desk over a share of `budget` bytes, paid by `group`.
    pub(super) fn new(group: GroupId, budget: u64, limits: Limits, needs: BTreeMap<Role, RoleNeed>) -> Self {
        let mut ledger = Ledger::default();
        ledger.set_budget(group.clone(), budget);
        let mut desk = Self {
            tickets: Tickets::new(limits.tickets),
            group,
            limits,
            ledger,
            needs,
            words: BTreeMap::new(),
            chains: BTreeMap::new(),
            models: BTreeMap::new(),
            adapters: BTreeMap::new(),
            published: BTreeMap::new(),
            host_seen: false,
            epoch: 0,
            gone: HashMap::new(),
            told: BTreeMap::new(),
            changes: Vec::new(),
        };
        desk.rebind();
        desk
    }

    /// Makes a model known, or changes what is known of it.
    pub(super) fn add_model(&mut self, card: Card, file: FileState) {
        match self.models.get_mut(&card.name) {
            Some(model) => (model.card, model.file) = (card, file),
            None => {
                let model = Model {
                    card,
                    file,
                    calibrations: Vec::new(),
                    pinned: false,
                    engine: Engine::None,
                    want: None,
                    setback: None,
                    used: Timestamp::default(),
                    tried: BTreeSet::new(),
                    laid: BTreeMap::new(),
                };
                self.models.insert(model.card.name.clone(), model);
            }
        }
        self.rebind();
    }

    /// The file of a model or an adapter changed; a former setback no longer counts.
    pub(super) fn set_file(&mut self, name: &str, file: FileState) {
        if let Some(adapter) = self.adapters.get_mut(name) {
            adapter.file = file;
            return;
        }
        let Some(model) = self.models.get_mut(name).filter(|model| model.file != file) else { return };
        model.file = file;
        model.setback = None;
        self.rebind();
    }

    /// What an engine of this profile was measured to take earlier.
    pub(super) fn calibrate(&mut self, name: &str, profile: Profile, calibration: Calibration) {
        if let Some(model) = self.models.get_mut(name) {
            model.calibrations.retain(|(known, _)| *known != profile);
            model.calibrations.push((profile, calibration));
            self.rebind();
        }
    }

    /// Names of all models and adapters.
    pub(super) fn names(&self) -> Vec<String> {
        self.models.keys().chain(self.adapters.keys()).cloned().collect()
    }

    fn model(&self, name: &str) -> Result<&Model, Fault> {
        self.models.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.models.keys().map(String::as_str).collect();
            Fault::not_found(format!("no model `{name}`; known are {}", known.join(", ")))
        })
    }

    /// Refuses a role nobody knows.
    pub(super) fn check_role(&self, role: &Role) -> Result<(), Fault> {
        if self.chains.contains_key(role) {
            return Ok(());
        }
        let known: Vec<&str> = self.chains.keys().map(Role::as_str).collect();
        Err(Fault::not_found(format!("no role `{role}`; known are {}", known.join(", "))))
    }

    /// Refuses a model nobody knows.
    pub(super) fn check_model(&self, name: &str) -> Result<(), Fault> {
        self.model(name).map(drop)
    }

    /// What is known of the file of a model or an adapter.
    pub(super) fn file(&self, name: &str) -> Option<&FileState> {
        let model = self.models.get(name).map(|model| &model.file);
        model.or_else(|| self.adapters.get(name).map(|adapter| &adapter.file))
    }

    /// How an engine of this model would be started now.
    pub(super) fn wanted_profile(&self, name: &str) -> Profile {
        self.profile(name)
    }

    fn need(&self, role: &Role) -> RoleNeed {
        self.needs.get(role).copied().unwrap_or(self.limits.need)
    }
}

impl Model {
    fn estimate(&self, profile: Profile, batch: u32) -> Option<Estimate> {
        let FileState::Here { info, .. } = &self.file else { return None };
        let shape = Shape { context: profile.context_tokens, slots: profile.slots, batch, kv: KvType::default() };
        Some(estimate_memory(info, &shape))
    }

    /// Bytes its lease must have: the measured peak where there is one, else the upper bound of the estimate.
    ///
    /// A peak below the estimate is not believed: pages that were not touched yet, or that the kernel took back, make it
    /// look smaller than the next run may be. The engine too refuses a lease below its estimate. Adapters come on top.
    fn charge(&self, profile: Profile, batch: u32) -> Option<u64> {
        let estimate = self.estimate(profile, batch)?;
        let measured = self.calibration(profile).map(|measured| measured.peak_bytes);
        let bare = measured.map_or(estimate.upper, |peak| peak.max(estimate.total));
        Some(bare.saturating_add(self.adapter_bytes()))
    }

    fn calibration(&self, profile: Profile) -> Option<Calibration> {
        self.calibrations.iter().find(|(known, _)| *known == profile).map(|(_, calibration)| *calibration)
    }

    /// How long a load will take: as long as the last one, else at the pace of a slow disk.
    fn expected_load(&self, profile: Profile) -> Duration {
        const SLOW_DISK: u64 = 200 << 20;
        const START: Duration = Duration::from_secs(1);
        let guess = || START + Duration::from_secs_f64(self.card.file_bytes as f64 / SLOW_DISK as f64);
        self.calibration(profile).and_then(|measured| measured.load).unwrap_or_else(guess)
    }

    /// How its engine was asked to start, if it has one.
    fn ordered(&self) -> Option<Profile> {
        match &self.engine {
            Engine::None => None,
            Engine::Loading(loading) => Some(loading.profile),
            Engine::Up(up) | Engine::Leaving { up, .. } => Some(up.ordered),
        }
    }

    /// The lease of its engine, if it has one.
    fn lease(&self) -> Option<LeaseId> {
        match &self.engine {
            Engine::None => None,
            Engine::Loading(loading) => Some(loading.lease),
            Engine::Up(up) | Engine::Leaving { up, .. } => Some(up.lease),
        }
    }
}

/// `1234 MiB`, rounded up, for sums in messages.
fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}
