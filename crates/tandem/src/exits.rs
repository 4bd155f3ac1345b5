//! `tandem status --exits`: how groups ended, as their nodes have kept it.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::SystemTime;

use serde_json::json;
use tandem_node::{EndKind, ExitStatus, ends};
use tandem_types::{Fault, Timestamp};

use crate::logs::last_words;
use crate::place::Place;
use crate::{Outcome, style};

/// Shows the kept ends of one group with all their evidence, or of all groups with their last words.
pub(crate) fn run(group: Option<&str>, as_json: bool, place: &Place) -> Outcome {
    let kept = asked(ends(&place.layout), group)?;
    if as_json {
        anstream::println!("{:#}", json!(kept));
    } else if kept.values().all(Vec::is_empty) {
        anstream::println!("no group has ended on {}", place.layout.data().display());
    } else {
        anstream::print!("{}", shown(&kept, group.is_some(), SystemTime::now().into(), style::width()));
    }
    Ok(ExitCode::SUCCESS)
}

type Kept = BTreeMap<String, Vec<ExitStatus>>;

/// Those that were asked for.
fn asked(kept: Kept, group: Option<&str>) -> Result<Kept, Fault> {
    let Some(group) = group else { return Ok(kept) };
    let name = group.rsplit('/').next().unwrap_or(group);
    match kept.get(name) {
        Some(ends) => Ok(BTreeMap::from([(name.to_owned(), ends.clone())])),
        None => {
            let known = kept.into_keys().collect::<Vec<_>>().join(", ");
            let known =
                if known.is_empty() { "no group has ended here".into() } else { format!("ends are kept of {known}") };
            Err(Fault::not_found(format!("no end of `{name}` is kept: {known}")))
        }
    }
}

/// The ends as lines, newest first.
fn shown(kept: &Kept, whole: bool, now: Timestamp, width: usize) -> String {
    let mut out = String::new();
    for (name, ends) in kept.iter().filter(|(_, ends)| !ends.is_empty()) {
        out += &format!("{}\n", style::bold(name));
        for end in ends.iter().rev() {
            let ago = style::span(u64::try_from(now.since(end.at).as_millis()).unwrap_or(u64::MAX));
            let kind = format!("{:<13}", end.kind.as_str());
            let kind = if end.kind == EndKind::Ordered { style::dim(&kind) } else { style::bad(&kind) };
            let peak =
                end.peak_bytes.map(|bytes| format!(", at most {} of memory", style::mib(bytes))).unwrap_or_default();
            out += &format!("  {:>8} ago  {kind}  {}{peak}\n", ago, end.how);
            let evidence = match whole {
                true => end.evidence.clone(),
                false => last_words(&end.evidence).filter(|_| end.kind != EndKind::Ordered).into_iter().collect(),
            };
            for line in evidence.iter().flat_map(|line| style::wrapped(line, width.saturating_sub(INDENT).max(20))) {
                out += &format!("{:INDENT$}{}\n", "", style::dim(&line));
            }
        }
    }
    out
}

/// Columns before a line of evidence.
const INDENT: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> Kept {
        let end = |kind, how: &str, at: i64, evidence: &[&str]| ExitStatus {
            kind,
            how: how.into(),
            at: Timestamp::from_secs(at),
            pid: Some(7),
            peak_bytes: (kind == EndKind::OutOfMemory).then_some(64 << 20),
            evidence: evidence.iter().map(|line| (*line).to_owned()).collect(),
        };
        let talk = vec![
            end(EndKind::Hang, "killed by SIGTERM, after it hung", 10, &["w: S (sleeping)", "port taken"]),
            end(EndKind::OutOfMemory, "killed by SIGKILL", 40, &[]),
            end(EndKind::Ordered, "exit code 0", 60, &["bye"]),
        ];
        Kept::from([("talk".to_owned(), talk), ("walk".to_owned(), vec![])])
    }

    #[test]
    fn ends_are_shown_newest_first_with_what_tells_why() {
        let plain = |whole| {
            let text = shown(&kept(), whole, Timestamp::from_secs(70), 80);
            anstream::adapter::strip_str(&text).to_string()
        };
        let expected = "\
talk
    10.0 s ago  ordered        exit code 0
    30.0 s ago  out of memory  killed by SIGKILL, at most 64.0 MiB of memory
     1 min ago  hang           killed by SIGTERM, after it hung
                port taken
";
        assert_eq!(plain(false), expected);
        assert!(plain(true).ends_with("w: S (sleeping)\n                port taken\n"), "{}", plain(true));
    }

    #[test]
    fn a_group_of_which_nothing_is_kept_is_named_with_those_that_are() {
        assert_eq!(asked(kept(), Some("solo/talk")).unwrap().len(), 1);
        let fault = asked(kept(), Some("balk")).unwrap_err();
        assert!(fault.message.ends_with("ends are kept of talk, walk"), "{fault}");
        let fault = asked(Kept::new(), Some("balk")).unwrap_err();
        assert!(fault.message.ends_with("no group has ended here"), "{fault}");
    }
}
