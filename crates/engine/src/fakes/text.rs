//! A text model without weights, told what to say and how to fail. For tests only: its tokens are words.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tandem_types::{Code, Fault, reason};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    ChatMessage, FinishReason, Finished, GeneratorInfo, GeneratorLoad, NO_ADAPTER, NO_CHAT_TEMPLATE, Prompt,
    TextGenerator, TextRequest, TextSink, TextStream, TokenCounts, engine_lost,
};

type Reply = Box<dyn Fn(&TextRequest) -> String + Send + Sync>;

/// A scripted [`TextGenerator`] that keeps every promise of the trait, until told to break.
#[derive(Clone)]
pub struct FakeGenerator(Arc<Fake>);

struct Fake {
    info: GeneratorInfo,
    reply: Reply,
    token_delay: Duration,
    gate: Option<Arc<Semaphore>>,
    refusal: Option<Fault>,
    adapters: Vec<String>,
    die_after: Option<u32>,
    dead: AtomicBool,
    slots: Arc<Semaphore>,
    busy: AtomicU32,
    waiting: AtomicU32,
}

impl FakeGenerator {
    /// A model with 2 slots, a queue of 4, a context of 512 words and a chat template, which says what it was told
    /// last, word for word.
    pub fn builder(model: &str) -> FakeBuilder {
        let info = GeneratorInfo {
            model: model.to_owned(),
            engine: "fake".to_owned(),
            context_tokens: 512,
            slots: 2,
            queue: 4,
            chat_template: true,
        };
        FakeBuilder(Fake {
            slots: Arc::new(Semaphore::new(0)),
            info,
            reply: Box::new(|request| match &request.prompt {
                Prompt::Chat(messages) => messages.last().map(|m| m.content.clone()).unwrap_or_default(),
                Prompt::Raw(text) => text.clone(),
            }),
            token_delay: Duration::ZERO,
            gate: None,
            refusal: None,
            adapters: Vec::new(),
            die_after: None,
            dead: AtomicBool::new(false),
            busy: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
        })
    }
}

/// How a [`FakeGenerator`] behaves.
pub struct FakeBuilder(Fake);

impl FakeBuilder {
    /// What it answers.
    #[must_use]
    pub fn reply(mut self, reply: impl Fn(&TextRequest) -> String + Send + Sync + 'static) -> Self {
        self.0.reply = Box::new(reply);
        self
    }

    /// Words of prompt and answer that fit.
    #[must_use]
    pub fn context(mut self, tokens: u32) -> Self {
        self.0.info.context_tokens = tokens;
        self
    }

    /// Answers side by side, and requests that may wait.
    #[must_use]
    pub fn slots(mut self, slots: u32, queue: u32) -> Self {
        (self.0.info.slots, self.0.info.queue) = (slots, queue);
        self
    }

    /// Without a chat template it takes raw prompts only.
    #[must_use]
    pub fn without_chat_template(mut self) -> Self {
        self.0.info.chat_template = false;
        self
    }

    /// Slow: so long for every word.
    #[must_use]
    pub fn token_delay(mut self, delay: Duration) -> Self {
        self.0.token_delay = delay;
        self
    }

    /// Every word waits for a permit of this semaphore and uses it up, so a test decides how far an answer gets.
    #[must_use]
    pub fn gate(mut self, gate: Arc<Semaphore>) -> Self {
        self.0.gate = Some(gate);
        self
    }

    /// Refuses every request.
    #[must_use]
    pub fn refuse(mut self, fault: Fault) -> Self {
        self.0.refusal = Some(fault);
        self
    }

    /// Knows an adapter of this name, with which it begins its answers.
    #[must_use]
    pub fn adapter(mut self, name: &str) -> Self {
        self.0.adapters.push(name.to_owned());
        self
    }

    /// Dies when an answer has so many words: that answer, the others under way and all later requests end with
    /// `engine_lost`.
    #[must_use]
    pub fn die_after(mut self, tokens: u32) -> Self {
        self.0.die_after = Some(tokens);
        self
    }

    /// The model.
    pub fn build(mut self) -> FakeGenerator {
        self.0.slots = Arc::new(Semaphore::new(self.0.info.slots as usize));
        FakeGenerator(Arc::new(self.0))
    }
}

fn words(text: &str) -> u32 {
    u32::try_from(text.split_whitespace().count()).unwrap_or(u32::MAX)
}

fn prompt_tokens(prompt: &Prompt) -> u32 {
    match prompt {
        // Each message costs a word for its role, as in a real template.
        Prompt::Chat(messages) => messages.iter().map(|m: &ChatMessage| 1 + words(&m.content)).sum(),
        Prompt::Raw(text) => words(text),
    }
}

#[async_trait]
impl TextGenerator for FakeGenerator {
    fn info(&self) -> &GeneratorInfo {
        &self.0.info
    }

    fn load(&self) -> GeneratorLoad {
        GeneratorLoad { busy: self.0.busy.load(Ordering::SeqCst), waiting: self.0.waiting.load(Ordering::SeqCst) }
    }

    async fn generate(&self, request: TextRequest) -> Result<TextStream, Fault> {
        let fake = &self.0;
        request.check()?;
        fake.usable(&request.prompt)?;
        if let Some(unknown) = request.adapter.as_ref().filter(|name| !fake.adapters.contains(name)) {
            let message = format!("{} knows no adapter `{unknown}`", fake.info.model);
            return Err(Fault::new(Code::NotFound, NO_ADAPTER, message));
        }
        let prompt = prompt_tokens(&request.prompt);
        let context = fake.info.context_tokens;
        if prompt >= context {
            let message = format!("the prompt has {prompt} tokens, the context of {} holds {context}", fake.info.model);
            return Err(Fault::new(Code::InvalidArgument, reason::CONTEXT_LENGTH, message));
        }
        let most = request.max_tokens.unwrap_or(u32::MAX).min(context - prompt);
        let (sink, stream) = TextStream::channel(most as usize + 1);
        let slot = Arc::clone(&fake.slots).try_acquire_owned().ok();
        if slot.is_none() && fake.waiting.fetch_add(1, Ordering::SeqCst) >= fake.info.queue {
            fake.waiting.fetch_sub(1, Ordering::SeqCst);
            let message = format!("{} requests wait for {} already", fake.info.queue, fake.info.model);
            return Err(
                Fault::new(Code::ResourceExhausted, reason::QUEUE_FULL, message).retry_after(Duration::from_secs(1))
            );
        }
        if slot.is_some() {
            fake.busy.fetch_add(1, Ordering::SeqCst);
        }
        tokio::spawn(Arc::clone(fake).answer(request, prompt, most, sink, slot));
        Ok(stream)
    }

    async fn count_tokens(&self, prompt: &Prompt) -> Result<u32, Fault> {
        let violations = prompt.violations();
        if !violations.is_empty() {
            return Err(Fault::invalid(violations));
        }
        self.0.usable(prompt)?;
        Ok(prompt_tokens(prompt))
    }
}

impl Fake {
    fn usable(&self, prompt: &Prompt) -> Result<(), Fault> {
        if self.dead.load(Ordering::SeqCst) {
            return Err(engine_lost());
        }
        if matches!(prompt, Prompt::Chat(_)) && !self.info.chat_template {
            let message = format!("{} has no chat template; send a raw prompt", self.info.model);
            return Err(Fault::new(Code::FailedPrecondition, NO_CHAT_TEMPLATE, message));
        }
        self.refusal.clone().map_or(Ok(()), Err)
    }

    async fn answer(
        self: Arc<Self>,
        request: TextRequest,
        prompt: u32,
        most: u32,
        sink: TextSink,
        slot: Option<OwnedSemaphorePermit>,
    ) {
        let start = Instant::now();
        let slot = match slot {
            Some(slot) => slot,
            None => {
                let slot = tokio::select! {
                    slot = Arc::clone(&self.slots).acquire_owned() => slot.ok(),
                    () = sink.closed() => None,
                };
                self.waiting.fetch_sub(1, Ordering::SeqCst);
                let Some(slot) = slot else { return };
                self.busy.fetch_add(1, Ordering::SeqCst);
                slot
            }
        };
        let waited = start.elapsed();
        tokio::select! {
            () = self.say(&request, &sink, prompt, most, waited) => {}
            () = sink.closed() => {}
        }
        self.busy.fetch_sub(1, Ordering::SeqCst);
        drop(slot);
    }

    async fn say(&self, request: &TextRequest, sink: &TextSink, prompt: u32, most: u32, waited: Duration) {
        let reply = (self.reply)(request);
        let reply = request.adapter.as_ref().map_or(reply.clone(), |adapter| format!("{adapter}: {reply}"));
        let end = request.stop.iter().filter_map(|stop| reply.find(stop.as_str())).min();
        let start = Instant::now();
        let (mut written, mut reason) = (0, FinishReason::Stop);
        for word in reply[..end.unwrap_or(reply.len())].split_inclusive(' ') {
            if written == most {
                reason = FinishReason::Length;
                break;
            }
            tokio::time::sleep(self.token_delay).await;
            if let Some(gate) = &self.gate {
                let Ok(permit) = gate.acquire().await else { return };
                permit.forget();
            }
            if self.die_after == Some(written) {
                self.dead.store(true, Ordering::SeqCst);
            }
            if self.dead.load(Ordering::SeqCst) {
                return sink.fail(engine_lost());
            }
            sink.text(word.to_owned());
            written += 1;
        }
        let tokens = TokenCounts { prompt, reused: 0, written };
        sink.finish(Finished { reason, tokens, waited, prompt: Duration::ZERO, writing: start.elapsed() });
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;

    use super::*;
    use crate::{ChatRole, TextEvent};

    fn chat(text: &str) -> TextRequest {
        TextRequest::new(Prompt::Chat(vec![ChatMessage::new(ChatRole::User, text)]))
    }

    #[tokio::test]
    async fn it_keeps_the_promises_of_the_trait() {
        let endless = |_: &TextRequest| "one two three four five six seven eight nine ten ".repeat(100);
        let fake = FakeGenerator::builder("fake").reply(endless).token_delay(Duration::from_millis(1)).build();
        crate::conformance::text_generator(&fake).await;
        let fake = FakeGenerator::builder("fake").adapter("warm").build();
        crate::conformance::adapters(&fake, "warm").await;
    }

    #[tokio::test]
    async fn it_dies_in_mid_answer_when_told() {
        let fake = FakeGenerator::builder("fake").die_after(2).build();
        let mut stream = fake.generate(chat("one two three")).await.unwrap();
        assert_eq!(stream.next().await, Some(Ok(TextEvent::Text("one ".into()))));
        assert_eq!(stream.next().await, Some(Ok(TextEvent::Text("two ".into()))));
        assert_eq!(stream.next().await.unwrap().unwrap_err().reason, reason::ENGINE_LOST);
        assert_eq!(fake.generate(chat("again")).await.unwrap_err().reason, reason::ENGINE_LOST);
    }

    #[tokio::test]
    async fn a_gate_decides_how_far_an_answer_gets() {
        let gate = Arc::new(Semaphore::new(1));
        let fake = FakeGenerator::builder("fake").gate(Arc::clone(&gate)).build();
        let mut stream = fake.generate(chat("one two")).await.unwrap();
        assert_eq!(stream.next().await, Some(Ok(TextEvent::Text("one ".into()))));
        assert_eq!(fake.load().busy, 1);
        gate.add_permits(1);
        assert_eq!(stream.collect().await.unwrap().0, "two");
    }
}
