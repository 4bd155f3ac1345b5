//! `tandem status`: the tree of node, groups and agents.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use futures::future::join_all;
use serde_json::{Value, json};
use tandem_node::{DataLock, GroupState, GroupStatus, NodeStatus, get, orphans};
use tandem_types::{Timestamp, reason};

use crate::cli::StatusArgs;
use crate::fleet::Source;
use crate::place::Place;
use crate::{NO_NODE, Outcome, fleet, style};

/// How long a group has to say how it is doing.
const LIMIT: Duration = Duration::from_secs(2);

pub(crate) async fn run(args: StatusArgs, place: Place) -> Outcome {
    let status = match place.control().status().await {
        Ok(status) => status,
        Err(fault) if fault.reason == reason::PEER_AWAY => return nobody(&args, &place),
        Err(fault) => return Err(fault),
    };
    let healths = healths(&place, &status).await;
    if args.json {
        let groups: Vec<Value> = status
            .groups
            .iter()
            .zip(&healths)
            .map(|(group, health)| {
                let mut value = json!(group);
                if let Some(object) = value.as_object_mut() {
                    object.insert("health".into(), health.clone().unwrap_or(Value::Null));
                }
                value
            })
            .collect();
        let mut value = json!(status);
        if let Some(object) = value.as_object_mut() {
            object.insert("running".into(), true.into());
            object.insert("groups".into(), groups.into());
        }
        anstream::println!("{value:#}");
    } else {
        print(&status, &healths);
        if let Some(page) = page(&place, &status) {
            anstream::println!("page: {}", style::bold(&page));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What each running group says of itself, through its own `/health`.
pub(crate) async fn healths(place: &Place, status: &NodeStatus) -> Vec<Option<Value>> {
    let plan = Source::running(&place.layout.fleet(), &status.fleet).and_then(|s| s.plan(Some(&status.node)));
    let ask = async |group: &GroupStatus| -> Option<Value> {
        let address = plan.as_ref().ok()?.address(&group.group)?;
        if !group.state.runs() {
            return None;
        }
        let answer = get(address, "/health", LIMIT).await.ok()?;
        serde_json::from_slice(&answer.body).ok()
    };
    join_all(status.groups.iter().map(ask)).await
}

/// Where the running fleet's page is.
fn page(place: &Place, status: &NodeStatus) -> Option<String> {
    let source = Source::running(&place.layout.fleet(), &status.fleet).ok()?;
    fleet::page(&source.plan(Some(&status.node)).ok()?, &status.node)
}

fn nobody(args: &StatusArgs, place: &Place) -> Outcome {
    let data = place.layout.data();
    let starting = DataLock::holder(&place.layout.lock());
    let left = if starting.is_some() { vec![] } else { orphans(&place.layout) };
    if args.json {
        let left: Vec<String> = left.iter().map(|orphan| orphan.group.to_string()).collect();
        anstream::println!("{:#}", json!({ "running": false, "data": data, "orphans": left }));
        return Ok(ExitCode::from(NO_NODE));
    }
    match starting {
        Some(node) => anstream::println!("node {} (process {}) is starting or ending", node.node, node.pid),
        None => anstream::println!("no node runs on {}; `tandem up` starts it", data.display()),
    }
    if !left.is_empty() {
        let names = left.iter().map(|o| o.group.group.as_str()).collect::<Vec<_>>().join(", ");
        anstream::println!("groups of a node that died still run: {names}; `tandem up` or `tandem down` ends them");
    }
    Ok(ExitCode::from(NO_NODE))
}

fn age(since: Timestamp) -> String {
    let now: Timestamp = SystemTime::now().into();
    style::span(u64::try_from(now.since(since).as_millis()).unwrap_or(u64::MAX))
}

fn print(status: &NodeStatus, healths: &[Option<Value>]) {
    let rss = status.rss_bytes.map_or(String::new(), |bytes| format!(", {}", style::mib(bytes)));
    let all: u64 = status.groups.iter().filter_map(|g| g.rss_bytes).sum::<u64>() + status.rss_bytes.unwrap_or(0);
    anstream::println!(
        "{} {}  up {}, process {}{rss}; all without engines {}",
        style::bold(status.node.as_str()),
        style::dim(&format!("{} · plan {}", status.fleet, &status.plan_hash[..12.min(status.plan_hash.len())])),
        age(status.since),
        status.pid,
        style::mib(all),
    );
    for (i, (group, health)) in status.groups.iter().zip(healths).enumerate() {
        let last = i + 1 == status.groups.len();
        print_group(group, health.as_ref(), last);
    }
}

fn print_group(group: &GroupStatus, health: Option<&Value>, last: bool) {
    let (branch, stem) = if last { ("└─", "   ") } else { ("├─", "│  ") };
    let said = health.and_then(|h| h["state"].as_str()).and_then(|word| word.parse::<tandem_types::State>().ok());
    let state = match group.state {
        // What the node heard may be half a minute old.
        GroupState::Ready | GroupState::Degraded | GroupState::Unavailable | GroupState::Failed => {
            said.map_or(group.state, GroupState::from)
        }
        other => other,
    };
    let mut facts = vec![age(group.since)];
    facts.extend(group.rss_bytes.map(style::mib));
    facts.extend((group.restarts > 0).then(|| format!("{} restarts", group.restarts)));
    facts.extend(group.state.runs().then(|| format!("port {}", group.port)));
    let facts = style::dim(&facts.join(", "));
    let word = style::state(state, state.as_str());
    let cause =
        health.and_then(|h| h["cause"].as_str()).filter(|_| state != GroupState::Ready).unwrap_or(&group.reason);
    let cause = if cause.is_empty() { String::new() } else { format!("  {cause}") };
    anstream::println!("{branch} {}  {word}  {facts}{cause}", style::bold(group.group.group.as_str()));
    if let Some(exit) = &group.last_exit {
        let line = exit.evidence.last().map(|line| format!(": {line}")).unwrap_or_default();
        anstream::println!("{stem}{}", style::dim(&format!("last ended {} ago, {}{line}", age(exit.at), exit.how)));
    }
    let list = |key: &str| health.and_then(|h| h[key].as_array()).cloned().unwrap_or_default();
    let (agents, engines) = (list("agents"), list("engines"));
    let count = agents.len() + engines.len();
    for (i, value) in agents.iter().chain(&engines).enumerate() {
        let branch = if i + 1 == count { "└─" } else { "├─" };
        anstream::println!("{stem}{branch} {}", child(value));
    }
}

/// An agent or an engine on a line.
fn child(value: &Value) -> String {
    let text = |key: &str| value[key].as_str().unwrap_or_default();
    let state = text("state").parse::<tandem_types::State>().map(GroupState::from);
    let built = value["built"].as_bool().unwrap_or(true);
    let state = if built { state.unwrap_or(GroupState::Unavailable) } else { GroupState::NotBuilt };
    let word = style::state(state, state.as_str());
    let name = match value["model"].as_str() {
        Some(model) => format!("engine {model}"),
        None => text("agent").rsplit('/').next().unwrap_or_default().to_owned(),
    };
    let mut facts = Vec::new();
    facts.extend(value["age_ms"].as_u64().filter(|_| built).map(style::span));
    facts.extend(value["measured_bytes"].as_u64().map(style::mib));
    facts.extend(value["restarts"].as_u64().filter(|n| *n > 0).map(|n| format!("{n} restarts")));
    let cause = if built { text("cause") } else { "" };
    let cause = if cause.is_empty() { String::new() } else { format!("  {cause}") };
    format!("{name}  {word}  {}{cause}", style::dim(&facts.join(", ")))
}
