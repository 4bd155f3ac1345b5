//! From a turn to a stream of text: which model, what prompt, how long.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use metrics::{counter, histogram};
use tandem_contract::pb::tandem::common::v1::{Provenance, Source, TokenUsage};
use tandem_contract::pb::tandem::dialogue::v1::__buffa::oneof::handle_response::Part;
use tandem_contract::pb::tandem::dialogue::v1::{HandleRequest, HandleResponse, Message as Said, Outcome};
use tandem_contract::pb::tandem::model::v1::{
    CountTokensRequest, FinishReason, GenerateRequest, GenerateResponse, ListRolesRequest, Sampling, Ticket,
};
use tandem_contract::pb::tandem::session::v1::GetWindowRequest;
use tandem_contract::rpc::{engine, models, sessions};
use tandem_contract::{Call, FaultStream, Reply};
use tandem_types::{Code, Fault, Role, reason};

use super::logic::{self, HISTORY, Prompt};
use super::record::Use;
use super::{Chitchat, ROLES};
use crate::fields::Fields;
use crate::tickets::Want;

/// How long the handler waits for the conversation when the coordinator did not bring it.
const WINDOW_WAIT: Duration = Duration::from_millis(200);

/// One turn on its way to a model.
struct Task {
    prompt: Prompt,
    language: String,
    sampling: Sampling,
    max_tokens: u32,
    stop: Vec<String>,
    session_key: String,
    priority: u32,
    sources: Vec<String>,
    /// The caller keeps the conversation.
    as_given: bool,
    call: Call,
    begun: Instant,
}

/// A model that began to write.
struct Writing {
    stream: FaultStream<GenerateResponse>,
    first: GenerateResponse,
    ticket: Ticket,
    used: Use,
    dropped: u32,
}

impl Chitchat {
    /// Answers one turn. Returns once the first text is there, so that a failure before it is a plain error.
    pub(super) async fn handle(
        self: Arc<Self>,
        call: Call,
        request: HandleRequest,
    ) -> Result<Reply<HandleResponse>, Fault> {
        let begun = Instant::now();
        let call = call.next(self.ctx.id());
        let roles = self.roles(&request.model, &call).await?;
        let task = self.task(request, call, begun).await?;
        let mut first: Option<Fault> = None;
        for role in &roles {
            match self.attempt(role, &task).await {
                Ok(writing) => {
                    histogram!("tandem_chat_first_token_seconds").record(begun.elapsed().as_secs_f64());
                    let provenance = self.provenance(&roles[0], &writing.ticket, first.as_ref(), &task);
                    return Ok(self.reply(writing, provenance, &task));
                }
                Err(fault) if another_may_help(&fault) => first = first.or(Some(fault)),
                // A fleet need not have every role that could stand in.
                Err(fault) if fault.code == Code::NotFound && first.is_some() => {}
                Err(fault) => return Err(fault),
            }
        }
        self.look.notify_one();
        Err(first.unwrap_or_else(|| Fault::no_model(ROLES[0])))
    }

    /// The roles to try in order. A role or model that the caller names is not replaced by another.
    async fn roles(&self, named: &str, call: &Call) -> Result<Vec<String>, Fault> {
        if named.is_empty() || named == ROLES[0] {
            return Ok(ROLES.map(str::to_owned).into());
        }
        let serves = |role: &str| self.tickets.at_hand(role).is_some_and(|ticket| ticket.model == named);
        if let Some(role) = ROLES.into_iter().find(|role| serves(role)) {
            return Ok(vec![role.to_owned()]);
        }
        let known = self.ctx.peers().unary(models::LIST_ROLES, ListRolesRequest::default(), call).await?.roles;
        let writes = |role: &str| role.starts_with("llm.");
        if let Some(role) = known.iter().find(|r| writes(&r.role) && (r.role == named || r.model == named)) {
            return Ok(vec![role.role.clone()]);
        }
        if named.parse::<Role>().is_ok_and(|role| writes(role.as_str())) {
            return Err(Fault::no_model(named));
        }
        let mut models: Vec<&str> = known.iter().map(|r| r.model.as_str()).filter(|m| !m.is_empty()).collect();
        models.sort_unstable();
        models.dedup();
        let message = format!("no role is bound to model `{named}`; bound are: {}", models.join(", "));
        Err(Fault::not_found(message))
    }

    async fn task(&self, mut request: HandleRequest, call: Call, begun: Instant) -> Result<Task, Fault> {
        let mut fields = Fields::default();
        let as_given = !request.messages.is_empty();
        fields.require(as_given || !request.text.trim().is_empty(), "text", "is empty, and there are no messages");
        for (n, said) in request.messages.iter().enumerate() {
            let known = matches!(said.role.as_str(), "system" | "user" | "assistant");
            fields.require(known, &format!("messages[{n}].role"), "is not `system`, `user` or `assistant`");
        }
        fields.all(Some(()))?;
        let messages = std::mem::take(&mut request.messages);
        let (prompt, language) = if as_given {
            let last = messages.iter().rev().find(|said| said.role == "user").map_or("", |said| said.content.as_str());
            let language = logic::reply_language(&request.language, last, &[]);
            (Prompt::as_given(messages), language)
        } else {
            let history = self.history(&mut request, &call).await;
            let language = logic::reply_language(&request.language, &request.text, &history);
            (Prompt::build(&language, &request, &history), language)
        };
        let options = request.options.into_option().unwrap_or_default();
        Ok(Task {
            prompt,
            language: language.tag().to_owned(),
            sampling: Sampling {
                temperature: Some(options.temperature.unwrap_or(self.settings.temperature)),
                top_p: options.top_p,
                seed: options.seed,
                ..Default::default()
            },
            max_tokens: match options.max_tokens {
                0 if as_given => 0,
                0 => self.settings.max_tokens,
                wanted => wanted,
            },
            stop: options.stop,
            session_key: request.session_id,
            priority: request.priority,
            sources: request.context.into_iter().map(|item| item.id).collect(),
            as_given,
            call,
            begun,
        })
    }

    /// The conversation as the coordinator brought it, else as SessionMemoryAgent has it, else none.
    async fn history(&self, request: &mut HandleRequest, call: &Call) -> Vec<Said> {
        if request.history_read || !request.history.is_empty() || request.session_id.is_empty() {
            return std::mem::take(&mut request.history);
        }
        let wanted = GetWindowRequest {
            user_id: request.user_id.clone(),
            session_id: request.session_id.clone(),
            // What was said now may be there already.
            max_items: HISTORY as u32 + 1,
            ..Default::default()
        };
        let call = call.clone().within(WINDOW_WAIT, Instant::now());
        match self.ctx.peers().unary(sessions::GET_WINDOW, wanted, &call).await {
            Ok(window) => window.turns.into_iter().filter(|turn| turn.turn_id != request.turn_id).map(said).collect(),
            Err(fault) => {
                tracing::debug!(code = %fault.code, "the conversation so far could not be read");
                Vec::new()
            }
        }
    }

    /// Gets a model of this role to write. A ticket that turns out to be void is replaced once.
    async fn attempt(&self, role: &str, task: &Task) -> Result<Writing, Fault> {
        let limit = self.first_limit(task);
        let want = Want {
            role,
            language: &task.language,
            conversation: &task.session_key,
            priority: task.priority,
            max_wait: limit,
        };
        let kept = self.tickets.at_hand_for(want);
        let fresh = kept.is_none();
        let ticket = match kept {
            Some(ticket) => ticket,
            None => self.tickets.acquire(want, &task.call).await?,
        };
        match self.begin(ticket, task).await {
            Err(fault) if !fresh && void(&fault) => {
                let ticket = self.tickets.acquire(want, &task.call).await?;
                self.begin(ticket, task).await
            }
            result => result,
        }
    }

    /// How long a model may take to its first token, and before that how long one may take to be there: a model that was
    /// loaded for this very turn, or that stands in for another, has as much time as any.
    fn first_limit(&self, task: &Task) -> Duration {
        let limit = if task.as_given { self.settings.silence_s } else { self.settings.first_token_s };
        Duration::from_secs_f64(limit.max(0.0))
    }

    /// Sends the prompt and waits for the first text.
    async fn begin(&self, ticket: Ticket, task: &Task) -> Result<Writing, Fault> {
        let mut used = self.uses.begin(&ticket.ticket_id);
        let limit = self.first_limit(task);
        let begun = tokio::time::timeout(limit, async {
            let prompt = self.fit(&ticket, task).await?;
            let dropped = prompt.dropped;
            let request = GenerateRequest {
                ticket_id: ticket.ticket_id.clone(),
                messages: prompt.messages,
                sampling: task.sampling.clone().into(),
                max_tokens: task.max_tokens,
                stop: task.stop.clone(),
                session_key: task.session_key.clone(),
                priority: task.priority,
                adapter: ticket.adapter.clone(),
                ..Default::default()
            };
            let client = self.tickets.engine(&ticket)?;
            let mut stream = client.server_stream(engine::GENERATE, request, &task.call).await?;
            let first = next(&mut stream, &ticket.model).await?;
            Ok((stream, first, dropped))
        });
        let result = begun.await.unwrap_or_else(|_| {
            let message = format!("{} wrote nothing within {:.1} s", ticket.model, limit.as_secs_f64());
            Err(Fault::new(Code::DeadlineExceeded, reason::TIME_UP, message))
        });
        match result {
            Ok((stream, first, dropped)) => {
                used.first_token();
                Ok(Writing { stream, first, ticket, used, dropped })
            }
            Err(fault) => {
                if void(&fault) {
                    self.tickets.forget(&ticket.ticket_id);
                }
                used.end(fault.code.as_str(), None);
                Err(fault)
            }
        }
    }

    /// Shortens the conversation until the prompt fits; tokens are counted only when it may not.
    async fn fit(&self, ticket: &Ticket, task: &Task) -> Result<Prompt, Fault> {
        let mut prompt = task.prompt.clone();
        let room = logic::room(ticket.context_tokens, task.max_tokens);
        if task.as_given || ticket.context_tokens == 0 || prompt.most_tokens() <= room as usize {
            return Ok(prompt);
        }
        let client = self.tickets.engine(ticket)?;
        loop {
            let request = CountTokensRequest { messages: prompt.messages.clone(), ..Default::default() };
            let counted = client.unary(engine::COUNT_TOKENS, request, &task.call).await?.tokens;
            if counted <= room || !prompt.drop_oldest() {
                return Ok(prompt);
            }
        }
    }

    fn provenance(&self, asked: &str, ticket: &Ticket, first: Option<&Fault>, task: &Task) -> Provenance {
        let bound_to = if ticket.bound_to.is_empty() { &ticket.role } else { &ticket.bound_to };
        if bound_to != asked {
            counter!("tandem_chat_fallback_total", "role" => bound_to.clone()).increment(1);
        }
        Provenance {
            source: Source::SOURCE_MODEL.into(),
            model: ticket.model.clone(),
            adapter: ticket.adapter.clone(),
            role: asked.to_owned(),
            bound_to: bound_to.clone(),
            fallback_reason: first.map_or_else(|| ticket.fallback_reason.clone(), |fault| fault.message.clone()),
            sources: task.sources.clone(),
            language: task.language.clone(),
            ..Default::default()
        }
    }

    /// The stream of an answer that has begun. Dropping it ends the work of the engine.
    fn reply(&self, writing: Writing, provenance: Provenance, task: &Task) -> Reply<HandleResponse> {
        let silence = Duration::from_secs_f64(self.settings.silence_s.max(0.0));
        let whole = Duration::from_secs_f64(self.settings.whole_s.max(0.0));
        let end = (!task.as_given).then(|| tokio::time::Instant::from_std(task.begun + whole));
        let state = (writing, provenance, String::new());
        Box::pin(futures::stream::unfold(Some(state), move |state| async move {
            let (mut writing, mut provenance, mut written) = state?;
            let piece = if writing.first.text.is_empty()
                && writing.first.finish_reason == FinishReason::FINISH_REASON_UNSPECIFIED
            {
                let until = end.unwrap_or_else(|| tokio::time::Instant::now() + silence);
                tokio::time::timeout_at(until, next(&mut writing.stream, &writing.ticket.model)).await.unwrap_or_else(
                    |_| {
                        let message =
                            format!("{} was not done in time; what it wrote so far stands", writing.ticket.model);
                        Err(Fault::new(Code::DeadlineExceeded, reason::TIME_UP, message))
                    },
                )
            } else {
                Ok(std::mem::take(&mut writing.first))
            };
            match piece {
                Err(fault) => {
                    writing.used.end(fault.code.as_str(), None);
                    Some((Err(fault), None))
                }
                Ok(mut piece) if !piece.text.is_empty() => {
                    let text = std::mem::take(&mut piece.text);
                    // The end may come with the last text; it is told next.
                    writing.first = piece;
                    written.push_str(&text);
                    Some((Ok(part(Part::Delta(text))), Some((writing, provenance, written))))
                }
                Ok(last) => {
                    let usage = last.usage.into_option().unwrap_or_default();
                    count(&usage);
                    writing.used.end("ok", Some(usage.clone()));
                    provenance.language = logic::written_language(&provenance.language, &written);
                    let outcome = Outcome {
                        provenance: provenance.into(),
                        usage: usage.into(),
                        finish_reason: finish(last.finish_reason.as_known()).to_owned(),
                        wait_ms: last.wait_ms,
                        prompt_ms: last.prompt_ms,
                        generate_ms: last.generate_ms,
                        dropped_history: writing.dropped,
                        ..Default::default()
                    };
                    Some((Ok(part(Part::from(outcome))), None))
                }
            }
        }))
    }
}

/// The next message that says something: text, or the end.
async fn next(stream: &mut FaultStream<GenerateResponse>, model: &str) -> Result<GenerateResponse, Fault> {
    let lost = || Fault::unavailable(reason::ENGINE_LOST, format!("the engine of {model} ended while it worked"));
    loop {
        match stream.next().await {
            None => return Err(lost()),
            Some(Err(fault)) if fault.reason == reason::PEER_AWAY => return Err(lost()),
            Some(Err(fault)) => return Err(fault),
            Some(Ok(piece)) => {
                if !piece.text.is_empty() || piece.finish_reason != FinishReason::FINISH_REASON_UNSPECIFIED {
                    return Ok(piece);
                }
            }
        }
    }
}

/// Whether the ticket, and not the request, is at fault.
fn void(fault: &Fault) -> bool {
    matches!(fault.code, Code::Unavailable | Code::NotFound | Code::FailedPrecondition | Code::PermissionDenied)
}

/// Whether a model of another role may do what this one could not.
fn another_may_help(fault: &Fault) -> bool {
    matches!(fault.code, Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted)
}

fn part(part: Part) -> HandleResponse {
    HandleResponse { part: Some(part), ..Default::default() }
}

fn said(turn: tandem_contract::pb::tandem::session::v1::Turn) -> Said {
    let content = if turn.amended_text.is_empty() { turn.text } else { turn.amended_text };
    Said { role: turn.role, content, ..Default::default() }
}

fn finish(reason: Option<FinishReason>) -> &'static str {
    match reason {
        Some(FinishReason::FINISH_REASON_LENGTH) => "length",
        _ => "stop",
    }
}

fn count(usage: &TokenUsage) {
    counter!("tandem_chat_tokens_total", "kind" => "prompt").increment(usage.prompt_tokens.into());
    counter!("tandem_chat_tokens_total", "kind" => "cached").increment(usage.cached_tokens.into());
    counter!("tandem_chat_tokens_total", "kind" => "completion").increment(usage.completion_tokens.into());
}
