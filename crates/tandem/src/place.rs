//! Where this machine's Tandem keeps its things.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use tandem_node::{Control, Layout};
use tandem_types::{Fault, reason};

/// The data directory that a command works on.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// The folders in it.
    pub(crate) layout: Layout,
}

impl Place {
    /// The directory that was asked for (`--data`, `TANDEM_DATA`), or the user's own.
    pub(crate) fn find(asked: Option<PathBuf>) -> Result<Self, Fault> {
        let data = asked.or_else(|| default_data(|name| std::env::var_os(name))).ok_or_else(|| {
            Fault::invalid_field("--data", "is not given, and neither XDG_DATA_HOME nor HOME is set: give a folder")
        })?;
        let data = std::path::absolute(&data)
            .map_err(|e| Fault::unavailable(reason::DISK, format!("{} is no folder: {e}", data.display())))?;
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        Ok(Self { layout: Layout::new(data, runtime.as_deref().filter(|dir| dir.is_dir()))? })
    }

    /// Speaks with the node of this directory.
    pub(crate) fn control(&self) -> Control {
        Control::new(&self.layout)
    }

    /// This program.
    pub(crate) fn program() -> Result<PathBuf, Fault> {
        std::env::current_exe().map_err(|e| Fault::unavailable(reason::DISK, format!("cannot find this program: {e}")))
    }

    /// The engine program that is installed next to this one.
    pub(crate) fn engine(program: &Path) -> PathBuf {
        program.with_file_name("tandem-llama")
    }
}

fn default_data(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let folder = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let share = folder("XDG_DATA_HOME").or_else(|| Some(folder("HOME")?.join(".local/share")))?;
    Some(share.join("tandem"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_own_folder_is_the_default() {
        let of = |vars: &[(&str, &str)]| {
            let vars: Vec<(String, OsString)> = vars.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect();
            default_data(|name| vars.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone()))
        };
        assert_eq!(of(&[("XDG_DATA_HOME", "/x"), ("HOME", "/h")]), Some("/x/tandem".into()));
        assert_eq!(of(&[("XDG_DATA_HOME", ""), ("HOME", "/h")]), Some("/h/.local/share/tandem".into()));
        assert_eq!(of(&[]), None);
    }
}
