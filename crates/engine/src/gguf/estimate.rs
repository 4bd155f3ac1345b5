//! How much memory a model will need, from its header alone.

use std::fmt;
use std::str::FromStr;

use super::GgufInfo;

/// How numbers of kept keys and values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KvType {
    /// 16 bits each.
    #[default]
    F16,
    /// 8 bits each and a scale for every 32.
    Q8_0,
}

impl KvType {
    /// Bytes of so many numbers.
    fn bytes(self, numbers: u64) -> u64 {
        match self {
            Self::F16 => numbers.saturating_mul(2),
            Self::Q8_0 => numbers.div_ceil(32).saturating_mul(34),
        }
    }
}

impl fmt::Display for KvType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::F16 => "f16",
            Self::Q8_0 => "q8_0",
        })
    }
}

impl FromStr for KvType {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "f16" => Ok(Self::F16),
            "q8_0" => Ok(Self::Q8_0),
            _ => Err(format!("`{text}` is not a type for keys and values: write f16 or q8_0")),
        }
    }
}

/// How a model will be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Tokens of prompt and answer of one conversation.
    pub context: u32,
    /// Conversations side by side.
    pub slots: u32,
    /// Tokens computed in one step.
    pub batch: u32,
    /// How keys and values are kept.
    pub kv: KvType,
}

/// Memory a model will need, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    /// The weights, those held twice counted so.
    pub weights: u64,
    /// Keys and values of all slots.
    pub kv: u64,
    /// Keys and values of conversations that wait without a slot: at most a quarter of those with one.
    pub kept: u64,
    /// Results on their way through the network.
    pub compute: u64,
    /// All of it, with 64 MiB for the program itself.
    pub total: u64,
    /// What a lease must have: the total with the 8 % by which the estimate may be off.
    pub upper: u64,
}

/// What the program needs besides the model.
const PROGRAM: u64 = 64 << 20;
/// The engine allots keys and values in steps of this many tokens.
const CONTEXT_STEP: u64 = 256;

/// Estimates from the header what a model will need.
///
/// Keys and values: for each layer, context × slots × (key + value width) × KV heads. Results on their way: for each
/// token of a step, either the logits with six rows of the network's width or three rows of the feed-forward width,
/// and the attention mask; besides, one row of logits for each slot.
pub fn estimate_memory(info: &GgufInfo, shape: &Shape) -> Estimate {
    let context = u64::from(shape.context).next_multiple_of(CONTEXT_STEP);
    let cells = context.saturating_mul(u64::from(shape.slots));
    let widths = (u64::from(info.key_width), u64::from(info.value_width));
    let kv = info
        .kv_heads
        .iter()
        .map(|heads| u64::from(*heads))
        .map(|heads| shape.kv.bytes(cells.saturating_mul(heads * (widths.0 + widths.1))))
        .fold(0, u64::saturating_add);
    let (vocabulary, embedding) = (u64::from(info.vocabulary), u64::from(info.embedding));
    let widest = (vocabulary + 6 * embedding).max(3 * u64::from(info.feed_forward) + 6 * embedding);
    let compute = u64::from(shape.batch)
        .saturating_mul(4 * widest + 2 * context)
        .saturating_add(4 * vocabulary * u64::from(shape.slots));
    let kept = kv / 4;
    let weights = info.tensor_bytes.saturating_add(info.twice_bytes);
    let total = [weights, kv, kept, compute, PROGRAM].into_iter().fold(0, u64::saturating_add);
    Estimate { weights, kv, kept, compute, total, upper: total.saturating_add(total / 100 * 8) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SmolLM2 135M in Q4_1.
    fn smollm2() -> GgufInfo {
        GgufInfo {
            architecture: "llama".into(),
            name: String::new(),
            layers: 30,
            embedding: 576,
            feed_forward: 1536,
            heads: 9,
            kv_heads: vec![3; 30],
            key_width: 64,
            value_width: 64,
            context_length: 8192,
            vocabulary: 49152,
            chat_template: true,
            tensor_bytes: 96_570_000,
            twice_bytes: 0,
            file_bytes: 98_300_000,
        }
    }

    #[test]
    fn buffers_agree_with_those_the_engine_reports() {
        const MIB: f64 = 1_048_576.0;
        // As llama.cpp reports them for this model, in MiB: context, slots, batch, type, keys and values, compute.
        for (context, slots, batch, kv, kv_mib, compute_mib) in [
            (4096, 1, 64, KvType::F16, 90.0, 13.35 + 0.19),
            (4096, 1, 128, KvType::F16, 90.0, 26.69 + 0.19),
            (4096, 1, 512, KvType::F16, 90.0, 106.77 + 0.19),
            (16384, 1, 128, KvType::F16, 360.0, 29.41 + 0.19),
            (4096, 4, 128, KvType::F16, 360.0, 26.69 + 0.75),
            (4096, 4, 512, KvType::F16, 360.0, 106.77 + 0.75),
        ] {
            let estimate = estimate_memory(&smollm2(), &Shape { context, slots, batch, kv });
            assert!((estimate.kv as f64 / MIB / kv_mib - 1.0).abs() < 0.001, "{estimate:?}");
            assert!((estimate.compute as f64 / MIB / compute_mib - 1.0).abs() < 0.02, "{estimate:?}");
            assert_eq!(estimate.kept, estimate.kv / 4);
            assert_eq!(estimate.total, estimate.weights + estimate.kv + estimate.kept + estimate.compute + PROGRAM);
            assert!(estimate.upper > estimate.total);
        }
    }

    #[test]
    fn smaller_numbers_and_layers_without_keys_need_less() {
        let shape = Shape { context: 1000, slots: 2, batch: 1, kv: KvType::F16 };
        let mut info = smollm2();
        let full = estimate_memory(&info, &shape).kv;
        let quantised = estimate_memory(&info, &Shape { kv: KvType::Q8_0, ..shape }).kv;
        assert_eq!(quantised, full / 64 * 34);
        info.kv_heads[..15].fill(0);
        assert_eq!(estimate_memory(&info, &shape).kv, full / 2);
        assert_eq!("q8_0".parse::<KvType>().unwrap().to_string(), "q8_0");
        assert!("f32".parse::<KvType>().is_err());
    }
}
