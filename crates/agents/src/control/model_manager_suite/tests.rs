//! Through the contract: a host and an engine that do as they are told, and a real model file of a few hundred bytes.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;
use sha2::{Digest as _, Sha256};
use tandem_contract::pb::tandem::common::v1 as common;
use tandem_contract::pb::tandem::model::v1 as pb;
use tandem_contract::pb::tandem::system::v1 as host_pb;
use tandem_contract::pb::tandem::twin::v1 as twin_pb;
use tandem_contract::rpc::{engine, host, models, twin};
use tandem_contract::{Call, Reply, Service, state_of};
use tandem_testkit::{Rig, Running};
use tandem_types::{Code, Fault, Health, State, Timestamp, reason};
use tempfile::TempDir;

use super::DEF;

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The host of the group that pays, its engines, and the twin that was asked.
#[derive(Clone, Default)]
struct World {
    endpoint: String,
    engines: Arc<Mutex<Vec<host_pb::EngineProcess>>>,
    started: Arc<Mutex<Vec<host_pb::StartEngineRequest>>>,
    broken: Arc<Mutex<Option<Fault>>>,
    deny: Arc<Mutex<bool>>,
    leases: Arc<Mutex<Vec<twin_pb::ModelLease>>>,
}

impl World {
    /// Serves one engine on loopback, for whichever model.
    async fn new() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let service = Service::new()
            .unary(engine::GET_INFO, |_call, _request: pb::GetInfoRequest| async {
                let info = pb::GetInfoResponse {
                    context_tokens: 512,
                    slots: 2,
                    resident_bytes: 60 << 20,
                    ..Default::default()
                };
                Ok(info)
            })
            .server_stream(engine::GENERATE, |_call, request: pb::GenerateRequest| async move {
                assert_eq!(request.max_tokens, 1);
                let piece = pb::GenerateResponse { text: " 4".into(), ..Default::default() };
                let answer: Reply<pb::GenerateResponse> = Box::pin(futures::stream::iter([Ok(piece)]));
                Ok(answer)
            });
        let app = axum::Router::new().fallback_service(service.into_http());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { endpoint, ..Self::default() }
    }

    fn start(&self, request: host_pb::StartEngineRequest) -> Result<host_pb::StartEngineResponse, Fault> {
        if let Some(fault) = lock(&self.broken).clone() {
            return Err(fault);
        }
        let mut started = lock(&self.started);
        let process = host_pb::EngineProcess {
            engine_id: format!("{}-{}", request.model, started.len()),
            model: request.model.clone(),
            endpoint: self.endpoint.clone(),
            pid: 1,
            health: common::Health::from(&Health::new(State::Ready, "", Timestamp::default())).into(),
            lease_bytes: request.lease_bytes,
            load_seconds: 0.5,
            ..Default::default()
        };
        started.push(request);
        lock(&self.engines).push(process.clone());
        Ok(host_pb::StartEngineResponse { engine: process.into(), ..Default::default() })
    }

    fn host(&self) -> Service {
        let (starting, stopping, listing) = (self.clone(), self.clone(), self.clone());
        Service::new()
            .unary(host::START_ENGINE, move |_call, request| {
                let world = starting.clone();
                async move { world.start(request) }
            })
            .unary(host::STOP_ENGINE, move |_call, request: host_pb::StopEngineRequest| {
                let world = stopping.clone();
                async move {
                    lock(&world.engines).retain(|engine| engine.engine_id != request.engine_id);
                    Ok(host_pb::StopEngineResponse::default())
                }
            })
            .unary(host::LIST_ENGINES, move |_call, _request: host_pb::ListEnginesRequest| {
                let world = listing.clone();
                async move {
                    let engines = lock(&world.engines).clone();
                    Ok(host_pb::ListEnginesResponse { engines, ..Default::default() })
                }
            })
    }

    fn twin(&self) -> Service {
        let (asked, told) = (self.clone(), self.clone());
        Service::new()
            .unary(twin::SIMULATE_LOAD, move |_call, _request: twin_pb::SimulateLoadRequest| {
                let deny = *lock(&asked.deny);
                async move {
                    let verdict = if deny { twin_pb::Verdict::VERDICT_DENY } else { twin_pb::Verdict::VERDICT_ALLOW };
                    let advice = "ram: the limit is 1 MiB".into();
                    Ok(twin_pb::SimulateLoadResponse { verdict: verdict.into(), advice, ..Default::default() })
                }
            })
            .unary(twin::REPORT_LEASES, move |_call, request: twin_pb::ReportLeasesRequest| {
                let world = told.clone();
                async move {
                    *lock(&world.leases) = request.models;
                    Ok(twin_pb::ReportLeasesResponse::default())
                }
            })
    }

    async fn rig(&self, folder: &Path, words: &[(&str, &str)]) -> Running {
        let settings = json!({ "home": "solo/paying", "models": folder.join("catalogue"), "reserve_mib": 0 });
        let rig = Rig::new(&DEF)
            .settings(settings)
            .peer_in("solo/paying".parse().unwrap(), "Host", self.host())
            .peer("SystemDigitalTwin", self.twin());
        words.iter().fold(rig, |rig, (role, word)| rig.role(role, word)).start().await
    }
}

/// A model file of the smallest kind: one layer, one tensor, 512 tokens of context.
fn model_file(folder: &Path) -> PathBuf {
    let mut bytes = b"GGUF".to_vec();
    let text = |bytes: &mut Vec<u8>, text: &str| {
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(text.as_bytes());
    };
    bytes.extend(3u32.to_le_bytes());
    bytes.extend([1u64.to_le_bytes(), 5u64.to_le_bytes()].concat());
    text(&mut bytes, "general.architecture");
    bytes.extend(8u32.to_le_bytes());
    text(&mut bytes, "llama");
    for (key, value) in [
        ("llama.block_count", 1u32),
        ("llama.attention.head_count", 1),
        ("llama.embedding_length", 32),
        ("llama.context_length", 512),
    ] {
        text(&mut bytes, key);
        bytes.extend(4u32.to_le_bytes());
        bytes.extend(value.to_le_bytes());
    }
    text(&mut bytes, "token_embd.weight");
    bytes.extend([2u32.to_le_bytes().as_slice(), &32u64.to_le_bytes(), &4u64.to_le_bytes()].concat());
    bytes.extend([0u32.to_le_bytes().as_slice(), &0u64.to_le_bytes()].concat());
    bytes.resize(bytes.len().next_multiple_of(32) + 32 * 4 * 4, 0);
    let path = folder.join("test-model.gguf");
    std::fs::write(&path, bytes).unwrap();
    path
}

fn manifest(path: &Path) -> pb::ModelInfo {
    let sha256 = Sha256::digest(std::fs::read(path).unwrap()).iter().map(|byte| format!("{byte:02x}")).collect();
    pb::ModelInfo {
        name: "test-model".into(),
        path: path.to_string_lossy().into_owned(),
        sha256,
        licence: "MIT".into(),
        format: "gguf".into(),
        roles: vec!["llm.tiny".into(), "llm.fast".into()],
        ..Default::default()
    }
}

async fn register(rig: &Running, model: pb::ModelInfo) -> Result<pb::ModelInfo, Fault> {
    let request = pb::RegisterModelRequest { idempotency_key: vec![1; 16], model: model.into(), ..Default::default() };
    rig.client().unary(models::REGISTER_MODEL, request, &rig.call()).await.map(|r| r.model.into_option().unwrap())
}

async fn acquire(rig: &Running, role: &str, max_wait_ms: u32) -> Result<pb::Ticket, Fault> {
    let request = pb::AcquireRequest { role: role.into(), max_wait_ms, ..Default::default() };
    rig.client().unary(models::ACQUIRE, request, &rig.call()).await.map(|r| r.ticket.into_option().unwrap())
}

async fn role(rig: &Running, name: &str) -> (State, String, pb::RoleInfo) {
    let roles = rig.client().unary(models::LIST_ROLES, Default::default(), &rig.call()).await.unwrap().roles;
    let role = roles.into_iter().find(|role| role.role == name).expect("the role is known");
    let health = role.health.as_option().cloned().unwrap();
    (state_of(health.state), health.cause, role)
}

/// Looks at the engines as often as it takes for memory to count as steady.
async fn settle(rig: &Running) {
    for _ in 0..3 {
        rig.clock.advance(Duration::from_secs(1));
        rig.reconcile("look").await.unwrap();
        rig.reconcile("load").await.unwrap();
    }
}

/// A rig whose one model is registered and loaded.
async fn loaded() -> (World, TempDir, Running) {
    let (world, folder) = (World::new().await, tempfile::tempdir().unwrap());
    let rig = world.rig(folder.path(), &[("llm.tiny", "test-model"), ("llm.fast", "auto")]).await;
    register(&rig, manifest(&model_file(folder.path()))).await.unwrap();
    rig.reconcile("load").await.unwrap();
    settle(&rig).await;
    (world, folder, rig)
}

#[tokio::test]
async fn with_no_model_every_role_says_why() {
    let (world, folder) = (World::new().await, tempfile::tempdir().unwrap());
    let rig = world.rig(folder.path(), &[("llm.tiny", "smollm2-135m"), ("llm.fast", "auto")]).await;
    rig.reconcile("files").await.unwrap();
    rig.reconcile("load").await.unwrap();
    assert_eq!(rig.health().state, State::Ready, "the agent itself can do its work");
    for (name, says) in [
        ("llm.tiny", "get it with `tandem models pull smollm2-135m`"),
        ("llm.fast", "tandem models pull"),
        ("llm.smart", "no model for llm.smart"),
    ] {
        let (state, cause, info) = role(&rig, name).await;
        assert_eq!((state, info.model.as_str()), (State::Unavailable, ""));
        assert!(cause.starts_with(&format!("no model for {name}")) && cause.contains(says), "{cause}");
        let fault = acquire(&rig, name, 0).await.unwrap_err();
        assert_eq!((fault.code, fault.reason.as_str()), (Code::Unavailable, reason::NO_MODEL));
        assert_eq!(fault.message, format!("no model for {name}"));
    }
    assert!(lock(&world.started).is_empty());
    let told: Vec<String> = rig.events().into_iter().map(|event| event.key).collect();
    assert!(told.contains(&"llm.tiny".to_owned()), "{told:?}");
}

#[tokio::test]
async fn a_registered_model_is_loaded_lent_used_and_counted() {
    let (world, _folder, rig) = loaded().await;
    let started = lock(&world.started).clone();
    let [order] = &started[..] else { panic!("one engine: {started:?}") };
    assert_eq!((order.model.as_str(), order.kind.as_str(), order.slots), ("test-model", "llama", 2));
    assert_eq!(order.context_tokens, 512, "no more than the model was made for");
    let ticket = acquire(&rig, "llm.fast", 0).await.unwrap();
    assert_eq!((ticket.endpoint.as_str(), ticket.model.as_str()), (world.endpoint.as_str(), "test-model"));
    assert_eq!((ticket.bound_to.as_str(), ticket.context_tokens, ticket.slots), ("llm.fast", 512, 2));
    assert_eq!(ticket.expires_us, (rig.clock.now() + Duration::from_secs(600)).micros());
    let usage = common::TokenUsage { prompt_tokens: 7, completion_tokens: 3, ..Default::default() };
    let used = pb::RecordUseRequest {
        ticket_id: ticket.ticket_id.clone(),
        usage: usage.into(),
        duration_ms: 20,
        outcome: "ok".into(),
        ..Default::default()
    };
    rig.client().unary(models::RECORD_USE, used.clone(), &rig.call()).await.unwrap();
    let strange = pb::RecordUseRequest { outcome: "fine".into(), ..used };
    let fault = rig.client().unary(models::RECORD_USE, strange, &rig.call()).await.unwrap_err();
    assert_eq!(fault.code, Code::InvalidArgument);
    let release = pb::ReleaseRequest { ticket_id: ticket.ticket_id, ..Default::default() };
    rig.client().unary(models::RELEASE, release, &rig.call()).await.unwrap();
    let stats = rig.client().unary(models::GET_STATS, Default::default(), &rig.call()).await.unwrap();
    let [uses] = &stats.uses[..] else { panic!("one model was used") };
    assert_eq!((uses.tickets, uses.prompt_tokens, uses.completion_tokens, uses.failures), (1, 7, 3, 0));
    let [share] = &stats.shares[..] else { panic!("one share") };
    assert_eq!((share.group.as_str(), share.budget_bytes), ("solo/paying", 8 << 30));
    assert_eq!(share.measured_bytes, 60 << 20);
    assert!(share.leased_bytes >= share.measured_bytes && share.leased_bytes <= order.lease_bytes);
    let reported = lock(&world.leases).clone();
    assert_eq!((reported[0].leased_bytes, reported[0].measured_bytes), (share.leased_bytes, Some(60 << 20)));
    assert!(role(&rig, "llm.fast").await.2.capable, "it has answered");
}

#[tokio::test]
async fn many_who_wait_share_one_load() {
    let (world, folder) = (World::new().await, tempfile::tempdir().unwrap());
    let rig = world.rig(folder.path(), &[("llm.tiny", "test-model")]).await;
    register(&rig, manifest(&model_file(folder.path()))).await.unwrap();
    let fault = acquire(&rig, "llm.tiny", 0).await.unwrap_err();
    assert_eq!((fault.code, fault.reason.as_str()), (Code::Unavailable, reason::MODEL_LOADING));
    assert!(fault.retry_after.is_some());
    let waiting = futures::future::join_all((0..50).map(|_| acquire(&rig, "llm.fast", 20_000)));
    let (tickets, loaded) = tokio::join!(waiting, rig.reconcile("load"));
    loaded.unwrap();
    assert!(tickets.iter().all(|ticket| ticket.as_ref().is_ok_and(|t| t.model == "test-model")), "{tickets:?}");
    assert_eq!(lock(&world.started).len(), 1);
}

#[tokio::test]
async fn manifests_are_checked() {
    let (world, folder) = (World::new().await, tempfile::tempdir().unwrap());
    let rig = world.rig(folder.path(), &[]).await;
    let good = manifest(&model_file(folder.path()));
    let bad = pb::ModelInfo { name: "a b".into(), sha256: "12".into(), roles: vec![], ..good.clone() };
    let fields: Vec<String> =
        register(&rig, bad).await.unwrap_err().violations.into_iter().map(|violation| violation.field).collect();
    assert_eq!(fields, ["model.name", "model.sha256", "model.roles"]);
    let wrong_hash = pb::ModelInfo { sha256: "0".repeat(64), ..good.clone() };
    let gone = pb::ModelInfo { path: "/nowhere/x.gguf".into(), ..good.clone() };
    let taken = pb::ModelInfo { name: "smollm2-135m".into(), ..good.clone() };
    for (model, code) in [(wrong_hash, Code::FailedPrecondition), (gone, Code::NotFound), (taken, Code::Conflict)] {
        assert_eq!(register(&rig, model).await.unwrap_err().code, code);
    }
    let known = register(&rig, good.clone()).await.unwrap();
    assert_eq!((known.state.as_str(), known.context_tokens), ("on_disk", 512));
    assert!(known.estimate_bytes > 64 << 20);
    assert_eq!(register(&rig, pb::ModelInfo { licence: "X".into(), ..good }).await.unwrap_err().code, Code::Conflict);
}

#[tokio::test]
async fn a_corrupt_file_is_quarantined_until_it_is_whole_again() {
    let (world, folder, mut rig) = loaded().await;
    let path = folder.path().join("test-model.gguf");
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    lock(&world.engines).clear();
    rig.restart().await;
    rig.reconcile("files").await.unwrap();
    let (state, cause, _) = role(&rig, "llm.tiny").await;
    assert_eq!(state, State::Unavailable);
    assert!(cause.contains("test-model is in quarantine") && cause.contains("sha256"), "{cause}");
    assert_eq!(acquire(&rig, "llm.tiny", 0).await.unwrap_err().code, Code::Internal);
    std::fs::write(&path, whole).unwrap();
    rig.reconcile("files").await.unwrap();
    rig.reconcile("load").await.unwrap();
    assert_eq!(acquire(&rig, "llm.tiny", 0).await.unwrap().model, "test-model");
}

#[tokio::test]
async fn engines_outlive_the_agent() {
    let (world, _folder, mut rig) = loaded().await;
    rig.restart().await;
    rig.reconcile("files").await.unwrap();
    rig.reconcile("look").await.unwrap();
    rig.reconcile("load").await.unwrap();
    assert_eq!(acquire(&rig, "llm.tiny", 0).await.unwrap().endpoint, world.endpoint);
    assert_eq!(lock(&world.started).len(), 1, "nothing was loaded twice");
    let models = rig.client().unary(models::LIST_MODELS, Default::default(), &rig.call()).await.unwrap().models;
    let model = models.iter().find(|model| model.name == "test-model").unwrap();
    assert_eq!(model.measured_bytes, Some(60 << 20), "what was measured is remembered");
}

#[tokio::test]
async fn a_dead_engine_is_noticed_at_the_first_complaint() {
    let (world, _folder, rig) = loaded().await;
    let ticket = acquire(&rig, "llm.tiny", 0).await.unwrap();
    let starting = Health::new(State::Starting, "starting again in 1 s", Timestamp::default());
    lock(&world.engines)[0].health = common::Health::from(&starting).into();
    let lost =
        pb::RecordUseRequest { ticket_id: ticket.ticket_id, outcome: "unavailable".into(), ..Default::default() };
    rig.client().unary(models::RECORD_USE, lost, &rig.call()).await.unwrap();
    let fault = acquire(&rig, "llm.tiny", 0).await.unwrap_err();
    assert_eq!((fault.code, fault.reason.as_str()), (Code::Unavailable, reason::ENGINE_LOST));
    rig.reconcile("look").await.unwrap();
    let (state, cause, _) = role(&rig, "llm.tiny").await;
    assert_eq!(state, State::Unavailable);
    assert!(cause.contains("starting again in 1 s"), "{cause}");
    let ready = Health::new(State::Ready, "", Timestamp::default());
    lock(&world.engines)[0].health = common::Health::from(&ready).into();
    let (ticket, looked) = tokio::join!(acquire(&rig, "llm.tiny", 20_000), rig.reconcile("look"));
    looked.unwrap();
    assert_eq!(ticket.unwrap().model, "test-model", "who waits gets it when it is back");
}

#[tokio::test]
async fn what_cannot_be_started_is_said() {
    let (world, folder) = (World::new().await, tempfile::tempdir().unwrap());
    let rig = world.rig(folder.path(), &[("llm.tiny", "test-model")]).await;
    register(&rig, manifest(&model_file(folder.path()))).await.unwrap();
    *lock(&world.deny) = true;
    rig.reconcile("load").await.unwrap();
    let fault = acquire(&rig, "llm.tiny", 0).await.unwrap_err();
    assert_eq!(fault.code, Code::ResourceExhausted);
    assert!(fault.message.contains("the limit is 1 MiB") && fault.retry_after.is_some(), "{fault}");
    *lock(&world.deny) = false;
    *lock(&world.broken) = Some(Fault::internal("the engine did not load the file"));
    rig.clock.advance(Duration::from_secs(6));
    rig.reconcile("load").await.unwrap();
    let fault = acquire(&rig, "llm.tiny", 0).await.unwrap_err();
    assert_eq!((fault.code, fault.message.as_str()), (Code::Internal, "the engine did not load the file"));
    *lock(&world.broken) = None;
    rig.clock.advance(Duration::from_secs(11));
    rig.reconcile("load").await.unwrap();
    acquire(&rig, "llm.tiny", 0).await.unwrap();
}

#[tokio::test]
async fn roles_are_bound_and_rolled_back_for_good() {
    let (_world, _folder, mut rig) = loaded().await;
    let bind = |key: u8, role: &str, model: &str| {
        let request = pb::BindRoleRequest {
            idempotency_key: vec![key; 16],
            role: role.into(),
            model: model.into(),
            ..Default::default()
        };
        let (client, call) = (rig.client(), rig.call());
        async move { client.unary(models::BIND_ROLE, request, &call).await.map(|r| r.role.into_option().unwrap()) }
    };
    assert_eq!(bind(2, "llm.fast", "unheard").await.unwrap_err().code, Code::NotFound);
    assert_eq!(bind(2, "llm.smart", "test-model").await.unwrap_err().code, Code::FailedPrecondition);
    let bound = bind(3, "llm.fast", "qwen2.5-coder-0.5b").await.unwrap();
    assert_eq!((bound.model.as_str(), bound.bound_to.as_str()), ("test-model", "llm.tiny"), "its file is not here");
    rig.restart().await;
    rig.reconcile("files").await.unwrap();
    let (state, cause, _) = role(&rig, "llm.fast").await;
    assert_ne!(state, State::Ready);
    assert!(cause.contains("tandem models pull qwen2.5-coder-0.5b"), "{cause}");
    let request = pb::RollbackRequest { idempotency_key: vec![4; 16], role: "llm.fast".into(), ..Default::default() };
    let back = rig.client().unary(models::ROLLBACK, request.clone(), &rig.call()).await.unwrap();
    assert_eq!(back.role.as_option().unwrap().bound_to, "", "its own model again, as the fleet file says");
    let again = pb::RollbackRequest { idempotency_key: vec![5; 16], ..request };
    let fault = rig.client().unary(models::ROLLBACK, again, &rig.call()).await.unwrap_err();
    assert_eq!(fault.code, Code::FailedPrecondition);
}

#[tokio::test]
async fn models_are_loaded_and_unloaded_by_name() {
    let (world, folder) = (World::new().await, tempfile::tempdir().unwrap());
    let rig = world.rig(folder.path(), &[]).await;
    let only_fast = pb::ModelInfo { roles: vec!["llm.fast".into()], ..manifest(&model_file(folder.path())) };
    register(&rig, only_fast).await.unwrap();
    let load = |model: &str| {
        let request = pb::LoadRequest { model: model.into(), pinned: true, ..Default::default() };
        let (client, call) = (rig.client(), Call::from_door("test"));
        async move { client.unary(models::LOAD, request, &call).await.map(|r| r.model.into_option().unwrap()) }
    };
    assert_eq!(load("unheard").await.unwrap_err().code, Code::NotFound);
    assert_eq!(load("smollm2-135m").await.unwrap_err().reason, reason::NO_MODEL);
    let (model, done) = tokio::join!(load("test-model"), rig.reconcile("load"));
    done.unwrap();
    assert_eq!(model.unwrap().state, "loaded");
    settle(&rig).await;
    let unload = || {
        let request = pb::UnloadRequest { model: "test-model".into(), drain_ms: 100, ..Default::default() };
        let (client, call) = (rig.client(), Call::from_door("test"));
        async move { client.unary(models::UNLOAD, request, &call).await }
    };
    let unloading = async {
        loop {
            rig.reconcile("load").await.unwrap();
            if lock(&world.engines).is_empty() {
                break;
            }
            tokio::task::yield_now().await;
        }
    };
    let (freed, ()) = tokio::join!(unload(), unloading);
    assert_eq!(freed.unwrap().freed_bytes, Some(60 << 20));
    assert_eq!(unload().await.unwrap().freed_bytes, None, "it is not loaded");
    rig.reconcile("load").await.unwrap();
    assert!(lock(&world.engines).is_empty(), "nobody asked for it again");
}

#[tokio::test]
async fn an_engine_nobody_asked_proves_itself() {
    let (_world, _folder, rig) = loaded().await;
    assert!(!role(&rig, "llm.tiny").await.2.capable);
    rig.reconcile("prove").await.unwrap();
    assert!(role(&rig, "llm.tiny").await.2.capable);
    rig.clock.advance(Duration::from_secs(601));
    assert!(!role(&rig, "llm.tiny").await.2.capable);
}

#[tokio::test]
async fn a_silent_host_is_a_reason_to_be_degraded() {
    let (_world, folder) = (World::new().await, tempfile::tempdir().unwrap());
    let settings = json!({ "models": folder.path() });
    let rig = Rig::new(&DEF).settings(settings).start().await;
    for _ in 0..3 {
        rig.reconcile("look").await.unwrap_err();
    }
    let health = rig.health();
    assert_eq!(health.state, State::Degraded);
    assert!(health.cause.contains("does not tell of its engines"), "{}", health.cause);
}

#[tokio::test]
async fn settings_that_mean_nothing_are_refused() {
    for (settings, says) in
        [(json!({ "slotz": 3 }), "slotz"), (json!({ "home": "solo/nowhere" }), "no group solo/nowhere")]
    {
        let fault = Rig::new(&DEF).settings(settings).try_start().await.err().expect("the agent does not start");
        assert!(fault.message.contains(says), "{fault}");
    }
}
