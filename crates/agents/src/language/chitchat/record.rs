//! Says afterwards what a ticket was used for, without delaying an answer.

use std::time::Instant;

use metrics::counter;
use tandem_agent::Ctx;
use tandem_contract::pb::tandem::common::v1::TokenUsage;
use tandem_contract::pb::tandem::model::v1::RecordUseRequest;
use tandem_contract::rpc::models;
use tokio::sync::mpsc;

/// Uses that may wait to be told; a further one is dropped and counted.
const WAITING: usize = 64;

/// The way to the task that tells.
pub(super) struct Uses(mpsc::Sender<RecordUseRequest>);

impl Uses {
    /// Starts the task that tells; it ends with the agent.
    pub(super) fn start(ctx: &Ctx) -> Self {
        let (sender, mut uses) = mpsc::channel::<RecordUseRequest>(WAITING);
        let (peers, call) = (ctx.peers().clone(), ctx.call());
        ctx.spawn(async move {
            while let Some(request) = uses.recv().await {
                if let Err(fault) = peers.unary(models::RECORD_USE, request, &call).await {
                    counter!("tandem_chat_unrecorded_uses_total").increment(1);
                    tracing::debug!(code = %fault.code, "a use was not recorded");
                }
            }
        });
        Self(sender)
    }

    /// A use that begins now.
    pub(super) fn begin(&self, ticket_id: &str) -> Use {
        Use {
            sender: self.0.clone(),
            ticket_id: ticket_id.to_owned(),
            begun: Instant::now(),
            first_token_ms: 0,
            usage: None,
            outcome: "cancelled",
        }
    }
}

/// One use; told when it is dropped, which an answer that nobody waits for any more is without a further word.
pub(super) struct Use {
    sender: mpsc::Sender<RecordUseRequest>,
    ticket_id: String,
    begun: Instant,
    first_token_ms: u32,
    usage: Option<TokenUsage>,
    outcome: &'static str,
}

impl Use {
    /// The first token came.
    pub(super) fn first_token(&mut self) {
        self.first_token_ms = self.elapsed_ms();
    }

    /// It ended: `ok` or one of the codes.
    pub(super) fn end(&mut self, outcome: &'static str, usage: Option<TokenUsage>) {
        self.outcome = outcome;
        self.usage = usage;
    }

    fn elapsed_ms(&self) -> u32 {
        u32::try_from(self.begun.elapsed().as_millis()).unwrap_or(u32::MAX)
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        let request = RecordUseRequest {
            idempotency_key: uuid::Uuid::new_v4().into_bytes().to_vec(),
            ticket_id: std::mem::take(&mut self.ticket_id),
            usage: self.usage.take().into(),
            duration_ms: self.elapsed_ms(),
            first_token_ms: self.first_token_ms,
            outcome: self.outcome.to_owned(),
            ..Default::default()
        };
        if self.sender.try_send(request).is_err() {
            counter!("tandem_chat_unrecorded_uses_total").increment(1);
        }
    }
}
