//! How fast the scheduler is beside a bare llama.cpp loop that does the same work: some prompts are read, then all
//! write together. Prints tokens per second, processor seconds and their ratios, round by round, for 1 and 8 streams.
//! On a busy machine only the processor seconds of a single thread mean anything: threads that wait for each other
//! spin.
//!
//! `cargo run -p tandem-engine-llama --example throughput -- MODEL.gguf [ROUNDS [THREADS]]`
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a command-line measurement")]

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::join_all;
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use tandem_engine::{Lease, Prompt, Sampling, TextEvent, TextGenerator, TextRequest};
use tandem_engine_llama::{LlamaGenerator, LlamaOptions, default_threads};

const READ: usize = 32;
const WRITE: usize = 192;
const BATCH: usize = 128;
const CONTEXT: u32 = 512;

/// A text that any model goes on with for ever, different for each stream from the first word on.
fn text(stream: usize) -> String {
    format!("{stream} ") + &"The quick brown fox jumps over the lazy dog while it rains. ".repeat(READ)
}

/// Seconds of the whole work, processor seconds of it, and tokens per second of all streams together while all write.
struct Speed {
    all: f64,
    processor: f64,
    write: f64,
}

fn processor_seconds() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let seconds = |time: TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    seconds(usage.user_time()) + seconds(usage.system_time())
}

fn bare(context: &mut LlamaContext<'_>, prompts: &[Vec<LlamaToken>]) -> Speed {
    let mut batch = LlamaBatch::new(BATCH, 1);
    context.clear_kv_cache();
    let (start, processor) = (Instant::now(), processor_seconds());
    let mut samplers = Vec::new();
    let mut last = Vec::new();
    for (stream, prompt) in prompts.iter().enumerate() {
        let mut sampler = LlamaSampler::chain([LlamaSampler::greedy()], true);
        for (n, chunk) in prompt.chunks(BATCH).enumerate() {
            batch.clear();
            for (i, token) in chunk.iter().enumerate() {
                let position = n * BATCH + i;
                batch.add(*token, position as i32, &[stream as i32], position + 1 == prompt.len()).unwrap();
            }
            context.decode(&mut batch).unwrap();
        }
        last.push(sampler.sample(context, batch.n_tokens() - 1));
        samplers.push(sampler);
    }
    let reading = start.elapsed();
    for n in 0..WRITE - 1 {
        batch.clear();
        for (stream, token) in last.iter().enumerate() {
            batch.add(*token, (READ + n) as i32, &[stream as i32], true).unwrap();
        }
        context.decode(&mut batch).unwrap();
        for (stream, sampler) in samplers.iter_mut().enumerate() {
            last[stream] = sampler.sample(context, stream as i32);
        }
    }
    let all = start.elapsed();
    let written = (WRITE - 1) * prompts.len();
    Speed {
        all: all.as_secs_f64(),
        processor: processor_seconds() - processor,
        write: written as f64 / (all - reading).as_secs_f64(),
    }
}

async fn scheduled(model: &LlamaGenerator, prompts: &[String]) -> Speed {
    let request = |prompt: &String| TextRequest {
        // A seed keeps it from taking anything from the round before.
        sampling: Sampling { seed: Some(1), ..Sampling::greedy() },
        max_tokens: Some(WRITE as u32),
        ..TextRequest::new(Prompt::Raw(prompt.clone()))
    };
    let (start, processor) = (Instant::now(), processor_seconds());
    // When each token of each stream came.
    let times: Vec<Vec<Duration>> = join_all(prompts.iter().map(async |prompt| {
        let mut stream = model.generate(request(prompt)).await.unwrap();
        let mut times = Vec::new();
        loop {
            match stream.next().await.unwrap().unwrap() {
                TextEvent::Text(_) => times.push(start.elapsed()),
                TextEvent::Finished(finished) => {
                    assert_eq!(
                        (finished.tokens.reused, finished.tokens.written, finished.tokens.prompt),
                        (0, WRITE as u32, READ as u32)
                    );
                    break times;
                }
            }
        }
    }))
    .await;
    let all = start.elapsed().as_secs_f64();
    let processor = processor_seconds() - processor;
    let from = times.iter().map(|times| times[0]).max().unwrap();
    let to = times.iter().map(|times| times[times.len() - 1]).min().unwrap();
    let written: usize = times.iter().map(|times| times.iter().filter(|at| **at > from && **at <= to).count()).sum();
    Speed { all, processor, write: written as f64 / to.saturating_sub(from).as_secs_f64() }
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().expect("the path of a GGUF file");
    let rounds: usize = arguments.next().map_or(3, |n| n.parse().unwrap());
    let threads = arguments.next().map_or_else(default_threads, |n| n.parse().unwrap());
    println!("{READ} tokens read and {WRITE} written by each stream, {threads} threads; bare loop | scheduler | ratio");
    for streams in [1, 8] {
        let options = LlamaOptions {
            context: CONTEXT,
            slots: streams,
            batch: BATCH as u32,
            threads: Some(threads),
            ..LlamaOptions::new(&path, "model")
        };
        let lease = Lease::from_grant("local/bench".parse().unwrap(), "llm.fast".parse().unwrap(), u64::MAX);
        let scheduler = LlamaGenerator::load(options, lease).await.unwrap();
        // The generator has set llama.cpp up; a second proof of that is not to be had.
        let backend = std::mem::ManuallyDrop::new(LlamaBackend {});
        let model = LlamaModel::load_from_file(&backend, &path, &LlamaModelParams::default()).unwrap();
        let params = LlamaContextParams::default()
            .with_n_ctx(NonZeroU32::new(CONTEXT * streams))
            .with_n_seq_max(streams)
            .with_kv_unified(false)
            .with_n_batch(BATCH as u32)
            .with_n_ubatch(BATCH as u32)
            .with_n_threads(threads as i32)
            .with_n_threads_batch(threads as i32);
        let mut context = model.new_context(&backend, params).unwrap();
        let tokens: Vec<Vec<LlamaToken>> = (0..streams as usize)
            .map(|s| model.vocab().tokenize(text(s).as_bytes(), true, true)[..READ].to_vec())
            .collect();
        let texts: Vec<String> = tokens
            .iter()
            .map(|tokens| String::from_utf8(model.vocab().detokenize(tokens, false, false)).unwrap())
            .collect();
        for round in 1..=rounds {
            let one = bare(&mut context, &tokens);
            let two = scheduled(&scheduler, &texts).await;
            let work = ((READ + WRITE) * tokens.len()) as f64;
            print!(
                "{streams} streams, round {round}: all {:.0} | {:.0} | {:.2}",
                work / one.all,
                work / two.all,
                one.all / two.all
            );
            print!("   together {:.0} | {:.0} | {:.2}", one.write, two.write, two.write / one.write);
            println!(
                " tokens/s   {:.2} | {:.2} | {:.2} s",
                one.processor,
                two.processor,
                one.processor / two.processor
            );
        }
        scheduler.stop().await.unwrap();
    }
}
