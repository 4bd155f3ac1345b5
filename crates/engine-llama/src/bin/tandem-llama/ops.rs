//! `/livez`, `/readyz`, `/health` and `/metrics`, next to the RPCs on one port.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::Router;
use axum::body::Body as AxumBody;
use axum::extract::State as Shares;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::Request;
use http_body_util::BodyExt as _;
use serde_json::json;
use tandem_contract::LocalService;
use tandem_engine_llama::{EngineStats, LlamaGenerator, resident_bytes};
use tower::ServiceExt as _;

use crate::life::now;
use crate::service::Serving;

/// What the endpoints tell about.
pub(crate) struct Ops {
    pub(crate) serving: Arc<Serving>,
    pub(crate) engine: LlamaGenerator,
    pub(crate) lease_bytes: u64,
}

/// The whole port.
pub(crate) fn routes(ops: Arc<Ops>, rpcs: LocalService) -> Router {
    let rpcs = tower::service_fn(move |request: Request<AxumBody>| {
        let rpcs = rpcs.clone();
        async move {
            let request = request.map(|body| {
                body.map_err(|e| connectrpc::ConnectError::unavailable(format!("the request broke: {e}")))
                    .boxed_unsync()
            });
            rpcs.oneshot(request).await.map(|response| response.map(AxumBody::new))
        }
    });
    Router::new()
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(readyz))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .with_state(ops)
        .fallback_service(rpcs)
}

async fn readyz(Shares(ops): Shares<Arc<Ops>>) -> Response {
    let health = ops.serving.life.health();
    let status = if health.state.serves() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, format!("{}\n", health.state)).into_response()
}

async fn health(Shares(ops): Shares<Arc<Ops>>) -> Response {
    let Serving { model, roles, life } = &*ops.serving;
    let (health, info, load, now) = (life.health(), model.info(), model.load(), now());
    let body = json!({
        "state": health.state,
        "cause": health.cause,
        "since_us": health.since.micros(),
        "age_ms": u64::try_from(now.since(health.since).as_millis()).unwrap_or(u64::MAX),
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "engine": info.engine,
        "model": info.model,
        "roles": roles,
        "capable": life.capable(now),
        "last_answer_us": life.last_answer().micros(),
        "context_tokens": info.context_tokens,
        "slots": info.slots,
        "busy_slots": load.busy,
        "waiting": load.waiting,
        "lease_bytes": ops.lease_bytes,
        "resident_bytes": resident_bytes(),
    });
    axum::Json(body).into_response()
}

async fn metrics(Shares(ops): Shares<Arc<Ops>>) -> Response {
    let text = exposition(&ops.engine.stats(), ops.lease_bytes, resident_bytes());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

/// The Prometheus text format, version 0.0.4.
fn exposition(stats: &EngineStats, lease: u64, resident: u64) -> String {
    let mut text = String::new();
    let mut family = |name: &str, kind: &str, help: &str, samples: &[(&str, f64)]| {
        // Writing into a String does not fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(text, "{name}{labels} {value}");
        }
    };
    #[allow(clippy::cast_precision_loss, reason = "counts and bytes of one process stay below 2^53")]
    let n = |count: u64| count as f64;
    let requests = [
        (r#"{outcome="answered"}"#, n(stats.answers)),
        (r#"{outcome="cancelled"}"#, n(stats.cancelled)),
        (r#"{outcome="refused"}"#, n(stats.refused)),
    ];
    let tokens = [
        (r#"{kind="prompt"}"#, n(stats.prompt_tokens)),
        (r#"{kind="reused"}"#, n(stats.reused_tokens)),
        (r#"{kind="written"}"#, n(stats.written_tokens)),
    ];
    family("tandem_engine_requests_total", "counter", "Requests by how they ended.", &requests);
    family("tandem_engine_tokens_total", "counter", "Tokens by kind; reused ones are prompt tokens too.", &tokens);
    family("tandem_engine_steps_total", "counter", "Steps computed.", &[("", n(stats.steps))]);
    let computing = [("", stats.computing.as_secs_f64())];
    family("tandem_engine_computing_seconds_total", "counter", "Time spent computing.", &computing);
    family("tandem_engine_busy_slots", "gauge", "Slots at work.", &[("", f64::from(stats.load.busy))]);
    family("tandem_engine_waiting", "gauge", "Requests waiting for a slot.", &[("", f64::from(stats.load.waiting))]);
    family("tandem_engine_lease_bytes", "gauge", "Bytes the engine may use.", &[("", n(lease))]);
    family("process_resident_memory_bytes", "gauge", "Bytes of this process in RAM.", &[("", n(resident))]);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_read_as_prometheus_expects() {
        let stats = EngineStats { answers: 3, prompt_tokens: 120, reused_tokens: 20, ..EngineStats::default() };
        let text = exposition(&stats, 900, 800);
        for line in [
            "# TYPE tandem_engine_requests_total counter",
            r#"tandem_engine_requests_total{outcome="answered"} 3"#,
            r#"tandem_engine_tokens_total{kind="prompt"} 120"#,
            "tandem_engine_busy_slots 0",
            "process_resident_memory_bytes 800",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
    }
}
