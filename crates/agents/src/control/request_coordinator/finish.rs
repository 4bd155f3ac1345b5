//! The end of a turn: once, on disk before anybody hears of it.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tandem_contract::error_info;
use tandem_contract::pb::tandem::coordinator::v1 as pb;
use tandem_contract::pb::tandem::coordinator::v1::__buffa::oneof::turn_event::Event;
use tandem_store::requests::{End, Events, Outcome};
use tandem_types::{AgentId, Code, Fault, Timestamp, reason};

use super::segments::Composing;
use super::turn::{Progress, Turn};
use super::walk::{Walked, speed};
use super::{Coordinator, TIER, TURN_FINISHED};

/// Longest wait for the journal before the last event of a turn.
const JOURNAL_WAIT: Duration = Duration::from_millis(250);

impl Coordinator {
    /// Lives a turn from its place in the queue to its end.
    pub(super) async fn live(self: Arc<Self>, turn: Arc<Turn>) {
        let mut side = None;
        let result = tokio::select! {
            walked = self.walk(&turn, &mut side) => walked,
            fault = turn.stopped(self.grace(&turn)) => Err(fault),
            fault = refused(&turn) => Err(fault),
        };
        // The slot is free as soon as nothing works for the turn any more.
        self.desk().queue.end(turn.known.id, self.ctx.clock().now());
        self.pump();
        if matches!(turn.accepted.clone().await, Some(Ok(accepted)) if !accepted.repeated) {
            self.finish(&turn, side, result).await;
        }
        let mut desk = self.desk();
        desk.turns.remove(&turn.known.id);
        desk.places.remove(&turn.known.id);
        if let Some(key) = turn.known.key.filter(|key| desk.keys.get(key) == Some(&turn.known.id)) {
            desk.keys.remove(&key);
        }
    }

    async fn finish(&self, turn: &Turn, side: Option<Composing>, result: Result<Walked, Fault>) {
        let result = result.map_err(|mut fault| {
            fault.trace_id = turn.known.id.to_string();
            fault.at(self.ctx.id())
        });
        let error = result.as_ref().err().filter(|fault| fault.code != Code::Cancelled).map(error_info);
        let (text, from, tokens) = {
            let walked = result.as_ref().ok().map(|walked| &walked.outcome);
            let from = walked.and_then(|outcome| outcome.provenance.as_option().cloned());
            (turn.progress().text.clone(), from, walked.map_or(0, |outcome| outcome.usage.completion_tokens))
        };
        let composed = async {
            if let Some(side) = &side {
                side.end(error, turn, Duration::from_millis(self.settings.compose_ms)).await;
            }
        };
        tokio::join!(composed, self.keep_answer(turn, &text, from.as_ref(), tokens));
        let now = self.ctx.clock().now();
        let progress = turn.progress().clone();
        let (last, end) = match &result {
            Ok(walked) => success(&walked.outcome, &progress),
            Err(fault) => (Event::from(error_info(fault)), end_of_failure(fault, TIER, progress.handler.as_ref())),
        };
        let payload = self.summary(turn, &end, &progress, now);
        let (modality, outcome) = (turn.known.asked.claim.modality.as_str(), end.outcome.as_str());
        let last = match self.keep_end(turn, &progress, last.clone(), end, now).await {
            Ok(()) => last,
            Err(fault) => {
                tracing::error!(turn = %turn.known.id, %fault, "the end of a turn could not be kept");
                Event::from(error_info(&fault.at(self.ctx.id())))
            }
        };
        metrics::counter!("tandem_turns_total", "modality" => modality, "outcome" => outcome).increment(1);
        let (user, key) = (&turn.known.asked.claim.user, turn.known.id.to_string());
        let told = self.ctx.publisher().publish_about(user, TURN_FINISHED, &key, payload);
        match tokio::time::timeout(JOURNAL_WAIT, told).await {
            Ok(Ok(())) => {}
            Ok(Err(fault)) => {
                tracing::warn!(turn = %turn.known.id, code = %fault.code, "turn.finished was not published")
            }
            Err(_) => tracing::warn!(turn = %turn.known.id, "turn.finished was not published in time"),
        }
        turn.tell_last(last);
        self.publish_state(turn, outcome);
    }

    /// Puts stages, events and end on disk; two groups of writes.
    async fn keep_end(
        &self,
        turn: &Turn,
        progress: &Progress,
        last: Event,
        end: End,
        now: Timestamp,
    ) -> Result<(), Fault> {
        let request = turn.known.request;
        let (number, mut events) = turn.seal();
        events.push(pb::TurnEvent { number, event: Some(last), ..Default::default() });
        let bodies = events.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>();
        let bodies = bodies.map_err(|e| Fault::internal(format!("cannot write events as JSON: {:?}", e.classify())))?;
        let events = Events { first: number + 1 - bodies.len() as u64, bodies };
        let stages = progress.stages.iter().map(|(stage, at)| self.store.advance(request, *stage, *at));
        // One after the other: where the disk is slow its queue fills, and the end would overtake a stage, which is refused
        // once there is an end.
        let stages = futures::future::join_all(stages).await;
        let finished = self.store.finish(request, events, end, now).await;
        stages.into_iter().collect::<Result<(), Fault>>()?;
        finished
    }

    /// What is published of a turn: ids and numbers.
    fn summary(&self, turn: &Turn, end: &End, progress: &Progress, now: Timestamp) -> serde_json::Value {
        let timings: serde_json::Map<String, serde_json::Value> =
            progress.timings.iter().map(|timing| (timing.stage.clone(), timing.micros.into())).collect();
        json!({
            "turn": turn.known.id,
            "request": turn.known.request,
            "user": turn.known.asked.claim.user,
            "session": turn.known.session,
            "modality": turn.known.asked.claim.modality.as_str(),
            "channel": turn.known.asked.channel,
            "language": turn.known.asked.reply_language,
            "handler": end.handler,
            "tier": end.tier,
            "model": end.model,
            "timings_us": timings,
            "outcome": end.outcome,
            "code": end.code,
            "at_us": now.micros(),
        })
    }
}

/// Resolves when the request turns out not to be a new one on disk: it could not be written, or was accepted before.
async fn refused(turn: &Turn) -> Fault {
    match turn.accepted.clone().await {
        Some(Ok(accepted)) if !accepted.repeated => std::future::pending().await,
        Some(Err(fault)) => fault,
        _ => Fault::new(Code::Cancelled, reason::CALLER_LEFT, "an earlier attempt is this request's turn"),
    }
}

fn success(outcome: &tandem_contract::pb::tandem::dialogue::v1::Outcome, progress: &Progress) -> (Event, End) {
    let (first_delta_ms, tokens_per_second) = speed(outcome, progress.first_delta);
    let answer = pb::Final {
        text: progress.text.clone(),
        provenance: outcome.provenance.clone(),
        timings: progress.timings.clone(),
        usage: outcome.usage.clone(),
        finish_reason: outcome.finish_reason.clone(),
        first_delta_ms,
        tokens_per_second,
        dropped_history: outcome.dropped_history,
        missing: progress.missing.clone(),
        not_built: progress.not_built.clone(),
        ..Default::default()
    };
    let end = End {
        outcome: Outcome::Done,
        code: "ok".into(),
        handler: progress.handler.as_ref().map(ToString::to_string).unwrap_or_default(),
        tier: TIER.into(),
        model: outcome.provenance.model.clone(),
        answer: serde_json::to_string(&answer).ok(),
    };
    (Event::from(answer), end)
}

/// How a turn that failed is kept.
pub(super) fn end_of_failure(fault: &Fault, tier: &str, handler: Option<&AgentId>) -> End {
    let cancelled = fault.code == Code::Cancelled;
    End {
        outcome: if cancelled { Outcome::Cancelled } else { Outcome::Failed },
        code: fault.code.as_str().into(),
        handler: handler.map(ToString::to_string).unwrap_or_default(),
        tier: tier.into(),
        model: String::new(),
        answer: serde_json::to_string(&error_info(fault)).ok(),
    }
}

/// The last event of a turn that failed.
pub(super) fn error_event(number: u64, fault: &Fault) -> pb::TurnEvent {
    pb::TurnEvent { number, event: Some(Event::from(error_info(fault))), ..Default::default() }
}
