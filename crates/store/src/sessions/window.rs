//! Choosing what fits.

use super::Budget;

/// What of a conversation fits a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fit {
    /// This many of the newest entries.
    pub(super) entries: usize,
    /// The summary goes with them.
    pub(super) summary: bool,
    /// Tokens of both.
    pub(super) tokens: u32,
}

/// Scans from the newest entry until tokens or items are used up; there is no gap in what is chosen.
///
/// `newest_first` holds the tokens of the newest entries, at least `budget.items` and one more of them where there are
/// so many. Where not all fit, the summary comes along if it takes at most half of the tokens: more of it would push out
/// the words it is meant to stand behind.
pub(super) fn fit(newest_first: &[u32], budget: Budget, summary: Option<u32>) -> Fit {
    let whole = scan(newest_first, budget);
    match summary {
        Some(tokens) if whole.entries < newest_first.len() && tokens <= budget.tokens / 2 => {
            let rest = scan(newest_first, Budget { tokens: budget.tokens - tokens, ..budget });
            Fit { summary: true, tokens: rest.tokens + tokens, ..rest }
        }
        _ => whole,
    }
}

fn scan(newest_first: &[u32], budget: Budget) -> Fit {
    let mut fit = Fit { entries: 0, summary: false, tokens: 0 };
    for tokens in newest_first.iter().take(budget.items as usize) {
        match fit.tokens.checked_add(*tokens).filter(|sum| *sum <= budget.tokens) {
            Some(sum) => fit = Fit { entries: fit.entries + 1, tokens: sum, ..fit },
            None => break,
        }
    }
    fit
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BUDGET: Budget = Budget { tokens: 100, items: 3 };

    #[test]
    fn table() {
        for (entries, summary, expected) in [
            (&[][..], None, (0, false, 0)),
            (&[30, 30][..], Some(20), (2, false, 60)),
            (&[30, 30, 40][..], Some(20), (3, false, 100)),
            (&[30, 30, 40, 1][..], Some(20), (2, true, 80)),
            (&[30, 30, 40, 1][..], Some(51), (3, false, 100)),
            (&[101, 1][..], None, (0, false, 0)),
            (&[1, 1, 1, 1][..], None, (3, false, 3)),
        ] {
            let fit = fit(entries, BUDGET, summary);
            assert_eq!((fit.entries, fit.summary, fit.tokens), expected, "{entries:?} {summary:?}");
        }
    }

    proptest! {
        #[test]
        fn never_over_budget_and_never_less_than_fits(
            entries in proptest::collection::vec(0u32..500, 0..60),
            tokens in 0u32..2_000,
            items in 0u32..20,
            summary in proptest::option::of(0u32..2_000),
        ) {
            let fit = fit(&entries, Budget { tokens, items }, summary);
            let (chosen, rest) = entries.split_at(fit.entries);
            let taken = if fit.summary { summary.unwrap() } else { 0 };
            prop_assert_eq!(fit.tokens, chosen.iter().sum::<u32>() + taken);
            prop_assert!(fit.tokens <= tokens && fit.entries <= items as usize);
            if let Some(next) = rest.first() {
                prop_assert!(fit.entries == items as usize || fit.tokens + next > tokens);
            }
            prop_assert!(!fit.summary || !rest.is_empty());
        }
    }
}
