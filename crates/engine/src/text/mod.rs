//! Writing text: what a chat or completion model can do.

mod request;
mod stream;

use async_trait::async_trait;
use tandem_types::Fault;

pub use request::{ChatMessage, ChatRole, NAME_RULE, Prompt, Sampling, TextRequest, is_name};
pub use stream::{FinishReason, Finished, TextEvent, TextSink, TextStream, TokenCounts};

/// Reason: a conversation was sent to a model that only continues texts.
pub const NO_CHAT_TEMPLATE: &str = "no_chat_template";
/// Reason: there is no adapter of this name.
pub const NO_ADAPTER: &str = "no_adapter";
/// Reason: an adapter is not made for this model, or its file is damaged.
pub const ADAPTER_UNFIT: &str = "adapter_unfit";

/// A model that continues a conversation or a text.
///
/// The same handle serves many callers at once; how many are answered side by side is [`GeneratorInfo::slots`].
#[async_trait]
pub trait TextGenerator: Send + Sync {
    /// What the model is; fixed while it is loaded.
    fn info(&self) -> &GeneratorInfo;

    /// How busy it is at this moment.
    fn load(&self) -> GeneratorLoad;

    /// Starts an answer and returns once the request is accepted: it has a slot or a place in the queue.
    ///
    /// Dropping the stream cancels the answer and frees its slot before the next token.
    ///
    /// # Errors
    /// `invalid_argument` for wrong fields, and with reason `context_length` when prompt and one token of answer do
    /// not fit; `failed_precondition`, `no_chat_template`, for a conversation when the model has none; `not_found`,
    /// `no_adapter`, for an adapter that is not here; `failed_precondition`, `adapter_unfit`, for one that does not fit;
    /// `resource_exhausted`, `queue_full`, with the time after which to try again; `unavailable`, `engine_lost`.
    /// An answer that breaks off later ends its stream with the error.
    async fn generate(&self, request: TextRequest) -> Result<TextStream, Fault>;

    /// Counts the tokens of a prompt as [`generate`](Self::generate) would see it.
    ///
    /// # Errors
    /// As for `generate`, except that any length is counted.
    async fn count_tokens(&self, prompt: &Prompt) -> Result<u32, Fault>;
}

/// What a text model is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GeneratorInfo {
    /// The model's name in the catalogue.
    pub model: String,
    /// The program that runs it, with its version.
    pub engine: String,
    /// Tokens of prompt and answer together, for one conversation.
    pub context_tokens: u32,
    /// Conversations answered side by side.
    pub slots: u32,
    /// Requests that may wait for a slot.
    pub queue: u32,
    /// The model carries a chat template, so [`Prompt::Chat`] works.
    pub chat_template: bool,
}

/// How busy a text model is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GeneratorLoad {
    /// Slots that are reading a prompt or writing an answer.
    pub busy: u32,
    /// Requests waiting for a slot.
    pub waiting: u32,
}
