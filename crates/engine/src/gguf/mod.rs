//! The header of a GGUF file, of a model or an adapter, read without loading it.
//!
//! Format: the GGUF specification of the ggml project, versions 2 and 3.

mod adapter;
mod estimate;
mod read;
#[cfg(feature = "fakes")]
mod sample;

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

pub use adapter::AdapterInfo;
pub use estimate::{Estimate, KvType, Shape, estimate_memory};
use read::{Header, Value};
#[cfg(feature = "fakes")]
pub use sample::sample_adapter;

/// What the header says about a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GgufInfo {
    /// Kind of network, for example `llama`.
    pub architecture: String,
    /// The model's own name; empty when it has none.
    pub name: String,
    /// Transformer layers.
    pub layers: u32,
    /// Width of the residual stream.
    pub embedding: u32,
    /// Width inside the feed-forward blocks; the widest layer counts.
    pub feed_forward: u32,
    /// Attention heads; the layer with most counts.
    pub heads: u32,
    /// Key and value heads, for each layer; 0 where a layer keeps no keys.
    pub kv_heads: Vec<u32>,
    /// Numbers in a key of one head.
    pub key_width: u32,
    /// Numbers in a value of one head.
    pub value_width: u32,
    /// Tokens the model was trained to see at once.
    pub context_length: u32,
    /// Tokens it knows.
    pub vocabulary: u32,
    /// It carries a chat template.
    pub chat_template: bool,
    /// Bytes of all tensors.
    pub tensor_bytes: u64,
    /// Bytes of these that are held in memory twice: of a matrix that is both the first and the last step, where the last
    /// wants it in another order.
    pub twice_bytes: u64,
    /// Bytes of the file.
    pub file_bytes: u64,
}

/// Why a file is no usable model.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Io(#[from] std::io::Error),
    /// It does not start like a GGUF file.
    #[error("is not a GGUF file")]
    NotGguf,
    /// It has a version this reader does not know.
    #[error("has GGUF version {0}; versions 2 and 3 are known")]
    Version(u32),
    /// It ends before its tensors do.
    #[error("is cut short: its tensors need {needed} bytes, the file has {actual}; download it again")]
    Short {
        /// Bytes the header asks for.
        needed: u64,
        /// Bytes there are.
        actual: u64,
    },
    /// Its header contradicts itself or lacks what every model has.
    #[error("has a broken header: {0}; download it again")]
    Broken(String),
    /// It is an adapter and was read as a model.
    #[error("is an adapter; it goes with the model it was made for")]
    Adapter,
    /// It is no adapter of the model it was compared with, for these reasons.
    #[error("is no adapter for it: {}", .0.join("; "))]
    Unfit(Vec<String>),
}

impl GgufInfo {
    /// Reads the header of a file and checks that the file holds all tensors it announces.
    ///
    /// # Errors
    /// What is wrong with the file; the message goes on from the file's name.
    pub fn read(path: &Path) -> Result<Self, GgufError> {
        let (header, file_bytes) = header_of(path)?;
        Self::from_header(&header, file_bytes)
    }

    fn from_header(header: &Header, file_bytes: u64) -> Result<Self, GgufError> {
        if header.text("general.type") == Some("adapter") {
            return Err(GgufError::Adapter);
        }
        let architecture = header.architecture()?.to_owned();
        let field = |name: &str| header.values.get(&format!("{architecture}.{name}"));
        let number = |name: &str| match field(name) {
            Some(Value::Number(n)) => size(*n),
            Some(Value::Numbers(all)) => all.iter().copied().max().and_then(size),
            _ => None,
        };
        let must =
            |name: &str| number(name).ok_or_else(|| GgufError::Broken(format!("`{architecture}.{name}` is missing")));
        let layers = must("block_count")?;
        if layers > MOST_LAYERS {
            return Err(GgufError::Broken(format!("it announces {layers} layers")));
        }
        let heads = must("attention.head_count")?.max(1);
        let embedding = must("embedding_length")?;
        let kv_heads = match field("attention.head_count_kv") {
            Some(Value::Numbers(all)) => all.iter().map(|n| size(*n).unwrap_or(0)).collect(),
            Some(Value::Number(n)) => vec![size(*n).unwrap_or(heads); layers as usize],
            _ => vec![heads; layers as usize],
        };
        let vocabulary = match header.values.get("tokenizer.ggml.tokens") {
            Some(Value::Length(n)) => size(*n),
            _ => None,
        };
        Ok(Self {
            name: header.text("general.name").unwrap_or_default().to_owned(),
            layers,
            embedding,
            feed_forward: number("feed_forward_length").unwrap_or(4 * embedding),
            heads,
            kv_heads,
            key_width: number("attention.key_length").unwrap_or(embedding / heads),
            value_width: number("attention.value_length").unwrap_or(embedding / heads),
            context_length: must("context_length")?,
            vocabulary: vocabulary.or_else(|| number("vocab_size")).unwrap_or(0),
            chat_template: header.values.contains_key("tokenizer.chat_template"),
            tensor_bytes: header.tensor_bytes,
            twice_bytes: header.twice_bytes,
            file_bytes,
            architecture,
        })
    }
}

/// The header of a file that is whole, and the bytes of the file.
fn header_of(path: &Path) -> Result<(Header, u64), GgufError> {
    let file = File::open(path)?;
    let file_bytes = file.metadata()?.len();
    let header = read::header(&mut BufReader::with_capacity(1 << 20, file), file_bytes)?;
    if header.end > file_bytes {
        return Err(GgufError::Short { needed: header.end, actual: file_bytes });
    }
    Ok((header, file_bytes))
}

impl Header {
    fn text(&self, key: &str) -> Option<&str> {
        match self.values.get(key) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    fn architecture(&self) -> Result<&str, GgufError> {
        self.text("general.architecture").ok_or_else(|| GgufError::Broken("it names no architecture".to_owned()))
    }
}

/// More layers than any model has.
const MOST_LAYERS: u32 = 4096;

/// A width or count of a model; none is as large as 2^28.
fn size(number: u64) -> Option<u32> {
    u32::try_from(number).ok().filter(|n| *n < 1 << 28)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes small files the way the specification lays them out.
    pub(super) struct Sample(pub(super) Vec<u8>);

    impl Sample {
        pub(super) fn new(tensors: u64, values: u64) -> Self {
            let mut bytes = b"GGUF".to_vec();
            bytes.extend(3u32.to_le_bytes());
            bytes.extend(tensors.to_le_bytes());
            bytes.extend(values.to_le_bytes());
            Self(bytes)
        }
        pub(super) fn text(mut self, text: &str) -> Self {
            self.0.extend((text.len() as u64).to_le_bytes());
            self.0.extend(text.as_bytes());
            self
        }
        pub(super) fn u32(mut self, n: u32) -> Self {
            self.0.extend(n.to_le_bytes());
            self
        }
        pub(super) fn u64(mut self, n: u64) -> Self {
            self.0.extend(n.to_le_bytes());
            self
        }
        pub(super) fn number(self, key: &str, n: u32) -> Self {
            self.text(key).u32(4).u32(n)
        }
    }

    /// A llama of 2 layers with one f32 tensor of 8 by 4.
    pub(super) fn tiny() -> Sample {
        let mut sample = Sample::new(1, 8)
            .text("general.architecture")
            .u32(8)
            .text("llama")
            .number("llama.block_count", 2)
            .number("llama.attention.head_count", 4)
            .text("llama.attention.head_count_kv")
            .u32(9)
            .u32(4)
            .u64(2)
            .u32(2)
            .u32(0)
            .number("llama.embedding_length", 64)
            .number("llama.context_length", 512)
            .text("tokenizer.ggml.tokens")
            .u32(9)
            .u32(8)
            .u64(3)
            .text("a")
            .text("bc")
            .text("")
            .text("tokenizer.chat_template")
            .u32(8)
            .text("{{ messages }}")
            .text("token_embd.weight")
            .u32(2)
            .u64(8)
            .u64(4)
            .u32(0)
            .u64(0);
        let start = sample.0.len().next_multiple_of(32);
        sample.0.resize(start + 8 * 4 * 4, 0);
        sample
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<GgufInfo, GgufError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.gguf");
        std::fs::write(&path, bytes).unwrap();
        GgufInfo::read(&path)
    }

    #[test]
    fn a_header_tells_the_shape_of_the_model() {
        let info = parse(&tiny().0).unwrap();
        assert_eq!(info.architecture, "llama");
        assert_eq!((info.layers, info.heads, info.kv_heads), (2, 4, vec![2, 0]));
        assert_eq!((info.embedding, info.feed_forward, info.key_width, info.value_width), (64, 256, 16, 16));
        assert_eq!((info.context_length, info.vocabulary, info.chat_template), (512, 3, true));
        assert_eq!(info.tensor_bytes, 128);
    }

    #[test]
    fn a_matrix_for_two_steps_counts_twice_where_it_is_reordered() {
        let model = |kind: u32, tensors: &[&str]| {
            let mut sample = Sample::new(tensors.len() as u64, 5)
                .text("general.architecture")
                .u32(8)
                .text("llama")
                .number("llama.block_count", 1)
                .number("llama.attention.head_count", 1)
                .number("llama.embedding_length", 256)
                .number("llama.context_length", 512);
            for (n, name) in (0..).zip(tensors) {
                sample = sample.text(name).u32(2).u64(256).u64(8).u32(kind).u64(n * 8_192);
            }
            let start = sample.0.len().next_multiple_of(32);
            sample.0.resize(start + 8_192 * tensors.len(), 0);
            parse(&sample.0).unwrap().twice_bytes
        };
        const Q4_1: u32 = 3;
        const Q4_K: u32 = 12;
        for (kind, tensors, twice) in [
            (Q4_K, &["token_embd.weight"][..], 8 * 144),
            (Q4_K, &["output_norm.weight", "token_embd.weight"], 8 * 144),
            (Q4_K, &["token_embd.weight", "output.weight"], 0),
            (Q4_K, &["output.weight", "token_embd.weight"], 0),
            (Q4_1, &["token_embd.weight"], 0),
        ] {
            assert_eq!(model(kind, tensors), twice, "{kind} {tensors:?}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said() {
        let whole = tiny().0;
        let mut version = whole.clone();
        version[4] = 9;
        for (bytes, said) in [
            (Vec::new(), "is cut short"),
            (b"PK\x03\x04 something else entirely".to_vec(), "is not a GGUF file"),
            (version, "has GGUF version 9"),
            (whole[..60].to_vec(), "is cut short"),
            (whole[..whole.len() - 1].to_vec(), "is cut short"),
            (Sample::new(0, 0).0, "names no architecture"),
            (Sample::new(0, 1).text("general.architecture").u32(8).text("llama").0, "`llama.block_count` is missing"),
            (Sample::new(0, 1).text("k").u32(77).0, "unknown type 77"),
            (Sample::new(0, 1).u64(u64::MAX).0, "is cut short"),
            (Sample::new(u64::MAX, 0).0, "announces"),
        ] {
            let error = parse(&bytes).unwrap_err().to_string();
            assert!(error.contains(said), "{error:?} does not say {said:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_give_an_answer(tail in proptest::collection::vec(proptest::num::u8::ANY, 0..200), flip in 0..300usize, to: u8) {
            let mut bytes = tiny().0;
            let at = flip % bytes.len();
            bytes[at] = to;
            for bytes in [&[&b"GGUF\x03\0\0\0"[..], &tail].concat(), &bytes] {
                if let Ok(info) = parse(bytes) {
                    let shape = Shape { context: u32::MAX, slots: u32::MAX, batch: 1, kv: KvType::Q8_0 };
                    proptest::prop_assert!(estimate_memory(&info, &shape).total >= info.tensor_bytes);
                }
            }
        }
    }
}
