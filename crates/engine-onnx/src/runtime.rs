//! The library, and what all models of a process share of it.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ort::environment::Environment;
use tandem_engine::catalogue::Store;
use tandem_types::{Code, Fault};

use crate::{MODEL_CORRUPT, MODEL_MISSING};

/// The library's name in the catalogue.
pub const LIBRARY: &str = "onnxruntime-1.22.1";
/// Names a file that is loaded instead of the catalogue's, such as a build for a graphics card.
pub const LIBRARY_VARIABLE: &str = "TANDEM_ONNXRUNTIME";

/// The library's file: the one that the environment names, else the catalogue's.
///
/// # Errors
/// `unavailable`, `no_model`, when it is not on this machine, with the command that gets it.
pub fn library(store: &Store) -> Result<PathBuf, Fault> {
    match std::env::var_os(LIBRARY_VARIABLE) {
        Some(path) => Ok(path.into()),
        None => store.path_of(LIBRARY),
    }
}

/// A loaded ONNX Runtime. Clones share it.
#[derive(Debug, Clone)]
pub struct Runtime {
    environment: Environment,
}

/// The file that this process has loaded. A second library could not be told from the first.
static LOADED: Mutex<Option<(PathBuf, Environment)>> = Mutex::new(None);

impl Runtime {
    /// Loads the library at `path`; a second call of a process answers with what the first one loaded.
    ///
    /// # Errors
    /// `not_found` when there is no such file; `failed_precondition` when it is no ONNX Runtime, is older than 1.21, or another
    /// one is loaded already.
    pub fn load(path: &Path) -> Result<Self, Fault> {
        if !path.is_file() {
            let message = format!(
                "there is no ONNX Runtime at {}: `tandem models pull {LIBRARY}` gets it, {LIBRARY_VARIABLE} names another",
                path.display()
            );
            return Err(Fault::new(Code::NotFound, MODEL_MISSING, message));
        }
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, environment)) = loaded.as_ref() {
            if of == path {
                return Ok(Self { environment: environment.clone() });
            }
            let message =
                format!("ONNX Runtime is loaded from {} already, {} cannot be too", of.display(), path.display());
            return Err(Fault::new(Code::FailedPrecondition, MODEL_CORRUPT, message));
        }
        let wrong = |why: String| {
            let message = format!("{} cannot be used as ONNX Runtime: {why}", path.display());
            Fault::new(Code::FailedPrecondition, MODEL_CORRUPT, message)
        };
        let builder = ort::init_from(path).map_err(|e| wrong(e.to_string()))?;
        let environment =
            builder.with_name("tandem").with_telemetry(false).build().map_err(|e| wrong(e.to_string()))?;
        *loaded = Some((path.to_owned(), environment.clone()));
        Ok(Self { environment })
    }

    pub(crate) fn environment(&self) -> &Environment {
        &self.environment
    }

    /// In words, with the version of the library.
    pub fn version(&self) -> String {
        let branch = ort::info().split("git-branch=").nth(1).and_then(|rest| rest.split(',').next());
        format!("onnxruntime {}", branch.unwrap_or("of an unknown version").trim_start_matches("rel-"))
    }
}
