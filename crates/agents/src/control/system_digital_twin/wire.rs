//! Between the contract's words and the twin's own.

use std::collections::BTreeMap;

use tandem_contract::pb::tandem::common::v1 as common;
use tandem_contract::pb::tandem::twin::v1 as pb;
use tandem_types::{Fault, GroupId, NodeName, Timestamp};

use super::picture::{Lease, Node, Picture, Scope};
use crate::fields::Fields;
use crate::load::figures::{CardFigures, Figures};

/// A machine as it stands, as much of it as is in scope.
pub(super) fn node(picture: &Picture, name: &NodeName, node: &Node, scope: &Scope, now: Timestamp) -> pb::NodeState {
    let in_scope = |lease: &&Lease| match scope {
        Scope::Fleet | Scope::Node(_) => true,
        Scope::Group(group) => lease.group == *group,
        Scope::Agent(_) => false,
    };
    pb::NodeState {
        agents: picture
            .agents(name, scope)
            .into_iter()
            .map(|(agent, health)| pb::AgentState {
                agent: agent.to_string(),
                health: common::Health::from(&health).into(),
                ..Default::default()
            })
            .collect(),
        models: node.models.iter().filter(in_scope).map(lease).collect(),
        ..node.load.told(name, now)
    }
}

fn lease(lease: &Lease) -> pb::ModelLease {
    pb::ModelLease {
        model: lease.model.clone(),
        group: lease.group.to_string(),
        leased_bytes: lease.leased,
        measured_bytes: lease.measured,
        ..Default::default()
    }
}

/// The models of a report.
///
/// # Errors
/// `invalid_argument` with every wrong field.
pub(super) fn leases(models: &[pb::ModelLease]) -> Result<Vec<Lease>, Fault> {
    let mut fields = Fields::default();
    let mut leases = Vec::new();
    for (index, model) in models.iter().enumerate() {
        fields.require(!model.model.is_empty(), &format!("models[{index}].model"), "is missing");
        if let Some(group) = fields.parse::<GroupId>(&format!("models[{index}].group"), &model.group) {
            let (leased, measured) = (model.leased_bytes, model.measured_bytes);
            leases.push(Lease { model: model.model.clone(), group, leased, measured });
        }
    }
    fields.all(Some(leases))
}

/// The figures of a machine that another agent measured.
///
/// # Errors
/// `invalid_argument` with every figure that cannot be.
pub(super) fn figures(state: &pb::NodeState) -> Result<Figures, Fault> {
    let mut fields = Fields::default();
    let share = |value: Option<f64>| value.is_none_or(|value| (0.0..=1.0).contains(&value));
    let part = |used: Option<u64>, total: Option<u64>| used.is_none_or(|used| total.is_some_and(|total| used <= total));
    fields.require(share(state.cpu_ratio), "node.cpu_ratio", "must be between 0 and 1");
    fields.require(share(state.memory_pressure_ratio), "node.memory_pressure_ratio", "must be between 0 and 1");
    let elsewhere = "comes by another way (agents by the registry, models by ReportLeases); leave it out";
    fields.require(state.agents.is_empty(), "node.agents", elsewhere);
    fields.require(state.models.is_empty(), "node.models", elsewhere);
    let cards = state.cards.iter().enumerate().filter_map(|(i, card)| read_card(i, card, &mut fields)).collect();
    let of_total = "must come with its total and not be above it";
    fields.require(part(state.ram_used_bytes, state.ram_total_bytes), "node.ram_used_bytes", of_total);
    fields.require(part(state.disk_used_bytes, state.disk_total_bytes), "node.disk_used_bytes", of_total);
    fields.all(Some(Figures {
        cpu_ratio: state.cpu_ratio,
        ram_total: state.ram_total_bytes,
        ram_used: state.ram_used_bytes,
        memory_pressure: state.memory_pressure_ratio,
        disk_total: state.disk_total_bytes,
        disk_used: state.disk_used_bytes,
        cards,
    }))
}

fn read_card(i: usize, card: &pb::CardState, fields: &mut Fields) -> Option<CardFigures> {
    let field = |name: &str| format!("node.cards[{i}].{name}");
    let fits = card.vram_used_bytes <= card.vram_total_bytes;
    fields.require(fits, &field("vram_used_bytes"), "must not be above its total");
    let mut uses = BTreeMap::new();
    for (j, one) in card.uses.iter().enumerate() {
        uses.insert(fields.parse::<GroupId>(&field(&format!("uses[{j}].group")), &one.group)?, one.bytes);
    }
    Some(CardFigures {
        index: card.index,
        name: card.name.clone(),
        total: card.vram_total_bytes,
        used: card.vram_used_bytes,
        clock: card.sm_clock_mhz,
        celsius: card.temperature_celsius,
        uses,
    })
}
