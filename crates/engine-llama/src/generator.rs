//! The handle to a loaded model.

use std::sync::{Arc, Weak};

use async_trait::async_trait;
use llama_cpp_2::token::LlamaToken;
use tandem_engine::{
    EngineThread, GeneratorInfo, GeneratorLoad, Lease, Prompt, Runner, TextGenerator, TextRequest, TextStream,
    engine_lost,
};
use tandem_types::{Code, Fault, Violation, reason};
use tokio::sync::oneshot;

use crate::adapters::{Adapter, Folder};
use crate::logic::LEAST_READ;
use crate::machine::default_threads;
use crate::model::Loaded;
use crate::options::{ENGINE_VERSION, LlamaOptions};
use crate::scheduler::{Ask, EngineStats, Job, Scheduler, Shared};

/// A model that llama.cpp runs. Clones are handles to the same model; it is unloaded with the last.
#[derive(Debug, Clone)]
pub struct LlamaGenerator {
    info: Arc<GeneratorInfo>,
    runner: Runner<Ask>,
    /// The thread holds the model; a handle only borrows it to read prompts.
    loaded: Weak<Loaded>,
    shared: Arc<Shared>,
    adapters: Arc<Folder>,
}

/// What the thread tells about a model it has loaded.
type Report = (GeneratorInfo, Weak<Loaded>);

impl LlamaGenerator {
    /// Loads a model on a thread of its own. The lease is given back when the model is gone.
    ///
    /// # Errors
    /// `invalid_argument` for impossible options; `not_found`, `model_missing`; `internal`, `model_corrupt`, with file
    /// and cause; `failed_precondition`, `lease_too_small`, with the arithmetic.
    pub async fn load(options: LlamaOptions, lease: Lease) -> Result<Self, Fault> {
        let options = check(options)?;
        let shared = Arc::new(Shared::default());
        let adapters = Arc::new(Folder::new(&options));
        let name = options.name.clone();
        let queue = (options.slots + options.queue) as usize;
        let for_thread = Arc::clone(&shared);
        let body =
            move |lease: &Lease, thread: &mut EngineThread<Ask, Report>| serve(options, lease, thread, for_thread);
        let (runner, (info, loaded)) = Runner::start(&name, lease, queue, body).await?;
        Ok(Self { info: Arc::new(info), runner, loaded, shared, adapters })
    }

    /// What the engine has done so far.
    pub fn stats(&self) -> EngineStats {
        self.shared.read()
    }

    /// Waits until the engine has ended by itself.
    ///
    /// # Errors
    /// Why it ended.
    pub async fn ended(&self) -> Result<(), Fault> {
        self.runner.ended().await
    }

    /// Unloads the model after its current step; answers under way fail with `engine_lost`.
    ///
    /// # Errors
    /// Why it had ended before.
    pub async fn stop(&self) -> Result<(), Fault> {
        self.runner.stop().await
    }

    async fn adapter(&self, name: String) -> Result<Arc<Adapter>, Fault> {
        let adapters = self.adapters.clone();
        tokio::task::spawn_blocking(move || adapters.find(&name))
            .await
            .map_err(|e| Fault::internal(format!("look for an adapter: {e}")))?
    }

    async fn tokens(&self, prompt: Prompt) -> Result<Vec<LlamaToken>, Fault> {
        let loaded = self.loaded.upgrade().ok_or_else(engine_lost)?;
        // A long prompt takes milliseconds, too long for a thread that serves others.
        tokio::task::spawn_blocking(move || loaded.tokens(&prompt))
            .await
            .map_err(|e| Fault::internal(format!("read a prompt: {e}")))?
    }
}

fn check(mut options: LlamaOptions) -> Result<LlamaOptions, Fault> {
    let mut violations = Vec::new();
    let mut wrong = |ok: bool, field: &str, problem: &str| {
        if !ok {
            violations.push(Violation { field: field.to_owned(), problem: problem.to_owned() });
        }
    };
    wrong((1..=64).contains(&options.slots), "slots", "must be between 1 and 64");
    wrong((64..=1 << 20).contains(&options.context), "context", "must be between 64 and 1048576");
    wrong((16..=4096).contains(&options.batch), "batch", "must be between 16 and 4096");
    wrong(options.queue <= 10_000, "queue", "must be at most 10000");
    wrong(options.threads != Some(0), "threads", "must be at least 1");
    if !violations.is_empty() {
        return Err(Fault::invalid(violations));
    }
    // All slots write in one step, and somebody still reads.
    options.batch = options.batch.max(options.slots + LEAST_READ as u32);
    Ok(options)
}

fn serve(
    mut options: LlamaOptions,
    lease: &Lease,
    thread: &mut EngineThread<Ask, Report>,
    shared: Arc<Shared>,
) -> Result<(), Fault> {
    let loaded = Arc::new(Loaded::load(&mut options, lease)?);
    let context = loaded.context(&options, options.threads.unwrap_or_else(default_threads))?;
    let info = GeneratorInfo {
        model: options.name.clone(),
        engine: ENGINE_VERSION.to_owned(),
        context_tokens: options.context,
        slots: options.slots,
        queue: options.queue,
        chat_template: loaded.has_template(),
    };
    let weak = Arc::downgrade(&loaded);
    let (slots, queue) = (options.slots as usize, options.queue as usize);
    let mut scheduler = Scheduler::new(&loaded, lease, context, slots, queue, shared);
    thread.serve((info, weak), &mut scheduler)
}

#[async_trait]
impl TextGenerator for LlamaGenerator {
    fn info(&self) -> &GeneratorInfo {
        &self.info
    }

    fn load(&self) -> GeneratorLoad {
        self.shared.load()
    }

    async fn generate(&self, request: TextRequest) -> Result<TextStream, Fault> {
        request.check()?;
        let adapter = match request.adapter {
            Some(name) => Some(self.adapter(name).await?),
            None => None,
        };
        let prompt = self.tokens(request.prompt).await?;
        let context = self.info.context_tokens;
        let tokens = u32::try_from(prompt.len()).unwrap_or(u32::MAX);
        if tokens >= context {
            let message = format!(
                "the prompt has {tokens} tokens, the context of {} holds {context} with the answer; shorten it",
                self.info.model
            );
            return Err(Fault::new(Code::InvalidArgument, reason::CONTEXT_LENGTH, message));
        }
        if prompt.is_empty() {
            return Err(Fault::invalid_field("prompt", "has no tokens: give a text to go on from"));
        }
        let most = request.max_tokens.unwrap_or(u32::MAX).min(context - tokens);
        // One event for each token, one for text that was held back, and the end.
        let (sink, stream) = TextStream::channel(most as usize + 2);
        let job = Job {
            prompt,
            sampling: request.sampling,
            most,
            stop: request.stop,
            session: request.session,
            priority: request.priority,
            adapter,
            sink,
        };
        let (admitted, answer) = oneshot::channel();
        self.runner.send(Ask { job, admitted }).await?;
        answer.await.map_err(|_| engine_lost())??;
        Ok(stream)
    }

    async fn count_tokens(&self, prompt: &Prompt) -> Result<u32, Fault> {
        let violations = prompt.violations();
        if !violations.is_empty() {
            return Err(Fault::invalid(violations));
        }
        let tokens = self.tokens(prompt.clone()).await?;
        Ok(u32::try_from(tokens.len()).unwrap_or(u32::MAX))
    }
}
