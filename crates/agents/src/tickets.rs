//! Leave to use a model, asked of ModelManagerSuite and kept while it is good.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tandem_agent::Ctx;
use tandem_contract::pb::tandem::model::v1::{AcquireRequest, ReleaseRequest, Ticket};
use tandem_contract::rpc::models;
use tandem_contract::{Call, Client};
use tandem_types::{Fault, Timestamp};

/// A ticket that ends sooner than this is not begun with.
const SPARE: Duration = Duration::from_secs(30);

/// What is asked of a model.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Want<'a> {
    /// The role.
    pub(crate) role: &'a str,
    /// Language of the answer.
    pub(crate) language: &'a str,
    /// Priority of the turn, 1 first.
    pub(crate) priority: u32,
    /// Longest wait for a model that is loading.
    pub(crate) max_wait: Duration,
}

/// Keeps one ticket per role, which saves a call per answer.
pub(crate) struct Tickets {
    ctx: Ctx,
    kept: Mutex<HashMap<String, Ticket>>,
}

impl Tickets {
    /// Holds no ticket yet.
    pub(crate) fn new(ctx: &Ctx) -> Self {
        Self { ctx: ctx.clone(), kept: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Ticket>> {
        // The map is whole after each single operation, so a panic elsewhere does not spoil it.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The ticket at hand for a role, if it is still good; asks nobody.
    pub(crate) fn at_hand(&self, role: &str) -> Option<Ticket> {
        let now = self.ctx.clock().now();
        self.lock().get(role).filter(|ticket| good(ticket, now)).cloned()
    }

    /// The ticket at hand for a role, or a new one.
    ///
    /// # Errors
    /// What ModelManagerSuite said, for example `no_model` or `model_loading`.
    pub(crate) async fn lend(&self, want: Want<'_>, call: &Call) -> Result<Ticket, Fault> {
        match self.at_hand(want.role) {
            Some(ticket) => Ok(ticket),
            None => self.acquire(want, call).await,
        }
    }

    /// A new ticket, in the place of the one at hand.
    ///
    /// # Errors
    /// As [`Tickets::lend`].
    pub(crate) async fn acquire(&self, want: Want<'_>, call: &Call) -> Result<Ticket, Fault> {
        let request = AcquireRequest {
            role: want.role.to_owned(),
            language: want.language.to_owned(),
            priority: want.priority,
            max_wait_ms: u32::try_from(want.max_wait.as_millis()).unwrap_or(u32::MAX),
            holder: self.ctx.id().to_string(),
            ..Default::default()
        };
        // The manager's own answer that the wait is over says more than a deadline does, so it gets the time to give it.
        let call = call.clone().within(want.max_wait + Duration::from_secs(2), Instant::now());
        let response = self.ctx.peers().unary(models::ACQUIRE, request, &call).await?;
        let ticket = response.ticket.into_option().unwrap_or_default();
        if ticket.endpoint.is_empty() {
            return Err(Fault::internal(format!("the ticket for {} names no engine", want.role)));
        }
        self.lock().insert(want.role.to_owned(), ticket.clone());
        Ok(ticket)
    }

    /// Lets go of a ticket whose engine failed or whose role is bound anew.
    pub(crate) fn forget(&self, ticket_id: &str) {
        self.lock().retain(|_, ticket| ticket.ticket_id != ticket_id);
    }

    /// Lets go of all tickets without giving them back; they end by themselves.
    pub(crate) fn forget_all(&self) {
        self.lock().clear();
    }

    /// Gives all tickets back.
    pub(crate) async fn release_all(&self) {
        let tickets: Vec<Ticket> = self.lock().drain().map(|(_, ticket)| ticket).collect();
        for ticket in tickets {
            let request = ReleaseRequest { ticket_id: ticket.ticket_id, ..Default::default() };
            // A ticket that cannot be given back ends by itself.
            let _ = self.ctx.peers().unary(models::RELEASE, request, &self.ctx.call()).await;
        }
    }

    /// A caller of the ticket's engine.
    ///
    /// # Errors
    /// `internal` when its address is none.
    pub(crate) fn engine(&self, ticket: &Ticket) -> Result<Client, Fault> {
        self.ctx.peers().at(&ticket.endpoint)
    }
}

fn good(ticket: &Ticket, now: Timestamp) -> bool {
    Timestamp(ticket.expires_us) > now + SPARE
}
