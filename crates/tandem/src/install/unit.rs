//! The text of the systemd unit (systemd.unit(5), systemd.service(5)).

use std::path::PathBuf;
use std::time::Duration;

/// Whose the node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The machine's: systemd starts it with the machine, as this user.
    System { user: String },
    /// A user's: their own systemd starts it, with the machine where they linger.
    User,
}

/// A node as a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unit {
    pub(crate) scope: Scope,
    pub(crate) program: PathBuf,
    pub(crate) data: PathBuf,
    pub(crate) node: String,
    /// The fleet file; without one that of the fleet this machine belongs to, else the built-in one.
    pub(crate) fleet: Option<PathBuf>,
    /// Variables that the node is to have as whoever installs it has them.
    pub(crate) env: Vec<(String, String)>,
    /// The longest that an orderly end takes.
    pub(crate) stop: Duration,
}

/// How a unit of ours begins, so that nobody else's is overwritten.
pub(crate) const MARK: &str = "# Written by `tandem install`";

/// What the line with the data folder begins with: two folders are two services.
const DATA: &str = "# Data: ";

impl Unit {
    /// The unit file.
    pub(crate) fn text(&self) -> String {
        let program = quoted(&self.program.to_string_lossy());
        let data = quoted(&self.data.to_string_lossy());
        let fleet = self.fleet.as_ref().map(|path| format!(" {}", quoted(&path.to_string_lossy()))).unwrap_or_default();
        let env: String = self
            .env
            .iter()
            .map(|(name, value)| format!("Environment={}\n", quoted(&format!("{name}={value}"))))
            .collect();
        let (user, wanted_by) = match &self.scope {
            Scope::System { user } => (format!("User={user}\n"), "multi-user.target"),
            Scope::User => (String::new(), "default.target"),
        };
        format!(
            "{MARK}; `tandem uninstall` takes it away.\n\
             {DATA}{}\n\
             \n\
             [Unit]\n\
             Description=Tandem, node {}\n\
             Wants=network-online.target\n\
             After=network-online.target\n\
             # A node that cannot stay up is tried again for a while, not for ever.\n\
             StartLimitIntervalSec=10min\n\
             StartLimitBurst=20\n\
             \n\
             [Service]\n\
             Type=notify\n\
             NotifyAccess=main\n\
             {user}{env}\
             ExecStart={program} up --data {data} --node {}{fleet}\n\
             ExecStop={program} down --data {data}\n\
             # Groups outlive a node that dies: the next one takes them over.\n\
             KillMode=process\n\
             Restart=on-failure\n\
             RestartSec=1\n\
             # The node bounds its own waits at a start.\n\
             TimeoutStartSec=infinity\n\
             TimeoutStopSec={}\n\
             WatchdogSec=30\n\
             # Limits of groups are control groups that the node makes below its own.\n\
             Delegate=yes\n\
             UMask=0077\n\
             \n\
             [Install]\n\
             WantedBy={wanted_by}\n",
            self.data.display(),
            self.node,
            self.node,
            self.stop.as_secs(),
        )
    }
}

/// The data folder that a unit of ours serves; none for somebody else's unit.
pub(crate) fn data_of(text: &str) -> Option<PathBuf> {
    text.starts_with(MARK).then(|| text.lines().find_map(|line| line.strip_prefix(DATA)).map(PathBuf::from))?
}

/// A word of a command line: `%` and `$` mean something to systemd, spaces and quotes to its splitting.
fn quoted(word: &str) -> String {
    let escaped =
        word.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$").replace('\n', "\\n");
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-=:,@+".contains(c);
    if escaped.chars().all(plain) && !escaped.is_empty() { escaped } else { format!("\"{escaped}\"") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit() -> Unit {
        Unit {
            scope: Scope::User,
            program: "/opt/tandem".into(),
            data: "/home/ann/my data".into(),
            node: "solo".into(),
            fleet: None,
            env: vec![],
            stop: Duration::from_secs(90),
        }
    }

    #[test]
    fn words_keep_what_systemd_would_read_into_them() {
        for (word, written) in [
            ("/opt/tandem", "/opt/tandem"),
            ("/my data", "\"/my data\""),
            ("/100%", "\"/100%%\""),
            ("/a$b", "\"/a$$b\""),
            ("/a\"b\\c", "\"/a\\\"b\\\\c\""),
            ("", "\"\""),
        ] {
            assert_eq!(quoted(word), written);
        }
    }

    #[test]
    fn a_unit_starts_and_ends_the_node_of_its_data_folder() {
        let text = unit().text();
        for line in [
            "ExecStart=/opt/tandem up --data \"/home/ann/my data\" --node solo",
            "ExecStop=/opt/tandem down --data \"/home/ann/my data\"",
            "TimeoutStopSec=90",
            "KillMode=process",
            "WantedBy=default.target",
        ] {
            assert!(text.lines().any(|written| written == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("User="));
        assert_eq!(data_of(&text), Some("/home/ann/my data".into()));
        assert_eq!(data_of("[Unit]\nDescription=theirs\n"), None);
    }

    #[test]
    fn the_machines_unit_names_its_user_fleet_and_variables() {
        let text = Unit {
            scope: Scope::System { user: "ann".into() },
            fleet: Some("/etc/fleet.toml".into()),
            env: vec![("TANDEM_CACHE".into(), "/var/big disk".into())],
            ..unit()
        }
        .text();
        for line in [
            "User=ann",
            "Environment=\"TANDEM_CACHE=/var/big disk\"",
            "ExecStart=/opt/tandem up --data \"/home/ann/my data\" --node solo /etc/fleet.toml",
            "WantedBy=multi-user.target",
        ] {
            assert!(text.lines().any(|written| written == line), "{line} is not in\n{text}");
        }
    }
}
