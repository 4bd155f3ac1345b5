//! `vad SECONDS STREAMS`: listens to so much sound in each of so many streams at once, and prints one JSON object, for
//! `bench/vad.py`.

#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs, reason = "a benchmark")]

use std::sync::Arc;
use std::time::Instant;

use futures::future::join_all;
use tandem_engine::catalogue::Store;
use tandem_engine::{Lease, SpeechStream};
use tandem_engine_onnx::{Runtime, SileroDetector, SileroOptions, library};

/// Processor time of this process, seconds (proc_pid_stat(5)).
fn cpu() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap();
    let ticks = text.rsplit_once(')').unwrap().1.split_whitespace().skip(11).take(2);
    ticks.map(|field| field.parse::<f64>().unwrap()).sum::<f64>() / 100.0
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let args: Vec<usize> = std::env::args().skip(1).map(|arg| arg.parse().unwrap()).collect();
    let store = Store::open().unwrap();
    let runtime = Runtime::load(&library(&store).unwrap()).unwrap();
    let options = SileroOptions::new("silero-vad", store.path_of("silero-vad").unwrap());
    let lease = Lease::from_grant("solo/speech_gpu".parse().unwrap(), "vad".parse().unwrap(), 64 << 20);
    let detector = Arc::new(SileroDetector::load(runtime, options, lease).await.unwrap());
    let mut wav = hound::WavReader::open(store.path_of("speech-jfk").unwrap()).unwrap();
    let speech: Vec<f32> = wav.samples::<i16>().map(|s| f32::from(s.unwrap()) / 32_768.0).collect();
    let sound: Vec<f32> = speech.iter().copied().cycle().take(args[0] * 16_000).collect();
    let (began, before) = (Instant::now(), cpu());
    let heard = join_all((0..args[1]).map(|_| {
        let (detector, sound) = (detector.clone(), &sound);
        // Pieces as a microphone brings them.
        async move {
            let mut stream = SpeechStream::new(detector);
            let mut heard = Vec::new();
            for piece in sound.chunks(512) {
                heard.extend(stream.push(piece).await.unwrap());
            }
            heard
        }
    }))
    .await;
    let (wall, cpu) = (began.elapsed().as_secs_f64(), cpu() - before);
    let audio = (args[0] * args[1]) as f64;
    let scores: Vec<String> = heard[0].iter().map(|score| format!("{score:.5}")).collect();
    println!(
        "{{\"wall_per_audio_second\": {}, \"cpu_per_audio_second\": {}, \"scores\": [{}]}}",
        wall / audio,
        cpu / audio,
        scores.join(",")
    );
}
