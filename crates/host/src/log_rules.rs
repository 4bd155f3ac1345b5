//! Log lines that mean an error, whoever wrote them: what engines print, and what this process logs.
//!
//! Libraries and drivers tell of some failures in their output alone. Each rule is one pattern, matched in time linear in
//! the line; a match becomes an error that is reported with the line as evidence.

use std::fmt::Write as _;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use regex_lite::Regex;
use tandem_types::Code;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use crate::reports::Severity;

/// Longest part of a line that is looked at and kept.
const LONGEST: usize = 400;
/// Matches of this process that wait to be reported; the rest is dropped and counted.
const MOST: usize = 64;
/// Whose events are reported by other means, or are about reports: these must not cause the next one.
const NOT_FROM: [&str; 3] = ["tandem_agents::observability", "tandem_host::reports", "tandem_host::engines"];

/// What a line means.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) reason: &'static str,
    pub(crate) code: Code,
    pub(crate) severity: Severity,
    pattern: &'static str,
}

/// The rules; the first that matches counts.
pub(crate) const RULES: &[Rule] = &[
    Rule {
        reason: "out_of_memory",
        code: Code::ResourceExhausted,
        severity: Severity::Critical,
        pattern: r"(?i)\b(out of memory|out_of_memory|cannot allocate memory|bad_alloc|memory allocation of \d+ bytes failed|(failed|unable) to allocate)",
    },
    Rule {
        reason: "device_fault",
        code: Code::Internal,
        severity: Severity::Critical,
        pattern: r"(?i)(\bxid\b.*\d|\bcuda error\b|\bcudaerror[a-z]|illegal memory access|device-side assert|fallen off the bus|uncorrectable ecc|\bmps server\b.*\bfault)",
    },
    Rule {
        reason: "audio_overrun",
        code: Code::ResourceExhausted,
        severity: Severity::Warning,
        pattern: r"(?i)(\bxrun\b|\b(capture|input|audio)\b.*\boverrun|\boverrun occurred)",
    },
];

static PATTERNS: LazyLock<Vec<(Regex, &'static Rule)>> = LazyLock::new(|| {
    // A table test holds every pattern to being one.
    RULES.iter().filter_map(|rule| Some((Regex::new(rule.pattern).ok()?, rule))).collect()
});

/// A line that means an error.
#[derive(Debug)]
pub(crate) struct Match {
    pub(crate) rule: &'static Rule,
    pub(crate) line: String,
}

/// Cuts a line to what is looked at and kept.
pub(crate) fn cut(line: &str) -> &str {
    &line[..line.floor_char_boundary(LONGEST)]
}

/// What a line means, if anything.
pub(crate) fn matched(line: &str) -> Option<Match> {
    let line = cut(line);
    let (_, rule) = PATTERNS.iter().find(|(pattern, _)| pattern.is_match(line))?;
    Some(Match { rule, line: line.to_owned() })
}

/// Listens to what this process logs, and keeps what means an error until a group reports it. Cheap to clone; put one
/// clone among the layers of the subscriber. With several groups in one process the first to report takes it.
#[derive(Debug, Clone, Default)]
pub struct LogEvents(Arc<Mutex<Vec<Match>>>);

impl LogEvents {
    pub(crate) fn take(&self) -> Vec<Match> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The message of an event and its fields in one line.
#[derive(Default)]
struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing into a String does not fail.
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?} "),
            name => write!(self.0, "{name}={value:?} "),
        };
    }
}

impl<S: Subscriber> Layer<S> for LogEvents {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let about = event.metadata();
        if *about.level() > Level::WARN || NOT_FROM.iter().any(|target| about.target().starts_with(target)) {
            return;
        }
        let mut line = Line::default();
        event.record(&mut line);
        let Some(found) = matched(line.0.trim_end()) else { return };
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < MOST {
            kept.push(found);
        } else {
            metrics::counter!("tandem_error_reports_dropped_total").increment(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::layer::SubscriberExt as _;

    #[test]
    fn every_pattern_is_one() {
        assert_eq!(PATTERNS.len(), RULES.len());
    }

    #[test]
    fn lines_mean_what_the_table_says() {
        for (line, expected) in [
            (
                "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 900 MiB on device 0: cudaMalloc failed: out of memory",
                Some("out_of_memory"),
            ),
            ("ggml_aligned_malloc: insufficient memory (attempted to allocate 12.5 MB)", None),
            ("llama_kv_cache: failed to allocate buffer for kv cache", Some("out_of_memory")),
            ("memory allocation of 8589934592 bytes failed", Some("out_of_memory")),
            ("terminate called after throwing an instance of 'std::bad_alloc'", Some("out_of_memory")),
            ("CUDA error: an illegal memory access was encountered", Some("device_fault")),
            ("NVRM: Xid (PCI:0000:01:00): 79, pid=1234, GPU has fallen off the bus.", Some("device_fault")),
            ("MPS server entered FAULT state", Some("device_fault")),
            ("ALSA lib pcm.c: capture overrun occurred", Some("audio_overrun")),
            ("an xrun of at least 3.1 ms", Some("audio_overrun")),
            ("llama_model_load: loaded 94 MiB", None),
            ("the memory of conversations", None),
            ("", None),
        ] {
            assert_eq!(matched(line).map(|found| found.rule.reason), expected, "{line}");
        }
        let long = "é".repeat(LONGEST) + " out of memory";
        assert!(matched(&long).is_none() && cut(&long).len() <= LONGEST, "what is cut off is not looked at");
    }

    #[test]
    fn events_are_kept_until_they_are_taken() {
        let events = LogEvents::default();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(events.clone()), || {
            tracing::warn!(error = "out of memory", "a cache was not filled");
            tracing::info!("out of memory is what this would be about");
            tracing::error!(target: "tandem_agents::observability::alerts", "out of memory: 3 times");
            for _ in 0..2 * MOST {
                tracing::warn!("xrun");
            }
        });
        let kept = events.take();
        assert_eq!((kept.len(), kept[0].rule.reason), (MOST, "out_of_memory"));
        assert!(kept[0].line.contains("a cache was not filled") && kept[0].line.contains("error="), "{}", kept[0].line);
        assert!(events.take().is_empty());
    }
}
