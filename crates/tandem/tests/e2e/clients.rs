//! What people and their programs use a fleet through: the page in a real browser, and the official OpenAI client.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Command;

use crate::harness::Fleet;

/// A limit that only a hang reaches: either asks some twenty questions of a model that shares a slow machine.
const LIMIT: Duration = Duration::from_mins(15);
/// How long a script may take to clean up once it is told to end.
const GRACE: Duration = Duration::from_secs(10);

/// The root of the repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// A program on the path.
fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// The browser: the one named by `CHROMIUM`, else the first that is installed.
fn browser() -> PathBuf {
    let named = std::env::var("CHROMIUM").ok();
    let names = named.as_deref().map_or(vec!["chromium", "chromium-browser", "google-chrome"], |name| vec![name]);
    names.iter().find_map(|name| on_path(name)).unwrap_or_else(|| {
        panic!("there is no {}: `apt-get install chromium` gets one, or CHROMIUM names another", names.join(", "))
    })
}

/// The Python that has the client, as `scripts/clients.sh` made it.
fn python() -> PathBuf {
    let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = folder("TANDEM_CACHE")
        .or_else(|| Some(folder("XDG_CACHE_HOME")?.join("tandem")))
        .or_else(|| Some(folder("HOME")?.join(".cache/tandem")))
        .expect("neither TANDEM_CACHE nor HOME is set");
    let client = cache.join("clients/openai");
    let made_from = std::fs::read(client.join("made-from.txt")).unwrap_or_default();
    let wanted = std::fs::read(root().join("scripts/python/openai.txt")).unwrap();
    let here = client.display();
    assert!(
        made_from == wanted,
        "{here} does not hold the `openai` package of this version: `scripts/clients.sh` gets it"
    );
    client.join("bin/python")
}

/// Runs a script to its end, with its output in `output.txt` of a folder, and fails with that output unless all was well.
pub(crate) async fn runs_well(mut command: Command, folder: &Path, logs: &dyn Fn() -> String) {
    let path = folder.join("output.txt");
    let output = File::create(&path).unwrap();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(output.try_clone().unwrap())
        .stderr(output)
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let ended = match tokio::time::timeout(LIMIT, child.wait()).await {
        Ok(ended) => ended.unwrap().to_string(),
        Err(_) => {
            // So that it takes its browser along.
            let pid = child.id().expect("it was not waited for to its end");
            kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGTERM).unwrap();
            let ended = tokio::time::timeout(GRACE, child.wait()).await;
            format!("it hung for {} s, and then {ended:?}", LIMIT.as_secs())
        }
    };
    let said = std::fs::read_to_string(&path).unwrap();
    assert_eq!(ended, "exit status: 0", "{said}\n{}", logs());
}

/// An empty folder for what a test leaves for people to look at.
pub(crate) fn artifacts(name: &str) -> PathBuf {
    let folder = root().join("artifacts").join(name);
    drop(std::fs::remove_dir_all(&folder));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// A script of `web/e2e` that drives a browser against the page at an address and leaves its screenshots in a folder.
pub(crate) fn page_script(name: &str, address: &str, folder: &Path) -> Command {
    let (browser, web) = (browser(), root().join("web"));
    let node =
        on_path("node").expect("there is no node: `scripts/clients.sh` gets it and prints the PATH to find it by");
    let driver = web.join("node_modules/playwright-core");
    assert!(driver.is_dir(), "{} is missing: `npm ci` in web/ gets it", driver.display());
    let mut script = Command::new(node);
    script.arg(web.join("e2e").join(name)).arg(address).arg(folder).env("CHROMIUM", browser);
    script
}

#[tokio::test]
async fn the_page_works_in_a_real_browser() {
    let fleet = Fleet::up().await;
    let folder = artifacts("page");
    let mut script = page_script("page.mjs", &format!("http://{}", fleet.page()), &folder);
    script.env_remove("TANDEM_TOKEN");
    runs_well(script, &folder, &|| fleet.said()).await;
    let pictures =
        std::fs::read_dir(&folder).unwrap().flatten().filter(|e| e.path().extension().is_some_and(|e| e == "png"));
    assert!(pictures.count() >= 8, "{} lacks pictures", folder.display());
}

#[tokio::test]
async fn the_official_openai_client_is_answered() {
    let python = python();
    let fleet = Fleet::up().await;
    let folder = artifacts("openai");
    let mut script = Command::new(python);
    script.arg(root().join("crates/gateway/tests/openai_client.py")).arg(format!("http://{}", fleet.page()));
    script.env("PYTHONUNBUFFERED", "1");
    runs_well(script, &folder, &|| fleet.said()).await;
}
