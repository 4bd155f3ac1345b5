//! Through the contract: a host and an engine that do as they are told, and a real model file of a few hundred bytes.

mod adapting;
mod asking;
mod evaluating;
mod running;

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
    /// What the engine was asked.
    asked: Arc<Mutex<Vec<pb::GenerateRequest>>>,
    /// While this is held the engine says nothing.
    silent: Arc<tokio::sync::Mutex<()>>,
}

impl World {
    /// Serves one engine on loopback, for whichever model.
    async fn new() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let world = Self { endpoint, ..Self::default() };
        let (speaking, asked) = (world.silent.clone(), world.asked.clone());
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
            .server_stream(engine::GENERATE, move |_call, request: pb::GenerateRequest| {
                let silent = speaking.clone();
                lock(&asked).push(request.clone());
                async move {
                    drop(silent.lock().await);
                    Ok(said(&request))
                }
            });
        let app = axum::Router::new().fallback_service(service.into_http());
        tokio::spawn(async move { axum::serve(listener, app).await });
        world
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
        self.rig_with(folder, words, 0).await
    }

    /// As [`World::rig`], over a share of 8 GiB less so many MiB.
    async fn rig_with(&self, folder: &Path, words: &[(&str, &str)], reserve_mib: u64) -> Running {
        let settings = json!({ "home": "solo/paying", "models": folder.join("catalogue"), "reserve_mib": reserve_mib });
        let rig = Rig::new(&DEF)
            .settings(settings)
            .peer_in("solo/paying".parse().unwrap(), "Host", self.host())
            .peer("SystemDigitalTwin", self.twin());
        let rig = words.iter().fold(rig, |rig, (role, word)| rig.role(role, word)).start().await;
        rig.reconcile("look").await.unwrap();
        rig
    }
}

/// What the engine says: a token to who tries it out, and a name to who asks anything; the adapter before that.
fn said(request: &pb::GenerateRequest) -> Reply<pb::GenerateResponse> {
    let text = if request.max_tokens == 1 { " 4" } else { "Your name is Maria." };
    let text = if request.adapter.is_empty() { text.to_owned() } else { format!("{}: {text}", request.adapter) };
    let usage = common::TokenUsage { prompt_tokens: 20, completion_tokens: 5, ..Default::default() };
    let piece = pb::GenerateResponse { text, ..Default::default() };
    let last = pb::GenerateResponse { usage: usage.into(), generate_ms: 100, ..Default::default() };
    Box::pin(futures::stream::iter([Ok(piece), Ok(last)]))
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
    text(&mut bytes, "blk.0.attn_q.weight");
    bytes.extend([2u32.to_le_bytes().as_slice(), &32u64.to_le_bytes(), &32u64.to_le_bytes()].concat());
    bytes.extend([0u32.to_le_bytes().as_slice(), &0u64.to_le_bytes()].concat());
    bytes.resize(bytes.len().next_multiple_of(32) + 32 * 32 * 4, 0);
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
    register_with(rig, 1, model).await
}

async fn register_with(rig: &Running, key: u8, model: pb::ModelInfo) -> Result<pb::ModelInfo, Fault> {
    let request =
        pb::RegisterModelRequest { idempotency_key: vec![key; 16], model: model.into(), ..Default::default() };
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
