//! Checking a fleet file.

use std::sync::Arc;

use tandem_contract::Call;
use tandem_contract::pb::tandem::system::v1 as pb;
use tandem_fleet::render::{self, Chosen};
use tandem_fleet::{Document, Finding, Plan, Refused};
use tandem_types::Fault;

use super::{SystemHand, wire};

/// Columns of the text.
const WIDTH: usize = 100;

impl SystemHand {
    /// Every finding about a fleet file, and its plan when there is no error.
    pub(super) async fn plan(self: Arc<Self>, _: Call, request: pb::PlanRequest) -> Result<pb::PlanResponse, Fault> {
        let fleet = self.ctx.fleet();
        let (text, name) = match request.fleet_toml.is_empty() {
            true => (fleet.text.as_str(), fleet.file_name.as_str()),
            false => (request.fleet_toml.as_str(), request.file_name.as_str()),
        };
        let name = if name.is_empty() { "fleet.toml" } else { name };
        let planned = self.made_plan(name, text).await?;
        let (mut findings, plan) = match planned {
            Ok(plan) => (plan.findings.clone(), Some(plan)),
            Err(refused) => (refused.findings, None),
        };
        findings.sort_by_key(|finding: &Finding| finding.severity);
        Ok(pb::PlanResponse {
            findings: findings.iter().map(wire::finding).collect(),
            plan_hash: plan.as_ref().map(|plan| plan.plan_hash.clone()).unwrap_or_default(),
            text: plan.map(|plan| render::text(&plan, WIDTH, None, &Chosen::new())).unwrap_or_default(),
            ..Default::default()
        })
    }

    /// The plan of a fleet file, or why there is none.
    pub(super) async fn made_plan(&self, name: &str, text: &str) -> Result<Result<Plan, Refused>, Fault> {
        Ok(tandem_fleet::plan(&Document::read(name, text), &self.facts().await?))
    }
}
