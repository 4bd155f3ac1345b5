//! A plan for a terminal.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use tandem_types::{GroupId, NodeName, Role};

use super::count;
use crate::check::thousands;
use crate::finding::{Finding, summary};
use crate::gpu::{CardPlan, SharePlan};
use crate::model::{Device, Sharing};
use crate::plan::{GroupPlan, NodePlan, Plan, RolePlan};
use crate::wrap::{sentence, wrapped};

/// How long groups take from their start to being ready, in milliseconds; one that is missing counts as 0.
pub type ReadyMs = BTreeMap<GroupId, u64>;

/// Models that a machine chooses for roles the file leaves open.
pub type Chosen = BTreeMap<Role, String>;

/// The plan for a terminal of `width` columns: per node its groups in start order with budgets, ports and agents, then
/// cards, roles and findings. With `ready` the critical path is of milliseconds, otherwise of groups.
pub fn text(plan: &Plan, width: usize, ready: Option<&ReadyMs>, chosen: &Chosen) -> String {
    let (agents, built) = (plan.agents().count(), plan.agents().filter(|(_, a)| a.built).count());
    let mut out = format!(
        "fleet {}: {}, {}, {} ({built} built), plan {}\n",
        plan.name,
        count(plan.nodes.len(), "node"),
        count(plan.groups().count(), "group"),
        count(agents, "agent"),
        &plan.plan_hash[..12.min(plan.plan_hash.len())],
    );
    for (name, node) in &plan.nodes {
        out += &node_text(name, node, width, ready);
    }
    out += &roles_text(plan, width, chosen);
    if let Some(web) = &plan.web {
        let token = web.token_file.as_ref().map_or(String::new(), |file| format!(", token in {file}"));
        let _ = writeln!(out, "\npage at http://{}{token}", web.listen);
    }
    if !plan.findings.is_empty() {
        let _ = writeln!(out, "\n{}", summary(&plan.findings));
        plan.findings.iter().for_each(|finding| out += &finding_text(finding, width));
    }
    out
}

fn node_text(name: &NodeName, node: &NodePlan, width: usize, ready: Option<&ReadyMs>) -> String {
    let fixed: u64 = node.groups.iter().filter_map(|g| g.ram_mib).sum();
    let ram = node.ram_mib.map_or("detected".into(), |mib| format!("{} MiB", thousands(mib)));
    let cpus = node.cpus.map_or("CPUs detected".into(), |cpus| count(cpus as usize, "CPU"));
    let mut out = format!("\nnode {name} at {}: RAM {} of {ram}, {cpus}\n", node.address, thousands(fixed));
    // Times are of the node that measured them; the others count groups.
    let ready = ready.filter(|ms| node.groups.iter().any(|g| ms.contains_key(&g.id)));
    let chain = match ready {
        Some(ms) => node.longest_chain(|id| ms.get(id).copied().unwrap_or(0)),
        None => node.critical_path.clone(),
    };
    let names: Vec<&str> = chain.groups.iter().map(|g| g.as_str()).collect();
    let total = if ready.is_some() { format!("{} ms", thousands(chain.total)) } else { count(names.len(), "group") };
    out += &wrapped(&format!("  critical path ({total}): "), &names, " -> ", width, 4);
    let gpu = node.groups.iter().any(|g| g.gpu.is_some());
    let head = ["stage", "group", "RAM MiB", "CPU (weight)", "GPU share", "port", "scrape"].map(String::from);
    let rows: Vec<[String; 7]> = node.groups.iter().map(row).collect();
    let widths: Vec<usize> =
        (0..head.len()).map(|c| rows.iter().chain([&head]).map(|r| r[c].chars().count()).max().unwrap_or(0)).collect();
    let line = |row: &[String; 7]| {
        let cells: Vec<String> = (0..row.len())
            .filter(|c| gpu || *c != 4)
            .map(|c| {
                if c == 2 { format!("{:>w$}", row[c], w = widths[c]) } else { format!("{:<w$}", row[c], w = widths[c]) }
            })
            .collect();
        format!("  {}\n", cells.join("  ").trim_end())
    };
    out += &line(&head);
    for (group, row) in node.groups.iter().zip(&rows) {
        out += &line(row);
        out += &group_text(group, width);
    }
    for (i, card) in node.cards.iter().enumerate() {
        out += &card_text(i, card, width);
    }
    out
}

fn card_text(place: usize, card: &CardPlan, width: usize) -> String {
    let ways = card.sharing.iter().map(|way| match way {
        Sharing::Mps => "MPS",
        Sharing::Mig => "MIG",
        Sharing::TimeSlice => "time slices",
    });
    let facts = [
        format!("{} MiB", thousands(card.vram_mib)),
        format!("{} SM", card.sm),
        format!("reserve {} MiB", thousands(card.reserve_mib)),
        format!("shared by {}", ways.collect::<Vec<_>>().join(" or ")),
    ];
    let absent = (card.present == Some(false)).then(|| "not there".to_owned());
    let facts: Vec<String> = facts.into_iter().chain(absent).collect();
    let mut out = format!("\n{}", wrapped(&format!("  card {place} {}: ", card.name), &facts, ", ", width, 4));
    let owners = card.shares.iter().map(|s| s.owner.to_string().len()).max().unwrap_or(0);
    for SharePlan { owner, run_by, percent, vram_mib, sm, .. } in &card.shares {
        let by = if owner == run_by { String::new() } else { format!("  run by {}", run_by.group) };
        let (owner, vram) = (owner.to_string(), thousands(*vram_mib));
        let _ = writeln!(out, "    {owner:<owners$}  {percent:>3} %  {vram:>7} MiB  {sm:>3} SM{by}");
    }
    out
}

fn row(group: &GroupPlan) -> [String; 7] {
    let cpu = group.cpu.map_or("-".into(), |cpu| cpu.to_string());
    let overflow = group.overflow.iter().map(|s| format!(" + {} %", s.percent));
    let share = group.gpu.as_ref().map_or("-".into(), |s| format!("{} %{}", s.percent, overflow.collect::<String>()));
    [
        group.stage.to_string(),
        group.id.group.to_string(),
        group.ram_mib.map_or("rest".into(), thousands),
        format!("{cpu} ({})", group.cpu_weight),
        share,
        group.contract.port().to_string(),
        group.scrape.port().to_string(),
    ]
}

/// Columns before the names in a group's lines.
const NAMES: usize = 11;

/// What a group starts after and which agents it holds; `*` marks the required ones.
fn group_text(group: &GroupPlan, width: usize) -> String {
    let mut out = String::new();
    let siblings = group.needs.iter().chain(&group.waits_for).map(ToString::to_string);
    let before: Vec<String> = siblings.chain(group.after.iter().map(ToString::to_string)).collect();
    if !before.is_empty() {
        out += &wrapped("         after ", &before, ", ", width, NAMES);
    }
    for (label, built) in [("         ", true), ("         not built: ", false)] {
        let names: Vec<String> = group
            .agents
            .iter()
            .filter(|a| a.built == built)
            .map(|a| format!("{}{}", a.name, if a.required { "*" } else { "" }))
            .collect();
        if !names.is_empty() {
            out += &wrapped(label, &names, ", ", width, NAMES);
        }
    }
    out
}

fn roles_text(plan: &Plan, width: usize, chosen: &Chosen) -> String {
    if plan.roles.is_empty() {
        return String::new();
    }
    let names = plan.roles.keys().map(|r| r.as_str().len()).max().unwrap_or(0);
    let mut out = String::from("\nmodel roles\n");
    for (role, bound) in &plan.roles {
        out += &wrapped(
            &format!("  {:<names$}  ", role.as_str()),
            &role_text(bound, chosen.get(role)),
            ", ",
            width,
            names + 4,
        );
    }
    out
}

/// What a role is bound to, part by part.
fn role_text(bound: &RolePlan, chosen: Option<&String>) -> Vec<String> {
    if let Some(alias) = &bound.alias {
        return vec![format!("same as {alias}")];
    }
    let model = match (&bound.model, chosen) {
        (Some(model), _) => model.clone(),
        (None, Some(model)) => format!("auto, here {model},"),
        (None, None) => "auto".to_owned(),
    };
    let mut parts = vec![format!("{model} on {}", if bound.device == Device::Gpu { "GPU" } else { "CPU" })];
    parts.extend(bound.max_mib.map(|mib| format!("at most {} MiB", thousands(mib))));
    if !bound.home.is_empty() {
        let homes: Vec<String> = bound.home.iter().map(ToString::to_string).collect();
        let slot = if bound.overflow { "the overflow share of " } else { "" };
        parts.push(format!("paid by {slot}{}", homes.join(" and ")));
    }
    parts
}

fn finding_text(finding: &Finding, width: usize) -> String {
    let Finding { severity, code, message, file, span, .. } = finding;
    let at = span.map_or(file.clone(), |s| format!("{file}:{}:{}", s.line, s.column));
    sentence(&format!("  {severity}[{code}] {at}: "), message, width, 4)
}
