//! The plan as agents see it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use tandem_agent::{FleetAgent, FleetGroup, FleetNode, FleetView, FleetWeb};
use tandem_fleet::{AgentPlan, Caller, GroupPlan, NodePlan, Plan};
use tandem_types::{GroupId, NodeName};

use crate::fleet::Source;

/// Packages of contracts live under this name; a fleet file leaves it out.
const PACKAGE: &str = "tandem.";

/// The plan in plain data as `here` sees it, with what this program's code adds to it.
pub(crate) fn of(plan: &Plan, source: &Source, here: &NodeName) -> FleetView {
    FleetView {
        name: plan.name.clone(),
        plan_hash: plan.plan_hash.clone(),
        text: source.text.clone(),
        file_name: source.name.clone(),
        nodes: plan
            .nodes
            .iter()
            .map(|(name, node)| FleetNode { name: name.clone(), address: node.address.to_string() })
            .collect(),
        groups: plan.nodes.values().flat_map(|node| node.groups.iter().map(|g| group(plan, node, g, here))).collect(),
        roles: plan.roles.keys().map(|role| (role.to_string(), model(plan, role))).collect(),
        web: plan.web.as_ref().map_or_else(FleetWeb::default, |web| FleetWeb {
            listen: web.listen.to_string(),
            token_file: web.token_file.as_ref().map(PathBuf::from),
        }),
    }
}

/// The model that is bound to a role, aliases followed.
fn model(plan: &Plan, role: &tandem_types::Role) -> String {
    plan.role(role).and_then(|bound| bound.model.clone()).unwrap_or_else(|| "auto".into())
}

fn group(plan: &Plan, node: &NodePlan, group: &GroupPlan, here: &NodeName) -> FleetGroup {
    FleetGroup {
        id: group.id.clone(),
        endpoint: group.reach(here).to_string(),
        scrape_endpoint: format!("http://{}", group.scrape),
        needs: group.needs.iter().map(|name| GroupId::new(group.id.node.clone(), name.clone())).collect(),
        ram_bytes: group.ram_mib.unwrap_or(0) << 20,
        cpus: group.cpu.or(node.cpus.map(f64::from)).unwrap_or(0.0),
        agents: group.agents.iter().map(agent).collect(),
        callers: callers(plan, group),
    }
}

fn agent(agent: &AgentPlan) -> FleetAgent {
    let code = tandem_agents::find(agent.name.as_str());
    FleetAgent {
        name: agent.name.clone(),
        required: agent.required,
        built: agent.built,
        // One that is not built would be waited for without end.
        needs: agent.needs.iter().filter(|name| tandem_agents::find(name.as_str()).is_some()).cloned().collect(),
        uses: agent.uses.iter().map(|used| used.agent.clone()).collect(),
        rpcs: code.map(|def| def.provides.iter().map(|rpc| rpc.path).collect()).unwrap_or_default(),
        topics: code.map(|def| def.publishes.iter().map(|topic| topic.name).collect()).unwrap_or_default(),
        settings: agent.settings.clone().map_or(serde_json::Value::Null, serde_json::Value::Object),
    }
}

/// Who may call the contracts of this group, each caller spelt as it names itself in a call: `cli`, an agent's name or
/// identity, and a host as the agent `Host` of its group.
fn callers(plan: &Plan, group: &GroupPlan) -> BTreeMap<String, Vec<String>> {
    let provides = |contract: &str| {
        group.agents.iter().flat_map(|agent| &agent.provides).any(|call| call.split('/').next() == Some(contract))
    };
    let listed = plan.callers.iter().filter(|(contract, _)| provides(contract));
    // A contract that is open to all needs no list.
    let closed = listed.filter(|(_, callers)| !callers.contains(&Caller::Any));
    closed
        .map(|(contract, callers)| {
            let names = callers.iter().flat_map(|caller| names(plan, caller)).collect();
            (format!("{PACKAGE}{contract}"), names)
        })
        .collect()
}

fn names(plan: &Plan, caller: &Caller) -> Vec<String> {
    match caller {
        Caller::Any => vec![],
        Caller::Cli => vec!["cli".into()],
        Caller::Host => vec!["Host".into()],
        Caller::Agent(name) => vec![name.to_string()],
        Caller::Group(id) => {
            let agents = plan.group(id).into_iter().flat_map(|group| &group.agents);
            agents.map(|agent| format!("{id}/{}", agent.name)).chain([format!("{id}/Host")]).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn viewed(text: &str) -> FleetView {
        let source = Source { name: "test.toml".into(), text: text.into() };
        let solo = "solo".parse().unwrap();
        of(&source.plan(Some(&solo)).unwrap(), &source, &solo)
    }

    #[test]
    fn the_default_fleet_reaches_its_agents_whole() {
        let view = viewed(tandem_fleet::SOLO);
        assert_eq!((view.name.as_str(), view.web.listen.as_str()), ("solo", "127.0.0.1:8280"));
        assert_eq!(view.roles.get("llm.fast").map(String::as_str), Some("auto"));
        let group = view.group(&"solo/memory_stack".parse().unwrap()).unwrap();
        assert_eq!(group.endpoint, "http://127.0.0.1:8203");
        assert_eq!(group.ram_bytes, 256 << 20);
        assert!(group.cpus > 0.0);
        let coordination = view.group(&"solo/coordination".parse().unwrap()).unwrap();
        assert!(coordination.ram_bytes > 0, "`rest` of this machine is a number");
        for (_, agent) in view.agents() {
            assert_eq!(agent.built, tandem_agents::find(agent.name.as_str()).is_some(), "{}", agent.name);
        }
    }

    #[test]
    fn the_fleet_of_two_machines_keeps_what_is_not_built() {
        let source = Source { name: "mainpc-pc2.toml".into(), text: tandem_fleet::MAINPC_PC2.into() };
        let view = of(&source.plan(None).unwrap(), &source, &"pc2".parse().unwrap());
        assert_eq!(view.groups.len(), 18);
        let endpoint = |group: &str| view.group(&group.parse().unwrap()).unwrap().endpoint.clone();
        assert!(endpoint("mainpc/infra_core").starts_with("https://10.77.0.1:"));
        assert!(endpoint("pc2/infra_core").starts_with("http://127.0.0.1:"));
        assert!(view.agents().any(|(_, agent)| !agent.built && agent.rpcs.is_empty()));
        assert!(
            view.agents().all(|(_, agent)| agent.needs.iter().all(|need| tandem_agents::find(need.as_str()).is_some()))
        );
    }

    #[test]
    fn settings_and_callers_are_spelt_for_the_host() {
        let text = format!(
            "{}\n[settings.SessionMemoryAgent]\nx = 1\n[callers]\n\"session.v1.Sessions\" = [\"RequestCoordinator\", \
             \"cli\", \"host\", \"solo/language_stack\"]\n\"registry.v1.Registry\" = [\"any\"]\n",
            tandem_fleet::SOLO
        );
        let view = viewed(&text);
        let memory = view.group(&"solo/memory_stack".parse().unwrap()).unwrap();
        assert_eq!(memory.agents[0].settings, serde_json::json!({ "x": 1 }));
        let callers = &memory.callers["tandem.session.v1.Sessions"];
        for name in
            ["RequestCoordinator", "cli", "Host", "solo/language_stack/ChitchatAgent", "solo/language_stack/Host"]
        {
            assert!(callers.iter().any(|c| c == name), "{callers:?} lacks {name}");
        }
        assert!(view.groups.iter().all(|g| !g.callers.contains_key("tandem.registry.v1.Registry")));
    }
}
