//! Spans to an OpenTelemetry collector, when `OTEL_EXPORTER_OTLP_ENDPOINT` names one.
//!
//! Every served call has a span ([`Ended`]), in a group, at its doors and in an engine; this turns them into OTLP over HTTP. The queue is bounded: when the
//! collector is slow spans are dropped and counted, never a turn delayed.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};
use tandem_contract::{Ended, Observer};
use tandem_types::Fault;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::warn;

const QUEUE: usize = 2048;
const BATCH: usize = 256;
const FLUSH_EVERY: Duration = Duration::from_secs(1);
/// How long the collector has to take a batch.
const SEND_LIMIT: Duration = Duration::from_secs(5);
/// How long it has to take what is left when the process ends.
const LAST_LIMIT: Duration = Duration::from_secs(2);

struct Spans {
    queue: mpsc::Sender<SpanData>,
}

impl Observer for Spans {
    fn finished(&self, ended: &Ended<'_>) {
        let Some(span) = ended.span.filter(|span| span.sampled) else { return };
        if self.queue.try_send(data(ended, span)).is_err() {
            metrics::counter!("tandem_spans_dropped_total").increment(1);
        }
    }
}

fn data(ended: &Ended<'_>, span: tandem_contract::TraceParent) -> SpanData {
    let trace = TraceId::from_bytes(span.trace.0);
    let flags = TraceFlags::SAMPLED;
    SpanData {
        span_context: SpanContext::new(trace, SpanId::from_bytes(span.span), flags, false, TraceState::default()),
        parent_span_id: ended.parent.map_or(SpanId::INVALID, SpanId::from_bytes),
        parent_span_is_remote: true,
        span_kind: SpanKind::Server,
        name: Cow::Owned(ended.path.trim_start_matches('/').to_owned()),
        start_time: ended.began,
        end_time: ended.began + ended.took,
        attributes: vec![
            if ended.path.starts_with("/tandem.") {
                KeyValue::new("rpc.system", "connect_rpc")
            } else {
                KeyValue::new("http.route", ended.path.to_owned())
            },
            KeyValue::new("tandem.agent", ended.agent.to_string()),
            KeyValue::new("tandem.code", ended.outcome.map_or_else(|f| f.code.as_str(), |()| "ok")),
        ],
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: match ended.outcome {
            Ok(()) => Status::Unset,
            // The code and reason, never the message: a message may quote what a person asked for.
            Err(fault) => Status::error(format!("{}: {}", fault.code, fault.reason)),
        },
        instrumentation_scope: InstrumentationScope::builder("tandem").with_version(env!("CARGO_PKG_VERSION")).build(),
    }
}

/// Exports spans for as long as the process lives.
pub struct Exporter {
    spans: Arc<Spans>,
    ending: CancellationToken,
    task: JoinHandle<()>,
}

impl Exporter {
    /// Where calls are to be told.
    pub fn observer(&self) -> Arc<dyn Observer> {
        self.spans.clone()
    }

    /// Sends what is left, as far as the collector takes it in time.
    pub async fn finish(self) {
        self.ending.cancel();
        if tokio::time::timeout(LAST_LIMIT, self.task).await.is_err() {
            warn!("the last spans could not be exported in time");
        }
    }
}

/// Begins to export spans of `service`, a process such as `solo/coordination`; none when no collector is named. To be called
/// inside a tokio runtime, which the exporter uses for as long as the process lives.
///
/// # Errors
/// The endpoint cannot be used; says why.
pub fn spans(service: &str) -> Result<Option<Exporter>, Fault> {
    let Some(endpoint) = std::env::var("OTEL_EXPORTER_OTLP_ENDPOINT").ok().filter(|e| !e.is_empty()) else {
        return Ok(None);
    };
    let traces = format!("{}/v1/traces", endpoint.trim_end_matches('/'));
    let mut exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(HyperClient::with_default_connector(SEND_LIMIT, None))
        .with_endpoint(traces)
        .with_timeout(SEND_LIMIT)
        .build()
        .map_err(|e| Fault::invalid_field("OTEL_EXPORTER_OTLP_ENDPOINT", format!("`{endpoint}`: {e}")))?;
    exporter.set_resource(&Resource::builder().with_service_name(service.to_owned()).build());
    let (queue, spans) = mpsc::channel::<SpanData>(QUEUE);
    let ending = CancellationToken::new();
    let task = tokio::spawn(export(exporter, spans, ending.clone()));
    Ok(Some(Exporter { spans: Arc::new(Spans { queue }), ending, task }))
}

async fn export(exporter: SpanExporter, mut spans: mpsc::Receiver<SpanData>, ending: CancellationToken) {
    let mut told = false;
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        let got = tokio::select! {
            biased;
            got = spans.recv_many(&mut batch, BATCH) => got,
            () = ending.cancelled() => {
                // What is queued is still handed out; after that there is nothing more.
                spans.close();
                continue;
            }
        };
        if got == 0 {
            return;
        }
        let sent = exporter.export(std::mem::replace(&mut batch, Vec::with_capacity(BATCH))).await;
        if let (Err(error), false) = (&sent, told) {
            warn!(%error, "spans cannot be exported; they are dropped until the collector answers");
        }
        told = sent.is_err();
        tokio::select! {
            () = tokio::time::sleep(FLUSH_EVERY) => {}
            () = ending.cancelled() => {}
        }
    }
}
