//! What this program brings to a plan: its agents, the contracts it speaks, the models it knows.

use std::collections::BTreeMap;

use tandem_agent::AgentDef;
use tandem_contract::rpc;
use tandem_engine::catalogue;
use tandem_fleet::{AgentFacts, AgentRef, Facts, Machine};
use tandem_types::{Fault, NodeName};

/// Contracts live in packages under this name; a fleet file leaves it out.
const PACKAGE: &str = "/tandem.";

/// Everything that is known besides the fleet file, with the machines somebody has looked at.
///
/// # Errors
/// Those of the catalogue of models.
pub fn facts(machines: BTreeMap<NodeName, Machine>) -> Result<Facts, Fault> {
    let (models, _) = catalogue::built_in()?;
    let contracts = rpc::ALL.iter().filter_map(|rpc| call(rpc.path).split_once('/'));
    Ok(Facts {
        agents: crate::ALL.iter().map(|def| of_agent(def)).map(|facts| (facts.name.clone(), facts)).collect(),
        machines,
        models: Some(models.models().iter().map(|model| model.name.clone()).collect()),
        contracts: Some(contracts.map(|(service, _)| service.to_owned()).collect()),
    })
}

fn of_agent(def: &AgentDef) -> AgentFacts {
    // Names in the code are constants, and a test goes through all of them.
    let name = |text: &&str| text.parse().expect("agents are named by the rules");
    AgentFacts {
        name: name(&def.name),
        needs: def.needs.iter().map(name).collect(),
        uses: def.uses.iter().map(name).map(AgentRef::from).collect(),
        required: def.required,
        provides: def.provides.iter().map(|rpc| call(rpc.path).to_owned()).collect(),
        roles: def.roles.iter().map(|role| role.parse().expect("roles are named by the rules")).collect(),
    }
}

/// `session.v1.Sessions/AppendTurn` of `/tandem.session.v1.Sessions/AppendTurn`.
fn call(path: &str) -> &str {
    path.strip_prefix(PACKAGE).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_agent_of_this_program_brings_its_facts() {
        let facts = facts(BTreeMap::new()).unwrap();
        assert_eq!(facts.agents.len(), crate::ALL.len());
        let contracts = facts.contracts.unwrap();
        assert!(contracts.contains("session.v1.Sessions") && contracts.contains("coordinator.v1.Coordinator"));
        for agent in facts.agents.values() {
            for call in &agent.provides {
                let (service, _) = call.split_once('/').unwrap();
                assert!(contracts.contains(service), "{} provides {call}", agent.name);
            }
        }
    }
}
