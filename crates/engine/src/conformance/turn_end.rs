//! The promises of [`TurnEndDetector`], as a test that any implementation must pass.

use futures::future::try_join_all;
use tandem_types::Code;

use crate::TurnEndDetector;

/// Checks every promise. `finished` is an utterance of somebody who has finished, `cut_off` of somebody who has not, both at
/// the detector's own rate.
///
/// # Panics
/// At the first promise that is not kept.
pub async fn turn_end_detector(detector: &dyn TurnEndDetector, finished: &[f32], cut_off: &[f32]) {
    let info = detector.info().clone();
    assert!(info.most_samples > 0 && info.sample_rate >= 8_000, "{info:?}");
    let score = async |sound: &[f32]| detector.ended(sound.to_vec()).await.expect("it says how likely");
    let (over, under) = (score(finished).await, score(cut_off).await);
    assert!((0.5..=1.0).contains(&over) && (0.0..0.5).contains(&under), "{over} and {under}");

    // What is further back than it listens changes nothing.
    let earlier: Vec<f32> = (0..1_000_u16).map(|n| (f32::from(n) * 0.3).sin()).collect();
    let whole: Vec<f32> = finished.iter().rev().take(info.most_samples).rev().copied().collect();
    let longer = [earlier, vec![0.0; info.most_samples - whole.len()], whole.clone()].concat();
    let padded = [vec![0.0; info.most_samples - whole.len()], whole].concat();
    assert_eq!(score(&longer).await, score(&padded).await);

    let together = try_join_all((0..6).map(|n| {
        let sound = if n % 2 == 0 { finished } else { cut_off };
        detector.ended(sound.to_vec())
    }));
    for (n, score) in together.await.expect("utterances are looked at side by side").into_iter().enumerate() {
        let alone = if n % 2 == 0 { over } else { under };
        assert!((score - alone).abs() < 1e-3, "{score} beside others, {alone} alone");
    }

    for bad in [vec![], vec![0.0, f32::NAN]] {
        let fault = detector.ended(bad).await.expect_err("it is refused");
        assert_eq!((fault.code, fault.violations[0].field.as_str()), (Code::InvalidArgument, "utterance"), "{fault}");
    }
    assert!((0.0..=1.0).contains(&score(&[0.1]).await), "however short");
}

#[cfg(test)]
mod tests {
    #[tokio::test]
    async fn the_fake_keeps_every_promise() {
        let tone: Vec<f32> = (0..16_000_u16).map(|n| (f32::from(n) * 0.1).sin() * 0.3).collect();
        let finished = [tone.clone(), vec![0.0; 4_000]].concat();
        super::turn_end_detector(&crate::fakes::FakeTurnEnd::default(), &finished, &tone).await;
    }
}
