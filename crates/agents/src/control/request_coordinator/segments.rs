//! The answer on its second way: through Responder into segments to show and speak.
//!
//! Deltas never wait for it. What has come since the last send is sent as one piece, so the only thing held is text that is
//! part of the answer anyway.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tandem_contract::pb::tandem::common::v1::ErrorInfo;
use tandem_contract::pb::tandem::coordinator::v1::Segment;
use tandem_contract::pb::tandem::dialogue::v1::__buffa::oneof::compose_request::Part;
use tandem_contract::pb::tandem::dialogue::v1::{ComposeFor, ComposeRequest};
use tandem_contract::rpc::dialogue;
use tandem_contract::{BidiReceiver, BidiSender};
use tandem_types::Fault;
use tokio::sync::Notify;

use super::Coordinator;
use super::turn::{Common, Turn};

/// The agent that composes, as it is named where it is missing.
const COMPOSER: &str = "Responder";

#[derive(Default)]
struct Pending {
    text: String,
    error: Option<ErrorInfo>,
    over: bool,
}

/// An answer that is being composed.
pub(super) struct Composing {
    pending: Arc<Mutex<Pending>>,
    more: Arc<Notify>,
    done: Common<()>,
}

impl Composing {
    fn change(&self, change: impl FnOnce(&mut Pending)) {
        // Text, error and end are each whole after any single change.
        change(&mut self.pending.lock().unwrap_or_else(PoisonError::into_inner));
        self.more.notify_one();
    }

    /// More of the answer.
    pub(super) fn push(&self, text: &str) {
        self.change(|pending| pending.text.push_str(text));
    }

    /// The answer is complete, or ended with an error; waits for the last segment, at most `limit`.
    pub(super) async fn end(&self, error: Option<ErrorInfo>, turn: &Turn, limit: Duration) {
        self.change(|pending| {
            pending.error = error;
            pending.over = true;
        });
        if tokio::time::timeout(limit, self.done.clone()).await.is_err() {
            turn.missing(COMPOSER, "segments of the end, which came too late");
        }
    }
}

impl Drop for Composing {
    fn drop(&mut self) {
        self.change(|pending| pending.over = true);
    }
}

impl Coordinator {
    /// Begins to compose the answer of a turn, beside its deltas.
    pub(super) fn compose(self: &Arc<Self>, turn: &Arc<Turn>, language: String) -> Composing {
        let (pending, more): (Arc<Mutex<Pending>>, Arc<Notify>) = Default::default();
        let work = {
            let (agent, turn, pending, more) = (self.clone(), turn.clone(), pending.clone(), more.clone());
            async move {
                if let Err(fault) = agent.run_compose(&turn, language, &pending, &more).await {
                    turn.missing(COMPOSER, &format!("segments to show and speak ({})", fault.reason));
                }
            }
        };
        Composing { pending, more, done: self.run(work) }
    }

    async fn run_compose(
        &self,
        turn: &Turn,
        language: String,
        pending: &Mutex<Pending>,
        more: &Notify,
    ) -> Result<(), Fault> {
        let audience = ComposeFor {
            turn_id: turn.known.id.to_string(),
            user_id: turn.known.asked.claim.user.to_string(),
            language,
            channel: turn.known.asked.channel.clone(),
            ..Default::default()
        };
        let call = self.ctx.peers().bidi(dialogue::COMPOSE, &turn.call()).await?;
        let (mut sender, mut receiver) = (call.sender, call.receiver);
        sender.send(request(audience)).await?;
        let send = async move {
            while let Some(part) = next(pending, more).await {
                let last = matches!(part, Part::Error(_));
                sender.send(request(part)).await?;
                if last {
                    break;
                }
            }
            drop::<BidiSender<ComposeRequest>>(sender);
            Ok::<(), Fault>(())
        };
        let receive = Self::receive(turn, &mut receiver);
        tokio::try_join!(send, receive).map(drop)
    }

    async fn receive(
        turn: &Turn,
        receiver: &mut BidiReceiver<tandem_contract::pb::tandem::dialogue::v1::ComposeResponse>,
    ) -> Result<(), Fault> {
        let mut first = true;
        while let Some(segment) = receiver.message().await? {
            if std::mem::take(&mut first) {
                let took = turn.known.received.elapsed();
                metrics::histogram!("tandem_time_to_first_segment_seconds").record(took.as_secs_f64());
            }
            turn.tell(Segment {
                speech_text: segment.speech_text,
                display: segment.display,
                language: segment.language,
                pause_ms: segment.pause_ms,
                ..Default::default()
            });
        }
        Ok(())
    }
}

/// What is to be sent next; none at the end.
async fn next(pending: &Mutex<Pending>, more: &Notify) -> Option<Part> {
    loop {
        {
            let mut pending = pending.lock().unwrap_or_else(PoisonError::into_inner);
            if !pending.text.is_empty() {
                return Some(Part::Delta(std::mem::take(&mut pending.text)));
            }
            if let Some(error) = pending.error.take() {
                return Some(Part::from(error));
            }
            if pending.over {
                return None;
            }
        }
        more.notified().await;
    }
}

fn request(part: impl Into<Part>) -> ComposeRequest {
    ComposeRequest { part: Some(part.into()), ..Default::default() }
}
