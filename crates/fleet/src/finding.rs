//! What is wrong or worth knowing about a fleet file, and where.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use serde::Serialize;
use unicode_width::UnicodeWidthStr as _;

use crate::wrap::{sentence, window};

/// Least columns in which a line of the file is shown.
const LEAST_SOURCE: usize = 20;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file is refused.
    Error,
    /// The file is accepted, and something in it is likely not what was meant.
    Warning,
    /// Good to know.
    Note,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        })
    }
}

/// One thing that is wrong or worth knowing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// What kind of finding it is, in stable kebab case.
    pub code: &'static str,
    /// What is the case.
    pub message: String,
    /// What to do about it; empty where nothing needs doing.
    pub fix: String,
    /// The file's name as the caller gave it.
    pub file: String,
    /// The key it is about, such as `group."mainpc/coordination".gpu.share`.
    pub key: String,
    /// The place in the text; absent for a fleet that was not read from text.
    pub span: Option<Span>,
}

/// A place in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// The byte after the last.
    pub end: usize,
    /// Line of the first byte, starting at 1.
    pub line: usize,
    /// Character in that line, starting at 1.
    pub column: usize,
}

impl Span {
    /// A range of bytes in `text`, moved to character boundaries inside it.
    pub(crate) fn new(text: &str, range: Range<usize>) -> Self {
        let boundary = |at: usize| (0..=at.min(text.len())).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
        let (start, end) = (boundary(range.start), boundary(range.end.max(range.start)));
        let before = &text[..start];
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        Self { start, end, line: before.matches('\n').count() + 1, column: before[line_start..].chars().count() + 1 }
    }
}

/// A step down into the file: a key of a table or a place in a list.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    Key(String),
    Index(usize),
}

/// The way to a value of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Path(Vec<Step>);

impl Path {
    pub(crate) fn of(keys: &[&str]) -> Self {
        Self(keys.iter().map(|k| Step::Key((*k).to_owned())).collect())
    }

    pub(crate) fn key(&self, key: &str) -> Self {
        self.with(Step::Key(key.to_owned()))
    }

    pub(crate) fn index(&self, index: usize) -> Self {
        self.with(Step::Index(index))
    }

    fn with(&self, step: Step) -> Self {
        Self(self.0.iter().cloned().chain([step]).collect())
    }

    fn parent(&self) -> Option<Self> {
        let (_, rest) = self.0.split_last()?;
        Some(Self(rest.to_vec()))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Key(key) => {
                    let bare = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
                    let dot = if i == 0 { "" } else { "." };
                    if bare { write!(f, "{dot}{key}")? } else { write!(f, "{dot}{key:?}")? }
                }
            }
        }
        Ok(())
    }
}

/// Where the values of a file are, in bytes.
pub(crate) type Spans = BTreeMap<Path, Range<usize>>;

/// Collects findings and gives each its place.
#[derive(Debug, Clone, Default)]
pub(crate) struct Report {
    pub(crate) file: String,
    pub(crate) text: String,
    pub(crate) spans: Spans,
    pub(crate) findings: Vec<Finding>,
}

impl Report {
    pub(crate) fn error(&mut self, code: &'static str, at: &Path, message: impl Into<String>, fix: impl Into<String>) {
        self.push(Severity::Error, code, at, message.into(), fix.into());
    }

    pub(crate) fn warn(&mut self, code: &'static str, at: &Path, message: impl Into<String>, fix: impl Into<String>) {
        self.push(Severity::Warning, code, at, message.into(), fix.into());
    }

    pub(crate) fn note(&mut self, code: &'static str, at: &Path, message: impl Into<String>, fix: impl Into<String>) {
        self.push(Severity::Note, code, at, message.into(), fix.into());
    }

    fn push(&mut self, severity: Severity, code: &'static str, at: &Path, message: String, fix: String) {
        // A key that is not in the file has no place of its own: the nearest table around it has.
        let range = std::iter::successors(Some(at.clone()), Path::parent).find_map(|p| self.spans.get(&p).cloned());
        let span = range.map(|range| Span::new(&self.text, range));
        let (file, key) = (self.file.clone(), at.to_string());
        self.findings.push(Finding { severity, code, message, fix, file, key, span });
    }
}

/// The findings as text for a terminal of `width` columns: each with its place, the line it is about, a caret under it
/// and what to do.
///
/// `text` is the file they were found in; a finding without a place is shown with its key instead.
pub fn render_findings(findings: &[Finding], text: &str, width: usize) -> String {
    let mut out = String::new();
    for finding in findings {
        out += &render(finding, text, width);
        out.push('\n');
    }
    out += &summary(findings);
    out.push('\n');
    out
}

/// How many findings of each severity there are, in words.
pub fn summary(findings: &[Finding]) -> String {
    let count = |severity| findings.iter().filter(|f| f.severity == severity).count();
    let counts: Vec<String> = [Severity::Error, Severity::Warning, Severity::Note]
        .into_iter()
        .filter(|s| count(*s) > 0)
        .map(|s| format!("{} {s}{}", count(s), if count(s) == 1 { "" } else { "s" }))
        .collect();
    if counts.is_empty() { "no findings".into() } else { counts.join(", ") }
}

fn render(finding: &Finding, text: &str, width: usize) -> String {
    let Finding { severity, code, message, fix, file, key, span } = finding;
    let mut out = sentence(&format!("{severity}[{code}]: "), message, width, 2);
    let mut gutter = String::new();
    match span.and_then(|span| Some((span, text.split('\n').nth(span.line - 1)?))) {
        None if key.is_empty() => out += &format!(" --> {file}\n"),
        None => out += &format!(" --> {file}: {key}\n"),
        Some((Span { start, end, line, column }, source)) => {
            // A tab is one character and an unknown number of columns: show it as a space.
            let source = source.trim_end_matches('\r').replace('\t', " ");
            let before: String = source.chars().take(column - 1).collect();
            let marked: String = source.chars().skip(column - 1).collect();
            let marked = &marked[..marked.floor_char_boundary(end - start)];
            gutter = " ".repeat(line.to_string().len());
            let mark = before.width()..before.width() + marked.width().max(1);
            let (source, mark) = window(&source, mark, width.saturating_sub(gutter.len() + 3).max(LEAST_SOURCE));
            let (pad, carets) = (" ".repeat(mark.start), "^".repeat(mark.len()));
            out += &format!("{gutter}--> {file}:{line}:{column}\n{gutter} |\n");
            out += &format!("{line} | {source}\n{gutter} | {pad}{carets}\n");
        }
    }
    if !fix.is_empty() {
        out += &sentence(&format!("{gutter} = fix: "), fix, width, gutter.len() + 8);
    }
    out
}

/// The fix for a word that is not known: the one that was likely meant, or something else to do.
pub(crate) fn suggest<'a>(
    word: &str,
    known: impl IntoIterator<Item = &'a str>,
    otherwise: impl Into<String>,
) -> String {
    meant(word, known).map_or_else(|| otherwise.into(), |likely| format!("did you mean `{likely}`?"))
}

/// The known word that was most likely meant by `word`.
pub(crate) fn meant<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |k: &str| strsim::damerau_levenshtein(&word.to_lowercase(), &k.to_lowercase());
    let length = word.chars().count();
    if length > 64 {
        return None;
    }
    let limit = length.div_ceil(3).min(4);
    known.into_iter().map(|k| (distance(k), k)).filter(|(d, _)| *d <= limit).min().map(|(_, k)| k)
}
