//! Adapters: which are known, for whose model, which conversations get which, and what they take of the share.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest as _, Sha256};
use tandem_store::models::Published;
use tandem_types::{Code, Fault, Role, reason};

use super::binding::UNSUITED;
use super::loading::{SHARE_FULL, SHARE_TOO_SMALL};
use super::{Card, Desk, FAST, FileState, Model, mib};

/// The role that is asked again where an answer of [`FAST`] is not certain enough.
const SMART: &str = "llm.smart";

/// An adapter: small weights laid over a model's own.
#[derive(Debug)]
pub(super) struct Adapter {
    pub(super) card: Card,
    pub(super) file: FileState,
}

/// The adapter that a conversation gets: the one published, or that of the others. The same conversation gets the same
/// each time, and keeps the published one when its share grows.
pub(super) fn share<'p>(published: &'p Published, conversation: &str) -> Option<&'p str> {
    if percentile(conversation, &published.adapter) < u64::from(published.percent) {
        return Some(&published.adapter);
    }
    published.others.as_deref()
}

/// 0 to 99. Each adapter meets other conversations, so that it is not always the same ones that try something.
fn percentile(conversation: &str, adapter: &str) -> u64 {
    let hash = Sha256::new().chain_update(adapter).chain_update([0]).chain_update(conversation).finalize();
    hash.iter().take(8).fold(0, |number, byte| (number << 8) | u64::from(*byte)) % 100
}

impl Desk {
    /// Makes an adapter known, or changes what is known of it.
    pub(in super::super) fn add_adapter(&mut self, card: Card, file: FileState) {
        self.adapters.insert(card.name.clone(), Adapter { card, file });
        self.rebind();
    }

    /// Sets what is published for all roles.
    pub(in super::super) fn set_published(&mut self, published: BTreeMap<Role, Published>) {
        self.published = published;
        self.rebind();
    }

    /// Publishes an adapter for a role, or none.
    pub(in super::super) fn publish(&mut self, role: &Role, published: Option<Published>) {
        let before = self.published.remove(role);
        for name in before.iter().flat_map(|one| [Some(&one.adapter), one.others.as_ref()]).flatten() {
            let base = self.adapters.get(name).and_then(|adapter| adapter.card.base.clone()).unwrap_or_default();
            // The engine holds it a while longer.
            if let Some(model) = self.models.get_mut(&base).filter(|model| model.lease().is_some()) {
                model.tried.insert(name.clone());
            }
        }
        self.published.extend(published.map(|published| (role.clone(), published)));
        self.rebind();
        self.charge_all();
    }

    /// What publishing an adapter for a share of a role's conversations comes to: the role's model, and what the others get.
    ///
    /// # Errors
    /// `not_found` for an unknown role or adapter; `failed_precondition` when the role has another model than the one it
    /// was made for, or there is no room for it; what is wrong with its file.
    pub(in super::super) fn check_publishing(
        &self,
        role: &Role,
        name: &str,
        percent: u8,
    ) -> Result<(String, Published), Fault> {
        self.check_role(role)?;
        let base = self.base_of(name)?;
        if self.own_model(role).as_deref() != Some(base) {
            let has = self.own_model(role).map_or("has no model of its own".to_owned(), |own| format!("has {own}"));
            let message = format!("{name} was made for {base} and {role} {has}; bind {role} to {base} first");
            return Err(Fault::new(Code::FailedPrecondition, UNSUITED, message));
        }
        self.check_adapter(base, name)?;
        let others = self.published.get(role).and_then(|standing| match standing.percent {
            100 => Some(standing.adapter.clone()).filter(|other| other != name),
            _ => standing.others.clone().filter(|other| other != name),
        });
        let others = others.filter(|_| percent < 100);
        Ok((base.to_owned(), Published { adapter: name.to_owned(), percent, others }))
    }

    /// Refuses an adapter that cannot be laid over a model now.
    ///
    /// # Errors
    /// As for [`Desk::check_publishing`].
    pub(in super::super) fn check_adapter(&self, model: &str, name: &str) -> Result<(), Fault> {
        let base = self.base_of(name)?;
        if base != model {
            let message = format!("{name} was made for {base} and not for {model}");
            return Err(Fault::new(Code::FailedPrecondition, UNSUITED, message));
        }
        match self.adapters.get(name).map(|adapter| &adapter.file) {
            Some(FileState::Quarantined(why)) => {
                Err(Fault::new(Code::Internal, reason::DISK, format!("{name} is in quarantine: {why}")))
            }
            Some(FileState::Absent(why)) => Err(Fault::new(Code::FailedPrecondition, reason::NO_SUCH, why.clone())),
            _ => self.check_room(model, name),
        }
    }

    /// Whether the share has room for an adapter beside its model.
    fn check_room(&self, base: &str, name: &str) -> Result<(), Fault> {
        let (model, profile) = (self.model(base)?, self.profile(base));
        let bytes = self.adapters.get(name).map_or(0, |adapter| adapter.card.file_bytes);
        if model.laid.contains_key(name) {
            return Ok(());
        }
        let Some(charge) = model.charge(profile, self.limits.batch) else { return Ok(()) };
        let (budget, group) = (self.ledger.budget(&self.group), &self.group);
        let needs = format!("{name} needs {} beside the {} of {base}", mib(bytes), mib(charge));
        if charge.saturating_add(bytes) > budget {
            let message = format!("{needs}; the share of {group} is {}", mib(budget));
            return Err(Fault::new(Code::FailedPrecondition, SHARE_TOO_SMALL, message));
        }
        let free = self.ledger.free(group);
        if model.lease().is_some() && bytes > free {
            let message = format!("{needs}; {} of the {} of {group} are free: unload a model", mib(free), mib(budget));
            return Err(Fault::new(Code::FailedPrecondition, SHARE_FULL, message));
        }
        Ok(())
    }

    /// Notes that the engine of a model may hold an adapter from now on.
    pub(in super::super) fn hold_adapter(&mut self, model: &str, name: &str) {
        if let Some(model) = self.models.get_mut(model) {
            model.tried.insert(name.to_owned());
        }
        self.rebind();
        self.charge_all();
    }

    /// The model an adapter was made for.
    ///
    /// # Errors
    /// `not_found` for an unknown adapter.
    pub(in super::super) fn base_of(&self, name: &str) -> Result<&str, Fault> {
        self.adapters.get(name).and_then(|adapter| adapter.card.base.as_deref()).ok_or_else(|| {
            let known: Vec<&str> = self.adapters.keys().map(String::as_str).collect();
            let known =
                if known.is_empty() { "none is known".to_owned() } else { format!("known are {}", known.join(", ")) };
            Fault::not_found(format!("no adapter `{name}`; {known}"))
        })
    }

    /// What is known of an adapter, if there is one of this name.
    pub(in super::super) fn adapter(&self, name: &str) -> Option<&Card> {
        self.adapters.get(name).map(|adapter| &adapter.card)
    }

    /// The adapter that a conversation gets with a role's own model, and whether others may get another.
    pub(super) fn adapter_for(&self, role: &Role, model: &str, conversation: &str) -> (Option<String>, bool) {
        let Some(published) = self.published.get(role) else { return (None, false) };
        let chosen = share(published, conversation).filter(|name| self.lies(name, model));
        (chosen.map(str::to_owned), published.percent < 100)
    }

    /// Whether an adapter can be laid over a model.
    fn lies(&self, name: &str, model: &str) -> bool {
        let fits = |adapter: &&Adapter| adapter.card.base.as_deref() == Some(model);
        // After a start nobody has looked yet, and the engine looks itself.
        let here = |adapter: &Adapter| matches!(adapter.file, FileState::Adapter { .. } | FileState::Unchecked);
        self.adapters.get(name).filter(fits).is_some_and(here)
    }

    /// Why conversations of a role go without what was published for it; none when they do not.
    pub(super) fn goes_without(&self, role: &Role) -> Option<String> {
        let published = self.published.get(role)?;
        let names = [Some(&published.adapter), published.others.as_ref()];
        let missing = names.into_iter().flatten().find_map(|name| match self.adapters.get(name).map(|a| &a.file) {
            Some(FileState::Quarantined(why)) => Some((name, format!("is in quarantine: {why}"))),
            Some(FileState::Absent(why)) => Some((name, format!("is not here: {why}"))),
            Some(_) => None,
            None => Some((name, "is not known".to_owned())),
        });
        missing.map(|(name, why)| format!("adapter {name} {why}; answers go without it"))
    }

    /// The role to ask again when an answer of this ticket is not certain enough.
    pub(super) fn ask_again(&self, asked: &Role, model: &str) -> Option<Role> {
        let smart: Role = SMART.parse().ok()?;
        let better = self.own_model(&smart).filter(|better| better != model)?;
        (asked.as_str() == FAST && self.own_model(asked).is_none_or(|own| own != better)).then_some(smart)
    }

    /// Counts for each model the adapters that its engine holds or will.
    pub(super) fn count_adapters(&mut self) {
        let published = self.published.values().flat_map(|one| [Some(&one.adapter), one.others.as_ref()]);
        let published: BTreeSet<&String> = published.flatten().collect();
        for (name, model) in &mut self.models {
            let mine = self.adapters.values().filter(|adapter| adapter.card.base.as_ref() == Some(name));
            let held = mine.filter(|a| published.contains(&a.card.name) || model.tried.contains(&a.card.name));
            model.laid = held.map(|adapter| (adapter.card.name.clone(), adapter.card.file_bytes)).collect();
        }
    }

    /// Charges leases with what their models take now.
    fn charge_all(&mut self) {
        for model in self.models.values() {
            let (Some(lease), Some(profile)) = (model.lease(), model.ordered()) else { continue };
            let leased = self.ledger.leases().find(|(id, _)| *id == lease).map_or(0, |(_, lease)| lease.bytes);
            // A lease that was granted for more goes down only once memory was measured.
            if let Some(bytes) = model.charge(profile, self.limits.batch).filter(|bytes| *bytes > leased) {
                // Room was looked for before; what has none all the same shows as measured bytes above leased ones.
                let _ = self.ledger.resize(lease, bytes);
            }
        }
    }
}

impl Model {
    /// Bytes of the adapters that its engine holds or will.
    pub(super) fn adapter_bytes(&self) -> u64 {
        self.laid.values().sum()
    }
}
