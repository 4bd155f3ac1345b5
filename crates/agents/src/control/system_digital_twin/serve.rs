//! The contract.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, stream};
use tandem_contract::pb::tandem::twin::v1 as pb;
use tandem_contract::{Call, Reply};
use tandem_store::reservations::{NewReservation, Reservation, ReservationStore, Resource};
use tandem_types::{AgentId, Code, Fault, NodeName, Timestamp, reason};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::logic::{Limits, Outcome, STALE, simulate};
use super::picture::{SERIES, Scope};
use super::wire::{self, Amount, AmountFields};
use super::{Twin, lock};
use crate::control::OVER_LIMIT;
use crate::draining::draining;
use crate::fields::Fields;

/// Reason: another agent is the authority for that machine.
const OTHERS_NODE: &str = "others_node";
/// A promise lasts this long when nothing is said.
const PROMISE_MS: u32 = 60_000;
/// Longest promise: a longer one would outlive the picture it rests on.
const LONGEST_MS: u32 = 3_600_000;
/// When to ask again for what could not be promised.
const AGAIN: Duration = Duration::from_secs(5);

impl Twin {
    fn states(&self, scope: &Scope) -> Vec<pb::NodeState> {
        let now = self.now();
        let picture = self.picture();
        picture.nodes(scope).into_iter().map(|(name, node)| wire::node(&picture, name, node, scope, now)).collect()
    }

    pub(super) async fn get_state(
        self: Arc<Self>,
        _: Call,
        request: pb::GetStateRequest,
    ) -> Result<pb::GetStateResponse, Fault> {
        let scope = self.picture().scope(&request.scope)?;
        Ok(pb::GetStateResponse { nodes: self.states(&scope), ..Default::default() })
    }

    pub(super) async fn get_history(
        self: Arc<Self>,
        _: Call,
        request: pb::GetHistoryRequest,
    ) -> Result<pb::GetHistoryResponse, Fault> {
        let node = self.picture().node(&request.node)?.0.clone();
        if !SERIES.contains(&request.series.as_str()) {
            return Err(Fault::not_found(format!("no series `{}`; known are {}", request.series, SERIES.join(", "))));
        }
        let to = if request.to_us == 0 { self.now() + Duration::from_micros(1) } else { Timestamp(request.to_us) };
        if request.from_us > to.micros() {
            return Err(Fault::invalid_field("from_us", "is later than `to_us`"));
        }
        let step = Duration::from_millis(request.step_ms.into());
        let points = self.history(&request.series, &node, Timestamp(request.from_us), to, step).await?;
        let point = |(at, value): (Timestamp, f64)| pb::Point { at_us: at.micros(), value, ..Default::default() };
        Ok(pb::GetHistoryResponse { points: points.into_iter().map(point).collect(), ..Default::default() })
    }

    /// Sends the picture, then each machine of the scope again when something about it changed.
    pub(super) async fn watch(
        self: Arc<Self>,
        _: Call,
        request: pb::WatchRequest,
    ) -> Result<Reply<pb::WatchResponse>, Fault> {
        let scope = self.picture().scope(&request.scope)?;
        // Before the picture is taken, so that no change is missed between the two.
        let live = self.changes.subscribe();
        let first = self.states(&scope).into();
        let end = draining(&self.ctx);
        let follower = Follower { twin: self, scope, first, live };
        Ok(Box::pin(stream::unfold(follower, Follower::next).take_until(end)))
    }

    /// What adding an amount to a machine would lead to, and the age of the sample it rests on.
    fn project(&self, node: &str, asked: &Amount) -> Result<(Outcome, Duration), Fault> {
        let basis = self.picture().basis(node, asked.resource, asked.card, self.now())?;
        let limits = self.limits_of(node);
        Ok((simulate(asked.resource, &basis, asked.amount, asked.duration, &limits), basis.age))
    }

    fn limits_of(&self, node: &str) -> Limits {
        let limits = lock(&self.limits);
        limits.iter().find(|(name, _)| name.as_str() == node).map_or_else(Limits::default, |(_, limits)| *limits)
    }

    pub(super) async fn simulate_load(
        self: Arc<Self>,
        _: Call,
        request: pb::SimulateLoadRequest,
    ) -> Result<pb::SimulateLoadResponse, Fault> {
        let mut fields = Fields::default();
        let kind = request.kind.as_known();
        let pb::SimulateLoadRequest { bytes, ratio, card, duration_ms, .. } = request;
        let asked = wire::amount(&AmountFields { kind, bytes, ratio, card, duration_ms }, &mut fields);
        let asked = fields.all(asked)?;
        let (outcome, age) = self.project(&request.node, &asked)?;
        Ok(wire::outcome(&outcome, age))
    }

    pub(super) async fn reserve(
        self: Arc<Self>,
        _: Call,
        request: pb::ReserveRequest,
    ) -> Result<pb::ReserveResponse, Fault> {
        let mut fields = Fields::default();
        let key = fields.key(&request.idempotency_key);
        let kind = request.kind.as_known();
        let pb::ReserveRequest { bytes, ratio, card, .. } = request;
        let duration_ms = fields.at_most("duration_ms", request.duration_ms, PROMISE_MS, LONGEST_MS);
        let asked_for = AmountFields { kind, bytes, ratio, card, duration_ms: duration_ms.unwrap_or(PROMISE_MS) };
        let asked = wire::amount(&asked_for, &mut fields);
        if asked.as_ref().is_some_and(|asked| asked.amount == 0.0) {
            fields.wrong(if bytes == 0 { "bytes" } else { "ratio" }, "is 0; there is nothing to promise");
        }
        let holder = fields.parse::<AgentId>("holder", &request.holder);
        let ((key, asked), holder) = fields.all(key.zip(asked).zip(holder))?;
        let node = self.own(&request.node)?;
        let of = NewReservation {
            node,
            card: asked.card,
            resource: asked.resource,
            amount: asked.amount,
            holder: holder.to_string(),
        };
        let _gate = self.gate.lock().await;
        let now = self.now();
        let given = self.stores.reservations.reserved(key, of.clone(), now).await?;
        let promise = match given {
            Some(promise) => promise,
            None => {
                self.grantable(&request.node, &asked)?;
                self.stores.reservations.reserve(key, of, now + asked.duration, now).await?
            }
        };
        self.reload_reservations().await?;
        Ok(pb::ReserveResponse { reservation: wire::reservation(&promise).into(), ..Default::default() })
    }

    /// Refuses what the machine does not have.
    fn grantable(&self, node: &str, asked: &Amount) -> Result<(), Fault> {
        let (outcome, age) = self.project(node, asked)?;
        if age > STALE {
            let message = format!("nothing can be promised: {}", outcome.advice);
            return Err(Fault::unavailable(reason::NO_SAMPLE, message).retry_after(AGAIN));
        }
        if outcome.headroom() < 0.0 {
            let message = format!("nothing is promised above the limit: {}", outcome.advice);
            let full = Fault::new(Code::ResourceExhausted, OVER_LIMIT, message);
            return Err(full.retry_after(self.next_end(node, asked.resource)));
        }
        Ok(())
    }

    /// When the next promise of this kind ends; a little later than now when there is none.
    fn next_end(&self, node: &str, resource: Resource) -> Duration {
        let now = self.now();
        let picture = self.picture();
        let ends = |promise: &&Reservation| promise.of.resource == resource && promise.of.node.as_str() == node;
        let next = picture.reservations(None, now).into_iter().find(ends).map(|promise| promise.expires.since(now));
        next.unwrap_or(AGAIN).max(AGAIN)
    }

    /// The machine this agent gives promises for.
    fn own(&self, node: &str) -> Result<NodeName, Fault> {
        let name = self.picture().node(node)?.0.clone();
        let own = &self.ctx.id().node;
        if name == *own {
            return Ok(name);
        }
        let message = format!("promises of {name} are given by its ResourceManager; this agent gives those of {own}");
        Err(Fault::new(Code::FailedPrecondition, OTHERS_NODE, message))
    }

    pub(super) async fn release(
        self: Arc<Self>,
        _: Call,
        request: pb::ReleaseReservationRequest,
    ) -> Result<pb::ReleaseReservationResponse, Fault> {
        if request.reservation_id.is_empty() {
            return Err(Fault::invalid_field("reservation_id", "is missing"));
        }
        // One that is over was given back by time, which is what the caller wants.
        self.stores.reservations.release(&request.reservation_id).await?;
        self.reload_reservations().await?;
        Ok(pb::ReleaseReservationResponse::default())
    }

    pub(super) async fn list_reservations(
        self: Arc<Self>,
        _: Call,
        request: pb::ListReservationsRequest,
    ) -> Result<pb::ListReservationsResponse, Fault> {
        let picture = self.picture();
        let node = match request.node.as_str() {
            "" => None,
            name => Some(picture.node(name)?.0),
        };
        let reservations = picture.reservations(node, self.now()).into_iter().map(wire::reservation).collect();
        Ok(pb::ListReservationsResponse { reservations, ..Default::default() })
    }

    pub(super) async fn set_limits(
        self: Arc<Self>,
        _: Call,
        request: pb::SetLimitsRequest,
    ) -> Result<pb::SetLimitsResponse, Fault> {
        let node = self.own(&request.node)?;
        let set = Limits::to_store([
            request.ram_deny_ratio,
            request.vram_deny_ratio,
            request.cpu_caution_ratio,
            request.disk_caution_ratio,
        ])?;
        self.stores.reservations.set_limits(&node, set).await?;
        let limits = Limits::from_stored(&self.stores.reservations.limits(&node).await?);
        lock(&self.limits).insert(node, limits);
        Ok(wire::limits(limits))
    }

    pub(super) async fn report_node(
        self: Arc<Self>,
        _: Call,
        request: pb::ReportNodeRequest,
    ) -> Result<pb::ReportNodeResponse, Fault> {
        let state = request.node.into_option().ok_or_else(|| Fault::invalid_field("node", "is missing"))?;
        let name = self.picture().node(&state.node)?.0.clone();
        if name == self.ctx.id().node {
            let message = format!("{name} is measured here; send samples of other machines only");
            return Err(Fault::new(Code::FailedPrecondition, OTHERS_NODE, message));
        }
        let figures = wire::figures(&state)?;
        self.picture().node_mut(&name)?.cpus = state.cpus;
        // The sender's clock may differ from ours; how old the sample was when it was sent does not.
        let at = self.now() - Duration::from_millis(state.age_ms.into());
        self.take(&name, at, figures).await?;
        Ok(pb::ReportNodeResponse::default())
    }

    pub(super) async fn report_leases(
        self: Arc<Self>,
        _: Call,
        request: pb::ReportLeasesRequest,
    ) -> Result<pb::ReportLeasesResponse, Fault> {
        let name = self.picture().node(&request.node)?.0.clone();
        let leases = wire::leases(&request.models)?;
        if self.picture().set_models(&name, leases)? {
            self.changed(&name);
        }
        Ok(pb::ReportLeasesResponse::default())
    }
}

/// One watcher.
struct Follower {
    twin: Arc<Twin>,
    scope: Scope,
    first: VecDeque<pb::NodeState>,
    live: broadcast::Receiver<NodeName>,
}

impl Follower {
    async fn next(mut self) -> Option<(Result<pb::WatchResponse, Fault>, Self)> {
        loop {
            if let Some(node) = self.first.pop_front() {
                return Some((Ok(pb::WatchResponse { node: node.into(), ..Default::default() }), self));
            }
            match self.live.recv().await {
                Ok(changed) => {
                    let states = self.twin.states(&self.scope);
                    self.first = states.into_iter().filter(|state| state.node == changed.as_str()).collect();
                }
                // Each message is the whole picture of a machine, so what was missed is in the next one.
                Err(RecvError::Lagged(_)) => self.first = self.twin.states(&self.scope).into(),
                Err(RecvError::Closed) => return None,
            }
        }
    }
}
