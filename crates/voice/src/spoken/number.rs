//! Numbers as they are written.

use super::{Tongue, english, tagalog, whole};

/// A number: `1,250.50`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Number<'a> {
    pub(super) negative: bool,
    pub(super) whole: u64,
    /// The digits behind the point.
    pub(super) fraction: Option<&'a str>,
}

impl<'a> Number<'a> {
    pub(super) fn whole(whole: u64) -> Self {
        Self { negative: false, whole, fraction: None }
    }

    /// Reads digits, in groups of three between commas or in none, with a fraction behind a point. None for anything else, and
    /// for more than 18 digits.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let bare = text.strip_prefix(['-', '−']).unwrap_or(text);
        let (before, fraction) = match bare.split_once('.') {
            Some((before, after)) => (before, Some(after)),
            None => (bare, None),
        };
        if fraction.is_some_and(|digits| whole(digits).is_none()) {
            return None;
        }
        let mut groups = before.split(',');
        let first = groups.next()?;
        let rest: Vec<&str> = groups.collect();
        if rest.iter().any(|group| group.len() != 3) || (!rest.is_empty() && !(1..=3).contains(&first.len())) {
            return None;
        }
        let digits = [&[first], &rest[..]].concat().concat();
        if digits.len() > 18 {
            return None;
        }
        Some(Self { negative: bare.len() < text.len(), whole: whole(&digits)?, fraction })
    }

    pub(super) fn is_one(&self) -> bool {
        self.whole == 1 && self.fraction.is_none()
    }

    /// The first two digits behind the point, where there are no more.
    pub(super) fn hundredths(&self) -> Option<u64> {
        let digits = self.fraction.filter(|digits| digits.len() <= 2)?;
        Some(whole(digits)? * if digits.len() == 1 { 10 } else { 1 })
    }

    pub(super) fn words(&self, tongue: Tongue) -> String {
        let (minus, point, words) = match tongue {
            Tongue::English => ("minus ", "point", english::cardinal(self.whole)),
            Tongue::Tagalog => ("negatibong ", "punto", tagalog::cardinal(self.whole)),
        };
        let fraction = self.fraction.map(|digits| format!(" {point} {}", by_digit(digits, tongue))).unwrap_or_default();
        format!("{}{words}{fraction}", if self.negative { minus } else { "" })
    }
}

/// Each digit by itself.
pub(super) fn by_digit(digits: &str, tongue: Tongue) -> String {
    let digit = |digit: u8| match tongue {
        Tongue::English => english::cardinal(u64::from(digit - b'0')),
        Tongue::Tagalog => tagalog::cardinal(u64::from(digit - b'0')),
    };
    digits.bytes().filter(u8::is_ascii_digit).map(digit).collect::<Vec<_>>().join(" ")
}
