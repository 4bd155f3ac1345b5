//! Colours. Streams that want none (no terminal, `NO_COLOR`) drop them.

use std::io::Write as _;

use anstyle::{AnsiColor, Color, Style};
use tandem_node::GroupState;

/// Prints a line for a person, as long as there is one: a node goes on when its terminal has gone.
macro_rules! tell {
    ($($arg:tt)*) => {{
        use std::io::Write as _;
        let (Ok(()) | Err(_)) = writeln!(anstream::stdout(), $($arg)*);
    }};
}
pub(crate) use tell;

/// For what draws to the terminal by itself: without colours where none are wanted.
pub(crate) fn drawn(text: String) -> String {
    match anstream::AutoStream::choice(&std::io::stdout()) {
        anstream::ColorChoice::Never => anstream::adapter::strip_str(&text).to_string(),
        _ => text,
    }
}

fn painted(text: &str, style: Style) -> String {
    format!("{style}{text}{style:#}")
}

fn coloured(text: &str, color: AnsiColor) -> String {
    painted(text, Style::new().fg_color(Some(Color::Ansi(color))))
}

pub(crate) fn good(text: &str) -> String {
    coloured(text, AnsiColor::Green)
}

pub(crate) fn warn(text: &str) -> String {
    coloured(text, AnsiColor::Yellow)
}

pub(crate) fn bad(text: &str) -> String {
    coloured(text, AnsiColor::Red)
}

pub(crate) fn dim(text: &str) -> String {
    painted(text, Style::new().dimmed())
}

pub(crate) fn bold(text: &str) -> String {
    painted(text, Style::new().bold())
}

/// A state's word, or whatever stands for it, in the state's colour.
pub(crate) fn state(state: GroupState, text: &str) -> String {
    match state {
        GroupState::Ready => good(text),
        GroupState::Failed | GroupState::CrashLoop => bad(text),
        GroupState::NotBuilt | GroupState::Stopped | GroupState::Waiting => dim(text),
        _ => warn(text),
    }
}

/// Columns of the terminal, or those of `COLUMNS` where that is set; 120 where neither says.
pub(crate) fn width() -> usize {
    columns().unwrap_or(WIDTH)
}

/// The same where somebody says it: what is written for a program or a file need not keep to any.
pub(crate) fn columns() -> Option<usize> {
    let asked = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
    let seen = || terminal_size::terminal_size().map(|(width, _)| usize::from(width.0));
    asked.or_else(seen).filter(|columns| *columns >= LEAST_WIDTH)
}

/// Columns where nobody says how many there are.
const WIDTH: usize = 120;
/// A terminal that says it is narrower is not believed.
const LEAST_WIDTH: usize = 40;

/// A sentence in lines of at most `width` characters; a longer word has one to itself.
pub(crate) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// What goes wrong, on standard error: a word in its colour and a sentence, wrapped where a terminal is narrow.
pub(crate) fn complain(word: &str, message: &str) {
    let plain = anstream::adapter::strip_str(word).to_string();
    let room = columns().map_or(usize::MAX, |columns| columns.saturating_sub(plain.chars().count() + 2));
    // A message of several lines is laid out already.
    let lines = if message.contains('\n') { vec![message.to_owned()] } else { wrapped(message, room) };
    for (i, line) in lines.iter().enumerate() {
        let line =
            if i == 0 { format!("{word}: {line}") } else { format!("{:1$}{line}", "", plain.chars().count() + 2) };
        let (Ok(()) | Err(_)) = writeln!(anstream::stderr(), "{line}");
    }
}

/// A time span in the largest unit that says enough: `1.2 s`, `5 min`, `3 h`, `12 d`.
pub(crate) fn span(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        60_000..7_200_000 => format!("{} min", ms / 60_000),
        7_200_000..172_800_000 => format!("{} h", ms / 3_600_000),
        _ => format!("{} d", ms / 86_400_000),
    }
}

/// An amount of memory in MiB with one decimal.
pub(crate) fn mib(bytes: u64) -> String {
    let tenths = (bytes * 10 + (1 << 19)) >> 20;
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_are_cut_between_words() {
        assert_eq!(wrapped("one two  three", 7), ["one two", "three"]);
        assert_eq!(wrapped("incomprehensible", 7), ["incomprehensible"]);
        assert!(wrapped(" ", 7).is_empty());
    }

    #[test]
    fn amounts_are_readable() {
        let spans = [(0, "0 ms"), (1_250, "1.2 s"), (61_000, "1 min"), (7_200_000, "2 h"), (172_800_000, "2 d")];
        for (ms, text) in spans {
            assert_eq!(span(ms), text);
        }
        for (bytes, text) in [(0, "0.0 MiB"), (1 << 20, "1.0 MiB"), (15_728_640, "15.0 MiB"), (1_600_000, "1.5 MiB")] {
            assert_eq!(mib(bytes), text);
        }
    }
}
