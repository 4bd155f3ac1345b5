//! What went wrong in a group, told to the ObservabilityHub of its node in batches.
//!
//! Whoever notes an error never waits: equal errors are counted together, kinds beyond a bound are dropped and counted,
//! and without a hub nothing is kept.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tandem_agent::Provider;
use tandem_contract::pb::tandem::telemetry::v1 as pb;
use tandem_contract::{Call, Ended, row, rpc};
use tandem_types::{AgentId, Code, Fault, Timestamp};
use tracing::warn;

use crate::Shared;
use crate::log_rules::{self, Match};

/// Time between two batches.
const EVERY: Duration = Duration::from_secs(5);
/// Longest time between two tries while the hub is away.
const LONGEST: Duration = Duration::from_secs(60);
/// How long the hub has to take a batch.
const LIMIT: Duration = Duration::from_secs(2);
/// How long it has to take the last one of a group that ends.
const LAST_LIMIT: Duration = Duration::from_millis(300);
/// Kinds of errors that are kept between two batches.
const MOST_KINDS: usize = 256;
/// Log lines that are kept as evidence of one kind.
const MOST_LINES: usize = 5;
/// Longest word for a reason.
const LONGEST_REASON: usize = 64;

/// How bad; the order is that of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Severity {
    /// Something is poorer.
    Warning,
    /// Something failed.
    Error,
    /// Something a person needs failed.
    Critical,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    agent: AgentId,
    code: Code,
    reason: String,
    severity: Severity,
}

#[derive(Debug, Default)]
struct Seen {
    count: u32,
    trace: String,
    /// The latest log lines that show it.
    evidence: Vec<String>,
    at: Timestamp,
}

/// Errors since the last batch, equal ones together.
#[derive(Debug, Default)]
struct Batch {
    kinds: BTreeMap<Kind, Seen>,
}

impl Batch {
    /// Counts an error; false when there was no room for its kind.
    fn note(&mut self, kind: Kind, trace: &str, evidence: &[String], at: Timestamp) -> bool {
        if self.kinds.len() >= MOST_KINDS && !self.kinds.contains_key(&kind) {
            return false;
        }
        let seen = self.kinds.entry(kind).or_default();
        seen.count = seen.count.saturating_add(1);
        seen.at = seen.at.max(at);
        if !trace.is_empty() {
            trace.clone_into(&mut seen.trace);
        }
        seen.evidence.extend(evidence.iter().map(|line| log_rules::cut(line).to_owned()));
        seen.evidence.drain(..seen.evidence.len().saturating_sub(MOST_LINES));
        true
    }

    /// What is to be sent; nothing is left.
    fn take(&mut self) -> Vec<pb::ErrorReport> {
        let report = |(kind, seen): (Kind, Seen)| pb::ErrorReport {
            agent: kind.agent.to_string(),
            code: kind.code.as_str().to_owned(),
            reason: kind.reason,
            severity: match kind.severity {
                Severity::Warning => pb::Severity::SEVERITY_WARNING,
                Severity::Error => pb::Severity::SEVERITY_ERROR,
                Severity::Critical => pb::Severity::SEVERITY_CRITICAL,
            }
            .into(),
            trace_id: seen.trace,
            count: seen.count,
            evidence: seen.evidence,
            at_us: seen.at.micros(),
            ..Default::default()
        };
        std::mem::take(&mut self.kinds).into_iter().map(report).collect()
    }
}

/// How bad an answer with this code is; none when it is the caller's doing.
fn severity(code: Code) -> Option<Severity> {
    match row(code).fault_of {
        "caller" => None,
        "Tandem" => Some(Severity::Error),
        _ => Some(Severity::Warning),
    }
}

/// Collects the errors of a group.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    /// None while there is no hub that would take it.
    batch: Mutex<Option<Batch>>,
}

impl Reports {
    /// Keeps what is noted only if somebody `listens`.
    pub(crate) fn new(listens: bool) -> Self {
        Self { batch: Mutex::new(listens.then(Batch::default)) }
    }

    /// Notes an error of `agent`.
    pub(crate) fn note(&self, agent: &AgentId, fault: &Fault, severity: Severity, at: Timestamp) {
        self.note_with(agent, fault, severity, &[], at);
    }

    /// Notes what a log line means.
    pub(crate) fn note_line(&self, agent: &AgentId, found: Match, at: Timestamp) {
        let fault = Fault::new(found.rule.code, found.rule.reason, "");
        self.note_with(agent, &fault, found.rule.severity, &[found.line], at);
    }

    /// Notes an error of `agent` with log lines that show it.
    pub(crate) fn note_with(
        &self,
        agent: &AgentId,
        fault: &Fault,
        severity: Severity,
        evidence: &[String],
        at: Timestamp,
    ) {
        let word = (1..=LONGEST_REASON).contains(&fault.reason.len());
        let reason = if word { fault.reason.as_str() } else { fault.code.as_str() };
        let kind = Kind { agent: agent.clone(), code: fault.code, reason: reason.to_owned(), severity };
        let mut batch = self.batch.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(batch) = &mut *batch
            && !batch.note(kind, &fault.trace_id, evidence, at)
        {
            metrics::counter!("tandem_error_reports_dropped_total").increment(1);
        }
    }

    /// Notes how a call ended, where an error has its origin: agents that only pass it on do not count it again.
    pub(crate) fn ended(&self, ended: &Ended<'_>, at: Timestamp) {
        let Err(fault) = ended.outcome else { return };
        let Some(severity) = severity(fault.code) else { return };
        let here = fault.agent.as_ref().is_none_or(|agent| agent == ended.agent);
        // A report that fails must not cause the next report.
        if here && ended.path != rpc::telemetry::REPORT_ERRORS.path() {
            self.note(ended.agent, fault, severity, at);
        }
    }

    /// What was noted since the last time.
    pub(crate) fn take(&self) -> Vec<pb::ErrorReport> {
        let mut batch = self.batch.lock().unwrap_or_else(PoisonError::into_inner);
        batch.as_mut().map(Batch::take).unwrap_or_default()
    }
}

/// The hub of the group's own node.
pub(crate) fn hub(peers: &tandem_agent::Peers, me: &AgentId) -> Option<Provider> {
    peers.providers(rpc::telemetry::REPORT_ERRORS.path()).into_iter().find(|hub| hub.agent.node == me.node)
}

async fn send(shared: &Shared, hub: &AgentId, batch: &pb::ReportErrorsRequest, limit: Duration) -> Result<(), Fault> {
    let call = Call::by(&shared.host_id).to(hub.agent.clone()).within(limit, Instant::now());
    let client = shared.peers.group(&hub.group_id())?;
    client.unary(rpc::telemetry::REPORT_ERRORS, batch.clone(), &call).await.map(drop)
}

/// Whether sending the same batch again may help. It keeps its key, so one that arrived after all counts once.
fn may_help(fault: &Fault) -> bool {
    matches!(fault.code, Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted)
}

/// Sends one batch after the other.
#[derive(Default)]
pub(crate) struct Sender {
    /// The batch that has not arrived yet.
    waiting: Option<pb::ReportErrorsRequest>,
    failures: u32,
}

impl Sender {
    /// Tries once to send what there is.
    pub(crate) async fn round(&mut self, shared: &Shared, hub: &AgentId, limit: Duration) {
        if self.waiting.is_none() {
            let now = shared.roster.clock.now();
            for found in shared.log_events.take() {
                shared.reports.note_line(&shared.host_id, found, now);
            }
            let errors = shared.reports.take();
            let idempotency_key = uuid::Uuid::new_v4().as_bytes().to_vec();
            let batch = pb::ReportErrorsRequest { idempotency_key, errors, ..Default::default() };
            self.waiting = (!batch.errors.is_empty()).then_some(batch);
        }
        let Some(batch) = &self.waiting else { return };
        match send(shared, hub, batch, limit).await {
            Err(fault) if may_help(&fault) => {
                self.failures += 1;
                return;
            }
            Err(fault) => {
                warn!(group = %shared.roster.group, %fault, "the hub does not take errors as they are reported");
            }
            Ok(()) => {}
        }
        *self = Self::default();
    }

    fn wait(&self) -> Duration {
        EVERY.saturating_mul(1 << self.failures.min(4)).min(LONGEST)
    }
}

/// Sends batches until the group ends. A hub that is away costs nothing but their freshness.
pub(crate) async fn report(shared: Arc<Shared>) {
    let Some(hub) = hub(&shared.peers, &shared.host_id).map(|hub| hub.agent) else { return };
    let mut sender = Sender::default();
    loop {
        tokio::select! {
            () = tokio::time::sleep(sender.wait()) => sender.round(&shared, &hub, LIMIT).await,
            () = shared.cancel.cancelled() => return sender.round(&shared, &hub, LAST_LIMIT).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tandem_types::reason;

    fn agent(name: &str) -> AgentId {
        format!("solo/toys/{name}").parse().unwrap()
    }

    fn away() -> Fault {
        Fault::unavailable(reason::PEER_AWAY, "words that stay here")
    }

    #[test]
    fn equal_errors_are_counted_together_with_the_latest_trace() {
        let reports = Reports::new(true);
        for (n, trace) in ["t1", "", "t3", ""].into_iter().enumerate() {
            let fault = Fault { trace_id: trace.into(), ..away() };
            reports.note(&agent("Echo"), &fault, Severity::Warning, Timestamp(n as i64 + 1));
        }
        reports.note(&agent("Other"), &away(), Severity::Warning, Timestamp(9));
        let sent = reports.take();
        assert_eq!(sent.len(), 2);
        assert_eq!((sent[0].count, sent[0].trace_id.as_str(), sent[0].at_us), (4, "t3", 4));
        assert_eq!((sent[0].code.as_str(), sent[0].reason.as_str()), ("unavailable", reason::PEER_AWAY));
        assert!(!format!("{sent:?}").contains("words"), "messages are not reported");
        assert!(reports.take().is_empty());
    }

    #[test]
    fn log_lines_are_evidence_and_the_latest_are_kept() {
        let reports = Reports::new(true);
        for n in 0..9 {
            let found = log_rules::matched(&format!("out of memory {n}")).unwrap();
            reports.note_line(&agent("Host"), found, Timestamp(n));
        }
        let sent = reports.take();
        assert_eq!((sent.len(), sent[0].count, sent[0].reason.as_str()), (1, 9, "out_of_memory"));
        assert_eq!(sent[0].evidence.len(), MOST_LINES);
        assert_eq!(sent[0].evidence.last().map(String::as_str), Some("out of memory 8"));
    }

    #[test]
    fn kinds_are_bounded_and_known_ones_are_still_counted() {
        let mut batch = Batch::default();
        let kind = |n: usize| Kind {
            agent: agent("Echo"),
            code: Code::Internal,
            reason: format!("r{n}"),
            severity: Severity::Error,
        };
        assert!((0..MOST_KINDS).all(|n| batch.note(kind(n), "", &[], Timestamp(1))));
        assert!(!batch.note(kind(MOST_KINDS), "", &[], Timestamp(1)));
        assert!(batch.note(kind(0), "", &[], Timestamp(2)));
        let sent = batch.take();
        assert_eq!((sent.len(), sent[0].count), (MOST_KINDS, 2));
    }

    #[test]
    fn only_the_origin_counts_and_callers_are_not_to_blame() {
        let (echo, other) = (agent("Echo"), agent("Other"));
        for (fault, counted) in [
            (away(), 1),
            (away().at(&echo), 1),
            (away().at(&other), 0),
            (Fault::internal("x"), 1),
            (Fault::not_found("x"), 0),
            (Fault::invalid_field("x", "y"), 0),
        ] {
            for (path, counted) in [("/a.B/C", counted), (rpc::telemetry::REPORT_ERRORS.path(), 0)] {
                let reports = Reports::new(true);
                let ended = Ended {
                    agent: &echo,
                    path,
                    outcome: Err(&fault),
                    began: std::time::SystemTime::UNIX_EPOCH,
                    took: Duration::ZERO,
                    span: None,
                    parent: None,
                };
                reports.ended(&ended, Timestamp(1));
                assert_eq!(reports.take().len(), counted, "{path} {fault:?}");
            }
        }
    }

    #[test]
    fn without_a_hub_nothing_is_kept() {
        let reports = Reports::new(false);
        reports.note(&agent("Echo"), &away(), Severity::Error, Timestamp(1));
        assert!(reports.take().is_empty());
    }
}
