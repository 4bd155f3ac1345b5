//! What this program and this machine bring to a plan.

use std::collections::BTreeSet;

use tandem_agent::AgentDef;
use tandem_contract::rpc;
use tandem_engine::catalogue;
use tandem_fleet::{AgentFacts, AgentRef, Facts, Machine};
use tandem_types::{Fault, NodeName};

/// Contracts live in packages under this name; a fleet file leaves it out.
const PACKAGE: &str = "/tandem.";

/// All that is known before a fleet file is read. `here` is the node that this machine is, where that is known.
pub(crate) fn gather(here: Option<&NodeName>) -> Result<Facts, Fault> {
    let (models, _) = catalogue::built_in()?;
    Ok(Facts {
        agents: tandem_agents::ALL.iter().map(|def| of_agent(def)).map(|facts| (facts.name.clone(), facts)).collect(),
        machines: here.iter().map(|node| ((*node).clone(), machine())).collect(),
        models: Some(models.models().iter().map(|model| model.name.clone()).collect()),
        contracts: Some(contracts()),
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

fn contracts() -> BTreeSet<String> {
    rpc::ALL.iter().filter_map(|rpc| call(rpc.path).split_once('/')).map(|(service, _)| service.to_owned()).collect()
}

/// What this machine has. A container's limit counts as the machine's memory.
pub(crate) fn machine() -> Machine {
    let total = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| meminfo(&text, "MemTotal:"));
    let limit = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse().ok());
    let ram_bytes: u64 = total.into_iter().chain(limit).min().unwrap_or(0);
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    Machine { ram_mib: ram_bytes >> 20, cpus: u32::try_from(cpus).unwrap_or(u32::MAX), cards: None }
}

/// A line of `/proc/meminfo` in bytes.
fn meminfo(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// The name this machine goes by on its network.
pub(crate) fn host_name() -> Option<String> {
    nix::unistd::gethostname().ok()?.into_string().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_agent_of_this_program_brings_its_facts() {
        let facts = gather(None).unwrap();
        assert_eq!(facts.agents.len(), tandem_agents::ALL.len());
        let contracts = facts.contracts.unwrap();
        assert!(contracts.contains("session.v1.Sessions") && contracts.contains("coordinator.v1.Coordinator"));
        for agent in facts.agents.values() {
            for call in &agent.provides {
                let (service, _) = call.split_once('/').unwrap();
                assert!(contracts.contains(service), "{} provides {call}", agent.name);
            }
        }
    }

    #[test]
    fn this_machine_has_memory_and_processors() {
        let machine = machine();
        assert!(machine.ram_mib > 0 && machine.cpus > 0);
        assert_eq!(meminfo("MemFree: 1 kB\nMemTotal:       2048 kB\n", "MemTotal:"), Some(2 << 20));
    }
}
