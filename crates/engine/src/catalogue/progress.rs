//! What a fetch tells while it runs.

use std::cell::Cell;

/// Follows a fetch; the command line draws a bar from it.
pub trait Progress {
    /// `total` bytes are to come; said again, with the count back at 0, where a fetch starts anew.
    fn started(&self, total: u64) {
        let _ = total;
    }

    /// So many more bytes are there.
    fn advanced(&self, bytes: u64) {
        let _ = bytes;
    }

    /// What is being done now.
    fn phase(&self, text: &str) {
        let _ = text;
    }

    /// Something the person should still see when the fetch is over, such as why a source was passed over.
    fn note(&self, text: &str) {
        let _ = text;
    }

    /// Asked a few times a second: true ends the fetch and keeps what has arrived.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Nobody watches.
impl Progress for () {}

/// Turns positions in the file into the steps that [`Progress`] counts.
pub(super) struct Meter<'p> {
    pub(super) progress: &'p dyn Progress,
    total: u64,
    at: Cell<u64>,
}

impl<'p> Meter<'p> {
    pub(super) fn new(progress: &'p dyn Progress, total: u64) -> Self {
        progress.started(total);
        Self { progress, total, at: Cell::new(0) }
    }

    /// The file is there up to `position`; a position already reported adds nothing.
    pub(super) fn reach(&self, position: u64) {
        let step = position.saturating_sub(self.at.get());
        if step > 0 {
            self.at.set(position);
            self.progress.advanced(step);
        }
    }

    /// The file starts anew.
    pub(super) fn restart(&self) {
        self.at.set(0);
        self.progress.started(self.total);
    }
}
