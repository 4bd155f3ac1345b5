//! Measures acknowledged writes on the disk of the given folder: one writer after another, then many at once.
//!
//! `cargo run -p tandem-store --example latency -- FOLDER`

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tandem_store::db::{Db, Migration};
use tandem_types::Fault;

const ROWS: &[Migration] =
    &[Migration { name: "rows", sql: &["CREATE TABLE rows(id INTEGER PRIMARY KEY, text TEXT)"] }];
const ALONE: usize = 1_000;
const TOGETHER: usize = 20_000;

async fn write(db: &Db) -> Result<(), Fault> {
    db.write(|tx| {
        tx.prepare_cached("INSERT INTO rows(text) VALUES (?1)")?.execute(["two hundred bytes ".repeat(11)])?;
        Ok(())
    })
    .await
}

async fn measure(db: &Db, out: &mut impl Write) -> Result<(), Box<dyn std::error::Error>> {
    let mut alone = Vec::with_capacity(ALONE);
    for _ in 0..ALONE {
        let begun = Instant::now();
        write(db).await?;
        alone.push(begun.elapsed());
    }
    alone.sort_unstable();
    let at = |share: usize| alone[ALONE * share / 100];
    writeln!(out, "one writer: p50 {:?}, p99 {:?}", at(50), at(99))?;
    for writers in [8, 64, 256] {
        let before = db.stats();
        let begun = Instant::now();
        let tasks: Vec<_> = (0..writers)
            .map(|_| {
                let db = db.clone();
                tokio::spawn(async move {
                    for _ in 0..TOGETHER / writers {
                        write(&db).await?;
                    }
                    Ok::<_, Fault>(())
                })
            })
            .collect();
        for task in tasks {
            task.await??;
        }
        let (took, after) = (begun.elapsed(), db.stats());
        let (writes, commits) = (after.writes - before.writes, after.commits - before.commits);
        let rate = writes as f64 / took.as_secs_f64();
        writeln!(
            out,
            "{writers} writers: {rate:.0} writes/s, {:.1} writes per commit",
            writes as f64 / commits as f64
        )?;
    }
    let begun = Instant::now();
    let reads = 10_000;
    for id in 0..reads {
        db.read(move |tx| Ok(tx.prepare_cached("SELECT text FROM rows WHERE id = ?1")?.exists([id])?)).await?;
    }
    writeln!(out, "one reader: {:?} per look-up", begun.elapsed() / reads)?;
    Ok(())
}

/// Memory of this process, resident.
fn resident_kib() -> io::Result<i64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    Ok(line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let path = folder.join(format!("latency-{}.db", std::process::id()));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build()?;
    let outcome = runtime.block_on(async {
        let before = resident_kib()?;
        let db = Db::open(&path, ROWS)?;
        writeln!(io::stdout(), "an open store: {} KiB", resident_kib()? - before)?;
        measure(&db, &mut io::stdout().lock()).await?;
        writeln!(io::stdout(), "after all this: {} KiB", resident_kib()? - before)?;
        db.close().await?;
        Ok(())
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    std::fs::remove_file(&path)?;
    outcome
}
