//! The promises of [`SpeechDetector`], as a test that any implementation must pass.

use std::sync::Arc;

use futures::future::try_join_all;
use tandem_types::Code;

use crate::{SpeechDetector, SpeechStream, VadMemory};

/// Checks every promise. `speech` is somebody who speaks, at the detector's own rate.
///
/// # Panics
/// At the first promise that is not kept.
pub async fn speech_detector(detector: Arc<dyn SpeechDetector>, speech: &[f32]) {
    let info = detector.info().clone();
    assert!(info.window > 0 && info.sample_rate >= 8_000, "{info:?}");
    let heard = all(&detector, speech).await;
    assert_eq!(heard.len(), speech.len() / info.window);
    assert!(heard.iter().all(|p| (0.0..=1.0).contains(p)), "probabilities: {heard:?}");
    let voiced = heard.iter().filter(|p| **p >= 0.5).count();
    assert!(2 * voiced > heard.len(), "speech is heard in {voiced} of {} windows", heard.len());
    let silence = all(&detector, &vec![0.0; 100 * info.window]).await;
    assert!(silence.iter().all(|p| *p < 0.1), "silence is speech: {silence:?}");

    assert_eq!(all(&detector, speech).await, heard, "the same sound is heard the same");
    stays_apart(&detector, speech, &heard).await;
    takes_any_pieces(&detector, speech, &heard).await;
    refuses(&*detector).await;
}

async fn all(detector: &Arc<dyn SpeechDetector>, samples: &[f32]) -> Vec<f32> {
    SpeechStream::new(detector.clone()).push(samples).await.expect("sound is heard")
}

/// Streams side by side hear what each hears alone, whoever else is heard at the same time.
async fn stays_apart(detector: &Arc<dyn SpeechDetector>, speech: &[f32], alone: &[f32]) {
    let quieter: Vec<f32> = speech.iter().map(|sample| 0.3 * sample).collect();
    let quieter_alone = all(detector, &quieter).await;
    let streams = (0..6).map(|n| {
        let (detector, samples) = (detector.clone(), if n % 2 == 0 { speech.to_vec() } else { quieter.clone() });
        async move { SpeechStream::new(detector).push(&samples).await }
    });
    let heard = try_join_all(streams).await.expect("streams are heard side by side");
    for (n, heard) in heard.iter().enumerate() {
        let expected = if n % 2 == 0 { alone } else { &quieter_alone };
        // Several windows in one step may be added up in another order.
        let off = heard.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(heard.len() == expected.len() && off < 1e-3, "stream {n} is {off} off");
    }
}

async fn takes_any_pieces(detector: &Arc<dyn SpeechDetector>, speech: &[f32], whole: &[f32]) {
    let mut stream = SpeechStream::new(detector.clone());
    let mut heard = Vec::new();
    for (n, piece) in speech.chunks(777).enumerate() {
        heard.extend(stream.push(piece).await.expect("any piece is taken"));
        if n % 3 == 0 {
            assert_eq!(stream.push(&[]).await.expect("nothing is taken, too"), []);
        }
    }
    assert_eq!(heard, whole);
}

async fn refuses(detector: &dyn SpeechDetector) {
    let size = detector.info().window;
    let mut broken = vec![0.0; size];
    broken[1] = f32::NAN;
    let short = vec![0.0; size - 1];
    for (memory, window, field) in [
        (VadMemory::default(), short, "window"),
        (VadMemory::default(), broken, "window"),
        (VadMemory::new(vec![0.0; 7]), vec![0.0; size], "memory"),
    ] {
        let fault = detector.hear(memory, window).await.expect_err("it is refused");
        assert_eq!((fault.code, fault.violations[0].field.as_str()), (Code::InvalidArgument, field), "{fault}");
    }
    detector.hear(VadMemory::default(), vec![0.0; size]).await.expect("a refusal changes nothing");
}

#[cfg(test)]
mod tests {
    #[tokio::test]
    async fn the_fake_keeps_every_promise() {
        let speech: Vec<f32> = (0..16_000_u16).map(|n| (f32::from(n) * 0.1).sin() * 0.3).collect();
        super::speech_detector(std::sync::Arc::new(crate::fakes::FakeDetector::default()), &speech).await;
    }
}
