//! What a plan is made with besides the file: this program's code and catalogue, and the machines as the twin knows them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use tandem_agent::AgentDef;
use tandem_contract::pb::tandem::twin::v1 as twin_pb;
use tandem_contract::rpc::{self, twin};
use tandem_fleet::{AgentFacts, Facts, Known, Machine};
use tandem_types::NodeName;

use super::{ASKING, SystemHand};

/// `/tandem.session.v1.Sessions/GetWindow` as the fleet file writes it: `session.v1.Sessions/GetWindow`.
fn short(path: &str) -> &str {
    path.trim_start_matches("/tandem.")
}

fn facts_of(def: &AgentDef) -> Option<AgentFacts> {
    let names = |names: &[&str]| names.iter().filter_map(|name| name.parse().ok()).collect();
    Some(AgentFacts {
        name: def.name.parse().ok()?,
        needs: names(def.needs),
        uses: def.uses.iter().filter_map(|name| name.parse().ok()).collect(),
        required: def.required,
        provides: def.provides.iter().map(|rpc| short(rpc.path).to_owned()).collect(),
        roles: def.roles.iter().filter_map(|role| role.parse().ok()).collect(),
    })
}

/// The agents this program has code for.
fn known() -> Known {
    crate::ALL.iter().filter_map(|def| facts_of(def)).map(|facts| (facts.name.clone(), facts)).collect()
}

impl SystemHand {
    /// Everything that is known; a machine nobody has measured checks less.
    pub(super) async fn facts(&self) -> Facts {
        let catalogue = tandem_engine::catalogue::built_in().ok();
        let contracts = rpc::ALL.iter().filter_map(|rpc| short(rpc.path).split_once('/').map(|(c, _)| c.to_owned()));
        Facts {
            agents: known(),
            machines: self.machines().await,
            models: catalogue.map(|(catalogue, _)| catalogue.models().iter().map(|m| m.name.clone()).collect()),
            contracts: Some(contracts.collect::<BTreeSet<_>>()),
        }
    }

    async fn machines(&self) -> BTreeMap<NodeName, Machine> {
        let call = self.ctx.call().within(ASKING, Instant::now());
        let request = twin_pb::GetStateRequest::default();
        let Ok(state) = self.ctx.peers().unary(twin::GET_STATE, request, &call).await else { return BTreeMap::new() };
        let machine = |node: twin_pb::NodeState| {
            let ram_mib = node.ram_total_bytes? >> 20;
            // The twin does not say how many multiprocessors a card has, which is what shares are made of.
            Some((node.node.parse().ok()?, Machine { ram_mib, cpus: node.cpus, cards: None }))
        };
        state.nodes.into_iter().filter_map(machine).collect()
    }
}
