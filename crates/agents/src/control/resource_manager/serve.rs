//! The contract.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use tandem_contract::pb::tandem::twin::v1 as pb;
use tandem_contract::{Call, Reply};
use tandem_store::reservations::ReservationStore;
use tandem_types::{Code, Fault, NodeName};
use tokio_stream::wrappers::WatchStream;

use super::logic::{LIMITS, admit, pressed};
use super::{Manager, lock};
use crate::control::OTHERS_NODE;
use crate::draining::draining;
use crate::load::asked::{self, Amount, Order};
use crate::load::desk::full;
use crate::load::figures;
use crate::load::weighing::{Limits, Outcome, Verdict};

impl Manager {
    /// The machine, when `name` is its name.
    fn own(&self, name: &str) -> Result<NodeName, Fault> {
        if name == self.node.as_str() {
            return Ok(self.node.clone());
        }
        if self.ctx.fleet().nodes.iter().any(|node| node.name.as_str() == name) {
            let message =
                format!("this ResourceManager answers for {} only; SystemDigitalTwin knows {name}", self.node);
            return Err(Fault::new(Code::FailedPrecondition, OTHERS_NODE, message));
        }
        Err(Fault::not_found(format!("no node `{name}` in the fleet file; this one is {}", self.node)))
    }

    /// The same for a scope, where nothing means all that is known here.
    fn in_scope(&self, scope: &str) -> Result<(), Fault> {
        if scope.contains('/') {
            let message =
                format!("{} is known here as a whole; SystemDigitalTwin knows its groups and agents", self.node);
            return Err(Fault::new(Code::FailedPrecondition, OTHERS_NODE, message));
        }
        if scope.is_empty() { Ok(()) } else { self.own(scope).map(drop) }
    }

    fn state(&self) -> pb::NodeState {
        lock(&self.measured).told(&self.node, self.now())
    }

    pub(super) async fn get_state(
        self: Arc<Self>,
        _: Call,
        request: pb::GetStateRequest,
    ) -> Result<pb::GetStateResponse, Fault> {
        self.in_scope(&request.scope)?;
        Ok(pb::GetStateResponse { nodes: vec![self.state()], ..Default::default() })
    }

    pub(super) async fn get_history(
        self: Arc<Self>,
        _: Call,
        request: pb::GetHistoryRequest,
    ) -> Result<pb::GetHistoryResponse, Fault> {
        let node = self.own(&request.node)?;
        figures::history(&self.stores.series, &node, &request, self.now()).await
    }

    /// Sends the machine as it is, then again with each sample; a slow watcher gets the latest.
    pub(super) async fn watch(
        self: Arc<Self>,
        _: Call,
        request: pb::WatchRequest,
    ) -> Result<Reply<pb::WatchResponse>, Fault> {
        self.in_scope(&request.scope)?;
        let (news, end) = (WatchStream::new(self.news.subscribe()), draining(&self.ctx));
        let state = move |_| Ok(pb::WatchResponse { node: self.state().into(), ..Default::default() });
        Ok(Box::pin(news.map(state).take_until(end)))
    }

    /// What giving an amount would lead to, and the age of the sample it rests on.
    fn project(&self, asked: &Amount) -> Result<(Outcome, Duration), Fault> {
        let now = self.now();
        let outstanding = self.desk.outstanding(&self.node, asked.resource, asked.card, now);
        let basis = lock(&self.measured).basis(&self.node, asked.resource, asked.card, outstanding, now)?;
        Ok((admit(asked.resource, &basis, asked.amount, &lock(&self.limits)), basis.age))
    }

    /// Why nothing is given at all now.
    fn pressed(&self) -> Option<String> {
        let pressure = lock(&self.measured).sample.as_ref().and_then(|(_, figures)| figures.memory_pressure);
        pressed(pressure, self.settings.most_pressure_ratio)
    }

    pub(super) async fn simulate_load(
        self: Arc<Self>,
        _: Call,
        request: pb::SimulateLoadRequest,
    ) -> Result<pb::SimulateLoadResponse, Fault> {
        let asked = asked::load(&request)?;
        self.own(&request.node)?;
        let (mut outcome, age) = self.project(&asked)?;
        if let Some(why) = self.pressed() {
            outcome = Outcome { verdict: Verdict::Deny, advice: format!("{why}; {}", outcome.advice), ..outcome };
        }
        Ok(outcome.told(age))
    }

    pub(super) async fn reserve(
        self: Arc<Self>,
        _: Call,
        request: pb::ReserveRequest,
    ) -> Result<pb::ReserveResponse, Fault> {
        let order = Order::read(&request)?;
        let node = self.own(&request.node)?;
        let (asked, now) = (order.asked.clone(), self.now());
        let grantable = || {
            let (outcome, age) = self.project(&asked)?;
            if let Some(why) = self.pressed() {
                return Err(full(format!("nothing is promised now: {why}")));
            }
            self.desk.grantable(&self.node, asked.resource, &outcome, age, now)
        };
        let promised = self.desk.reserve(node, order, now, grantable).await;
        Self::count(match &promised {
            Ok(_) => "granted",
            Err(fault) if fault.code == Code::ResourceExhausted => "denied",
            Err(_) => "failed",
        });
        self.show_promises();
        Ok(pb::ReserveResponse { reservation: promised?.into(), ..Default::default() })
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
        if !request.node.is_empty() {
            self.own(&request.node)?;
        }
        Ok(self.desk.list(None, self.now()))
    }

    pub(super) async fn set_limits(
        self: Arc<Self>,
        _: Call,
        request: pb::SetLimitsRequest,
    ) -> Result<pb::SetLimitsResponse, Fault> {
        let node = self.own(&request.node)?;
        self.stores.reservations.set_limits(&node, Limits::to_store(&request)?).await?;
        let limits = LIMITS.with(&self.stores.reservations.limits(&node).await?);
        *lock(&self.limits) = limits;
        Ok(limits.told())
    }
}
