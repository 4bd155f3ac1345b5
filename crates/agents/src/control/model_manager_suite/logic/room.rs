//! Who gives way when a model needs room. The policy of last resort: longest idle first.

use tandem_types::Timestamp;

/// A loaded model as far as making room looks at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Resident {
    /// The model.
    pub(super) name: String,
    /// Bytes of its lease.
    pub(super) bytes: u64,
    /// When it was last used.
    pub(super) used: Timestamp,
    /// It may be unloaded: not pinned, not in use, not the one that is always resident.
    pub(super) may_leave: bool,
}

/// Who must leave so that `wanted` bytes are free, longest idle first; none when that cannot be.
///
/// Nobody leaves in vain: a model is named only when the others named before it are not enough.
pub(super) fn victims(residents: &[Resident], free: u64, wanted: u64) -> Option<Vec<String>> {
    let mut idle: Vec<&Resident> = residents.iter().filter(|resident| resident.may_leave).collect();
    idle.sort_by(|a, b| (a.used, &a.name).cmp(&(b.used, &b.name)));
    let mut missing = wanted.saturating_sub(free);
    let mut leave: Vec<&Resident> = Vec::new();
    for resident in idle {
        if missing == 0 {
            break;
        }
        missing = missing.saturating_sub(resident.bytes);
        leave.push(resident);
    }
    if missing > 0 {
        return None;
    }
    // The last one may be large enough to make earlier ones superfluous.
    let mut spare = (free + leave.iter().map(|r| r.bytes).sum::<u64>()).saturating_sub(wanted);
    leave.retain(|resident| {
        let stays = resident.bytes <= spare;
        spare -= if stays { resident.bytes } else { 0 };
        !stays
    });
    Some(leave.into_iter().map(|resident| resident.name.clone()).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn resident(name: &str, bytes: u64, used: i64, may_leave: bool) -> Resident {
        Resident { name: name.into(), bytes, used: Timestamp::from_secs(used), may_leave }
    }

    #[test]
    fn the_longest_idle_leaves_first_and_no_more_than_needed() {
        let residents = [resident("tiny", 100, 0, false), resident("old", 10, 1, true), resident("young", 50, 9, true)];
        for (free, wanted, leave) in [
            (20, 20, Some(vec![])),
            (20, 25, Some(vec!["old"])),
            (20, 35, Some(vec!["young"])),
            (20, 75, Some(vec!["old", "young"])),
            (20, 81, None),
        ] {
            let found = victims(&residents, free, wanted);
            assert_eq!(
                found.as_deref(),
                leave.map(|l| l.into_iter().map(str::to_owned).collect::<Vec<_>>()).as_deref()
            );
        }
    }

    proptest! {
        #[test]
        fn room_is_made_exactly_when_it_can_be(
            sizes in prop::collection::vec((0..100u64, 0..50i64, any::<bool>()), 0..8), free in 0..100u64, wanted in 0..400u64,
        ) {
            let residents: Vec<Resident> = sizes
                .into_iter()
                .enumerate()
                .map(|(n, (bytes, used, may))| resident(&n.to_string(), bytes, used, may))
                .collect();
            let size = |name: &String| residents.iter().find(|r| r.name == *name).map_or(0, |r| r.bytes);
            let most: u64 = residents.iter().filter(|r| r.may_leave).map(|r| r.bytes).sum();
            let found = victims(&residents, free, wanted);
            prop_assert_eq!(found.is_some(), free + most >= wanted);
            for leave in found.into_iter() {
                let freed: u64 = leave.iter().map(size).sum();
                prop_assert!(free + freed >= wanted);
                prop_assert!(leave.iter().all(|n| residents.iter().any(|r| r.name == *n && r.may_leave)));
                prop_assert!(leave.iter().all(|n| free + freed - size(n) < wanted), "somebody leaves in vain");
            }
        }
    }
}
