//! Messages of `telemetry.v1` to and from the words of the hub.

use std::time::Duration;

use tandem_contract::pb::tandem::common::v1 as common;
use tandem_contract::pb::tandem::telemetry::v1 as pb;
use tandem_store::alerts::{Alert, NewAlert};
use tandem_store::errors::{ErrorReport, Severity};
use tandem_store::series::Series;
use tandem_types::{AgentId, Code, Health, NodeName, Timestamp};

use super::logic::picture::{Agent, Group};
use super::serve::GROUP_LABEL;
use crate::fields::Fields;

/// Longest word for a reason that is kept.
const LONGEST_REASON: usize = 64;
/// Most log lines as evidence of one error, and bytes of one.
const MOST_EVIDENCE: usize = 5;
const LONGEST_EVIDENCE: usize = 400;

fn severity(of: Severity) -> pb::Severity {
    match of {
        Severity::Info => pb::Severity::SEVERITY_INFO,
        Severity::Warning => pb::Severity::SEVERITY_WARNING,
        Severity::Error => pb::Severity::SEVERITY_ERROR,
        Severity::Critical => pb::Severity::SEVERITY_CRITICAL,
    }
}

fn read_severity(said: Option<pb::Severity>) -> Option<Severity> {
    match said? {
        pb::Severity::SEVERITY_UNSPECIFIED => None,
        pb::Severity::SEVERITY_INFO => Some(Severity::Info),
        pb::Severity::SEVERITY_WARNING => Some(Severity::Warning),
        pb::Severity::SEVERITY_ERROR => Some(Severity::Error),
        pb::Severity::SEVERITY_CRITICAL => Some(Severity::Critical),
    }
}

/// The errors of a batch, without those that are wrong; `known` says whether an agent's group is in the plan.
pub(super) fn errors(
    batch: Vec<pb::ErrorReport>,
    known: impl Fn(&AgentId) -> bool,
    fields: &mut Fields,
) -> Vec<ErrorReport> {
    let mut read = Vec::with_capacity(batch.len());
    for (i, error) in batch.into_iter().enumerate() {
        let field = |name: &str| format!("errors[{i}].{name}");
        let agent = fields.parse::<AgentId>(&field("agent"), &error.agent);
        if agent.as_ref().is_some_and(|agent| !known(agent)) {
            fields.wrong(field("agent"), format!("`{}` is in no group of the plan", error.agent));
        }
        let code = fields.parse::<Code>(&field("code"), &error.code);
        let word = (1..=LONGEST_REASON).contains(&error.reason.len());
        fields.require(word, &field("reason"), "is no stable word of 1 to 64 letters");
        // Without the time, a repeated batch would not equal the first.
        fields.require(error.at_us > 0, &field("at_us"), "is missing; say when it was last seen");
        fields.require(error.count > 0, &field("count"), "is 0; say how often it happened");
        let short = error.evidence.len() <= MOST_EVIDENCE && error.evidence.iter().all(|l| l.len() <= LONGEST_EVIDENCE);
        fields.require(short, &field("evidence"), "is more than 5 lines, or a line is longer than 400 bytes");
        let severity = read_severity(error.severity.as_known());
        fields.require(severity.is_some(), &field("severity"), "is not said");
        let (Some(agent), Some(code), Some(severity)) = (agent, code, severity) else { continue };
        let (reason, trace, count, evidence) = (error.reason, error.trace_id, error.count.into(), error.evidence);
        read.push(ErrorReport { agent, code, reason, severity, trace, count, at: Timestamp(error.at_us), evidence });
    }
    read
}

/// An error as it is kept.
pub(super) fn error(of: ErrorReport) -> pb::ErrorReport {
    pb::ErrorReport {
        agent: of.agent.to_string(),
        code: of.code.as_str().to_owned(),
        reason: of.reason,
        severity: severity(of.severity).into(),
        trace_id: of.trace,
        count: u32::try_from(of.count).unwrap_or(u32::MAX),
        at_us: of.at.micros(),
        evidence: of.evidence,
        ..Default::default()
    }
}

/// An alert, as the hub of `me` says it.
pub(super) fn alert(of: Alert, me: &NodeName) -> pb::Alert {
    let (acked_by, acked_us) = of.acked.map(|(by, at)| (by.to_string(), at.micros())).unwrap_or_default();
    pb::Alert {
        alert_id: of.id,
        kind: of.what.kind,
        subject: of.what.subject,
        severity: severity(of.what.severity).into(),
        message: of.what.message,
        first_us: of.first.micros(),
        last_us: of.last.micros(),
        count: of.what.count,
        acked_by,
        node: of.node.as_ref().unwrap_or(me).to_string(),
        cleared_us: of.cleared.map_or(0, Timestamp::micros),
        acked_us,
        ..Default::default()
    }
}

/// An alert as the hub of another node says it; none when it cannot be understood, or is not that node's own.
pub(super) fn read_alert(node: &NodeName, said: &pb::Alert) -> Option<Alert> {
    let own = said.node == node.as_str() && !said.alert_id.is_empty();
    let at = |micros: i64| (micros != 0).then_some(Timestamp(micros));
    let acked = at(said.acked_us).map(|at| Some((said.acked_by.parse().ok()?, at)));
    let what = NewAlert {
        kind: said.kind.clone(),
        subject: said.subject.clone(),
        severity: read_severity(said.severity.as_known())?,
        message: said.message.clone(),
        evidence: "{}".to_owned(),
        count: said.count,
    };
    own.then(|| Alert {
        id: said.alert_id.clone(),
        what,
        first: Timestamp(said.first_us),
        last: Timestamp(said.last_us),
        acked: acked.flatten(),
        cleared: at(said.cleared_us),
        node: Some(node.clone()),
    })
}

/// A series with its group among the labels. A label of that name which the group itself gave is kept beside it, under
/// the name that Prometheus uses for this.
pub(super) fn series(of: Series) -> pb::Series {
    let mut labels = of.key.labels;
    if let Some(own) = labels.remove(GROUP_LABEL) {
        labels.insert(format!("exported_{GROUP_LABEL}"), own);
    }
    labels.insert(GROUP_LABEL.to_owned(), of.key.owner);
    let samples =
        of.points.iter().map(|point| pb::Sample { at_us: point.at.micros(), value: point.mean, ..Default::default() });
    pb::Series {
        name: of.key.name,
        labels: labels.into_iter().collect(),
        samples: samples.collect(),
        ..Default::default()
    }
}

/// A group with its age.
pub(super) fn group(of: &Group, now: Timestamp) -> pb::GroupNode {
    let agent = |agent: &Agent| pb::AgentNode {
        agent: agent.name.to_string(),
        health: common::Health::from(&agent.health).into(),
        required: agent.required,
        built: agent.built,
        restarts: agent.restarts,
        ..Default::default()
    };
    pb::GroupNode {
        group: of.id.group.to_string(),
        health: common::Health::from(&of.health).into(),
        agents: of.agents.iter().map(agent).collect(),
        age_ms: millis(now.since(of.seen)),
        endpoint: of.endpoint.clone(),
        version: of.version,
        answer_us: of.answer_us,
        ..Default::default()
    }
}

/// When a group was seen.
pub(super) fn seen(of: &Group, now: Timestamp) -> pb::GroupSeen {
    pb::GroupSeen { age_ms: millis(now.since(of.seen)), answer_us: of.answer_us, ..Default::default() }
}

/// A group as the hub of its node says it; none when it cannot be understood.
pub(super) fn read_group(node: &NodeName, said: &pb::GroupNode, now: Timestamp) -> Option<Group> {
    let agent = |said: &pb::AgentNode| {
        Some(Agent {
            name: said.agent.parse().ok()?,
            health: said.health.as_option().map(Health::from)?,
            required: said.required,
            built: said.built,
            restarts: said.restarts,
        })
    };
    Some(Group {
        id: tandem_types::GroupId::new(node.clone(), said.group.parse().ok()?),
        endpoint: said.endpoint.clone(),
        health: said.health.as_option().map(Health::from)?,
        agents: said.agents.iter().map(agent).collect::<Option<_>>()?,
        seen: now - Duration::from_millis(said.age_ms.into()),
        answer_us: said.answer_us,
        version: said.version,
    })
}

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}
