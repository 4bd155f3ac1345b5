//! Chores of the workspace: `cargo xtask <chore>`.

#![allow(clippy::print_stdout, reason = "a command line")]

mod docs;
#[cfg(test)]
mod house;
#[cfg(test)]
mod layout;
#[cfg(test)]
mod metrics;

use anyhow::{Context as _, bail};
use std::path::{Path, PathBuf};

/// The workspace's root.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default()
}

/// A generated file: where it is and what it should hold.
fn generated() -> Vec<(&'static str, String)> {
    let schema = format!("{:#}\n", tandem_fleet::json_schema());
    vec![("fleets/fleet.schema.json", schema), ("docs/error-table.md", docs::error_table())]
}

fn main() -> anyhow::Result<()> {
    let chore = std::env::args().nth(1).unwrap_or_default();
    match chore.as_str() {
        "generate" | "schema" => {
            for (path, text) in generated() {
                let full = root().join(path);
                std::fs::write(&full, text).with_context(|| format!("writing {}", full.display()))?;
                println!("wrote {path}");
            }
            Ok(())
        }
        other => bail!("`{other}` is no chore; known: generate (schema of the fleet file, error table)"),
    }
}
