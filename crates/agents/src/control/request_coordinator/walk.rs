//! The way of one turn: from its place in the queue to the last piece of its answer.
//!
//! ```text
//! queue -> [window | choice] -> handler -> deltas -> caller
//!                                      \-> Responder -> segments -> caller
//! request on disk -> question into the session          (beside all of it; the first delta waits for both)
//! ```
//!
//! Nothing of a turn reaches its caller before the request is on disk, but work that changes nothing does not wait for
//! the disk. Whatever ends the turn from outside drops this walk, and with it the streams to handler and engine.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use tandem_contract::FaultStream;
use tandem_contract::pb::tandem::common::v1::{Provenance, Source};
use tandem_contract::pb::tandem::coordinator::v1 as pb;
use tandem_contract::pb::tandem::dialogue::v1::__buffa::oneof::handle_response::Part;
use tandem_contract::pb::tandem::dialogue::v1::{HandleRequest, HandleResponse, Message, Options, Outcome};
use tandem_contract::rpc::dialogue;
use tandem_store::requests::Stage;
use tandem_types::{AgentId, Code, Fault, reason};

use super::ask::Content;
use super::choice::{Candidate, rank};
use super::conversation::{Heard, is_refusal};
use super::segments::Composing;
use super::turn::{Common, MOST_EVENTS, Turn, ms};
use super::{Coordinator, TIER};

/// Handlers tried at most before the first piece of an answer.
const ATTEMPTS: usize = 3;
/// Time between two attempts of a restored turn to find somebody who answers.
const RESTORE_PAUSE: Duration = Duration::from_secs(1);
/// What a text is taken to mean while nobody parses it.
const INTENT: &str = "unknown";
/// Agents that would understand a turn better and that this build has no contract for, with what is missing.
const UNDERSTANDING: &[(&str, &str)] = &[
    ("NLUAgent", "the intent is unknown"),
    ("IntentionValidatorAgent", "only what changes nothing is served"),
    ("ContextManager", "no memories and facts"),
    ("ToneDetector", "the tone is unknown"),
    ("EmotionEngine", "the mood is unknown"),
    ("DynamicIdentityAgent", "the persona is the default one"),
    ("AdvancedRouter", "the task type is unknown"),
    ("TieredResponder", "the tier is always fast"),
];

/// A walk that came to its end.
pub(super) struct Walked {
    /// What the handler said at the end.
    pub(super) outcome: Outcome,
}

/// A handler that began to answer.
struct Answering {
    handler: AgentId,
    stream: FaultStream<HandleResponse>,
    first: HandleResponse,
}

impl Coordinator {
    /// Walks a turn. `side` gets the way through Responder, which outlives the walk so that a failure can be told on it.
    pub(super) async fn walk(
        self: &Arc<Self>,
        turn: &Arc<Turn>,
        side: &mut Option<Composing>,
    ) -> Result<Walked, Fault> {
        turn.may_run.notified().await;
        let queued = turn.known.received.elapsed();
        metrics::histogram!("tandem_queue_wait_seconds").record(queued.as_secs_f64());
        turn.timing("queue", queued, None);
        if turn.known.restored
            && let Some(walked) = self.answered_before(turn).await
        {
            return Ok(walked);
        }
        let question = match &turn.known.asked.content {
            Content::Said(said) => self.run(self.clone().keep_question(turn.clone(), said.clone())),
            Content::Messages(_) | Content::Images(_) => self.run(async { Ok(()) }),
        };
        let heard = async {
            match &turn.known.session {
                Some(session) => self.heard_before(turn, session).await,
                None => Heard::default(),
            }
        };
        let begun = Instant::now();
        let (heard, ranked) = tokio::join!(heard, self.ranked(turn));
        if turn.known.session.is_some() {
            turn.progress().not_built = UNDERSTANDING.iter().map(|(agent, what)| format!("{agent}: {what}")).collect();
        }
        self.reach(turn, Stage::Understood);
        self.reach(turn, Stage::Validated);
        turn.timing("choose", begun.elapsed(), None);
        let request = self.handle_request(turn, heard);
        let mut answering = match ranked {
            Ok(ranked) => self.first_to_answer(turn, &ranked, request.clone()).await,
            Err(fault) => Err(fault),
        };
        // After a restart of the whole node, handlers and models come later than this agent.
        let until = begun + Duration::from_secs(self.settings.restore_s);
        while turn.known.restored
            && matches!(&answering, Err(fault) if fault.code == Code::Unavailable)
            && Instant::now() < until
        {
            tokio::time::sleep(RESTORE_PAUSE).await;
            answering = match self.ranked(turn).await {
                Ok(ranked) => self.first_to_answer(turn, &ranked, request.clone()).await,
                Err(fault) => Err(fault),
            };
        }
        self.answer(turn, answering?, question, side).await
    }

    async fn ranked(self: &Arc<Self>, turn: &Turn) -> Result<Vec<Candidate>, Fault> {
        let language = &turn.known.asked.reply_language;
        let candidates = self.handlers.candidates(INTENT, language, |agent| self.load(agent)).await?;
        self.fit_queue();
        Ok(rank(candidates, rand::random()))
    }

    /// Notes and tells that a stage was reached.
    pub(super) fn reach(&self, turn: &Turn, stage: Stage) {
        turn.progress().stages.push((stage, self.ctx.clock().now()));
        turn.tell(pb::Status { stage: stage.as_str().into(), at_ms: turn.elapsed_ms(), ..Default::default() });
        self.publish_state(turn, stage.as_str());
    }

    fn handle_request(&self, turn: &Turn, heard: Heard) -> HandleRequest {
        let asked = &turn.known.asked;
        let options = &asked.options;
        let (text, messages) = match &asked.content {
            Content::Said(said) => (said.clone(), Vec::new()),
            Content::Messages(messages) => {
                let message = |m: &pb::ChatMessage| Message {
                    role: m.role.clone(),
                    content: m.content.clone(),
                    ..Default::default()
                };
                (String::new(), messages.iter().map(message).collect())
            }
            Content::Images(_) => Default::default(),
        };
        HandleRequest {
            turn_id: turn.known.id.to_string(),
            user_id: asked.claim.user.to_string(),
            session_id: turn.known.session.as_ref().map(ToString::to_string).unwrap_or_default(),
            text,
            messages,
            context: heard.summary.into_iter().collect(),
            language: asked.reply_language.clone(),
            priority: u32::from(self.number(turn)),
            options: Options {
                max_tokens: options.max_tokens,
                temperature: options.temperature,
                top_p: options.top_p,
                seed: options.seed,
                stop: options.stop.clone(),
                ..Default::default()
            }
            .into(),
            model: asked.model.clone(),
            history: heard.history,
            history_read: true,
            ..Default::default()
        }
    }

    /// Asks the candidates in turn until one begins to answer.
    async fn first_to_answer(
        &self,
        turn: &Turn,
        ranked: &[Candidate],
        request: HandleRequest,
    ) -> Result<Answering, Fault> {
        let mut failed: Option<Fault> = None;
        for candidate in ranked.iter().take(ATTEMPTS) {
            turn.progress().handler = Some(candidate.agent.clone());
            self.reach(turn, Stage::Routed);
            let (missing, not_built) = {
                let progress = turn.progress();
                (progress.missing.clone(), progress.not_built.clone())
            };
            turn.tell(pb::Routed {
                handler: candidate.agent.to_string(),
                tier: TIER.into(),
                missing,
                not_built,
                ..Default::default()
            });
            metrics::counter!("tandem_route_total", "handler" => candidate.agent.agent.to_string(), "tier" => TIER)
                .increment(1);
            self.reach(turn, Stage::Running);
            let begun = Instant::now();
            match self.begin(turn, &candidate.agent, request.clone()).await {
                Ok(answering) => {
                    turn.timing("handler", begun.elapsed(), Some(&candidate.agent));
                    return Ok(answering);
                }
                Err(fault) if another_may_help(&fault) => {
                    turn.missing(candidate.agent.agent.as_str(), &format!("its answer ({})", fault.reason));
                    failed = failed.or(Some(fault));
                }
                Err(fault) => return Err(fault),
            }
        }
        let nobody = || {
            let language = &turn.known.asked.reply_language;
            Fault::unavailable(reason::NOT_BUILT, format!("no agent of this fleet answers in language `{language}`"))
        };
        Err(failed.unwrap_or_else(nobody))
    }

    async fn begin(&self, turn: &Turn, handler: &AgentId, request: HandleRequest) -> Result<Answering, Fault> {
        let call = turn.call().to(handler.agent.clone());
        let begun = tokio::time::timeout(self.silence(), async {
            let mut stream = self.ctx.peers().server_stream(dialogue::HANDLE, request, &call).await?;
            let first = stream.next().await.unwrap_or_else(|| Err(cut_off(handler)))?;
            Ok((stream, first))
        });
        let (stream, first) = begun.await.unwrap_or_else(|_| Err(silent(handler)))?;
        Ok(Answering { handler: handler.clone(), stream, first })
    }

    /// Passes the answer on as it comes.
    async fn answer(
        self: &Arc<Self>,
        turn: &Arc<Turn>,
        answering: Answering,
        question: Common<Result<(), Fault>>,
        side: &mut Option<Composing>,
    ) -> Result<Walked, Fault> {
        let Answering { handler, mut stream, mut first } = answering;
        // An answer is shown only to a request that is on disk and, in a session the caller named, to one that it took.
        if !matches!(turn.accepted.clone().await, Some(Ok(_))) {
            return Err(Fault::internal("the request did not reach the disk"));
        }
        if turn.known.named_session
            && let Some(Err(fault)) = question.clone().await
            && is_refusal(&fault)
        {
            return Err(fault);
        }
        loop {
            match first.part.take() {
                Some(Part::Delta(text)) => {
                    if turn.progress().first_delta.is_none() {
                        turn.progress().first_delta = Some(turn.known.received.elapsed());
                        if turn.known.session.is_some() {
                            *side = Some(self.compose(turn, turn.known.asked.reply_language.clone()));
                        }
                    }
                    turn.progress().text.push_str(&text);
                    if let Some(side) = side {
                        side.push(&text);
                    }
                    if !turn.tell(pb::Delta { text, ..Default::default() }) {
                        let message = format!("the answer has more than {MOST_EVENTS} pieces");
                        return Err(Fault::new(Code::ResourceExhausted, reason::CONTEXT_LENGTH, message));
                    }
                }
                Some(Part::Outcome(outcome)) => {
                    self.reach(turn, Stage::Composing);
                    // What is said next must not come before what was said now.
                    question.await;
                    for (stage, took) in
                        [("wait", outcome.wait_ms), ("prompt", outcome.prompt_ms), ("generate", outcome.generate_ms)]
                    {
                        turn.timing(stage, Duration::from_millis(took.into()), Some(&handler));
                    }
                    return Ok(Walked { outcome: *outcome });
                }
                None => return Err(Fault::internal(format!("{handler} sent a part that is neither text nor end"))),
            }
            let next = tokio::time::timeout(self.silence(), stream.next()).await;
            first = next.map_err(|_| silent(&handler))?.unwrap_or_else(|| Err(cut_off(&handler)))?;
        }
    }

    fn silence(&self) -> Duration {
        Duration::from_secs(self.settings.silence_s)
    }

    /// Where the answer of a restored turn is in its session already, it is not asked for again.
    async fn answered_before(&self, turn: &Turn) -> Option<Walked> {
        let kept = self.kept_answer(turn).await?;
        turn.progress().handler = kept.handler.parse().ok();
        let provenance = serde_json::from_str::<Provenance>(&kept.source_json).unwrap_or(Provenance {
            source: Source::SOURCE_MEMORY.into(),
            language: kept.language,
            ..Default::default()
        });
        turn.progress().first_delta = Some(turn.known.received.elapsed());
        turn.progress().text = kept.text.clone();
        turn.tell(pb::Delta { text: kept.text, ..Default::default() });
        let outcome = Outcome { provenance: provenance.into(), finish_reason: "stop".into(), ..Default::default() };
        Some(Walked { outcome })
    }
}

/// Milliseconds of the first piece, tokens per second: what a final says about speed.
pub(super) fn speed(outcome: &Outcome, first_delta: Option<Duration>) -> (u32, Option<f32>) {
    let tokens = outcome.usage.completion_tokens;
    let rate = (tokens >= 2 && outcome.generate_ms > 0).then(|| tokens as f32 * 1_000.0 / outcome.generate_ms as f32);
    (first_delta.map_or(0, ms), rate)
}

/// Whether another handler may do what this one could not; a request that is wrong stays wrong.
fn another_may_help(fault: &Fault) -> bool {
    matches!(fault.code, Code::Unavailable | Code::Internal | Code::DeadlineExceeded | Code::Unimplemented)
}

fn cut_off(handler: &AgentId) -> Fault {
    Fault::unavailable(reason::PEER_AWAY, format!("{handler} ended in the middle of an answer"))
}

fn silent(handler: &AgentId) -> Fault {
    Fault::new(Code::DeadlineExceeded, reason::TIME_UP, format!("{handler} said nothing for too long"))
}
