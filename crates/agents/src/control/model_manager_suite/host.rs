//! The host of the group that pays, and the engines it runs.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use tandem_agent::Ctx;
use tandem_contract::pb::tandem::model::v1::{GenerateRequest, GetInfoRequest, Sampling};
use tandem_contract::pb::tandem::system::v1::{
    EngineProcess, ListEnginesRequest, StartEngineRequest, StopEngineRequest,
};
use tandem_contract::rpc::{engine, host};
use tandem_contract::{Call, Client};
use tandem_types::{Fault, GroupId, Health, Role, State, Timestamp};

use super::logic::{Info, Order, Profile, Seen};

/// Kind of engine that runs GGUF files.
const KIND: &str = "llama";
/// An engine that is asked how it is doing answers within this, or counts as silent.
const ASKED: Duration = Duration::from_millis(800);
/// A try-out writes one token; a model that needs longer for it is of no use to anybody.
const TRIED: Duration = Duration::from_secs(10);

/// Starts, stops and asks engines.
pub(super) struct EngineHost {
    ctx: Ctx,
    group: GroupId,
    threads: u32,
    /// Folder of adapters.
    adapters: PathBuf,
}

impl EngineHost {
    pub(super) fn new(ctx: &Ctx, group: GroupId, threads: u32, adapters: PathBuf) -> Self {
        Self { ctx: ctx.clone(), group, threads, adapters }
    }

    fn client(&self) -> Result<Client, Fault> {
        self.ctx.peers().group(&self.group)
    }

    fn call(&self, limit: Duration) -> Call {
        self.ctx.call().within(limit, Instant::now())
    }

    /// Starts an engine and waits until it is ready.
    pub(super) async fn start(&self, order: &Order, limit: Duration) -> Result<Seen, Fault> {
        let request = StartEngineRequest {
            idempotency_key: uuid::Uuid::new_v4().into_bytes().to_vec(),
            kind: KIND.to_owned(),
            model: order.model.clone(),
            path: order.path.clone(),
            roles: order.roles.iter().map(Role::to_string).collect(),
            lease_bytes: order.bytes,
            context_tokens: order.profile.context_tokens,
            slots: order.profile.slots,
            threads: self.threads,
            adapters: self.adapters.to_string_lossy().into_owned(),
            ..Default::default()
        };
        let answer = self.client()?.unary(host::START_ENGINE, request, &self.call(limit)).await?;
        let process = answer.engine.into_option().unwrap_or_default();
        if process.endpoint.is_empty() {
            return Err(Fault::internal(format!("the host of {} started no engine for {}", self.group, order.model)));
        }
        let mut seen = seen(&process);
        seen.info = self.ask(&seen).await;
        Ok(seen)
    }

    /// Stops an engine. That it is gone shows in the next list.
    pub(super) async fn stop(&self, engine: &str, drain: Duration) -> Result<(), Fault> {
        let drain_ms = u32::try_from(drain.as_millis()).unwrap_or(u32::MAX);
        let request = StopEngineRequest { engine_id: engine.to_owned(), drain_ms, ..Default::default() };
        let call = self.call(drain + Duration::from_secs(20));
        self.client()?.unary(host::STOP_ENGINE, request, &call).await.map(drop)
    }

    /// The engines of the group, each asked how it is doing.
    pub(super) async fn list(&self) -> Result<Vec<Seen>, Fault> {
        let call = self.call(Duration::from_secs(2));
        let answer = self.client()?.unary(host::LIST_ENGINES, ListEnginesRequest::default(), &call).await?;
        let mut engines: Vec<Seen> = answer.engines.iter().map(seen).collect();
        let asked = engines
            .iter()
            .map(|engine| async move { if engine.down.is_some() { None } else { self.ask(engine).await } });
        let infos = futures::future::join_all(asked).await;
        for (engine, info) in engines.iter_mut().zip(infos) {
            engine.info = info;
        }
        Ok(engines)
    }

    async fn ask(&self, engine: &Seen) -> Option<Info> {
        let client = self.ctx.peers().at(&engine.endpoint).ok()?;
        let answer = client.unary(engine::GET_INFO, GetInfoRequest::default(), &self.call(ASKED)).await.ok()?;
        Some(Info {
            profile: Profile { context_tokens: answer.context_tokens, slots: answer.slots },
            busy: answer.busy_slots + answer.waiting,
            resident: answer.resident_bytes,
            answered: Timestamp(answer.last_answer_us),
        })
    }

    /// Has an engine write one token, to prove that it can.
    pub(super) async fn try_out(&self, endpoint: &str) -> Result<(), Fault> {
        let request = GenerateRequest {
            prompt: "1 2 3".to_owned(),
            max_tokens: 1,
            // Behind everybody else.
            priority: 10,
            sampling: Sampling { temperature: Some(0.0), ..Default::default() }.into(),
            ..Default::default()
        };
        let mut answer =
            self.ctx.peers().at(endpoint)?.server_stream(engine::GENERATE, request, &self.call(TRIED)).await?;
        while let Some(piece) = answer.next().await {
            piece?;
        }
        Ok(())
    }
}

fn seen(process: &EngineProcess) -> Seen {
    let health = process.health.as_option().map(Health::from);
    let state = health.as_ref().map_or(State::Unknown, |health| health.state);
    let cause = health.map(|health| health.cause).filter(|cause| !cause.is_empty());
    Seen {
        id: process.engine_id.clone(),
        model: process.model.clone(),
        endpoint: process.endpoint.clone(),
        down: (!state.serves()).then(|| {
            let why = cause.map(|cause| format!(": {cause}")).unwrap_or_default();
            format!("the engine of {} is {state}{why}", process.model)
        }),
        failed: matches!(state, State::Failed | State::Stopped),
        lease_bytes: process.lease_bytes,
        measured: process.measured_bytes,
        restarts: process.restarts,
        load: Duration::try_from_secs_f32(process.load_seconds).unwrap_or_default(),
        info: None,
    }
}
