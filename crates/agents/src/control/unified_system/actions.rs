//! Starting, stopping and restarting, one action per group at a time, each kept before it begins.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use metrics::counter;
use tandem_agent::FleetAgent;
use tandem_contract::Call;
use tandem_contract::pb::tandem::system::v1 as pb;
use tandem_contract::rpc::host;
use tandem_store::actions::{Action, ActionState, NewAction};
use tandem_store::paging::{MAX_SIZE, Page};
use tandem_types::{AgentId, Code, Fault, GroupId, Health, IdempotencyKey, reason};
use tokio::sync::watch;

use super::logic::{LAST_STEP, Order, Outcome, after_restart, given_up, judge, judge_fault, recycle_order};
use super::{SystemHand, wire};
use crate::fields::Fields;

/// What is being worked on, so that a repeated request joins instead of doing it twice.
#[derive(Default)]
pub(super) struct Running {
    /// Held from keeping an action to entering it here.
    gate: tokio::sync::Mutex<()>,
    actions: Mutex<HashMap<String, watch::Receiver<Action>>>,
    /// Held while a data request is worked on.
    pub(super) data: tokio::sync::Mutex<()>,
}

impl Running {
    fn actions(&self) -> std::sync::MutexGuard<'_, HashMap<String, watch::Receiver<Action>>> {
        // Each operation leaves the map whole, so a panic elsewhere does not spoil it.
        self.actions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Time a host gets beyond the drain, for the agent to come up again.
const SETTLING: Duration = Duration::from_secs(20);
/// Longest time an action may take before its caller is told that it still runs.
const PATIENCE: Duration = Duration::from_secs(40);

/// An order to one agent, checked against the plan.
struct Target {
    key: IdempotencyKey,
    agent: AgentId,
    required: bool,
}

fn count(action: &Action, outcome: ActionState) {
    let kind = action.what.kind.clone();
    counter!("tandem_actions_total", "kind" => kind, "outcome" => outcome.as_str()).increment(1);
}

impl SystemHand {
    fn target(&self, key: &[u8], agent: &str) -> Result<Target, Fault> {
        let mut fields = Fields::default();
        let key = fields.key(key);
        let agent = fields.parse::<AgentId>("agent", agent);
        let (key, agent) = fields.all(key.zip(agent))?;
        let group = self.planned(&agent.group_id())?;
        let planned: &FleetAgent = group
            .agents
            .iter()
            .find(|a| a.name == agent.agent)
            .ok_or_else(|| Fault::not_found(format!("the fleet file has no agent {agent}")))?;
        if !planned.built {
            let message = format!("{agent} is in the fleet file and this program has no code for it");
            return Err(Fault::new(Code::FailedPrecondition, reason::NOT_BUILT, message));
        }
        Ok(Target { key, agent, required: planned.required })
    }

    pub(super) async fn start_agent(
        self: Arc<Self>,
        call: Call,
        request: pb::StartAgentRequest,
    ) -> Result<pb::StartAgentResponse, Fault> {
        let Target { key, agent, .. } = self.target(&request.idempotency_key, &request.agent)?;
        let action = self.act(&call, key, "start", agent.group_id(), agent.to_string(), request.reason, 0).await?;
        Ok(pb::StartAgentResponse { action: wire::action(action).into(), ..Default::default() })
    }

    pub(super) async fn stop_agent(
        self: Arc<Self>,
        call: Call,
        request: pb::StopAgentRequest,
    ) -> Result<pb::StopAgentResponse, Fault> {
        let Target { key, agent, required } = self.target(&request.idempotency_key, &request.agent)?;
        let refuse = |reason, message| Err(Fault::new(Code::FailedPrecondition, reason, message));
        if agent == *self.ctx.id() {
            let message =
                "UnifiedSystemAgent cannot start itself again; restart it, or stop its node with `tandem down`";
            return refuse(reason::NOT_ALLOWED, message.to_owned());
        }
        if required && !request.force {
            let message =
                format!("{} fails without {}; say `force` to stop it all the same", agent.group_id(), agent.agent);
            return refuse(reason::CONFIRMATION_NEEDED, message);
        }
        let drain = request.drain_ms;
        let action = self.act(&call, key, "stop", agent.group_id(), agent.to_string(), request.reason, drain).await?;
        Ok(pb::StopAgentResponse { action: wire::action(action).into(), ..Default::default() })
    }

    pub(super) async fn restart_agent(
        self: Arc<Self>,
        call: Call,
        request: pb::RestartAgentRequest,
    ) -> Result<pb::RestartAgentResponse, Fault> {
        let Target { key, agent, .. } = self.target(&request.idempotency_key, &request.agent)?;
        let drain = request.drain_ms;
        let action =
            self.act(&call, key, "restart", agent.group_id(), agent.to_string(), request.reason, drain).await?;
        Ok(pb::RestartAgentResponse { action: wire::action(action).into(), ..Default::default() })
    }

    pub(super) async fn recycle_group(
        self: Arc<Self>,
        call: Call,
        request: pb::RecycleGroupRequest,
    ) -> Result<pb::RecycleGroupResponse, Fault> {
        let mut fields = Fields::default();
        let key = fields.key(&request.idempotency_key);
        let group = fields.parse::<GroupId>("group", &request.group);
        let (key, group) = fields.all(key.zip(group))?;
        if !self.planned(&group)?.agents.iter().any(|agent| agent.built) {
            let message = format!("{group} has no agent that this program has code for, so it does not run");
            return Err(Fault::new(Code::FailedPrecondition, reason::NOT_BUILT, message));
        }
        let action = self.act(&call, key, "recycle", group.clone(), group.to_string(), request.reason, 0).await?;
        Ok(pb::RecycleGroupResponse { action: wire::action(action).into(), ..Default::default() })
    }

    /// Keeps an action, does it, and waits as long as the caller does: its last known state.
    #[allow(clippy::too_many_arguments, reason = "they are the columns of the row that is kept")]
    async fn act(
        self: &Arc<Self>,
        call: &Call,
        key: IdempotencyKey,
        kind: &str,
        group: GroupId,
        target: String,
        why: String,
        drain_ms: u32,
    ) -> Result<Action, Fault> {
        let actor = call.caller.clone().unwrap_or_else(|| "unknown".to_owned());
        let new = NewAction { kind: kind.to_owned(), group, target, actor, reason: why, drain_ms };
        let mut following = {
            let _gate = self.running.gate.lock().await;
            let action = self.store.begin(key, new, self.now()).await?;
            let known = self.running.actions().get(&action.id).cloned();
            match known {
                Some(following) => following,
                None if self.is_unfinished(&action.id).await? => self.work_on(action),
                None => return self.find(&action.id).await,
            }
        };
        let patience = Self::time_left(call, PATIENCE);
        // Its own restart waits for this very call to end, so the call does not wait for it.
        let ended = following.wait_for(|action| action.state != ActionState::Running || action.detail == LAST_STEP);
        // Time being up is an answer too: the action as it stands.
        let (Ok(_) | Err(_)) = tokio::time::timeout(patience, ended).await;
        let action = following.borrow().clone();
        Ok(action)
    }

    async fn is_unfinished(&self, id: &str) -> Result<bool, Fault> {
        Ok(self.store.unfinished().await?.iter().any(|action| action.id == id && action.state == ActionState::Running))
    }

    /// An action as it is kept. Its key, and so the question for it, is at most three days old.
    async fn find(&self, id: &str) -> Result<Action, Fault> {
        let mut token = String::new();
        loop {
            let page = self.store.actions(Page { size: MAX_SIZE, token }).await?;
            if let Some(action) = page.items.into_iter().find(|action| action.id == id) {
                return Ok(action);
            }
            if page.next.is_empty() {
                return Err(Fault::not_found(format!("there is no action {id}")));
            }
            token = page.next;
        }
    }

    /// Does an action in a task of its own, which goes on when the caller leaves.
    fn work_on(self: &Arc<Self>, action: Action) -> watch::Receiver<Action> {
        let (tell, following) = watch::channel(action.clone());
        self.running.actions().insert(action.id.clone(), following.clone());
        let hand = self.clone();
        self.ctx.spawn(async move {
            let (state, detail) = hand.execute(&action, &tell).await;
            hand.conclude(&action, state, &detail, &tell).await;
            hand.running.actions().remove(&action.id);
        });
        following
    }

    async fn conclude(&self, action: &Action, state: ActionState, detail: &str, tell: &watch::Sender<Action>) {
        count(action, state);
        let (kind, target) = (&action.what.kind, &action.what.target);
        tracing::info!(action = action.id, kind, target, actor = action.what.actor, outcome = %state, detail, "an action");
        match self.store.note(&action.id, state, detail, self.now()).await {
            Ok(noted) => tell.send_replace(noted),
            Err(fault) => {
                tracing::error!(action = action.id, %fault, "how an action ended could not be kept");
                let detail = format!("{detail}; and this could not be kept: {}", fault.message);
                tell.send_replace(Action { state, detail, ..action.clone() })
            }
        };
    }

    async fn execute(&self, action: &Action, tell: &watch::Sender<Action>) -> Outcome {
        let target = &action.what.target;
        let order = match action.what.kind.as_str() {
            "recycle" => return self.recycle(action, tell).await,
            "start" => Order::Start,
            "stop" => Order::Stop,
            _ => Order::Restart,
        };
        match target.parse::<AgentId>() {
            Ok(agent) => match self.last_step(order, &agent, action, tell).await {
                Ok(()) => self.order(order, &agent, action.what.drain_ms).await,
                Err(outcome) => outcome,
            },
            Err(problem) => (ActionState::Failed, format!("the kept target is no agent: {problem}")),
        }
    }

    /// Keeps that nothing but its own restart is left of an action, before it begins: afterwards nobody can.
    async fn last_step(
        &self,
        order: Order,
        agent: &AgentId,
        action: &Action,
        tell: &watch::Sender<Action>,
    ) -> Result<(), Outcome> {
        if order != Order::Restart || agent != self.ctx.id() {
            return Ok(());
        }
        let noted = self.store.note(&action.id, ActionState::Running, LAST_STEP, self.now()).await;
        let noted =
            noted.map_err(|fault| (ActionState::Failed, format!("cannot keep its last step: {}", fault.message)))?;
        tell.send_replace(noted);
        Ok(())
    }

    async fn order(&self, order: Order, agent: &AgentId, drain_ms: u32) -> Outcome {
        let drain_ms = if drain_ms == 0 { self.settings.drain_ms } else { drain_ms };
        let time = SETTLING + Duration::from_millis(drain_ms.into());
        let call = self.ctx.call().within(time, Instant::now());
        let (name, reason) = (agent.agent.to_string(), "ordered by UnifiedSystemAgent".to_owned());
        let answer = async {
            let host = self.ctx.peers().group(&agent.group_id())?;
            let health = match order {
                Order::Start => {
                    let request = pb::HostStartAgentRequest { agent: name, ..Default::default() };
                    host.unary(host::START_AGENT, request, &call).await?.health
                }
                Order::Stop => {
                    // Whether force was needed has been settled with the person.
                    let request =
                        pb::HostStopAgentRequest { agent: name, reason, drain_ms, force: true, ..Default::default() };
                    host.unary(host::STOP_AGENT, request, &call).await?.health
                }
                Order::Restart => {
                    let request = pb::HostRestartAgentRequest { agent: name, reason, drain_ms, ..Default::default() };
                    host.unary(host::RESTART_AGENT, request, &call).await?.health
                }
            };
            let health = health.as_option().map(Health::from);
            health.ok_or_else(|| Fault::internal("the host did not say how the agent is"))
        };
        judge(order, agent, answer.await)
    }

    /// Restarts the agents of a group one after the other; ends at the first that does not come up.
    async fn recycle(&self, action: &Action, tell: &watch::Sender<Action>) -> Outcome {
        let group = &action.what.group;
        let agents = match self.planned(group) {
            Ok(planned) => planned.agents.iter().filter(|agent| agent.built),
            Err(fault) => return judge_fault(group, &fault),
        };
        let agents: Vec<_> = agents.map(|agent| (agent.name.clone(), agent.needs.clone())).collect();
        let me = self.ctx.id();
        let own = (me.group_id() == *group).then_some(&me.agent);
        let order = recycle_order(&agents, own);
        for (done, name) in order.iter().enumerate() {
            let agent = group.agent(name.clone());
            if let Err(outcome) = self.last_step(Order::Restart, &agent, action, tell).await {
                return outcome;
            }
            match self.order(Order::Restart, &agent, 0).await {
                (ActionState::Done, _) => {}
                // Nothing was done yet, so all of it can be done later.
                (ActionState::Pending, words) if done == 0 => return (ActionState::Pending, words),
                (_, words) => {
                    let names = order[..done].iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                    let before = if done == 0 { String::new() } else { format!("; restarted before it: {names}") };
                    return (ActionState::Failed, format!("{words}{before}"));
                }
            }
        }
        (ActionState::Done, format!("restarted {} agents", order.len()))
    }

    /// Settles what was running when the agent ended.
    pub(super) async fn take_up(&self) -> Result<(), Fault> {
        for action in self.store.unfinished().await? {
            if let Some((state, detail)) = after_restart(&action, self.ctx.id()) {
                self.store.note(&action.id, state, &detail, self.now()).await?;
                count(&action, state);
            }
        }
        Ok(())
    }

    /// Tries actions again whose group was away, until they have waited too long.
    pub(super) async fn retry_pending(self: Arc<Self>) -> Result<(), Fault> {
        let patience = Duration::from_millis(self.settings.pending_ms.into());
        for action in self.store.unfinished().await? {
            self.ctx.beat();
            if action.state != ActionState::Pending || self.running.actions().contains_key(&action.id) {
                continue;
            }
            if given_up(&action, patience, self.now()) {
                let detail = format!("given up: {}", action.detail);
                self.store.note(&action.id, ActionState::Failed, &detail, self.now()).await?;
                count(&action, ActionState::Failed);
                continue;
            }
            // A look at the group costs less than a try, and says the same.
            if self.health_of(&action.what.group, 0).await.is_ok() {
                let mut following = self.work_on(Action { state: ActionState::Running, ..action });
                let ended = following.wait_for(|action| action.state != ActionState::Running);
                let (Ok(_) | Err(_)) = tokio::time::timeout(Duration::from_secs(20), ended).await;
            }
        }
        Ok(())
    }

    pub(super) async fn list_actions(
        self: Arc<Self>,
        _: Call,
        request: pb::ListActionsRequest,
    ) -> Result<pb::ListActionsResponse, Fault> {
        let page = self.store.actions(Page { size: request.page_size, token: request.page_token }).await?;
        Ok(pb::ListActionsResponse {
            actions: page.items.into_iter().map(wire::action).collect(),
            next_page_token: page.next,
            ..Default::default()
        })
    }
}
