//! One agent, started as a host would start it, with fakes for the agents it calls.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tandem_agent::{
    AgentDef, Ctx, CtxParts, Event, EventBus, FleetAgent, FleetGroup, FleetNode, FleetView, HealthHandle, Heartbeat,
    Peers, Publisher, Started, Topic,
};
use tandem_contract::{Call, Client, LocalService, Service, local};
use tandem_types::{AgentId, Fault, GroupId, Health, State, UserId};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::FakeClock;

/// Builds a rig.
pub struct Rig {
    def: &'static AgentDef,
    settings: serde_json::Value,
    peers: Vec<(GroupId, String, Service)>,
    fleet: Option<FleetView>,
    roles: BTreeMap<String, String>,
    data: Option<TempDir>,
}

/// The group the agent under test lives in.
const GROUP: &str = "solo/under_test";

impl Rig {
    /// A rig for this agent, in group `solo/under_test`.
    pub fn new(def: &'static AgentDef) -> Self {
        Self {
            def,
            settings: serde_json::Value::Null,
            peers: Vec::new(),
            fleet: None,
            roles: BTreeMap::new(),
            data: None,
        }
    }

    /// The agent's settings.
    #[must_use]
    pub fn settings(mut self, settings: serde_json::Value) -> Self {
        self.settings = settings;
        self
    }

    /// A fake agent in a group of its own, `solo/peer_<n>`.
    #[must_use]
    pub fn peer(self, agent: &str, service: Service) -> Self {
        let group = format!("solo/peer_{}", self.peers.len()).parse().expect("a group name");
        self.peer_in(group, agent, service)
    }

    /// A fake agent, or a fake host (`Host`), in a given group.
    #[must_use]
    pub fn peer_in(mut self, group: GroupId, agent: &str, service: Service) -> Self {
        self.peers.push((group, agent.to_owned(), service));
        self
    }

    /// Binds a model role in the plan.
    #[must_use]
    pub fn role(mut self, role: &str, model: &str) -> Self {
        self.roles.insert(role.to_owned(), model.to_owned());
        self
    }

    /// Another plan than the one made of the agent and its peers. Peers keep their groups.
    #[must_use]
    pub fn fleet(mut self, fleet: FleetView) -> Self {
        self.fleet = Some(fleet);
        self
    }

    /// Starts the agent; fails the test when it does not start.
    pub async fn start(self) -> Running {
        match self.try_start().await {
            Ok(running) => running,
            Err(fault) => panic!("the agent did not start: {fault}"),
        }
    }

    /// Starts the agent.
    pub async fn try_start(self) -> Result<Running, Fault> {
        let group: GroupId = GROUP.parse().expect("a group identity");
        let id = group.agent(self.def.name.parse().expect("an agent name"));
        let mut groups = vec![group_of(&group, self.def.name, agent_rpcs(self.def), &self.settings)];
        let mut services = BTreeMap::<GroupId, Vec<(String, LocalService, Vec<&'static str>)>>::new();
        for (group, agent, service) in self.peers {
            let rpcs = service.paths().to_vec();
            if agent != "Host" {
                match groups.iter_mut().find(|g| g.id == group) {
                    Some(known) => known.agents.push(fleet_agent(&agent, rpcs.clone(), &serde_json::Value::Null)),
                    None => groups.push(group_of(&group, &agent, rpcs.clone(), &serde_json::Value::Null)),
                }
            } else if !groups.iter().any(|g| g.id == group) {
                groups.push(FleetGroup { agents: vec![], ..group_of(&group, "Nobody", vec![], &self.settings) });
            }
            services.entry(group).or_default().push((agent, local(service.into_http()), rpcs));
        }
        let fleet = self.fleet.unwrap_or_else(|| FleetView {
            name: "test".into(),
            plan_hash: "plan".into(),
            nodes: vec![FleetNode { name: group.node.clone(), address: "127.0.0.1".into() }],
            groups,
            ..FleetView::default()
        });
        let fleet = Arc::new(FleetView { roles: self.roles, ..fleet });
        let data = match self.data {
            Some(data) => data,
            None => tempfile::tempdir().map_err(|e| Fault::internal(format!("making a data folder: {e}")))?,
        };
        let peers = Peers::new(fleet, id.clone());
        for (group, services) in services {
            peers.add_local(group, by_path(services));
        }
        let mut running = Running {
            def: self.def,
            id,
            peers,
            settings: self.settings,
            data,
            clock: FakeClock::new(),
            bus: Arc::new(Bus::default()),
            life: None,
        };
        running.begin().await?;
        Ok(running)
    }
}

fn agent_rpcs(def: &AgentDef) -> Vec<&'static str> {
    def.provides.iter().map(|rpc| rpc.path).collect()
}

fn fleet_agent(name: &str, rpcs: Vec<&'static str>, settings: &serde_json::Value) -> FleetAgent {
    FleetAgent {
        name: name.parse().expect("an agent name"),
        required: true,
        built: true,
        needs: vec![],
        uses: vec![],
        rpcs,
        topics: vec![],
        settings: settings.clone(),
    }
}

fn group_of(id: &GroupId, agent: &str, rpcs: Vec<&'static str>, settings: &serde_json::Value) -> FleetGroup {
    FleetGroup {
        id: id.clone(),
        endpoint: "http://127.0.0.1:1".into(),
        scrape_endpoint: "http://127.0.0.1:1".into(),
        needs: vec![],
        ram_bytes: 8 << 30,
        cpus: 2.0,
        callers: Default::default(),
        agents: vec![fleet_agent(agent, rpcs, settings)],
    }
}

/// Sends a request to the service that has its path, as a group's host does.
fn by_path(services: Vec<(String, LocalService, Vec<&'static str>)>) -> LocalService {
    let services = Arc::new(services);
    LocalService::new(tower::service_fn(move |request: http::Request<tandem_contract::Body>| {
        let wanted = request.headers().get(tandem_contract::AGENT_HEADER).and_then(|v| v.to_str().ok());
        let serves = |(name, _, rpcs): &&(String, LocalService, Vec<&'static str>)| {
            rpcs.contains(&request.uri().path()) && wanted.is_none_or(|wanted| wanted == name)
        };
        let service = services.iter().find(serves).or(services.first()).map(|(_, service, _)| service.clone());
        async move { tower::ServiceExt::oneshot(service.expect("a group has a service"), request).await }
    }))
}

#[derive(Default)]
struct Bus {
    events: Mutex<Vec<Event>>,
}

#[async_trait]
impl EventBus for Bus {
    async fn publish(
        &self,
        topic: Topic,
        key: &str,
        _user: Option<&UserId>,
        payload: serde_json::Value,
    ) -> Result<(), Fault> {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        let cursor = events.len() as u64 + 1;
        events.push(Event {
            id: cursor.to_string(),
            topic: topic.name.to_owned(),
            key: key.to_owned(),
            cursor,
            at: tandem_types::Timestamp::default(),
            payload,
            lost: 0,
        });
        Ok(())
    }
}

struct Life {
    started: Started,
    local: LocalService,
    health: HealthHandle,
    cancel: CancellationToken,
    tasks: TaskTracker,
}

/// A started agent.
pub struct Running {
    def: &'static AgentDef,
    id: AgentId,
    peers: Peers,
    settings: serde_json::Value,
    data: TempDir,
    /// The clock the agent reads.
    pub clock: FakeClock,
    bus: Arc<Bus>,
    life: Option<Life>,
}

impl Running {
    async fn begin(&mut self) -> Result<(), Fault> {
        let (health, _) = HealthHandle::new(self.clock.as_clock());
        let (cancel, tasks) = (CancellationToken::new(), TaskTracker::new());
        let ctx = Ctx::new(CtxParts {
            id: self.id.clone(),
            peers: self.peers.clone(),
            health: health.clone(),
            publisher: Publisher::new(self.bus.clone()),
            clock: self.clock.as_clock(),
            data: self.data.path().to_owned(),
            settings: self.settings.clone(),
            cancel: cancel.clone(),
            tasks: tasks.clone(),
            instance: "test".into(),
            heartbeat: Heartbeat::default(),
            spans: None,
            sockets: Default::default(),
            in_flight: Default::default(),
        });
        let mut started = (self.def.start)(ctx).await?;
        let service = std::mem::take(&mut started.service);
        let served = service.paths().to_vec();
        for rpc in agent_rpcs(self.def) {
            assert!(served.contains(&rpc), "{} says it provides {rpc} and does not serve it", self.def.name);
        }
        if health.get().state == State::Starting {
            health.ready();
        }
        let local = local(service.into_http());
        self.peers.add_local(self.id.group_id(), local.clone());
        self.life = Some(Life { started, local, health, cancel, tasks });
        Ok(())
    }

    fn life(&self) -> &Life {
        self.life.as_ref().expect("the agent runs between begin and end")
    }

    /// Who the agent is.
    pub fn id(&self) -> &AgentId {
        &self.id
    }

    /// A caller of the agent.
    pub fn client(&self) -> Client {
        let base = http::Uri::from_static("http://127.0.0.1:1");
        Client::new(tandem_contract::Channel::Local(self.life().local.clone()), base)
    }

    /// A call from a test.
    pub fn call(&self) -> Call {
        Call::from_door("test")
    }

    /// How the agent is doing.
    pub fn health(&self) -> Health {
        self.life().health.get()
    }

    /// Waits until the agent's health is as wanted; fails the test after 10 s.
    pub async fn wait_for(&self, wanted: impl Fn(&Health) -> bool) -> Health {
        let mut watch = self.life().health.watch();
        let waited = tokio::time::timeout(std::time::Duration::from_secs(10), watch.wait_for(|h| wanted(h))).await;
        match waited {
            Ok(Ok(health)) => health.clone(),
            _ => panic!("{} did not reach the wanted health; it is {:?}", self.def.name, self.health()),
        }
    }

    /// Events published so far, over all lives.
    pub fn events(&self) -> Vec<Event> {
        self.bus.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Runs one of the agent's reconcilers now.
    pub async fn reconcile(&self, name: &str) -> Result<(), Fault> {
        let known = self.life().started.reconcilers.iter().find(|r| r.name == name);
        let Some(reconciler) = known else { panic!("{} has no reconciler {name}", self.def.name) };
        (reconciler.run)().await
    }

    /// Hands the agent an event it subscribed to.
    pub async fn deliver(&self, event: Event) -> Result<(), Fault> {
        let known = self.life().started.subscriptions.iter().find(|s| s.topic == event.topic);
        let Some(subscription) = known else { panic!("{} does not hear {}", self.def.name, event.topic) };
        (subscription.handler)(event).await
    }

    /// Stores with people's data.
    pub fn stores(&self) -> &[Arc<dyn tandem_agent::PersonalData>] {
        &self.life().started.stores
    }

    /// What the agent adds to the pages of its group.
    pub fn shows(&self) -> &tandem_agent::Shows {
        &self.life().started.shows
    }

    /// Folder of the agent's stores.
    pub fn data_dir(&self) -> &std::path::Path {
        self.data.path()
    }

    /// The plan and directory as the agent sees them.
    pub fn peers(&self) -> &Peers {
        &self.peers
    }

    async fn end(&mut self) {
        if let Some(life) = self.life.take() {
            life.cancel.cancel();
            life.tasks.close();
            drop((life.started, life.local));
            life.tasks.wait().await;
        }
    }

    /// Has the agent do what it does when its group drains; it goes on being there.
    pub async fn drain(&self) -> Result<(), Fault> {
        match &self.life().started.drain {
            Some(drain) => drain().await,
            None => Ok(()),
        }
    }

    /// Ends the agent without a drain, as a crash would, and starts it again on the same data.
    pub async fn restart(&mut self) {
        self.end().await;
        // The old service must let go of its stores before the new one opens them.
        self.peers.add_local(self.id.group_id(), by_path(vec![]));
        if let Err(fault) = self.begin().await {
            panic!("the agent did not start again: {fault}");
        }
    }
}
