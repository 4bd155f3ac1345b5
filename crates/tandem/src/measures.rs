//! What each metric says, in the words that stand above it on the page.
//!
//! The code that counts knows a name; a person who reads the page needs a sentence. The table is here because all groups
//! are this one program; a test of `xtask` compares it with the names in the code and with the conventions of Prometheus.

use metrics::Recorder;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusRecorder};

/// Bounds of histogram buckets in seconds: from a call within the process to a long answer.
const SECONDS: [f64; 16] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// The same in tokens: up to the largest window.
const TOKENS: [f64; 8] = [50.0, 100.0, 250.0, 500.0, 1_000.0, 1_500.0, 2_000.0, 4_000.0];

#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}
use Kind::{Counter, Gauge, Histogram};

#[rustfmt::skip]
const MEASURES: &[(Kind, &str, &str)] = &[
    (Gauge, "process_resident_memory_bytes", "Resident memory of the process."),
    (Counter, "tandem_actions_total", "Actions on agents and groups, by kind and outcome."),
    (Counter, "tandem_admission_total", "Promises of memory, processor or disk that were asked for, by outcome."),
    (Counter, "tandem_agent_faults_total", "Failures of agents outside of calls, by code."),
    (Counter, "tandem_agent_restarts_total", "Times an agent was started again."),
    (Gauge, "tandem_agent_state", "1 for the state an agent is in, 0 for the others."),
    (Gauge, "tandem_alerts", "Open alerts by severity."),
    (Counter, "tandem_chat_fallback_total", "Chat answers that another model than the bound one wrote."),
    (Histogram, "tandem_chat_first_token_seconds", "Time from a chat request to its first token."),
    (Counter, "tandem_chat_tokens_total", "Tokens of chat prompts and answers."),
    (Counter, "tandem_chat_unrecorded_uses_total", "Uses of models that could not be told to ModelManagerSuite."),
    (Counter, "tandem_compose_skipped_total", "Steps of composing that were left out, by step."),
    (Gauge, "tandem_data_requests_open", "Requests to export or forget a person that wait for groups."),
    (Gauge, "tandem_doctor_failed_checks", "Checks of the doctor that failed when it ran last."),
    (Counter, "tandem_engine_restarts_total", "Times an engine process was started again."),
    (Counter, "tandem_error_reports_dropped_total", "Errors that could not be kept until the hub takes them."),
    (Counter, "tandem_errors_total", "Errors that hosts reported, by agent and code."),
    (Gauge, "tandem_event_lag", "Seconds from an event to its handling, for the last one of each topic."),
    (Counter, "tandem_events_dropped_total", "Events that could not be published."),
    (Gauge, "tandem_failure_probability", "Probability that an agent fails within 15 minutes; NaN without a forecast."),
    (Histogram, "tandem_first_segment_seconds", "Time from the first piece of an answer to its first segment."),
    (Histogram, "tandem_forecast_lead_seconds", "Time from the warning of a failure to the failure."),
    (Gauge, "tandem_gpu_memory_bytes", "Memory of a graphics card."),
    (Gauge, "tandem_group_up", "1 when the last probe of a group was answered, else 0."),
    (Histogram, "tandem_heartbeat_late_seconds", "How late a group's heartbeats came."),
    (Histogram, "tandem_http_request_seconds", "Time of a request at the door."),
    (Counter, "tandem_http_requests_total", "Requests at the door, by route and status."),
    (Gauge, "tandem_limit_enforced", "1 for a limit of a group (memory, CPU, tasks) that its kernel was seen to keep, else 0."),
    (Histogram, "tandem_model_load_seconds", "Time to load a model."),
    (Gauge, "tandem_model_state", "1 for the state a model is in, 0 for the others."),
    (Gauge, "tandem_model_vram_bytes", "Memory that a loaded model holds."),
    (Gauge, "tandem_node_cpu_ratio", "Share of the processors of a machine that is busy."),
    (Gauge, "tandem_node_memory_bytes", "Memory of a machine."),
    (Gauge, "tandem_peer_phi", "How much the silence of another node is suspected, by path: 8 is one in 10^8."),
    (Gauge, "tandem_peer_rtt_seconds", "Time that another node took to answer last, by path; NaN while it does not."),
    (Gauge, "tandem_peer_state_age_seconds", "Time since the hub of another node was heard of."),
    (Gauge, "tandem_pressure_ratio", "Share of time in which tasks of a machine waited for memory."),
    (Histogram, "tandem_probe_seconds", "Time a group took to answer a probe, or until the probe was given up."),
    (Gauge, "tandem_queue_depth", "Work that waits or runs, by agent or kind."),
    (Histogram, "tandem_queue_wait_seconds", "Time a turn waited in the queue."),
    (Counter, "tandem_recoveries_total", "Remedies that were applied or advised, by tier and outcome."),
    (Counter, "tandem_registry_expired_total", "Leases that ended for want of renewal."),
    (Gauge, "tandem_registry_leases", "Leases that hold."),
    (Gauge, "tandem_registry_revision", "Number of the last change of the registry."),
    (Gauge, "tandem_registry_watchers", "Open watches of the registry."),
    (Gauge, "tandem_reservations_bytes", "Memory that is promised to somebody."),
    (Gauge, "tandem_reserved_bytes", "Memory and disk that ResourceManager has promised, by kind."),
    (Counter, "tandem_role_fallback_total", "Tickets that another model than the bound one serves, by role."),
    (Counter, "tandem_route_total", "Turns by the handler that took them."),
    (Histogram, "tandem_rpc_duration_seconds", "Time an agent took to answer a call."),
    (Counter, "tandem_rpc_requests_total", "Calls that agents served, by RPC and code."),
    (Counter, "tandem_scrape_failures_total", "Pages of metrics that could not be read, by group."),
    (Counter, "tandem_segments_total", "Segments of answers."),
    (Gauge, "tandem_series", "Series that are kept of a group."),
    (Counter, "tandem_series_dropped_total", "Samples left out because their group has too many series."),
    (Gauge, "tandem_sessions_open", "Conversations that are open."),
    (Gauge, "tandem_sessions_unremembered", "Ended conversations that wait for the memory."),
    (Counter, "tandem_spans_dropped_total", "Spans that could not be sent to the collector of traces."),
    (Histogram, "tandem_store_write_seconds", "Time of a write from its turn to the disk."),
    (Counter, "tandem_summaries_total", "Summaries of conversations, by outcome."),
    (Gauge, "tandem_sync_backlog_deltas", "Groups of this node whose last change another hub does not have."),
    (Counter, "tandem_sync_failures_total", "Exchanges with other hubs that failed."),
    (Histogram, "tandem_ticket_wait_seconds", "Time an agent waited for a ticket of a model."),
    (Histogram, "tandem_time_to_first_segment_seconds", "Time from a turn's beginning to its first segment."),
    (Histogram, "tandem_time_to_first_token_seconds", "Time from a prompt to its first token, by model."),
    (Counter, "tandem_tokens_counted_total", "Entries of conversations by how their tokens were counted."),
    (Counter, "tandem_tokens_total", "Tokens that models read and wrote."),
    (Histogram, "tandem_turn_stage_seconds", "Time a turn spent in each stage."),
    (Counter, "tandem_turns_stored_total", "Entries of conversations that were kept, by role."),
    (Counter, "tandem_turns_total", "Turns by outcome."),
    (Counter, "tandem_webhook_deliveries_total", "Alerts that were sent to addresses outside, by outcome."),
    (Histogram, "tandem_window_tokens", "Tokens of the windows that were handed out."),
];

/// What collects a process's metrics, with buckets and words for all of them.
///
/// # Errors
/// When a bucket makes no sense, which a test rules out.
pub(crate) fn recorder() -> Result<PrometheusRecorder, BuildError> {
    let tokens = Matcher::Suffix("_tokens".to_owned());
    let recorder =
        PrometheusBuilder::new().set_buckets(&SECONDS)?.set_buckets_for_metric(tokens, &TOKENS)?.build_recorder();
    for (kind, name, words) in MEASURES {
        let (name, words) = ((*name).into(), (*words).into());
        match kind {
            Counter => recorder.describe_counter(name, None, words),
            Gauge => recorder.describe_gauge(name, None, words),
            Histogram => recorder.describe_histogram(name, None, words),
        }
    }
    Ok(recorder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_explains_what_is_on_it_and_nothing_else() {
        let recorder = recorder().unwrap();
        metrics::with_local_recorder(&recorder, || {
            metrics::counter!("tandem_turns_total", "outcome" => "done").increment(2);
            metrics::histogram!("tandem_window_tokens").record(700.0);
            metrics::histogram!("tandem_turn_stage_seconds", "stage" => "routed").record(0.002);
        });
        let page = recorder.handle().render();
        for line in [
            "# HELP tandem_turns_total Turns by outcome.",
            "# TYPE tandem_turns_total counter",
            "tandem_turns_total{outcome=\"done\"} 2",
            "tandem_window_tokens_bucket{le=\"1000\"} 1",
            "tandem_turn_stage_seconds_bucket{stage=\"routed\",le=\"0.0025\"} 1",
        ] {
            assert!(page.lines().any(|l| l == line), "{line} is not in\n{page}");
        }
        assert_eq!(page.matches("# HELP").count(), 3, "{page}");
    }
}
