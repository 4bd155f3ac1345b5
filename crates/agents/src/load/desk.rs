//! Gives promises, one at a time, and keeps them.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tandem_contract::pb::tandem::twin::v1 as pb;
use tandem_store::reservations::{Reservation, ReservationStore, Resource, SqliteReservations};
use tandem_types::{Code, Fault, NodeName, Timestamp, reason};

use super::asked::Order;
use super::ledger::{Ledger, Promise, Uses};
use super::weighing::{Outcome, STALE};
use crate::control::OVER_LIMIT;

/// When to ask again for what could not be promised.
const AGAIN: Duration = Duration::from_secs(5);

/// Where promises of one agent are given, renewed, given back, and forgotten when they are over.
pub(crate) struct Desk {
    store: SqliteReservations,
    ledger: Mutex<Ledger>,
    /// Held from deciding about a promise to keeping it, so that two do not rest on the same room.
    gate: tokio::sync::Mutex<()>,
}

impl Desk {
    pub(crate) fn new(store: SqliteReservations) -> Self {
        Self { store, ledger: Mutex::default(), gate: tokio::sync::Mutex::default() }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // Each operation leaves the ledger whole, so a panic elsewhere does not spoil it.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes up the promises that are kept and hold.
    pub(crate) async fn reload(&self, now: Timestamp) -> Result<(), Fault> {
        let holding = self.store.reservations(now).await?;
        self.ledger().set(holding);
        Ok(())
    }

    /// Forgets promises that are over.
    pub(crate) async fn tidy(&self, now: Timestamp) -> Result<(), Fault> {
        self.store.expire(now).await?;
        self.reload(now).await
    }

    /// Takes what each group uses now.
    pub(crate) fn uses(&self, uses: Uses) {
        self.ledger().uses(uses);
    }

    /// Promised on a machine, or on one of its cards, and not in use yet.
    pub(crate) fn outstanding(&self, node: &NodeName, resource: Resource, card: Option<u32>, now: Timestamp) -> f64 {
        self.ledger().outstanding(node, resource, card, now)
    }

    /// How much is promised in all, by what it is of.
    pub(crate) fn promised(&self, now: Timestamp) -> [(Resource, f64); 4] {
        let ledger = self.ledger();
        [Resource::Ram, Resource::Vram, Resource::Cpu, Resource::Disk].map(|of| (of, ledger.promised(of, now)))
    }

    /// The promises that hold, of one machine or of all.
    pub(crate) fn list(&self, node: Option<&NodeName>, now: Timestamp) -> pb::ListReservationsResponse {
        let ledger = self.ledger();
        let reservations = ledger.holding(node, now).into_iter().map(|promise| promise.told()).collect();
        pb::ListReservationsResponse { reservations, ..Default::default() }
    }

    /// Promises what `grantable` finds that there is, or lets a promise last longer. The same key gives the same promise.
    ///
    /// # Errors
    /// Those of `grantable`; `not_found` for the renewal of a promise that is over; `invalid_argument` when it is of
    /// something else.
    pub(crate) async fn reserve(
        &self,
        node: NodeName,
        order: Order,
        now: Timestamp,
        grantable: impl FnOnce() -> Result<(), Fault> + Send,
    ) -> Result<pb::Reservation, Fault> {
        let of = order.of(node);
        let until = now + order.asked.duration;
        let _gate = self.gate.lock().await;
        let given = match order.renews {
            Some(id) => {
                let other = self.ledger().holding(None, now).iter().any(|p| p.given.id == id && p.given.of != of);
                if other {
                    return Err(Fault::invalid_field("reservation_id", "is a promise of something else or to another"));
                }
                self.store.renew(&id, until, now).await?;
                Reservation { id, of, expires: until }
            }
            None => match self.store.reserved(order.key, of.clone(), now).await? {
                Some(given) => given,
                None => {
                    grantable()?;
                    self.store.reserve(order.key, of, until, now).await?
                }
            },
        };
        self.reload(now).await?;
        let ledger = self.ledger();
        let known = ledger.holding(None, now).into_iter().find(|promise| promise.given.id == given.id);
        // The first answer to a key stands, also when what it promised is over.
        Ok(known.map_or_else(|| Promise::new(given).told(), Promise::told))
    }

    /// Gives a promise back. One that is over was given back by time, which is what the caller wants.
    pub(crate) async fn release(
        &self,
        request: pb::ReleaseReservationRequest,
        now: Timestamp,
    ) -> Result<pb::ReleaseReservationResponse, Fault> {
        if request.reservation_id.is_empty() {
            return Err(Fault::invalid_field("reservation_id", "is missing"));
        }
        self.store.release(&request.reservation_id).await?;
        self.reload(now).await?;
        Ok(pb::ReleaseReservationResponse::default())
    }

    /// Refuses what a projection does not bear, with the sum that binds and the time after which it may be otherwise.
    ///
    /// # Errors
    /// `unavailable`, `no_sample`, when what it rests on is old; `resource_exhausted` above the limit.
    pub(crate) fn grantable(
        &self,
        node: &NodeName,
        resource: Resource,
        outcome: &Outcome,
        age: Duration,
        now: Timestamp,
    ) -> Result<(), Fault> {
        if age > STALE {
            let message = format!("nothing can be promised: {}", outcome.advice);
            return Err(Fault::unavailable(reason::NO_SAMPLE, message).retry_after(AGAIN));
        }
        if outcome.headroom() < 0.0 {
            let message = format!("nothing is promised above the limit: {}", outcome.advice);
            return Err(full(message).retry_after(self.next_end(node, resource, now)));
        }
        Ok(())
    }

    /// When the next promise of this kind ends; a little later than now when there is none.
    fn next_end(&self, node: &NodeName, resource: Resource, now: Timestamp) -> Duration {
        let ledger = self.ledger();
        let next = ledger.holding(Some(node), now).into_iter().find(|p| p.given.of.resource == resource);
        next.map_or(AGAIN, |p| p.given.expires.since(now)).max(AGAIN)
    }
}

/// The machine is full.
pub(crate) fn full(message: String) -> Fault {
    Fault::new(Code::ResourceExhausted, OVER_LIMIT, message).retry_after(AGAIN)
}
