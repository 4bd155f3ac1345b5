//! Errors that hosts report.

use std::sync::Arc;

use metrics::counter;
use tandem_contract::Call;
use tandem_contract::pb::tandem::telemetry::v1 as pb;
use tandem_store::errors::{ErrorFilter, ErrorReport, ErrorStore as _};
use tandem_store::paging::Page;
use tandem_types::{AgentId, Fault, Timestamp};

use super::{Hub, lock, wire};
use crate::fields::Fields;

impl Hub {
    pub(super) async fn report_errors(
        self: Arc<Self>,
        _: Call,
        request: pb::ReportErrorsRequest,
    ) -> Result<pb::ReportErrorsResponse, Fault> {
        let now = self.now();
        let mut fields = Fields::default();
        let key = fields.key(&request.idempotency_key);
        let known = |agent: &AgentId| self.ctx.fleet().group(&agent.group_id()).is_some();
        let batch = wire::errors(request.errors, known, &mut fields);
        let key = fields.all(key)?;
        // A batch that is repeated, also over a restart of this hub, is counted once.
        let fresh = self.store.errors.report(key, batch.clone(), now).await?;
        let thinned = if fresh { self.count(&batch, now).await } else { 0 };
        Ok(pb::ReportErrorsResponse { thinned, ..Default::default() })
    }

    async fn count(&self, batch: &[ErrorReport], now: Timestamp) -> u32 {
        for error in batch {
            let (agent, code) = (error.agent.to_string(), error.code.as_str());
            counter!("tandem_errors_total", "agent" => agent, "code" => code).increment(error.count);
        }
        let outcome = lock(&self.floods).note(batch, now);
        for flood in &outcome.floods {
            self.alert_of_flood(flood).await;
        }
        outcome.thinned
    }

    pub(super) async fn query_errors(
        self: Arc<Self>,
        _: Call,
        request: pb::QueryErrorsRequest,
    ) -> Result<pb::QueryErrorsResponse, Fault> {
        let mut fields = Fields::default();
        let agent = fields.optional("agent", &request.agent);
        let code = fields.optional("code", &request.code);
        let (agent, code) = fields.all(agent.zip(code))?;
        let filter = ErrorFilter { agent, code, from: Timestamp(request.from_us) };
        let page = Page { size: request.page_size, token: request.page_token };
        let found = self.store.errors.errors(filter, page).await?;
        Ok(pb::QueryErrorsResponse {
            errors: found.items.into_iter().map(|entry| wire::error(entry.total)).collect(),
            next_page_token: found.next,
            ..Default::default()
        })
    }
}
