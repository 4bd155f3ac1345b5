//! `tandem doctor`: what is wrong on this machine, and how to mend it.
//!
//! What can be seen without a fleet is looked at here; the rest is asked of the fleet that runs.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, SystemTime};

use nix::sys::resource::{Resource, getrlimit};
use serde_json::Value;
use tandem_agents::checks::{self, Check, Grade};
use tandem_agents::machine;
use tandem_contract::{Call, rpc};
use tandem_engine::catalogue::{Entry, State, Store};
use tandem_node::{GroupState, NodeStatus};
use tandem_types::Fault;

use crate::cli::DoctorArgs;
use crate::fleet::{Planned, planned, running};
use crate::place::Place;
use crate::status::healths;
use crate::{FAILED, Outcome, fleet, preflight, style};

/// Least number of files a process should be allowed to open: each stream and store takes some.
const LEAST_FILES: u64 = 1024;
/// How long the fleet may take to look at itself.
const LOOKING: Duration = Duration::from_secs(30);

pub(crate) async fn run(args: DoctorArgs, place: Place) -> Outcome {
    let engine = engine(&Place::engine(&Place::program()?));
    let mut found = vec![engine, files(), memory(), checks::clock(SystemTime::now().into(), place.layout.data())];
    found.extend(preflight::folder(&place.layout));
    let status = place.control().status().await.ok();
    match fleet(&args, &place, status.as_ref()) {
        Ok(planned) => {
            found.extend(checks::fleet_file(&planned.plan.findings));
            found.extend(checks::shares(&planned.plan));
            found.extend(ports(&planned, status.as_ref()));
            found.extend(models(&planned)?);
        }
        Err(fault) => {
            found.push(Check::fail("fleet file", fault.message, "`tandem plan` shows every finding with its remedy"));
        }
    }
    match &status {
        Some(status) => {
            found.push(Check::pass("node", format!("{} runs (process {})", status.node, status.pid)));
            found.extend(groups(status, &healths(&place, status).await));
            let more = asked(&place, status, &found).await;
            found.extend(more);
        }
        None => found.push(Check::warn("node", "none runs", "`tandem up` starts it")),
    }
    Ok(show(&found))
}

fn show(found: &[Check]) -> ExitCode {
    found.iter().for_each(|check| print(check, style::width()));
    let failed = found.iter().filter(|check| check.grade == Grade::Fail).count();
    match failed {
        0 => anstream::println!("\n{}", style::good("nothing is wrong")),
        1 => anstream::println!("\n{}", style::bad("1 thing is wrong")),
        n => anstream::println!("\n{}", style::bad(&format!("{n} things are wrong"))),
    }
    ExitCode::from(if failed == 0 { 0 } else { FAILED })
}

fn print(Check { name, grade, detail, remedy }: &Check, width: usize) {
    let (mark, remedy) = match grade {
        Grade::Pass => (style::good("✔"), String::new()),
        Grade::Warn => (style::warn("!"), remedy.clone()),
        Grade::Fail => (style::bad("✘"), format!("fix: {remedy}")),
    };
    for (i, line) in style::wrapped(&format!("{name}: {detail}"), width.saturating_sub(2)).iter().enumerate() {
        anstream::println!("{} {line}", if i == 0 { &mark } else { " " });
    }
    style::wrapped(&remedy, width.saturating_sub(4)).iter().for_each(|line| anstream::println!("    {line}"));
}

/// The fleet that is asked about: the one of the file, or else the one that runs here.
fn fleet(args: &DoctorArgs, place: &Place, status: Option<&NodeStatus>) -> Result<Planned, Fault> {
    match status.filter(|_| args.fleet.fleet.is_none()) {
        Some(status) => running(place, status),
        None => planned(&args.fleet, Some(place)),
    }
}

/// The engine and the system libraries it needs: it says its version only when it finds them all.
fn engine(path: &Path) -> Check {
    let (name, at) = ("engine", path.display());
    let make = "`make build` makes it";
    match Command::new(path).arg("--version").output() {
        Ok(output) if output.status.success() => {
            let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            match said.strip_prefix("tandem-llama ") {
                Some(version) => Check::pass(name, format!("{at} runs (version {version})")),
                None => Check::fail(name, format!("{at} is no engine of Tandem"), make),
            }
        }
        Ok(output) => {
            let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            let fix = "install libgomp1 and libstdc++6 (`apt-get install libgomp1 libstdc++6`), or build it again here";
            Check::fail(name, format!("{at} does not run: {words}"), fix)
        }
        Err(e) if e.kind() == ErrorKind::NotFound => Check::fail(name, format!("{at} is not there"), make),
        Err(e) => Check::fail(name, format!("{at} cannot be run: {e}"), make),
    }
}

fn files() -> Check {
    let name = "open files";
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, _)) if soft >= LEAST_FILES => Check::pass(name, format!("{soft} files may be open at once")),
        Ok((soft, hard)) => Check::fail(
            name,
            format!("only {soft} files may be open at once (hard limit {hard})"),
            format!("`ulimit -n {LEAST_FILES}` before `tandem up`, or LimitNOFILE in its unit"),
        ),
        Err(e) => Check::warn(name, format!("the limit cannot be read: {e}"), "check `ulimit -n`"),
    }
}

fn memory() -> Check {
    let machine = machine::here();
    let card = |card: &tandem_fleet::Card| format!(", {} with {} MiB", card.name, card.vram_mib);
    let cards: String = match &machine.cards {
        Some(cards) => cards.iter().map(card).collect(),
        None => ", no driver for graphics cards".to_owned(),
    };
    Check::pass("machine", format!("{} MiB of RAM, {} CPUs{cards}", machine.ram_mib, machine.cpus))
}

fn ports(planned: &Planned, status: Option<&NodeStatus>) -> Vec<Check> {
    let name = "ports";
    if let Some(status) = status
        && status.groups.iter().any(|group| group.state.runs())
    {
        return vec![Check::pass(name, "they are our own node's")];
    }
    let taken = preflight::ports(&planned.plan, &planned.node, &BTreeSet::new());
    if taken.is_empty() {
        let count = preflight::addresses(&planned.plan, &planned.node, &BTreeSet::new()).len();
        return vec![Check::pass(name, format!("all {count} are free"))];
    }
    let split = |words: String| match words.split_once("; ") {
        Some((what, remedy)) => Check::fail(name, what, remedy),
        None => Check::fail(name, words, "set another port in the fleet file"),
    };
    taken.into_iter().map(split).collect()
}

fn models(planned: &Planned) -> Result<Vec<Check>, Fault> {
    let store = Store::open()?;
    let look = |(model, _): (String, Vec<tandem_types::Role>)| -> Result<Check, Fault> {
        let Entry { state, path, .. } = store.look(&model)?;
        let (name, fix) = (format!("model file: {model}"), format!("`tandem models pull {model}`"));
        Ok(match state {
            State::Present => Check::pass(name, "is here and its hash is right"),
            State::Corrupt(why) => Check::fail(name, format!("{} {why}", path.display()), fix),
            State::Partial(_) | State::Absent => Check::fail(name, "is not here", fix),
        })
    };
    preflight::chosen(&planned.plan)?.into_iter().map(look).collect()
}

/// Groups as the node that started them knows them, with their own words where they answer.
fn groups(status: &NodeStatus, healths: &[Option<Value>]) -> Vec<Check> {
    let one = |(group, health): (&tandem_node::GroupStatus, &Option<Value>)| {
        let (name, short) = (format!("group: {}", group.group), &group.group.group);
        let state = health.as_ref().and_then(|h| h["state"].as_str()).unwrap_or(group.state.as_str());
        let cause = health.as_ref().and_then(|h| h["cause"].as_str()).unwrap_or(&group.reason);
        let fix = format!("`tandem logs {short}`, then `tandem restart {short}`");
        match group.state {
            GroupState::NotBuilt => Check::warn(name, "is not built", "this program has no code for its agents"),
            GroupState::Ready | GroupState::Degraded if state == "ready" => Check::pass(name, "is ready"),
            GroupState::Ready | GroupState::Degraded if state == "degraded" => {
                Check::warn(name, format!("is degraded: {cause}"), format!("`tandem status`, `tandem logs {short}`"))
            }
            _ => Check::fail(name, format!("is {state}: {cause}"), fix),
        }
    };
    status.groups.iter().zip(healths).map(one).collect()
}

/// What the running fleet sees of itself and is not in `found` yet.
async fn asked(place: &Place, status: &NodeStatus, found: &[Check]) -> Vec<Check> {
    let answer = async {
        let plan = running(place, status)?.plan;
        let client = fleet::client(&plan, &status.node, rpc::system::DOCTOR.path(), place)?;
        let call = Call::from_door("cli").within(LOOKING, std::time::Instant::now());
        client.unary(rpc::system::DOCTOR, Default::default(), &call).await
    };
    match answer.await {
        Ok(answer) => {
            let check = |check: tandem_contract::pb::tandem::system::v1::Check| Check {
                // A word of a later version is no reason to be silent.
                grade: Grade::of(&check.outcome).unwrap_or(Grade::Warn),
                name: check.name,
                detail: check.detail,
                remedy: check.remedy,
            };
            let new = |check: &Check| found.iter().all(|known| known.name != check.name);
            answer.checks.into_iter().map(check).filter(new).collect()
        }
        Err(fault) => {
            let detail = format!("it does not look at itself: {}", fault.message);
            vec![Check::warn("fleet", detail, "`tandem status` shows how UnifiedSystemAgent is doing")]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_engine_counts_as_one() {
        let words = |path: &str| {
            let check = engine(Path::new(path));
            assert_eq!(check.grade, Grade::Fail, "{}", check.detail);
            (check.detail, check.remedy)
        };
        assert_eq!(words("/bin/true").0, "/bin/true is no engine of Tandem");
        assert!(words("/bin/false").0.contains("does not run"));
        let (what, fix) = words("/nowhere/tandem-llama");
        assert!(what.ends_with("is not there") && fix.contains("make build"), "{what} {fix}");
    }
}
