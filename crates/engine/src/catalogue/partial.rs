//! A file that is still arriving: a prefix of the finished one, whoever delivered it, hashed as it grows.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::progress::Meter;

/// Why a source did not deliver.
#[derive(Debug)]
pub(super) enum Failed {
    /// The source failed; another one may do.
    Source(String),
    /// Our disk failed; no source will do.
    Disk(io::Error),
    /// The caller wants no more of it.
    Cancelled,
}

/// The prefix on disk and its hash so far.
pub(super) struct Partial {
    file: File,
    hasher: Sha256,
    len: u64,
    size: u64,
}

impl Partial {
    /// Takes up what is there; a prefix longer than the `size` of the finished file starts anew.
    pub(super) fn open(path: &Path, size: u64) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let len = file.metadata()?.len();
        let mut partial = Self { file, hasher: Sha256::new(), len, size };
        if len > size {
            partial.restart()?;
        } else {
            io::copy(&mut partial.file, &mut partial.hasher)?;
        }
        Ok(partial)
    }

    /// Bytes that are there.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Bytes of the finished file.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn is_complete(&self) -> bool {
        self.len == self.size
    }

    /// Throws away what is there.
    pub(super) fn restart(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.hasher = Sha256::new();
        self.len = 0;
        Ok(())
    }

    /// SHA-256 of what is there.
    pub(super) fn sha256(&self) -> String {
        hex(self.hasher.clone())
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    /// Appends all that `source` gives; `name` is for the message when it fails or gives too much.
    pub(super) fn append(&mut self, source: &mut dyn Read, name: &str, meter: &Meter<'_>) -> Result<(), Failed> {
        let mut buffer = vec![0; 256 * 1024];
        loop {
            if meter.progress.cancelled() {
                return Err(Failed::Cancelled);
            }
            let count = match source.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    return Err(Failed::Source(format!("{name} broke off after {} bytes: {error}", self.len)));
                }
            };
            if count as u64 > self.size - self.len {
                return Err(Failed::Source(format!("{name} gives more than the {} bytes of the file", self.size)));
            }
            self.file.write_all(&buffer[..count]).map_err(Failed::Disk)?;
            self.hasher.update(&buffer[..count]);
            self.len += count as u64;
            meter.reach(self.len);
        }
    }
}

/// SHA-256 of a file, in lower-case hex.
pub fn sha256_of(path: &Path) -> io::Result<String> {
    let mut hasher = Sha256::new();
    io::copy(&mut File::open(path)?, &mut hasher)?;
    Ok(hex(hasher))
}

fn hex(hasher: Sha256) -> String {
    format!("{:x}", hasher.finalize())
}
