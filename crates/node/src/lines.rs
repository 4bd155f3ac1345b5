//! What a node remembers on disk: files of one JSON object a line, the last so many.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::layout::write_whole;

/// Keeps one more, all of it or nothing; of more than `most` the oldest go.
pub(crate) fn keep<T: Serialize + DeserializeOwned>(path: &Path, one: T, most: usize) -> std::io::Result<()> {
    let mut kept = read(path);
    kept.push(one);
    let mut text = String::new();
    for one in &kept[kept.len().saturating_sub(most)..] {
        text += &serde_json::to_string(one)?;
        text.push('\n');
    }
    write_whole(path, &text)
}

/// What is kept, oldest first; a line that cannot be read is left out.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Vec<T> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_are_kept_and_a_damaged_line_costs_itself() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("numbers.jsonl");
        for number in 0..15 {
            keep(&path, number, 10).unwrap();
        }
        assert_eq!(read::<i32>(&path), (5..15).collect::<Vec<_>>());
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replacen("5", "five", 1)).unwrap();
        assert_eq!(read::<i32>(&path), (6..15).collect::<Vec<_>>());
        keep(&path, 15, 10).unwrap();
        assert_eq!(read::<i32>(&path), (6..16).collect::<Vec<_>>());
        assert!(keep(&folder.path().join("not/there.jsonl"), 1, 10).is_err());
    }
}
