//! Whether a peer is away, told from when it was heard.

use std::collections::VecDeque;
use std::time::Duration;

use crate::Moment;

/// Suspects a peer the more, the longer it is silent compared with how it used to be heard: the φ accrual failure detector
/// (Hayashibara et al., 2004, section 4), held between two bounds so that a peer that was heard like clockwork is not
/// suspected for one late word, and one that was always late is not believed in for ever.
#[derive(Debug, Clone, Default)]
pub struct Detector {
    last: Option<Moment>,
    /// Seconds between one word and the next, oldest first.
    intervals: VecDeque<f64>,
}

impl Detector {
    /// Never away before this silence.
    pub const EARLIEST: Duration = Duration::from_secs(2);
    /// Always away after this silence.
    pub const LATEST: Duration = Duration::from_millis(4_500);
    /// Suspicion that counts as away: the silence of one in 10^8 intervals.
    const AWAY: f64 = 8.0;
    /// Intervals that are remembered.
    const WINDOW: usize = 100;
    /// Least deviation of the intervals, in seconds: a few equal ones say little of those to come.
    const LEAST_DEVIATION: f64 = 0.1;

    /// The peer was heard.
    pub fn heard(&mut self, now: Moment) {
        let interval = self.last.map(|last| now.saturating_sub(last));
        // A silence during which the peer was away says nothing of how it is heard while it is there.
        if let Some(interval) = interval.filter(|interval| *interval < Self::LATEST) {
            if self.intervals.len() == Self::WINDOW {
                self.intervals.pop_front();
            }
            self.intervals.push_back(interval.as_secs_f64());
        }
        self.last = Some(self.last.map_or(now, |last| last.max(now)));
    }

    /// When the peer was last heard; none when never.
    pub fn last(&self) -> Option<Moment> {
        self.last
    }

    /// How long it has been silent; none when it was never heard.
    pub fn silence(&self, now: Moment) -> Option<Duration> {
        self.last.map(|last| now.saturating_sub(last))
    }

    /// The suspicion φ: -log10 of the probability that a peer that is there is silent for so long. The normal
    /// distribution's tail by the logistic approximation that Akka uses.
    pub fn suspicion(&self, now: Moment) -> f64 {
        let Some(silence) = self.silence(now) else { return 0.0 };
        if self.intervals.is_empty() {
            return 0.0;
        }
        #[allow(clippy::cast_precision_loss, reason = "at most a hundred intervals")]
        let count = self.intervals.len() as f64;
        let mean = self.intervals.iter().sum::<f64>() / count;
        let variance = self.intervals.iter().map(|i| (i - mean).powi(2)).sum::<f64>() / count;
        let deviations = (silence.as_secs_f64() - mean) / variance.sqrt().max(Self::LEAST_DEVIATION);
        let e = (-deviations * (1.5976 + 0.070_566 * deviations * deviations)).exp();
        let longer = if deviations > 0.0 { e / (1.0 + e) } else { 1.0 - 1.0 / (1.0 + e) };
        -longer.max(f64::MIN_POSITIVE).log10()
    }

    /// Whether the peer counts as away; also when it was never heard.
    pub fn is_away(&self, now: Moment) -> bool {
        match self.silence(now) {
            None => true,
            Some(silence) if silence >= Self::LATEST => true,
            Some(silence) => silence >= Self::EARLIEST && self.suspicion(now) >= Self::AWAY,
        }
    }
}

/// What is known of a peer, from the overlay network and from the local one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// It was not heard since this node began.
    Unheard,
    /// It is heard over the overlay.
    Alive,
    /// It is heard on the local network only: the overlay is dead, not the peer.
    OverlayDead,
    /// It is not heard at all.
    Unknown,
}

/// What two paths tell of a peer; `lan` is none where no second address is known.
pub fn reach(overlay: &Detector, lan: Option<&Detector>, now: Moment) -> Reach {
    let there = |path: &Detector| !path.is_away(now);
    if there(overlay) {
        Reach::Alive
    } else if lan.is_some_and(there) {
        Reach::OverlayDead
    } else if overlay.last().is_none() && lan.is_none_or(|lan| lan.last().is_none()) {
        Reach::Unheard
    } else {
        Reach::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Moment {
        Duration::from_millis(ms)
    }

    fn heard(every: &[u64]) -> (Detector, u64) {
        let (mut detector, mut now) = (Detector::default(), 0);
        detector.heard(ms(0));
        for interval in every {
            now += interval;
            detector.heard(ms(now));
        }
        (detector, now)
    }

    #[test]
    fn a_silence_counts_by_what_was_usual() {
        let (steady, now) = heard(&[500; 50]);
        let (uneven, then) = heard(&[200, 1_800, 400, 1_500, 300, 2_000].repeat(8));
        for (detector, from, silence, away) in [
            (&steady, now, 1_900, false),
            (&steady, now, 2_100, true),
            (&uneven, then, 2_100, false),
            (&uneven, then, 4_000, false),
            (&uneven, then, 4_600, true),
        ] {
            let now = ms(from + silence);
            assert_eq!(detector.is_away(now), away, "{silence} ms, suspicion {}", detector.suspicion(now));
        }
    }

    #[test]
    fn one_that_was_never_heard_is_away_and_one_word_brings_it_back() {
        let mut detector = Detector::default();
        assert!(detector.is_away(ms(0)));
        detector.heard(ms(100));
        assert!(!detector.is_away(ms(2_000)));
        assert!(detector.is_away(ms(100) + Detector::LATEST));
        detector.heard(ms(3_600_000));
        assert!(!detector.is_away(ms(3_600_001)));
        assert!(detector.intervals.is_empty(), "an hour away is not how often it speaks");
    }

    #[test]
    fn suspicion_only_rises_while_it_is_silent() {
        let (detector, now) = heard(&[480, 520, 500, 510]);
        let levels: Vec<f64> = (0..50).map(|i| detector.suspicion(ms(now + i * 100))).collect();
        assert!(levels.windows(2).all(|pair| pair[0] <= pair[1]), "{levels:?}");
        assert!(levels.iter().all(|level| level.is_finite()));
    }

    #[test]
    fn a_dead_overlay_is_not_a_dead_peer() {
        let (fresh, now) = heard(&[500; 10]);
        let (stale, _) = heard(&[500; 3]);
        let never = Detector::default();
        let now = ms(now + 100);
        for (overlay, lan, expected) in [
            (&fresh, None, Reach::Alive),
            (&fresh, Some(&stale), Reach::Alive),
            (&stale, Some(&fresh), Reach::OverlayDead),
            (&never, Some(&fresh), Reach::OverlayDead),
            (&stale, Some(&stale), Reach::Alive),
            (&never, None, Reach::Unheard),
            (&never, Some(&never), Reach::Unheard),
        ] {
            let now =
                if std::ptr::eq(overlay, &raw const stale) && lan.is_some_and(|l| std::ptr::eq(l, &raw const stale)) {
                    ms(1_600)
                } else {
                    now
                };
            assert_eq!(reach(overlay, lan, now), expected);
        }
        assert_eq!(reach(&stale, Some(&stale), ms(60_000)), Reach::Unknown);
        assert_eq!(reach(&stale, Some(&never), ms(60_000)), Reach::Unknown);
    }
}
