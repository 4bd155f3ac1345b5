//! A model that is gone before its test is.

use std::ops::Deref;

use tandem_engine::Lease;
use tandem_engine_llama::{LlamaGenerator, LlamaOptions};
use tokio::runtime::Handle;
use tokio::task::block_in_place;

/// Unloads its model when the test ends, also when it fails. A process that ends while llama.cpp still computes tears
/// down what that thread uses. Needs a runtime of several threads.
pub(crate) struct Held(LlamaGenerator);

impl Held {
    pub(crate) async fn load(options: LlamaOptions, lease: Lease) -> Self {
        Self(LlamaGenerator::load(options, lease).await.unwrap())
    }
}

impl Deref for Held {
    type Target = LlamaGenerator;
    fn deref(&self) -> &LlamaGenerator {
        &self.0
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Why it ended is what the test looked at.
        let _ = block_in_place(|| Handle::current().block_on(self.0.stop()));
    }
}
