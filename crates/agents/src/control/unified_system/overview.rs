//! The fleet on one page, every agent with where it is, and announced maintenance.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use futures::future::join_all;
use tandem_agent::FleetGroup;
use tandem_contract::Call;
use tandem_contract::pb::tandem::common::v1 as common;
use tandem_contract::pb::tandem::registry::v1 as registry_pb;
use tandem_contract::pb::tandem::system::v1 as pb;
use tandem_contract::rpc::registry;
use tandem_store::actions::{ActionState, NewMaintenance};
use tandem_store::paging::{DEFAULT_SIZE, MAX_SIZE};
use tandem_types::{AgentId, Fault, Health, State, Timestamp};

use super::{ASKING, SystemHand, logic, wire};
use crate::control::NOT_BUILT;
use crate::fields::Fields;

const NONE_BUILT: &str = "none of its agents is built";

impl SystemHand {
    pub(super) async fn get_overview(
        self: Arc<Self>,
        _: Call,
        _: pb::GetOverviewRequest,
    ) -> Result<pb::GetOverviewResponse, Fault> {
        let now = self.now();
        let fleet = self.ctx.fleet();
        let groups = join_all(fleet.groups.iter().map(|group| self.group_overview(group))).await;
        let running = self.store.unfinished().await?;
        let running = running.into_iter().filter(|action| action.state == ActionState::Running);
        let maintenance = self.store.maintenance(now).await?.into_iter().filter(|m| m.what.from <= now);
        Ok(pb::GetOverviewResponse {
            fleet: fleet.name.clone(),
            plan_hash: fleet.plan_hash.clone(),
            groups,
            running: running.map(wire::action).collect(),
            maintenance: maintenance.map(wire::maintenance).collect(),
            ..Default::default()
        })
    }

    async fn group_overview(&self, group: &FleetGroup) -> pb::GroupOverview {
        let built = group.agents.iter().any(|agent| agent.built);
        let (health, agents) = match built {
            false => self.said_for_all(group, State::Unavailable, NONE_BUILT),
            true => match self.health_of(&group.id, 0).await {
                Ok(answer) => {
                    let unsaid = || Health::new(State::Unknown, "the host did not say", self.now());
                    (answer.health.as_option().map_or_else(unsaid, Health::from), answer.agents)
                }
                // Only of another node it cannot be known whether it is the group or the way to it.
                Err(fault) => {
                    let own = group.id.node == self.ctx.id().node;
                    let state = if own { State::Unavailable } else { State::Unknown };
                    self.said_for_all(group, state, &format!("does not answer: {}", fault.message))
                }
            },
        };
        let (group, endpoint) = (group.id.to_string(), group.endpoint.clone());
        let health = common::Health::from(&health).into();
        pb::GroupOverview { group, health, agents, endpoint, ..Default::default() }
    }

    fn said_for_all(&self, group: &FleetGroup, state: State, cause: &str) -> (Health, Vec<pb::AgentHealth>) {
        let now = self.now();
        let health = Health::new(state, cause, now);
        let not_built = Health::new(State::Unavailable, NOT_BUILT, now);
        let agents = group.agents.iter().map(|agent| {
            let health = if agent.built { &health } else { &not_built };
            wire::agent_health(&group.id.agent(agent.name.clone()), health, agent.required, agent.built)
        });
        let agents = agents.collect();
        (health, agents)
    }

    pub(super) async fn list_services(
        self: Arc<Self>,
        call: Call,
        request: pb::ListServicesRequest,
    ) -> Result<pb::ListServicesResponse, Fault> {
        let mut fields = Fields::default();
        let after = fields.optional::<AgentId>("page_token", &request.page_token);
        let size = fields.at_most("page_size", request.page_size, DEFAULT_SIZE, MAX_SIZE);
        let (after, size) = fields.all(after.zip(size))?;
        let size = size as usize;
        let registered = self.registered(&call).await;
        let planned: BTreeMap<AgentId, (&FleetGroup, &tandem_agent::FleetAgent)> = self
            .ctx
            .fleet()
            .agents()
            .map(|(group, agent)| (group.id.agent(agent.name.clone()), (group, agent)))
            .collect();
        let wanted = planned.into_iter().filter(|(id, _)| after.as_ref().is_none_or(|after| id > after));
        let mut services: Vec<pb::ServiceInfo> = wanted
            .take(size + 1)
            .map(|(id, (group, agent))| {
                let said = match &registered {
                    Ok(agents) => agents.get(&id).cloned(),
                    Err(_) => None,
                };
                let health = said.and_then(|report| report.health.as_option().map(Health::from));
                let health = health.unwrap_or_else(|| match (agent.built, &registered) {
                    (false, _) => Health::new(State::Unavailable, NOT_BUILT, self.now()),
                    (true, Ok(_)) => Health::new(State::Unavailable, "is not registered", self.now()),
                    (true, Err(fault)) => {
                        Health::new(State::Unknown, format!("the registry is away: {}", fault.message), self.now())
                    }
                });
                pb::ServiceInfo {
                    agent: id.to_string(),
                    endpoint: group.endpoint.clone(),
                    health: common::Health::from(&health).into(),
                    rpcs: agent.rpcs.iter().map(|rpc| (*rpc).to_owned()).collect(),
                    ..Default::default()
                }
            })
            .collect();
        let more = services.len() > size;
        services.truncate(size);
        let next_page_token = services.last().filter(|_| more).map(|last| last.agent.clone()).unwrap_or_default();
        Ok(pb::ListServicesResponse { services, next_page_token, ..Default::default() })
    }

    /// What the registry has of every agent that is there.
    async fn registered(&self, call: &Call) -> Result<BTreeMap<AgentId, registry_pb::AgentReport>, Fault> {
        let call = call.next(self.ctx.id()).within(ASKING, Instant::now());
        let mut found = BTreeMap::new();
        let mut page_token = String::new();
        loop {
            let request = registry_pb::ListRequest { page_size: MAX_SIZE, page_token, ..Default::default() };
            let page = self.ctx.peers().unary(registry::LIST, request, &call).await?;
            for report in page.leases.into_iter().filter(|lease| lease.ended.is_empty()).flat_map(|lease| lease.agents)
            {
                if let Ok(id) = report.agent.parse() {
                    found.insert(id, report);
                }
            }
            if page.next_page_token.is_empty() {
                return Ok(found);
            }
            page_token = page.next_page_token;
        }
    }

    pub(super) async fn set_maintenance(
        self: Arc<Self>,
        _: Call,
        request: pb::SetMaintenanceRequest,
    ) -> Result<pb::SetMaintenanceResponse, Fault> {
        let groups = self.ctx.fleet().groups.iter();
        let groups =
            groups.map(|g| (g.id.clone(), g.agents.iter().map(|agent| agent.name.clone()).collect())).collect();
        let mut fields = Fields::default();
        let key = fields.key(&request.idempotency_key);
        let known = logic::scope_is_known(&request.scope, &groups);
        fields.require(known, "scope", "names no node, group or agent of the fleet file; leave it empty for the fleet");
        let now = self.now();
        fields.require(request.to_us > now.micros(), "to_us", "is over already");
        fields.require(request.to_us > request.from_us, "to_us", "is not after from_us");
        let key = fields.all(key)?;
        // 0 stays 0 in what is kept, so that a repeated request equals the first.
        let new = NewMaintenance {
            scope: request.scope,
            from: Timestamp(request.from_us),
            to: Timestamp(request.to_us),
            reason: request.reason,
        };
        let announced = self.store.announce(key, new, now).await?;
        Ok(pb::SetMaintenanceResponse { maintenance: wire::maintenance(announced).into(), ..Default::default() })
    }
}
