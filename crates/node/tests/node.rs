//! A node with real child processes: this test program plays the groups.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]
#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::StreamExt as _;
use tandem_node::{
    Control, DataLock, Event, GroupSpec, GroupState, Happening, Holder, Launch, Layout, Limits, Node, NodeConfig,
    Processes, orphans,
};
use tandem_types::{Code, GroupName, reason};
use tokio::sync::broadcast;

/// Far longer than any healthy run takes.
const LIMIT: Duration = Duration::from_secs(60);

/// What this program does when it is started as a group.
const ROLE: &str = "TANDEM_TEST_GROUP";

#[test]
fn ready_can_be_said_whether_or_not_somebody_listens() {
    let role = std::env::var(ROLE);
    if role.as_deref() == Ok("crash") {
        eprintln!("the disk is on fire");
        std::process::exit(7);
    }
    tandem_process::notify(&[("READY", "1")]).unwrap();
    while role.is_ok() {
        std::thread::park();
    }
}

struct Machine {
    _folder: tempfile::TempDir,
    layout: Layout,
    groups: Vec<(&'static str, &'static [&'static str], &'static str)>,
}

fn machine(groups: &[(&'static str, &'static [&'static str], &'static str)]) -> Machine {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::new(folder.path().join("d"), Some(folder.path())).unwrap();
    layout.make().unwrap();
    Machine { _folder: folder, layout, groups: groups.to_vec() }
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
        let nobody: SocketAddr = "127.0.0.1:9".parse().unwrap();
        let spec = |(group, needs, role): &(&str, &[&str], &str)| GroupSpec {
            id: format!("solo/{group}").parse().unwrap(),
            needs: needs.iter().map(|n| name(n)).collect(),
            waits_for: vec![],
            after: vec![],
            built: *role != "absent",
            contract: nobody,
            scrape: nobody,
            limits: Limits { ram_mib: None, cpu: None, cpu_weight: 100, enforcement: "not enforced".into() },
            env: BTreeMap::from([(ROLE.to_owned(), (*role).to_owned())]),
        };
        let config = NodeConfig {
            node: "solo".parse().unwrap(),
            fleet: "test".into(),
            plan_hash: "hash".into(),
            layout: self.layout.clone(),
            groups: self.groups.iter().map(spec).collect(),
            start_wait: LIMIT,
            peer_wait: LIMIT,
            drain: LIMIT,
        };
        let program = std::env::current_exe().unwrap();
        let runner = Processes::new(self.layout.clone(), Duration::ZERO, move |group| Launch {
            program: program.clone(),
            args: ["--exact", "ready_can_be_said_whether_or_not_somebody_listens", "--nocapture"]
                .map(Into::into)
                .to_vec(),
            env: group.env.clone(),
        });
        Node::start(config, self.lock(), Arc::new(runner)).await.unwrap()
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

#[test]
fn groups_outlive_a_node_that_dies_and_the_next_one_ends_them() {
    let machine = machine(&[("a", &[], "ready"), ("b", &["a"], "ready")]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let node = machine.up().await;
        let (_, mut events) = node.handle().follow();
        until(&mut events, settled).await;
    });
    // To the groups this is what the death of the node is: nobody is there any longer.
    drop(runtime);
    let left = orphans(&machine.layout);
    assert_eq!(left.iter().map(|o| o.group.group.as_str()).collect::<Vec<_>>(), ["b", "a"]);
    let lock = machine.lock();
    assert_eq!(lock.former().map(|node| node.node.as_str()), Some("solo"));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    assert!(runtime.block_on(tandem_node::end_orphans(&machine.layout, LIMIT)).is_empty());
    assert!(orphans(&machine.layout).is_empty() && !has_records(machine.layout.run()));
}

fn has_records(run: &Path) -> bool {
    let mut entries = std::fs::read_dir(run).unwrap().flatten();
    entries.any(|entry| entry.path().extension().is_some_and(|e| e == "process"))
}
