//! `tandem down` and `tandem restart`.

use std::process::ExitCode;
use std::time::Duration;

use futures::StreamExt as _;
use tandem_node::{Control, DataLock, GroupState, GroupStatus, Happening, end_orphans, orphans};
use tandem_types::{Code, Fault, GroupName, reason};

use crate::cli::{DownArgs, RestartArgs};
use crate::live::Live;
use crate::place::Place;
use crate::{FAILED, Outcome, style};

/// How long a group of a node that died has to end by itself.
const ORPHAN_GRACE: Duration = Duration::from_secs(40);

pub(crate) async fn run(_: DownArgs, place: Place) -> Outcome {
    let control = place.control();
    let (status, events) = match control.events().await {
        Ok(following) => following,
        Err(fault) if fault.reason == reason::PEER_AWAY => return nobody(&place).await,
        Err(fault) => return Err(fault),
    };
    anstream::println!("ending node {}, last to start first", status.node);
    let mut live = Live::new(&status);
    control.down().await?;
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        live.event(&event);
        if event.what == Happening::Ended {
            break;
        }
    }
    live.finish();
    // Whoever starts the next node needs the lock, which goes with the process.
    while DataLock::holder(&place.layout.lock()).is_some() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    anstream::println!("{}", style::good("everything has ended"));
    Ok(ExitCode::SUCCESS)
}

async fn nobody(place: &Place) -> Outcome {
    if let Some(holder) = DataLock::holder(&place.layout.lock()) {
        let message =
            format!("node {} (process {}) runs and does not listen: is it starting?", holder.node, holder.pid);
        return Err(Fault::unavailable(reason::PEER_AWAY, message));
    }
    let left = orphans(&place.layout);
    if left.is_empty() {
        anstream::println!("no node runs on {}", place.layout.data().display());
        return Ok(ExitCode::SUCCESS);
    }
    anstream::println!("the node has died, {} of its groups still run: ending them", left.len());
    for killed in end_orphans(&place.layout, left, ORPHAN_GRACE).await {
        anstream::println!("{} did not end by itself and was ended by force", killed.group);
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn restart(args: RestartArgs, place: Place) -> Outcome {
    let control = place.control();
    let Some(name) = args.group else { return restart_all(&control).await };
    let name = name.rsplit('/').next().unwrap_or(&name);
    let name: GroupName = name.parse().map_err(|e| Fault::invalid_field("GROUP", format!("{e}")))?;
    Ok(ExitCode::from(if restart_one(&control, &name).await? { 0 } else { FAILED }))
}

async fn restart_all(control: &Control) -> Outcome {
    let built = |group: &&GroupStatus| group.state != GroupState::NotBuilt;
    let groups: Vec<GroupName> =
        control.status().await?.groups.iter().filter(built).map(|group| group.group.group.clone()).collect();
    for (done, name) in groups.iter().enumerate() {
        if !restart_one(control, name).await? {
            let left = groups.len() - done - 1;
            anstream::eprintln!(
                "{left} more were left as they are: `tandem logs {name}` may say why it does not come back"
            );
            return Ok(ExitCode::from(FAILED));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Starts a group anew and says how it is; whether it is back.
async fn restart_one(control: &Control, name: &GroupName) -> Result<bool, Fault> {
    let (status, events) = control.events().await?;
    let before = status.groups.iter().find(|g| g.group.group == *name).and_then(|g| g.pid);
    control.restart(name).await?;
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        let Happening::Group(group) = event.what else { continue };
        if group.group.group != *name {
            continue;
        }
        let anew = group.pid.is_some() && group.pid != before;
        match group.state {
            GroupState::Ready | GroupState::Degraded | GroupState::Unavailable if anew => {
                anstream::println!("{} is {}", group.group, style::state(group.state, group.state.as_str()));
                return Ok(true);
            }
            GroupState::BackingOff | GroupState::CrashLoop | GroupState::Failed => {
                anstream::println!("{} is {}: {}", group.group, style::bad(group.state.as_str()), group.reason);
                return Ok(false);
            }
            _ => {}
        }
    }
    Err(Fault::new(Code::Unavailable, reason::DRAINING, "the node ended meanwhile"))
}
