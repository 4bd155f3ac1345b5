use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use rusqlite::Connection;
use tandem_types::{Code, Fault, reason};
use tempfile::TempDir;

use super::{Db, Migration};
use crate::words::reason::NEWER_SCHEMA;

const NOTES: Migration =
    Migration { name: "notes", sql: &["CREATE TABLE notes(id INTEGER PRIMARY KEY, text TEXT UNIQUE)"] };

fn place() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data/notes.db");
    (folder, path)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn wal(path: &Path) -> PathBuf {
    super::files::beside(path, "-wal")
}

async fn add(db: &Db, text: impl Into<String>) -> Result<i64, Fault> {
    let text = text.into();
    db.write(move |tx| Ok(tx.query_row("INSERT INTO notes(text) VALUES (?1) RETURNING id", [text], |row| row.get(0))?))
        .await
}

async fn all(db: &Db) -> Vec<String> {
    db.read(|tx| {
        let mut notes = tx.prepare("SELECT text FROM notes ORDER BY id")?;
        Ok(notes.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?)
    })
    .await
    .unwrap()
}

/// Holds the writing thread until the returned sender says so or is dropped.
async fn hold(db: &Db) -> (mpsc::Sender<()>, tokio::task::JoinHandle<Result<(), Fault>>) {
    let (release, released) = mpsc::channel();
    let (started, start) = tokio::sync::oneshot::channel();
    let db = db.clone();
    let held = tokio::spawn(async move {
        db.write(move |_| {
            let _ = started.send(());
            let _ = released.recv();
            Ok(())
        })
        .await
    });
    start.await.unwrap();
    (release, held)
}

#[tokio::test]
async fn only_the_owner_may_read_the_files() {
    let (_folder, path) = place();
    let db = Db::open(&path, &[NOTES]).unwrap();
    add(&db, "one").await.unwrap();
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    assert_eq!((mode(&path), mode(&wal(&path))), (0o600, 0o600));
    db.close().await.unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    let _db = Db::open(&path, &[NOTES]).unwrap();
    assert_eq!(mode(&path), 0o600);
}

#[tokio::test]
async fn the_writer_is_set_up_as_promised() {
    let (_folder, path) = place();
    let db = Db::open(&path, &[NOTES]).unwrap();
    let settings = db.write(|tx| {
        let pragma =
            |name: &str| tx.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, rusqlite::types::Value>(0));
        Ok((pragma("journal_mode")?, pragma("synchronous")?, pragma("secure_delete")?, pragma("foreign_keys")?))
    });
    assert_eq!(settings.await.unwrap(), ("wal".to_owned().into(), 2.into(), 1.into(), 1.into()));
    let refused = db.read(|tx| Ok(tx.execute("DELETE FROM notes", [])?)).await.unwrap_err();
    assert_eq!(refused.reason, reason::DISK);
}

#[test]
fn a_place_that_cannot_be_used_is_named_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "no folder").unwrap();
    let garbage = folder.path().join("garbage.db");
    fs::write(&garbage, "this is no database at all, and longer than a header of SQLite".repeat(100)).unwrap();
    for (path, code, hint) in [
        (file.join("notes.db"), Code::Unavailable, "choose another data folder"),
        (PathBuf::from("/proc/notes.db"), Code::Unavailable, "choose another data folder"),
        (folder.path().to_owned(), Code::Unavailable, "writable"),
        (garbage, Code::Internal, "latest backup"),
    ] {
        let fault = Db::open(&path, &[NOTES]).unwrap_err();
        assert_eq!((fault.code, fault.reason.as_str()), (code, reason::DISK), "{fault}");
        let named = path.ancestors().take(2).any(|p| fault.message.contains(&p.display().to_string()));
        assert!(named && fault.message.contains(hint), "{fault}");
    }
}

#[tokio::test]
async fn damage_inside_a_file_is_found_and_named() {
    let (_folder, path) = place();
    let db = Db::open(&path, &[NOTES]).unwrap();
    for n in 0..200 {
        add(&db, format!("{n} {}", "x".repeat(200))).await.unwrap();
    }
    db.check().await.unwrap();
    db.close().await.unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let end = bytes.len();
    bytes[3 * 4096..end].fill(0xa5);
    fs::write(&path, bytes).unwrap();
    let db = Db::open(&path, &[NOTES]).unwrap();
    let fault = db.check().await.unwrap_err();
    assert_eq!((fault.code, fault.reason.as_str()), (Code::Internal, reason::DISK));
    assert!(fault.message.contains("notes.db") && fault.message.contains("backup"), "{fault}");
}

#[tokio::test]
async fn a_failing_write_leaves_its_neighbours_alone() {
    let (_folder, path) = place();
    let db = Db::open(&path, &[NOTES]).unwrap();
    add(&db, "first").await.unwrap();
    let (release, held) = hold(&db).await;
    let good = tokio::spawn({
        let db = db.clone();
        async move { add(&db, "good").await }
    });
    let twice = tokio::spawn({
        let db = db.clone();
        async move {
            db.write(|tx| {
                tx.execute("INSERT INTO notes(text) VALUES ('half done')", [])?;
                Ok(tx.execute("INSERT INTO notes(text) VALUES ('first')", [])?)
            })
            .await
        }
    });
    let refused = tokio::spawn({
        let db = db.clone();
        async move {
            db.write(|tx| {
                tx.execute("INSERT INTO notes(text) VALUES ('half done')", [])?;
                Err::<(), _>(Fault::not_found("no such note").into())
            })
            .await
        }
    });
    let panics = tokio::spawn({
        let db = db.clone();
        async move {
            db.write(|tx| {
                tx.execute("INSERT INTO notes(text) VALUES ('half done')", [])?;
                Ok([0u8; 1][tx.query_row("SELECT count(*) FROM notes", [], |row| row.get::<_, usize>(0))?])
            })
            .await
        }
    });
    let last = tokio::spawn({
        let db = db.clone();
        async move { add(&db, "last").await }
    });
    tokio::task::yield_now().await;
    drop(release);
    held.await.unwrap().unwrap();
    good.await.unwrap().unwrap();
    assert_eq!(twice.await.unwrap().unwrap_err().code, Code::Internal);
    assert_eq!(refused.await.unwrap().unwrap_err().message, "no such note");
    assert_eq!(panics.await.unwrap().unwrap_err().code, Code::Internal);
    last.await.unwrap().unwrap();
    assert_eq!(all(&db).await, ["first", "good", "last"]);
}

#[tokio::test]
async fn writes_that_wait_together_share_a_commit() {
    let (_folder, path) = place();
    let db = Db::open(&path, &[NOTES]).unwrap();
    let before = db.stats();
    let (release, held) = hold(&db).await;
    let writes: Vec<_> = (0..200)
        .map(|n| {
            let db = db.clone();
            tokio::spawn(async move { add(&db, format!("{n}")).await })
        })
        .collect();
    tokio::task::yield_now().await;
    drop(release);
    held.await.unwrap().unwrap();
    for write in writes {
        write.await.unwrap().unwrap();
    }
    let (writes, commits) = (db.stats().writes - before.writes, db.stats().commits - before.commits);
    assert_eq!((writes, all(&db).await.len()), (201, 200));
    assert!(commits <= 40, "{writes} writes took {commits} commits");
}

#[tokio::test]
async fn a_write_whose_caller_left_before_it_began_does_not_happen() {
    let (_folder, path) = place();
    let db = Db::open(&path, &[NOTES]).unwrap();
    let (release, held) = hold(&db).await;
    let given_up = tokio::spawn({
        let db = db.clone();
        async move { add(&db, "given up").await }
    });
    tokio::task::yield_now().await;
    given_up.abort();
    assert!(given_up.await.unwrap_err().is_cancelled());
    drop(release);
    held.await.unwrap().unwrap();
    add(&db, "wanted").await.unwrap();
    assert_eq!(all(&db).await, ["wanted"]);
}

#[tokio::test]
async fn a_full_disk_is_said_and_costs_only_the_write_that_met_it() {
    let (_folder, path) = place();
    let db = Db::open(&path, &[NOTES]).unwrap();
    let limit = |pages: u32| db.write(move |tx| Ok(tx.pragma_update(None, "max_page_count", pages)?));
    add(&db, "before").await.unwrap();
    limit(12).await.unwrap();
    let (release, held) = hold(&db).await;
    let big = tokio::spawn({
        let db = db.clone();
        async move { add(&db, "x".repeat(100_000)).await }
    });
    let small = tokio::spawn({
        let db = db.clone();
        async move { add(&db, "small").await }
    });
    tokio::task::yield_now().await;
    drop(release);
    held.await.unwrap().unwrap();
    let fault = big.await.unwrap().unwrap_err();
    assert_eq!((fault.code, fault.reason.as_str()), (Code::ResourceExhausted, reason::DISK));
    assert!(fault.message.contains(&path.display().to_string()) && fault.message.contains("free space"), "{fault}");
    small.await.unwrap().unwrap();
    limit(10_000).await.unwrap();
    add(&db, "after").await.unwrap();
    assert_eq!(all(&db).await, ["before", "small", "after"]);
    db.check().await.unwrap();
}

#[tokio::test]
async fn no_word_of_a_person_gets_into_an_error() {
    let (_folder, path) = place();
    let db = Db::open(&path, &[NOTES]).unwrap();
    add(&db, "sekreto").await.unwrap();
    let twice = add(&db, "sekreto").await.unwrap_err();
    let mistyped = db.write(|tx| Ok(tx.query_row("SELECT text FROM notes", [], |row| row.get::<_, i64>(0))?)).await;
    let syntax = db.write(|tx| Ok(tx.query_row("SELECT json('sekreto')", [], |row| row.get::<_, String>(0))?)).await;
    for fault in [twice, mistyped.unwrap_err(), syntax.unwrap_err()] {
        assert_eq!(fault.code, Code::Internal);
        assert!(!format!("{fault:?}").contains("sekreto"), "{fault:?}");
    }
}

#[tokio::test]
async fn closing_leaves_one_file_and_refuses_later_work() {
    let (_folder, path) = place();
    let db = Db::open(&path, &[NOTES]).unwrap();
    let handle = db.clone();
    let (release, held) = hold(&db).await;
    let queued = tokio::spawn({
        let db = db.clone();
        async move { add(&db, "queued").await }
    });
    tokio::task::yield_now().await;
    let closing = tokio::spawn(async move { db.close().await });
    tokio::task::yield_now().await;
    drop(release);
    held.await.unwrap().unwrap();
    queued.await.unwrap().unwrap();
    closing.await.unwrap().unwrap();
    let names: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["notes.db"]);
    assert_eq!(add(&handle, "late").await.unwrap_err().reason, reason::DRAINING);
    handle.close().await.unwrap();
    assert_eq!(all(&Db::open(&path, &[NOTES]).unwrap()).await, ["queued"]);
}

#[tokio::test]
async fn a_checkpoint_empties_the_log() {
    let (_folder, path) = place();
    let db = Db::open(&path, &[NOTES]).unwrap();
    add(&db, "one").await.unwrap();
    assert!(fs::metadata(wal(&path)).unwrap().len() > 0);
    db.checkpoint().await.unwrap();
    assert_eq!(fs::metadata(wal(&path)).unwrap().len(), 0);
    assert_eq!(all(&db).await, ["one"]);
}

#[tokio::test]
async fn a_backup_is_whole_private_and_appears_at_once() {
    let (folder, path) = place();
    let db = Db::open(&path, &[NOTES]).unwrap();
    add(&db, "kept").await.unwrap();
    let to = folder.path().join("copy.db");
    fs::write(&to, "an older copy").unwrap();
    db.backup(&to).await.unwrap();
    add(&db, "too late").await.unwrap();
    assert_eq!(mode(&to), 0o600);
    let copy = Db::open(&to, &[NOTES]).unwrap();
    copy.check().await.unwrap();
    assert_eq!(all(&copy).await, ["kept"]);
    let fault = db.backup(folder.path().join("nowhere/copy.db")).await.unwrap_err();
    assert_eq!((fault.code, fault.reason.as_str()), (Code::Unavailable, reason::DISK));
    assert!(fault.message.contains("nowhere/copy.db"), "{fault}");
}

mod migrations {
    use super::*;

    const STARS: Migration =
        Migration { name: "stars", sql: &["ALTER TABLE notes ADD COLUMN stars INTEGER DEFAULT 3"] };
    const HALF: Migration = Migration {
        name: "half",
        sql: &["CREATE TABLE half(id INTEGER)", "UPDATE notes SET text = 'lost'", "INSERT INTO nowhere VALUES (1)"],
    };
    const DANGLING: Migration = Migration {
        name: "dangling",
        sql: &["CREATE TABLE marks(note INTEGER REFERENCES notes(id)); INSERT INTO marks VALUES (999);"],
    };

    fn schema(path: &Path) -> (i64, i64) {
        let file = Connection::open(path).unwrap();
        let tables = file.query_row("SELECT count(*) FROM sqlite_schema WHERE type = 'table'", [], |row| row.get(0));
        (file.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap(), tables.unwrap())
    }

    async fn old_file() -> (TempDir, PathBuf) {
        let (folder, path) = place();
        let db = Db::open(&path, &[NOTES]).unwrap();
        add(&db, "old").await.unwrap();
        db.close().await.unwrap();
        (folder, path)
    }

    #[tokio::test]
    async fn an_older_file_is_copied_aside_and_brought_up() {
        let (_folder, path) = old_file().await;
        let db = Db::open(&path, &[NOTES, STARS]).unwrap();
        let stars = db
            .read(|tx| Ok(tx.query_row("SELECT stars FROM notes WHERE text = 'old'", [], |row| row.get::<_, i64>(0))?));
        assert_eq!(stars.await.unwrap(), 3);
        let snapshot = super::super::files::beside(&path, ".schema-1");
        assert_eq!((schema(&path).0, schema(&snapshot).0, mode(&snapshot)), (2, 1, 0o600));
    }

    #[tokio::test]
    async fn a_failing_migration_changes_nothing() {
        for bad in [HALF, DANGLING] {
            let (_folder, path) = old_file().await;
            let fault = Db::open(&path, &[NOTES, STARS, bad]).unwrap_err();
            assert_eq!(fault.code, Code::Internal);
            assert!(fault.message.contains(bad.name) && fault.message.contains("undone"), "{fault}");
            assert_eq!(schema(&path), (1, 1));
            assert_eq!(all(&Db::open(&path, &[NOTES]).unwrap()).await, ["old"]);
        }
    }

    #[tokio::test]
    async fn a_new_file_needs_no_snapshot() {
        let (_folder, path) = place();
        let _db = Db::open(&path, &[NOTES, STARS]).unwrap();
        assert!(!super::super::files::beside(&path, ".schema-0").exists());
    }

    #[tokio::test]
    async fn a_newer_file_is_refused_with_both_numbers() {
        let (_folder, path) = old_file().await;
        Db::open(&path, &[NOTES, STARS]).unwrap().close().await.unwrap();
        let fault = Db::open(&path, &[NOTES]).unwrap_err();
        assert_eq!((fault.code, fault.reason.as_str()), (Code::FailedPrecondition, NEWER_SCHEMA));
        assert!(fault.message.contains("schema 2") && fault.message.contains("knows 1"), "{fault}");
    }
}
