//! Nodes, groups and agents: names checked, the agent's own facts put beside what the file states.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tandem_types::{AgentId, AgentName, GroupId, NodeName};

use super::{Pass, listed};
use crate::facts::AgentRef;
use crate::finding::{Path, Report, meant, suggest};
use crate::model::{AgentSpec, Group};
use crate::plan::{AgentPlan, CriticalPath, GroupPlan, LinkPlan, NodePlan};

impl Pass<'_> {
    pub(super) fn names(&mut self) {
        self.nodes();
        for (name, group) in &self.fleet.group {
            let at = Path::of(&["group", name]);
            let id: GroupId = match name.parse() {
                Ok(id) => id,
                Err(error) => {
                    self.report.error("bad-name", &at, error.to_string(), "name it `[group.\"node/group\"]`");
                    continue;
                }
            };
            let Some(node) = self.plan.nodes.get(&id.node) else {
                // A node whose name is wrong was reported where it is defined.
                if !self.fleet.node.contains_key(id.node.as_str()) {
                    let nodes = self.plan.nodes.keys().map(NodeName::as_str);
                    let fix = suggest(id.node.as_str(), nodes, format!("add `[node.{}]`", id.node));
                    self.report.error("unknown-node", &at, format!("there is no node `{}`", id.node), fix);
                }
                continue;
            };
            let planned = self.group(&at, id.clone(), group, node.address);
            self.plan.nodes.entry(id.node).and_modify(|node| node.groups.push(planned));
        }
        self.settings();
        self.not_built();
    }

    /// Settings of agents that are nowhere would change nothing, and nobody would notice.
    fn settings(&mut self) {
        let placed = self.placed("");
        for name in self.fleet.settings.keys().filter(|name| !placed.contains(*name)) {
            let at = Path::of(&["settings", name]);
            let fix = suggest(name, placed.iter().map(String::as_str), "take them out, or place the agent in a group");
            self.report.error(
                "settings-of-nobody",
                &at,
                format!("there are settings for `{name}`, which no group holds"),
                fix,
            );
        }
    }

    fn nodes(&mut self) {
        if self.fleet.fleet.name.trim().is_empty() && self.report.spans.contains_key(&Path::of(&["fleet", "name"])) {
            self.report.error("bad-name", &Path::of(&["fleet", "name"]), "the fleet's name is empty", "give it one");
        }
        for (name, node) in &self.fleet.node {
            let at = Path::of(&["node", name]);
            let Some(name) = parsed::<NodeName>(name, &at, &mut self.report) else { continue };
            let address = self.address(&at.key("address"), &node.address);
            let lan = node.lan.as_ref().map(|lan| self.address(&at.key("lan"), lan));
            if lan == Some(address) {
                let message =
                    format!("`lan` of {name} is its `address` too, and two paths that are one tell nothing apart");
                self.report.warn(
                    "same-path",
                    &at.key("lan"),
                    message,
                    "write its address on the local network, or take it out",
                );
            }
            let critical_path = CriticalPath { groups: Vec::new(), total: 0 };
            let (ram_mib, cpus, groups, cards) = (None, None, Vec::new(), Vec::new());
            // The port follows when all others are known.
            let at_port = |ip| SocketAddr::new(ip, 0);
            let link = (self.fleet.node.len() > 1)
                .then(|| LinkPlan { overlay: at_port(address), lan: lan.filter(|lan| *lan != address).map(at_port) });
            self.plan.nodes.insert(name, NodePlan { address, link, ram_mib, cpus, groups, cards, critical_path });
        }
    }

    fn address(&mut self, at: &Path, text: &str) -> IpAddr {
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let Ok(address) = text.parse::<IpAddr>() else {
            let message = format!("{text:?} is not an IP address");
            self.report.error("bad-address", at, message, "write one, such as \"127.0.0.1\" or the overlay address");
            return loopback;
        };
        if address.is_unspecified() {
            let message = format!("{address} would listen on every network of the machine");
            self.report.error("bad-address", at, message, "write loopback or the address on the overlay network");
        } else if !private(address) {
            let message = format!("{address} is reachable from the internet; groups belong on loopback or an overlay");
            self.report.warn("public-address", at, message, "write the machine's address on the overlay network");
        }
        address
    }

    fn group(&mut self, at: &Path, id: GroupId, group: &Group, address: IpAddr) -> GroupPlan {
        let mut agents: Vec<AgentPlan> = Vec::new();
        for (i, entry) in group.agents.iter().enumerate() {
            let at = at.key("agents").index(i);
            let Some(agent) = self.agent(&at, &id, &entry.spec()) else { continue };
            if agents.iter().any(|a| a.name == agent.name) {
                let message =
                    format!("`{}` is in `{id}` twice: the identity `{id}/{}` must be one", agent.name, agent.name);
                self.report.error("duplicate-agent", &at, message, "take one of them out");
                continue;
            }
            agents.push(agent);
        }
        if agents.is_empty() && self.report.spans.contains_key(&at.key("agents")) {
            self.report.warn(
                "empty-group",
                &at.key("agents"),
                format!("`{id}` holds no agent"),
                "add one or take the group out",
            );
        }
        for name in group.env.keys().filter(|name| !variable(name)) {
            let message = format!("{name:?} cannot be the name of an environment variable");
            self.report.error(
                "bad-name",
                &at.key("env").key(name),
                message,
                "use letters, digits and `_`, no digit first",
            );
        }
        GroupPlan {
            stage: group.stage.unwrap_or(1),
            needs: Vec::new(),
            waits_for: Vec::new(),
            after: Vec::new(),
            agents,
            cpu: group.cpu,
            cpu_weight: group.cpu_weight,
            ram_mib: None,
            gpu: None,
            overflow: Vec::new(),
            contract: SocketAddr::new(home(address), 0),
            overlay: (home(address) != address).then(|| SocketAddr::new(address, 0)),
            scrape: SocketAddr::new(home(address), 0),
            oom_score_adj: group.oom_score_adj,
            env: group.env.clone(),
            id,
        }
    }

    /// The agent as the file states it, and where the file is silent as its code says.
    fn agent(&mut self, at: &Path, group: &GroupId, spec: &AgentSpec) -> Option<AgentPlan> {
        let name: AgentName = parsed(&spec.name, at, &mut self.report)?;
        let code = self.facts.agents.get(&name);
        let stated_needs = spec.needs.as_ref().map(|list| self.list::<AgentName>(&at.key("needs"), list));
        let stated_uses = spec.uses.as_ref().map(|list| self.list::<AgentRef>(&at.key("uses"), list));
        if let Some(code) = code {
            let node = format!("{}/", group.node);
            let needs = (stated_needs.as_deref().map(names), names(&code.needs), node.as_str());
            // A need that lives on another node can only be a use.
            let used =
                |file: &AgentRef| code.uses.iter().any(|u| u.agent == file.agent) || !code.needs.contains(&file.agent);
            let stated: Option<Vec<AgentRef>> =
                stated_uses.as_ref().map(|uses| uses.iter().filter(|u| used(u)).cloned().collect());
            let uses = (stated.as_deref().map(bare_names), bare_names(&code.uses), "");
            for (what, (file, code, scope)) in [("needs", needs), ("uses", uses)] {
                let mut known = self.placed(scope);
                known.retain(|name| name.parse().is_ok_and(|name: AgentName| self.facts.agents.contains_key(&name)));
                let Some(difference) = file.and_then(|file| difference(&file, &code, &known)) else { continue };
                let message = format!("file and code do not agree what `{name}` {what}: {difference}");
                let fix = format!("take `{what}` out of the file, or make them agree");
                self.report.warn("facts-differ", &at.key(what), message, fix);
            }
        }
        Some(AgentPlan {
            required: spec.required.or(code.map(|c| c.required)).unwrap_or(false),
            built: code.is_some(),
            needs: stated_needs.or(code.map(|c| c.needs.clone())).unwrap_or_default(),
            uses: stated_uses.or(code.map(|c| c.uses.clone())).unwrap_or_default(),
            provides: code.map(|c| c.provides.clone()).unwrap_or_default(),
            roles: code.map(|c| c.roles.clone()).unwrap_or_default(),
            settings: self.fleet.settings.get(name.as_str()).cloned(),
            name,
        })
    }

    fn list<T: std::str::FromStr<Err: ToString>>(&mut self, at: &Path, names: &[String]) -> Vec<T> {
        let parse = |(i, name): (usize, &String)| parsed(name, &at.index(i), &mut self.report);
        names.iter().enumerate().filter_map(parse).collect()
    }

    /// The names of all agents whose group's identity starts with `prefix`.
    pub(super) fn placed(&self, prefix: &str) -> BTreeSet<String> {
        let groups = self.fleet.group.iter().filter(|(name, _)| name.starts_with(prefix));
        groups.flat_map(|(_, group)| group.agents.iter().map(|a| a.name().to_owned())).collect()
    }

    fn not_built(&mut self) {
        let all = self.plan.agents().count();
        let missing: Vec<AgentId> = self.plan.agents().filter(|(_, a)| !a.built).map(|(id, _)| id).collect();
        if !missing.is_empty() {
            let message = format!("{} of {all} agents are not built: they are shown and never started", missing.len());
            self.report.note("not-built", &Path::of(&["fleet"]), message, "");
        }
        let placed = self.placed("");
        let code = self.facts.agents.keys().map(AgentName::as_str);
        let unplaced: Vec<&str> = code.filter(|name| !placed.contains(*name)).collect();
        for id in missing {
            if let Some(similar) = meant(id.agent.as_str(), unplaced.iter().copied()) {
                let message = format!("this program has no code for `{}`, but it has for `{similar}`", id.agent);
                let at = self.agent_path(&id);
                self.report.warn("similar-agent", &at, message, format!("did you mean `{similar}`?"));
            }
        }
    }
}

/// Where a node that others reach at `address` listens for its own machine.
fn home(address: IpAddr) -> IpAddr {
    let [v4, v6] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    if address == v6 { v6 } else { v4 }
}

fn names(list: &[AgentName]) -> BTreeSet<&str> {
    list.iter().map(AgentName::as_str).collect()
}

fn bare_names(list: &[AgentRef]) -> BTreeSet<&str> {
    list.iter().map(|u| u.agent.as_str()).collect()
}

/// Where file and code disagree about agents that the fleet has and this program has code for: of others the file says
/// what will be, and the code what is.
fn difference(file: &BTreeSet<&str>, code: &BTreeSet<&str>, known: &BTreeSet<String>) -> Option<String> {
    let only = |a: &BTreeSet<&str>, b: &BTreeSet<&str>| listed(a.difference(b).filter(|name| known.contains(**name)));
    let (only_file, only_code) = (only(file, code), only(code, file));
    match (only_file.as_str(), only_code.as_str()) {
        ("", "") => None,
        (more, "") => Some(format!("only the file says {more}")),
        ("", less) => Some(format!("only the code says {less}")),
        (more, less) => Some(format!("only the file says {more}, only the code says {less}")),
    }
}

/// The name, or a finding.
pub(super) fn parsed<T: std::str::FromStr<Err: ToString>>(text: &str, at: &Path, report: &mut Report) -> Option<T> {
    match text.parse() {
        Ok(name) => Some(name),
        Err(error) => {
            let error: T::Err = error;
            report.error("bad-name", at, error.to_string(), "rename it to fit the rule");
            None
        }
    }
}

fn variable(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Loopback, link-local, the private ranges (RFC 1918, RFC 4193) and the shared range that overlays use (RFC 6598).
fn private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            v4.is_loopback() || v4.is_private() || v4.is_link_local() || (a == 100 && (64..128).contains(&b))
        }
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}
