//! The memory estimate against the buffers that llama.cpp itself reports, for ten small models of different shapes. Their
//! files are written by the test, with weights of zero: what a model says costs nothing here, what it takes does.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "in a test a panic is the report, with what was printed")]

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tandem_engine::Lease;
use tandem_engine::gguf::{GgufInfo, KvType, estimate_memory};
use tandem_engine_llama::{LlamaGenerator, LlamaOptions};

/// Tensor types by ggml's numbers: numbers in a block, bytes of a block.
#[derive(Debug, Clone, Copy)]
enum Packed {
    F32 = 0,
    F16 = 1,
    Q4_0 = 2,
    Q4_1 = 3,
    Q5_0 = 6,
    Q8_0 = 8,
    Q4K = 12,
    Q6K = 14,
}

impl Packed {
    fn block(self) -> (u64, u64) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 => (1, 2),
            Self::Q4_0 => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q5_0 => (32, 22),
            Self::Q8_0 => (32, 34),
            Self::Q4K => (256, 144),
            Self::Q6K => (256, 210),
        }
    }
}

/// A model to write, and how to run it.
struct Sample {
    /// `llama`, `qwen2`, `qwen3` or `gemma`.
    architecture: &'static str,
    width: u64,
    layers: u64,
    heads: u64,
    kv_heads: u64,
    head: u64,
    feed_forward: u64,
    vocabulary: u64,
    /// The matrix of the last step is that of the first.
    tied: bool,
    packed: Packed,
    context: u32,
    slots: u32,
    kv: KvType,
}

/// Shapes after models that people run, some of them cut down in depth.
fn samples() -> [Sample; 10] {
    let sample = |architecture, [width, layers, heads, kv_heads, head, feed_forward, vocabulary]: [u64; 7], packed| {
        let tied = matches!(architecture, "qwen3" | "gemma");
        let (context, slots, kv) = (2_048, 2, KvType::F16);
        Sample {
            architecture,
            width,
            layers,
            heads,
            kv_heads,
            head,
            feed_forward,
            vocabulary,
            tied,
            packed,
            context,
            slots,
            kv,
        }
    };
    [
        Sample { context: 512, slots: 4, ..sample("llama", [288, 6, 6, 6, 48, 768, 32_000], Packed::F32) },
        Sample { context: 1_024, ..sample("llama", [768, 12, 12, 12, 64, 2_048, 32_000], Packed::Q8_0) },
        Sample { tied: true, context: 4_096, ..sample("llama", [576, 30, 9, 3, 64, 1_536, 49_152], Packed::Q4_1) },
        Sample { tied: true, ..sample("llama", [960, 32, 15, 5, 64, 2_560, 49_152], Packed::Q4_0) },
        Sample { kv: KvType::Q8_0, ..sample("llama", [1_024, 8, 16, 16, 64, 2_816, 32_000], Packed::Q5_0) },
        Sample { tied: true, context: 4_096, ..sample("qwen2", [896, 24, 14, 2, 64, 4_864, 151_936], Packed::Q8_0) },
        Sample { slots: 1, ..sample("qwen2", [1_536, 6, 12, 2, 128, 8_960, 151_936], Packed::Q4K) },
        Sample { context: 4_096, ..sample("qwen3", [1_024, 14, 16, 8, 128, 3_072, 151_936], Packed::Q4K) },
        Sample { context: 8_192, slots: 1, ..sample("qwen3", [512, 10, 8, 4, 128, 1_536, 20_000], Packed::Q6K) },
        sample("gemma", [640, 8, 4, 1, 256, 2_048, 64_000], Packed::F16),
    ]
}

/// Writes GGUF, version 3.
struct Writer<W>(W, u64);

impl<W: Write> Writer<W> {
    fn bytes(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
        self.1 += bytes.len() as u64;
    }
    fn u32(&mut self, n: u32) {
        self.bytes(&n.to_le_bytes());
    }
    fn u64(&mut self, n: u64) {
        self.bytes(&n.to_le_bytes());
    }
    fn text(&mut self, text: &str) {
        self.u64(text.len() as u64);
        self.bytes(text.as_bytes());
    }
    fn number(&mut self, key: &str, n: u64) {
        self.text(key);
        self.u32(4);
        self.u32(u32::try_from(n).unwrap());
    }
    fn word(&mut self, key: &str, text: &str) {
        self.text(key);
        self.u32(8);
        self.text(text);
    }
    /// An array of values of the type `kind`, each written by `item`.
    fn array(&mut self, key: &str, kind: u32, length: u64, mut item: impl FnMut(&mut Self, u64)) {
        self.text(key);
        self.u32(9);
        self.u32(kind);
        self.u64(length);
        (0..length).for_each(|n| item(self, n));
    }
}

impl Sample {
    fn tensors(&self) -> Vec<(String, Vec<u64>, Packed)> {
        let (queries, keys) = (self.heads * self.head, self.kv_heads * self.head);
        let mut all = vec![
            ("token_embd.weight".to_owned(), vec![self.width, self.vocabulary], self.packed),
            ("output_norm.weight".to_owned(), vec![self.width], Packed::F32),
        ];
        if !self.tied {
            all.push(("output.weight".to_owned(), vec![self.width, self.vocabulary], self.packed));
        }
        for layer in 0..self.layers {
            let mut put = |name: &str, shape: &[u64], packed| {
                all.push((format!("blk.{layer}.{name}"), shape.to_vec(), packed));
            };
            put("attn_norm.weight", &[self.width], Packed::F32);
            put("ffn_norm.weight", &[self.width], Packed::F32);
            put("attn_q.weight", &[self.width, queries], self.packed);
            put("attn_k.weight", &[self.width, keys], self.packed);
            put("attn_v.weight", &[self.width, keys], self.packed);
            put("attn_output.weight", &[queries, self.width], self.packed);
            put("ffn_gate.weight", &[self.width, self.feed_forward], self.packed);
            put("ffn_up.weight", &[self.width, self.feed_forward], self.packed);
            put("ffn_down.weight", &[self.feed_forward, self.width], self.packed);
            match self.architecture {
                "qwen2" => {
                    put("attn_q.bias", &[queries], Packed::F32);
                    put("attn_k.bias", &[keys], Packed::F32);
                    put("attn_v.bias", &[keys], Packed::F32);
                }
                "qwen3" => {
                    put("attn_q_norm.weight", &[self.head], Packed::F32);
                    put("attn_k_norm.weight", &[self.head], Packed::F32);
                }
                _ => {}
            }
        }
        all
    }

    fn write(&self, path: &Path) {
        let tensors = self.tensors();
        let mut out = Writer(BufWriter::new(File::create(path).unwrap()), 0);
        out.bytes(b"GGUF");
        out.u32(3);
        out.u64(tensors.len() as u64);
        out.u64(16);
        out.word("general.architecture", self.architecture);
        let key = |name: &str| format!("{}.{name}", self.architecture);
        for (name, n) in [
            ("block_count", self.layers),
            ("context_length", 32_768),
            ("embedding_length", self.width),
            ("feed_forward_length", self.feed_forward),
            ("attention.head_count", self.heads),
            ("attention.head_count_kv", self.kv_heads),
            ("attention.key_length", self.head),
            ("attention.value_length", self.head),
            ("rope.dimension_count", self.head),
        ] {
            out.number(&key(name), n);
        }
        out.text(&key("attention.layer_norm_rms_epsilon"));
        out.u32(6);
        out.bytes(&1e-5_f32.to_le_bytes());
        // Three tokens with a meaning, one for each byte, and the rest as words.
        out.word("tokenizer.ggml.model", "llama");
        out.array("tokenizer.ggml.tokens", 8, self.vocabulary, |out, n| match n {
            0..3 => out.text(["<unk>", "<s>", "</s>"][n as usize]),
            3..259 => out.text(&format!("<0x{:02X}>", n - 3)),
            _ => out.text(&format!("w{n}")),
        });
        out.array("tokenizer.ggml.scores", 6, self.vocabulary, |out, _| out.bytes(&0f32.to_le_bytes()));
        out.array("tokenizer.ggml.token_type", 5, self.vocabulary, |out, n| {
            out.u32(match n {
                0 => 2,
                1 | 2 => 3,
                3..259 => 6,
                _ => 1,
            });
        });
        out.number("tokenizer.ggml.bos_token_id", 1);
        let mut end = 0u64;
        for (name, shape, packed) in &tensors {
            out.text(name);
            out.u32(u32::try_from(shape.len()).unwrap());
            shape.iter().for_each(|n| out.u64(*n));
            out.u32(*packed as u32);
            out.u64(end);
            let (block, bytes) = packed.block();
            assert!(shape[0].is_multiple_of(block), "{name} cannot be packed so");
            end = (end + shape.iter().product::<u64>() / block * bytes).next_multiple_of(32);
        }
        let size = out.1.next_multiple_of(32) + end;
        out.0.into_inner().unwrap().set_len(size).unwrap();
    }
}

/// What llama.cpp says while it loads.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<u8>>>);

impl Write for Said {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Said {
    /// The sizes of all buffers named since the last call, in bytes, with their lines.
    fn buffers(&self) -> (f64, String) {
        let bytes = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let lines: Vec<&str> = text.lines().filter(|line| line.contains("buffer size =")).collect();
        let size = |line: &&str| line.split("buffer size =").nth(1)?.split_whitespace().next()?.parse::<f64>().ok();
        (lines.iter().filter_map(size).sum::<f64>() * 1_048_576.0, lines.join("\n"))
    }
}

#[tokio::test]
async fn estimates_agree_with_the_buffers_that_llama_cpp_allots() {
    let said = Said::default();
    let writer = said.clone();
    tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).init();
    let folder = tempfile::tempdir().unwrap();
    let mut errors = Vec::new();
    for (n, sample) in samples().iter().enumerate() {
        let path = folder.path().join(format!("{n}.gguf"));
        sample.write(&path);
        let options = LlamaOptions {
            context: sample.context,
            slots: sample.slots,
            kv: sample.kv,
            threads: Some(1),
            ..LlamaOptions::new(&path, format!("sample-{n}"))
        };
        let estimate = estimate_memory(&GgufInfo::read(&path).unwrap(), &options.shape());
        let lease = Lease::from_grant("a/b".parse().unwrap(), "llm.tiny".parse().unwrap(), estimate.upper);
        let model = LlamaGenerator::load(options, lease).await.unwrap();
        let (buffers, lines) = said.buffers();
        model.stop().await.unwrap();
        std::fs::remove_file(&path).unwrap();
        let expected = (estimate.weights + estimate.kv + estimate.compute) as f64;
        println!("{n} {}: {:+.2} %\n{estimate:?}\n{lines}", sample.architecture, (expected / buffers - 1.0) * 100.0);
        errors.push((expected / buffers - 1.0).abs());
    }
    errors.sort_by(f64::total_cmp);
    let median = (errors[4] + errors[5]) / 2.0;
    assert!(median <= 0.03 && errors[9] <= 0.08, "median {median:.4}, worst {:.4}", errors[9]);
}
