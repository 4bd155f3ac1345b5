//! Counts wrong tokens by address, so that nobody tries them all.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use tandem_types::Timestamp;

/// Wrong tokens an address may send within [`WINDOW`].
const MOST: u32 = 10;
/// An address that sent too many waits until this long after the first of them.
const WINDOW: Duration = Duration::from_mins(1);
/// Addresses remembered at once.
const ADDRESSES: usize = 1_024;

/// Wrong tokens of the last minute.
#[derive(Default)]
pub(crate) struct Attempts {
    wrong: HashMap<IpAddr, (u32, Timestamp)>,
}

impl Attempts {
    /// How long this address must wait, if it must.
    pub(crate) fn wait(&self, from: IpAddr, now: Timestamp) -> Option<Duration> {
        let (count, since) = self.wrong.get(&from)?;
        let left = WINDOW.checked_sub(now.since(*since))?;
        (*count >= MOST && !left.is_zero()).then_some(left)
    }

    /// This address sent a wrong token.
    pub(crate) fn wrong(&mut self, from: IpAddr, now: Timestamp) {
        self.wrong.retain(|_, (_, since)| now.since(*since) < WINDOW);
        if self.wrong.len() >= ADDRESSES
            && let Some(oldest) = self.wrong.iter().min_by_key(|(_, (_, since))| *since).map(|(ip, _)| *ip)
        {
            self.wrong.remove(&oldest);
        }
        self.wrong.entry(from).or_insert((0, now)).0 += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    #[test]
    fn ten_wrong_tokens_in_a_minute_are_enough() {
        let (mut attempts, start) = (Attempts::default(), Timestamp::from_secs(100));
        for _ in 0..MOST {
            assert_eq!(attempts.wait(ip(1), start), None);
            attempts.wrong(ip(1), start);
        }
        assert_eq!(attempts.wait(ip(1), start + Duration::from_secs(20)), Some(Duration::from_secs(40)));
        assert_eq!(attempts.wait(ip(2), start), None);
        assert_eq!(attempts.wait(ip(1), start + WINDOW), None);
        attempts.wrong(ip(1), start + WINDOW);
        assert_eq!(attempts.wait(ip(1), start + WINDOW), None);
    }

    #[test]
    fn memory_is_bounded() {
        let mut attempts = Attempts::default();
        for n in 0..2 * ADDRESSES as u32 {
            attempts.wrong(IpAddr::V4(n.into()), Timestamp(n.into()));
        }
        assert_eq!(attempts.wrong.len(), ADDRESSES);
    }
}
