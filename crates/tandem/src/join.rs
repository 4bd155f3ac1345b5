//! `tandem join`: this machine becomes a node of another machine's fleet.

use std::io::{BufRead as _, IsTerminal as _};
use std::process::ExitCode;
use std::time::SystemTime;

use tandem_trust::Invitation;
use tandem_types::{Code, Fault, reason};

use crate::cli::JoinArgs;
use crate::fleet::Source;
use crate::place::Place;
use crate::{Outcome, style};

pub(crate) async fn run(args: JoinArgs, place: Place) -> Outcome {
    let line = match args.invitation {
        Some(line) => line,
        None => ask()?,
    };
    let invitation = Invitation::read(&line, SystemTime::now())?;
    let (node, fleet) = (invitation.node.clone(), invitation.fleet_name.clone());
    if let Ok(status) = place.control().status().await {
        let message = format!("node {} runs here: `tandem down` ends it, then join", status.node);
        return Err(Fault::new(Code::FailedPrecondition, reason::TRUST_EXISTS, message));
    }
    let own = match &args.fleet {
        Some(path) => {
            let source = Source::open(Some(path), None)?;
            let plan = source.plan(Some(&node))?;
            Some((source.text, plan.plan_hash))
        }
        None => None,
    };
    place.layout.make()?;
    let own = own.as_ref().map(|(text, hash)| (text.as_str(), hash.as_str()));
    tandem_node::join(place.layout.clone(), invitation, env!("CARGO_PKG_VERSION"), own).await?;
    anstream::println!("{} this machine is {} of the fleet {fleet}", style::good("✔"), style::bold(node.as_str()));
    anstream::println!("  the fleet file is {}", place.layout.own_fleet().display());
    anstream::println!("next: {}", style::bold("tandem up"));
    Ok(ExitCode::SUCCESS)
}

/// The invitation from whoever types or pipes it: then it is in no list of processes and in no history.
fn ask() -> Result<String, Fault> {
    let input = std::io::stdin();
    if input.is_terminal() {
        anstream::eprintln!("paste what `tandem invite` printed on the other machine:");
    }
    let mut line = String::new();
    input
        .lock()
        .read_line(&mut line)
        .map_err(|e| Fault::invalid_field("invitation", format!("cannot be read: {e}")))?;
    let line = line.trim();
    Ok(line.strip_prefix("tandem join ").unwrap_or(line).to_owned())
}
