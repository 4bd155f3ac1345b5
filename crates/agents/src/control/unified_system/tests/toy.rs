//! A host that does what the test says.

use std::sync::{Arc, Mutex};

use serde_json::json;
use tandem_contract::pb::tandem::common::v1 as common;
use tandem_contract::pb::tandem::system::v1 as pb;
use tandem_contract::rpc::host;
use tandem_contract::{Reply, Service, local};
use tandem_testkit::Running;
use tandem_types::{Health, State};
use tokio::sync::Notify;

use super::at;

/// A host that does what the test says, and writes down what it was told.
#[derive(Clone)]
pub(super) struct Toy {
    pub(super) group: &'static str,
    pub(super) told: Arc<Mutex<Vec<String>>>,
    pub(super) agents: Vec<&'static str>,
    pub(super) becomes: Arc<Mutex<State>>,
    /// How long the agent that was restarted last was given to finish.
    pub(super) drain_ms: Arc<Mutex<u32>>,
    pub(super) hold: Option<Arc<Notify>>,
    pub(super) echoes: bool,
}

impl Toy {
    pub(super) fn new(group: &'static str, agents: &[&'static str]) -> Self {
        Self {
            group,
            told: Arc::default(),
            agents: agents.to_vec(),
            becomes: Arc::new(Mutex::new(State::Ready)),
            drain_ms: Arc::default(),
            hold: None,
            echoes: true,
        }
    }

    fn health(state: State) -> common::Health {
        common::Health::from(&Health::new(state, "", at(0)))
    }

    async fn obey(self, what: &str, agent: &str) -> common::Health {
        self.told.lock().unwrap().push(format!("{what} {agent}"));
        if let Some(hold) = &self.hold {
            hold.notified().await;
        }
        Self::health(*self.becomes.lock().unwrap())
    }

    pub(super) fn told(&self) -> Vec<String> {
        self.told.lock().unwrap().clone()
    }

    fn get_health(self, padding: Vec<u8>) -> pb::GetHealthResponse {
        let agent = |name: &&str| pb::AgentHealth {
            agent: format!("{}/{name}", self.group),
            health: Self::health(*self.becomes.lock().unwrap()).into(),
            built: true,
            ..Default::default()
        };
        pb::GetHealthResponse {
            group: self.group.to_owned(),
            health: Self::health(State::Ready).into(),
            agents: self.agents.iter().map(agent).collect(),
            plan_hash: "plan".into(),
            contract_hash: tandem_contract::contract_hash().into(),
            padding: if self.echoes { padding } else { vec![] },
            ..Default::default()
        }
    }

    fn service(&self) -> Service {
        let (toy, starts, stops, restarts) = (self.clone(), self.clone(), self.clone(), self.clone());
        let (forgets, exports) = (self.clone(), self.clone());
        Service::new()
            .unary(host::GET_HEALTH, move |_, request: pb::GetHealthRequest| {
                let answer = toy.clone().get_health(request.padding);
                async { Ok(answer) }
            })
            .unary(host::START_AGENT, move |_, request: pb::HostStartAgentRequest| {
                let toy = starts.clone();
                async move {
                    let health = toy.obey("start", &request.agent).await;
                    Ok(pb::HostStartAgentResponse { health: health.into(), ..Default::default() })
                }
            })
            .unary(host::STOP_AGENT, move |_, request: pb::HostStopAgentRequest| {
                let toy = stops.clone();
                async move {
                    let health = toy.obey("stop", &request.agent).await;
                    Ok(pb::HostStopAgentResponse { health: health.into(), ..Default::default() })
                }
            })
            .unary(host::RESTART_AGENT, move |_, request: pb::HostRestartAgentRequest| {
                let toy = restarts.clone();
                async move {
                    *toy.drain_ms.lock().unwrap() = request.drain_ms;
                    let health = toy.obey("restart", &request.agent).await;
                    Ok(pb::HostRestartAgentResponse { health: health.into(), ..Default::default() })
                }
            })
            .unary(host::FORGET, move |_, request: pb::ForgetRequest| {
                forgets.told.lock().unwrap().push(format!("forget {}", request.user_id));
                let store = pb::ForgottenStore { store: "sessions.db".into(), rows: 3, ..Default::default() };
                async { Ok(pb::ForgetResponse { stores: vec![store], ..Default::default() }) }
            })
            .server_stream(host::EXPORT, move |_, request: pb::ExportRequest| {
                let group = exports.group;
                let row = move |n: u32| pb::ExportResponse {
                    store: "sessions.db".into(),
                    row_json: json!({ "n": n, "user": request.user_id, "of": group }).to_string(),
                    ..Default::default()
                };
                async move { Ok(Box::pin(futures::stream::iter((0..2).map(move |n| Ok(row(n))))) as Reply<_>) }
            })
    }

    /// The group is there from now on.
    pub(super) fn comes(&self, rig: &Running) {
        rig.peers().add_local(self.group.parse().unwrap(), local(self.service().into_http()));
    }
}
