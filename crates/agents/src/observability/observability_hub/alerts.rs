//! Alerts: when a person should know, and that somebody has seen it.

use std::collections::BTreeMap;
use std::sync::Arc;

use metrics::gauge;
use serde_json::json;
use tandem_contract::Call;
use tandem_contract::pb::tandem::telemetry::v1 as pb;
use tandem_store::alerts::{AlertStore as _, NewAlert};
use tandem_store::errors::Severity;
use tandem_store::paging::{MAX_SIZE, Page};
use tandem_types::{Fault, State, UserId};

use super::logic::floods::Flood;
use super::logic::picture::Turn;
use super::logic::webhook::Told;
use super::{ALERT_RAISED, Hub, lock, ms, wire};
use crate::fields::Fields;

/// An agent reports a flood of errors.
const ERROR_FLOOD: &str = "error_flood";
/// A group has more series than are kept.
pub(super) const SERIES_LIMIT: &str = "series_limit";
/// Samples give way for want of room.
pub(super) const DISK_FULL: &str = "disk_full";
/// Kinds whose end is known only to the hub that saw their beginning.
const OF_ONE_LIFE: [&str; 3] = [ERROR_FLOOD, SERIES_LIMIT, DISK_FULL];

impl Hub {
    /// Closes what a former life of this hub left standing and this one would never close; what still holds is raised
    /// again.
    pub(super) async fn clear_former(&self) -> Result<(), Fault> {
        for kind in OF_ONE_LIFE {
            for alert in self.store.alerts.clear_all(kind, self.now()).await? {
                self.tell_outside(&alert, Told::Cleared).await;
            }
        }
        Ok(())
    }

    /// Raises an alert or adds to the standing one; only a fresh one is published.
    pub(super) async fn raise(
        &self,
        kind: &str,
        subject: &str,
        severity: Severity,
        message: String,
        evidence: serde_json::Value,
        count: u64,
    ) {
        lock(&self.holding).worse(kind, subject);
        let occasion = NewAlert {
            kind: kind.to_owned(),
            subject: subject.to_owned(),
            severity,
            message,
            evidence: evidence.to_string(),
            count,
        };
        let raised = match self.store.alerts.raise(occasion, self.now()).await {
            Ok((alert, true)) => {
                self.tell_outside(&alert, Told::Raised).await;
                tracing::warn!(kind, subject, severity = %severity, "{}", alert.what.message);
                let payload = json!({ "alert_id": alert.id, "kind": kind, "subject": subject, "severity": severity });
                self.ctx.publisher().publish(ALERT_RAISED, subject, payload).await
            }
            Ok((alert, false)) => {
                // It may have become worse, and so the business of one more address.
                self.tell_outside(&alert, Told::Raised).await;
                Ok(())
            }
            Err(fault) => Err(fault),
        };
        if let Err(fault) = raised {
            tracing::error!(kind, subject, %fault, "an alert could not be kept or published");
        }
    }

    /// The cause of an alert is gone. The alert ends when it stays away.
    pub(super) fn better(&self, kind: &str, subject: &str) {
        lock(&self.holding).better(kind, subject, self.now());
    }

    /// Ends the alerts whose cause has been gone for long enough.
    async fn clear(&self) {
        let over = lock(&self.holding).over(ms(self.settings.clear_after_ms), self.now());
        for (kind, subject) in over {
            match self.store.alerts.clear(&kind, &subject, self.now()).await {
                Ok(Some(alert)) => self.tell_outside(&alert, Told::Cleared).await,
                Ok(None) => {}
                Err(fault) => tracing::error!(kind, subject, %fault, "an alert could not be cleared"),
            }
        }
    }

    /// A group or agent of the own node that failed, or that serves again.
    pub(super) async fn alert_of_turn(&self, turn: &Turn) {
        let group = turn.subject.matches('/').count() == 1;
        let kind = if group { "group_failed" } else { "agent_failed" };
        match turn.to.state {
            // One alert for the group says enough.
            State::Failed if turn.with_group => {}
            State::Failed => {
                let severity = match (group, turn.required) {
                    (true, _) => Severity::Critical,
                    (false, true) => Severity::Error,
                    (false, false) => Severity::Warning,
                };
                let message = format!("{} failed: {}", turn.subject, turn.to.cause);
                let evidence = json!({ "from": turn.from, "since_us": turn.to.since });
                self.raise(kind, &turn.subject, severity, message, evidence, 1).await;
            }
            State::Ready | State::Degraded | State::Unavailable | State::Stopped => {
                self.better(kind, &turn.subject);
            }
            State::Starting | State::Draining | State::Unknown => {}
        }
    }

    pub(super) async fn alert_of_flood(&self, flood: &Flood) {
        let message = format!("{} reports a flood of errors: {}", flood.agent, flood.rule);
        let subject = flood_subject(&flood.agent.to_string(), flood.rule);
        let evidence = json!({ "agent": flood.agent, "rule": flood.rule });
        self.raise(ERROR_FLOOD, &subject, Severity::Critical, message, evidence, flood.count).await;
    }

    /// Ends alerts whose cause is gone, and counts what is open.
    pub(super) async fn calm(self: Arc<Self>) -> Result<(), Fault> {
        let over = lock(&self.floods).calm(self.now());
        for (agent, rule) in over {
            self.better(ERROR_FLOOD, &flood_subject(&agent.to_string(), rule));
        }
        self.clear().await;
        let page = Page { size: MAX_SIZE, token: String::new() };
        // Those of other nodes are counted there.
        let open = self.store.alerts.alerts(true, page).await?.items.into_iter().filter(|alert| alert.node.is_none());
        let mut by_severity: BTreeMap<Severity, u32> =
            [Severity::Info, Severity::Warning, Severity::Error, Severity::Critical].map(|s| (s, 0)).into();
        open.for_each(|alert| *by_severity.entry(alert.what.severity).or_default() += 1);
        for (severity, count) in by_severity {
            gauge!("tandem_alerts", "severity" => severity.as_str()).set(count);
        }
        Ok(())
    }

    pub(super) async fn list_alerts(
        self: Arc<Self>,
        _: Call,
        request: pb::ListAlertsRequest,
    ) -> Result<pb::ListAlertsResponse, Fault> {
        let page = Page { size: request.page_size, token: request.page_token };
        let found = self.store.alerts.alerts(request.only_open, page).await?;
        Ok(pb::ListAlertsResponse {
            alerts: found.items.into_iter().map(|alert| wire::alert(alert, &self.me)).collect(),
            next_page_token: found.next,
            ..Default::default()
        })
    }

    pub(super) async fn ack_alert(
        self: Arc<Self>,
        call: Call,
        request: pb::AckAlertRequest,
    ) -> Result<pb::AckAlertResponse, Fault> {
        let mut fields = Fields::default();
        fields.require(!request.alert_id.is_empty(), "alert_id", "is missing");
        let user = fields.parse::<UserId>("user_id", &request.user_id);
        let (user, id) = (fields.all(user)?, request.alert_id.clone());
        if let Some(node) = self.store.alerts.alert(&request.alert_id).await?.node {
            // Its own hub has to know; from there it comes back.
            self.ack_at(&node, request, &call).await?;
        }
        self.store.alerts.ack(&id, &user, self.now()).await?;
        Ok(pb::AckAlertResponse::default())
    }
}

/// One open alert per agent and rule.
fn flood_subject(agent: &str, rule: &str) -> String {
    format!("{agent}: {rule}")
}
