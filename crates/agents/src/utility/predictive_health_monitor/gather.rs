//! Gathers the figures of every agent from the hubs of their nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures::future::join_all;
use tandem_contract::pb::tandem::telemetry::v1 as pb;
use tandem_contract::rpc::telemetry;
use tandem_contract::{Call, Client, state_of};
use tandem_types::{AgentId, AgentName, Fault, GroupId, NodeName, State, Timestamp};

use super::logic::signals::{Signal, Signals};
use super::logic::watch::TICK;
use super::{Monitor, built, lock};

/// How long a hub may take for one answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Name of the agent that measures a node.
const HUB: &str = "ObservabilityHub";
/// Codes of calls that failed by the doing of who served them.
const OWN_FAULTS: [&str; 4] = ["internal", "unavailable", "deadline_exceeded", "resource_exhausted"];
/// The series that are read.
const SERIES: [&str; 7] = [
    "tandem_rpc_p95_seconds",
    "tandem_rpc_requests_total",
    "tandem_heartbeat_late_seconds_sum",
    "tandem_heartbeat_late_seconds_count",
    "tandem_queue_depth",
    "process_resident_memory_bytes",
    "tandem_agent_restarts_total",
];

/// What was seen at one look.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Figures of each agent whose hub answered.
    pub(super) signals: BTreeMap<AgentId, Signals>,
    /// Agents that are failing.
    pub(super) failing: BTreeSet<AgentId>,
}

/// The latest value of a series.
struct Latest {
    name: &'static str,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Latest {
    fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }

    /// The counter that it is, over all its labels.
    fn counter(&self) -> String {
        format!("{} {:?}", self.name, self.labels)
    }
}

/// The hub of a node, and how it is asked.
pub(super) struct HubOf {
    pub(super) node: NodeName,
    name: AgentName,
    at: Client,
}

impl Monitor {
    /// The hubs of the plan.
    pub(super) fn hubs(&self) -> Vec<HubOf> {
        let hub = |(group, agent): (&tandem_agent::FleetGroup, &tandem_agent::FleetAgent)| {
            let at = self.ctx.peers().group(&group.id).ok()?;
            let is_hub = agent.built && agent.name.as_str() == HUB;
            is_hub.then(|| HubOf { node: group.id.node.clone(), name: agent.name.clone(), at })
        };
        self.ctx.fleet().agents().filter_map(hub).collect()
    }

    fn call_to(&self, hub: &HubOf) -> Call {
        self.ctx.call().to(hub.name.clone()).within(PATIENCE, Instant::now())
    }

    /// Asks every hub for the figures of its node. Agents of a node whose hub does not answer are left out.
    pub(super) async fn gather(&self) -> Seen {
        let hubs = self.hubs();
        let mut seen = Seen::default();
        for (hub, read) in hubs.iter().zip(join_all(hubs.iter().map(|hub| self.read(hub))).await) {
            match read {
                Ok((latest, failing)) => {
                    let agents: Vec<AgentId> =
                        built(&self.ctx).into_iter().filter(|agent| agent.node == hub.node).collect();
                    seen.signals.extend(self.signals(&agents, &latest));
                    seen.failing.extend(failing);
                }
                Err(fault) => tracing::debug!(node = %hub.node, %fault, "a hub did not say what it measured"),
            }
        }
        seen
    }

    async fn read(&self, hub: &HubOf) -> Result<(Vec<Latest>, BTreeSet<AgentId>), Fault> {
        let from = self.now() - TICK;
        let mut latest = Vec::new();
        for name in SERIES {
            let request = pb::QuerySeriesRequest { name: name.into(), from_us: from.micros(), ..Default::default() };
            let found = match hub.at.unary(telemetry::QUERY_SERIES, request, &self.call_to(hub)).await {
                Ok(found) => found.series,
                // Nothing of the kind was measured yet.
                Err(fault) if fault.code == tandem_types::Code::NotFound => continue,
                Err(fault) => return Err(fault),
            };
            let value = |series: pb::Series| {
                let value = series.samples.last()?.value;
                Some(Latest { name, labels: series.labels.into_iter().collect(), value })
            };
            latest.extend(found.into_iter().filter_map(value));
        }
        let request = pb::GetFleetHealthRequest::default();
        let health = hub.at.unary(telemetry::GET_FLEET_HEALTH, request, &self.call_to(hub)).await?;
        let own = health.nodes.iter().filter(|node| node.node == hub.node.as_str());
        let failing = own.flat_map(|node| &node.groups).flat_map(|group| {
            let failed =
                |agent: &&pb::AgentNode| agent.health.as_option().is_some_and(|h| state_of(h.state) == State::Failed);
            let id = |agent: &pb::AgentNode| format!("{}/{}/{}", hub.node, group.group, agent.agent).parse().ok();
            group.agents.iter().filter(failed).filter_map(id)
        });
        Ok((latest, failing.collect()))
    }

    fn signals(&self, agents: &[AgentId], latest: &[Latest]) -> BTreeMap<AgentId, Signals> {
        let mut counters = lock(&self.counters);
        let grown: Vec<Option<f64>> = latest.iter().map(|one| counters.growth(one.counter(), one.value)).collect();
        drop(counters);
        let growth = |of: &dyn Fn(&Latest) -> bool| -> Option<f64> {
            let counted = latest.iter().zip(&grown).filter(|(one, _)| of(one)).filter_map(|(_, grown)| *grown);
            counted.fold(None, |sum, grown| Some(sum.unwrap_or(0.0) + grown))
        };
        let value = |of: &dyn Fn(&Latest) -> bool| latest.iter().find(|one| of(one)).map(|one| one.value);
        let signals_of = |agent: &AgentId| {
            let (id, group): (String, GroupId) = (agent.to_string(), agent.group_id());
            let group = group.to_string();
            let own = |name: &'static str| {
                let id = &id;
                move |one: &Latest| one.name == name && one.label("agent") == id
            };
            let of_group = |name: &'static str| {
                let group = &group;
                move |one: &Latest| one.name == name && one.label("group") == group
            };
            let calls = own("tandem_rpc_requests_total");
            let all = growth(&calls).filter(|all| *all > 0.0);
            let bad = growth(&|one| calls(one) && OWN_FAULTS.contains(&one.label("code")));
            let late = growth(&of_group("tandem_heartbeat_late_seconds_sum"));
            let beats = growth(&of_group("tandem_heartbeat_late_seconds_count")).filter(|n| *n > 0.0);
            let figures = [
                (Signal::Latency, value(&own("tandem_rpc_p95_seconds"))),
                (Signal::Errors, all.map(|all| bad.unwrap_or(0.0) / all)),
                (Signal::Heartbeats, late.zip(beats).map(|(late, beats)| late / beats)),
                (Signal::Queue, value(&own("tandem_queue_depth"))),
                (Signal::Memory, value(&of_group("process_resident_memory_bytes"))),
                (Signal::Restarts, growth(&own("tandem_agent_restarts_total"))),
            ];
            let known = figures.into_iter().filter_map(|(signal, value)| Some((signal, value?)));
            (agent.clone(), known.collect::<Signals>())
        };
        agents.iter().map(signals_of).filter(|(_, signals)| !signals.is_empty()).collect()
    }

    /// The latest errors of an agent as its hub has them, with the log lines that show them.
    pub(super) async fn errors_of(&self, agent: &AgentId, from: Timestamp) -> Vec<pb::ErrorReport> {
        let hubs = self.hubs();
        let Some(hub) = hubs.iter().find(|hub| hub.node == agent.node) else { return Vec::new() };
        let request = pb::QueryErrorsRequest {
            agent: agent.to_string(),
            from_us: from.micros(),
            page_size: 20,
            ..Default::default()
        };
        match hub.at.unary(telemetry::QUERY_ERRORS, request, &self.call_to(hub)).await {
            Ok(found) => found.errors,
            Err(fault) => {
                tracing::debug!(%agent, %fault, "its errors could not be had as evidence");
                Vec::new()
            }
        }
    }
}
