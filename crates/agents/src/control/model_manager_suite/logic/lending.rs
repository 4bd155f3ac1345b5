//! Tickets: who may use which engine, until when, and what it was used for.

use std::time::Duration;

use tandem_types::{Code, Fault, Role, State, Timestamp, reason};

use super::binding::{Link, UNSUITED};
use super::engine::{Engine, Up};
use super::loading::SHARE_FULL;
use super::tickets::Held;
use super::{Desk, FileState, mib};

/// When to ask again for an engine that is being restarted.
const RESTART: Duration = Duration::from_secs(1);

/// What somebody asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Ask {
    /// The role.
    pub(in super::super) role: Role,
    /// Tokens of prompt and answer together; 0 for whatever there is.
    pub(in super::super) context_tokens: u32,
    /// The turn's priority, 1 first.
    pub(in super::super) priority: u32,
    /// Who asks.
    pub(in super::super) holder: String,
    /// The language of the answer; empty for any.
    pub(in super::super) language: String,
    /// Least quality of the model; 0 for any.
    pub(in super::super) min_quality: u64,
    /// Until when the caller waits.
    pub(in super::super) until: Timestamp,
    /// The conversation; empty for none.
    pub(in super::super) conversation: String,
}

/// What is lent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Grant {
    /// The ticket.
    pub(in super::super) ticket: String,
    /// Base address of the engine.
    pub(in super::super) endpoint: String,
    /// The model.
    pub(in super::super) model: String,
    /// The role whose model it is.
    pub(in super::super) bound_to: Role,
    /// Why another role's model stands in; empty when none does.
    pub(in super::super) fallback: String,
    /// Tokens of one conversation.
    pub(in super::super) context_tokens: u32,
    /// Conversations side by side.
    pub(in super::super) slots: u32,
    /// When it ends.
    pub(in super::super) expires: Timestamp,
    /// The adapter to lay over the model.
    pub(in super::super) adapter: Option<String>,
    /// Another conversation may get another adapter.
    pub(in super::super) one_conversation: bool,
    /// The role to ask again when an answer is not certain enough.
    pub(in super::super) ask_again: Option<Role>,
}

/// The answer to an [`Ask`].
#[derive(Debug, Clone, PartialEq)]
pub(in super::super) enum Answer {
    /// Here it is.
    Lent(Grant),
    /// Not now; asking again after a change may help. The fault is for a caller who does not wait.
    Wait(Fault),
    /// No, and waiting does not help.
    Refused(Fault),
}

/// What a ticket was used for, for the books.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Use {
    /// The model.
    pub(in super::super) model: String,
    /// The role that was asked for.
    pub(in super::super) role: Role,
}

/// How a model would answer now.
enum Status<'d> {
    Serves(&'d Up),
    /// It is on its way.
    Coming(Fault),
    /// In the way are models in use.
    Blocked(Fault),
    /// Its engine ended and comes back.
    Down(Fault),
    /// It does not come.
    Broken(Fault),
}

impl Desk {
    /// Lends an engine for a role: its own model's, else that of a role that stands in.
    ///
    /// A model that is on its way is waited for; a stand-in answers only where the own model is missing, broken, down,
    /// or has no room by the time the caller stops waiting. Of all these a model that declares the language of the answer
    /// goes before one that does not.
    pub(in super::super) fn acquire(&mut self, ask: &Ask, ticket: String, now: Timestamp) -> Answer {
        let Some(chain) = self.chains.get(&ask.role) else {
            return Answer::Refused(
                self.check_role(&ask.role).err().unwrap_or_else(|| Fault::no_model(ask.role.as_str())),
            );
        };
        let (links, lacking) = (self.fitting(&chain.links, ask), chain.lacking.clone());
        if self.tickets.all_out(now) {
            let message = format!("all {} tickets are out; give them back after use", self.limits.tickets);
            let fault = Fault::new(Code::ResourceExhausted, reason::QUEUE_FULL, message).retry_after(RESTART);
            return Answer::Wait(fault);
        }
        let passed_over = match (chain.links.first(), links.first()) {
            (Some(own), None) => return Answer::Refused(self.too_plain(ask, own)),
            (Some(own), Some(first)) if own != first => Some(self.passed_over(ask, own)),
            _ => None,
        };
        let mut why = lacking.or(passed_over);
        let mut first: Option<Fault> = None;
        let mut comes = false;
        for (place, link) in links.iter().enumerate() {
            let fault = match self.status(&link.model, now) {
                Status::Serves(up) if ask.context_tokens > up.profile.context_tokens => {
                    let fault = too_long(ask, link, up.profile.context_tokens);
                    if place == 0 && link.role == ask.role {
                        return Answer::Refused(fault);
                    }
                    fault
                }
                Status::Serves(_) => {
                    let fallback = if link.role == ask.role { String::new() } else { why.unwrap_or_default() };
                    return self.lend(ask, link, fallback, ticket, now);
                }
                Status::Coming(fault) => {
                    self.wish(&link.model, ask.priority, ask.until, now);
                    if place == 0 {
                        return Answer::Wait(fault);
                    }
                    comes = true;
                    fault
                }
                Status::Blocked(fault) => {
                    self.wish(&link.model, ask.priority, ask.until, now);
                    if place == 0 && now < ask.until {
                        return Answer::Wait(fault);
                    }
                    fault
                }
                Status::Down(fault) => {
                    comes = true;
                    fault
                }
                Status::Broken(fault) => fault,
            };
            why.get_or_insert_with(|| fault.message.clone());
            first.get_or_insert(fault);
        }
        match first {
            Some(fault) if comes => Answer::Wait(fault),
            Some(fault) => Answer::Refused(fault),
            None => Answer::Refused(Fault::no_model(ask.role.as_str())),
        }
    }

    /// Of those who may answer the ones that are good enough, in the order in which they are tried.
    fn fitting(&self, links: &[Link], ask: &Ask) -> Vec<Link> {
        let good = |link: &&Link| self.models.get(&link.model).is_some_and(|m| m.card.quality >= ask.min_quality);
        let mut fitting: Vec<Link> = links.iter().filter(|link| ask.min_quality == 0 || good(link)).cloned().collect();
        if !ask.language.is_empty() {
            // The order stays among those who speak it, and among those who do not.
            fitting.sort_by_key(|link| !self.models.get(&link.model).is_some_and(|m| m.card.speaks(&ask.language)));
        }
        fitting
    }

    /// Why a role's own model is not the first to be tried.
    fn passed_over(&self, ask: &Ask, own: &Link) -> String {
        let quality = self.models.get(&own.model).map_or(0, |model| model.card.quality);
        if quality < ask.min_quality {
            return self.too_plain(ask, own).message;
        }
        format!("{} does not declare `{}`", own.model, ask.language)
    }

    fn too_plain(&self, ask: &Ask, own: &Link) -> Fault {
        let quality = self.models.get(&own.model).map_or(0, |model| model.card.quality);
        let message = format!("{} has quality {quality}, and {} is asked for", own.model, ask.min_quality);
        Fault::new(Code::FailedPrecondition, UNSUITED, message)
    }

    /// Lends the engine of a model to somebody who asks for no role; where it listens.
    ///
    /// # Errors
    /// Why it does not serve just now.
    pub(in super::super) fn lend_model(
        &mut self,
        name: &str,
        holder: String,
        ticket: &str,
        now: Timestamp,
    ) -> Result<String, Fault> {
        let endpoint = match self.status(name, now) {
            Status::Serves(up) => up.endpoint.clone(),
            Status::Coming(fault) | Status::Blocked(fault) | Status::Down(fault) | Status::Broken(fault) => {
                return Err(fault);
            }
        };
        let role = self.model(name)?.card.roles.first().cloned().ok_or_else(|| Fault::no_model(name))?;
        let held = Held::new(name.to_owned(), role, holder, now + self.limits.ticket_life, now);
        self.tickets.give(ticket.to_owned(), held);
        Ok(endpoint)
    }

    fn lend(&mut self, ask: &Ask, link: &Link, fallback: String, ticket: String, now: Timestamp) -> Answer {
        let expires = now + self.limits.ticket_life;
        // Who asks for another role gets its stand-in as it is: what is published for a role is for those who ask for it.
        let (adapter, one_conversation) = if link.role == ask.role {
            let conversation = if ask.conversation.is_empty() { &ticket } else { &ask.conversation };
            self.adapter_for(&ask.role, &link.model, conversation)
        } else {
            (None, false)
        };
        let ask_again = self.ask_again(&ask.role, &link.model);
        let Some(model) = self.models.get_mut(&link.model) else {
            return Answer::Refused(Fault::no_model(ask.role.as_str()));
        };
        let Engine::Up(up) = &model.engine else { return Answer::Refused(Fault::no_model(ask.role.as_str())) };
        model.used = model.used.max(now);
        let grant = Grant {
            ticket: ticket.clone(),
            endpoint: up.endpoint.clone(),
            model: link.model.clone(),
            bound_to: link.role.clone(),
            fallback,
            context_tokens: up.profile.context_tokens,
            slots: up.profile.slots,
            expires,
            adapter,
            one_conversation,
            ask_again,
        };
        let holder = ask.holder.clone();
        self.tickets.give(ticket, Held::new(link.model.clone(), ask.role.clone(), holder, expires, now));
        Answer::Lent(grant)
    }

    fn status(&self, name: &str, now: Timestamp) -> Status<'_> {
        let Some(model) = self.models.get(name) else {
            return Status::Broken(Fault::not_found(format!("no model `{name}`")));
        };
        match (&model.engine, &model.file) {
            (Engine::Up(up), _) => match &up.down {
                None => Status::Serves(up),
                Some(cause) => {
                    let message = format!("{cause}; it is being started again");
                    Status::Down(Fault::unavailable(reason::ENGINE_LOST, message).retry_after(RESTART))
                }
            },
            (Engine::Loading(loading), _) => {
                let passed = now.since(loading.since);
                let left = loading.expected.saturating_sub(passed).max(Duration::from_millis(250));
                let share = passed.as_secs_f64() / loading.expected.as_secs_f64().max(0.001);
                let percent = (share * 100.0).min(99.0);
                let message = format!("{name} is loading: {percent:.0} %, about {:.1} s left", left.as_secs_f64());
                Status::Coming(Fault::unavailable(reason::MODEL_LOADING, message).retry_after(left))
            }
            (_, FileState::Unchecked) => {
                let message = format!("the file of {name} is being checked");
                Status::Coming(Fault::unavailable(reason::MODEL_LOADING, message).retry_after(RESTART))
            }
            (_, FileState::Absent(why)) => Status::Broken(Fault::unavailable(reason::NO_MODEL, why.clone())),
            (_, FileState::Quarantined(why)) => {
                Status::Broken(Fault::new(Code::Internal, reason::DISK, format!("{name} is in quarantine: {why}")))
            }
            (Engine::None | Engine::Leaving { .. }, FileState::Here { .. } | FileState::Adapter { .. }) => {
                self.prospect(name, now)
            }
        }
    }

    /// What is to be expected of a model that is on disk and not loaded.
    fn prospect(&self, name: &str, now: Timestamp) -> Status<'_> {
        let Some(model) = self.models.get(name) else { return Status::Broken(Fault::no_model(name)) };
        if let Some(setback) = model.setback.as_ref().filter(|setback| setback.not_before > now) {
            let fault = setback.fault.clone().retry_after(setback.not_before.since(now));
            return if fault.reason == reason::ENGINE_LOST { Status::Down(fault) } else { Status::Broken(fault) };
        }
        let profile = self.profile(name);
        if let Err(fault) = self.check_share(model, profile) {
            return Status::Broken(fault);
        }
        let expected = model.expected_load(profile);
        if self.has_room(name, now) {
            let message = format!("{name} waits to be loaded, which takes about {:.1} s", expected.as_secs_f64());
            return Status::Coming(Fault::unavailable(reason::MODEL_LOADING, message).retry_after(expected));
        }
        let needs = model.charge(profile, self.limits.batch).unwrap_or(0);
        let message = format!(
            "{name} needs {}, {} of the {} of {} are free, and what is loaded is in use: {}",
            mib(needs),
            mib(self.ledger.free(&self.group)),
            mib(self.ledger.budget(&self.group)),
            self.group,
            self.holders(now)
        );
        Status::Blocked(Fault::new(Code::ResourceExhausted, SHARE_FULL, message).retry_after(expected))
    }

    /// How a model is doing, for `Load`.
    ///
    /// # Errors
    /// Why it does not serve; [`Answer::Wait`] and [`Answer::Refused`] say whether waiting helps.
    pub(in super::super) fn loaded(&self, name: &str, now: Timestamp) -> Result<(), Answer> {
        match self.status(name, now) {
            Status::Serves(_) => Ok(()),
            Status::Coming(fault) | Status::Blocked(fault) | Status::Down(fault) => Err(Answer::Wait(fault)),
            Status::Broken(fault) => Err(Answer::Refused(fault)),
        }
    }

    /// State and cause of a role's first model: the words of [`Status`] for `/health`.
    pub(super) fn state_of(&self, name: &str, now: Timestamp) -> (State, String) {
        match self.status(name, now) {
            Status::Serves(_) => (State::Ready, String::new()),
            Status::Coming(_) => match self.models.get(name).map(|model| (&model.engine, &model.want)) {
                Some((Engine::Loading(_), _)) => (State::Starting, format!("{name} is loading")),
                Some((_, Some(_))) => (State::Starting, format!("{name} waits to be loaded")),
                Some((_, None)) if matches!(self.models[name].file, FileState::Here { .. }) => {
                    (State::Degraded, format!("{name} is not loaded; the first to ask waits for it"))
                }
                _ => (State::Starting, format!("the file of {name} is being checked")),
            },
            Status::Blocked(_) => (State::Degraded, format!("{name} has no room beside the models in use")),
            Status::Down(fault) | Status::Broken(fault) => (State::Unavailable, fault.message),
        }
    }

    /// Takes a ticket back. Giving back twice is fine.
    ///
    /// # Errors
    /// `not_found` for a ticket that nobody knows any more.
    pub(in super::super) fn release(&mut self, ticket: &str, now: Timestamp) -> Result<(), Fault> {
        let name = self.tickets.take_back(ticket)?;
        if let Some(model) = self.models.get_mut(name) {
            model.used = model.used.max(now);
        }
        Ok(())
    }

    /// Notes what a ticket was used for and how it ended: `ok` or a code.
    ///
    /// # Errors
    /// `not_found` for a ticket that nobody knows any more.
    pub(in super::super) fn record(&mut self, ticket: &str, outcome: &str, now: Timestamp) -> Result<Use, Fault> {
        let held = self.tickets.touch(ticket, now)?;
        let used = Use { model: held.model.clone(), role: held.role.clone() };
        if let Some(model) = self.models.get_mut(&used.model) {
            model.used = model.used.max(now);
        }
        if outcome == "ok" {
            self.answered(&used.model, now);
        } else if outcome == Code::Unavailable.as_str() {
            self.suspect(&used.model);
        }
        Ok(used)
    }

    /// Ends tickets whose time is over and forgets those that ended long ago.
    pub(in super::super) fn expire(&mut self, now: Timestamp) {
        self.tickets.expire(now);
    }
}

fn too_long(ask: &Ask, link: &Link, slot: u32) -> Fault {
    let message = format!(
        "{} tokens of prompt and answer do not fit: {} serves {} with {slot} tokens for one conversation",
        ask.context_tokens, link.model, ask.role
    );
    Fault { reason: reason::CONTEXT_LENGTH.to_owned(), ..Fault::invalid_field("context_tokens", message) }
}
