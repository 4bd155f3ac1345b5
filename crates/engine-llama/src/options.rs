//! What to load and how to run it.

use std::path::PathBuf;

use tandem_engine::gguf::{KvType, Shape};

/// The program behind the trait, with the version it is pinned to.
pub const ENGINE_VERSION: &str = "llama.cpp of llama-cpp-2 0.1.160";

/// What to load and how to run it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LlamaOptions {
    /// The GGUF file.
    pub path: PathBuf,
    /// The model's name in the catalogue.
    pub name: String,
    /// Tokens of prompt and answer of one conversation; never more than the model was trained for.
    pub context: u32,
    /// Conversations side by side.
    pub slots: u32,
    /// Requests that may wait for a slot.
    pub queue: u32,
    /// Threads that compute; none for one on each physical core.
    pub threads: Option<u32>,
    /// Tokens computed in one step at most; more need more memory.
    pub batch: u32,
    /// How keys and values are kept.
    pub kv: KvType,
    /// Folder of adapters, each in a file `NAME.gguf`; none for a model without.
    pub adapters: Option<PathBuf>,
}

impl LlamaOptions {
    /// A context of 4096 tokens, 4 slots, 16 waiting, steps of at most 512 tokens, keys and values of 16 bits,
    /// no adapters.
    pub fn new(path: impl Into<PathBuf>, name: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            name: name.into(),
            context: 4096,
            slots: 4,
            queue: 16,
            threads: None,
            batch: 512,
            kv: KvType::F16,
            adapters: None,
        }
    }

    /// The part that decides how much memory the model needs.
    pub fn shape(&self) -> Shape {
        Shape { context: self.context, slots: self.slots, batch: self.batch, kv: self.kv }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_one_that_is_linked() {
        let version = ENGINE_VERSION.rsplit(' ').next().unwrap();
        let workspace = include_str!("../../../Cargo.toml");
        assert!(workspace.contains(&format!("llama-cpp-2 = {{ version = \"={version}\"")), "{version}");
    }
}
