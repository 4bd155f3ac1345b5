//! How long starts took, kept on disk.

use tandem_types::{Fault, reason};

use crate::layout::Layout;
use crate::lines;
use crate::logic::forecast::StartTimes;

/// Starts that are kept.
const MOST: usize = 10;

/// Keeps one more start.
pub(crate) fn keep(layout: &Layout, start: StartTimes) -> Result<(), Fault> {
    let path = layout.starts();
    lines::keep(&path, start, MOST).map_err(|e| {
        Fault::unavailable(reason::DISK, format!("cannot keep how long the start took in {}: {e}", path.display()))
    })
}

/// The kept starts of a data directory, oldest first.
pub fn starts(layout: &Layout) -> Vec<StartTimes> {
    lines::read(&layout.starts())
}
