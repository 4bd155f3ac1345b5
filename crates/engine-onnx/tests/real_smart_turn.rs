//! Smart Turn by ONNX Runtime: the real model, the real library, real speech. `tandem models pull smart-turn-v3.2
//! onnxruntime-1.22.1 speech-jfk` brings them.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use tandem_engine::catalogue::Store;
use tandem_engine::{Lease, TurnEndDetector, conformance};
use tandem_engine_onnx::{Runtime, SmartTurn, SmartTurnOptions, library};

/// Seconds of the speech that are heard, and how likely the turn is over then: from pipecat-ai 1.14.0 in Python with
/// onnxruntime 1.22.1, `LocalSmartTurnAnalyzerV3` over the same file.
const THEIRS: [(f64, f32); 12] = [
    (0.5, 0.8817),
    (1.0, 0.0064),
    (2.0, 0.0078),
    (2.3, 0.8171),
    (3.0, 0.9574),
    (4.0, 0.0059),
    (5.5, 0.2720),
    (7.0, 0.0157),
    (8.5, 0.0120),
    (10.0, 0.0177),
    (10.5, 0.9446),
    (11.0, 0.7988),
];

async fn detector() -> SmartTurn {
    let store = Store::open().unwrap();
    let runtime = Runtime::load(&library(&store).unwrap()).unwrap();
    let lease = Lease::from_grant("solo/speech_gpu".parse().unwrap(), "turn_end".parse().unwrap(), 128 << 20);
    let options = SmartTurnOptions::new("smart-turn-v3.2", store.path_of("smart-turn-v3.2").unwrap());
    SmartTurn::load(runtime, options, lease).await.unwrap()
}

/// The first seconds of a speech, 16 kHz.
fn speech(seconds: f64) -> Vec<f32> {
    let mut wav = hound::WavReader::open(Store::open().unwrap().path_of("speech-jfk").unwrap()).unwrap();
    let samples = wav.samples::<i16>().map(|sample| f32::from(sample.unwrap()) / 32_768.0);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few seconds")]
    samples.take((seconds * 16_000.0) as usize).collect()
}

#[tokio::test]
async fn it_keeps_every_promise_of_a_detector_of_turn_ends() {
    conformance::turn_end_detector(&detector().await, &speech(11.0), &speech(4.0)).await;
}

#[tokio::test]
async fn it_says_what_the_makers_own_program_says() {
    let detector = detector().await;
    for (seconds, theirs) in THEIRS {
        let ours = detector.ended(speech(seconds)).await.unwrap();
        assert!((ours - theirs).abs() < 1e-3, "after {seconds} s: {ours}, theirs {theirs}");
    }
}
