//! `tandem probe`: is a group healthy? Also for container health checks, where no node runs.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use futures::future::join_all;
use tandem_node::{DataLock, get};
use tandem_types::{Fault, GroupId, NodeName, reason};

use crate::cli::ProbeArgs;
use crate::fleet::Source;
use crate::place::Place;
use crate::{FAILED, NO_NODE, Outcome, style};

/// How long a group has to answer.
const LIMIT: Duration = Duration::from_secs(10);

pub(crate) async fn run(args: ProbeArgs, place: Place) -> Outcome {
    let source = match &args.fleet {
        Some(path) => Source::open(Some(path), None)?,
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
    // The file of the running fleet is that of the node that runs, whatever this machine is called.
    let here = DataLock::holder(&place.layout.lock()).filter(|_| args.fleet.is_none());
    let here: Option<NodeName> = here.and_then(|holder| holder.node.parse().ok());
    let node = source.node(here.as_ref(), Some(&place))?;
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
    let answers = join_all(groups.iter().map(|(_, address)| ask(*address))).await;
    let width = groups.iter().map(|(id, _)| id.to_string().len()).max().unwrap_or(0);
    let mut healthy = true;
    for ((id, _), answer) in groups.iter().zip(answers) {
        let (word, cause) = match answer {
            Ok((true, word, cause)) => (style::good(&word), cause),
            Ok((false, word, cause)) => {
                healthy = false;
                (style::bad(&word), cause)
            }
            Err(fault) => {
                healthy = false;
                (style::bad("silent"), fault.message)
            }
        };
        anstream::println!("{:<width$}  {word}", id.to_string());
        let room = style::width().saturating_sub(4);
        style::wrapped(&cause, room).iter().for_each(|line| anstream::println!("    {line}"));
    }
    Ok(ExitCode::from(if healthy { 0 } else { FAILED }))
}

/// Whether a group is healthy, its state in its own word, and why.
async fn ask(address: SocketAddr) -> Result<(bool, String, String), Fault> {
    let answer = get(address, "/health", LIMIT).await?;
    let health: serde_json::Value = serde_json::from_slice(&answer.body).map_err(|_| {
        Fault::unavailable(reason::PORT_TAKEN, format!("what answers at {address} is no group of Tandem"))
    })?;
    let text = |key: &str| health[key].as_str().unwrap_or_default().to_owned();
    Ok((answer.status == 200, text("state"), text("cause")))
}
