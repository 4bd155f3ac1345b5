//! Turns a handler's answer into what is shown and what is spoken.
//!
//! The display is the answer's Markdown, cut at clause ends so that speech can begin early; put together, the segments are
//! the answer. The agents that would translate, restyle and give the voice its style are used when a fleet has them; each
//! segment says which were not.

mod cut;
mod failure;
mod logic;
mod speech;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use futures::StreamExt as _;
use metrics::{counter, histogram};
use serde::Deserialize;
use tandem_agent::{AgentDef, Ctx, Started, bind};
use tandem_contract::pb::tandem::dialogue::v1::__buffa::oneof::compose_request::Part;
use tandem_contract::pb::tandem::dialogue::v1::{ComposeRequest, ComposeResponse};
use tandem_contract::rpc::dialogue;
use tandem_contract::{Call, FaultStream, Reply, Service};
use tandem_types::Fault;

use logic::Composer;

/// Agents that would make each segment better and that this build has no contract for.
const HELPERS: [&str; 2] = ["EmotionSynthesisAgent", "EmpathyAgent"];

/// Responder.
pub const DEF: AgentDef = AgentDef {
    name: "Responder",
    about: "Turns a handler's answer into what is shown and what is spoken.",
    provides: &[dialogue::COMPOSE.facts()],
    needs: &[],
    uses: &[
        "FixedStreamingTranslation",
        "EmotionSynthesisAgent",
        "EmpathyAgent",
        "MoodTrackerAgent",
        "DynamicIdentityAgent",
        "HumanAwarenessAgent",
    ],
    roles: &[],
    publishes: &[],
    required: true,
    start: |ctx| Box::pin(start(ctx)),
};

/// Settings in the fleet file: there are none.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {}

struct Responder;

async fn start(ctx: Ctx) -> Result<Started, Fault> {
    let _: Settings = ctx.settings()?;
    Ok(Started::serve(Service::new().bidi(dialogue::COMPOSE, bind(&Arc::new(Responder), Responder::compose))))
}

/// One answer on its way through.
struct Composing {
    requests: FaultStream<ComposeRequest>,
    composer: Composer,
    ready: VecDeque<ComposeResponse>,
    /// When the first text came.
    began: Option<Instant>,
    told: bool,
    ended: bool,
}

impl Responder {
    async fn compose(
        self: Arc<Self>,
        _call: Call,
        mut requests: FaultStream<ComposeRequest>,
    ) -> Result<Reply<ComposeResponse>, Fault> {
        let audience = match requests.next().await {
            Some(Ok(ComposeRequest { part: Some(Part::Audience(audience)), .. })) => audience,
            Some(Err(fault)) => return Err(fault),
            _ => return Err(Fault::invalid_field("audience", "must come first")),
        };
        let state = Composing {
            requests,
            composer: Composer::new(*audience),
            ready: VecDeque::new(),
            began: None,
            told: false,
            ended: false,
        };
        Ok(Box::pin(futures::stream::unfold(Some(state), |state| async move {
            let mut state = state?;
            match state.next().await {
                Ok(Some(segment)) => Some((Ok(segment), Some(state))),
                Ok(None) => None,
                Err(fault) => Some((Err(fault), None)),
            }
        })))
    }
}

impl Composing {
    /// The next segment; none at the end.
    async fn next(&mut self) -> Result<Option<ComposeResponse>, Fault> {
        loop {
            if let Some(mut segment) = self.ready.pop_front() {
                self.tell(&mut segment);
                return Ok(Some(segment));
            }
            if self.ended {
                return Ok(None);
            }
            match self.requests.next().await.transpose()?.map(|request| request.part) {
                Some(Some(Part::Delta(text))) => {
                    self.began.get_or_insert_with(Instant::now);
                    self.ready.extend(self.composer.delta(&text));
                }
                Some(Some(Part::Error(error))) => {
                    self.ready.extend(self.composer.error(&error));
                    self.ended = true;
                }
                Some(Some(Part::Audience(_))) => return Err(Fault::invalid_field("audience", "came a second time")),
                Some(None) => return Err(Fault::invalid_field("part", "is empty: send a delta or an error")),
                None => {
                    self.ready.extend(self.composer.end());
                    self.ended = true;
                }
            }
        }
    }

    fn tell(&mut self, segment: &mut ComposeResponse) {
        if let Some(began) = self.began.filter(|_| !std::mem::replace(&mut self.told, true)) {
            histogram!("tandem_first_segment_seconds").record(began.elapsed().as_secs_f64());
        }
        let known = ["en", "tl", "taglish"].into_iter().find(|tag| *tag == segment.language);
        counter!("tandem_segments_total", "language" => known.unwrap_or("other")).increment(1);
        segment.skipped.extend(HELPERS.map(str::to_owned));
        for helper in &segment.skipped {
            counter!("tandem_compose_skipped_total", "helper" => helper.clone()).increment(1);
        }
    }
}
