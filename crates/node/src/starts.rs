//! How long starts took, kept on disk: the last ones, one JSON object a line.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;

use tandem_types::{Fault, reason};

use crate::layout::Layout;
use crate::logic::forecast::StartTimes;

/// Starts that are kept.
const MOST: usize = 10;

/// Keeps one more start, all of it or nothing.
pub(crate) fn keep(layout: &Layout, start: StartTimes) -> Result<(), Fault> {
    let path = layout.starts();
    let failed = |e: std::io::Error| {
        Fault::unavailable(reason::DISK, format!("cannot keep how long the start took in {}: {e}", path.display()))
    };
    let mut kept = starts(layout);
    kept.push(start);
    let mut text = Vec::new();
    for start in &kept[kept.len().saturating_sub(MOST)..] {
        serde_json::to_writer(&mut text, start).map_err(|e| failed(e.into()))?;
        text.push(b'\n');
    }
    let new = path.with_extension("new");
    let write = || {
        let mut file = File::options().create(true).write(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&text)?;
        std::fs::rename(&new, &path)
    };
    write().map_err(failed)
}

/// The kept starts of a data directory, oldest first; a line that cannot be read is left out.
pub fn starts(layout: &Layout) -> Vec<StartTimes> {
    let text = std::fs::read_to_string(layout.starts()).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tandem_types::Timestamp;

    use super::*;

    #[test]
    fn the_last_starts_are_kept_and_a_damaged_line_costs_itself() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path().join("d"), None).unwrap();
        layout.make().unwrap();
        for n in 0..15 {
            keep(&layout, StartTimes { at: Timestamp(n), groups: BTreeMap::new() }).unwrap();
        }
        let kept = |layout| starts(layout).iter().map(|start| start.at.0).collect::<Vec<_>>();
        assert_eq!(kept(&layout), (5..15).collect::<Vec<_>>());
        let text = std::fs::read_to_string(layout.starts()).unwrap();
        std::fs::write(layout.starts(), text.replacen("\"at\"", "at", 1)).unwrap();
        assert_eq!(kept(&layout), (6..15).collect::<Vec<_>>());
    }
}
