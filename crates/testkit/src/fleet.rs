//! A whole fleet in one process: every group behind its own ports, calls between them in memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusBuilder;
use tandem_agent::{AgentDef, Clock, FleetAgent, FleetGroup, FleetNode, FleetView, FleetWeb, Peers};
use tandem_contract::Call;
use tandem_host::{EnginePrograms, GroupHost, HostConfig};
use tandem_types::{GroupId, State};
use tempfile::TempDir;

/// Finds an agent's code by its name.
pub type Find = fn(&str) -> Option<&'static AgentDef>;

/// A running fleet. Close it at the end of a test.
pub struct Fleet {
    /// The plan.
    pub view: Arc<FleetView>,
    /// A directory that calls as `solo/test/Tester`.
    pub peers: Peers,
    hosts: BTreeMap<GroupId, GroupHost>,
    find: Find,
    engines: BTreeMap<String, std::path::PathBuf>,
    data: TempDir,
}

/// Describes a fleet of one node, `solo`.
pub struct FleetBuilder {
    find: Find,
    groups: Vec<(String, Vec<String>)>,
    roles: BTreeMap<String, String>,
    settings: BTreeMap<String, serde_json::Value>,
    engines: BTreeMap<String, std::path::PathBuf>,
}

/// A port on loopback that nobody listens at, and that is not given to others as long as this process lives: bound, never
/// listening, and free for whoever asks for it by its number.
pub fn free_port() -> u16 {
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.set_reuseaddr(true).expect("a socket option");
    socket.bind(([127, 0, 0, 1], 0).into()).expect("a free port on loopback");
    let port = socket.local_addr().expect("a bound socket has an address").port();
    // Nobody closes it but the end of the process.
    let _ = std::os::fd::IntoRawFd::into_raw_fd(socket);
    port
}

impl FleetBuilder {
    /// Groups are added with [`FleetBuilder::group`].
    pub fn new(find: Find) -> Self {
        Self { find, groups: Vec::new(), roles: BTreeMap::new(), settings: BTreeMap::new(), engines: BTreeMap::new() }
    }

    /// A group with its agents.
    #[must_use]
    pub fn group(mut self, name: &str, agents: &[&str]) -> Self {
        self.groups.push((name.to_owned(), agents.iter().map(|a| (*a).to_owned()).collect()));
        self
    }

    /// Binds a model role.
    #[must_use]
    pub fn role(mut self, role: &str, model: &str) -> Self {
        self.roles.insert(role.to_owned(), model.to_owned());
        self
    }

    /// Settings of an agent.
    #[must_use]
    pub fn settings(mut self, agent: &str, settings: serde_json::Value) -> Self {
        self.settings.insert(agent.to_owned(), settings);
        self
    }

    /// The program for a kind of engine.
    #[must_use]
    pub fn engine(mut self, kind: &str, program: impl Into<std::path::PathBuf>) -> Self {
        self.engines.insert(kind.to_owned(), program.into());
        self
    }

    fn agent(&self, name: &str) -> FleetAgent {
        let def = (self.find)(name);
        let names = |names: &[&str]| names.iter().filter_map(|n| n.parse().ok()).collect();
        FleetAgent {
            name: name.parse().expect("an agent name"),
            required: def.is_some_and(|d| d.required),
            built: def.is_some(),
            needs: def.map(|d| names(d.needs)).unwrap_or_default(),
            uses: def.map(|d| names(d.uses)).unwrap_or_default(),
            rpcs: def.map(|d| d.provides.iter().map(|r| r.path).collect()).unwrap_or_default(),
            topics: def.map(|d| d.publishes.iter().map(|t| t.name).collect()).unwrap_or_default(),
            settings: self.settings.get(name).cloned().unwrap_or_default(),
        }
    }

    /// Starts every group and waits until none is starting.
    pub async fn start(self) -> Fleet {
        let group = |(name, agents): &(String, Vec<String>)| FleetGroup {
            id: format!("solo/{name}").parse().expect("a group name"),
            endpoint: format!("http://127.0.0.1:{}", free_port()),
            scrape_endpoint: format!("http://127.0.0.1:{}", free_port()),
            needs: vec![],
            ram_bytes: 4 << 30,
            cpus: 2.0,
            agents: agents.iter().map(|agent| self.agent(agent)).collect(),
            callers: BTreeMap::new(),
        };
        let view = Arc::new(FleetView {
            name: "test".into(),
            plan_hash: "test-plan".into(),
            nodes: vec![FleetNode { name: "solo".parse().expect("a node name"), address: "127.0.0.1".into() }],
            groups: self.groups.iter().map(group).collect(),
            roles: self.roles.clone(),
            web: FleetWeb { listen: format!("127.0.0.1:{}", free_port()), token_file: None },
            ..FleetView::default()
        });
        let peers = Peers::new(view.clone(), "solo/test/Tester".parse().expect("an identity"));
        let mut fleet = Fleet {
            view: view.clone(),
            peers,
            hosts: BTreeMap::new(),
            find: self.find,
            engines: self.engines,
            data: tempfile::tempdir().expect("a folder for data"),
        };
        for group in &view.groups {
            fleet.open(&group.id).await;
        }
        for host in fleet.hosts.values() {
            host.started().await;
        }
        fleet
    }
}

impl Fleet {
    async fn open(&mut self, group: &GroupId) {
        let config = HostConfig {
            group: group.clone(),
            fleet: self.view.clone(),
            find: self.find,
            data: self.data.path().join(group.to_string()),
            members: None,
            peers: self.peers.clone(),
            clock: Clock::system(),
            engines: EnginePrograms {
                by_kind: self.engines.clone(),
                logs: self.data.path().join("logs"),
                run: self.data.path().into(),
            },
            metrics: PrometheusBuilder::new().build_recorder().handle(),
            set_log_filter: Arc::new(|filter| Err(format!("`{filter}`: a test has no log to filter"))),
            spans: None,
            log_events: Default::default(),
            sockets: Default::default(),
        };
        match GroupHost::open(config).await {
            Ok(host) => drop(self.hosts.insert(group.clone(), host)),
            Err(fault) => panic!("group {group} did not open: {fault}"),
        }
    }

    /// A call with time enough for a busy machine.
    pub fn call(&self) -> Call {
        Call::from_door("test").within(Duration::from_secs(20), std::time::Instant::now())
    }

    /// The base address of the group an agent lives in.
    pub fn endpoint_of(&self, agent: &str) -> String {
        let holds = |g: &&FleetGroup| g.agents.iter().any(|a| a.name.as_str() == agent);
        self.view.groups.iter().find(holds).unwrap_or_else(|| panic!("nobody is called {agent}")).endpoint.clone()
    }

    /// Waits until what is known of an agent is as wanted; fails the test after 30 s.
    pub async fn wait_for(&self, agent: &str, wanted: impl Fn(State) -> bool) -> State {
        let (group, _) = self
            .view
            .agents()
            .find(|(_, a)| a.name.as_str() == agent)
            .unwrap_or_else(|| panic!("nobody is called {agent}"));
        let id = group.id.agent(agent.parse().expect("an agent name"));
        let mut news = self.peers.news();
        let waited = tokio::time::timeout(Duration::from_secs(30), async {
            loop {
                if let Some(state) = self.peers.state_of(&id).filter(|s| wanted(*s)) {
                    return state;
                }
                if news.changed().await.is_err() {
                    panic!("the directory is gone");
                }
            }
        });
        waited.await.unwrap_or_else(|_| panic!("{id} is {:?}", self.peers.state_of(&id)))
    }

    /// Ends one group and starts it again on the same data.
    pub async fn restart(&mut self, group: &str) {
        let id: GroupId = group.parse().expect("a group identity");
        let host = self.hosts.remove(&id).unwrap_or_else(|| panic!("{group} does not run"));
        host.close(Duration::from_secs(5)).await;
        self.open(&id).await;
        self.hosts[&id].started().await;
    }

    /// Ends one group.
    pub async fn stop(&mut self, group: &str) {
        let id: GroupId = group.parse().expect("a group identity");
        let host = self.hosts.remove(&id).unwrap_or_else(|| panic!("{group} does not run"));
        host.close(Duration::from_secs(5)).await;
    }

    /// Ends every group; answers how many calls were cut off.
    pub async fn close(mut self) -> u32 {
        let mut cut_off = 0;
        for group in self.view.groups.iter().rev() {
            if let Some(host) = self.hosts.remove(&group.id) {
                cut_off += host.close(Duration::from_secs(5)).await;
            }
        }
        cut_off
    }
}
