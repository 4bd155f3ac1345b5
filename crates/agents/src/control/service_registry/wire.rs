//! Messages of `registry.v1` to and from the words of [`super::logic`].

use tandem_contract::pb::tandem::registry::v1 as pb;
use tandem_types::{AgentId, Fault, GroupId, Health, State, Timestamp};

use super::logic::{Body, Entry, Query, Registration, Report};
use crate::fields::Fields;

/// The reports of a group's agents, without those that are wrong.
pub(super) fn reports(group: &GroupId, agents: Vec<pb::AgentReport>, fields: &mut Fields) -> Vec<Report> {
    let mut read: Vec<Report> = Vec::with_capacity(agents.len());
    for (i, report) in agents.into_iter().enumerate() {
        let field = format!("agents[{i}].agent");
        let Some(agent) = fields.parse::<AgentId>(&field, &report.agent) else { continue };
        fields.require(agent.group_id() == *group, &field, &format!("`{agent}` is not of {group}"));
        fields.require(
            read.iter().all(|former| former.agent != agent),
            &field,
            &format!("`{agent}` is reported twice"),
        );
        let share = (0.0..=1.0).contains(&report.load);
        fields.require(share, &format!("agents[{i}].load"), &format!("{} is not a share from 0 to 1", report.load));
        let health = report.health.as_option().map(Health::from);
        let health = health.unwrap_or_else(|| Health::new(State::Unknown, "not said", Timestamp::default()));
        read.push(Report { agent, rpcs: report.rpcs, health, load: report.load });
    }
    read
}

/// A registration, or everything that is wrong with it.
pub(super) fn registration(request: pb::RegisterRequest) -> Result<Registration, Fault> {
    let mut fields = Fields::default();
    let group = fields.parse::<GroupId>("group", &request.group);
    fields.require(!request.instance_id.is_empty(), "instance_id", "is missing");
    fields.require(!request.endpoint.is_empty(), "endpoint", "is missing");
    let agents = group.as_ref().map(|group| reports(group, request.agents, &mut fields));
    let (group, agents) = fields.all(group.zip(agents))?;
    Ok(Registration {
        group,
        generation: request.generation,
        body: Body {
            instance: request.instance_id,
            endpoint: request.endpoint,
            version: request.version,
            contract_hash: request.contract_hash,
            plan_hash: request.plan_hash,
            agents,
            warnings: Vec::new(),
        },
    })
}

/// What is looked for.
pub(super) fn query(request: pb::ResolveRequest) -> Result<Query, Fault> {
    let mut fields = Fields::default();
    let path = request.rpc.starts_with('/');
    fields.require(path, "rpc", "is no path such as `/tandem.session.v1.Sessions/GetWindow`");
    let node = fields.optional("node", &request.node);
    let caller_node = fields.optional("caller_node", &request.caller_node);
    let (node, caller_node) = fields.all(node.zip(caller_node))?;
    Ok(Query { rpc: request.rpc, node, only_ready: request.only_ready, caller_node })
}

fn report(report: &Report) -> pb::AgentReport {
    pb::AgentReport {
        agent: report.agent.to_string(),
        rpcs: report.rpcs.clone(),
        health: tandem_contract::pb::tandem::common::v1::Health::from(&report.health).into(),
        load: report.load,
        ..Default::default()
    }
}

/// A line of the table.
pub(super) fn lease(group: &GroupId, entry: &Entry) -> pb::Lease {
    let Body { instance, endpoint, version, contract_hash, plan_hash, agents, warnings } = entry.body.clone();
    pb::Lease {
        lease_id: entry.id.clone(),
        group: group.to_string(),
        instance_id: instance,
        generation: entry.generation,
        endpoint,
        version,
        contract_hash,
        plan_hash,
        agents: agents.iter().map(report).collect(),
        fencing: entry.fencing,
        expires_us: entry.expires.micros(),
        unconfirmed: entry.unconfirmed,
        warnings,
        ended: entry.ended.as_ref().map(|(_, why)| why.clone()).unwrap_or_default(),
        ..Default::default()
    }
}

/// A change of a line.
pub(super) fn change(kind: pb::ChangeKind, group: &GroupId, entry: &Entry) -> pb::WatchResponse {
    pb::WatchResponse {
        revision: entry.revision,
        kind: kind.into(),
        lease: lease(group, entry).into(),
        ..Default::default()
    }
}

/// Somebody who serves what was asked for.
pub(super) fn provider(endpoint: &str, found: &Report) -> pb::Provider {
    let pb::AgentReport { agent, health, load, .. } = report(found);
    pb::Provider { agent, endpoint: endpoint.to_owned(), health, load, ..Default::default() }
}
