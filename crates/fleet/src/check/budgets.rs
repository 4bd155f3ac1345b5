//! RAM and CPU: what groups may use, held against what their machine has.

use tandem_types::{GroupId, NodeName};

use super::{Pass, group_path, listed, thousands};
use crate::facts::Machine;
use crate::finding::Path;
use crate::model::{Detect, Detectable, Ram, Rest};

/// Least MiB that `"rest"` must come to.
const LEAST_REST_MIB: u64 = 256;

/// What a machine keeps for everything that is not Tandem when its RAM is detected: max(1,024 MiB, 20 %).
fn kept_mib(ram_mib: u64) -> u64 {
    ram_mib.div_ceil(5).max(1024)
}

impl Pass<'_> {
    pub(super) fn ram(&mut self) {
        let nodes: Vec<NodeName> = self.plan.nodes.keys().cloned().collect();
        for node in &nodes {
            let at = Path::of(&["node", node.as_str()]).key("ram_mib");
            let machine = self.facts.machines.get(node);
            let usable = match self.fleet.node[node.as_str()].ram_mib {
                Detectable::Number(mib) => {
                    if let Some(machine) = machine.filter(|m| m.ram_mib < mib) {
                        let (mib, has) = (thousands(mib), thousands(machine.ram_mib));
                        let message = format!("`{node}` may use {mib} MiB of RAM, and this machine has {has} MiB");
                        self.report.warn("ram-beyond-machine", &at, message, "lower it, or write \"detect\"");
                    }
                    Some(mib)
                }
                Detectable::Word(Detect::Detect) => machine.map(|m| m.ram_mib.saturating_sub(kept_mib(m.ram_mib))),
            };
            self.ram_sums(node, usable, &at);
            if let Some(plan) = self.plan.nodes.get_mut(node) {
                plan.ram_mib = usable;
            }
        }
        self.shared_machines(&nodes);
    }

    /// Gives every group its limit and holds the sum against what the node may use.
    fn ram_sums(&mut self, node: &NodeName, usable: Option<u64>, at: &Path) {
        let ids: Vec<GroupId> = self.plan.nodes[node].groups.iter().map(|g| g.id.clone()).collect();
        let stated = |id: &GroupId| self.fleet.group[&id.to_string()].ram_mib;
        let fixed: u64 =
            ids.iter().filter_map(|id| if let Some(Ram::Mib(mib)) = stated(id) { Some(mib) } else { None }).sum();
        let resters: Vec<GroupId> =
            ids.iter().filter(|id| stated(id) == Some(Ram::Word(Rest::Rest))).cloned().collect();
        for id in &ids {
            let mib = match stated(id) {
                Some(Ram::Mib(mib)) => Some(mib),
                Some(Ram::Word(Rest::Rest)) => usable.map(|u| u.saturating_sub(fixed)),
                None => None,
            };
            if let Some(group) = self.group_mut(id) {
                group.ram_mib = mib;
            }
        }
        if let [_, second, ..] = &resters[..] {
            let message = format!("{} all take the rest of `{node}`'s RAM; one can", listed(&resters));
            self.report.error(
                "ram-rest-twice",
                &group_path(second).key("ram_mib"),
                message,
                "give the others a number",
            );
        }
        let Some(usable) = usable else { return };
        let (sum, limit) = (thousands(fixed), thousands(usable));
        if fixed > usable {
            let message = format!("the groups of `{node}` have {sum} MiB of RAM together, and it may use {limit} MiB");
            let over = thousands(fixed - usable);
            self.report.error(
                "ram-over",
                at,
                message,
                format!("take {over} MiB off the groups, or move one to another node"),
            );
        } else if let Some(rest) = resters.first().filter(|_| usable - fixed < LEAST_REST_MIB) {
            let message = format!("the other groups leave `{rest}` {} MiB of RAM", usable - fixed);
            let fix = format!("lower the others until at least {LEAST_REST_MIB} MiB are left");
            self.report.error("ram-rest-small", &group_path(rest).key("ram_mib"), message, fix);
        } else if resters.is_empty() && fixed > usable / 10 * 9 {
            let message = format!(
                "RAM limits of `{node}` add up to {sum} of {limit} MiB: {} MiB to spare",
                thousands(usable - fixed)
            );
            self.report.note("ram-tight", at, message, "");
        }
    }

    /// Two nodes on one address are one machine: they cannot both take all of its RAM.
    fn shared_machines(&mut self, nodes: &[NodeName]) {
        let detects = |n: &&NodeName| self.fleet.node[n.as_str()].ram_mib == Detectable::Word(Detect::Detect);
        let takers: Vec<&NodeName> = nodes.iter().filter(detects).collect();
        for (i, node) in takers.iter().enumerate() {
            let address = self.plan.nodes[*node].address;
            if let Some(other) = takers[..i].iter().find(|o| self.plan.nodes[**o].address == address) {
                let message = format!("`{other}` and `{node}` are both at {address} and both take that machine's RAM");
                let at = Path::of(&["node", node.as_str()]).key("ram_mib");
                self.report.error("ram-detect-shared", &at, message, "write numbers, so that each has its part");
            }
        }
    }

    pub(super) fn cpus(&mut self) {
        let nodes: Vec<NodeName> = self.plan.nodes.keys().cloned().collect();
        for node in &nodes {
            let at = Path::of(&["node", node.as_str()]).key("cpus");
            let cpus = match self.fleet.node[node.as_str()].cpus {
                Detectable::Number(number) => Some(u32::try_from(number).unwrap_or(u32::MAX)),
                Detectable::Word(Detect::Detect) => self.facts.machines.get(node).map(|m: &Machine| m.cpus),
            };
            let Some(plan) = self.plan.nodes.get_mut(node) else { continue };
            plan.cpus = cpus;
            let sum = (plan.groups.iter().filter_map(|g| g.cpu).sum::<f64>() * 100.0).round() / 100.0;
            let ram: u64 = plan.groups.iter().filter_map(|g| g.ram_mib).sum();
            let unknown: Vec<String> = [
                (plan.ram_mib.is_none() && ram > 0).then(|| format!("{} MiB of RAM", thousands(ram))),
                (cpus.is_none() && sum > 0.0).then(|| format!("CPU ceilings of {sum} vCPU")),
            ]
            .into_iter()
            .flatten()
            .collect();
            if !unknown.is_empty() {
                let message = format!(
                    "the groups of `{node}` have {} together: what it has is detected there, and was not compared here",
                    unknown.join(" and ")
                );
                self.report.note("not-detected", &at, message, "");
            }
            let Some(cpus) = cpus else { continue };
            for group in plan.groups.iter().filter(|g| g.cpu.is_some_and(|cpu| cpu > f64::from(cpus))) {
                let message =
                    format!("`{}` may use {} vCPU, and `{node}` has {cpus}", group.id, group.cpu.unwrap_or_default());
                self.report.note("cpu-ceiling-idle", &group_path(&group.id).key("cpu"), message, "");
            }
            if sum > f64::from(cpus) {
                let message = format!(
                    "CPU ceilings of `{node}` add up to {sum} vCPU of {cpus}: weights decide when all are busy"
                );
                self.report.note("cpu-over", &at, message, "");
            }
        }
    }
}
