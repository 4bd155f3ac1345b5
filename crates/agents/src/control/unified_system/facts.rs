//! What a plan is made with besides the file: this program, and the machines as the twin knows them.

use std::collections::BTreeMap;
use std::time::Instant;

use tandem_contract::pb::tandem::twin::v1 as twin_pb;
use tandem_contract::rpc::twin;
use tandem_fleet::{Facts, Machine};
use tandem_types::{Fault, NodeName};

use super::{ASKING, SystemHand};
use crate::program;

impl SystemHand {
    /// Everything that is known; a machine nobody has measured checks less.
    pub(super) async fn facts(&self) -> Result<Facts, Fault> {
        program::facts(self.machines().await)
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
