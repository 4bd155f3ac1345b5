//! Between the contract's words and the twin's own.

use std::time::Duration;

use tandem_contract::pb::tandem::common::v1 as common;
use tandem_contract::pb::tandem::twin::v1 as pb;
use tandem_store::reservations::{Reservation, Resource};
use tandem_types::{Fault, GroupId, NodeName, Timestamp};

use super::logic::{Limits, Outcome, Verdict};
use super::machine::Figures;
use super::picture::{Lease, Node, Picture, Scope};
use crate::fields::Fields;

/// An amount of something on a machine, for a time.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Amount {
    pub(super) resource: Resource,
    /// Bytes, or a share of the processor.
    pub(super) amount: f64,
    pub(super) card: Option<u32>,
    pub(super) duration: Duration,
}

/// The fields of an amount as requests carry them.
pub(super) struct AmountFields {
    pub(super) kind: Option<pb::Kind>,
    pub(super) bytes: u64,
    pub(super) ratio: f64,
    pub(super) card: Option<u32>,
    pub(super) duration_ms: u32,
}

/// Reads an amount; says what is wrong in `fields`.
pub(super) fn amount(asked: &AmountFields, fields: &mut Fields) -> Option<Amount> {
    let resource = match asked.kind {
        Some(pb::Kind::KIND_VRAM) => Resource::Vram,
        Some(pb::Kind::KIND_RAM) => Resource::Ram,
        Some(pb::Kind::KIND_CPU) => Resource::Cpu,
        Some(pb::Kind::KIND_DISK) => Resource::Disk,
        Some(pb::Kind::KIND_UNSPECIFIED) | None => {
            fields.wrong("kind", "is missing or unknown; send KIND_VRAM, KIND_RAM, KIND_CPU or KIND_DISK");
            return None;
        }
    };
    let amount = if resource == Resource::Cpu {
        fields.require(asked.bytes == 0, "bytes", "the processor is asked for by ratio, not by bytes");
        fields.require(asked.ratio.is_finite() && asked.ratio >= 0.0, "ratio", "must be 0 or more");
        asked.ratio
    } else {
        fields.require(asked.ratio == 0.0, "ratio", "memory and disk are asked for by bytes, not by ratio");
        asked.bytes as f64
    };
    fields.require(
        asked.card.is_none() || resource == Resource::Vram,
        "card",
        "only video memory is on a card; leave it out",
    );
    Some(Amount { resource, amount, card: asked.card, duration: Duration::from_millis(asked.duration_ms.into()) })
}

pub(super) fn kind(resource: Resource) -> pb::Kind {
    match resource {
        Resource::Vram => pb::Kind::KIND_VRAM,
        Resource::Ram => pb::Kind::KIND_RAM,
        Resource::Cpu => pb::Kind::KIND_CPU,
        Resource::Disk => pb::Kind::KIND_DISK,
    }
}

pub(super) fn outcome(outcome: &Outcome, age: Duration) -> pb::SimulateLoadResponse {
    let verdict = match outcome.verdict {
        Verdict::Allow => pb::Verdict::VERDICT_ALLOW,
        Verdict::Caution => pb::Verdict::VERDICT_CAUTION,
        Verdict::Deny => pb::Verdict::VERDICT_DENY,
    };
    pb::SimulateLoadResponse {
        verdict: verdict.into(),
        projected: outcome.projected,
        limit: outcome.limit,
        headroom: outcome.headroom(),
        sample_age_ms: millis(age),
        advice: outcome.advice.clone(),
        ..Default::default()
    }
}

pub(super) fn reservation(promise: &Reservation) -> pb::Reservation {
    // Bytes are whole and exact in a float up to 2^53.
    let (bytes, ratio) = match promise.of.resource {
        Resource::Cpu => (0, promise.of.amount),
        Resource::Vram | Resource::Ram | Resource::Disk => (promise.of.amount as u64, 0.0),
    };
    pb::Reservation {
        reservation_id: promise.id.clone(),
        node: promise.of.node.to_string(),
        card: promise.of.card,
        kind: kind(promise.of.resource).into(),
        bytes,
        ratio,
        holder: promise.of.holder.clone(),
        expires_us: promise.expires.micros(),
        ..Default::default()
    }
}

pub(super) fn limits(limits: Limits) -> pb::SetLimitsResponse {
    pb::SetLimitsResponse {
        ram_deny_ratio: limits.ram,
        vram_deny_ratio: limits.vram,
        cpu_caution_ratio: limits.cpu,
        disk_caution_ratio: limits.disk,
        ..Default::default()
    }
}

/// A machine as it stands, as much of it as is in scope.
pub(super) fn node(picture: &Picture, name: &NodeName, node: &Node, scope: &Scope, now: Timestamp) -> pb::NodeState {
    let (at, figures) = node.sample.unwrap_or_default();
    let in_scope = |lease: &&Lease| match scope {
        Scope::Fleet | Scope::Node(_) => true,
        Scope::Group(group) => lease.group == *group,
        Scope::Agent(_) => false,
    };
    pb::NodeState {
        node: name.to_string(),
        sampled_us: at.micros(),
        cpu_ratio: figures.cpu_ratio,
        cpu_ratio_1m: node.cpu_minute(),
        cpus: node.cpus,
        ram_total_bytes: figures.ram_total,
        ram_used_bytes: figures.ram_used,
        memory_pressure_ratio: figures.memory_pressure,
        disk_total_bytes: figures.disk_total,
        disk_used_bytes: figures.disk_used,
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
        age_ms: node.sample.map_or(0, |(at, _)| millis(now.since(at))),
        ..Default::default()
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
    fields.require(state.cards.is_empty(), "node.cards", "cannot be kept: this version knows no cards");
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
    }))
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}
