//! The start order as a diagram.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use tandem_types::GroupId;

use super::count;
use crate::plan::Plan;

/// The groups and their order as a Mermaid flowchart: solid arrows for needs, dotted ones for what is waited for less
/// strictly, dashed boxes for groups of which nothing is built.
pub fn mermaid(plan: &Plan) -> String {
    let place: BTreeMap<&GroupId, usize> = plan.groups().enumerate().map(|(i, g)| (&g.id, i)).collect();
    let mut out = String::from("flowchart TD\n");
    for (i, (name, node)) in plan.nodes.iter().enumerate() {
        let _ = writeln!(out, "  subgraph n{i}[\"{name}\"]");
        for group in &node.groups {
            let built = group.agents.iter().filter(|a| a.built).count();
            let agents = count(group.agents.len(), "agent");
            let share = group.gpu.as_ref().map_or(String::new(), |s| format!(", GPU {} %", s.percent));
            let _ =
                writeln!(out, "    g{}[\"{}<br/>{agents}, {built} built{share}\"]", place[&group.id], group.id.group);
        }
        out += "  end\n";
    }
    for (group, i) in plan.groups().zip(0..) {
        let sibling = |name| GroupId::new(group.id.node.clone(), name);
        let needs = group.needs.iter().cloned().map(|n| (sibling(n), "-->"));
        let waits = group.waits_for.iter().cloned().map(|n| (sibling(n), "-. agents wait .->"));
        let after = group.after.iter().cloned().map(|id| (id, "-. while alive .->"));
        for (before, arrow) in needs.chain(waits).chain(after) {
            if let Some(before) = place.get(&before) {
                let _ = writeln!(out, "  g{before} {arrow} g{i}");
            }
        }
    }
    let missing: Vec<String> = plan.groups().filter(|g| !g.built()).map(|g| format!("g{}", place[&g.id])).collect();
    if !missing.is_empty() {
        out += "  classDef missing stroke-dasharray: 4 4\n";
        let _ = writeln!(out, "  class {} missing", missing.join(","));
    }
    out
}
