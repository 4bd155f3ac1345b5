//! What lies around the groups: model roles, allowed callers, the page.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use tandem_types::{AgentName, GroupId, Role};

use super::names::parsed;
use super::{Pass, circle, listed, thousands};
use crate::finding::{Path, meant, suggest};
use crate::graph;
use crate::model::{BindingSpec, Device};
use crate::plan::{Caller, RolePlan, WebPlan};

/// The word for "the best model that fits".
const AUTO: &str = "auto";

/// What pays for a model: a group's RAM, its share of a card, or (`true`) the overflow share it runs.
type Purse = (GroupId, Device, bool);

impl Pass<'_> {
    pub(super) fn roles(&mut self) {
        for (name, binding) in &self.fleet.roles {
            let at = Path::of(&["roles", name]);
            let Some(role) = parsed::<Role>(name, &at, &mut self.report) else { continue };
            let spec = binding.spec();
            let alias = spec.alias.as_ref().and_then(|alias| self.alias(alias, &at.key("alias")));
            self.model(&spec, &at);
            let home = self.homes(&role, &spec, &at.key("home"));
            let shared = |id: &GroupId| self.plan.group(id).is_some_and(|g| g.gpu.is_some());
            let on_gpu = spec.overflow || (!home.is_empty() && home.iter().all(shared));
            let device = spec.device.unwrap_or(if on_gpu { Device::Gpu } else { Device::Cpu });
            if let Some(id) = home.iter().find(|id| device == Device::Gpu && !spec.overflow && !shared(id)) {
                let message = format!("`{role}` runs on a GPU, and its home `{id}` has no share of one");
                self.report.error(
                    "role-without-share",
                    &at,
                    message,
                    "give the home a share, or write `device = \"cpu\"`",
                );
            }
            let (model, overflow, max_mib) = (Some(spec.model).filter(|m| m != AUTO), spec.overflow, spec.max_mib);
            self.plan.roles.insert(role, RolePlan { model, alias, home, device, overflow, max_mib });
        }
        self.alias_circles();
        self.role_budgets();
        self.roles_unbound();
    }

    fn alias(&mut self, alias: &str, at: &Path) -> Option<Role> {
        if self.fleet.roles.contains_key(alias) {
            return alias.parse().ok();
        }
        let fix = suggest(alias, self.fleet.roles.keys().map(String::as_str), format!("bind `{alias}` in [roles] too"));
        self.report.error("unknown-role", at, format!("no role `{alias}` is bound here"), fix);
        None
    }

    fn model(&mut self, spec: &BindingSpec, at: &Path) {
        let Some(models) = &self.facts.models else { return };
        if spec.alias.is_none() && spec.model != AUTO && !models.contains(&spec.model) {
            let fix = suggest(
                &spec.model,
                models.iter().map(String::as_str),
                "write \"auto\", or add the model to the catalogue",
            );
            let at = if self.report.spans.contains_key(&at.key("model")) { at.key("model") } else { at.clone() };
            self.report.error("unknown-model", &at, format!("the catalogue has no model `{}`", spec.model), fix);
        }
    }

    fn homes(&mut self, role: &Role, spec: &BindingSpec, at: &Path) -> Vec<GroupId> {
        let mut homes = Vec::new();
        for (i, name) in spec.home.iter().enumerate() {
            let at = at.index(i);
            let Some(id) = parsed::<GroupId>(name, &at, &mut self.report) else { continue };
            let Some(group) = self.plan.group(&id) else {
                if !self.fleet.group.contains_key(name) {
                    let groups = self.fleet.group.keys().map(String::as_str);
                    let fix = suggest(name, groups, "name a group of this file");
                    self.report.error(
                        "unknown-group",
                        &at,
                        format!("`{role}` has the home `{id}`, which does not exist"),
                        fix,
                    );
                }
                continue;
            };
            if spec.overflow && group.overflow.is_empty() {
                let message = format!("`{role}` runs in an overflow share of `{id}`, which runs none");
                self.report.error(
                    "role-without-share",
                    &at,
                    message,
                    "add `overflow` to its `gpu`, or take it out here",
                );
            }
            homes.push(id);
        }
        homes
    }

    fn alias_circles(&mut self) {
        let roles: Vec<&Role> = self.plan.roles.keys().collect();
        let place = |role: &Role| roles.iter().position(|r| *r == role);
        let befores = |role: &RolePlan| role.alias.iter().filter_map(place).collect();
        for members in graph::circles(&self.plan.roles.values().map(befores).collect()) {
            let members: Vec<&Role> = members.iter().map(|i| roles[*i]).collect();
            let message = format!("roles are aliases of each other in a circle: {}", circle(&members));
            let at = Path::of(&["roles", members[0].as_str()]);
            self.report.error("alias-circle", &at, message, "bind one of them to a model");
        }
    }

    /// The models of a home against the share, or RAM, that pays for them.
    fn role_budgets(&mut self) {
        let mut used: BTreeMap<Purse, Vec<(&Role, u64)>> = BTreeMap::new();
        for (role, plan) in self.plan.roles.iter().filter(|(_, plan)| plan.alias.is_none()) {
            for home in &plan.home {
                let key = (home.clone(), plan.device, plan.overflow);
                used.entry(key).or_default().extend(plan.max_mib.map(|mib| (role, mib)));
            }
        }
        for ((home, device, overflow), roles) in used {
            let Some(group) = self.plan.group(&home) else { continue };
            let (budget, what) = match (device, overflow) {
                (Device::Cpu, _) => (group.ram_mib, "RAM"),
                (Device::Gpu, false) => (group.gpu.as_ref().map(|s| s.vram_mib), "share"),
                (Device::Gpu, true) => (group.overflow.iter().map(|s| s.vram_mib).max(), "overflow share"),
            };
            let Some(budget) = budget else { continue };
            let limit = thousands(budget);
            for (role, mib) in roles.iter().filter(|(_, mib)| *mib > budget) {
                let message =
                    format!("`{role}` may take {} MiB, and the {what} of `{home}` is {limit} MiB", thousands(*mib));
                let at = Path::of(&["roles", role.as_str()]).key("max_mib");
                self.report.error("role-over-budget", &at, message, "lower it, or enlarge what its home has");
            }
            let sum: u64 = roles.iter().map(|(_, mib)| mib).sum();
            if sum > budget && roles.iter().all(|(_, mib)| *mib <= budget) {
                let names = listed(roles.iter().map(|(role, _)| role));
                let message =
                    format!("{names} may take {} MiB, and the {what} of `{home}` is {limit} MiB", thousands(sum));
                let at = Path::of(&["group", &home.to_string()]);
                self.report.note("roles-over-budget", &at, format!("{message}: not all can be loaded at once"), "");
            }
        }
    }

    /// Roles that agents ask for and nothing is bound to.
    fn roles_unbound(&mut self) {
        let mut askers: BTreeMap<&Role, BTreeSet<&AgentName>> = BTreeMap::new();
        for agent in self.plan.groups().flat_map(|group| &group.agents) {
            for role in &agent.roles {
                askers.entry(role).or_default().insert(&agent.name);
            }
        }
        for (role, agents) in askers.into_iter().filter(|(role, _)| !self.plan.roles.contains_key(role)) {
            let message = format!(
                "no model is bound to `{role}`, which {} will answer `no model for {role}` for",
                listed(agents)
            );
            self.report.warn(
                "role-unbound",
                &Path::of(&["roles"]),
                message,
                format!("add `{:?} = \"auto\"` to [roles]", role.as_str()),
            );
        }
    }

    pub(super) fn callers(&mut self) {
        let agents = self.placed("");
        let groups: Vec<&str> = self.fleet.group.keys().map(String::as_str).collect();
        let words = ["any", "cli", "host"];
        for (contract, names) in &self.fleet.callers {
            let at = Path::of(&["callers", contract]);
            self.contract(contract, &at);
            let mut callers = Vec::new();
            for (i, name) in names.iter().enumerate() {
                let at = at.index(i);
                let known = agents.iter().map(String::as_str).chain(groups.iter().copied()).chain(words);
                let caller = match name.as_str() {
                    "any" => Some(Caller::Any),
                    "cli" => Some(Caller::Cli),
                    "host" => Some(Caller::Host),
                    path if path.contains('/') => parsed(path, &at, &mut self.report).map(Caller::Group),
                    agent => parsed(agent, &at, &mut self.report).map(Caller::Agent),
                };
                if caller.is_some() && !known.clone().any(|k| k == name) {
                    let fix = suggest(name, known, "take it out");
                    self.report.warn(
                        "unknown-caller",
                        &at,
                        format!("`{name}` may call `{contract}` and is nowhere"),
                        fix,
                    );
                }
                callers.extend(caller);
            }
            self.plan.callers.insert(contract.clone(), callers);
        }
        self.contracts_not_built();
    }

    fn contract(&mut self, contract: &str, at: &Path) {
        let parts: Vec<&str> = contract.split('.').collect();
        let formed = matches!(parts[..], [package, version, service]
            if package.starts_with(|c: char| c.is_ascii_lowercase())
                && version.strip_prefix('v').is_some_and(|v| v.parse::<u32>().is_ok())
                && service.parse::<AgentName>().is_ok());
        if !formed {
            let message = format!("`{contract}` is not a contract");
            self.report.error(
                "bad-name",
                at,
                message,
                "write capability, version and service: \"session.v1.Sessions\"",
            );
            return;
        }
        let Some(known) = self.facts.contracts.as_ref().filter(|known| !known.contains(contract)) else { return };
        let names = known.iter().map(String::as_str);
        let missing = self.plan.agents().any(|(_, agent)| !agent.built);
        if missing && meant(contract, names.clone()).is_none() {
            return;
        }
        // A list for a contract that does not exist would leave the one that was meant open to all.
        let fix = suggest(contract, names, "check its name, or take it out");
        self.report.warn("unknown-contract", at, format!("this program speaks no contract `{contract}`"), fix);
    }

    /// Lists of contracts that will be those of agents that are not built.
    fn contracts_not_built(&mut self) {
        let Some(known) = &self.facts.contracts else { return };
        let warned: BTreeSet<&str> = self
            .report
            .findings
            .iter()
            .filter(|f| ["unknown-contract", "bad-name"].contains(&f.code))
            .map(|f| f.key.as_str())
            .collect();
        let said = |contract: &str| warned.contains(Path::of(&["callers", contract]).to_string().as_str());
        let lists = self.plan.callers.keys().filter(|contract| !known.contains(*contract));
        let quiet: Vec<&String> = lists.filter(|contract| !said(contract)).collect();
        if quiet.is_empty() {
            return;
        }
        let (count, all) = (quiet.len(), self.plan.callers.len());
        let message =
            format!("{count} of {all} lists of callers are for contracts that are not built: {}", listed(quiet));
        self.report.note("contracts-not-built", &Path::of(&["callers"]), message, "");
    }

    pub(super) fn web(&mut self) {
        let Some(web) = &self.fleet.web else { return };
        let at = Path::of(&["web", "listen"]);
        let Ok(listen) = web.listen.parse::<SocketAddr>() else {
            if self.report.spans.contains_key(&at) || self.report.spans.is_empty() {
                let message = format!("{:?} is not an IP address and a port", web.listen);
                self.report.error("bad-address", &at, message, "write both: \"127.0.0.1:8280\"");
            }
            return;
        };
        if !listen.ip().is_loopback() && web.token_file.is_none() {
            let message = format!("the page would be open to everyone who reaches {listen}");
            self.report.error("web-open", &at, message, "set `token_file`, or listen on 127.0.0.1");
        }
        let nodes = self.plan.nodes.len();
        if listen.ip().is_loopback() && nodes > 1 {
            let message =
                format!("the page at {listen} opens on the machine that serves it, and on no other of {nodes}");
            let fix = "to open it elsewhere, set `token_file` and listen on that machine's overlay address";
            self.report.note("web-local", &at, message, fix);
        }
        self.plan.web = Some(WebPlan { listen, token_file: web.token_file.clone() });
    }
}
