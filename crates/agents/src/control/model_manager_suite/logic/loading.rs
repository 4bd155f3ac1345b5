//! What starts and what gives way. One load at a time.

use std::time::Duration;

use tandem_types::{Code, Fault, Role, Timestamp, reason};

use super::engine::{Engine, Loading, Order, Seen, Setback, Step, Up, Want};
use super::room::{Resident, victims};
use super::{Desk, FAST, FileState, Model, TINY, mib};

/// Reason: a share is smaller than the model, whatever else is unloaded.
pub(super) const SHARE_TOO_SMALL: &str = "share_too_small";
/// Reason: a share is taken by models that are in use.
pub(super) const SHARE_FULL: &str = "share_full";
/// Reason: a model is never unloaded.
const ALWAYS_RESIDENT: &str = "always_resident";

/// A wish that nobody renews is dropped after this long.
const WISH: Duration = Duration::from_secs(30);
/// First pause after a load that failed; it doubles.
pub(super) const PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

impl Desk {
    /// Asks for the models that are loaded at start: that of `llm.tiny`, then that of `llm.fast` when it fits.
    pub(in super::super) fn warm_up(&mut self, now: Timestamp) {
        for (role, priority) in [(TINY, 0), (FAST, 1)] {
            let own = role.parse::<Role>().ok().and_then(|role| Some((self.chains.get(&role)?.links.first()?, role)));
            let Some(name) = own.filter(|(link, role)| link.role == *role).map(|(link, _)| link.model.clone()) else {
                continue;
            };
            if let Some(model) = self.models.get_mut(&name).filter(|model| matches!(model.engine, Engine::None)) {
                model.want.get_or_insert(Want { since: now, priority, until: None });
            }
        }
    }

    /// Notes that somebody wants a model until `until`.
    pub(in super::super) fn wish(&mut self, name: &str, priority: u32, until: Timestamp, now: Timestamp) {
        let Some(model) = self.models.get_mut(name) else { return };
        model.used = model.used.max(now);
        if !matches!(model.engine, Engine::None | Engine::Leaving { .. }) {
            return;
        }
        let until = until.max(now + WISH);
        let want = model.want.get_or_insert(Want { since: now, priority, until: Some(until) });
        want.priority = want.priority.min(priority);
        want.until = want.until.map(|kept| kept.max(until));
    }

    /// What is to be done next; the desk counts on it being done.
    pub(in super::super) fn next_step(&mut self, now: Timestamp) -> Step {
        if !self.host_seen {
            return Step::Rest;
        }
        if let Some(step) = self.next_stop(now) {
            return step;
        }
        if self.models.values().any(|model| model.is_loading(now)) {
            return Step::Rest;
        }
        self.keep_resident(now);
        if let Some(step) = self.replace_outgrown(now) {
            return step;
        }
        for name in self.wanted(now) {
            match self.try_start(&name, now) {
                Some(step) => return step,
                None => continue,
            }
        }
        Step::Rest
    }

    /// `llm.tiny` is wanted at all times.
    fn keep_resident(&mut self, now: Timestamp) {
        let Some(tiny) = self.tiny().map(str::to_owned) else { return };
        if let Some(model) = self.models.get_mut(&tiny).filter(|model| matches!(model.engine, Engine::None)) {
            model.want = Some(Want { since: now, priority: 0, until: None });
        }
    }

    /// An idle engine whose roles need more context or slots than it was started with is started anew.
    fn replace_outgrown(&mut self, now: Timestamp) -> Option<Step> {
        let outgrown = self.models.iter().find_map(|(name, model)| match &model.engine {
            Engine::Up(up) if !up.ordered.covers(self.profile(name)) && !self.in_use(name, now) => Some(name.clone()),
            _ => None,
        })?;
        self.begin_leaving(&outgrown, now);
        self.wish(&outgrown, 1, now, now);
        self.next_stop(now)
    }

    fn next_stop(&self, now: Timestamp) -> Option<Step> {
        self.models.iter().find_map(|(name, model)| match &model.engine {
            Engine::Leaving { up, until } if now >= *until || !self.in_use(name, now) => {
                Some(Step::Stop { model: name.clone(), engine: up.id.clone() })
            }
            _ => None,
        })
    }

    /// Wanted models, the most urgent first; wishes past their time are dropped.
    fn wanted(&mut self, now: Timestamp) -> Vec<String> {
        let mut wanted = Vec::new();
        for (name, model) in &mut self.models {
            model.want.take_if(|want| want.until.is_some_and(|until| until <= now));
            let paused = model.setback.as_ref().is_some_and(|setback| setback.not_before > now);
            let here = matches!(model.file, FileState::Here { .. });
            if let (Some(want), Engine::None, false, true) = (&model.want, &model.engine, paused, here) {
                wanted.push(((want.priority, want.since), name.clone()));
            }
        }
        wanted.sort();
        wanted.into_iter().map(|(_, name)| name).collect()
    }

    fn try_start(&mut self, name: &str, now: Timestamp) -> Option<Step> {
        let profile = self.profile(name);
        let model = self.models.get(name)?;
        let bytes = model.charge(profile, self.limits.batch)?;
        let FileState::Here { path, .. } = &model.file else { return None };
        let path = path.to_string_lossy().into_owned();
        if let Err(fault) = self.check_share(model, profile) {
            self.set_back(name, fault, LONGEST_PAUSE, now);
            return None;
        }
        let leave = victims(&self.residents(now), self.ledger.free(&self.group), bytes)?;
        if !leave.is_empty() {
            for victim in leave {
                self.begin_leaving(&victim, now);
            }
            return self.next_stop(now);
        }
        let bound = self.roles_of(name);
        // One that is loaded by name serves what it suits.
        let roles = if bound.is_empty() { model.card.roles.clone() } else { bound };
        let group = self.group.clone();
        let lease = self.ledger.grant(&group, roles.first()?, bytes).ok()?;
        let expected = self.models.get(name)?.expected_load(profile);
        let model = self.models.get_mut(name)?;
        model.engine = Engine::Loading(Loading { lease, since: now, expected, profile });
        Some(Step::Start(Order { model: name.to_owned(), path, roles, bytes, profile }))
    }

    /// Whether room for a model can be made now.
    pub(super) fn has_room(&self, name: &str, now: Timestamp) -> bool {
        let Some(model) = self.models.get(name) else { return false };
        let bytes = model.charge(self.profile(name), self.limits.batch);
        bytes.is_some_and(|bytes| victims(&self.residents(now), self.ledger.free(&self.group), bytes).is_some())
    }

    /// Who holds how much of the share, in words.
    pub(super) fn holders(&self, now: Timestamp) -> String {
        let held = |resident: Resident| {
            let users = self.tickets.users(&resident.name, now);
            let of = if users.is_empty() { String::new() } else { format!(" (used by {})", users.join(" and ")) };
            format!("{} {}{of}", resident.name, mib(resident.bytes))
        };
        self.residents(now).into_iter().map(held).collect::<Vec<_>>().join(", ")
    }

    /// Loaded models; those being started or stopped stay, because their bytes are not to be had by asking.
    fn residents(&self, now: Timestamp) -> Vec<Resident> {
        let tiny = self.tiny();
        let leases = |model: &Model| {
            let lease = model.lease()?;
            self.ledger.leases().find(|(id, _)| *id == lease).map(|(_, lease)| lease.bytes)
        };
        let resident = |(name, model): (&String, &Model)| {
            let may_leave = matches!(&model.engine, Engine::Up(_))
                && !model.pinned
                && tiny != Some(name.as_str())
                && !self.in_use(name, now);
            Some(Resident { name: name.clone(), bytes: leases(model)?, used: model.used, may_leave })
        };
        self.models.iter().filter_map(resident).collect()
    }

    /// The model that is always resident.
    pub(super) fn tiny(&self) -> Option<&str> {
        let chain = self.chains.get(&TINY.parse::<Role>().ok()?)?;
        chain.links.first().map(|link| link.model.as_str())
    }

    /// An answer is under way, or a ticket was given or used a moment ago. Holders may keep a ticket for later use, so
    /// having one out is not being in use.
    fn in_use(&self, name: &str, now: Timestamp) -> bool {
        let busy = match self.models.get(name).map(|model| &model.engine) {
            Some(Engine::Up(up) | Engine::Leaving { up, .. }) => up.busy > 0 && up.down.is_none(),
            _ => false,
        };
        busy || self.tickets.busy(name, now)
    }

    /// The engine started and is ready.
    pub(in super::super) fn started(&mut self, name: &str, seen: &Seen, now: Timestamp) {
        self.epoch += 1;
        let epoch = self.epoch;
        let Some(model) = self.models.get_mut(name) else { return };
        let Engine::Loading(loading) = &model.engine else { return };
        model.want = None;
        model.setback = None;
        model.used = model.used.max(loading.since);
        let mut up = Up::new(seen, loading.lease, loading.profile, now, epoch);
        up.load = if seen.load.is_zero() { now.since(loading.since) } else { seen.load };
        model.engine = Engine::Up(up);
        self.measure(name, now);
    }

    /// The engine did not start. It is tried again after a pause, which grows unless there was only no room for it.
    pub(in super::super) fn not_started(&mut self, name: &str, fault: Fault, now: Timestamp) {
        self.epoch += 1;
        let Some(model) = self.models.get_mut(name) else { return };
        let Engine::Loading(loading) = &model.engine else { return };
        self.ledger.release(loading.lease);
        model.engine = Engine::None;
        let failed = model.setback.as_ref().map_or(0, |setback| setback.times);
        let times = if fault.code == Code::ResourceExhausted { 0 } else { failed };
        let pause = PAUSE.saturating_mul(1 << times.min(10)).min(LONGEST_PAUSE);
        self.set_back(name, fault, pause, now);
    }

    pub(super) fn set_back(&mut self, name: &str, fault: Fault, pause: Duration, now: Timestamp) {
        if let Some(model) = self.models.get_mut(name) {
            let times = model.setback.as_ref().map_or(0, |setback| setback.times) + 1;
            model.setback = Some(Setback { fault, not_before: now + pause, times });
        }
    }

    /// No new tickets for this engine; it ends once nobody uses it, or at `until`.
    fn begin_leaving(&mut self, name: &str, until: Timestamp) {
        let Some(model) = self.models.get_mut(name) else { return };
        model.engine = match std::mem::replace(&mut model.engine, Engine::None) {
            Engine::Up(up) => Engine::Leaving { up, until },
            Engine::Leaving { up, until: before } => Engine::Leaving { up, until: until.min(before) },
            other => other,
        };
    }

    /// Begins to unload a model: no new tickets, and it ends when those out have ended or at `until`. False when it is
    /// not loaded.
    ///
    /// # Errors
    /// `not_found`; `failed_precondition` for the model that is always resident; `unavailable` while it is loading.
    pub(in super::super) fn unload(&mut self, name: &str, until: Timestamp) -> Result<bool, Fault> {
        let loading = matches!(self.model(name)?.engine, Engine::Loading(_));
        if self.tiny() == Some(name) {
            let message = format!("{name} serves {TINY}, which is always resident; bind {TINY} to another model first");
            return Err(Fault::new(Code::FailedPrecondition, ALWAYS_RESIDENT, message));
        }
        if loading {
            let message = format!("{name} is being loaded; unload it once it is");
            return Err(Fault::unavailable(reason::MODEL_LOADING, message).retry_after(Duration::from_secs(1)));
        }
        if let Some(model) = self.models.get_mut(name) {
            model.want = None;
            model.pinned = false;
        }
        self.begin_leaving(name, until);
        Ok(self.model(name)?.lease().is_some())
    }

    /// Whether a model is being unloaded.
    pub(in super::super) fn is_leaving(&self, name: &str) -> bool {
        self.models.get(name).is_some_and(|model| matches!(model.engine, Engine::Leaving { .. }))
    }

    /// Keeps a model loaded, or no longer.
    pub(in super::super) fn pin(&mut self, name: &str, pinned: bool) {
        if let Some(model) = self.models.get_mut(name) {
            model.pinned = pinned;
        }
    }

    /// An engine is gone from its host's list; its lease comes back. How many bytes were resident at the last look.
    pub(in super::super) fn stopped(&mut self, name: &str) -> Option<u64> {
        self.epoch += 1;
        let model = self.models.get_mut(name)?;
        let (Engine::Up(up) | Engine::Leaving { up, .. }) = std::mem::replace(&mut model.engine, Engine::None) else {
            return None;
        };
        self.ledger.release(up.lease);
        model.tried.clear();
        self.gone.insert(up.id, self.epoch);
        self.tickets.end(name);
        self.count_adapters();
        up.resident
    }
}
