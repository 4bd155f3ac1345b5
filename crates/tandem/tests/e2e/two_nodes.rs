//! Two nodes of one fleet: two data folders on this machine, two loopback addresses.

use std::path::PathBuf;
use std::pin::Pin;
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

use futures::{Stream, StreamExt as _};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tandem_contract::pb::tandem::system::v1::SubscribeRequest;
use tandem_contract::pb::tandem::telemetry::v1::QuerySeriesRequest;
use tandem_contract::pb::tandem::twin::v1::GetStateRequest;
use tandem_contract::{Call, Channel, Client, rpc};
use tandem_node::{Control, GroupState, Layout, NodeStatus, PeerState, PeerStatus, get, orphans};

use crate::clients::{artifacts, page_script, runs_well};
use crate::harness::{LIMIT, LOOK, Ports, kill_9, tandem};

/// Two machines, and the file of the fleet that they are to be.
pub(crate) struct Pair {
    folder: tempfile::TempDir,
    pub(crate) nodes: [Machine; 2],
}

pub(crate) struct Machine {
    name: &'static str,
    pub(crate) layout: Layout,
    node: Option<Child>,
}

/// What each node runs; nothing of it needs a model.
fn fleet(ports: Ports) -> String {
    let at = |i: u16| ports.contract + i;
    let scrape = |i: u16| ports.scrape(i);
    format!(
        r#"
[fleet]
name = "pair"
drain_s = 2

[node.left]
address = "127.0.0.2"
link_port = {}

[node.right]
address = "127.0.0.3"
link_port = {}

[group."left/infra_core"]
agents = ["ServiceRegistry", "SystemDigitalTwin", "ObservabilityHub"]
ram_mib = 256
port = {}
scrape_port = {}

[group."right/infra_core"]
agents = [{{ name = "ObservabilityHub", needs = [] }}]
after = ["left/infra_core"]
ram_mib = 256
port = {}
scrape_port = {}
"#,
        at(0),
        at(1),
        at(2),
        scrape(0),
        at(3),
        scrape(1)
    )
}

impl Pair {
    /// With `more` in its fleet file.
    fn new(ports: Ports, more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("fleet.toml"), fleet(ports) + more).unwrap();
        let machine = |name| Machine { name, layout: Layout::new(folder.path().join(name), None).unwrap(), node: None };
        let nodes = ["left", "right"].map(machine);
        Self { folder, nodes }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("fleet.toml")
    }

    /// A fleet of both, founded on the left; neither node runs.
    pub(crate) fn founded() -> Self {
        Self::founded_with(Ports::free(), "")
    }

    fn founded_with(ports: Ports, more: &str) -> Self {
        let pair = Self::new(ports, more);
        let file = pair.file();
        good(&pair.nodes[0].run(&["init", file.to_str().unwrap(), "--node", "left"]));
        pair
    }

    /// A fleet of both that have joined, and run.
    pub(crate) async fn joined() -> Self {
        Self::founded().join().await
    }

    async fn join(mut self) -> Self {
        self.nodes[0].up().await;
        let line = self.invite(&[]);
        good(&self.nodes[1].run(&["join", &line]));
        self.nodes[1].up().await;
        self
    }

    /// The line to join with.
    fn invite(&self, more: &[&str]) -> String {
        let invited = self.nodes[0].run(&[&["invite", "right"], more].concat());
        good(&invited);
        String::from_utf8(invited.stdout).unwrap().trim().strip_prefix("tandem join ").unwrap().to_owned()
    }
}

/// Fails with what a command said, unless it went well.
pub(crate) fn good(output: &Output) {
    assert!(output.status.success(), "{}", said(output));
}

pub(crate) fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

impl Machine {
    fn command(&self) -> Command {
        let mut command = tandem();
        command.args(["--data", self.layout.data().to_str().unwrap()]).stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command().args(args).output().unwrap()
    }

    pub(crate) async fn up(&mut self) {
        let log = std::fs::File::create(self.layout.data().with_extension("txt")).unwrap();
        let mut command = self.command();
        self.node = Some(command.arg("up").stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
        self.until("it has started", |status| status.settled).await;
    }

    /// Ends the node and waits for its end.
    pub(crate) fn down(&mut self) {
        good(&self.run(&["down"]));
        assert!(self.node.take().unwrap().wait().unwrap().success(), "{}", self.logs());
    }

    /// Waits until the node's own picture is as wanted.
    pub(crate) async fn until(&self, what: &str, wanted: impl Fn(&NodeStatus) -> bool) -> NodeStatus {
        let end = Instant::now() + LIMIT;
        loop {
            let status = Control::new(&self.layout).status().await;
            match status {
                Ok(status) if wanted(&status) => return status,
                other => {
                    assert!(Instant::now() < end, "{} never saw that {what}: {other:?}\n{}", self.name, self.logs())
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    pub(crate) async fn sees(&self, state: PeerState) -> PeerStatus {
        let status = self.until(&format!("its peer is {state:?}"), |status| status.peers[0].state == state).await;
        status.peers.into_iter().next().unwrap()
    }

    pub(crate) fn logs(&self) -> String {
        let up = std::fs::read_to_string(self.layout.data().with_extension("txt")).unwrap_or_default();
        up + &tandem_process::tail(&self.layout.node_log(), 30).join("\n")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = self.node.as_ref().unwrap().id();
        kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(node) = &mut self.node {
            for signal in [Signal::SIGCONT, Signal::SIGTERM] {
                let _ = kill(Pid::from_raw(i32::try_from(node.id()).unwrap()), signal);
            }
            let end = Instant::now() + LIMIT;
            while matches!(node.try_wait(), Ok(None)) && Instant::now() < end {
                std::thread::sleep(LOOK);
            }
            drop(node.kill());
            drop(node.wait());
        }
        for orphan in orphans(&self.layout) {
            let _ = nix::sys::signal::killpg(Pid::from_raw(i32::try_from(orphan.pid).unwrap()), Signal::SIGKILL);
        }
    }
}

/// What `node.link` says of the other machine, from the oldest word on; the group that says it listens at `port`.
async fn turns(port: u16) -> Pin<Box<dyn Stream<Item = String>>> {
    let client = Client::new(Channel::network(), format!("http://127.0.0.1:{port}").parse().unwrap());
    let request = SubscribeRequest { topics: vec!["node.link".into()], ..Default::default() };
    let events = client.server_stream(rpc::host::SUBSCRIBE, request, &Call::from_door("cli")).await.unwrap();
    Box::pin(events.map(|event| {
        let payload: serde_json::Value = serde_json::from_str(&event.unwrap().payload_json).unwrap();
        payload["state"].as_str().unwrap().to_owned()
    }))
}

fn listens(address: &str) -> bool {
    std::net::TcpStream::connect(address).is_ok()
}

#[tokio::test]
async fn two_nodes_join_see_each_other_and_go_on_alone() {
    let mut pair = Pair::founded();
    let plan: serde_json::Value = serde_json::from_slice(&pair.nodes[0].run(&["plan", "--json"]).stdout).unwrap();
    let link = plan["nodes"]["left"]["link"]["overlay"].as_str().unwrap().to_owned();
    let overlay = plan["nodes"]["left"]["groups"][0]["overlay"].as_str().unwrap().to_owned();
    pair.nodes[0].up().await;
    assert_eq!(pair.nodes[0].sees(PeerState::Unheard).await.groups, []);
    assert!(!listens(&link) && !listens(&overlay), "nothing listens beyond loopback before a join");

    let line = pair.invite(&[]);
    while !listens(&link) {
        tokio::time::sleep(LOOK).await;
    }
    good(&pair.nodes[1].run(&["join", &line]));
    let again = pair.nodes[1].run(&["join", &line]);
    assert!(!again.status.success() && said(&again).contains("already"), "{}", said(&again));
    pair.nodes[1].up().await;

    let ready = |status: &NodeStatus| {
        let peer = &status.peers[0];
        peer.state == PeerState::Alive && peer.groups.iter().any(|group| group.state == GroupState::Ready)
    };
    let left = pair.nodes[0].until("right is ready", ready).await;
    pair.nodes[1].until("left is ready", ready).await;
    let shown = said(&pair.nodes[0].run(&["status"]));
    assert!(shown.contains("right") && shown.contains("alive"), "{shown}");

    // What happens there is seen here, by process.
    let group = left.peers[0].groups[0].clone();
    kill_9(group.pid.unwrap());
    pair.nodes[0].until("the group came back", |status| status.peers[0].groups[0].restarts == 1).await;

    // A silent peer is unknown, and everything here goes on.
    let core = left.groups.iter().find(|group| group.group.group.as_str() == "infra_core").unwrap().port;
    let mut turns = turns(core).await;
    assert_eq!(turns.next().await.as_deref(), Some("ready"));
    pair.nodes[1].signal(Signal::SIGSTOP);
    let unknown = pair.nodes[0].sees(PeerState::Unknown).await;
    assert!(unknown.reason.starts_with("last seen"), "{unknown:?}");
    let status = Control::new(&pair.nodes[0].layout).status().await.unwrap();
    assert!(status.groups.iter().all(|group| group.state == GroupState::Ready && group.restarts == 0), "{status:?}");
    assert_eq!(turns.next().await.as_deref(), Some("away"));
    let phi = "tandem_peer_phi{node=\"right\",path=\"overlay\"} ";
    let page = get(([127, 0, 0, 1], core).into(), "/metrics?own", LIMIT).await.unwrap();
    let page = String::from_utf8(page.body.to_vec()).unwrap();
    let phi = page.lines().find_map(|line| line.strip_prefix(phi)).expect("the suspicion is counted");
    assert!(phi.parse::<f64>().unwrap() > 1.0, "{phi}");
    assert!(page.contains("tandem_peer_rtt_seconds{node=\"right\",path=\"overlay\"} NaN"), "it does not answer");
    pair.nodes[1].signal(Signal::SIGCONT);
    pair.nodes[0].sees(PeerState::Alive).await;
    assert_eq!(turns.next().await.as_deref(), Some("ready"));

    // Shut out, it is heard no more.
    good(&pair.nodes[0].run(&["revoke", "right"]));
    pair.nodes[0].sees(PeerState::Unknown).await;
    let shut_out = pair.nodes[1].until("it is shut out", |status| status.peers[0].reason.contains("revoked")).await;
    assert!(shut_out.groups.iter().all(|group| group.state == GroupState::Ready), "{shut_out:?}");
}

#[tokio::test]
async fn whoever_may_not_join_is_told_why_and_nothing_changes() {
    let mut pair = Pair::founded();
    pair.nodes[0].up().await;
    let line = pair.invite(&[]);
    let refused = |args: &[&str], word: &str| {
        let output = pair.nodes[1].run(args);
        assert!(!output.status.success() && said(&output).contains(word), "{args:?}: {}", said(&output));
        assert!(!pair.nodes[1].layout.own_fleet().exists());
    };
    refused(&["join", &line[..line.len() - 5]], "cut off");
    refused(&["join", "tandem1.AAAA"], "invitation");
    let other = pair.folder.path().join("other.toml");
    let text = std::fs::read_to_string(pair.file()).unwrap().replacen("ram_mib = 256", "ram_mib = 300", 1);
    std::fs::write(&other, text).unwrap();
    refused(&["join", &line, "--fleet", other.to_str().unwrap()], "ram_mib` is 300 here and 256 on left");
    let newer = pair.invite(&[]);
    refused(&["join", &line], "");
    let stranger = Pair::founded();
    refused(&["join", &stranger.invite(&["--at", &address(&line, &pair)])], "");
    good(&pair.nodes[1].run(&["join", &newer]));
}

/// Where the founder listens.
fn address(_line: &str, pair: &Pair) -> String {
    let plan: serde_json::Value = serde_json::from_slice(&pair.nodes[0].run(&["plan", "--json"]).stdout).unwrap();
    plan["nodes"]["left"]["link"]["overlay"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_page_shows_how_another_machine_is_reached_and_when_it_was_last_seen() {
    let ports = Ports::free();
    let page = format!("127.0.0.1:{}", ports.page());
    let web = format!(
        "\n[group.\"left/web_interface\"]\nagents = [\"UnifiedWebAgent\"]\nram_mib = 128\nport = {}\nscrape_port = {}\n\n\
         [web]\nlisten = \"{page}\"\n",
        ports.contract + 4,
        ports.scrape(2)
    );
    let pair = Pair::founded_with(ports, &web).join().await;
    let folder = artifacts("machines");
    let shows = async |state: &str| {
        let mut script = page_script("machine.mjs", &format!("http://{page}"), &folder);
        script.args(["right", state]);
        runs_well(script, &folder, &|| pair.nodes[0].logs()).await;
    };
    shows("ready").await;
    // Of a machine that is away neither the node answers nor what it runs.
    let right = Control::new(&pair.nodes[1].layout).status().await.unwrap();
    let groups: Vec<Pid> =
        right.groups.iter().map(|group| Pid::from_raw(i32::try_from(group.pid.unwrap()).unwrap())).collect();
    pair.nodes[1].signal(Signal::SIGSTOP);
    groups.iter().for_each(|group| kill(*group, Signal::SIGSTOP).unwrap());
    shows("unknown").await;
    groups.iter().for_each(|group| kill(*group, Signal::SIGCONT).unwrap());
    pair.nodes[1].signal(Signal::SIGCONT);
    shows("ready").await;
}

#[tokio::test]
async fn what_one_machine_measures_is_known_on_the_other_also_while_it_is_off() {
    let ports = Ports::free();
    let group = |id: &str, agent: &str, i: u16| {
        let (port, scrape) = (ports.contract + 3 + i, ports.scrape(1 + i));
        format!(
            "\n[group.\"{id}\"]\nneeds = [\"infra_core\"]\nagents = [\"{agent}\"]\nram_mib = 128\nport = {port}\nscrape_port = {scrape}\n"
        )
    };
    let more = [
        group("right/resources", "ResourceManager", 1),
        group("left/utility_cpu", "PredictiveHealthMonitor", 2),
        "\n[settings.ObservabilityHub]\nscrape_ms = 500\nsync_ms = 300\n".into(),
        "\n[settings.ResourceManager]\nsample_ms = 500\nreport_ms = 500\n".into(),
    ];
    let (core, foreseen) = (ports.contract + 2, ports.contract + 5);
    let mut pair = Pair::founded_with(ports, &more.concat()).join().await;
    let at = |port: u16| Client::new(Channel::network(), format!("http://127.0.0.1:{port}").parse().unwrap());
    let (client, call) = (at(core), || Call::from_door("cli"));

    // ResourceManager there reports to the twin here.
    let end = Instant::now() + LIMIT;
    loop {
        let ask = GetStateRequest { scope: "right".into(), ..Default::default() };
        let right = client.unary(rpc::twin::GET_STATE, ask, &call()).await.unwrap().nodes.remove(0);
        if right.cpus > 0 && right.ram_used_bytes.is_some() && right.disk_total_bytes.is_some() {
            break;
        }
        assert!(Instant::now() < end, "{right:?}\n{}", pair.nodes[1].logs());
        tokio::time::sleep(LOOK).await;
    }

    let past = async || {
        let labels = [("group".to_owned(), "right/resources".to_owned())].into_iter().collect();
        let name = "process_resident_memory_bytes".to_owned();
        let ask = QuerySeriesRequest { name, labels, ..Default::default() };
        let found = client.unary(rpc::telemetry::QUERY_SERIES, ask, &call()).await;
        found.map_or(0, |found| found.series.iter().map(|series| series.samples.len()).sum())
    };
    let end = Instant::now() + LIMIT;
    // Far more than are measured between two visits of the other hub.
    while past().await < 10 {
        assert!(Instant::now() < end, "{}", pair.nodes[1].logs());
        tokio::time::sleep(LOOK).await;
    }
    let asked = at(foreseen).unary(rpc::telemetry::GET_FORECAST, Default::default(), &call()).await.unwrap();
    let agents: Vec<&str> = asked.forecasts.iter().map(|forecast| forecast.agent.as_str()).collect();
    assert!(agents.contains(&"right/resources/ResourceManager"), "{agents:?}");

    pair.nodes[1].down();
    assert!(past().await > 0, "what was measured there is here\n{}", pair.nodes[0].logs());
}
