//! The contract.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, stream};
use tandem_contract::pb::tandem::twin::v1 as pb;
use tandem_contract::{Call, Reply};
use tandem_store::reservations::ReservationStore;
use tandem_types::{Code, Fault, NodeName};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::logic::{LIMITS, simulate};
use super::picture::Scope;
use super::{Twin, lock, wire};
use crate::control::OTHERS_NODE;
use crate::draining::draining;
use crate::load::asked::{self, Amount, Order};
use crate::load::figures;
use crate::load::weighing::{Limits, Outcome};

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
        figures::history(&self.stores.series, &node, &request, self.now()).await
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
        let now = self.now();
        let name = self.picture().node(node)?.0.clone();
        let outstanding = self.desk.outstanding(&name, asked.resource, asked.card, now);
        let basis = self.picture().basis(node, asked.resource, asked.card, outstanding, now)?;
        let limits = self.limits_of(node);
        Ok((simulate(asked.resource, &basis, asked.amount, asked.duration, &limits), basis.age))
    }

    fn limits_of(&self, node: &str) -> Limits {
        let limits = lock(&self.limits);
        limits.iter().find(|(name, _)| name.as_str() == node).map_or(LIMITS, |(_, limits)| *limits)
    }

    pub(super) async fn simulate_load(
        self: Arc<Self>,
        _: Call,
        request: pb::SimulateLoadRequest,
    ) -> Result<pb::SimulateLoadResponse, Fault> {
        let asked = asked::load(&request)?;
        let (outcome, age) = self.project(&request.node, &asked)?;
        Ok(outcome.told(age))
    }

    pub(super) async fn reserve(
        self: Arc<Self>,
        _: Call,
        request: pb::ReserveRequest,
    ) -> Result<pb::ReserveResponse, Fault> {
        let order = Order::read(&request)?;
        let node = self.own(&request.node)?;
        let (name, asked, now) = (node.clone(), order.asked.clone(), self.now());
        let grantable = || {
            let (outcome, age) = self.project(name.as_str(), &asked)?;
            self.desk.grantable(&name, asked.resource, &outcome, age, now)
        };
        let promise = self.desk.reserve(node, order, now, grantable).await?;
        self.show_promises();
        Ok(pb::ReserveResponse { reservation: promise.into(), ..Default::default() })
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
        let released = self.desk.release(request, self.now()).await?;
        self.show_promises();
        Ok(released)
    }

    pub(super) async fn list_reservations(
        self: Arc<Self>,
        _: Call,
        request: pb::ListReservationsRequest,
    ) -> Result<pb::ListReservationsResponse, Fault> {
        let node = match request.node.as_str() {
            "" => None,
            name => Some(self.picture().node(name)?.0.clone()),
        };
        Ok(self.desk.list(node.as_ref(), self.now()))
    }

    pub(super) async fn set_limits(
        self: Arc<Self>,
        _: Call,
        request: pb::SetLimitsRequest,
    ) -> Result<pb::SetLimitsResponse, Fault> {
        let node = self.own(&request.node)?;
        self.stores.reservations.set_limits(&node, Limits::to_store(&request)?).await?;
        let limits = LIMITS.with(&self.stores.reservations.limits(&node).await?);
        lock(&self.limits).insert(node, limits);
        Ok(limits.told())
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
        self.picture().node_mut(&name)?.load.cpus = state.cpus;
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
        let new = self.picture().set_models(&name, leases)?;
        self.charge();
        if new {
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
