//! How everything is doing, in the words of the contract.

use std::time::Duration;

use tandem_types::{Health, Role, State, Timestamp};

use super::engine::Engine;
use super::{Card, Desk, FileState, Published, TINY, Told};

/// An answer this recent proves that an engine can answer.
const CAPABLE: Duration = Duration::from_secs(600);

/// A role as it stands.
#[derive(Debug, Clone, PartialEq)]
pub(in super::super) struct RoleView {
    /// The role.
    pub(in super::super) role: Role,
    /// The model that answers for it; empty when none.
    pub(in super::super) model: String,
    /// How it is doing.
    pub(in super::super) health: Health,
    /// The engine has answered a real request within the last 10 minutes.
    pub(in super::super) capable: bool,
    /// The role whose model answers; empty when it is its own.
    pub(in super::super) bound_to: String,
    /// What is laid over its model for whom.
    pub(in super::super) published: Option<Published>,
}

/// A model as it stands.
#[derive(Debug, Clone, PartialEq)]
pub(in super::super) struct ModelView {
    /// What is known without its file.
    pub(in super::super) card: Card,
    /// Where its file is; empty when it is not here.
    pub(in super::super) path: String,
    /// `absent`, `on_disk`, `loading`, `loaded`, `quarantined`.
    pub(in super::super) state: &'static str,
    /// Why it is in that state.
    pub(in super::super) cause: String,
    /// Bytes it will need, by the estimate; 0 when its file is not here.
    pub(in super::super) estimate_bytes: u64,
    /// Bytes it was measured to need.
    pub(in super::super) measured_bytes: Option<u64>,
    /// Bytes of its lease; 0 when it is not loaded.
    pub(in super::super) leased_bytes: u64,
    /// Bytes resident now.
    pub(in super::super) resident_bytes: Option<u64>,
}

/// Something subscribers want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Change {
    /// The role.
    pub(in super::super) role: Role,
    /// The model that answers for it; empty when none.
    pub(in super::super) model: String,
    /// The adapter that was published last for it; empty when none.
    pub(in super::super) adapter: String,
    /// The role's state.
    pub(in super::super) state: State,
    /// Why.
    pub(in super::super) reason: String,
}

/// The share that pays, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Share {
    pub(in super::super) budget: u64,
    pub(in super::super) leased: u64,
    pub(in super::super) measured: u64,
}

impl Desk {
    /// All roles in order of name.
    pub(in super::super) fn roles(&mut self, now: Timestamp) -> Vec<RoleView> {
        let roles: Vec<Role> = self.chains.keys().cloned().collect();
        roles.iter().filter_map(|role| self.role(role, now)).collect()
    }

    /// One role; none for an unknown one.
    pub(in super::super) fn role(&mut self, role: &Role, now: Timestamp) -> Option<RoleView> {
        let (place, state, cause) = self.judge(role, now)?;
        let link = self.chains.get(role)?.links.get(place);
        let model = link.map_or_else(String::new, |link| link.model.clone());
        let bound_to = link.filter(|link| link.role != *role).map_or_else(String::new, |link| link.role.to_string());
        let capable = self.answered_at(&model).is_some_and(|at| now.since(at) <= CAPABLE);
        let since = self.told.get(role).filter(|told| told.state == state).map_or(now, |told| told.since);
        let published = self.published.get(role).cloned();
        let tell = Told { state, cause: cause.clone(), model: model.clone(), published: published.clone(), since };
        if self.told.get(role) != Some(&tell) {
            self.told.insert(role.clone(), tell);
            let adapter = published.as_ref().map_or_else(String::new, |published| published.adapter.clone());
            let change = Change { role: role.clone(), model: model.clone(), adapter, state, reason: cause.clone() };
            // Only the latest word about a role matters, so what is not told yet stays bounded.
            self.changes.retain(|earlier| earlier.role != *role);
            self.changes.push(change);
        }
        Some(RoleView {
            role: role.clone(),
            model,
            health: Health::new(state, cause, since),
            capable,
            bound_to,
            published,
        })
    }

    /// Place of the link that answers for a role, the role's state, and why.
    fn judge(&self, role: &Role, now: Timestamp) -> Option<(usize, State, String)> {
        let chain = self.chains.get(role)?;
        let lacking = chain.lacking.clone().unwrap_or_default();
        let states: Vec<(State, String)> = chain.links.iter().map(|link| self.state_of(&link.model, now)).collect();
        let Some((state, cause)) = states.first().cloned() else { return Some((0, State::Unavailable, lacking)) };
        let own = chain.lacking.is_none() || chain.planned;
        if own && matches!(state, State::Ready | State::Starting | State::Degraded) {
            return Some(match self.goes_without(role) {
                Some(why) if state == State::Ready => (0, State::Degraded, why),
                _ => (0, state, cause),
            });
        }
        let why = if own { cause.clone() } else { lacking };
        match states.iter().position(|(state, _)| state.serves()) {
            Some(place) => {
                let stands_in = &chain.links[place].role;
                Some((place, State::Degraded, format!("{why}; {stands_in} stands in")))
            }
            None => Some((0, if state == State::Starting { state } else { State::Unavailable }, why)),
        }
    }

    fn answered_at(&self, model: &str) -> Option<Timestamp> {
        match &self.models.get(model)?.engine {
            Engine::Up(up) if up.down.is_none() && up.answered > Timestamp::default() => Some(up.answered),
            _ => None,
        }
    }

    /// What changed for roles since the last call.
    pub(in super::super) fn take_changes(&mut self, now: Timestamp) -> Vec<Change> {
        self.roles(now);
        std::mem::take(&mut self.changes)
    }

    /// Takes back changes that could not be told; what was said about a role since then counts.
    pub(in super::super) fn put_back(&mut self, untold: Vec<Change>) {
        let newer = std::mem::take(&mut self.changes);
        self.changes = untold.into_iter().filter(|old| newer.iter().all(|new| new.role != old.role)).collect();
        self.changes.extend(newer);
    }

    /// All models and adapters in order of name.
    pub(in super::super) fn models(&self, now: Timestamp) -> Vec<ModelView> {
        let mut names = self.names();
        names.sort_unstable();
        names.iter().filter_map(|name| self.view(name, now)).collect()
    }

    /// One model or adapter; none for an unknown one.
    pub(in super::super) fn view(&self, name: &str, now: Timestamp) -> Option<ModelView> {
        let Some(model) = self.models.get(name) else { return self.adapter_view(name) };
        let profile = self.profile(name);
        let (state, cause) = match (&model.engine, &model.file) {
            (Engine::Up(up), _) => ("loaded", up.down.clone().unwrap_or_default()),
            (Engine::Leaving { .. }, _) => ("loaded", "is being unloaded".to_owned()),
            (Engine::Loading(_), _) => ("loading", self.state_of(name, now).1),
            (Engine::None, FileState::Here { .. } | FileState::Adapter { .. }) => {
                ("on_disk", model.setback.as_ref().map_or_else(String::new, |setback| setback.fault.message.clone()))
            }
            (Engine::None, FileState::Unchecked) => ("absent", "its file is being checked".to_owned()),
            (Engine::None, FileState::Absent(why)) => ("absent", why.clone()),
            (Engine::None, FileState::Quarantined(why)) => ("quarantined", why.clone()),
        };
        let lease = model.lease().and_then(|id| self.ledger.leases().find(|(other, _)| *other == id));
        Some(ModelView {
            card: model.card.clone(),
            path: match &model.file {
                FileState::Here { path, .. } => path.to_string_lossy().into_owned(),
                _ => String::new(),
            },
            state,
            cause,
            estimate_bytes: model.estimate(profile, self.limits.batch).map_or(0, |estimate| estimate.total),
            measured_bytes: model.calibration(profile).map(|calibration| calibration.peak_bytes),
            leased_bytes: lease.map_or(0, |(_, lease)| lease.bytes),
            resident_bytes: match &model.engine {
                Engine::Up(up) | Engine::Leaving { up, .. } => up.resident,
                _ => None,
            },
        })
    }

    fn adapter_view(&self, name: &str) -> Option<ModelView> {
        let adapter = self.adapters.get(name)?;
        let (state, cause) = match &adapter.file {
            FileState::Here { .. } | FileState::Adapter { .. } => ("on_disk", String::new()),
            FileState::Unchecked => ("absent", "its file is being checked".to_owned()),
            FileState::Absent(why) => ("absent", why.clone()),
            FileState::Quarantined(why) => ("quarantined", why.clone()),
        };
        Some(ModelView {
            card: adapter.card.clone(),
            path: match &adapter.file {
                FileState::Adapter { path } => path.to_string_lossy().into_owned(),
                _ => String::new(),
            },
            state,
            cause,
            estimate_bytes: adapter.card.file_bytes,
            measured_bytes: None,
            leased_bytes: 0,
            resident_bytes: None,
        })
    }

    /// Roles whose own model this is.
    pub(super) fn roles_of(&self, name: &str) -> Vec<Role> {
        let mut roles: Vec<Role> = self
            .chains
            .iter()
            .filter(|(role, chain)| chain.links.first().is_some_and(|link| link.role == **role && link.model == name))
            .map(|(role, _)| role.clone())
            .collect();
        roles.sort_by_key(|role| role.as_str() != TINY);
        roles
    }

    /// The share in numbers.
    pub(in super::super) fn share(&self) -> Share {
        let resident = |name: &String| {
            self.models.get(name).and_then(|model| match &model.engine {
                Engine::Up(up) | Engine::Leaving { up, .. } => up.resident,
                _ => None,
            })
        };
        Share {
            budget: self.ledger.budget(&self.group),
            leased: self.ledger.leased(&self.group),
            measured: self.models.keys().filter_map(resident).sum(),
        }
    }
}
