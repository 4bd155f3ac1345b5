//! Reads what is asked for: an amount of something, for a time, for somebody.

use std::time::Duration;

use tandem_contract::pb::tandem::twin::v1 as pb;
use tandem_store::reservations::{NewReservation, Resource};
use tandem_types::{AgentId, Fault, IdempotencyKey, NodeName};

use crate::fields::Fields;

/// A promise lasts this long when nothing is said.
const PROMISE_MS: u32 = 60_000;
/// Longest promise: a longer one would outlive the picture it rests on.
const LONGEST_MS: u32 = 3_600_000;

/// An amount of something on a machine, for a time.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Amount {
    pub(crate) resource: Resource,
    /// Bytes, or a share of the processor.
    pub(crate) amount: f64,
    /// Of video memory.
    pub(crate) card: Option<u32>,
    pub(crate) duration: Duration,
}

/// The fields of an amount as requests carry them.
struct AmountFields {
    kind: Option<pb::Kind>,
    bytes: u64,
    ratio: f64,
    card: Option<u32>,
    duration_ms: u32,
}

/// Reads an amount; says what is wrong in `fields`.
fn amount(asked: &AmountFields, fields: &mut Fields) -> Option<Amount> {
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
    // The first card, where none is named.
    let card = (resource == Resource::Vram).then(|| asked.card.unwrap_or(0));
    Some(Amount { resource, amount, card, duration: Duration::from_millis(asked.duration_ms.into()) })
}

pub(crate) fn kind(resource: Resource) -> pb::Kind {
    match resource {
        Resource::Vram => pb::Kind::KIND_VRAM,
        Resource::Ram => pb::Kind::KIND_RAM,
        Resource::Cpu => pb::Kind::KIND_CPU,
        Resource::Disk => pb::Kind::KIND_DISK,
    }
}

/// What a question for a load is about.
///
/// # Errors
/// `invalid_argument` with every wrong field.
pub(crate) fn load(request: &pb::SimulateLoadRequest) -> Result<Amount, Fault> {
    let mut fields = Fields::default();
    let pb::SimulateLoadRequest { bytes, ratio, card, duration_ms, .. } = *request;
    let asked = amount(&AmountFields { kind: request.kind.as_known(), bytes, ratio, card, duration_ms }, &mut fields);
    fields.all(asked)
}

/// A promise that is asked for, or one that is to last longer.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    pub(crate) key: IdempotencyKey,
    pub(crate) asked: Amount,
    holder: AgentId,
    /// The promise that is to be renewed.
    pub(crate) renews: Option<String>,
}

impl Order {
    /// Reads a request.
    ///
    /// # Errors
    /// `invalid_argument` with every wrong field.
    pub(crate) fn read(request: &pb::ReserveRequest) -> Result<Self, Fault> {
        let mut fields = Fields::default();
        let key = fields.key(&request.idempotency_key);
        let pb::ReserveRequest { bytes, ratio, card, .. } = *request;
        let duration_ms = fields.at_most("duration_ms", request.duration_ms, PROMISE_MS, LONGEST_MS);
        let duration_ms = duration_ms.unwrap_or(PROMISE_MS);
        let asked_for = AmountFields { kind: request.kind.as_known(), bytes, ratio, card, duration_ms };
        let asked = amount(&asked_for, &mut fields);
        if asked.as_ref().is_some_and(|asked| asked.amount == 0.0) {
            fields.wrong(if bytes == 0 { "bytes" } else { "ratio" }, "is 0; there is nothing to promise");
        }
        let holder = fields.parse::<AgentId>("holder", &request.holder);
        let ((key, asked), holder) = fields.all(key.zip(asked).zip(holder))?;
        let renews = Some(request.reservation_id.clone()).filter(|id| !id.is_empty());
        Ok(Self { key, asked, holder, renews })
    }

    /// What is to be promised on `node`.
    pub(crate) fn of(&self, node: NodeName) -> NewReservation {
        NewReservation {
            node,
            card: self.asked.card,
            resource: self.asked.resource,
            amount: self.asked.amount,
            holder: self.holder.to_string(),
        }
    }
}
