//! From plan to view: the plan as agents and hosts see it, and what the plan needs to know of this build and machine.

use std::collections::{BTreeMap, BTreeSet};

use tandem_agent::{AgentDef, FleetAgent, FleetGroup, FleetNode, FleetView, FleetWeb};
use tandem_contract::rpc;
use tandem_fleet::{AgentFacts, Caller, Facts, Known, Machine, Plan};
use tandem_types::{GroupId, NodeName};

/// MiB an engine's group gets when nobody has looked at the machine's RAM.
const UNKNOWN_RAM_MIB: u64 = 1024;

/// `/tandem.session.v1.Sessions/GetWindow` as the fleet file writes it: `session.v1.Sessions/GetWindow`.
fn short(path: &str) -> String {
    path.trim_start_matches("/tandem.").to_owned()
}

fn facts_of(def: &AgentDef) -> Option<AgentFacts> {
    let names = |names: &[&str]| names.iter().filter_map(|name| name.parse().ok()).collect();
    Some(AgentFacts {
        name: def.name.parse().ok()?,
        needs: names(def.needs),
        uses: def.uses.iter().filter_map(|name| name.parse().ok()).collect(),
        required: def.required,
        provides: def.provides.iter().map(|rpc| short(rpc.path)).collect(),
        roles: def.roles.iter().filter_map(|role| role.parse().ok()).collect(),
    })
}

/// What this build has code for.
pub(crate) fn known() -> Known {
    tandem_agents::ALL.iter().filter_map(|def| facts_of(def)).map(|facts| (facts.name.clone(), facts)).collect()
}

/// What this machine has, from `/proc`.
pub(crate) fn this_machine() -> Machine {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")).and_then(|rest| {
        rest.split_whitespace().next().and_then(|number| number.parse::<u64>().ok())
    });
    let cpus = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX));
    Machine { ram_mib: kib.unwrap_or_default() / 1024, cpus, cards: None }
}

/// Everything a plan is made with besides the file. Machines of the file that are not this one stay unknown.
pub(crate) fn facts(nodes_here: impl IntoIterator<Item = NodeName>, models: Option<BTreeSet<String>>) -> Facts {
    let contracts = rpc::ALL.iter().filter_map(|rpc| short(rpc.path).split_once('/').map(|(c, _)| c.to_owned()));
    Facts {
        agents: known(),
        machines: nodes_here.into_iter().map(|node| (node, this_machine())).collect(),
        models,
        contracts: Some(contracts.collect()),
    }
}

/// Who may call the contracts of a group, in the words of the call's `tandem-caller`.
fn callers(plan: &Plan) -> BTreeMap<String, Vec<String>> {
    let agents_of = |group: &GroupId| {
        let agents = plan.group(group).map(|g| g.agents.clone()).unwrap_or_default();
        agents.into_iter().map(|a| a.name.to_string()).collect::<Vec<_>>()
    };
    let mut by_contract = BTreeMap::new();
    for (contract, allowed) in &plan.callers {
        if allowed.contains(&Caller::Any) {
            continue;
        }
        let names = allowed.iter().flat_map(|caller| match caller {
            Caller::Any => vec![],
            Caller::Cli => vec!["cli".to_owned()],
            Caller::Host => vec!["Host".to_owned()],
            Caller::Agent(name) => vec![name.to_string()],
            Caller::Group(id) => agents_of(id),
        });
        by_contract.insert(format!("tandem.{}", contract.trim_start_matches("tandem.")), names.collect());
    }
    by_contract
}

/// The plan in plain data. `text` is the fleet file's.
pub(crate) fn view(plan: &Plan, text: &str, file_name: &str) -> FleetView {
    let callers = callers(plan);
    let agent = |agent: &tandem_fleet::AgentPlan| {
        let def = tandem_agents::find(agent.name.as_str());
        FleetAgent {
            name: agent.name.clone(),
            required: agent.required,
            built: agent.built,
            // A need of an agent that is not built would never end.
            needs: agent.needs.iter().filter(|n| tandem_agents::find(n.as_str()).is_some()).cloned().collect(),
            uses: agent.uses.iter().map(|used| used.agent.clone()).collect(),
            rpcs: def.map(|d| d.provides.iter().map(|rpc| rpc.path).collect()).unwrap_or_default(),
            topics: def.map(|d| d.publishes.iter().map(|topic| topic.name).collect()).unwrap_or_default(),
            settings: plan.settings(&agent.name),
        }
    };
    let mut groups = Vec::new();
    let mut nodes = Vec::new();
    for (name, node) in &plan.nodes {
        nodes.push(FleetNode { name: name.clone(), address: node.address.to_string() });
        groups.extend(node.groups.iter().map(|group| FleetGroup {
            id: group.id.clone(),
            endpoint: format!("http://{}", group.contract),
            scrape_endpoint: format!("http://{}", group.scrape),
            needs: group.needs.iter().map(|need| GroupId::new(name.clone(), need.clone())).collect(),
            ram_bytes: group.ram_mib.unwrap_or(UNKNOWN_RAM_MIB) << 20,
            cpus: group.cpu.unwrap_or_else(|| node.cpus.map_or(1.0, f64::from)),
            agents: group.agents.iter().map(agent).collect(),
            callers: callers.clone(),
        }));
    }
    FleetView {
        name: plan.name.clone(),
        plan_hash: plan.plan_hash.clone(),
        text: text.to_owned(),
        file_name: file_name.to_owned(),
        nodes,
        groups,
        roles: plan
            .roles
            .keys()
            .filter_map(|role| plan.role(role).map(|r| (role, r)))
            .map(|(role, bound)| (role.to_string(), bound.model.clone().unwrap_or_else(|| "auto".to_owned())))
            .collect(),
        web: plan.web.as_ref().map_or_else(FleetWeb::default, |web| FleetWeb {
            listen: web.listen.to_string(),
            token_file: web.token_file.as_ref().map(Into::into),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tandem_fleet::{Document, MAINPC_PC2, SOLO, plan};

    #[test]
    fn the_default_fleet_becomes_a_view_with_every_agent_built() {
        let document = Document::read("solo.toml", SOLO);
        let plan = plan(&document, &facts(["solo".parse().unwrap()], None)).unwrap();
        let view = view(&plan, SOLO, "solo.toml");
        assert!(view.agents().all(|(_, agent)| agent.built));
        let providers = |path| view.agents().filter(|(_, a)| a.rpcs.contains(&path)).count();
        assert_eq!(providers(rpc::coordinator::SUBMIT.path()), 1);
        assert!(view.web.listen.parse::<std::net::SocketAddr>().is_ok());
    }

    #[test]
    fn the_two_machines_keep_their_callers_and_their_unbuilt_agents() {
        let document = Document::read("mainpc-pc2.toml", MAINPC_PC2);
        let plan = plan(&document, &facts([], None)).unwrap();
        let view = view(&plan, MAINPC_PC2, "mainpc-pc2.toml");
        assert_eq!(view.groups.len(), 18);
        assert!(view.agents().any(|(_, agent)| !agent.built));
        let callers = &view.groups[0].callers["tandem.coordinator.v1.Coordinator"];
        assert!(callers.contains(&"cli".to_owned()) && callers.contains(&"UnifiedWebAgent".to_owned()));
    }
}
