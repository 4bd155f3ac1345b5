//! `tandem probe`: is a group healthy? Also for container health checks, where no node runs.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use futures::future::join_all;
use tandem_node::get;
use tandem_types::{Fault, GroupId, reason};

use crate::cli::ProbeArgs;
use crate::fleet::Source;
use crate::place::Place;
use crate::{FAILED, NO_NODE, Outcome, style};

/// How long a group has to answer.
const LIMIT: Duration = Duration::from_secs(10);

pub(crate) async fn run(args: ProbeArgs, place: Place) -> Outcome {
    let source = match &args.fleet {
        Some(path) => Source::open(Some(path))?,
        None => match Source::running(&place.layout.fleet(), "the running fleet") {
            Ok(source) => source,
            Err(_) => {
                anstream::eprintln!(
                    "no node has run on {}; --fleet says where groups listen",
                    place.layout.data().display()
                );
                return Ok(ExitCode::from(NO_NODE));
            }
        },
    };
    let node = source.node(None)?;
    let plan = source.plan(node.as_ref())?;
    let wanted = |id: &GroupId| match &args.group {
        Some(name) => *name == id.to_string() || *name == id.group.as_str(),
        None => node.as_ref().is_none_or(|node| *node == id.node),
    };
    let groups: Vec<(GroupId, SocketAddr)> =
        plan.groups().filter(|g| g.built() && wanted(&g.id)).map(|g| (g.id.clone(), g.contract)).collect();
    if groups.is_empty() {
        let known = plan.groups().filter(|g| g.built()).map(|g| g.id.to_string()).collect::<Vec<_>>().join(", ");
        let asked = args.group.unwrap_or_default();
        return Err(Fault::not_found(format!("{} has no group `{asked}` to probe; it has {known}", source.name)));
    }
    let healthy = join_all(groups.iter().map(|(id, address)| one(id, *address))).await;
    Ok(ExitCode::from(if healthy.iter().all(|ok| *ok) { 0 } else { FAILED }))
}

async fn one(id: &GroupId, address: SocketAddr) -> bool {
    let answer = get(address, "/health", LIMIT).await.and_then(|answer| {
        let health: serde_json::Value = serde_json::from_slice(&answer.body).map_err(|_| {
            Fault::unavailable(reason::PORT_TAKEN, format!("what answers at {address} is no group of Tandem"))
        })?;
        Ok((answer.status, health))
    });
    match answer {
        Ok((status, health)) => {
            let word = health["state"].as_str().unwrap_or("unknown");
            let cause = health["cause"].as_str().filter(|cause| !cause.is_empty());
            let cause = cause.map(|cause| format!(": {cause}")).unwrap_or_default();
            let word = if status == 200 { style::good(word) } else { style::bad(word) };
            anstream::println!("{id} {word}{cause}");
            status == 200
        }
        Err(fault) => {
            anstream::println!("{id} {}: {}", style::bad("silent"), fault.message);
            false
        }
    }
}
