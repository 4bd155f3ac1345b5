//! Evaluating: a model answers the questions of a suite, one after the other and behind everybody else.

mod suite;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use serde::{Deserialize, Serialize};
use tandem_contract::pb::tandem::common::v1::TokenUsage;
use tandem_contract::pb::tandem::model::v1 as pb;
use tandem_contract::rpc::engine;
use tandem_contract::{Call, Client};
use tandem_store::models::Evaluation;
use tandem_types::{Code, Fault, reason};

use super::Suite;
use crate::fields::Fields;
use crate::language::chitchat;
use suite::{Prompts, Question, USUAL};

/// Longest time for one question; a model that needs longer is of no use in a conversation.
const QUESTION: Duration = Duration::from_secs(120);
/// When to ask again while another evaluation runs.
const ANOTHER: Duration = Duration::from_secs(30);
/// Behind everybody else.
const LAST: u32 = 10;

/// What an evaluation found, as it is kept.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Report {
    suite_sha256: String,
    questions: Vec<Outcome>,
    prompt_tokens: u32,
    completion_tokens: u32,
    writing_ms: u32,
    first_token_ms: u32,
    duration_ms: u32,
}

/// How a question went.
#[derive(Debug, Serialize, Deserialize)]
struct Outcome {
    name: String,
    kind: String,
    /// What is wrong with the answer; empty when nothing is.
    cause: String,
    answer: String,
}

/// An answer and what it took.
#[derive(Debug, Default)]
struct Answered {
    text: String,
    usage: TokenUsage,
    writing: Duration,
    first: Duration,
}

/// The engine of a model, with or without an adapter, lent to this agent until it is dropped.
struct Loan {
    suite: Arc<Suite>,
    ticket: String,
    client: Client,
    /// Laid over its answers.
    adapter: Option<String>,
}

impl Drop for Loan {
    fn drop(&mut self) {
        // A ticket of an engine that ended is gone already.
        let _ = self.suite.desk().release(&self.ticket, self.suite.now());
        self.suite.stir();
    }
}

impl Suite {
    /// Evaluates a model and answers once the report is on disk.
    pub(super) async fn evaluate(
        self: Arc<Self>,
        call: Call,
        request: pb::EvaluateRequest,
    ) -> Result<pb::EvaluateResponse, Fault> {
        let mut fields = Fields::default();
        let key = fields.key(&request.idempotency_key);
        let base = self.desk().base_of(&request.adapter).map(str::to_owned);
        let model = match base {
            Ok(base) if request.model.is_empty() => base,
            Err(fault) if !request.adapter.is_empty() => return Err(fault),
            _ => request.model,
        };
        let adapter = Some(request.adapter).filter(|adapter| !adapter.is_empty());
        fields.require(!model.is_empty(), "model", "is missing");
        let name = if request.suite.is_empty() { USUAL } else { &request.suite };
        let suite = suite::find(name)
            .map_err(|known| fields.wrong("suite", format!("`{name}` is not there; there are {known}")))
            .ok();
        let (key, suite) = fields.all(key.zip(suite))?;
        let id = key.to_string();
        if let Some(known) = self.books.evaluation(&id).await? {
            if (known.model.as_str(), &known.adapter, known.suite.as_str()) != (&model, &adapter, name) {
                let what =
                    known.adapter.as_ref().map_or(known.model.clone(), |one| format!("{one} on {}", known.model));
                let message = format!("this key was used to evaluate {what} with {}", known.suite);
                return Err(Fault::new(Code::Conflict, reason::KEY_REUSED, message));
            }
            return Ok(pb::EvaluateResponse { evaluation: shown(&known)?.into(), ..Default::default() });
        }
        let _one = self.evaluating.try_lock().map_err(|_| {
            let message = "another evaluation runs; two at once would measure each other";
            Fault::new(Code::ResourceExhausted, reason::QUEUE_FULL, message).retry_after(ANOTHER)
        })?;
        if let Some(adapter) = &adapter {
            self.desk().check_adapter(&model, adapter)?;
        }
        let loading = pb::LoadRequest { model: model.clone(), ..Default::default() };
        self.clone().load_model(call.clone(), loading).await?;
        let (begun, started) = (Instant::now(), self.now());
        let loan = self.loan(&model, adapter.clone())?;
        let call = call.next(self.ctx.id());
        let mut report = Report { suite_sha256: suite.sha256.clone(), ..Report::default() };
        let (mut firsts, mut writing) = (Vec::new(), Duration::ZERO);
        for question in &suite.questions {
            let answered = loan.put(question, suite.prompts, &call).await?;
            self.desk().record(&loan.ticket, "ok", self.now())?;
            report.prompt_tokens += answered.usage.prompt_tokens;
            report.completion_tokens += answered.usage.completion_tokens;
            writing += answered.writing;
            firsts.push(answered.first);
            report.questions.push(Outcome {
                name: question.name.clone(),
                kind: question.kind.clone(),
                cause: question.judge(&answered.text),
                answer: answered.text,
            });
        }
        firsts.sort_unstable();
        report.first_token_ms = firsts.get(firsts.len() / 2).copied().map_or(0, ms);
        (report.writing_ms, report.duration_ms) = (ms(writing), ms(begun.elapsed()));
        let body = serde_json::to_string(&report).map_err(|e| Fault::internal(format!("write a report: {e}")))?;
        let evaluation = Evaluation { id, model, adapter, suite: name.to_owned(), started, body };
        self.books.evaluated(evaluation.clone()).await?;
        Ok(pb::EvaluateResponse { evaluation: shown(&evaluation)?.into(), ..Default::default() })
    }

    pub(super) async fn get_evaluation(
        self: Arc<Self>,
        _: Call,
        request: pb::GetEvaluationRequest,
    ) -> Result<pb::GetEvaluationResponse, Fault> {
        let (id, model) = (request.evaluation_id.as_str(), request.model.as_str());
        let found = match (id, model) {
            ("", "") => {
                return Err(Fault::invalid_field("evaluation_id", "is missing, and so is `model`: set one of them"));
            }
            ("", model) => self.books.last_evaluation(model, &request.adapter).await?,
            (id, _) => self.books.evaluation(id).await?,
        };
        let with = if request.adapter.is_empty() { String::new() } else { format!(" with {}", request.adapter) };
        let found = found.filter(|found| model.is_empty() || found.model == model).ok_or_else(|| {
            Fault::not_found(if id.is_empty() {
                format!("{model} was not evaluated{with} yet")
            } else {
                format!("no evaluation `{id}`")
            })
        })?;
        Ok(pb::GetEvaluationResponse { evaluation: shown(&found)?.into(), ..Default::default() })
    }

    fn loan(self: &Arc<Self>, model: &str, adapter: Option<String>) -> Result<Loan, Fault> {
        let ticket = uuid::Uuid::new_v4().to_string();
        let endpoint = {
            let mut desk = self.desk();
            let endpoint = desk.lend_model(model, self.ctx.id().to_string(), &ticket, self.now())?;
            if let Some(adapter) = &adapter {
                desk.hold_adapter(model, adapter);
            }
            endpoint
        };
        Ok(Loan { client: self.ctx.peers().at(&endpoint)?, suite: self.clone(), ticket, adapter })
    }
}

impl Loan {
    /// Puts a question to the model.
    async fn put(&self, question: &Question, prompts: Prompts, call: &Call) -> Result<Answered, Fault> {
        let message = |(role, content): &(String, String)| pb::Message {
            role: role.clone(),
            content: content.clone(),
            ..Default::default()
        };
        let said: Vec<pb::Message> = question.say.iter().map(message).collect();
        let request = pb::GenerateRequest {
            ticket_id: self.ticket.clone(),
            messages: match prompts {
                Prompts::None => said,
                Prompts::ChitchatAgent => chitchat::prompt(said),
            },
            // The likeliest tokens, so that a second evaluation finds the same.
            sampling: pb::Sampling { temperature: Some(0.0), ..Default::default() }.into(),
            max_tokens: question.most_tokens,
            priority: LAST,
            adapter: self.adapter.clone().unwrap_or_default(),
            ..Default::default()
        };
        let begun = Instant::now();
        let call = call.clone().within(QUESTION, begun);
        let mut stream = self.client.server_stream(engine::GENERATE, request, &call).await?;
        let mut answered = Answered::default();
        while let Some(piece) = stream.next().await {
            let piece = piece?;
            if answered.first.is_zero() {
                answered.first = begun.elapsed();
            }
            answered.text += &piece.text;
            answered.writing += Duration::from_millis(piece.generate_ms.into());
            answered.usage = piece.usage.into_option().unwrap_or(answered.usage);
        }
        Ok(answered)
    }
}

fn ms(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

/// An evaluation in the contract's words.
fn shown(evaluation: &Evaluation) -> Result<pb::Evaluation, Fault> {
    let report: Report = serde_json::from_str(&evaluation.body)
        .map_err(|e| Fault::internal(format!("the stored report {} cannot be read: {e}", evaluation.id)))?;
    let passed = report.questions.iter().filter(|question| question.cause.is_empty()).count();
    let per = |count: f32, of: f32| if of > 0.0 { count / of } else { 0.0 };
    let questions = report.questions.iter().map(|question| pb::QuestionResult {
        name: question.name.clone(),
        kind: question.kind.clone(),
        passed: question.cause.is_empty(),
        cause: question.cause.clone(),
        answer: question.answer.clone(),
        ..Default::default()
    });
    Ok(pb::Evaluation {
        evaluation_id: evaluation.id.clone(),
        model: evaluation.model.clone(),
        adapter: evaluation.adapter.clone().unwrap_or_default(),
        suite: evaluation.suite.clone(),
        suite_sha256: report.suite_sha256.clone(),
        score: per(passed as f32, report.questions.len() as f32),
        questions: questions.collect(),
        usage: TokenUsage {
            prompt_tokens: report.prompt_tokens,
            completion_tokens: report.completion_tokens,
            ..Default::default()
        }
        .into(),
        tokens_per_second: per(report.completion_tokens as f32, report.writing_ms as f32 / 1_000.0),
        first_token_ms: report.first_token_ms,
        started_us: evaluation.started.micros(),
        duration_ms: report.duration_ms,
        ..Default::default()
    })
}
