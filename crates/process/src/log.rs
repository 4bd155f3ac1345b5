//! The log file of a child: written by the child itself, so that it goes on when its supervisor ends.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use tandem_types::{Fault, reason};

/// Above this size a log is put aside; one former file of at most this size is kept.
const KEEP_BYTES: u64 = 16 * 1024 * 1024;

/// How much of the end of a log is looked at for its last lines.
const TAIL_BYTES: u64 = 64 * 1024;

/// Most of a log's new end that is read at once.
const READ_MOST: u64 = 4 << 20;

/// Where a child writes its output.
#[derive(Debug, Clone)]
pub struct LogFile {
    path: PathBuf,
}

impl LogFile {
    /// A log at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens it for appending, readable by its owner only.
    pub(crate) fn open(&self) -> Result<File, Fault> {
        let failed = |e: std::io::Error| {
            Fault::unavailable(
                reason::DISK,
                format!("cannot write the log {}: {e}; check that its folder can be written", self.path.display()),
            )
        };
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        if std::fs::metadata(&self.path).is_ok_and(|m| m.len() > KEEP_BYTES) {
            std::fs::rename(&self.path, self.path.with_extension("log.1")).map_err(failed)?;
        }
        OpenOptions::new().create(true).append(true).mode(0o600).open(&self.path).map_err(failed)
    }

    /// Puts what is in it aside when it has grown too long, while a child goes on writing. What the child writes in that very
    /// moment is lost, and so is what does not fit into the former file.
    ///
    /// # Errors
    /// When the former file cannot be written; the log begins anew all the same, so that it does not fill the disk.
    pub(crate) fn bound(&self) -> std::io::Result<()> {
        let length = match std::fs::metadata(&self.path) {
            Ok(meta) => meta.len(),
            // There is nothing to bound.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => 0,
            Err(e) => return Err(e),
        };
        if length <= KEEP_BYTES {
            return Ok(());
        }
        let keep = || {
            let mut log = File::open(&self.path)?;
            log.seek(SeekFrom::Start(length - KEEP_BYTES))?;
            let former = self.path.with_extension("log.1");
            let mut kept = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(former)?;
            std::io::copy(&mut log.take(KEEP_BYTES), &mut kept).map(drop)
        };
        let kept = keep();
        // Whoever writes it does so at its end, wherever that is.
        OpenOptions::new().write(true).open(&self.path)?.set_len(0)?;
        kept
    }

    /// Its last lines, oldest first.
    pub fn tail(&self, lines: usize) -> Vec<String> {
        tail(&self.path, lines)
    }
}

/// The last lines of a file, oldest first; none when it cannot be read.
pub fn tail(path: &Path, lines: usize) -> Vec<String> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].iter().map(|line| (*line).to_owned()).collect()
}

/// Reads a log that is being written, from where it was read to the last time.
#[derive(Debug)]
pub struct LogReader {
    path: PathBuf,
    file: u64,
    read: u64,
    half: Vec<u8>,
}

impl LogReader {
    /// Begins at what is written from now on.
    pub fn at_end(path: &Path) -> Self {
        let meta = std::fs::metadata(path).ok();
        let (file, read) = meta.map_or((0, 0), |m| (m.ino(), m.len()));
        Self { path: path.to_owned(), file, read, half: Vec::new() }
    }

    /// Begins at the first line there is.
    pub fn at_start(path: &Path) -> Self {
        Self { path: path.to_owned(), file: 0, read: 0, half: Vec::new() }
    }

    /// Which log.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Lines that are complete since the last look. A log that was put aside is begun anew; one that is not there has none.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn new_lines(&mut self) -> std::io::Result<Vec<String>> {
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
            Err(e) => return Err(e),
        };
        let meta = file.metadata()?;
        if meta.ino() != self.file || meta.len() < self.read {
            (self.file, self.read) = (meta.ino(), 0);
            self.half.clear();
        }
        file.seek(SeekFrom::Start(self.read))?;
        self.read += file.take(READ_MOST).read_to_end(&mut self.half)? as u64;
        // A line without an end is handed out in pieces rather than kept whole.
        let unfinished = if self.half.len() as u64 >= READ_MOST { self.half.len() } else { 0 };
        let whole = self.half.iter().rposition(|byte| *byte == b'\n').map_or(unfinished, |end| end + 1);
        let lines: Vec<u8> = self.half.drain(..whole).collect();
        Ok(String::from_utf8_lossy(&lines).lines().map(str::to_owned).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn the_tail_is_the_end_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.log");
        std::fs::write(&path, (1..=100).map(|i| format!("line {i}\n")).collect::<String>()).unwrap();
        assert_eq!(tail(&path, 2), ["line 99", "line 100"]);
        assert_eq!(tail(&folder.path().join("absent"), 2), Vec::<String>::new());
    }

    #[test]
    fn a_long_log_is_put_aside() {
        let folder = tempfile::tempdir().unwrap();
        let log = LogFile::new(folder.path().join("logs/x.log"));
        log.open().unwrap().set_len(KEEP_BYTES + 1).unwrap();
        assert_eq!(log.open().unwrap().metadata().unwrap().len(), 0);
        assert!(folder.path().join("logs/x.log.1").exists());
    }

    #[test]
    fn a_log_that_grows_too_long_is_put_aside_while_it_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let log = LogFile::new(folder.path().join("x.log"));
        log.bound().unwrap();
        let mut child = log.open().unwrap();
        child.write_all(b"first\n").unwrap();
        log.bound().unwrap();
        assert_eq!(log.tail(9), ["first"]);
        child.set_len(3 * KEEP_BYTES).unwrap();
        child.write_all(b"last\n").unwrap();
        let mut reader = LogReader::at_end(log.path());
        log.bound().unwrap();
        child.write_all(b"next\n").unwrap();
        assert_eq!(log.tail(9), ["next"]);
        assert_eq!(reader.new_lines().unwrap(), ["next"]);
        let former = folder.path().join("x.log.1");
        assert_eq!(std::fs::metadata(&former).unwrap().len(), KEEP_BYTES);
        assert!(tail(&former, 1)[0].ends_with("last"));
    }
}
