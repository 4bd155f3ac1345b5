//! What was acknowledged survives `kill -9`.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use tandem_store::db::{Db, Migration};

const NUMBERS: &[Migration] = &[Migration { name: "numbers", sql: &["CREATE TABLE numbers(n INTEGER PRIMARY KEY)"] }];
/// Set in the child: where to write, and the first number.
const PLACE: &str = "TANDEM_STORE_KILL_TEST_PLACE";
const FIRST: &str = "TANDEM_STORE_KILL_TEST_FIRST";
/// Writers at once, so that the kill falls into shared commits.
const WRITERS: u64 = 16;
/// Acknowledged writes after which the child is killed.
const ENOUGH: usize = 300;

#[test]
fn every_acknowledged_write_survives_a_kill() {
    if let Some(place) = std::env::var_os(PLACE) {
        let first = std::env::var(FIRST).unwrap().parse().unwrap();
        write_for_ever(Path::new(&place), first);
    }
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("numbers.db");
    let mut acknowledged = BTreeSet::new();
    for round in 0..3 {
        acknowledged.extend(write_until_killed(&place, round * 1_000_000));
        let missing: Vec<_> = acknowledged.difference(&stored(&place)).copied().collect();
        assert_eq!(missing, [0u64; 0], "of {} acknowledged writes after round {round}", acknowledged.len());
    }
    assert!(acknowledged.len() >= 3 * ENOUGH);
}

/// Runs this very test as a child that writes, kills it, and returns the numbers it had acknowledged.
fn write_until_killed(place: &Path, first: u64) -> Vec<u64> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "every_acknowledged_write_survives_a_kill", "--nocapture"])
        .env(PLACE, place)
        .env(FIRST, first.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let number = |line: String| line.strip_prefix("ack ").and_then(|n| n.parse().ok());
    let mut acknowledged: Vec<u64> = lines.by_ref().filter_map(number).take(ENOUGH).collect();
    child.kill().unwrap();
    // What it had said before it died counts as well.
    acknowledged.extend(lines.filter_map(number));
    assert!(!child.wait().unwrap().success());
    acknowledged
}

fn write_for_ever(place: &Path, first: u64) -> ! {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let db = Db::open(place, NUMBERS).unwrap();
    for writer in 0..WRITERS {
        let db = db.clone();
        runtime.spawn(async move {
            for n in (first + writer..).step_by(WRITERS as usize) {
                db.write(move |tx| Ok(tx.execute("INSERT INTO numbers VALUES (?1)", [n as i64])?)).await.unwrap();
                let mut out = std::io::stdout().lock();
                // One write call per line, which a pipe takes whole, past the capture of the test harness.
                out.write_all(format!("ack {n}\n").as_bytes()).unwrap();
                out.flush().unwrap();
            }
        });
    }
    loop {
        std::thread::park();
    }
}

fn stored(place: &Path) -> BTreeSet<u64> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let db = Db::open(place, NUMBERS).unwrap();
        db.check().await.unwrap();
        let stored = db.read(|tx| {
            let mut numbers = tx.prepare("SELECT n FROM numbers")?;
            Ok(numbers.query_map([], |row| row.get::<_, i64>(0).map(|n| n as u64))?.collect::<Result<_, _>>()?)
        });
        let stored = stored.await.unwrap();
        db.close().await.unwrap();
        stored
    })
}
