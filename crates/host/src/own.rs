//! What the host itself serves: `system.v1.Host`, `grpc.health.v1.Health` and reflection.

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use connectrpc_health::{Checker, HealthService, Status, StatusStream};
use connectrpc_reflection::Reflector;
use futures::StreamExt as _;
use http::{Request, Response};
use tandem_contract::pb::tandem::common::v1 as common;
use tandem_contract::pb::tandem::system::v1 as pb;
use tandem_contract::{Body, Call, DESCRIPTOR_SET, LocalService, Service, contract_hash, local, rpc};
use tandem_types::{AgentName, Code, Fault, Health, State, UserId, reason};
use tokio_stream::wrappers::ReceiverStream;
use tower::ServiceExt as _;

use crate::Shared;
use crate::events::to_wire;
use crate::roster::{Order, Slot};

/// How long an order to an agent may take when the caller sets no time.
const ORDER_LIMIT: Duration = Duration::from_secs(20);

/// The host's own services.
pub(crate) struct Own {
    service: OnceLock<LocalService>,
    paths: OnceLock<HashSet<&'static str>>,
    reflection: OnceLock<Option<LocalService>>,
}

impl Own {
    pub(crate) fn new() -> Self {
        Self { service: OnceLock::new(), paths: OnceLock::new(), reflection: OnceLock::new() }
    }

    /// Puts the services together once the group exists.
    pub(crate) fn open(&self, shared: &Arc<Shared>) {
        let service = host(shared);
        let paths = service.paths().iter().copied().collect();
        let host = local(service.into_http_at(shared.host_id.clone(), shared.observer.clone()));
        let health = connectrpc::Router::new()
            .add_service(Arc::new(HealthService::new(GrpcHealth { shared: Arc::downgrade(shared) })));
        let health = local(connectrpc::ConnectRpcService::new(health));
        let both = LocalService::new(tower::service_fn(move |request: Request<Body>| {
            let is_health = request.uri().path().starts_with("/grpc.health.");
            if is_health { health.clone() } else { host.clone() }.oneshot(request)
        }));
        // `open` is called once, by the one who made `shared`.
        let (Ok(()) | Err(_)) = self.service.set(both);
        let (Ok(()) | Err(_)) = self.paths.set(paths);
    }

    pub(crate) fn serves(&self, path: &str) -> bool {
        path.starts_with("/grpc.health.v1.")
            || path.starts_with("/grpc.reflection.v1")
            || self.paths.get().is_some_and(|paths| paths.contains(path))
    }

    pub(crate) async fn call(&self, request: Request<Body>) -> Response<Body> {
        let target = if request.uri().path().starts_with("/grpc.reflection.") {
            // Reading every descriptor costs memory that most groups never need.
            self.reflection.get_or_init(reflection).clone()
        } else {
            self.service.get().cloned()
        };
        match target {
            Some(service) => match service.oneshot(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            },
            None => {
                let fault = Fault::unavailable(reason::PEER_AWAY, "the group is not open yet");
                tandem_contract::refuse(&fault, request.headers())
            }
        }
    }
}

fn reflection() -> Option<LocalService> {
    let reflector = Reflector::from_descriptor_set_bytes(DESCRIPTOR_SET).ok()?;
    let router = connectrpc_reflection::install(connectrpc::Router::new(), reflector);
    Some(local(connectrpc::ConnectRpcService::new(router)))
}

struct GrpcHealth {
    shared: std::sync::Weak<Shared>,
}

impl GrpcHealth {
    fn status(&self, service: &str) -> Result<Status, connectrpc::ConnectError> {
        let shared = self.shared.upgrade().ok_or_else(|| connectrpc::ConnectError::unavailable("the group ends"))?;
        if service.is_empty() {
            return Ok(serving(shared.roster.health().state.serves()));
        }
        let prefix = format!("/{service}/");
        let mut slots =
            shared.roster.slots.iter().filter(|s| s.facts.rpcs.iter().any(|rpc| rpc.starts_with(&prefix))).peekable();
        if slots.peek().is_none() {
            return Err(connectrpc::ConnectError::not_found(format!("{service} is not served here")));
        }
        Ok(serving(slots.any(|slot| slot.health().is_some_and(|h| h.state.serves()))))
    }
}

fn serving(yes: bool) -> Status {
    if yes { Status::Serving } else { Status::NotServing }
}

impl Checker for GrpcHealth {
    async fn check(&self, service: &str) -> Result<Status, connectrpc::ConnectError> {
        self.status(service)
    }

    async fn watch(&self, service: &str) -> Result<StatusStream, connectrpc::ConnectError> {
        let shared = self.shared.upgrade().ok_or_else(|| connectrpc::ConnectError::unavailable("the group ends"))?;
        let (weak, service) = (self.shared.clone(), service.to_owned());
        let first = GrpcHealth { shared: weak.clone() }.status(&service).unwrap_or(Status::Unknown);
        let changes = tokio_stream::wrappers::WatchStream::from_changes(shared.roster.changes());
        let mut last = first;
        let later = changes.filter_map(move |_| {
            let now = GrpcHealth { shared: weak.clone() }.status(&service).unwrap_or(Status::Unknown);
            let news = (now != last).then_some(now);
            last = now;
            futures::future::ready(news)
        });
        Ok(StatusStream::new(futures::stream::iter([first]).chain(later)))
    }
}

pub(crate) fn agent_health(slot: &Slot) -> pb::AgentHealth {
    let health = slot.health();
    pb::AgentHealth {
        agent: slot.id.to_string(),
        health: common::Health::from(&health.clone().unwrap_or_else(|| {
            Health::new(State::Unavailable, "not built: this program has no code for it", slot.health.get().since)
        }))
        .into(),
        required: slot.facts.required,
        restarts: slot.restarts.load(std::sync::atomic::Ordering::Relaxed),
        built: health.is_some(),
        ..Default::default()
    }
}

fn find<'a>(shared: &'a Shared, name: &str) -> Result<&'a Arc<Slot>, Fault> {
    let parsed: AgentName = name.parse().map_err(|e| Fault::invalid_field("agent", format!("{e}")))?;
    let slot = shared.roster.slot(&parsed).ok_or_else(|| {
        let known = shared.roster.slots.iter().map(|s| s.facts.name.as_str()).collect::<Vec<_>>().join(", ");
        Fault::not_found(format!("group {} has no agent {name}; it has {known}", shared.roster.group))
    })?;
    if slot.def.is_none() {
        return Err(Fault::new(Code::FailedPrecondition, reason::NOT_BUILT, format!("{name} is not built")));
    }
    Ok(slot)
}

async fn order(slot: &Slot, order: Order) -> Result<(), Fault> {
    slot.orders
        .try_send(order)
        .map_err(|_| Fault::new(Code::Conflict, reason::QUEUE_FULL, format!("{} is busy with other orders", slot.id)))
}

/// Waits until the agent is as wanted, or the time is up; its health then.
async fn settle(slot: &Slot, call: &Call, wanted: impl Fn(&Health) -> bool) -> common::Health {
    let mut watch = slot.health.watch();
    let limit = call
        .deadline
        .map_or(ORDER_LIMIT, |d| d.saturating_duration_since(std::time::Instant::now()))
        .saturating_sub(tandem_contract::HOP_COST * 10);
    // Time being up is an answer too: the health as it is.
    let (Ok(_) | Err(_)) = tokio::time::timeout(limit, watch.wait_for(|h| wanted(h))).await;
    common::Health::from(&slot.health.get())
}

fn host(shared: &Arc<Shared>) -> Service {
    macro_rules! with {
        (|$shared:ident, $call:tt, $request:tt $(: $kind:ty)?| $body:expr) => {{
            let shared = Arc::downgrade(shared);
            move |$call: Call, $request $(: $kind)?| {
                let shared = shared.clone();
                async move {
                    let $shared = shared
                        .upgrade()
                        .ok_or_else(|| Fault::unavailable(reason::DRAINING, "the group has ended"))?;
                    $body
                }
            }
        }};
    }
    Service::new()
        .unary(
            rpc::host::GET_HEALTH,
            with!(|shared, _, request: pb::GetHealthRequest| Ok(pb::GetHealthResponse {
                padding: request.padding,
                ..get_health(&shared)
            })),
        )
        .unary(rpc::host::LIST_AGENTS, with!(|shared, _, _| Ok(list_agents(&shared))))
        .unary(
            rpc::host::START_AGENT,
            with!(|shared, call, request: pb::HostStartAgentRequest| {
                let slot = find(&shared, &request.agent)?;
                order(slot, Order::Start).await?;
                let health = settle(slot, &call, |h| !matches!(h.state, State::Starting | State::Stopped)).await;
                Ok(pb::HostStartAgentResponse { health: health.into(), ..Default::default() })
            }),
        )
        .unary(
            rpc::host::STOP_AGENT,
            with!(|shared, call, request: pb::HostStopAgentRequest| {
                let slot = find(&shared, &request.agent)?;
                if slot.facts.required && !request.force {
                    return Err(Fault::new(
                        Code::FailedPrecondition,
                        reason::NOT_ALLOWED,
                        format!("group {} fails without {}; say force to stop it", shared.roster.group, request.agent),
                    ));
                }
                finish(slot, request.drain_ms).await;
                order(slot, Order::Stop).await?;
                let health = settle(slot, &call, |h| h.state == State::Stopped).await;
                Ok(pb::HostStopAgentResponse { health: health.into(), ..Default::default() })
            }),
        )
        .unary(
            rpc::host::RESTART_AGENT,
            with!(|shared, call, request: pb::HostRestartAgentRequest| {
                let slot = find(&shared, &request.agent)?;
                finish(slot, request.drain_ms).await;
                let before = slot.restarts.load(std::sync::atomic::Ordering::Relaxed);
                order(slot, Order::Restart).await?;
                let again = |h: &Health| {
                    slot.restarts.load(std::sync::atomic::Ordering::Relaxed) > before && h.state != State::Starting
                };
                let health = settle(slot, &call, again).await;
                Ok(pb::HostRestartAgentResponse { health: health.into(), ..Default::default() })
            }),
        )
        .unary(
            rpc::host::DRAIN,
            with!(|shared, _, request: pb::DrainRequest| {
                let within = Duration::from_millis(request.within_ms.into());
                let cut_off = crate::drain(&shared, within).await;
                Ok(pb::DrainResponse { cut_off, ..Default::default() })
            }),
        )
        .unary(
            rpc::host::SET_LOG_LEVEL,
            with!(|shared, _, request: pb::SetLogLevelRequest| {
                let previous = (shared.set_log_filter)(&request.filter)
                    .map_err(|problem| Fault::invalid_field("filter", problem))?;
                Ok(pb::SetLogLevelResponse { previous, ..Default::default() })
            }),
        )
        .unary(
            rpc::host::START_ENGINE,
            with!(|shared, call, request: pb::StartEngineRequest| {
                let engine = shared.engines.start(request, &call).await?;
                Ok(pb::StartEngineResponse { engine: engine.into(), ..Default::default() })
            }),
        )
        .unary(
            rpc::host::STOP_ENGINE,
            with!(|shared, _, request: pb::StopEngineRequest| {
                shared.engines.stop(&request.engine_id, Duration::from_millis(request.drain_ms.into())).await?;
                Ok(pb::StopEngineResponse::default())
            }),
        )
        .unary(
            rpc::host::LIST_ENGINES,
            with!(|shared, _, _| Ok(pb::ListEnginesResponse { engines: shared.engines.list(), ..Default::default() })),
        )
        .server_stream(
            rpc::host::SUBSCRIBE,
            with!(|shared, _, request: pb::SubscribeRequest| {
                let unknown: Vec<&String> =
                    request.topics.iter().filter(|t| !shared.topics.contains(t.as_str())).collect();
                if !unknown.is_empty() || request.topics.is_empty() {
                    let known = shared.topics.iter().copied().collect::<Vec<_>>().join(", ");
                    return Err(Fault::invalid_field(
                        "topics",
                        format!("{unknown:?} are not published by group {}; it has: {known}", shared.roster.group),
                    ));
                }
                let events = shared.events.subscribe(&request.topics, request.after_cursor, request.only_new);
                let until = shared.cancel.clone();
                let wire = events.map(|item| item.map(to_wire)).take_until(async move { until.cancelled().await });
                Ok(Box::pin(wire) as tandem_contract::Reply<_>)
            }),
        )
        .server_stream(
            rpc::host::EXPORT,
            with!(|shared, _, request: pb::ExportRequest| {
                let user: UserId =
                    request.user_id.parse().map_err(|e| Fault::invalid_field("user_id", format!("{e}")))?;
                Ok(export(personal_stores(&shared)?, user))
            }),
        )
        .unary(
            rpc::host::FORGET,
            with!(|shared, _, request: pb::ForgetRequest| {
                let user: UserId =
                    request.user_id.parse().map_err(|e| Fault::invalid_field("user_id", format!("{e}")))?;
                let mut stores = Vec::new();
                for store in personal_stores(&shared)? {
                    let forgotten = store.forget(&user).await?;
                    stores.push(pb::ForgottenStore {
                        rows: forgotten.rows(),
                        store: forgotten.store,
                        ..Default::default()
                    });
                }
                Ok(pb::ForgetResponse { stores, ..Default::default() })
            }),
        )
}

/// Gives the agent's calls some time to end before an order takes it down.
async fn finish(slot: &Slot, drain_ms: u32) {
    let end = tokio::time::Instant::now() + Duration::from_millis(drain_ms.into());
    slot.health.set(State::Draining, "about to be stopped");
    while slot.calls.count() > 0 && tokio::time::Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Every store of the group that knows people. An agent that does not run keeps its store closed, so an answer without
/// it would be a lie.
fn personal_stores(shared: &Shared) -> Result<Vec<Arc<dyn tandem_agent::PersonalData>>, Fault> {
    let mut stores = Vec::new();
    for slot in shared.roster.slots.iter().filter(|slot| slot.def.is_some()) {
        let Some(live) = slot.live() else {
            let words =
                format!("{} does not run, so what it keeps cannot be reached; start it, then ask again", slot.id);
            return Err(Fault::unavailable(reason::PEER_AWAY, words).at(&slot.id));
        };
        stores.extend(live.stores);
    }
    stores.extend(shared.journal_data.clone());
    Ok(stores)
}

fn export(
    stores: Vec<Arc<dyn tandem_agent::PersonalData>>,
    user: UserId,
) -> tandem_contract::Reply<pb::ExportResponse> {
    let (rows, receiver) = tokio::sync::mpsc::channel(32);
    let (failed, failure) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        for store in stores {
            if let Err(fault) = store.export(&user, rows.clone()).await {
                // The receiver may have left, which is why it failed.
                let (Ok(()) | Err(_)) = failed.send(fault);
                return;
            }
        }
    });
    let wire = ReceiverStream::new(receiver).map(|row| {
        let row_json = serde_json::to_string(&row).unwrap_or_default();
        Ok(pb::ExportResponse { store: row.store, row_json, ..Default::default() })
    });
    let last = futures::stream::once(failure).filter_map(|f| futures::future::ready(f.ok().map(Err)));
    Box::pin(wire.chain(last))
}

pub(crate) fn get_health(shared: &Shared) -> pb::GetHealthResponse {
    pb::GetHealthResponse {
        group: shared.roster.group.to_string(),
        health: common::Health::from(&shared.roster.health()).into(),
        agents: shared.roster.slots.iter().map(|slot| agent_health(slot)).collect(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        plan_hash: shared.peers.fleet().plan_hash.clone(),
        contract_hash: contract_hash().to_owned(),
        now_us: shared.roster.clock.now().micros(),
        ..Default::default()
    }
}

fn list_agents(shared: &Shared) -> pb::ListAgentsResponse {
    let names = |names: &[AgentName]| names.iter().map(ToString::to_string).collect();
    let agents = shared.roster.slots.iter().map(|slot| pb::AgentInfo {
        agent: slot.id.to_string(),
        about: slot.def.map(|d| d.about.to_owned()).unwrap_or_default(),
        rpcs: slot.facts.rpcs.iter().map(|rpc| (*rpc).to_owned()).collect(),
        needs: names(&slot.facts.needs),
        uses: names(&slot.facts.uses),
        health: agent_health(slot).health,
        ..Default::default()
    });
    pb::ListAgentsResponse { agents: agents.collect(), ..Default::default() }
}
