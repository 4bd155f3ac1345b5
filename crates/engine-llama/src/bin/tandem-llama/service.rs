//! `tandem.model.v1.Engine` on top of any [`TextGenerator`].

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tandem_contract::pb::tandem::common::v1::TokenUsage;
use tandem_contract::pb::tandem::model::v1 as pb;
use tandem_contract::rpc::{default_deadline, engine};
use tandem_contract::{Call, Reply, Service};
use tandem_engine::{ChatMessage, FinishReason, Finished, Prompt, Sampling, TextEvent, TextGenerator, TextRequest};
use tandem_engine_llama::resident_bytes;
use tandem_types::{Code, Fault, Role, Violation, reason};

use crate::life::{Life, now};

/// The shortest time between two pieces of an answer: that of two pictures on a slow screen.
const PACE: Duration = Duration::from_millis(33);

/// What the RPCs work on.
pub(crate) struct Serving {
    pub(crate) model: Arc<dyn TextGenerator>,
    pub(crate) roles: Vec<Role>,
    pub(crate) life: Arc<Life>,
}

/// The RPCs of an engine.
pub(crate) fn service(serving: Arc<Serving>) -> Service {
    let [info, generate, count] = [(); 3].map(|()| Arc::clone(&serving));
    Service::new()
        .unary(engine::GET_INFO, move |_, _: pb::GetInfoRequest| {
            let serving = Arc::clone(&info);
            async move { Ok(serving.info()) }
        })
        .server_stream(engine::GENERATE, move |call, request| {
            let serving = Arc::clone(&generate);
            async move { serving.generate(&call, request).await }
        })
        .unary(engine::COUNT_TOKENS, move |_, request| {
            let serving = Arc::clone(&count);
            async move { serving.count(request).await }
        })
}

impl Serving {
    fn info(&self) -> pb::GetInfoResponse {
        let (info, load) = (self.model.info(), self.model.load());
        pb::GetInfoResponse {
            model: info.model.clone(),
            roles: self.roles.iter().map(ToString::to_string).collect(),
            context_tokens: info.context_tokens,
            slots: info.slots,
            busy_slots: load.busy,
            waiting: load.waiting,
            resident_bytes: resident_bytes(),
            engine_version: info.engine.clone(),
            has_chat_template: info.chat_template,
            last_answer_us: self.life.last_answer().micros(),
            ..Default::default()
        }
    }

    async fn generate(&self, call: &Call, request: pb::GenerateRequest) -> Result<Reply<pb::GenerateResponse>, Fault> {
        let under_way = self.life.begin()?;
        let stream = Box::pin(self.model.generate(request_of(request)?).await?.joined(PACE));
        // A caller who set a deadline is held to that; the others to the longest silence between two messages.
        let silence = match call.deadline {
            Some(_) => Duration::MAX,
            None => default_deadline(engine::GENERATE.path()),
        };
        let life = Arc::clone(&self.life);
        let events = futures::stream::unfold(Some((stream, under_way)), move |state| {
            let life = Arc::clone(&life);
            async move {
                let (mut stream, under_way) = state?;
                let event = match tokio::time::timeout(silence, stream.next()).await {
                    Ok(event) => event?,
                    Err(_) => Err(too_silent(silence)),
                };
                match event {
                    Ok(TextEvent::Text(text)) => {
                        let piece = pb::GenerateResponse { text, ..Default::default() };
                        Some((Ok(piece), Some((stream, under_way))))
                    }
                    Ok(TextEvent::Finished(finished)) => {
                        life.answered(now());
                        Some((Ok(last(&finished)), None))
                    }
                    Err(fault) => Some((Err(fault), None)),
                }
            }
        });
        Ok(Box::pin(events))
    }

    async fn count(&self, request: pb::CountTokensRequest) -> Result<pb::CountTokensResponse, Fault> {
        let prompt = prompt_of(request.messages, request.text, "text").map_err(Fault::invalid)?;
        let tokens = self.model.count_tokens(&prompt).await?;
        Ok(pb::CountTokensResponse { tokens, ..Default::default() })
    }
}

fn too_silent(silence: Duration) -> Fault {
    let message = format!("no token came for {} s; set a deadline to wait longer", silence.as_secs());
    Fault::new(Code::DeadlineExceeded, reason::TIME_UP, message)
}

fn last(finished: &Finished) -> pb::GenerateResponse {
    let ms = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
    let reason = match finished.reason {
        FinishReason::Stop => pb::FinishReason::FINISH_REASON_STOP,
        FinishReason::Length => pb::FinishReason::FINISH_REASON_LENGTH,
    };
    pb::GenerateResponse {
        finish_reason: reason.into(),
        usage: TokenUsage {
            prompt_tokens: finished.tokens.prompt,
            cached_tokens: finished.tokens.reused,
            completion_tokens: finished.tokens.written,
            ..Default::default()
        }
        .into(),
        prompt_ms: ms(finished.prompt),
        generate_ms: ms(finished.writing),
        wait_ms: ms(finished.waited),
        ..Default::default()
    }
}

fn prompt_of(messages: Vec<pb::Message>, text: String, field: &str) -> Result<Prompt, Vec<Violation>> {
    let wrong = |field: String, problem: String| Violation { field, problem };
    match (messages.is_empty(), text.is_empty()) {
        (true, true) => Err(vec![wrong("messages".into(), format!("is empty, and so is {field}: set one of them"))]),
        (false, false) => Err(vec![wrong(field.into(), "is set beside messages: set one of them".into())]),
        (true, false) => Ok(Prompt::Raw(text)),
        (false, true) => {
            let mut violations = Vec::new();
            let mut chat = Vec::new();
            for (index, message) in messages.into_iter().enumerate() {
                match message.role.parse() {
                    Ok(role) => chat.push(ChatMessage { role, content: message.content }),
                    Err(problem) => violations.push(wrong(format!("messages[{index}].role"), problem)),
                }
            }
            if violations.is_empty() { Ok(Prompt::Chat(chat)) } else { Err(violations) }
        }
    }
}

/// The request in the engine's words. Values are checked by the engine.
fn request_of(request: pb::GenerateRequest) -> Result<TextRequest, Fault> {
    let prompt = prompt_of(request.messages, request.prompt, "prompt").map_err(Fault::invalid)?;
    let mut asked = TextRequest::new(prompt);
    if let Some(sampling) = request.sampling.as_option() {
        let default = Sampling::default();
        asked.sampling = Sampling {
            repeat_penalty: sampling.repeat_penalty.unwrap_or(default.repeat_penalty),
            top_k: sampling.top_k.unwrap_or(default.top_k),
            top_p: sampling.top_p.unwrap_or(default.top_p),
            min_p: sampling.min_p.unwrap_or(default.min_p),
            temperature: sampling.temperature.unwrap_or(default.temperature),
            seed: sampling.seed,
        };
    }
    asked.max_tokens = (request.max_tokens > 0).then_some(request.max_tokens);
    asked.stop = request.stop;
    asked.adapter = (!request.adapter.is_empty()).then_some(request.adapter);
    asked.session = (!request.session_key.is_empty()).then_some(request.session_key);
    if request.priority > 0 {
        asked.priority = u8::try_from(request.priority).unwrap_or(u8::MAX);
    }
    Ok(asked)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tandem_contract::{Channel, Client, local};
    use tandem_engine::fakes::FakeGenerator;
    use tokio::sync::Semaphore;

    use super::*;

    fn client(model: FakeGenerator) -> (Client, Arc<Life>) {
        let life = Life::ready(now());
        let roles = vec!["llm.tiny".parse().unwrap()];
        let serving = Serving { model: Arc::new(model), roles, life: Arc::clone(&life) };
        let channel = Channel::Local(local(service(Arc::new(serving)).into_http()));
        (Client::new(channel, http::Uri::from_static("http://engine")), life)
    }

    fn hello(text: &str) -> pb::GenerateRequest {
        let message = pb::Message { role: "user".into(), content: text.into(), ..Default::default() };
        pb::GenerateRequest { messages: vec![message], ..Default::default() }
    }

    async fn generate(client: &Client, request: pb::GenerateRequest) -> Result<Vec<pb::GenerateResponse>, Fault> {
        let stream = client.server_stream(engine::GENERATE, request, &Call::from_door("test")).await?;
        stream.collect::<Vec<_>>().await.into_iter().collect()
    }

    #[tokio::test]
    async fn an_answer_comes_in_pieces_and_ends_with_its_usage() {
        let (client, _) = client(FakeGenerator::builder("fake").build());
        let pieces = generate(&client, hello("one two three")).await.unwrap();
        let text: String = pieces.iter().map(|piece| piece.text.as_str()).collect();
        assert_eq!(text, "one two three");
        let last = pieces.last().unwrap();
        assert_eq!(last.finish_reason.as_known(), Some(pb::FinishReason::FINISH_REASON_STOP));
        let usage = last.usage.as_option().unwrap();
        assert_eq!((usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens), (4, 0, 3));

        let info =
            client.unary(engine::GET_INFO, pb::GetInfoRequest::default(), &Call::from_door("test")).await.unwrap();
        assert_eq!((info.model.as_str(), info.slots, info.busy_slots), ("fake", 2, 0));
        let count = pb::CountTokensRequest { text: "one two".into(), ..Default::default() };
        assert_eq!(client.unary(engine::COUNT_TOKENS, count, &Call::from_door("test")).await.unwrap().tokens, 2);
    }

    #[tokio::test]
    async fn a_request_names_its_adapter() {
        let (client, _) = client(FakeGenerator::builder("fake").adapter("warm").build());
        let with = |adapter: &str| pb::GenerateRequest { adapter: adapter.into(), ..hello("one") };
        for (adapter, said) in [("", "one"), ("warm", "warm: one")] {
            let pieces = generate(&client, with(adapter)).await.unwrap();
            assert_eq!(pieces.iter().map(|piece| piece.text.as_str()).collect::<String>(), said);
        }
        assert_eq!(generate(&client, with("cold")).await.unwrap_err().code, Code::NotFound);
    }

    #[tokio::test]
    async fn wrong_requests_are_refused_field_by_field() {
        let (client, _) = client(FakeGenerator::builder("fake").build());
        let mut wrong = hello("x");
        wrong.messages[0].role = "robot".into();
        let both = pb::GenerateRequest { prompt: "y".into(), ..hello("x") };
        let urgent = pb::GenerateRequest { priority: 300, ..hello("x") };
        let elsewhere = pb::GenerateRequest { adapter: "../x".into(), ..hello("x") };
        for (request, field) in [
            (pb::GenerateRequest::default(), "messages"),
            (wrong, "messages[0].role"),
            (both, "prompt"),
            (urgent, "priority"),
            (elsewhere, "adapter"),
        ] {
            let fault = generate(&client, request).await.unwrap_err();
            assert_eq!((fault.code, fault.violations[0].field.as_str()), (Code::InvalidArgument, field));
        }
    }

    #[tokio::test]
    async fn draining_lets_running_answers_finish() {
        let gate = Arc::new(Semaphore::new(1));
        let (client, life) = client(FakeGenerator::builder("fake").gate(Arc::clone(&gate)).build());
        let call = Call::from_door("test");
        let mut running = client.server_stream(engine::GENERATE, hello("one two"), &call).await.unwrap();
        assert_eq!(running.next().await.unwrap().unwrap().text, "one ");
        life.drain("test");
        assert_eq!(generate(&client, hello("more")).await.unwrap_err().reason, reason::DRAINING);
        gate.add_permits(1);
        assert_eq!(running.next().await.unwrap().unwrap().text, "two");
        assert!(running.next().await.unwrap().unwrap().usage.is_set());
        drop(running);
        life.idle().await;
    }

    #[tokio::test]
    async fn an_engine_that_dies_ends_the_stream_with_its_fault() {
        let (client, life) = client(FakeGenerator::builder("fake").die_after(1).build());
        let mut stream =
            client.server_stream(engine::GENERATE, hello("one two"), &Call::from_door("test")).await.unwrap();
        assert_eq!(stream.next().await.unwrap().unwrap().text, "one ");
        assert_eq!(stream.next().await.unwrap().unwrap_err().reason, reason::ENGINE_LOST);
        drop(stream);
        life.idle().await;
    }
}
