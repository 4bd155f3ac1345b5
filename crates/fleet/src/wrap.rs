//! Lines that fit a terminal.

use std::ops::Range;

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// `first` and the items, joined, in lines of at most `width` columns; further lines begin with `indent` spaces. An item
/// wider than a line has one to itself.
pub(crate) fn wrapped<T: AsRef<str>>(first: &str, items: &[T], joint: &str, width: usize, indent: usize) -> String {
    let indent = " ".repeat(indent.min(width / 2));
    let mut out = String::new();
    let mut line = first.to_owned();
    for (i, item) in items.iter().enumerate() {
        let item = item.as_ref();
        let item = if i + 1 < items.len() { format!("{item}{joint}") } else { item.to_owned() };
        if line.width() + item.trim_end().width() > width && i > 0 {
            out += line.trim_end();
            out.push('\n');
            line = indent.clone();
        }
        line += &item;
    }
    out += line.trim_end();
    out.push('\n');
    out
}

/// `first` and a sentence, in lines of at most `width` columns.
pub(crate) fn sentence(first: &str, text: &str, width: usize, indent: usize) -> String {
    wrapped(first, &text.split(' ').collect::<Vec<_>>(), " ", width, indent)
}

/// The part of a line around the marked columns that fits `room` columns, and where the mark is in it. What was cut off
/// is an ellipsis.
pub(crate) fn window(line: &str, mark: Range<usize>, room: usize) -> (String, Range<usize>) {
    let total = line.width();
    if total <= room {
        return (line.to_owned(), mark);
    }
    let from = if mark.end < room { 0 } else { mark.start.saturating_sub(room / 4) };
    let to = from.saturating_add(room);
    let (left, right) = (from + usize::from(from > 0), to - usize::from(total > to));
    let mut shown = String::from(if from > 0 { "…" } else { "" });
    let mut column = 0;
    for c in line.chars() {
        let next = column + c.width().unwrap_or(0);
        if column >= left && next <= right {
            shown.push(c);
        } else if column < left && next > left {
            // Half of a wide character keeps its columns.
            shown += &" ".repeat(next - left);
        }
        column = next;
    }
    shown += if total > to { "…" } else { "" };
    (shown, mark.start - from..mark.end.min(right) - from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_shows_the_mark_with_what_is_around_it() {
        let line = "agents = [\"First\", \"Second\", \"Third\"]";
        for (mark, room, shown, marked) in [
            (10..17, 40, line, "\"First\""),
            (10..17, 20, "agents = [\"First\", …", "\"First\""),
            (29..36, 20, "…d\", \"Third\"]", "\"Third\""),
            (10..37, 16, "…= [\"First\", \"S…", "\"First\", \"S"),
        ] {
            let (window, at) = window(line, mark, room);
            assert_eq!(window, shown);
            let text: String = window.chars().skip(at.start).take(at.len()).collect();
            assert_eq!(text, marked);
            assert!(window.width() <= room);
        }
    }

    #[test]
    fn wide_characters_keep_their_columns() {
        let (shown, at) = window("犬犬犬犬犬犬犬犬 x", 17..18, 9);
        assert_eq!((shown.as_str(), at), ("… x", 2..3));
        assert_eq!(sentence("a: ", "犬犬 犬犬 b", 8, 2), "a: 犬犬\n  犬犬 b\n");
    }
}
