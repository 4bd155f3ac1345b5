//! When the cause of an alert counts as gone: once it has been gone for a while, so that what comes and goes is one alert.

use std::collections::BTreeMap;
use std::time::Duration;

use tandem_types::Timestamp;

/// Causes that are gone, and since when. Kind and subject name the alert.
#[derive(Debug, Default)]
pub(crate) struct Holding(BTreeMap<(String, String), Timestamp>);

impl Holding {
    /// The cause is there.
    pub(crate) fn worse(&mut self, kind: &str, subject: &str) {
        self.0.remove(&(kind.to_owned(), subject.to_owned()));
    }

    /// The cause is not there.
    pub(crate) fn better(&mut self, kind: &str, subject: &str, now: Timestamp) {
        self.0.entry((kind.to_owned(), subject.to_owned())).or_insert(now);
    }

    /// The alerts whose cause has been gone for `long`; they are not named again.
    pub(crate) fn over(&mut self, long: Duration, now: Timestamp) -> Vec<(String, String)> {
        let mut over = Vec::new();
        self.0.retain(|alert, since| {
            let stays = now.since(*since) < long;
            if !stays {
                over.push(alert.clone());
            }
            stays
        });
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LONG: Duration = Duration::from_secs(60);

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_secs(1_790_000_000) + Duration::from_secs(seconds)
    }

    proptest! {
        /// However a cause comes and goes, its alert ends only after a minute without it, and ends once.
        #[test]
        fn nothing_ends_that_was_there_within_a_minute(
            looks in proptest::collection::vec((1u64..40, proptest::bool::ANY), 1..100),
        ) {
            let (mut holding, mut now, mut seen) = (Holding::default(), 0, 0);
            for (pause, there) in looks {
                now += pause;
                if there {
                    holding.worse("k", "s");
                    seen = now;
                } else {
                    holding.better("k", "s", at(now));
                }
                let over = holding.over(LONG, at(now)).len();
                prop_assert!(over == 0 || (!there && now - seen >= 60), "{} s after it was seen", now - seen);
            }
            holding.better("k", "s", at(now));
            prop_assert_eq!(holding.over(LONG, at(now + 60)).len(), 1);
            prop_assert_eq!(holding.over(LONG, at(now + 600)).len(), 0);
        }
    }
}
