//! `tandem status`: the tree of node, groups and agents.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use futures::future::join_all;
use serde_json::{Value, json};
use tandem_node::{DataLock, GroupStatus, NodeStatus, get, orphans};
use tandem_types::reason;

use crate::cli::StatusArgs;
use crate::others::others;
use crate::place::Place;
use crate::tree::tree;
use crate::{NO_NODE, Outcome, exits, fleet, style};

/// How long a group has to say how it is doing.
const LIMIT: Duration = Duration::from_secs(2);

pub(crate) async fn run(args: StatusArgs, place: Place) -> Outcome {
    if let Some(group) = &args.exits {
        return exits::run(group.as_deref(), args.json, &place);
    }
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
        let plan = fleet::running(&place, &status).ok().map(|running| running.plan);
        let now = SystemTime::now().into();
        anstream::print!("{}", tree(&status, &healths, plan.as_ref(), now, style::width()));
        anstream::print!("{}", others(&status.peers, now, style::width()));
        if let Some(page) = plan.and_then(|plan| fleet::page(&plan, &status.node)) {
            anstream::println!("page: {}", style::bold(&page));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What each running group says of itself, through its own `/health`.
pub(crate) async fn healths(place: &Place, status: &NodeStatus) -> Vec<Option<Value>> {
    let plan = fleet::running(place, status).map(|running| running.plan);
    let ask = async |group: &GroupStatus| -> Option<Value> {
        let address = plan.as_ref().ok()?.group(&group.group)?.contract;
        if !group.state.runs() {
            return None;
        }
        let answer = get(address, "/health", LIMIT).await.ok()?;
        serde_json::from_slice(&answer.body).ok()
    };
    join_all(status.groups.iter().map(ask)).await
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
        anstream::println!(
            "groups of a node that died still run: {names}; `tandem up` takes them over, `tandem down` ends them"
        );
    }
    Ok(ExitCode::from(NO_NODE))
}
