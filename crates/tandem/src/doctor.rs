//! `tandem doctor`: what is wrong on this machine, and how to mend it.

use std::process::{Command, ExitCode};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::resource::{Resource, getrlimit};
use serde_json::Value;
use tandem_engine::catalogue::{Entry, State, Store};
use tandem_node::{GroupState, NodeStatus};
use tandem_types::Fault;

use crate::cli::DoctorArgs;
use crate::fleet::{Planned, planned};
use crate::place::Place;
use crate::status::healths;
use crate::{FAILED, Outcome, facts, preflight, style};

/// Least number of files a process should be allowed to open: each stream and store takes some.
const LEAST_FILES: u64 = 1024;
/// 2026-01-01: a clock before this was never set.
const CLOCK_BEGINS: u64 = 1_767_225_600;

/// The outcome of one look.
enum Check {
    Good(String),
    /// Works, and a person should know.
    Note(String, String),
    /// Does not work: what, and how to mend it.
    Bad(String, String),
}

use Check::{Bad, Good, Note};

pub(crate) async fn run(args: DoctorArgs, place: Place) -> Outcome {
    let mut checks = vec![engine()?, clock(), files(), enforcement(), memory()];
    let status = place.control().status().await.ok();
    match planned(&args.fleet) {
        Ok(planned) => {
            checks.push(Good(format!("fleet {} is sound", planned.source.name)));
            checks.extend(ports(&planned, status.as_ref()));
            checks.extend(models(&planned)?);
        }
        Err(fault) => checks.push(Bad(fault.message, "`tandem plan` shows every finding with its remedy".into())),
    }
    checks.extend(folder(&place));
    match &status {
        Some(status) => {
            checks.push(Good(format!("node {} runs (process {})", status.node, status.pid)));
            checks.extend(groups(status, &healths(&place, status).await));
        }
        None => checks.push(Note("no node runs".into(), "`tandem up` starts it".into())),
    }
    let mut bad = 0;
    for check in &checks {
        match check {
            Good(what) => anstream::println!("{} {what}", style::good("✔")),
            Note(what, remedy) => anstream::println!("{} {what}\n    {remedy}", style::warn("!")),
            Bad(what, remedy) => {
                bad += 1;
                anstream::println!("{} {what}\n    fix: {remedy}", style::bad("✘"));
            }
        }
    }
    match bad {
        0 => anstream::println!("\n{}", style::good("nothing is wrong")),
        1 => anstream::println!("\n{}", style::bad("1 thing is wrong")),
        n => anstream::println!("\n{}", style::bad(&format!("{n} things are wrong"))),
    }
    Ok(ExitCode::from(if bad == 0 { 0 } else { FAILED }))
}

/// The engine and the system libraries it needs: it says its version only when it finds them all.
fn engine() -> Result<Check, Fault> {
    let path = Place::engine(&Place::program()?);
    let at = path.display();
    Ok(match Command::new(&path).arg("--version").output() {
        Ok(output) if output.status.success() => {
            Good(format!("engine {at} runs ({})", String::from_utf8_lossy(&output.stdout).trim()))
        }
        Ok(output) => {
            let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            let fix = "install libgomp1 and libstdc++6 (`apt-get install libgomp1 libstdc++6`), or build it again here";
            Bad(format!("engine {at} does not run: {words}"), fix.into())
        }
        Err(e) => Bad(format!("engine {at}: {e}"), "`cargo build --release -p tandem-engine-llama` makes it".into()),
    })
}

fn clock() -> Check {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(now) if now >= Duration::from_secs(CLOCK_BEGINS) => Good("the clock is set".into()),
        _ => Bad("the clock stands before 2026".into(), "set it: `timedatectl set-ntp true`".into()),
    }
}

fn files() -> Check {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, _)) if soft >= LEAST_FILES => Good(format!("{soft} files may be open at once")),
        Ok((soft, hard)) => Bad(
            format!("only {soft} files may be open at once (hard limit {hard})"),
            format!("`ulimit -n {LEAST_FILES}` before `tandem up`, or LimitNOFILE in its unit"),
        ),
        Err(e) => Note(format!("the limit of open files cannot be read: {e}"), "check `ulimit -n`".into()),
    }
}

fn enforcement() -> Check {
    Note(
        "RAM and CPU limits of groups are not enforced".into(),
        "groups keep to their budgets by themselves; nothing ends one that does not".into(),
    )
}

fn memory() -> Check {
    let machine = facts::machine();
    Good(format!("{} MiB of RAM, {} CPUs", machine.ram_mib, machine.cpus))
}

fn ports(planned: &Planned, status: Option<&NodeStatus>) -> Vec<Check> {
    if let Some(status) = status
        && status.groups.iter().any(|group| group.state.runs())
    {
        return vec![Good("the ports are our own node's".into())];
    }
    let taken = preflight::ports(&planned.plan, &planned.node);
    if taken.is_empty() {
        let count = preflight::addresses(&planned.plan, &planned.node).len();
        return vec![Good(format!("all {count} ports are free"))];
    }
    let split = |words: String| match words.split_once("; ") {
        Some((what, remedy)) => Bad(what.to_owned(), remedy.to_owned()),
        None => Bad(words, "set another port in the fleet file".into()),
    };
    taken.into_iter().map(split).collect()
}

fn folder(place: &Place) -> Vec<Check> {
    let data = place.layout.data().display();
    let found = preflight::folder(&place.layout);
    if found.is_empty() {
        let free = preflight::free_bytes(&place.layout).unwrap_or(0) >> 20;
        return vec![Good(format!("{data} can be written, {free} MiB are free"))];
    }
    found.into_iter().map(|words| Bad(words, format!("`ls -ld {data}` shows who owns it"))).collect()
}

fn models(planned: &Planned) -> Result<Vec<Check>, Fault> {
    let store = Store::open()?;
    let look = |(name, _): (String, Vec<tandem_types::Role>)| -> Result<Check, Fault> {
        let Entry { state, path, .. } = store.look(&name)?;
        let fix = format!("`tandem models pull {name}`");
        Ok(match state {
            State::Present => Good(format!("model {name} is here and its hash is right")),
            State::Corrupt(why) => Bad(format!("model {name}: {} {why}", path.display()), fix),
            State::Partial(_) | State::Absent => Bad(format!("model {name} is not here"), fix),
        })
    };
    preflight::chosen(&planned.plan)?.into_iter().map(look).collect()
}

fn groups(status: &NodeStatus, healths: &[Option<Value>]) -> Vec<Check> {
    let one = |(group, health): (&tandem_node::GroupStatus, &Option<Value>)| {
        let (id, name) = (&group.group, &group.group.group);
        let state = health.as_ref().and_then(|h| h["state"].as_str()).unwrap_or(group.state.as_str());
        let cause = health.as_ref().and_then(|h| h["cause"].as_str()).unwrap_or(&group.reason);
        match group.state {
            GroupState::NotBuilt => {
                Note(format!("{id} is not built"), "this program has no code for its agents".into())
            }
            GroupState::Ready | GroupState::Degraded if state == "ready" => Good(format!("{id} is ready")),
            GroupState::Ready | GroupState::Degraded if state == "degraded" => {
                Note(format!("{id} is degraded"), cause.to_owned())
            }
            _ => {
                Bad(format!("{id} is {state}: {cause}"), format!("`tandem logs {name}`, then `tandem restart {name}`"))
            }
        }
    };
    status.groups.iter().zip(healths).map(one).collect()
}
