//! What a machine and its groups use, as a fact of its node's table.

use tandem_contract::Message as _;
use tandem_contract::pb::tandem::link::v1 as pb;
use tandem_types::Timestamp;

use crate::machine::{GroupUse, MachineUse};

/// The key of the fact.
pub(super) const USE: &str = "use";

pub(super) fn to_wire(usage: &MachineUse) -> Vec<u8> {
    let group = |usage: &GroupUse| pb::GroupUse {
        group: usage.group.to_string(),
        resident_bytes: usage.resident_bytes,
        cpu_ratio: usage.cpu_ratio,
        ..Default::default()
    };
    let report = pb::UseReport {
        sampled_us: usage.sampled.micros(),
        cpus: usage.cpus,
        cpu_ratio: usage.cpu_ratio,
        memory_total_bytes: usage.memory_total_bytes,
        memory_used_bytes: usage.memory_used_bytes,
        groups: usage.groups.iter().map(group).collect(),
        ..Default::default()
    };
    report.encode_to_vec()
}

/// What a fact says of use; none for another kind of fact.
pub(super) fn of_wire(key: &str, value: &[u8]) -> Option<MachineUse> {
    let report = (key == USE).then(|| pb::UseReport::decode_from_slice(value).ok())??;
    let group = |usage: pb::GroupUse| {
        let group = usage.group.parse().ok()?;
        Some(GroupUse { group, resident_bytes: usage.resident_bytes, cpu_ratio: usage.cpu_ratio })
    };
    Some(MachineUse {
        sampled: Timestamp(report.sampled_us),
        cpus: report.cpus,
        cpu_ratio: report.cpu_ratio,
        memory_total_bytes: report.memory_total_bytes,
        memory_used_bytes: report.memory_used_bytes,
        groups: report.groups.into_iter().filter_map(group).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_of_use_arrives_as_it_is() {
        let group = GroupUse { group: "infra_core".parse().unwrap(), resident_bytes: 7, cpu_ratio: None };
        let whole = MachineUse {
            sampled: Timestamp(5),
            cpus: 2,
            cpu_ratio: Some(0.5),
            memory_total_bytes: Some(10),
            memory_used_bytes: Some(4),
            groups: vec![group],
        };
        for usage in [whole, MachineUse::default()] {
            assert_eq!(of_wire(USE, &to_wire(&usage)), Some(usage));
        }
        assert_eq!(of_wire("group/x", &[]), None);
    }
}
