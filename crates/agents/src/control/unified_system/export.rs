//! The file a person gets: one JSON object a line, `{"group": .., "store": .., "row": ..}`, readable by its owner only.
//!
//! Each group's rows go into a part of their own, which counts once it is whole; the parts are put together at the end. A
//! file stays as long as the request it belongs to, or until its person is forgotten.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use serde_json::{Value, json};
use tandem_contract::pb::tandem::system::v1 as pb;
use tandem_contract::rpc::host;
use tandem_store::actions::DataRequest;
use tandem_types::{Code, Fault, GroupId, reason};
use tokio::fs::{self, File, OpenOptions};
use tokio::io::{AsyncWriteExt as _, BufWriter};

use super::SystemHand;
use super::data::Stores;

/// How long a group may take to hand out everything, and how long it may be silent.
const ALL: Duration = Duration::from_mins(10);
const SILENCE: Duration = Duration::from_secs(20);
/// After this many rows the agent says that it is not stuck.
const BEAT: u64 = 256;

fn part(path: &Path, group: &GroupId) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.{}", group.node, group.group));
    name.into()
}

fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".unfinished");
    name.into()
}

fn disk(doing: &str, path: &Path, error: &std::io::Error) -> Fault {
    let code = match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Code::ResourceExhausted,
        _ => Code::Unavailable,
    };
    Fault::new(code, reason::DISK, format!("cannot {doing} {}: {error}", path.display()))
}

/// A file that appears under its name only when it is whole and on disk.
struct Whole {
    file: BufWriter<File>,
    at: PathBuf,
    path: PathBuf,
}

impl Whole {
    async fn create(path: PathBuf) -> Result<Self, Fault> {
        if let Some(folder) = path.parent() {
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).await;
            made.map_err(|e| disk("make the folder", folder, &e))?;
        }
        let at = unfinished(&path);
        // What an interrupted try left behind has another's mode, perhaps.
        let (Ok(()) | Err(_)) = fs::remove_file(&at).await;
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&at).await;
        let file = file.map_err(|e| disk("write", &at, &e))?;
        Ok(Self { file: BufWriter::new(file), at, path })
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.file.write_all(bytes).await.map_err(|e| disk("write", &self.at, &e))
    }

    async fn finish(mut self) -> Result<(), Fault> {
        self.file.flush().await.map_err(|e| disk("write", &self.at, &e))?;
        self.file.get_ref().sync_all().await.map_err(|e| disk("write", &self.at, &e))?;
        fs::rename(&self.at, &self.path).await.map_err(|e| disk("name", &self.path, &e))
    }
}

impl SystemHand {
    /// Writes a group's part, and counts its rows by store.
    pub(super) async fn export_from(&self, group: &GroupId, request: &DataRequest) -> Result<Stores, Fault> {
        let call = self.ctx.call().within(ALL, Instant::now());
        let asked = pb::ExportRequest { user_id: request.user.to_string(), ..Default::default() };
        let mut rows = self.ctx.peers().group(group)?.server_stream(host::EXPORT, asked, &call).await?;
        let mut file = Whole::create(part(Path::new(&request.path), group)).await?;
        let (mut stores, mut count) = (Stores::new(), 0);
        loop {
            let row = tokio::time::timeout(SILENCE, rows.next()).await.map_err(|_| {
                let message = format!("{group} fell silent while handing out data");
                Fault::new(Code::DeadlineExceeded, reason::TIME_UP, message)
            })?;
            let Some(row) = row.transpose()? else { break };
            let content: Value = serde_json::from_str(&row.row_json)
                .map_err(|e| Fault::internal(format!("a row of {} is not JSON: {e}", row.store)))?;
            let mut line = json!({ "group": group, "store": row.store, "row": content }).to_string();
            line.push('\n');
            file.write(line.as_bytes()).await?;
            *stores.entry(row.store).or_default() += 1;
            count += 1;
            if count % BEAT == 0 {
                self.ctx.beat();
            }
        }
        file.finish().await?;
        Ok(stores)
    }
}

/// Makes the one file of all parts.
pub(super) async fn put_together(path: &Path, groups: impl Iterator<Item = &GroupId>) -> Result<(), Fault> {
    let mut whole = Whole::create(path.to_owned()).await?;
    for group in groups {
        let part = part(path, group);
        let mut rows = File::open(&part).await.map_err(|e| disk("read", &part, &e))?;
        tokio::io::copy(&mut rows, &mut whole.file).await.map_err(|e| disk("copy", &part, &e))?;
    }
    whole.finish().await
}

/// Removes the parts, which are in the whole by now.
pub(super) async fn clean_up(path: &Path, groups: impl Iterator<Item = &GroupId>) {
    for group in groups {
        let part = part(path, group);
        if let Err(error) = fs::remove_file(&part).await {
            tracing::warn!(part = %part.display(), %error, "a part of a finished export could not be removed");
        }
    }
}

/// The files of a folder; none where there is no folder.
pub(super) async fn files(folder: &Path) -> Result<Vec<PathBuf>, Fault> {
    let mut entries = match fs::read_dir(folder).await {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(vec![]),
        Err(e) => return Err(disk("look into", folder, &e)),
    };
    let mut files = Vec::new();
    while let Some(entry) = entries.next_entry().await.map_err(|e| disk("look into", folder, &e))? {
        files.push(entry.path());
    }
    Ok(files)
}

/// Whether a file is the export's, or a part of it.
pub(super) fn is_of(file: &Path, request: &DataRequest) -> bool {
    let name = |path: &Path| path.file_name().and_then(OsStr::to_str).map(str::to_owned);
    name(file).zip(name(Path::new(&request.path))).is_some_and(|(file, whole)| file.starts_with(&whole))
}

/// Removes files; how many.
pub(super) async fn remove(files: impl Iterator<Item = PathBuf>) -> Result<u64, Fault> {
    let mut count = 0;
    for file in files {
        fs::remove_file(&file).await.map_err(|e| disk("remove", &file, &e))?;
        count += 1;
    }
    Ok(count)
}
