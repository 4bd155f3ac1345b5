//! Keeps the group in the registry, and hears from it who else is alive.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use tandem_agent::backoff;
use tandem_contract::pb::tandem::common::v1 as common;
use tandem_contract::pb::tandem::registry::v1 as pb;
use tandem_contract::{Call, Client, FaultStream, contract_hash, rpc, state_of};
use tandem_types::{AgentId, Code, Fault, State, reason};
use tracing::{info, warn};

use crate::Shared;

/// Time between two renewals; the lease lasts three times as long.
const RENEW_EVERY: Duration = Duration::from_secs(5);
/// Failures in a row before a person is told: about 3 s, longer than a group takes to come back from a crash.
const TOLD_AFTER: u32 = 6;

fn reports(shared: &Shared) -> Vec<pb::AgentReport> {
    let built = shared.roster.slots.iter().filter_map(|slot| slot.health().map(|health| (slot, health)));
    built
        .map(|(slot, health)| pb::AgentReport {
            agent: slot.id.to_string(),
            rpcs: slot.facts.rpcs.iter().map(|rpc| (*rpc).to_owned()).collect(),
            health: common::Health::from(&health).into(),
            load: slot.load(),
            ..Default::default()
        })
        .collect()
}

/// The registry and a call to it. Past the breaker: whoever calls here waits between two tries already, and an open breaker
/// would keep the group unregistered long after the registry has come back and waited for it.
fn registry(shared: &Shared, path: &str) -> Result<(Client, Call), Fault> {
    let provider = shared.peers.providers(path).into_iter().next();
    let provider = provider.ok_or_else(|| Fault::unavailable(reason::NOT_BUILT, format!("nobody serves {path}")))?;
    let client = shared.peers.group(&provider.agent.group_id())?;
    Ok((client, Call { agent: Some(provider.agent.agent), ..Call::by(&shared.host_id) }))
}

fn soon(call: Call) -> Call {
    call.within(Duration::from_secs(1), Instant::now())
}

/// Registers, renews and reports changes at once, until the group ends.
pub(crate) async fn keep(shared: Arc<Shared>) {
    if shared.peers.providers(rpc::registry::REGISTER.path()).is_empty() {
        return;
    }
    let mut changes = shared.roster.changes();
    let mut failures = 0;
    let mut lease: Option<String> = None;
    let mut told = String::new();
    while !shared.cancel.is_cancelled() {
        changes.borrow_and_update();
        let outcome = match &lease {
            None => register(&shared).await.map(Some),
            Some(id) => renew(&shared, id).await,
        };
        match outcome {
            Ok(held) => {
                if lease.is_none() {
                    info!(group = %shared.roster.group, "registered");
                }
                failures = 0;
                told.clear();
                lease = held;
            }
            Err(fault) => {
                failures += 1;
                if told != fault.message && failures > TOLD_AFTER {
                    warn!(group = %shared.roster.group, %fault, "the group is not in the registry; going on without it");
                    told.clone_from(&fault.message);
                }
            }
        }
        let wait = match (failures, &lease) {
            (0, None) => Duration::ZERO,
            (0, Some(_)) => RENEW_EVERY,
            (n, _) => backoff(n, 1.0),
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = changes.changed(), if failures == 0 => {}
            () = shared.cancel.cancelled() => {}
        }
    }
    if let Some(lease_id) = lease {
        let request = pb::DeregisterRequest { lease_id, reason: "stopped".into(), ..Default::default() };
        if let Err(fault) = deregister(&shared, request).await
            && fault.code != Code::Unavailable
        {
            warn!(group = %shared.roster.group, %fault, "could not deregister");
        }
    }
}

async fn deregister(shared: &Shared, request: pb::DeregisterRequest) -> Result<(), Fault> {
    let (client, call) = registry(shared, rpc::registry::DEREGISTER.path())?;
    client.unary(rpc::registry::DEREGISTER, request, &soon(call)).await.map(drop)
}

async fn register(shared: &Shared) -> Result<String, Fault> {
    let request = pb::RegisterRequest {
        group: shared.roster.group.to_string(),
        instance_id: shared.instance.clone(),
        generation: shared.generation,
        endpoint: shared.endpoint.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        contract_hash: contract_hash().to_owned(),
        plan_hash: shared.peers.fleet().plan_hash.clone(),
        agents: reports(shared),
        ..Default::default()
    };
    let (client, call) = registry(shared, rpc::registry::REGISTER.path())?;
    let answer = client.unary(rpc::registry::REGISTER, request, &soon(call)).await?;
    for warning in &answer.warnings {
        warn!(group = %shared.roster.group, warning, "the registry differs");
    }
    Ok(answer.lease_id)
}

/// The lease after a renewal; none when the registry no longer knows it.
async fn renew(shared: &Shared, lease: &str) -> Result<Option<String>, Fault> {
    let request = pb::RenewRequest { lease_id: lease.to_owned(), agents: reports(shared), ..Default::default() };
    let (client, call) = registry(shared, rpc::registry::RENEW.path())?;
    match client.unary(rpc::registry::RENEW, request, &soon(call)).await {
        Ok(_) => Ok(Some(lease.to_owned())),
        Err(fault) if fault.code == Code::NotFound => Ok(None),
        Err(fault) => Err(fault),
    }
}

/// Hears from the registry who is alive, until the group ends. Silence costs freshness, not function.
pub(crate) async fn listen(shared: Arc<Shared>) {
    if shared.peers.providers(rpc::registry::WATCH.path()).is_empty() {
        return;
    }
    let mut failures = 0;
    loop {
        if let Ok(mut changes) = watch(&shared).await {
            loop {
                let change = tokio::select! {
                    change = changes.next() => change,
                    () = shared.cancel.cancelled() => return,
                };
                let Some(Ok(change)) = change else { break };
                failures = 0;
                let removed = change.kind.as_known() == Some(pb::ChangeKind::CHANGE_KIND_REMOVED);
                for agent in change.lease.as_option().map(|l| l.agents.as_slice()).unwrap_or_default() {
                    let Ok(id) = agent.agent.parse::<AgentId>() else { continue };
                    if id.group_id() == shared.roster.group {
                        // How its own agents are doing the group knows first; this is what it said a moment ago.
                        continue;
                    }
                    let state = agent.health.as_option().map_or(State::Unknown, |h| state_of(h.state));
                    shared.peers.heard(&id, if removed { State::Stopped } else { state });
                }
            }
        }
        failures += 1;
        tokio::select! {
            () = tokio::time::sleep(backoff(failures, 1.0)) => {}
            () = shared.cancel.cancelled() => return,
        }
    }
}

async fn watch(shared: &Shared) -> Result<FaultStream<pb::WatchResponse>, Fault> {
    let (client, call) = registry(shared, rpc::registry::WATCH.path())?;
    let request = pb::WatchRequest { after_revision: 0, ..Default::default() };
    client.server_stream(rpc::registry::WATCH, request, &call).await
}
