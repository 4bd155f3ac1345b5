//! An identity that follows its files.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use tandem_types::Fault;

use crate::files::{CA, CRL, FLEET, Folder, NODE, NODE_KEY};
use crate::identity::Identity;

/// The files that an identity is made of.
const FILES: [&str; 5] = [FLEET, CA, NODE, NODE_KEY, CRL];

/// Inode, time of change in nanoseconds and length of each file: every write makes a new inode.
type Stamp = [Option<(u64, i64, i64, u64)>; FILES.len()];

/// The present identity of a folder. Whoever uses it asks now and then whether it has changed, so that renewals and revocations reach
/// a process without a restart.
#[derive(Debug)]
pub struct Watched {
    folder: Folder,
    stamp: Stamp,
    identity: Arc<Identity>,
}

impl Watched {
    /// Reads the identity that is in a folder.
    ///
    /// # Errors
    /// As [`Identity::load`].
    pub fn new(folder: Folder) -> Result<Self, Fault> {
        // Looked at before reading: what is written in between is noticed next time.
        let stamp = stamp(&folder);
        let identity = Arc::new(Identity::load(&folder)?);
        Ok(Self { folder, stamp, identity })
    }

    /// The identity as it was last read.
    pub fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// Looks whether files have changed, and reads them if so. True when the identity is another one now.
    ///
    /// # Errors
    /// As [`Identity::load`]; then the identity stays the one that it was, and the next call tries again.
    pub fn changed(&mut self) -> Result<bool, Fault> {
        let stamp = stamp(&self.folder);
        if stamp == self.stamp {
            return Ok(false);
        }
        self.identity = Arc::new(Identity::load(&self.folder)?);
        self.stamp = stamp;
        Ok(true)
    }
}

fn stamp(folder: &Folder) -> Stamp {
    FILES.map(|name| {
        let found = fs::metadata(folder.path().join(name)).ok()?;
        Some((found.ino(), found.mtime(), found.mtime_nsec(), found.len()))
    })
}
