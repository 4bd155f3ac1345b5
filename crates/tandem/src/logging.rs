//! What processes write down about themselves: JSON lines to a stream, with a filter that can be changed while they run.

use std::sync::Arc;

use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};
use tandem_host::SetLogFilter;
use tandem_types::{Fault, reason};
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt as _;

/// What is logged unless `TANDEM_LOG` says otherwise.
const DEFAULT_FILTER: &str = "info";

/// Bounds of histogram buckets in seconds: from a call within the process to a long answer.
const BUCKETS: [f64; 16] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Writes log lines to `writer` from now on.
///
/// # Errors
/// When `TANDEM_LOG` is no filter.
pub(crate) fn start<W>(writer: W) -> Result<SetLogFilter, Fault>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let text = std::env::var("TANDEM_LOG").unwrap_or_else(|_| DEFAULT_FILTER.into());
    let filter = EnvFilter::try_new(&text)
        .map_err(|e| Fault::invalid_field("TANDEM_LOG", format!("`{text}` is no filter: {e}")))?;
    let (filter, handle) = reload::Layer::new(filter);
    let lines = tracing_subscriber::fmt::layer().json().flatten_event(true).with_target(true).with_writer(writer);
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init()
        .map_err(|e| Fault::internal(format!("logging was started twice: {e}")))?;
    Ok(Arc::new(move |text| {
        let new = EnvFilter::try_new(text).map_err(|e| format!("`{text}` is no filter: {e}"))?;
        let mut former = String::new();
        handle
            .modify(|filter| {
                former = filter.to_string();
                *filter = new;
            })
            .map_err(|e| format!("the filter cannot be changed: {e}"))?;
        Ok(former)
    }))
}

/// Collects the process's metrics from now on.
pub(crate) fn collect_metrics() -> Result<PrometheusHandle, Fault> {
    let failed = |e: BuildError| Fault::internal(format!("cannot collect metrics: {e}"));
    let recorder = PrometheusBuilder::new().set_buckets(&BUCKETS).map_err(failed)?.build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder)
        .map_err(|_| Fault::unavailable(reason::BUG, "metrics are collected already in this process"))?;
    Ok(handle)
}
