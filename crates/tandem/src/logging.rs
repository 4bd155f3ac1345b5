//! What processes write down about themselves: JSON lines to a stream, with a filter that can be changed while they run.

use std::sync::Arc;

use metrics_exporter_prometheus::PrometheusHandle;
use tandem_host::{LogEvents, SetLogFilter};
use tandem_types::{Fault, reason};
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::measures;

/// What is logged unless `TANDEM_LOG` says otherwise.
const DEFAULT_FILTER: &str = "info";

/// The log of this process.
#[derive(Clone)]
pub(crate) struct Log {
    /// Changes what is logged.
    pub(crate) set_filter: SetLogFilter,
    /// What was logged that means an error.
    pub(crate) events: LogEvents,
}

/// Writes log lines to `writer` from now on.
///
/// # Errors
/// When `TANDEM_LOG` is no filter.
pub(crate) fn start<W>(writer: W) -> Result<Log, Fault>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let text = std::env::var("TANDEM_LOG").unwrap_or_else(|_| DEFAULT_FILTER.into());
    let filter = EnvFilter::try_new(&text)
        .map_err(|e| Fault::invalid_field("TANDEM_LOG", format!("`{text}` is no filter: {e}")))?;
    let (filter, handle) = reload::Layer::new(filter);
    let lines = tracing_subscriber::fmt::layer().json().flatten_event(true).with_target(true).with_writer(writer);
    let events = LogEvents::default();
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .with(events.clone())
        .try_init()
        .map_err(|e| Fault::internal(format!("logging was started twice: {e}")))?;
    let set_filter: SetLogFilter = Arc::new(move |text| {
        let new = EnvFilter::try_new(text).map_err(|e| format!("`{text}` is no filter: {e}"))?;
        let mut former = String::new();
        handle
            .modify(|filter| {
                former = filter.to_string();
                *filter = new;
            })
            .map_err(|e| format!("the filter cannot be changed: {e}"))?;
        Ok(former)
    });
    Ok(Log { set_filter, events })
}

/// Collects the process's metrics from now on.
pub(crate) fn collect_metrics() -> Result<PrometheusHandle, Fault> {
    let recorder = measures::recorder().map_err(|e| Fault::internal(format!("cannot collect metrics: {e}")))?;
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder)
        .map_err(|_| Fault::unavailable(reason::BUG, "metrics are collected already in this process"))?;
    Ok(handle)
}
