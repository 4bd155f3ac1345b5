//! How the processes of groups ended, kept on disk: the last twenty of each group, one JSON object a line.

use std::collections::BTreeMap;

use tandem_types::{Fault, GroupId, reason};

use crate::layout::Layout;
use crate::lines;
use crate::status::ExitStatus;

/// Ends that are kept of a group.
const MOST: usize = 20;
/// Characters that are kept of a line of evidence.
const LINE: usize = 400;

/// Keeps one more end of a group, all of it or nothing.
pub(crate) fn keep(layout: &Layout, group: &GroupId, end: &ExitStatus) -> Result<(), Fault> {
    let path = layout.ends(group);
    let evidence = end.evidence.iter().map(|line| line.chars().take(LINE).collect()).collect();
    lines::keep(&path, ExitStatus { evidence, ..end.clone() }, MOST).map_err(|e| {
        Fault::unavailable(reason::DISK, format!("cannot keep how {group} ended in {}: {e}", path.display()))
    })
}

/// How the processes of a group ended, oldest first.
pub(crate) fn of(layout: &Layout, group: &GroupId) -> Vec<ExitStatus> {
    lines::read(&layout.ends(group))
}

/// How the processes of all groups of a data directory ended, by the name of the group, oldest first.
pub fn ends(layout: &Layout) -> BTreeMap<String, Vec<ExitStatus>> {
    let entries = std::fs::read_dir(layout.ends_folder()).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "jsonl"))
        .filter_map(|path| Some((path.file_stem()?.to_str()?.to_owned(), lines::read(&path))))
        .collect()
}

#[cfg(test)]
mod tests {
    use tandem_types::Timestamp;

    use super::*;
    use crate::status::EndKind;

    #[test]
    fn the_last_ends_are_kept_and_a_damaged_line_costs_itself() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path().join("d"), None).unwrap();
        layout.make().unwrap();
        let group: GroupId = "solo/talk".parse().unwrap();
        let end = |n: i64| ExitStatus {
            kind: EndKind::Crash,
            how: "exit code 7".into(),
            at: Timestamp(n),
            pid: Some(8),
            peak_bytes: Some(1 << 20),
            evidence: vec!["x".repeat(1_000)],
        };
        for n in 0..30 {
            keep(&layout, &group, &end(n)).unwrap();
        }
        let kept = of(&layout, &group);
        assert_eq!(kept.iter().map(|end| end.at.0).collect::<Vec<_>>(), (10..30).collect::<Vec<_>>());
        assert_eq!(kept[0].evidence, ["x".repeat(LINE)]);
        let path = layout.ends(&group);
        std::fs::write(&path, std::fs::read_to_string(&path).unwrap().replacen("\"how\"", "how", 1)).unwrap();
        assert_eq!(of(&layout, &group).len(), 19);
        keep(&layout, &group, &end(30)).unwrap();
        assert_eq!(ends(&layout)["talk"].last(), Some(&ExitStatus { evidence: vec!["x".repeat(LINE)], ..end(30) }));
        std::fs::remove_dir_all(layout.ends_folder()).unwrap();
        let fault = keep(&layout, &group, &end(31)).unwrap_err();
        assert!(fault.message.contains("talk.jsonl"), "{fault}");
    }
}
