//! Lists in pages, with tokens that mean nothing to anybody else.

use std::fmt::Write;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tandem_types::Fault;

/// Entries of a page when the caller does not say.
pub const DEFAULT_SIZE: u32 = 50;
/// Most entries of a page.
pub const MAX_SIZE: u32 = 500;

/// Which page is asked for. The default is the first, of 50 entries.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// At most this many entries: 1 to 500, 0 for 50.
    pub size: u32,
    /// `next` of the page before; empty for the first page.
    pub token: String,
}

/// A page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paged<T> {
    /// Its entries, in the order of the list.
    pub items: Vec<T>,
    /// Token of the next page; empty at the end.
    pub next: String,
}

impl Page {
    /// How many entries to return at most.
    pub(crate) fn limit(&self) -> Result<u32, Fault> {
        match self.size {
            0 => Ok(DEFAULT_SIZE),
            1..=MAX_SIZE => Ok(self.size),
            _ => Err(Fault::invalid_field("page_size", format!("is {}; at most {MAX_SIZE} are allowed", self.size))),
        }
    }

    /// The place of the last entry of the page before.
    pub(crate) fn after<K: DeserializeOwned>(&self) -> Result<Option<K>, Fault> {
        if self.token.is_empty() {
            return Ok(None);
        }
        let place = unhex(&self.token).and_then(|bytes| serde_json::from_slice(&bytes).ok());
        place.map(Some).ok_or_else(|| {
            Fault::invalid_field(
                "page_token",
                "is not of this list; send `next_page_token` of the page before, unchanged",
            )
        })
    }
}

impl<T> Paged<T> {
    /// Makes a page of `items`, which were asked for with one more than `limit`; `place` names where an entry stands.
    pub(crate) fn cut<K: Serialize>(mut items: Vec<T>, limit: u32, place: impl Fn(&T) -> K) -> Result<Self, Fault> {
        let limit = limit as usize;
        let more = items.len() > limit;
        items.truncate(limit);
        let next = match items.last().filter(|_| more) {
            Some(last) => serde_json::to_vec(&place(last)).map(|bytes| hex(&bytes)),
            None => Ok(String::new()),
        };
        Ok(Self { items, next: next.map_err(|e| Fault::internal(format!("cannot write a page token: {e}")))? })
    }
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect();
    let digits = digits?;
    (digits.len() % 2 == 0).then(|| digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tandem_types::Code;

    use super::*;

    #[test]
    fn sizes_are_checked_and_default() {
        for (size, limit) in [(0, Some(50)), (1, Some(1)), (500, Some(500)), (501, None)] {
            assert_eq!(Page { size, ..Page::default() }.limit().ok(), limit, "{size}");
        }
    }

    proptest! {
        #[test]
        fn a_token_brings_its_place_back(time: i64, id in ".*") {
            let page = Paged::cut(vec![(time, id.clone()), (0, String::new())], 1, Clone::clone).unwrap();
            let after = Page { size: 1, token: page.next }.after::<(i64, String)>().unwrap();
            prop_assert_eq!(after, Some((time, id)));
        }

        #[test]
        fn a_foreign_token_is_named(token in ".+") {
            let fault = Page { size: 1, token }.after::<(i64, String)>().unwrap_err();
            prop_assert_eq!(fault.code, Code::InvalidArgument);
            prop_assert_eq!(&fault.violations[0].field, "page_token");
        }
    }
}
