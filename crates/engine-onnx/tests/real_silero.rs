//! Silero VAD by ONNX Runtime: the real model, the real library, real speech. `tandem models pull silero-vad
//! onnxruntime-1.22.1 speech-jfk` brings them.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::path::Path;
use std::sync::Arc;

use tandem_engine::catalogue::Store;
use tandem_engine::{Lease, SpeechDetector, SpeechStream, VadMemory, conformance};
use tandem_engine_onnx::{Runtime, SileroDetector, SileroOptions, library};
use tandem_types::Code;

fn lease() -> Lease {
    Lease::from_grant("solo/speech_gpu".parse().unwrap(), "vad".parse().unwrap(), 64 << 20)
}

fn store() -> Store {
    Store::open().unwrap()
}

fn runtime() -> Runtime {
    Runtime::load(&library(&store()).unwrap()).unwrap()
}

async fn detector() -> SileroDetector {
    let path = store().path_of("silero-vad").unwrap();
    SileroDetector::load(runtime(), SileroOptions::new("silero-vad", path), lease()).await.unwrap()
}

/// Eleven seconds of a speech, 16 kHz.
fn speech() -> Vec<f32> {
    let mut wav = hound::WavReader::open(store().path_of("speech-jfk").unwrap()).unwrap();
    assert_eq!((wav.spec().sample_rate, wav.spec().channels), (16_000, 1));
    wav.samples::<i16>().map(|sample| f32::from(sample.unwrap()) / 32_768.0).collect()
}

#[tokio::test]
async fn it_keeps_every_promise_of_a_speech_detector() {
    conformance::speech_detector(Arc::new(detector().await), &speech()).await;
}

#[tokio::test]
async fn it_hears_what_the_makers_own_program_hears() {
    // From silero-vad 6.2.3 in Python with onnxruntime 1.22.1: `OnnxWrapper(path)(chunk, 16000)` over the same file.
    let theirs = include_str!("silero-jfk.txt").lines().map(|line| line.parse::<f32>().unwrap()).collect::<Vec<_>>();
    let ours = SpeechStream::new(Arc::new(detector().await)).push(&speech()).await.unwrap();
    assert_eq!(ours.len(), theirs.len());
    let off = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(off < 1e-3, "up to {off} off");
}

#[tokio::test]
async fn what_cannot_be_loaded_is_said_with_file_and_cause() {
    let folder = std::env::temp_dir();
    let missing = folder.join("there is no such library.so");
    let fault = Runtime::load(&missing).unwrap_err();
    assert_eq!((fault.code, fault.reason.as_str()), (Code::NotFound, "model_missing"));
    assert!(fault.message.contains("tandem models pull onnxruntime-1.22.1"), "{fault}");
    let program = std::env::current_exe().unwrap();
    let runtime = runtime();
    let fault = Runtime::load(&program).unwrap_err();
    assert!(fault.message.contains("already"), "{fault}");

    let load = async |path: &Path| {
        let options = SileroOptions::new("ear", path.to_owned());
        SileroDetector::load(runtime.clone(), options, lease()).await.unwrap_err()
    };
    let fault = load(&folder.join("no such model.onnx")).await;
    assert_eq!((fault.code, fault.reason.as_str()), (Code::NotFound, "model_missing"), "{fault}");
    let fault = load(&program).await;
    assert_eq!((fault.code, fault.reason.as_str()), (Code::Internal, "model_corrupt"), "{fault}");
    let mut options = SileroOptions::new("ear", program);
    options.batch = 0;
    let fault = SileroDetector::load(runtime.clone(), options, lease()).await.unwrap_err();
    assert_eq!(fault.violations[0].field, "batch");
}

#[tokio::test]
async fn a_detector_that_was_stopped_is_lost_to_its_callers() {
    let detector = detector().await;
    detector.stop().await.unwrap();
    let fault = detector.hear(VadMemory::default(), vec![0.0; 512]).await.unwrap_err();
    assert_eq!((fault.code, fault.reason.as_str()), (Code::Unavailable, "engine_lost"), "{fault}");
}
