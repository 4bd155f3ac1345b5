//! Rolling summaries, written in the background.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use metrics::counter;
use tandem_agent::Ctx;
use tandem_contract::pb::tandem::model::v1::{GenerateRequest, Sampling, Ticket};
use tandem_contract::rpc::engine;
use tandem_store::sessions::{Budget, Summary};
use tandem_types::{Code, Fault, SessionId, UserId, reason};

use super::{ROLE, SessionMemory, logic};
use crate::tickets::Want;

/// The last of the ten priorities: nobody waits for a summary.
const PRIORITY: u32 = 10;
/// Words of the model's chat form around a prompt, in tokens.
const CHAT_FORM_TOKENS: u32 = 64;
/// How often it is said that a summary under way is not stuck.
const BEAT: Duration = Duration::from_secs(5);

impl SessionMemory {
    /// Brings the summaries of all sessions that grew up to date.
    pub(super) async fn summarise(self: Arc<Self>) -> Result<(), Fault> {
        let grown = std::mem::take(&mut *self.grown.lock().unwrap_or_else(PoisonError::into_inner));
        if grown.is_empty() {
            return Ok(());
        }
        let mut failed: Option<Fault> = None;
        for (user, session) in grown {
            let result = match &failed {
                // One failure to get a model holds for all; the others wait for the next run.
                Some(fault) => Err(fault.clone()),
                None => beating(&self.ctx, self.bring_up_to_date(&user, &session)).await,
            };
            match result {
                Ok(()) => {}
                Err(fault) if fault.code == Code::NotFound => {}
                Err(fault) => {
                    self.grown.lock().unwrap_or_else(PoisonError::into_inner).insert((user, session));
                    failed = Some(fault);
                }
            }
        }
        match failed {
            None => self.ctx.health().ready(),
            Some(fault) => self.ctx.health().degraded(format!("long conversations are cut, not summarised: {fault}")),
        }
        Ok(())
    }

    async fn bring_up_to_date(&self, user: &UserId, session: &SessionId) -> Result<(), Fault> {
        // Counting tokens needs the ticket as well; it is fetched here because no writer should wait for it.
        let ticket =
            self.tickets.lend(Want { role: ROLE, priority: PRIORITY, ..Want::default() }, &self.ctx.call()).await;
        let whole = self.settings.budget();
        if self.store.to_summarise(user, session, whole).await?.is_none() {
            return Ok(());
        }
        let ticket = ticket?;
        // Covering half of the window as well makes the next summary due after half a window and not at the next entry.
        let half = Budget { tokens: whole.tokens / 2, items: whole.items / 2 };
        while let Some(due) = self.store.to_summarise(user, session, half).await? {
            let room = ticket.context_tokens.saturating_sub(self.settings.summary_tokens + CHAT_FORM_TOKENS);
            let Some(asked) = logic::ask(due.former.as_ref(), &due.entries, room) else { break };
            let written = self.write(&ticket, asked.messages.clone()).await;
            let outcome = written.as_ref().map_or_else(|fault| fault.code.as_str(), |_| "ok");
            counter!("tandem_summaries_total", "outcome" => outcome).increment(1);
            let (text, tokens) = written.inspect_err(|_| self.tickets.forget(&ticket.ticket_id))?;
            let summary = Summary {
                through: asked.through,
                turns: asked.turns,
                text,
                tokens,
                model: ticket.model.clone(),
                at: self.ctx.clock().now(),
            };
            match self.store.put_summary(user, session, summary).await {
                Err(fault) if fault.code == Code::Conflict => break,
                put => put?,
            }
        }
        Ok(())
    }

    /// What the model wrote, and its tokens.
    async fn write(
        &self,
        ticket: &Ticket,
        messages: Vec<tandem_contract::pb::tandem::model::v1::Message>,
    ) -> Result<(String, u32), Fault> {
        let request = GenerateRequest {
            ticket_id: ticket.ticket_id.clone(),
            messages,
            sampling: Sampling { temperature: Some(0.2), ..Default::default() }.into(),
            max_tokens: self.settings.summary_tokens,
            priority: PRIORITY,
            adapter: ticket.adapter.clone(),
            ..Default::default()
        };
        let limit = Duration::from_secs(self.settings.summary_s);
        let call = self.ctx.call().within(limit, Instant::now());
        let mut stream = self.tickets.engine(ticket)?.server_stream(engine::GENERATE, request, &call).await?;
        let (mut text, mut tokens) = (String::new(), 0);
        while let Some(piece) = stream.next().await {
            let piece = piece?;
            text += &piece.text;
            if let Some(usage) = piece.usage.as_option() {
                tokens = usage.completion_tokens;
            }
        }
        let text = text.trim().to_owned();
        if text.is_empty() {
            return Err(Fault::unavailable(reason::ENGINE_LOST, format!("{} wrote no summary", ticket.model)));
        }
        Ok((text, tokens))
    }
}

/// Runs `work` and says meanwhile that it is not stuck.
async fn beating<T>(ctx: &Ctx, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            () = tokio::time::sleep(BEAT) => ctx.beat(),
        }
    }
}
