//! Engines as the desk knows them, and the words it has with those who run them.

use std::time::Duration;

use tandem_engine::LeaseId;
use tandem_types::{Fault, Role, Timestamp};

use super::{Model, Profile};

/// The next load does not wait longer than this for memory to be steady.
pub(super) const SETTLED_ANYWAY: Duration = Duration::from_secs(15);

/// Somebody waits for a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Want {
    /// Since when.
    pub(super) since: Timestamp,
    /// The most urgent caller's, 1 first.
    pub(super) priority: u32,
    /// Until when, unless renewed; none for models that are loaded at start.
    pub(super) until: Option<Timestamp>,
}

/// A load that failed.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Setback {
    pub(super) fault: Fault,
    pub(super) not_before: Timestamp,
    pub(super) times: u32,
}

/// The engine of a model.
#[derive(Debug)]
pub(super) enum Engine {
    /// There is none.
    None,
    /// It is being started.
    Loading(Loading),
    /// It runs.
    Up(Up),
    /// It finishes what it has until then, and ends.
    Leaving { up: Up, until: Timestamp },
}

/// An engine that is being started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Loading {
    pub(super) lease: LeaseId,
    pub(super) since: Timestamp,
    pub(super) expected: Duration,
    pub(super) profile: Profile,
}

/// An engine that runs.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Up {
    /// The host's name for it.
    pub(super) id: String,
    /// Where it answers.
    pub(super) endpoint: String,
    pub(super) lease: LeaseId,
    /// How it was asked to start.
    pub(super) ordered: Profile,
    /// What it says it has.
    pub(super) profile: Profile,
    /// None while it serves; else why it does not.
    pub(super) down: Option<String>,
    /// Only a list asked for at this epoch or later can say that it serves.
    pub(super) doubted: u64,
    pub(super) restarts: u32,
    /// Resident bytes at the last look, and the most so far less those of adapters.
    pub(super) resident: Option<u64>,
    pub(super) peak: u64,
    /// The measurement that the next one is compared with; none once memory is steady.
    pub(super) unsettled: Option<(Timestamp, Option<u64>)>,
    pub(super) load: Duration,
    pub(super) since: Timestamp,
    /// When it last answered a real request.
    pub(super) answered: Timestamp,
    pub(super) busy: u32,
    pub(super) epoch: u64,
}

/// An engine to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Order {
    /// The model.
    pub(in super::super) model: String,
    /// Where its file is.
    pub(in super::super) path: String,
    /// Roles it will serve.
    pub(in super::super) roles: Vec<Role>,
    /// Bytes of its lease, granted already.
    pub(in super::super) bytes: u64,
    /// How it is started.
    pub(in super::super) profile: Profile,
}

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) enum Step {
    /// Start an engine; say [`Desk::started`] or [`Desk::not_started`] after it.
    Start(Order),
    /// Stop an engine; say [`Desk::stopped`] once it is gone.
    Stop {
        /// The model.
        model: String,
        /// The engine.
        engine: String,
    },
    /// Nothing now.
    Rest,
}

/// An engine as its host lists it.
#[derive(Debug, Clone, PartialEq)]
pub(in super::super) struct Seen {
    /// The host's name for it.
    pub(in super::super) id: String,
    /// The model it runs.
    pub(in super::super) model: String,
    /// Where it answers.
    pub(in super::super) endpoint: String,
    /// None while it serves; else why it does not.
    pub(in super::super) down: Option<String>,
    /// The host has given it up.
    pub(in super::super) failed: bool,
    /// Bytes of its lease.
    pub(in super::super) lease_bytes: u64,
    /// Resident bytes as the host measured them.
    pub(in super::super) measured: Option<u64>,
    /// Times the host restarted it.
    pub(in super::super) restarts: u32,
    /// Time from start to ready.
    pub(in super::super) load: Duration,
    /// What the engine says of itself; none when it was not asked or did not answer.
    pub(in super::super) info: Option<Info>,
}

/// What an engine says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Info {
    /// How it was started.
    pub(in super::super) profile: Profile,
    /// Conversations it is busy with.
    pub(in super::super) busy: u32,
    /// Resident bytes.
    pub(in super::super) resident: u64,
    /// When it last answered a real request.
    pub(in super::super) answered: Timestamp,
}

impl Model {
    /// Being loaded, or loaded and its memory not steady yet.
    pub(super) fn is_loading(&self, now: Timestamp) -> bool {
        match &self.engine {
            Engine::Loading(_) => true,
            Engine::Up(up) => up.unsettled.is_some() && up.down.is_none() && now.since(up.since) < SETTLED_ANYWAY,
            _ => false,
        }
    }
}

impl Up {
    pub(super) fn new(seen: &Seen, lease: LeaseId, profile: Profile, now: Timestamp, epoch: u64) -> Self {
        let resident = seen.info.map(|info| info.resident).filter(|bytes| *bytes > 0).or(seen.measured);
        Self {
            id: seen.id.clone(),
            endpoint: seen.endpoint.clone(),
            lease,
            ordered: profile,
            doubted: epoch,
            profile: seen.info.map_or(profile, |info| info.profile),
            down: seen.down.clone(),
            restarts: seen.restarts,
            resident,
            peak: 0,
            unsettled: Some((now, None)),
            load: seen.load,
            since: now,
            answered: seen.info.map_or(Timestamp::default(), |info| info.answered),
            busy: seen.info.map_or(0, |info| info.busy),
            epoch,
        }
    }
}
