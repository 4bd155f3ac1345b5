//! `tandem up`: looks, says everything that is in the way, starts the node, shows how it comes up.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{IsTerminal as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::pin::Pin;
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::{Stream, StreamExt as _};
use tandem_fleet::{Severity, summary};
use tandem_node::{
    Control, DataLock, Event, GroupSpec, GroupState, Happening, Holder, Launch, Layout, Left, LinkConfig, Node,
    NodeConfig, NodeHandle, NodeStatus, Orphan, Processes, Runner, end_orphans, orphans,
};
use tandem_process::{ControlGroups, Heart, NotifySocket, notify};
use tandem_types::{Fault, GroupId, State, Timestamp, reason};
use tokio::sync::broadcast::error::RecvError;

use crate::cli::UpArgs;
use crate::fleet::{Planned, planned};
use crate::live::Live;
use crate::logs::last_words;
use crate::place::Place;
use crate::serve::{InProcess, signals};
use crate::status::healths;
use crate::style::tell;
use crate::{FAILED, Outcome, expected, fleet, logging, memory, preflight, style};

/// Time beyond its drain after which a group is ended by force: engines and stores need some of it.
pub(crate) const STOP_MARGIN: Duration = Duration::from_secs(20);

/// How long a start that is over is watched for groups that become whole, and how often.
const MOMENT: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(100);

/// Said over the readiness socket once events can be followed.
const LISTENING: (&str, &str) = ("X_TANDEM_LISTENING", "1");
/// What the node of the background says to whoever started it of what a dead node left: what goes on, what ends.
const LEFT: [&str; 2] = ["X_TANDEM_TAKEN", "X_TANDEM_ENDED"];

pub(crate) async fn run(args: UpArgs, place: Place) -> Outcome {
    let planned = planned(&args.fleet, Some(&place))?;
    if !args.background {
        announce(&args, &planned);
        // The node of the background says it to nobody.
        for model in preflight::missing_models(&planned.plan)? {
            style::complain(&style::warn("warning"), &model);
        }
    }
    if args.detach { detach(&args, &planned, &place).await } else { stay(&args, planned, place).await }
}

fn announce(args: &UpArgs, planned: &Planned) {
    let findings: Vec<_> = planned.plan.findings.iter().filter(|f| f.severity != Severity::Note).cloned().collect();
    let groups = planned.plan.nodes.get(&planned.node).map_or(&[][..], |node| &node.groups);
    let (all, built) = (groups.len(), groups.iter().filter(|group| group.built()).count());
    let all = if all == 1 { "1 group".into() } else { format!("{all} groups") };
    let built = if built == groups.len() { String::new() } else { format!(", {built} of them built") };
    tell!("{} on node {}: {all}{built}", style::bold(&planned.plan.name), planned.node);
    if !findings.is_empty() {
        let file = args.fleet.fleet.as_ref().map(|path| format!(" {}", path.display())).unwrap_or_default();
        tell!("{}; `tandem plan{file}` shows them", style::warn(&summary(&findings)));
    }
}

/// Runs the node in this process until it has ended.
async fn stay(args: &UpArgs, planned: Planned, place: Place) -> Outcome {
    if args.background {
        nix::unistd::setsid().map_err(|e| Fault::internal(format!("cannot leave the terminal: {e}")))?;
    }
    memory::be_frugal();
    let layout = &place.layout;
    layout.make()?;
    let me = Holder {
        pid: std::process::id(),
        node: planned.node.to_string(),
        fleet: planned.source.name.clone(),
        since: SystemTime::now().into(),
    };
    let lock = DataLock::take(&layout.lock(), &me)?;
    let drain = Duration::from_secs(planned.plan.drain_s.into());
    let groups = GroupSpec::of_plan(&planned.plan, &planned.node);
    let processes = Processes::new(layout.clone(), STOP_MARGIN, launch(&planned, layout)?);
    let left = if args.one_process { none_taken(layout) } else { processes.left(&groups) };
    let found = found(&left, &lock);
    found.iter().for_each(|(_, line)| tell!("{line}"));
    let taken = bury(layout, left, drain + STOP_MARGIN).await;
    if !look(&planned, layout, &taken)? {
        return Ok(ExitCode::from(FAILED));
    }
    let log = logging::start(node_log(layout, args.background)?)?;
    std::fs::write(layout.fleet(), &planned.source.text)
        .map_err(|e| Fault::unavailable(reason::DISK, format!("cannot write {}: {e}", layout.fleet().display())))?;

    let plan = &planned.plan;
    let runner: Arc<dyn Runner> = match (args.one_process, groups.first()) {
        (true, Some(first)) => {
            let home = InProcess::new(plan, &planned.source, &place, &first.id, log)?;
            tokio::spawn(home.upkeep());
            Arc::new(home)
        }
        _ => Arc::new(processes.capped(ControlGroups::find())),
    };
    let config = NodeConfig {
        node: planned.node.clone(),
        fleet: planned.source.name.clone(),
        plan_hash: plan.plan_hash.clone(),
        layout: layout.clone(),
        groups,
        taken,
        start_wait: Duration::from_secs(plan.start_wait_s.into()),
        peer_wait: Duration::from_secs(plan.peer_wait_s.into()),
        drain,
        link: link(&planned, layout)?,
    };
    let ended = signals()?;
    let node = Node::start(config, lock, runner).await?;
    let found: Vec<(&str, &str)> = found.iter().map(|(name, line)| (*name, &line[..])).collect();
    say(&[&found[..], &[LISTENING]].concat());
    let handle = node.handle();
    let watched = watch(&handle, &planned, args.background);
    let told = async {
        ended.await;
        handle.down().await;
        std::future::pending().await
    };
    tokio::select! {
        () = watched => {}
        () = told => {}
        () = memory::stay_small() => {}
        () = live(place.control()) => {}
    }
    node.wait().await?;
    Ok(ExitCode::SUCCESS)
}

/// Tells systemd again and again that the node lives, each time after it has answered over its socket, where the unit
/// wants to hear it (sd_watchdog_enabled(3)). Never ends by itself.
async fn live(control: Control) {
    let variable = |name: &str| std::env::var(name).ok();
    let meant = variable("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
    let wait =
        variable("WATCHDOG_USEC").filter(|_| meant).and_then(|text| text.parse().ok()).map(Duration::from_micros);
    let (Some(wait), Ok(Some(heart))) = (wait, Heart::of_environment()) else { return std::future::pending().await };
    loop {
        if control.status().await.is_ok() {
            heart.beat();
        }
        tokio::time::sleep(wait / 3).await;
    }
}

/// The link to the other nodes of the plan.
fn link(planned: &Planned, layout: &Layout) -> Result<Option<LinkConfig>, Fault> {
    let Some(listen) = planned.plan.nodes.get(&planned.node).and_then(|node| node.link) else { return Ok(None) };
    let others = planned.plan.nodes.iter().filter(|(name, _)| **name != planned.node);
    Ok(Some(LinkConfig {
        node: planned.node.clone(),
        program_version: env!("CARGO_PKG_VERSION").to_owned(),
        plan_hash: planned.plan.plan_hash.clone(),
        fleet_file: planned.source.text.clone(),
        listen,
        peers: others.filter_map(|(name, node)| Some((name.clone(), node.link?))).collect(),
        trust: layout.trust(),
        epoch: layout.begin_life()?,
    }))
}

/// Follows a node to its end. In the background nobody watches: whoever started it follows by itself.
async fn watch(node: &NodeHandle, planned: &Planned, background: bool) {
    let (status, mut events) = node.follow();
    if !background {
        foretell(&status);
    }
    let mut live = (!background).then(|| Live::new(&status));
    let mut ending = false;
    loop {
        let event = match events.recv().await {
            Ok(event) => event,
            Err(RecvError::Lagged(_)) => continue,
            Err(RecvError::Closed) => return,
        };
        if !background && !ending && node.status().ending {
            ending = true;
            tell!("ending, last to start first");
            live.get_or_insert_with(|| Live::new(&node.status()));
        }
        if let Some(live) = &mut live {
            live.event(&event);
        }
        match event.what {
            Happening::Settled { .. } => {
                // A terminal's lines stay as they are now; plain lines go on.
                if std::io::stdout().is_terminal() {
                    live.take().into_iter().for_each(Live::finish);
                }
                if !background {
                    conclude(&node.status(), planned);
                    tell!("{}", style::dim("Ctrl-C ends it; `tandem up --detach` leaves the terminal"));
                }
                say(&[("READY", "1")]);
            }
            Happening::Ended => {
                live.take().into_iter().for_each(Live::finish);
                return;
            }
            Happening::Group(_) | Happening::Late { .. } => {}
        }
    }
}

/// How long the start is expected to take, where there is much to start.
fn foretell(status: &NodeStatus) {
    if let Some(forecast) = status.forecast.as_ref().filter(|_| !status.settled) {
        tell!("{}", style::dim(&expected::brief(forecast)));
    }
}

/// What has come up, what has not and why, and where the page is. Answers whether everything has.
fn conclude(status: &NodeStatus, planned: &Planned) -> bool {
    let up = |state| matches!(state, GroupState::Ready | GroupState::Degraded);
    let built: Vec<_> = status.groups.iter().filter(|g| g.state != GroupState::NotBuilt).collect();
    let missing: Vec<_> = built.iter().filter(|g| !up(g.state)).collect();
    let ready = built.len() - missing.len();
    let words = format!("{ready} of {} groups are up", built.len());
    let took = status.healthy_ms.map(|ms| format!(", healthy after {}", style::span(ms))).unwrap_or_default();
    tell!("{}", if missing.is_empty() { style::good(&format!("{words}{took}")) } else { style::warn(&words) });
    for group in &missing {
        tell!("  {} is {}: {}", group.group, style::state(group.state, group.state.as_str()), group.reason);
        if let Some(line) = group.last_exit.as_ref().and_then(|exit| last_words(&exit.evidence)) {
            tell!("    {}", style::dim(&line));
        }
    }
    if let Some(page) = fleet::page(&planned.plan, &planned.node) {
        tell!("page: {}", style::bold(&page));
    }
    missing.is_empty()
}

/// What a node that died left running, where all groups are to be this process.
fn none_taken(layout: &Layout) -> Left {
    let ended = orphans(layout).into_iter().map(|orphan| (orphan, "all groups are to run in one process".into()));
    Left { taken: vec![], ended: ended.collect() }
}

/// What is said of groups that a node left running which died: those that go on, and those that end first, with the
/// reason.
fn found(left: &Left, lock: &DataLock) -> Vec<(&'static str, String)> {
    let count = |n: usize| style::warn(&if n == 1 { "1 group".into() } else { format!("{n} groups") });
    let whose = match lock.former() {
        Some(node) => format!("of node {} (process {}), which died", node.node, node.pid),
        None => "of a node that died".into(),
    };
    let mut lines = Vec::new();
    if !left.taken.is_empty() {
        lines.push((LEFT[0], format!("took over {} {whose}", count(left.taken.len()))));
    }
    if !left.ended.is_empty() {
        let each = left.ended.iter().map(|(orphan, why)| format!("{} ({why})", orphan.group.group));
        let names = each.collect::<Vec<_>>().join(", ");
        let count = count(left.ended.len());
        lines.push((LEFT[1], format!("{count} {whose} cannot be taken over and end first: {names}")));
    }
    lines
}

/// Ends what is not taken over of what a node left that died; answers what is.
async fn bury(layout: &Layout, left: Left, grace: Duration) -> Vec<Orphan> {
    let ended = left.ended.into_iter().map(|(orphan, _)| orphan).collect();
    for killed in end_orphans(layout, ended, grace).await {
        tell!("{} did not end by itself and was ended by force", killed.group);
    }
    left.taken
}

/// Says everything that is in the way; whether the start can go on.
fn look(planned: &Planned, layout: &Layout, taken: &[Orphan]) -> Result<bool, Fault> {
    let run: BTreeSet<&GroupId> = taken.iter().map(|orphan| &orphan.group).collect();
    let mut obstacles = preflight::obstacles(&planned.plan, &planned.node, layout, &run);
    let engine = Place::engine(&Place::program()?);
    if !engine.is_file() {
        let at = engine.display();
        obstacles.push(format!("the engine {at} is missing: `make build` makes it"));
    }
    for obstacle in &obstacles {
        style::complain(&style::bad("error"), obstacle);
    }
    Ok(obstacles.is_empty())
}

fn launch(planned: &Planned, layout: &Layout) -> Result<impl Fn(&GroupSpec) -> Launch + Send + Sync + use<>, Fault> {
    let program = Place::program()?;
    let (fleet, name, data) = (layout.fleet(), planned.source.name.clone(), layout.data().to_owned());
    let hash = planned.plan.plan_hash.clone();
    Ok(move |group: &GroupSpec| Launch {
        program: program.clone(),
        args: vec![
            "serve".into(),
            group.id.to_string().into(),
            "--fleet".into(),
            fleet.clone().into(),
            "--fleet-name".into(),
            name.clone().into(),
            "--data".into(),
            data.clone().into(),
        ],
        env: group.env.clone(),
        reads: hash.clone(),
    })
}

/// Where the node writes its log: its own file, unless its errors go there anyway.
fn node_log(
    layout: &Layout,
    background: bool,
) -> Result<Box<dyn Fn() -> Box<dyn std::io::Write> + Send + Sync>, Fault> {
    if background {
        return Ok(Box::new(|| Box::new(std::io::stderr())));
    }
    let file = Arc::new(open_log(&layout.node_log())?);
    Ok(Box::new(move || Box::new(file.clone())))
}

fn open_log(path: &Path) -> Result<File, Fault> {
    File::options()
        .create(true)
        .append(true)
        .read(true)
        .mode(0o600)
        .open(path)
        .map_err(|e| Fault::unavailable(reason::DISK, format!("cannot write the log {}: {e}", path.display())))
}

fn say(lines: &[(&str, &str)]) {
    if let Err(error) = notify(lines) {
        tracing::warn!(%error, "whoever started this process does not listen");
    }
}

/// Starts the node in the background, shows how it comes up, and returns when it has.
async fn detach(args: &UpArgs, planned: &Planned, place: &Place) -> Outcome {
    let layout = &place.layout;
    layout.make()?;
    let mut log = open_log(&layout.node_log())?;
    let begin = log.seek(SeekFrom::End(0)).unwrap_or(0);
    let socket = NotifySocket::bind(&layout.run().join(format!("up-{}.notify", std::process::id())))?;
    let failed = |e: std::io::Error| Fault::unavailable(reason::DISK, format!("cannot start the node: {e}"));
    let mut command = tokio::process::Command::new(Place::program()?);
    command.arg("up").arg("--background").arg("--data").arg(layout.data()).arg("--node").arg(planned.node.as_str());
    command.args(args.fleet.fleet.iter()).args(args.one_process.then_some("--one-process"));
    // What it says to people is shown here, should it end before it is up.
    command.envs(style::columns().map(|columns| ("COLUMNS", columns.to_string())));
    command.env("NOTIFY_SOCKET", socket.path()).stdin(Stdio::null());
    command.stdout(log.try_clone().map_err(failed)?).stderr(log.try_clone().map_err(failed)?);
    let mut child = command.spawn().map_err(failed)?;

    let mut live = None;
    let mut events: Option<Pin<Box<dyn Stream<Item = Event> + Send>>> = None;
    loop {
        tokio::select! {
            biased;
            message = socket.receive() => {
                if message.get(LISTENING.0).is_some() && events.is_none() {
                    LEFT.iter().filter_map(|name| message.get(name)).for_each(|line| tell!("{line}"));
                    let (status, stream) = place.control().events().await?;
                    foretell(&status);
                    live = Some(Live::new(&status));
                    events = Some(Box::pin(stream));
                }
                if message.is_ready() {
                    break;
                }
            }
            Some(event) = async { events.as_mut()?.next().await }, if events.is_some() => {
                if let Some(live) = &mut live {
                    live.event(&event);
                }
            }
            ended = child.wait() => {
                live.take().into_iter().for_each(Live::finish);
                show_end(&layout.node_log(), begin);
                let how = ended.map_or_else(|e| e.to_string(), |status| status.to_string());
                return Err(Fault::unavailable(
                    reason::ENGINE_LOST,
                    format!("the node ended before it was up ({how}); {} has its log", layout.node_log().display()),
                ));
            }
        }
    }
    // The word that everything has started may come before the last events.
    let status = settled(place, place.control().status().await?).await;
    let at_ms = Timestamp::from(SystemTime::now()).since(status.since).as_millis();
    let mut live = live.unwrap_or_else(|| Live::new(&status));
    live.catch_up(&status, u64::try_from(at_ms).unwrap_or(u64::MAX));
    live.finish();
    let all = conclude(&status, planned);
    tell!("{}", style::dim("`tandem status` shows it, `tandem down` ends it"));
    Ok(ExitCode::from(if all { 0 } else { FAILED }))
}

/// The picture once groups that lacked each other have had a moment to find each other: their node asks them how they
/// are twice a minute only, and whoever looks first should see what is so.
async fn settled(place: &Place, mut status: NodeStatus) -> NodeStatus {
    let end = tokio::time::Instant::now() + MOMENT;
    while status.groups.iter().any(|group| group.state == GroupState::Degraded) {
        for (group, health) in healths(place, &status).await.iter().enumerate() {
            let said = health.as_ref().and_then(|health| health["state"].as_str());
            let group = &mut status.groups[group];
            if group.state == GroupState::Degraded && said == Some(State::Ready.as_str()) {
                (group.state, group.reason) = (GroupState::Ready, String::new());
            }
        }
        if tokio::time::Instant::now() >= end {
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    status
}

/// What the node said to people before it ended; its log lines proper stay in the log.
fn show_end(log: &Path, begin: u64) {
    let bytes = std::fs::read(log).unwrap_or_default();
    let since = bytes.get(usize::try_from(begin).unwrap_or(0)..).unwrap_or_default();
    let text = String::from_utf8_lossy(since);
    let paint = |line: &str| match line.split_once(": ") {
        Some(("error", rest)) => format!("{}: {rest}", style::bad("error")),
        Some(("warning", rest)) => format!("{}: {rest}", style::warn("warning")),
        _ => line.to_owned(),
    };
    text.lines().filter(|line| !line.starts_with('{')).for_each(|line| anstream::eprintln!("{}", paint(line)));
}
