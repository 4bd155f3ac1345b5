//! The directory: finds who serves an RPC and calls it, in this process or over the network, the same way.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Instant;

use bytes::Bytes;
use futures::StreamExt as _;
use tandem_contract::rpc::{Bidi, ServerStream, Unary, Wire};
use tandem_contract::{
    AGENT_HEADER, BidiCall, Body, CALLER_HEADER, Call, Channel, Client, DRAINING_HEADER, FaultStream, LocalService,
    Trust,
};
use tandem_types::{AgentId, Code, Fault, GroupId, State, reason};
use tokio::sync::watch;

use crate::fleet::FleetView;
use crate::node::{NodeSource, NodeView};
use crate::retry::{Breaker, Gate, RetryBudget, backoff, may_retry};
use crate::returning::{LOOK, Returning};

/// An agent that serves an RPC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provider {
    /// Who.
    pub agent: AgentId,
    /// Base address of its group.
    pub endpoint: String,
    /// How it was doing when last heard of; none when never.
    pub state: Option<State>,
}

/// What all callers of a process share: who is alive, which groups live here, open connections.
struct Shared {
    fleet: Arc<FleetView>,
    /// What this machine's node knows; not there where groups run without a node.
    node: OnceLock<Arc<dyn NodeSource>>,
    network: Channel,
    states: RwLock<HashMap<AgentId, State>>,
    heard: watch::Sender<u64>,
    locals: RwLock<HashMap<GroupId, LocalService>>,
    breakers: Mutex<HashMap<(AgentId, &'static str), Breaker>>,
    budget: Mutex<RetryBudget>,
    returning: Mutex<Returning>,
}

/// Calls other agents. Cheap to clone.
#[derive(Clone)]
pub struct Peers {
    shared: Arc<Shared>,
    me: AgentId,
}

/// Leave to call a provider. Dropped without a word, because the caller left, it says nothing about the provider.
struct Leave {
    shared: Arc<Shared>,
    of: Option<(AgentId, &'static str)>,
}

impl Leave {
    /// Says how the call went.
    fn tell(mut self, outcome: Result<(), &Fault>) {
        let Some(of) = self.of.take() else { return };
        let mut breakers = lock(&self.shared.breakers);
        let breaker = breakers.entry(of).or_default();
        match outcome {
            Ok(()) => breaker.success(),
            Err(fault) => match fault.code {
                // A provider that says why it cannot is alive; only silence, bugs and lateness count against it.
                Code::Unavailable if fault.agent.is_none() && fault.reason == reason::PEER_AWAY => {
                    breaker.failure(Instant::now());
                }
                Code::Internal | Code::DeadlineExceeded => breaker.failure(Instant::now()),
                Code::Cancelled => breaker.abandoned(),
                _ => breaker.success(),
            },
        }
    }
}

impl Drop for Leave {
    fn drop(&mut self) {
        if let Some(of) = self.of.take()
            && let Some(breaker) = lock(&self.shared.breakers).get_mut(&of)
        {
            breaker.abandoned();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // These maps are consistent after any single operation, so a panic elsewhere does not spoil them.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Peers {
    /// A directory over the plan, for what is on this machine. `me` is named as caller.
    pub fn new(fleet: Arc<FleetView>, me: AgentId) -> Self {
        Self::over(Channel::network(), fleet, me)
    }

    /// The same, and for what is on other machines of the fleet.
    pub fn of_member(fleet: Arc<FleetView>, me: AgentId, trust: Trust) -> Self {
        Self::over(Channel::fleet(trust), fleet, me)
    }

    fn over(network: Channel, fleet: Arc<FleetView>, me: AgentId) -> Self {
        let shared = Shared {
            fleet,
            node: OnceLock::new(),
            network,
            states: RwLock::default(),
            heard: watch::Sender::new(0),
            locals: RwLock::default(),
            breakers: Mutex::default(),
            budget: Mutex::default(),
            returning: Mutex::default(),
        };
        Self { shared: Arc::new(shared), me }
    }

    /// The same directory for another agent of this process.
    pub fn for_agent(&self, me: AgentId) -> Self {
        Self { shared: self.shared.clone(), me }
    }

    /// From now on calls to this group's agents stay inside the process.
    pub fn add_local(&self, group: GroupId, service: LocalService) {
        self.shared.locals.write().unwrap_or_else(PoisonError::into_inner).insert(group, service);
    }

    /// Something was heard of how an agent is doing.
    pub fn heard(&self, agent: &AgentId, state: State) {
        self.shared.states.write().unwrap_or_else(PoisonError::into_inner).insert(agent.clone(), state);
        lock(&self.shared.returning).heard(&agent.group_id(), state, Instant::now());
        self.shared.heard.send_modify(|count| *count += 1);
        if state.serves() {
            for ((of, _), breaker) in lock(&self.shared.breakers).iter_mut() {
                if of == agent {
                    breaker.reset();
                }
            }
        }
    }

    /// A group of this process ends, or begins again. While it ends its calls wait only a moment longer for groups that are
    /// on their way back.
    pub fn set_ending(&self, group: &GroupId, ends: bool) {
        let mut returning = lock(&self.shared.returning);
        if ends { returning.ends(group, Instant::now()) } else { returning.begins(group) }
    }

    /// Whether a call that failed in this way is sent again after a moment, because its provider's group is on its way back.
    /// Waits for that moment.
    async fn awaits(&self, provider: &Provider, fault: &Fault, deadline: Option<Instant>) -> bool {
        let (now, own, group) = (Instant::now(), self.me.group_id(), provider.agent.group_id());
        let awaited = deadline.is_none_or(|deadline| now + LOOK < deadline)
            && lock(&self.shared.returning).is_awaited(&own, &group, fault, now);
        if awaited {
            tokio::time::sleep(LOOK).await;
        }
        awaited
    }

    /// A call to this provider went well, so its group is there.
    fn is_back(&self, provider: &Provider) {
        lock(&self.shared.returning).is_back(&provider.agent.group_id());
    }

    /// Changes each time something is heard.
    pub fn news(&self) -> watch::Receiver<u64> {
        self.shared.heard.subscribe()
    }

    /// How an agent was doing when last heard of.
    pub fn state_of(&self, agent: &AgentId) -> Option<State> {
        self.shared.states.read().unwrap_or_else(PoisonError::into_inner).get(agent).copied()
    }

    /// The plan.
    pub fn fleet(&self) -> &Arc<FleetView> {
        &self.shared.fleet
    }

    /// From now on what this machine's node knows is asked of `node`; the first word counts.
    pub fn ask_node(&self, node: Arc<dyn NodeSource>) {
        let (Ok(()) | Err(_)) = self.shared.node.set(node);
    }

    /// What this machine's node knows now.
    ///
    /// # Errors
    /// `unavailable` where no node answers, or the group runs without one.
    pub async fn node(&self) -> Result<NodeView, Fault> {
        match self.shared.node.get() {
            Some(node) => node.look().await,
            None => Err(Fault::unavailable(reason::PEER_AWAY, "this group runs without a node")),
        }
    }

    /// Who serves the RPC at `path`: own node first, then those that serve, then fleet file order.
    pub fn providers(&self, path: &str) -> Vec<Provider> {
        let mut found: Vec<Provider> = self
            .shared
            .fleet
            .agents()
            .filter(|(_, agent)| agent.rpcs.contains(&path))
            .map(|(group, agent)| {
                let id = group.id.agent(agent.name.clone());
                Provider { state: self.state_of(&id), agent: id, endpoint: group.endpoint.clone() }
            })
            .collect();
        found.sort_by_key(|p| (p.agent.node != self.me.node, p.state.is_some_and(|s| !s.serves())));
        found
    }

    /// A caller of any address, for engines and other things outside the plan.
    pub fn at(&self, endpoint: &str) -> Result<Client, Fault> {
        let uri =
            endpoint.parse().map_err(|e| Fault::internal(format!("`{endpoint}` is not an address to call: {e}")))?;
        Ok(Client::new(self.shared.network.clone(), uri))
    }

    /// A caller of a group's own services, such as its host.
    pub fn group(&self, group: &GroupId) -> Result<Client, Fault> {
        let planned = self
            .shared
            .fleet
            .group(group)
            .ok_or_else(|| Fault::not_found(format!("the fleet file has no group {group}")))?;
        self.client_of(group, &planned.endpoint)
    }

    fn client_of(&self, group: &GroupId, endpoint: &str) -> Result<Client, Fault> {
        let local = self.shared.locals.read().unwrap_or_else(PoisonError::into_inner).get(group).cloned();
        match local {
            Some(service) => {
                let uri = endpoint.parse().map_err(|e| Fault::internal(format!("bad address {endpoint}: {e}")))?;
                Ok(Client::new(Channel::Local(service), uri))
            }
            None => self.at(endpoint),
        }
    }

    fn choose(&self, path: &'static str, call: &Call) -> Result<Provider, Fault> {
        let providers = self.providers(path);
        let chosen = match &call.agent {
            Some(name) => providers.into_iter().find(|p| p.agent.agent == *name),
            None => providers.into_iter().next(),
        };
        chosen.ok_or_else(|| {
            let whose = call.agent.as_ref().map(|n| format!(" by {n}")).unwrap_or_default();
            Fault::unavailable(reason::NOT_BUILT, format!("nobody in this fleet serves {path}{whose}"))
        })
    }

    fn pass_breaker(&self, provider: &Provider, path: &'static str) -> Result<Leave, Fault> {
        let of = (provider.agent.clone(), path);
        let gate = lock(&self.shared.breakers).entry(of.clone()).or_default().ask(Instant::now());
        match gate {
            Gate::Pass | Gate::Trial => Ok(Leave { shared: self.shared.clone(), of: Some(of) }),
            Gate::Refuse(wait) => Err(Fault::unavailable(
                reason::BREAKER_OPEN,
                format!(
                    "{} failed three times in a row; not called again for {} s",
                    provider.agent,
                    wait.as_secs() + 1
                ),
            )
            .retry_after(wait)),
        }
    }

    fn outgoing(&self, provider: &Provider, call: &Call) -> Call {
        Call { caller: Some(self.me.to_string()), agent: Some(provider.agent.agent.clone()), ..call.clone() }
    }

    /// One request, one response; repeated inside the deadline when the provider is away. Only for reads and keyed
    /// writes, which are safe to send twice.
    pub async fn unary<Req: Wire, Res: Wire>(
        &self,
        rpc: Unary<Req, Res>,
        request: Req,
        call: &Call,
    ) -> Result<Res, Fault> {
        let path = rpc.path();
        let deadline = call.deadline.unwrap_or_else(|| Instant::now() + rpc.facts().deadline());
        let call = Call { deadline: Some(deadline), ..call.clone() };
        lock(&self.shared.budget).deposit();
        let mut attempt = 0;
        loop {
            let provider = self.choose(path, &call)?;
            let leave = self.pass_breaker(&provider, path)?;
            let client = self.client_of(&provider.agent.group_id(), &provider.endpoint)?;
            let answer = client.unary(rpc, request.clone(), &self.outgoing(&provider, &call)).await;
            let fault = match answer {
                Ok(response) => {
                    self.is_back(&provider);
                    leave.tell(Ok(()));
                    return Ok(response);
                }
                Err(fault) => fault,
            };
            if self.awaits(&provider, &fault, Some(deadline)).await {
                continue;
            }
            leave.tell(Err(&fault));
            attempt += 1;
            let wait = backoff(attempt, rand::random());
            let fits = Instant::now() + wait < deadline;
            if !fits || !may_retry(&fault, true) || !lock(&self.shared.budget).withdraw() {
                return Err(fault);
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// One request, a stream of responses. Not repeated: the caller knows what has been used already. Only what a group
    /// refused because it is about to start anew is sent again, before anything of its answer came.
    pub async fn server_stream<Req: Wire, Res: Wire>(
        &self,
        rpc: ServerStream<Req, Res>,
        request: Req,
        call: &Call,
    ) -> Result<FaultStream<Res>, Fault> {
        let (provider, leave, stream) = self.begin_stream(rpc, &request, call).await?;
        let (peers, call) = (self.clone(), call.clone());
        // A refusal travels as the first item of the stream.
        let again = futures::stream::unfold(Some((provider, Some(leave), stream)), move |state| {
            let (peers, call, request) = (peers.clone(), call.clone(), request.clone());
            async move {
                let (mut provider, mut leave, mut stream) = state?;
                loop {
                    let item = stream.next().await?;
                    if let (Err(fault), Some(_)) = (&item, &leave)
                        && peers.awaits(&provider, fault, call.deadline).await
                    {
                        match peers.begin_stream(rpc, &request, &call).await {
                            Ok((next, its, begun)) => (provider, leave, stream) = (next, Some(its), begun),
                            Err(fault) => return Some((Err(fault), None)),
                        }
                        continue;
                    }
                    if let Some(leave) = leave.take() {
                        if item.is_ok() {
                            peers.is_back(&provider);
                        }
                        leave.tell(item.as_ref().map(drop));
                    }
                    return Some((item, Some((provider, leave, stream))));
                }
            }
        });
        Ok(Box::pin(again))
    }

    async fn begin_stream<Req: Wire, Res: Wire>(
        &self,
        rpc: ServerStream<Req, Res>,
        request: &Req,
        call: &Call,
    ) -> Result<(Provider, Leave, FaultStream<Res>), Fault> {
        loop {
            let provider = self.choose(rpc.path(), call)?;
            let leave = self.pass_breaker(&provider, rpc.path())?;
            let client = self.client_of(&provider.agent.group_id(), &provider.endpoint)?;
            match client.server_stream(rpc, request.clone(), &self.outgoing(&provider, call)).await {
                Ok(stream) => return Ok((provider, leave, stream)),
                Err(fault) if self.awaits(&provider, &fault, call.deadline).await => {}
                Err(fault) => {
                    leave.tell(Err(&fault));
                    return Err(fault);
                }
            }
        }
    }

    /// A stream each way. Not repeated.
    pub async fn bidi<Req: Wire, Res: Wire>(
        &self,
        rpc: Bidi<Req, Res>,
        call: &Call,
    ) -> Result<BidiCall<Req, Res>, Fault> {
        let provider = self.choose(rpc.path(), call)?;
        let leave = self.pass_breaker(&provider, rpc.path())?;
        let client = self.client_of(&provider.agent.group_id(), &provider.endpoint)?;
        let answer = client.bidi(rpc, &self.outgoing(&provider, call)).await;
        leave.tell(answer.as_ref().map(drop));
        answer
    }

    /// Passes a request in the contract's HTTP form to whoever serves `path`, and hands the answer back unread, as it
    /// arrives. For doors of people: we are named as caller, whatever the request says. Only what a group refused because
    /// it is about to start anew is sent again.
    pub async fn forward(
        &self,
        path: &'static str,
        mut request: http::Request<Bytes>,
    ) -> Result<http::Response<Body>, Fault> {
        let call = Call::default();
        for name in [CALLER_HEADER, AGENT_HEADER] {
            request.headers_mut().remove(name);
        }
        loop {
            let provider = self.choose(path, &call)?;
            let leave = self.pass_breaker(&provider, path)?;
            let client = self.client_of(&provider.agent.group_id(), &provider.endpoint)?;
            let mut request = request.clone();
            request.headers_mut().extend(self.outgoing(&provider, &call).headers());
            let answer = client.forward(request).await;
            let fault = match &answer {
                Ok(answer) if answer.headers().contains_key(DRAINING_HEADER) => {
                    Fault::unavailable(reason::DRAINING, "its group is ending")
                }
                Ok(_) => {
                    self.is_back(&provider);
                    leave.tell(Ok(()));
                    return answer;
                }
                Err(fault) => fault.clone(),
            };
            if !self.awaits(&provider, &fault, None).await {
                leave.tell(answer.as_ref().map(drop));
                return answer;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::{FleetAgent, FleetGroup};
    use tandem_contract::rpc::sessions;

    fn fleet(nodes: &[&str]) -> Arc<FleetView> {
        let groups = nodes
            .iter()
            .map(|node| FleetGroup {
                id: format!("{node}/memory_stack").parse().unwrap(),
                endpoint: "http://127.0.0.1:1".into(),
                scrape_endpoint: String::new(),
                needs: vec![],
                ram_bytes: 0,
                cpus: 1.0,
                callers: Default::default(),
                agents: vec![FleetAgent {
                    name: "SessionMemoryAgent".parse().unwrap(),
                    required: true,
                    built: true,
                    needs: vec![],
                    uses: vec![],
                    rpcs: vec![sessions::GET_WINDOW.path()],
                    topics: vec![],
                    settings: serde_json::Value::Null,
                }],
            })
            .collect();
        Arc::new(FleetView { groups, ..FleetView::default() })
    }

    fn order(peers: &Peers) -> Vec<String> {
        peers.providers(sessions::GET_WINDOW.path()).into_iter().map(|p| p.agent.node.to_string()).collect()
    }

    #[test]
    fn the_own_node_comes_first_then_those_that_serve() {
        let peers = Peers::new(fleet(&["b", "c", "a"]), "a/x/Me".parse().unwrap());
        assert_eq!(order(&peers), ["a", "b", "c"]);
        peers.heard(&"b/memory_stack/SessionMemoryAgent".parse().unwrap(), State::Failed);
        assert_eq!(order(&peers), ["a", "c", "b"]);
        peers.heard(&"b/memory_stack/SessionMemoryAgent".parse().unwrap(), State::Degraded);
        assert_eq!(order(&peers), ["a", "b", "c"]);
    }

    #[tokio::test]
    async fn nobody_serving_is_said_in_words() {
        let peers = Peers::new(fleet(&[]), "a/x/Me".parse().unwrap());
        let fault = peers.unary(sessions::GET_WINDOW, Default::default(), &Call::default()).await.unwrap_err();
        assert_eq!((fault.code, fault.reason.as_str()), (Code::Unavailable, reason::NOT_BUILT));
    }

    #[tokio::test]
    async fn a_trial_whose_caller_left_leaves_room_for_the_next() {
        let peers = Peers::new(fleet(&["a"]), "a/x/Me".parse().unwrap());
        let (provider, path) = (peers.providers(sessions::GET_WINDOW.path()).remove(0), sessions::GET_WINDOW.path());
        let opened = Instant::now().checked_sub(std::time::Duration::from_secs(40)).unwrap();
        for _ in 0..3 {
            let of = (provider.agent.clone(), path);
            lock(&peers.shared.breakers).entry(of).or_default().failure(opened);
        }
        let trial = peers.pass_breaker(&provider, path).unwrap();
        assert!(peers.pass_breaker(&provider, path).is_err(), "one trial at a time");
        drop(trial);
        peers.pass_breaker(&provider, path).unwrap().tell(Ok(()));
        assert!(peers.pass_breaker(&provider, path).is_ok());
    }

    #[tokio::test]
    async fn a_silent_provider_opens_the_breaker() {
        let peers = Peers::new(fleet(&["a"]), "a/x/Me".parse().unwrap());
        let mut reasons = Vec::new();
        for _ in 0..4 {
            let fault = peers.unary(sessions::GET_WINDOW, Default::default(), &Call::default()).await.unwrap_err();
            reasons.push(fault.reason);
        }
        assert_eq!(reasons.last().map(String::as_str), Some(reason::BREAKER_OPEN), "{reasons:?}");
    }
}
