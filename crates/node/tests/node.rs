//! A node with real child processes: this test program plays the groups.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]
#![allow(missing_docs)]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::{Duration, SystemTime};

use futures::StreamExt as _;
use tandem_node::{
    Control, DataLock, EndKind, Event, GroupSpec, GroupState, Happening, Holder, Launch, Layout, Limits, Node,
    NodeConfig, NodeHandle, Processes, end_orphans, ends, orphans,
};
use tandem_types::{Code, GroupName, reason};
use tokio::sync::broadcast;

/// Far longer than any healthy run takes.
const LIMIT: Duration = Duration::from_secs(60);

/// What this program does when it is started as a group, and where it serves its health.
const ROLE: &str = "TANDEM_TEST_GROUP";
const PLACE: &str = "TANDEM_TEST_PLACE";

/// What a group waits for that does something on order: a file beside its readiness socket.
const ORDER: &str = "order";

#[test]
fn ready_can_be_said_whether_or_not_somebody_listens() {
    let Ok(role) = std::env::var(ROLE) else { return tandem_process::notify(&[("READY", "1")]).unwrap() };
    let order = Path::new(&std::env::var_os("NOTIFY_SOCKET").unwrap()).with_file_name(ORDER);
    let hangs = Arc::new(AtomicBool::new(false));
    let state = match role.as_str() {
        "crash" => {
            eprintln!("the disk is on fire");
            std::process::exit(7);
        }
        "on order" => "starting",
        _ => "ready",
    };
    let listener = TcpListener::bind(std::env::var(PLACE).unwrap()).unwrap();
    let (server_hangs, recovers, server_order) = (hangs.clone(), role == "recovers", order.clone());
    std::thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            while server_hangs.load(Ordering::Relaxed) {
                std::thread::park();
            }
            // A prober that hung up early is its own affair.
            let (Ok(_) | Err(_)) = socket.read(&mut [0; 512]);
            let state = if recovers && !server_order.exists() { "degraded" } else { state };
            let (Ok(()) | Err(_)) = write!(socket, "HTTP/1.0 200 OK\r\n\r\n{{\"state\":{state:?},\"cause\":\"\"}}");
        }
    });
    while role == "on order" && !order.exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    if role != "mute" {
        tandem_process::notify(&[("READY", "1")]).unwrap();
    }
    let heart = tandem_process::Heart::of_environment().unwrap().unwrap();
    while role == "beats" && std::fs::remove_file(&order).is_err() {
        heart.beat();
        std::thread::sleep(Duration::from_millis(100));
    }
    if role == "recovers" {
        loop {
            heart.beat_marked(&order.exists().to_string());
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    hangs.store(role == "beats", Ordering::Relaxed);
    loop {
        std::thread::park();
    }
}

/// An address that nobody else uses: loopback has one for each process that may run.
fn place() -> SocketAddr {
    static TAKEN: AtomicU16 = AtomicU16::new(20_000);
    let [a, b, c, d] = std::process::id().to_be_bytes();
    assert_eq!(a, 0, "process ids have 22 bits");
    ([127, b + 1, c, d], TAKEN.fetch_add(1, Ordering::Relaxed)).into()
}

struct Machine {
    _folder: tempfile::TempDir,
    layout: Layout,
    groups: Vec<(&'static str, &'static [&'static str], &'static str)>,
    places: Vec<SocketAddr>,
}

fn machine(groups: &[(&'static str, &'static [&'static str], &'static str)]) -> Machine {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::new(folder.path().join("d"), Some(folder.path())).unwrap();
    layout.make().unwrap();
    let places = groups.iter().map(|_| place()).collect();
    Machine { _folder: folder, layout, groups: groups.to_vec(), places }
}

fn name(text: &str) -> GroupName {
    text.parse().unwrap()
}

impl Machine {
    fn lock(&self) -> DataLock {
        let me = Holder { pid: 1, node: "solo".into(), fleet: "test".into(), since: SystemTime::now().into() };
        DataLock::take(&self.layout.lock(), &me).unwrap()
    }

    async fn up(&self) -> Node {
        self.up_with(&[]).await
    }

    /// `env` is added to that of every group.
    async fn up_with(&self, env: &[(&str, &str)]) -> Node {
        let spec = |((group, needs, role), place): (&(&str, &[&str], &str), &SocketAddr)| GroupSpec {
            id: format!("solo/{group}").parse().unwrap(),
            needs: needs.iter().map(|n| name(n)).collect(),
            waits_for: vec![],
            after: vec![],
            built: *role != "absent",
            contract: *place,
            scrape: *place,
            limits: Limits { ram_mib: None, cpu: None, cpu_weight: 100, enforcement: "not enforced".into() },
            env: [(ROLE, *role), (PLACE, &place.to_string())]
                .iter()
                .chain(env)
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        };
        let groups: Vec<GroupSpec> = self.groups.iter().zip(&self.places).map(spec).collect();
        let program = std::env::current_exe().unwrap();
        let runner = Processes::new(self.layout.clone(), Duration::ZERO, move |group| Launch {
            program: program.clone(),
            // Of the names of tests that it is to run, one is no test and tells which group it is.
            args: [
                "--nocapture",
                "--exact",
                "ready_can_be_said_whether_or_not_somebody_listens",
                &group.id.to_string(),
            ]
            .map(Into::into)
            .to_vec(),
            env: group.env.clone(),
            reads: "hash".into(),
        });
        let lock = self.lock();
        let left = runner.left(&groups);
        let ended: Vec<_> = left.ended.into_iter().map(|(orphan, _)| orphan).collect();
        assert!(end_orphans(&self.layout, ended, LIMIT).await.is_empty());
        let config = NodeConfig {
            node: "solo".parse().unwrap(),
            fleet: "test".into(),
            plan_hash: "hash".into(),
            layout: self.layout.clone(),
            groups,
            taken: left.taken,
            start_wait: LIMIT,
            peer_wait: LIMIT,
            drain: LIMIT,
            link: None,
        };
        Node::start(config, lock, Arc::new(runner)).await.unwrap()
    }
}

/// Follows events until one is what is waited for; answers everything seen, group by group.
async fn until(events: &mut broadcast::Receiver<Event>, done: impl Fn(&Event) -> bool) -> Vec<(String, GroupState)> {
    let mut seen = Vec::new();
    loop {
        let event = tokio::time::timeout(LIMIT, events.recv()).await.expect("nothing happened").unwrap();
        if let Happening::Group(group) = &event.what {
            seen.push((group.group.group.to_string(), group.state));
        }
        if done(&event) {
            return seen;
        }
    }
}

fn is(group: &str, state: GroupState) -> impl Fn(&Event) -> bool {
    move |event| matches!(&event.what, Happening::Group(g) if g.group.group.as_str() == group && g.state == state)
}

fn settled(event: &Event) -> bool {
    matches!(event.what, Happening::Settled { .. })
}

fn ended(event: &Event) -> bool {
    event.what == Happening::Ended
}

fn order(seen: &[(String, GroupState)], state: GroupState) -> Vec<&str> {
    seen.iter().filter(|(_, s)| *s == state).map(|(group, _)| group.as_str()).collect()
}

#[tokio::test]
async fn groups_come_up_in_order_and_end_backwards() {
    let machine =
        machine(&[("a", &[], "ready"), ("b", &["a"], "ready"), ("c", &["b"], "ready"), ("d", &["a"], "absent")]);
    let node = machine.up().await;
    let (_, mut events) = node.handle().follow();
    let seen = until(&mut events, settled).await;
    assert_eq!(order(&seen, GroupState::Ready), ["a", "b", "c"]);
    let status = node.handle().status();
    assert!(status.settled && status.rss_bytes.is_some_and(|bytes| bytes > 0));
    assert!(status.groups[..3].iter().all(|g| g.pid.is_some() && g.rss_bytes.is_some() && g.ready_ms.is_some()));
    assert_eq!(status.groups[3].state, GroupState::NotBuilt);
    node.handle().down().await;
    let seen = until(&mut events, ended).await;
    assert_eq!(order(&seen, GroupState::Stopping), ["c", "b", "a"]);
    assert_eq!(order(&seen, GroupState::Stopped), ["c", "b", "a"]);
    node.wait().await.unwrap();
    assert!(!machine.layout.socket().exists() && orphans(&machine.layout).is_empty());
}

#[tokio::test]
async fn a_killed_group_comes_back_and_says_how_it_ended() {
    let machine = machine(&[("a", &[], "ready"), ("b", &["a"], "ready")]);
    let node = machine.up().await;
    let (_, mut events) = node.handle().follow();
    until(&mut events, settled).await;
    let before = node.handle().status();
    let pid = i32::try_from(before.groups[0].pid.unwrap()).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    until(&mut events, is("a", GroupState::BackingOff)).await;
    until(&mut events, is("a", GroupState::Ready)).await;
    let after = node.handle().status();
    assert_eq!((after.groups[0].restarts, after.groups[1].restarts), (1, 0));
    assert_ne!(after.groups[0].pid, before.groups[0].pid);
    assert_eq!(after.groups[1].pid, before.groups[1].pid, "one that needs it is not touched");
    assert_eq!(after.groups[0].last_exit.as_ref().unwrap().how, "killed by SIGKILL");
    node.handle().down().await;
    node.wait().await.unwrap();
}

#[tokio::test]
async fn a_group_that_hangs_is_ended_with_evidence_and_started_again() {
    let machine = machine(&[("a", &[], "beats"), ("b", &["a"], "ready")]);
    let node = machine.up().await;
    let (_, mut events) = node.handle().follow();
    until(&mut events, settled).await;
    let before = node.handle().status();
    std::fs::write(machine.layout.run().join(ORDER), "").unwrap();
    until(&mut events, is("a", GroupState::Suspect)).await;
    until(&mut events, is("a", GroupState::Starting)).await;
    until(&mut events, is("a", GroupState::Ready)).await;
    let after = node.handle().status();
    assert_eq!((after.groups[0].restarts, after.groups[1].restarts), (1, 0));
    assert_eq!(after.groups[1].pid, before.groups[1].pid);
    let exit = after.groups[0].last_exit.clone().unwrap();
    assert_eq!((exit.kind, exit.pid), (EndKind::Hang, before.groups[0].pid));
    let how = "killed by SIGTERM, after it sent no heartbeat and left three probes of /health unanswered";
    assert_eq!(exit.how, how);
    assert!(exit.peak_bytes > Some(0) && exit.evidence.iter().any(|line| line.contains("(sleeping)")), "{exit:?}");
    node.handle().down().await;
    node.wait().await.unwrap();
    let kept = ends(&machine.layout);
    assert_eq!(kept["a"][0], exit);
    assert_eq!(kept["a"].iter().map(|end| end.kind).collect::<Vec<_>>(), [EndKind::Hang, EndKind::Ordered]);
    assert_eq!(kept["b"].iter().map(|end| end.kind).collect::<Vec<_>>(), [EndKind::Ordered]);
}

#[tokio::test]
async fn a_group_whose_health_changes_is_asked_before_its_next_probe_is_due() {
    let machine = machine(&[("a", &[], "recovers")]);
    let node = machine.up().await;
    let (_, mut events) = node.handle().follow();
    until(&mut events, is("a", GroupState::Degraded)).await;
    std::fs::write(machine.layout.run().join(ORDER), "").unwrap();
    // A probe would come after 30 s.
    tokio::time::timeout(Duration::from_secs(20), until(&mut events, is("a", GroupState::Ready))).await.unwrap();
    node.handle().down().await;
    node.wait().await.unwrap();
}

#[tokio::test]
async fn a_group_that_is_stopped_is_paused_and_goes_on() {
    use nix::sys::signal::{Signal, kill};
    let machine = machine(&[("a", &[], "beats")]);
    let node = machine.up().await;
    let (_, mut events) = node.handle().follow();
    until(&mut events, settled).await;
    let before = node.handle().status();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(before.groups[0].pid.unwrap()).unwrap());
    kill(pid, Signal::SIGSTOP).unwrap();
    until(&mut events, is("a", GroupState::Paused)).await;
    assert!(node.handle().status().groups[0].reason.contains("is stopped"));
    kill(pid, Signal::SIGCONT).unwrap();
    until(&mut events, is("a", GroupState::Ready)).await;
    let after = node.handle().status();
    assert_eq!((after.groups[0].pid, after.groups[0].restarts), (before.groups[0].pid, 0));
    node.handle().down().await;
    node.wait().await.unwrap();
}

#[tokio::test]
async fn a_group_that_ends_before_it_is_ready_shows_its_last_words() {
    let machine = machine(&[("a", &[], "crash"), ("b", &[], "ready")]);
    let node = machine.up().await;
    let (_, mut events) = node.handle().follow();
    until(&mut events, is("a", GroupState::BackingOff)).await;
    let status = node.handle().status();
    let exit = status.groups[0].last_exit.as_ref().unwrap();
    assert_eq!(exit.how, "exit code 7 before it was ready");
    assert!(exit.evidence.iter().any(|line| line == "the disk is on fire"), "{exit:?}");
    let pid = status.groups[0].pid;
    node.handle().restart(&name("a")).await.unwrap();
    until(&mut events, is("a", GroupState::Starting)).await;
    assert_eq!(pid, None);
    let fault = node.handle().restart(&name("nobody")).await.unwrap_err();
    assert!(fault.code == Code::NotFound && fault.message.contains("it has a, b"), "{fault}");
    node.handle().down().await;
    node.wait().await.unwrap();
}

#[tokio::test]
async fn the_control_socket_tells_and_obeys() {
    let machine = machine(&[("a", &[], "ready"), ("b", &["a"], "ready"), ("c", &[], "absent")]);
    let control = Control::new(&machine.layout);
    assert_eq!(control.status().await.unwrap_err().reason, reason::PEER_AWAY);
    let node = machine.up().await;
    let (_, mut own) = node.handle().follow();
    until(&mut own, settled).await;
    let status = control.status().await.unwrap();
    assert_eq!(status.groups.len(), 3);
    assert_eq!(status.groups[0].limits.enforcement, "not enforced: nobody asked for it");
    assert_eq!(status.groups[2].limits.enforcement, "not enforced");
    assert_eq!(control.restart(&name("c")).await.unwrap_err().reason, reason::NOT_BUILT);
    assert_eq!(control.clear(&name("x")).await.unwrap_err().code, Code::NotFound);

    let (picture, events) = control.events().await.unwrap();
    assert_eq!(picture.groups[1].state, GroupState::Ready);
    control.restart(&name("b")).await.unwrap();
    until(&mut own, is("b", GroupState::Ready)).await;
    control.down().await.unwrap();
    let seen: Vec<Event> = tokio::time::timeout(LIMIT, events.collect()).await.unwrap();
    assert_eq!(seen.last().map(|e| &e.what), Some(&Happening::Ended));
    assert!(seen.iter().any(is("b", GroupState::Stopping)));
    node.wait().await.unwrap();
}

/// Runs a node until `until`, and then ends it in the way that leaves its groups alone: its runtime goes.
fn dies(machine: &Machine, until: impl AsyncFnOnce(&Node)) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async { until(&machine.up().await).await });
    drop(runtime);
}

async fn come_up(node: &Node) {
    let (status, mut events) = node.handle().follow();
    if !status.settled {
        until(&mut events, settled).await;
    }
}

/// Waits until a group is in a state, which it may be already; answers what follows.
async fn reach(node: &Node, group: &str, state: GroupState) -> broadcast::Receiver<Event> {
    let (status, mut events) = node.handle().follow();
    if !status.groups.iter().any(|g| g.group.group.as_str() == group && g.state == state) {
        until(&mut events, is(group, state)).await;
    }
    events
}

fn pids(node: &NodeHandle) -> Vec<Option<u32>> {
    node.status().groups.iter().map(|group| group.pid).collect()
}

#[test]
fn groups_outlive_a_node_that_dies_and_the_next_one_goes_on_with_them() {
    let machine = machine(&[("a", &[], "ready"), ("b", &["a"], "ready"), ("c", &["b"], "crash")]);
    let mut before = None;
    dies(&machine, async |node| {
        reach(node, "c", GroupState::BackingOff).await;
        before = Some(node.handle().status());
    });
    let before = before.unwrap();
    let left = orphans(&machine.layout);
    assert_eq!(left.iter().map(|o| o.group.group.as_str()).collect::<Vec<_>>(), ["b", "a"]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let node = machine.up().await;
        let handle = node.handle();
        let mut events = reach(&node, "c", GroupState::BackingOff).await;
        let after = handle.status();
        for (before, after) in before.groups[..2].iter().zip(&after.groups) {
            assert_eq!((before.pid, before.restarts), (after.pid, after.restarts));
            assert!(after.state == GroupState::Ready && after.ready_ms.is_some());
            assert!(after.since.since(before.since) < LIMIT && after.since < node_began(&handle), "{after:?}");
        }
        // One that was taken over is watched like any other.
        let pid = i32::try_from(after.groups[0].pid.unwrap()).unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
        until(&mut events, is("a", GroupState::BackingOff)).await;
        let how = handle.status().groups[0].last_exit.clone().unwrap().how;
        assert_eq!(how, "ended; how is not known: it was started by a node that died");
        until(&mut events, is("a", GroupState::Ready)).await;
        assert_eq!(handle.status().groups[0].restarts, 1);
        handle.down().await;
        let seen = until(&mut events, ended).await;
        assert_eq!(order(&seen, GroupState::Stopped), ["c", "b", "a"]);
        node.wait().await.unwrap();
    });
    assert!(orphans(&machine.layout).is_empty() && !has_records(machine.layout.run()));
}

fn node_began(node: &NodeHandle) -> tandem_types::Timestamp {
    node.status().since
}

#[tokio::test]
async fn a_node_whose_control_socket_is_removed_can_be_reached_again() {
    let machine = machine(&[("a", &[], "ready")]);
    let node = machine.up().await;
    come_up(&node).await;
    let control = Control::new(&machine.layout);
    std::fs::remove_file(machine.layout.socket()).unwrap();
    assert_eq!(control.status().await.unwrap_err().reason, reason::PEER_AWAY);
    let again = async {
        while control.status().await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LIMIT, again).await.expect("nothing listens");
    control.down().await.unwrap();
    node.wait().await.unwrap();
}

#[test]
fn a_group_that_would_be_started_otherwise_is_started_anew() {
    let machine = machine(&[("a", &[], "ready")]);
    let mut before = vec![];
    dies(&machine, async |node| {
        come_up(node).await;
        before = pids(&node.handle());
    });
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let node = machine.up_with(&[("MORE", "1")]).await;
        come_up(&node).await;
        assert_ne!(pids(&node.handle()), before);
        assert_eq!(orphans(&machine.layout).len(), 1, "the former process has ended");
        node.handle().down().await;
        node.wait().await.unwrap();
    });
}

#[test]
fn a_group_whose_record_cannot_be_written_serves_and_is_found_all_the_same() {
    let machine = machine(&[("a", &[], "ready")]);
    // What a full disk does to it.
    std::fs::create_dir(machine.layout.run().join("a.process")).unwrap();
    let mut before = vec![];
    dies(&machine, async |node| {
        come_up(node).await;
        before = pids(&node.handle());
    });
    let left = orphans(&machine.layout);
    assert_eq!(left.iter().map(|orphan| Some(orphan.pid)).collect::<Vec<_>>(), before);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let node = machine.up().await;
        come_up(&node).await;
        assert_ne!(pids(&node.handle()), before);
        assert_eq!(orphans(&machine.layout).len(), 1, "the former process has ended");
        node.handle().down().await;
        node.wait().await.unwrap();
    });
}

#[test]
fn a_group_that_gets_ready_while_no_node_runs_is_asked_and_one_that_gets_ready_later_is_heard() {
    let machine = machine(&[("mute", &[], "mute"), ("slow", &[], "on order")]);
    dies(&machine, async |node| {
        let (_, mut events) = node.handle().follow();
        while pids(&node.handle()).contains(&None) {
            until(&mut events, |event| matches!(event.what, Happening::Group(_))).await;
        }
    });
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let node = machine.up().await;
        let mut events = reach(&node, "mute", GroupState::Ready).await;
        assert_eq!(node.handle().status().groups[1].state, GroupState::Starting);
        std::fs::write(machine.layout.run().join(ORDER), "").unwrap();
        until(&mut events, is("slow", GroupState::Ready)).await;
        assert!(node.handle().status().groups.iter().all(|group| group.restarts == 0 && group.last_exit.is_none()));
        node.handle().down().await;
        node.wait().await.unwrap();
    });
}

fn has_records(run: &Path) -> bool {
    let mut entries = std::fs::read_dir(run).unwrap().flatten();
    entries.any(|entry| entry.path().extension().is_some_and(|e| e == "process"))
}
