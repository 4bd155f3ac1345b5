//! `/livez`, `/readyz`, `/health`, `/health/<agent>`, `/metrics`: three questions, one source of truth.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, RawQuery, State as Shares};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};
use tandem_contract::contract_hash;
use tandem_types::{Health, State};

use crate::Shared;
use crate::engines::Proven;
use crate::roster::Slot;

pub(crate) fn routes(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(readyz))
        .route("/health", get(health))
        .route("/health/{agent}", get(agent_health))
        .route("/metrics", get(metrics))
        .with_state(shared)
}

fn health_json(health: &Health, now: tandem_types::Timestamp) -> Value {
    json!({
        "state": health.state,
        "cause": health.cause,
        "since_us": health.since.micros(),
        "age_ms": u64::try_from(now.since(health.since).as_millis()).unwrap_or(u64::MAX),
    })
}

fn agent_json(shared: &Shared, slot: &Slot) -> Value {
    let now = shared.roster.clock.now();
    let built = slot.health();
    let mut value = match &built {
        Some(health) => health_json(health, now),
        None => json!({"state": "unavailable", "cause": "not built: this program has no code for it"}),
    };
    if let Some(object) = value.as_object_mut() {
        object.insert("agent".into(), slot.id.to_string().into());
        object.insert("required".into(), slot.facts.required.into());
        object.insert("built".into(), built.is_some().into());
        object.insert("restarts".into(), slot.restarts.load(std::sync::atomic::Ordering::Relaxed).into());
        if let Some((key, value)) = slot.live().and_then(|live| live.shows.detail) {
            object.insert(key.into(), value());
        }
    }
    value
}

async fn readyz(Shares(shared): Shares<Arc<Shared>>) -> Response {
    let health = shared.roster.health();
    let status = if health.state.serves() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let cause = if health.cause.is_empty() { String::new() } else { format!(": {}", health.cause) };
    (status, format!("{}{cause}\n", health.state)).into_response()
}

async fn health(Shares(shared): Shares<Arc<Shared>>) -> Response {
    let health = shared.roster.health();
    // An optional agent that failed, or a missing model, leaves the group at 200: there is work it can do.
    let status = if health.state == State::Failed { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let mut value = health_json(&health, shared.roster.clock.now());
    let engines = shared.engines.proven(&shared.peers).await;
    if let Some(object) = value.as_object_mut() {
        let agents: Vec<Value> = shared.roster.slots.iter().map(|slot| agent_json(&shared, slot)).collect();
        object.insert("group".into(), shared.roster.group.to_string().into());
        object.insert("version".into(), env!("CARGO_PKG_VERSION").into());
        object.insert("plan_hash".into(), shared.peers.fleet().plan_hash.clone().into());
        object.insert("contract_hash".into(), contract_hash().into());
        object.insert("instance".into(), shared.instance.clone().into());
        object.insert("pid".into(), std::process::id().into());
        object.insert("calls".into(), shared.roster.calls().into());
        object.insert("engines".into(), engines.iter().map(engine_json).collect());
        object.insert("roles".into(), roles_json(&engines));
        object.insert("agents".into(), agents.into());
    }
    (status, axum::Json(value)).into_response()
}

fn engine_json(engine: &Proven) -> Value {
    let health = engine.info.health.as_option().map(Health::from);
    json!({
        "engine_id": engine.info.engine_id,
        "model": engine.info.model,
        "roles": engine.roles,
        "capable": engine.capable,
        "pid": engine.info.pid,
        "endpoint": engine.info.endpoint,
        "state": health.as_ref().map_or("unknown", |h| h.state.as_str()),
        "cause": health.map(|h| h.cause).unwrap_or_default(),
        "lease_bytes": engine.info.lease_bytes,
        "measured_bytes": engine.info.measured_bytes,
        "restarts": engine.info.restarts,
    })
}

/// Whether an engine of this group can do what each role is for: one that is proven is enough.
fn roles_json(engines: &[Proven]) -> Value {
    let mut roles = BTreeMap::<&str, (&str, bool)>::new();
    for engine in engines {
        for role in &engine.roles {
            let known = roles.entry(role).or_insert((&engine.info.model, engine.capable));
            if engine.capable && !known.1 {
                *known = (&engine.info.model, true);
            }
        }
    }
    let role = |(model, capable): &(&str, bool)| json!({"model": model, "capable": capable});
    roles.iter().map(|(name, of)| ((*name).to_owned(), role(of))).collect::<serde_json::Map<_, _>>().into()
}

async fn agent_health(Shares(shared): Shares<Arc<Shared>>, Path(agent): Path<String>) -> Response {
    match shared.roster.slots.iter().find(|slot| slot.facts.name.as_str() == agent) {
        Some(slot) => {
            let failed = slot.health().is_some_and(|h| h.state == State::Failed);
            let status = if failed { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
            (status, axum::Json(agent_json(&shared, slot))).into_response()
        }
        None => {
            let known = shared.roster.slots.iter().map(|s| s.facts.name.as_str()).collect::<Vec<_>>().join(", ");
            let words = format!("group {} has no agent {agent}; it has {known}\n", shared.roster.group);
            (StatusCode::NOT_FOUND, words).into_response()
        }
    }
}

/// What the process has counted, and what agents of the group make of it; `?own` leaves their part out.
async fn metrics(Shares(shared): Shares<Arc<Shared>>, RawQuery(query): RawQuery) -> Response {
    for slot in &shared.roster.slots {
        let now = slot.health().map(|h| h.state);
        for state in State::ALL {
            let value = if now == Some(state) { 1.0 } else { 0.0 };
            metrics::gauge!("tandem_agent_state", "agent" => slot.id.to_string(), "state" => state.as_str()).set(value);
        }
        #[allow(clippy::cast_precision_loss, reason = "at most a few hundred calls")]
        let calls = slot.calls.count() as f64;
        metrics::gauge!("tandem_queue_depth", "agent" => slot.id.to_string()).set(calls);
    }
    if let Some(usage) = tandem_process::usage(std::process::id()) {
        #[allow(clippy::cast_precision_loss, reason = "bytes of one process stay below 2^52")]
        let bytes = usage.resident_bytes as f64;
        metrics::gauge!("process_resident_memory_bytes").set(bytes);
    }
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    let mut page = shared.metrics.render();
    if query.as_deref() != Some("own") {
        let live = shared.roster.slots.iter().filter_map(|slot| slot.live());
        page = live.filter_map(|live| live.shows.metrics).fold(page, |page, make| make(&page));
    }
    (kind, page).into_response()
}
