//! From token pieces to text that may be sent: whole characters, and nothing of a stop text.

/// Holds back what is not certain yet.
///
/// Of several stop texts the one that is complete first counts; so it makes no difference how the text was cut into
/// pieces.
#[derive(Debug, Default)]
pub(crate) struct TextGate {
    stops: Vec<String>,
    /// Text that may be the beginning of a stop text.
    held: String,
    /// Bytes of an unfinished character.
    partial: Vec<u8>,
}

impl TextGate {
    pub(crate) fn new(stops: Vec<String>) -> Self {
        Self { stops, ..Self::default() }
    }

    /// Takes a piece; what may be sent, and whether a stop text has come, after which nothing may be sent any more.
    pub(crate) fn push(&mut self, piece: &[u8]) -> (String, bool) {
        self.partial.extend_from_slice(piece);
        self.take_characters();
        let first = self.stops.iter().filter_map(|stop| Some((self.held.find(stop.as_str())?, stop.len())));
        if let Some((start, _)) = first.min_by_key(|(start, length)| (start + length, *start)) {
            self.held.truncate(start);
            return (std::mem::take(&mut self.held), true);
        }
        let certain = self.held.len() - self.uncertain();
        let rest = self.held.split_off(certain);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// What is left when the answer ends without a stop text. An unfinished character is dropped.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Moves whole characters from the bytes to the text; bytes that are no character become U+FFFD.
    fn take_characters(&mut self) {
        let mut valid = 0;
        for chunk in self.partial.utf8_chunks() {
            self.held.push_str(chunk.valid());
            valid += chunk.valid().len();
            let bad = chunk.invalid();
            let unfinished = valid + bad.len() == self.partial.len()
                && std::str::from_utf8(bad).is_err_and(|error| error.error_len().is_none());
            if bad.is_empty() || unfinished {
                continue;
            }
            self.held.push(char::REPLACEMENT_CHARACTER);
            valid += bad.len();
        }
        self.partial.drain(..valid);
    }

    /// Bytes at the end of the text that begin a stop text.
    fn uncertain(&self) -> usize {
        let begins = |stop: &String| {
            (1..stop.len()).rev().filter(|&n| stop.is_char_boundary(n)).find(|&n| self.held.ends_with(&stop[..n]))
        };
        self.stops.iter().filter_map(begins).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(stops: &[String], pieces: impl IntoIterator<Item = impl AsRef<[u8]>>) -> (String, bool) {
        let mut gate = TextGate::new(stops.to_vec());
        let mut sent = String::new();
        for piece in pieces {
            let (text, stopped) = gate.push(piece.as_ref());
            sent += &text;
            if stopped {
                return (sent, true);
            }
        }
        (sent + &gate.finish(), false)
    }

    #[test]
    fn stop_texts_are_found_across_pieces_and_never_sent() {
        for (stops, pieces, sent, stopped) in [
            (&[][..], &["a", "b"][..], "ab", false),
            (&["\n\n"], &["one\n", "two\n", "\nthree"], "one\ntwo", true),
            (&["User:"], &["Us", "er", " friendly"], "User friendly", false),
            (&["User:"], &["hi\nUs", "er: more"], "hi\n", true),
            (&["aab"], &["a", "a", "a", "b"], "a", true),
            (&["abc", "b"], &["abc"], "a", true),
            (&["abc", "bc"], &["xabc"], "x", true),
            (&["end"], &["the e"], "the e", false),
        ] {
            let stops: Vec<String> = stops.iter().map(|s| (*s).to_owned()).collect();
            assert_eq!(run(&stops, pieces), (sent.to_owned(), stopped), "{pieces:?}");
        }
    }

    #[test]
    fn text_is_sent_as_soon_as_it_is_certain() {
        let mut gate = TextGate::new(vec!["<end>".into()]);
        assert_eq!(gate.push(b"hello <e"), ("hello ".to_owned(), false));
        assert_eq!(gate.push(b"y>"), ("<ey>".to_owned(), false));
        assert_eq!(gate.push("né".as_bytes().split_at(2).0), ("n".to_owned(), false));
        assert_eq!(gate.push("é".as_bytes().split_at(1).1), ("é".to_owned(), false));
        assert_eq!(gate.push(b"\xff!"), ("\u{fffd}!".to_owned(), false));
        assert_eq!(gate.push(b"<en"), (String::new(), false));
        assert_eq!(gate.finish(), "<en");
    }

    proptest! {
        #[test]
        fn cutting_a_text_into_pieces_changes_nothing(
            text in "[ab<é🌊]{0,24}",
            stops in prop::collection::vec("[ab<é🌊]{1,4}", 0..4),
            cuts in prop::collection::vec(0..100usize, 0..8),
        ) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<_> = cuts.into_iter().map(|c| c % (bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|w| &bytes[w[0]..w[1]]);

            // The oracle looks at the text character by character and stops at the first complete stop text.
            let end = text.char_indices().map(|(at, c)| at + c.len_utf8())
                .find_map(|end| stops.iter().filter(|s| text[..end].ends_with(s.as_str())).map(|s| end - s.len()).min());
            let expected = (text[..end.unwrap_or(text.len())].to_owned(), end.is_some());
            prop_assert_eq!(run(&stops, pieces), expected);
        }

        #[test]
        fn any_bytes_become_text(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..6), 0..8)) {
            let whole = pieces.concat();
            let (sent, _) = run(&[], &pieces);
            prop_assert!(String::from_utf8_lossy(&whole).starts_with(&sent));
        }
    }
}
