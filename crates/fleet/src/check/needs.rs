//! Who comes after whom: needs of groups and agents, stages, circles.

use std::collections::{BTreeMap, BTreeSet};

use tandem_types::{AgentId, AgentName, GroupId, GroupName, NodeName};

use super::names::parsed;
use super::{Pass, circle, group_path, listed};
use crate::finding::{Path, suggest};
use crate::graph;
use crate::plan::GroupPlan;
use crate::render::count;

impl Pass<'_> {
    /// Groups: needs exist on the same node, form no circle and lie in earlier stages.
    pub(super) fn group_needs(&mut self) {
        let ids: Vec<GroupId> = self.plan.groups().map(|g| g.id.clone()).collect();
        for id in &ids {
            let written = &self.fleet.group[&id.to_string()];
            let mut needs: Vec<GroupName> = Vec::new();
            for (i, name) in written.needs.iter().enumerate() {
                let need = self.group_need(id, name, &group_path(id).key("needs").index(i));
                needs.extend(need.filter(|n| !needs.contains(n)));
            }
            let mut after = Vec::new();
            for (i, name) in written.after.iter().enumerate() {
                after.extend(self.group_after(id, name, &group_path(id).key("after").index(i)));
            }
            if let Some(group) = self.group_mut(id) {
                (group.needs, group.after) = (needs, after);
            }
        }
        let nodes: Vec<NodeName> = self.plan.nodes.keys().cloned().collect();
        for node in &nodes {
            self.group_circles(node);
            self.stages(node);
        }
        self.after_circles(&ids);
    }

    fn group_need(&mut self, id: &GroupId, name: &str, at: &Path) -> Option<GroupName> {
        let siblings = || self.fleet.group.keys().filter_map(|k| k.strip_prefix(&format!("{}/", id.node)));
        if let Some((node, group)) = name.split_once('/') {
            let (message, fix) = if node == id.node.as_str() {
                (
                    format!("`{id}` needs `{name}`: needs are of the same node and named without it"),
                    format!("write {group:?}"),
                )
            } else {
                let message = format!("`{id}` needs `{name}` of another node; each node starts alone");
                (message, format!("write `after = [{name:?}]` in its place, which waits only while `{node}` is alive"))
            };
            self.report.error("need-across-nodes", at, message, fix);
            return None;
        }
        if !siblings().any(|s| s == name) {
            let fix = suggest(name, siblings(), format!("take it out, or add [group.\"{}/{name}\"]", id.node));
            let message = format!("`{id}` needs `{name}`, and `{}` has no such group", id.node);
            self.report.error("unknown-group", at, message, fix);
            return None;
        }
        // A sibling whose identity is malformed was reported there.
        name.parse().ok()
    }

    fn group_after(&mut self, id: &GroupId, name: &str, at: &Path) -> Option<GroupId> {
        let peer: GroupId = parsed(name, at, &mut self.report)?;
        if peer.node == id.node {
            let message = format!("`{id}` comes after `{peer}` of its own node");
            self.report.error("after-same-node", at, message, format!("write `needs = [\"{}\"]`", peer.group));
            return None;
        }
        if !self.fleet.group.contains_key(name) {
            let fix = suggest(name, self.fleet.group.keys().map(String::as_str), "take it out");
            self.report.error("unknown-group", at, format!("`{id}` comes after `{peer}`, which does not exist"), fix);
            return None;
        }
        Some(peer)
    }

    fn group_circles(&mut self, node: &NodeName) {
        let groups = &self.plan.nodes[node].groups;
        for members in graph::circles(&self.plan.nodes[node].graph()) {
            let names: Vec<&GroupName> = members.iter().map(|i| &groups[*i].id.group).collect();
            let message = format!("groups of `{node}` need each other in a circle: {}", circle(&names));
            let at = group_path(&groups[members[0]].id).key("needs");
            self.report.error("group-circle", &at, message, format!("take one of the needs out: {}", links(&names)));
        }
    }

    /// Derives the stages that are not stated, checks those that are, and sorts the groups by them.
    fn stages(&mut self, node: &NodeName) {
        let Some(plan) = self.plan.nodes.get_mut(node) else { return };
        let graph = plan.graph();
        for place in graph::order(&graph) {
            let latest = graph[place].iter().map(|before| &plan.groups[*before]).max_by_key(|g| g.stage);
            let Some((stage, before)) = latest.map(|g| (g.stage, g.id.clone())) else { continue };
            let group = &mut plan.groups[place];
            match self.fleet.group[&group.id.to_string()].stage {
                Some(stated) if stated <= stage => {
                    let message = format!("`{}` is of stage {stated} and needs `{before}` of stage {stage}", group.id);
                    let fix = format!("make it {} or later, or leave `stage` out", stage + 1);
                    self.report.error("stage-order", &group_path(&group.id).key("stage"), message, fix);
                }
                Some(_) => {}
                None => group.stage = stage + 1,
            }
        }
        plan.groups.sort_by(|a, b| (a.stage, &a.id).cmp(&(b.stage, &b.id)));
    }

    /// Circles that only `after` closes: every group of one waits for the others until the time for it is over.
    fn after_circles(&mut self, ids: &[GroupId]) {
        let place = |id: &GroupId| ids.iter().position(|i| i == id);
        let befores = |id: &GroupId| {
            let group = self.plan.group(id);
            let needs = group.iter().flat_map(|g| &g.needs).map(|n| GroupId::new(id.node.clone(), n.clone()));
            let after = group.iter().flat_map(|g| &g.after).cloned();
            needs.chain(after).filter_map(|b| place(&b)).collect()
        };
        for members in graph::circles(&ids.iter().map(befores).collect()) {
            let members: Vec<&GroupId> = members.iter().map(|i| &ids[*i]).collect();
            if members.iter().any(|id| id.node != members[0].node) {
                let message = format!("groups wait for each other across nodes: {}", circle(&members));
                let at = group_path(members[0]);
                let fix = format!("take one `after` out, or each start takes {} s longer", self.plan.peer_wait_s);
                self.report.warn("after-circle", &at, message, fix);
            }
        }
    }

    /// Agents: needs exist on the same node, in the same group or one of an earlier stage, and form no circle.
    pub(super) fn agent_needs(&mut self) {
        let nodes: Vec<NodeName> = self.plan.nodes.keys().cloned().collect();
        for node in nodes {
            let agents: Vec<AgentId> = self.plan.agents().map(|(id, _)| id).filter(|id| id.node == node).collect();
            let mut places: BTreeMap<AgentName, Vec<usize>> = BTreeMap::new();
            for (place, id) in agents.iter().enumerate() {
                places.entry(id.agent.clone()).or_default().push(place);
            }
            let mut graph = vec![Vec::new(); agents.len()];
            for (place, id) in agents.iter().enumerate() {
                let needs = self.plan.agent(id).map(|a| a.needs.clone()).unwrap_or_default();
                for need in &needs {
                    let at = self.agent_list_path(id, "needs", need.as_str());
                    // The one of its own group, or else the first to start.
                    let holders = places.get(need).into_iter().flatten().copied();
                    let own = |p: &usize| (agents[*p].group != id.group, *p);
                    let Some(target) = holders.min_by_key(own) else {
                        self.agent_need_missing(id, need, &at);
                        continue;
                    };
                    graph[place].push(target);
                    self.agent_need_order(id, &agents[target], &at);
                }
            }
            for members in graph::circles(&graph) {
                let names: Vec<&AgentName> = members.iter().map(|i| &agents[*i].agent).collect();
                let message = format!("agents of `{node}` need each other in a circle: {}", circle(&names));
                let at = self.agent_path(&agents[members[0]]).key("needs");
                let fix = format!("make one of the needs a use: {}", links(&names));
                self.report.error("agent-circle", &at, message, fix);
            }
        }
    }

    fn agent_need_missing(&mut self, id: &AgentId, need: &AgentName, at: &Path) {
        let elsewhere: Vec<AgentId> =
            self.plan.agents().map(|(id, _)| id).filter(|other| other.agent == *need).collect();
        if !elsewhere.is_empty() {
            let message = format!("`{}` needs `{need}`, which lives on another node: {}", id.agent, listed(elsewhere));
            self.report.error("need-across-nodes", at, message, "make it a use: each node must start alone");
            return;
        }
        let here: Vec<AgentName> =
            self.plan.agents().filter(|(a, _)| a.node == id.node).map(|(a, _)| a.agent).collect();
        let otherwise = format!("place `{need}` on `{}`, or state `needs` without it", id.node);
        let fix = suggest(need.as_str(), here.iter().map(AgentName::as_str), otherwise);
        let message = format!("`{}` needs `{need}`, which is nowhere on `{}`", id.agent, id.node);
        self.report.error("need-missing", at, message, fix);
    }

    fn agent_need_order(&mut self, id: &AgentId, target: &AgentId, at: &Path) {
        let (Some(own), Some(other)) = (self.plan.group(&id.group_id()), self.plan.group(&target.group_id())) else {
            return;
        };
        let built = |id: &AgentId| self.plan.agent(id).is_some_and(|a| a.built);
        let (starts_without, foreign) = (built(id) && !built(target), own.id != other.id);
        if foreign && other.stage >= own.stage {
            let message = format!(
                "`{}` in `{}` (stage {}) needs `{}` in `{}` (stage {}), which does not start earlier",
                id.agent, own.id, own.stage, target.agent, other.id, other.stage
            );
            let fix = format!("add \"{}\" to the needs of `{}`, or make it a use", target.group, own.id);
            self.report.error("need-later-stage", at, message, fix);
            return;
        }
        if starts_without {
            let message = format!("`{}` needs `{}`, which is not built: it starts without it", id.agent, target.agent);
            self.report.note("need-not-built", at, message, "");
        }
        if foreign && !self.starts_after(own, &target.group) {
            let name = target.group.clone();
            if let Some(group) = self.group_mut(&id.group_id()).filter(|g| !g.waits_for.contains(&name)) {
                group.waits_for.push(name);
            }
        }
    }

    /// Whether a group's needs lead to another group of its node.
    fn starts_after(&self, group: &GroupPlan, other: &GroupName) -> bool {
        let mut reached: Vec<&GroupName> = group.needs.iter().collect();
        let mut next = 0;
        while let Some(&name) = reached.get(next) {
            next += 1;
            let further = self.plan.group(&GroupId::new(group.id.node.clone(), name.clone())).map(|g| &g.needs);
            let fresh: Vec<&GroupName> = further.into_iter().flatten().filter(|n| !reached.contains(n)).collect();
            reached.extend(fresh);
        }
        reached.contains(&other)
    }

    /// Uses that name an agent nobody has heard of.
    pub(super) fn uses(&mut self) {
        let agents: Vec<(AgentId, Vec<_>)> = self.plan.agents().map(|(id, a)| (id, a.uses.clone())).collect();
        // An agent in a group that is refused was reported there, and is somewhere.
        let placed = agents.iter().map(|(id, _)| format!("{}/{}", id.node, id.agent));
        let names: Vec<String> = self.placed("").into_iter().chain(placed).collect();
        for (id, uses) in &agents {
            for used in uses {
                let code = used.node.is_none() && self.facts.agents.contains_key(&used.agent);
                let from_code = self.facts.agents.get(&id.agent).is_some_and(|facts| facts.uses.contains(used));
                if code || from_code || names.contains(&used.to_string()) {
                    continue;
                }
                let fix = suggest(&used.to_string(), names.iter().map(String::as_str), "take it out, or place it");
                let at = self.agent_list_path(id, "uses", &used.to_string());
                self.report.warn("unknown-agent", &at, format!("`{}` uses `{used}`, which is nowhere", id.agent), fix);
            }
        }
    }

    /// What each node goes without while another one is away.
    pub(super) fn uses_across_nodes(&mut self) {
        let mut across: BTreeMap<(NodeName, NodeName), [BTreeSet<AgentName>; 2]> = BTreeMap::new();
        for (id, agent) in self.plan.agents() {
            for used in &agent.uses {
                let holders = self.plan.find(used, &id.node);
                // The nearest one is asked, and only when none is here does it matter who is away.
                let Some(peer) = holders.first().filter(|holder| holder.node != id.node) else { continue };
                let [users, used] = across.entry((id.node.clone(), peer.node.clone())).or_default();
                users.insert(id.agent.clone());
                used.insert(peer.agent.clone());
            }
        }
        for ((node, peer), [users, used]) in across {
            let (users, used) = (count(users.len(), "agent"), used.len());
            let message =
                format!("while `{peer}` is away, {users} of `{node}` go without {used} of its agents; no start waits");
            self.report.note("uses-across-nodes", &Path::of(&["node", node.as_str()]), message, "");
        }
    }

    pub(super) fn critical_paths(&mut self) {
        for node in self.plan.nodes.values_mut() {
            node.critical_path = node.longest_chain(|_| 1);
        }
    }
}

/// The needs of a circle, one by one.
fn links<T: ToString>(members: &[T]) -> String {
    let next = members.iter().cycle().skip(1);
    let links = members.iter().zip(next).map(|(a, b)| format!("{} needs {}", a.to_string(), b.to_string()));
    links.collect::<Vec<_>>().join(", ")
}
