//! Which model a role gets, and who stands in where it has none.

use std::collections::BTreeMap;
use std::sync::Arc;

use tandem_types::{Code, Fault, Role};

use super::loading::SHARE_TOO_SMALL;
use super::{AUTO, Desk, FileState, Model, Profile, RoleNeed, TINY, mib};

/// Reason: a model is not made for a role.
pub(super) const UNSUITED: &str = "unsuited";

/// Role and the role that stands in for it, after the column "On one CPU" of the table of roles.
const ALIASES: &[(&str, &str)] = &[
    ("llm.fast", "llm.tiny"),
    ("llm.smart", "llm.fast"),
    ("llm.judge", "llm.fast"),
    ("llm.code", "llm.fast"),
    ("llm.reason", "llm.fast"),
    ("llm.world", "llm.tiny"),
];

fn stand_in(role: &Role) -> Option<Role> {
    let (_, other) = ALIASES.iter().find(|(alias, _)| *alias == role.as_str())?;
    other.parse().ok()
}

/// A model that may answer for a role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    /// The role whose model it is.
    pub(super) role: Role,
    /// The model.
    pub(super) model: String,
}

/// Who answers for a role: its own model first, then who stands in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chain {
    /// In order of preference; no model twice.
    pub(super) links: Arc<[Link]>,
    /// Why the role has no model of its own; none when it has.
    pub(super) lacking: Option<String>,
    /// Nobody bound a model to the role, so a stand-in is what was planned.
    pub(super) planned: bool,
}

impl Desk {
    /// Sets all bindings: role to model or `auto`.
    pub(in super::super) fn set_words(&mut self, words: BTreeMap<Role, String>) {
        self.words = words;
        self.rebind();
    }

    /// Binds one role; what was published for it goes.
    pub(in super::super) fn set_word(&mut self, role: &Role, word: &str) {
        self.words.insert(role.clone(), word.to_owned());
        self.publish(role, None);
    }

    /// What a role is bound to: a model or `auto`; empty when nothing was said.
    pub(in super::super) fn word(&self, role: &Role) -> &str {
        self.words.get(role).map_or("", String::as_str)
    }

    /// The model a role has of its own.
    pub(in super::super) fn own_model(&self, role: &Role) -> Option<String> {
        let link = self.chains.get(role)?.links.first()?;
        (link.role == *role).then(|| link.model.clone())
    }

    /// Whether a role may be bound to a model.
    ///
    /// # Errors
    /// `not_found` for an unknown role or model; `failed_precondition` when the model does not suit the role, or is
    /// larger than the share ever allows.
    pub(in super::super) fn check_binding(&self, role: &Role, word: &str) -> Result<(), Fault> {
        self.check_role(role)?;
        if word == AUTO {
            return Ok(());
        }
        let model = self.model(word)?;
        if !model.card.roles.contains(role) {
            let suits: Vec<&str> = model.card.roles.iter().map(Role::as_str).collect();
            let message = format!("{word} does not suit {role}; it suits {}", suits.join(", "));
            return Err(Fault::new(Code::FailedPrecondition, UNSUITED, message));
        }
        self.check_share(model, self.need(role).profile)
    }

    /// Refuses a model that is larger than the share ever allows.
    pub(super) fn check_share(&self, model: &Model, profile: Profile) -> Result<(), Fault> {
        let profile = model.clamp(profile);
        let Some(charge) = model.charge(profile, self.limits.batch) else { return Ok(()) };
        let budget = self.ledger.budget(&self.group);
        if charge <= budget {
            return Ok(());
        }
        let laid = model.adapter_bytes();
        let adapters = if laid > 0 { format!(" + adapters {}", mib(laid)) } else { String::new() };
        let how = match (model.calibration(profile), model.estimate(profile, self.limits.batch)) {
            (None, Some(e)) => format!(
                "weights {} + context {} ({} tokens for each of {}) + work {} and at most 8 % more{adapters} = {}",
                mib(e.weights),
                mib(e.kv),
                profile.context_tokens,
                profile.slots,
                mib(e.total - e.weights - e.kv),
                mib(charge)
            ),
            _ => format!("{} measured{adapters}", mib(charge - laid)),
        };
        let message = format!("{} needs {how}; the share of {} is {}", model.card.name, self.group, mib(budget));
        Err(Fault::new(Code::FailedPrecondition, SHARE_TOO_SMALL, message))
    }

    /// Works out anew who answers for which role.
    pub(super) fn rebind(&mut self) {
        self.count_adapters();
        let tiny = TINY.parse::<Role>().ok();
        let mut roles: Vec<Role> = self.needs.keys().chain(self.words.keys()).cloned().collect();
        roles.extend(self.models.values().flat_map(|model| model.card.roles.iter().cloned()));
        roles.extend(ALIASES.iter().flat_map(|(a, b)| [a, b]).filter_map(|name| name.parse().ok()));
        // The model that is always resident takes its part of the share before anybody else chooses.
        roles.sort_by_key(|role| (Some(role) != tiny.as_ref(), role.clone()));
        roles.dedup();
        let mut own: BTreeMap<Role, Result<String, String>> = BTreeMap::new();
        for role in &roles {
            let resident = tiny.as_ref().and_then(|tiny| own.get(tiny)).and_then(|model| model.as_deref().ok());
            let chosen = self.choose(role, resident);
            own.insert(role.clone(), chosen);
        }
        self.chains = roles.into_iter().map(|role| (role.clone(), self.chain(&role, &own))).collect();
    }

    fn chain(&self, role: &Role, own: &BTreeMap<Role, Result<String, String>>) -> Chain {
        let mut links: Vec<Link> = Vec::new();
        let mut next = Some(role.clone());
        while let Some(role) = next {
            if let Some(Ok(model)) = own.get(&role)
                && links.iter().all(|link| link.model != *model)
            {
                links.push(Link { role: role.clone(), model: model.clone() });
            }
            next = stand_in(&role);
        }
        let lacking = own.get(role).and_then(|model| model.as_ref().err()).cloned();
        Chain { links: links.into(), lacking, planned: self.word(role).is_empty() && stand_in(role).is_some() }
    }

    /// The model a role has of its own, or why it has none. `resident` is the model that is always loaded.
    fn choose(&self, role: &Role, resident: Option<&str>) -> Result<String, String> {
        let word = self.word(role);
        let none = |why: &str| Err(format!("no model for {role}: {why}"));
        if word.is_empty() {
            return none("the fleet file binds none");
        }
        if word != AUTO {
            return match self.models.get(word).map(|model| &model.file) {
                None => none(&format!("`{word}` is in no catalogue")),
                Some(FileState::Absent(why)) => none(why),
                // A file that is wrong or not checked yet stays bound, so that callers hear just that.
                Some(_) => Ok(word.to_owned()),
            };
        }
        let need = self.need(role);
        let tiny_need = TINY.parse().map_or(self.limits.need, |tiny| self.need(&tiny));
        let budget = self.ledger.budget(&self.group);
        let taken = |name: &str| match resident.filter(|resident| *resident != name) {
            Some(resident) => self.models.get(resident).map_or(0, |model| self.charge_for(model, &tiny_need)),
            None => 0,
        };
        let suits = || self.models.values().filter(|model| model.card.roles.contains(role));
        let fits = |model: &&Model| {
            matches!(model.file, FileState::Here { .. }) && {
                let bytes = self.charge_for(model, &need);
                bytes <= need.at_most && bytes.saturating_add(taken(&model.card.name)) <= budget
            }
        };
        if suits().any(|model| model.file == FileState::Unchecked) {
            // Choosing now could mean loading one model and then a better one.
            return none("its files are being checked");
        }
        let best = suits().filter(fits).max_by_key(|model| (model.card.quality, model.card.file_bytes));
        if let Some(best) = best {
            return Ok(best.card.name.clone());
        }
        let here: Vec<&str> =
            suits().filter(|m| matches!(m.file, FileState::Here { .. })).map(|m| m.card.name.as_str()).collect();
        match (here.is_empty(), suits().next()) {
            (_, None) => none("the catalogue has none"),
            (true, Some(any)) => match &any.file {
                FileState::Absent(why) | FileState::Quarantined(why) => none(why),
                _ => none("its files are being checked"),
            },
            (false, _) => none(&format!(
                "{} is larger than {} of the share or the {} of the role",
                here.join(", "),
                mib(budget),
                mib(need.at_most)
            )),
        }
    }

    fn charge_for(&self, model: &Model, need: &RoleNeed) -> u64 {
        model.charge(model.clamp(need.profile), self.limits.batch).unwrap_or(0)
    }

    /// How the engine of a model is started: so that it serves every role whose own model it is.
    pub(super) fn profile(&self, name: &str) -> Profile {
        let bound = self
            .chains
            .iter()
            .filter(|(role, chain)| chain.links.first().is_some_and(|link| link.role == **role && link.model == name));
        let joined = bound.map(|(role, _)| self.need(role).profile).reduce(Profile::join);
        let model = self.models.get(name);
        let suited = || model.and_then(|model| model.card.roles.first()).map(|role| self.need(role).profile);
        let profile = joined.or_else(suited).unwrap_or(self.limits.need.profile);
        model.map_or(profile, |model| model.clamp(profile))
    }
}

impl Model {
    /// The profile with no more context than the model was made for.
    pub(super) fn clamp(&self, profile: Profile) -> Profile {
        let most = match &self.file {
            FileState::Here { info, .. } => self.card.context_tokens.min(info.context_length),
            _ => self.card.context_tokens,
        };
        Profile { context_tokens: profile.context_tokens.min(most), ..profile }
    }
}
