use std::fs;
use std::io;
use std::path::Path;
use std::sync::mpsc;
use std::thread;

use tandem_types::{Code, reason};

use super::fixture::{Answer, Fixture, Hub, MODEL, SIZE, Watcher, options};
use crate::catalogue::{Progress, PullOptions, Pulled, Source, State};

const OFFICIAL: &[Source] = &[Source::Official];

fn hub_only(hub: &Hub) -> PullOptions {
    options(OFFICIAL, &hub.url)
}

#[test]
fn a_cut_connection_goes_on_where_it_broke() {
    let fixture = Fixture::new("pip", &[]);
    let hub = Hub::new(&fixture.content, vec![Answer::Cut(100_000), Answer::Cut(50_000), Answer::All]);
    let watcher = Watcher::default();
    let pulled = fixture.store.pull(MODEL, &hub_only(&hub), &watcher).unwrap();

    assert_eq!(pulled, Pulled { path: fixture.file(), source: Some(Source::Official) });
    assert_eq!(hub.starts(), [None, Some(100_000), Some(150_000)]);
    assert_eq!(hub.paths()[0], "/someone/small/resolve/main/small.gguf");
    assert_eq!(*watcher.bytes.lock().unwrap(), SIZE as u64);
    fixture.assert_whole();

    assert_eq!(fixture.store.pull(MODEL, &hub_only(&hub), &watcher).unwrap().source, None);
    assert_eq!(hub.starts().len(), 3, "a file that is here is not fetched again");
}

#[test]
fn what_an_earlier_process_left_is_taken_up() {
    let whole = Fixture::new("pip", &[]).content;
    let too_long = [&whole[..], b"more"].concat();
    for (left, starts) in [
        (&whole[..70_000], vec![Some(70_000)]),
        (&whole[..], vec![]), // killed between the last byte and the new name
        (&too_long[..], vec![None]),
        (&[], vec![None]),
    ] {
        let fixture = Fixture::new("pip", &[]);
        fixture.leave(&fixture.partial(), left);
        let hub = Hub::new(&fixture.content, vec![]);
        let watcher = Watcher::default();
        fixture.store.pull(MODEL, &hub_only(&hub), &watcher).unwrap();
        assert_eq!(hub.starts(), starts, "with {} bytes left", left.len());
        assert_eq!(*watcher.bytes.lock().unwrap(), SIZE as u64);
        fixture.assert_whole();
    }
}

#[test]
fn a_hub_without_ranges_and_one_that_redirects_serve_too() {
    for (answer, starts) in [(Answer::Whole, vec![Some(70_000)]), (Answer::Elsewhere, vec![Some(70_000), Some(70_000)])]
    {
        let fixture = Fixture::new("pip", &[]);
        fixture.leave(&fixture.partial(), &fixture.content[..70_000]);
        let hub = Hub::new(&fixture.content, vec![answer]);
        fixture.store.pull(MODEL, &hub_only(&hub), &()).unwrap();
        assert_eq!(hub.starts(), starts);
        fixture.assert_whole();
    }
}

#[test]
fn a_file_with_the_wrong_hash_is_named_and_kept_aside() {
    let fixture = Fixture::new("pip", &[]);
    let wrong = vec![7; SIZE];
    let hub = Hub::new(&fixture.content, vec![Answer::Other(wrong.clone())]);
    let fault = fixture.store.pull(MODEL, &hub_only(&hub), &()).unwrap_err();

    assert_eq!((fault.code, fault.reason.as_str()), (Code::Unavailable, reason::NO_MODEL));
    assert!(fault.message.contains(&fixture.aside(1).display().to_string()), "{fault}");
    assert!(fs::read(fixture.aside(1)).unwrap() == wrong);
    assert_eq!(fixture.store.look(MODEL).unwrap().state, State::Absent);

    fixture.store.pull(MODEL, &hub_only(&hub), &()).unwrap();
    fixture.assert_whole();
}

#[test]
fn a_bad_beginning_is_kept_aside_and_the_file_fetched_from_its_start() {
    let fixture = Fixture::new("pip", &[]);
    fixture.leave(&fixture.partial(), &[7; 1000]);
    let hub = Hub::new(&fixture.content, vec![]);
    let watcher = Watcher::default();
    fixture.store.pull(MODEL, &hub_only(&hub), &watcher).unwrap();

    assert_eq!(hub.starts(), [Some(1000), None]);
    assert!(watcher.notes.lock().unwrap()[0].contains("small.gguf.corrupt-1"));
    assert_eq!(*watcher.bytes.lock().unwrap(), SIZE as u64);
    fixture.assert_whole();
}

#[test]
fn a_corrupt_finished_file_is_named_kept_aside_and_fetched_again() {
    for corrupt in [vec![7; SIZE], vec![7; 10]] {
        let fixture = Fixture::new("pip", &[]);
        fixture.leave(&fixture.file(), &corrupt);
        fixture.leave(&fixture.aside(1), b"from last time");
        let fault = fixture.store.path_of(MODEL).unwrap_err();
        assert!(fault.message.contains("small.gguf has"), "{fault}");

        let hub = Hub::new(&fixture.content, vec![]);
        let watcher = Watcher::default();
        fixture.store.pull(MODEL, &hub_only(&hub), &watcher).unwrap();
        assert!(watcher.notes.lock().unwrap()[0].contains("small.gguf.corrupt-2"));
        assert!(fs::read(fixture.aside(2)).unwrap() == corrupt);
        assert_eq!(fs::read(fixture.aside(1)).unwrap(), b"from last time");
        fixture.assert_whole();
    }
}

#[test]
fn a_hub_that_gives_nothing_is_asked_once_and_one_that_dries_up_a_few_times() {
    let status = || Answer::Status("503 Service Unavailable");
    for (script, requests, said) in [
        (vec![status()], 1, "503"),
        (vec![Answer::Other(vec![1; 10])], 1, "has 10 bytes, the catalogue says"),
        (vec![Answer::Cut(10), status(), status(), status(), status()], 4, "503"),
    ] {
        let fixture = Fixture::new("pip", &[]);
        let hub = Hub::new(&fixture.content, script);
        let fault = fixture.store.pull(MODEL, &hub_only(&hub), &()).unwrap_err();
        assert!(fault.message.contains(said), "{fault}");
        assert_eq!(hub.starts().len(), requests, "{said}");
        assert!(!fixture.file().exists());
    }
}

#[test]
fn a_full_disk_is_said_before_anything_is_fetched() {
    let fixture = Fixture::new("pip", &[SIZE]);
    let hub = Hub::new(&fixture.content, vec![]);
    const MIB: u64 = 1024 * 1024;
    let both = &[Source::Official, Source::Mirror];
    let free: [fn(&Path) -> io::Result<u64>; 3] = [|_| Ok(8 * MIB), |_| Ok(2 * MIB), |_| Ok(3 * MIB)];
    for (sources, free_bytes, refusal) in [
        (&both[..], free[0], Some(("needs 9 MiB", "8 MiB are free"))),
        (OFFICIAL, free[1], Some(("needs 3 MiB", "2 MiB are free"))),
        (OFFICIAL, free[2], None),
    ] {
        let options = PullOptions { free_bytes, ..options(sources, &hub.url) };
        let pulled = fixture.store.pull(MODEL, &options, &());
        let Some((need, have)) = refusal else {
            pulled.unwrap();
            continue;
        };
        let fault = pulled.unwrap_err();
        assert_eq!((fault.code, fault.reason.as_str()), (Code::ResourceExhausted, reason::DISK));
        assert!(fault.message.contains(need) && fault.message.contains(have), "{fault}");
        assert_eq!(hub.starts(), []);
    }
    fixture.assert_whole();
}

/// Tells when the fetch waits for another one.
struct SaysWhenItWaits(mpsc::Sender<()>);

impl Progress for SaysWhenItWaits {
    fn phase(&self, text: &str) {
        if text.starts_with("waiting") {
            self.0.send(()).unwrap();
        }
    }
}

#[test]
fn of_two_fetches_of_one_model_the_second_waits_for_the_first() {
    let fixture = Fixture::new("pip", &[]);
    let (waits, second_waits) = mpsc::channel();
    let hub = Hub::new(&fixture.content, vec![Answer::After(second_waits)]);
    let options = hub_only(&hub);
    let pull = || {
        let progress = SaysWhenItWaits(waits.clone());
        fixture.store.pull(MODEL, &options, &progress).unwrap().source
    };
    let mut sources =
        thread::scope(|scope| [scope.spawn(pull), scope.spawn(pull)].map(|thread| thread.join().unwrap()));
    sources.sort_by_key(Option::is_some);
    assert_eq!(sources, [None, Some(Source::Official)]);
    assert_eq!(hub.starts(), [None]);
    fixture.assert_whole();
}

#[test]
fn a_model_that_is_being_fetched_is_not_deleted() {
    let fixture = Fixture::new("pip", &[]);
    let (go_on, word) = mpsc::channel();
    let hub = Hub::new(&fixture.content, vec![Answer::Cut(1000), Answer::After(word)]);
    let options = hub_only(&hub);
    let (began, has_begun) = mpsc::channel();
    thread::scope(|scope| {
        let store = &fixture.store;
        let pull = scope.spawn(move || store.pull(MODEL, &options, &SaysWhenItGoesOn(began)));
        has_begun.recv().unwrap();
        let fault = fixture.store.remove(MODEL).unwrap_err();
        assert_eq!(fault.reason, reason::MODEL_LOADING);
        go_on.send(()).unwrap();
        pull.join().unwrap().unwrap();
    });
    fixture.assert_whole();
}

/// Tells when a broken connection is taken up again.
struct SaysWhenItGoesOn(mpsc::Sender<()>);

impl Progress for SaysWhenItGoesOn {
    fn phase(&self, text: &str) {
        if text.ends_with("going on") {
            self.0.send(()).unwrap();
        }
    }
}

#[test]
fn a_cancelled_fetch_keeps_what_it_has() {
    let fixture = Fixture::new("pip", &[]);
    let hub = Hub::new(&fixture.content, vec![]);
    let watcher = Watcher { enough: Some(1), ..Watcher::default() };
    let fault = fixture.store.pull(MODEL, &hub_only(&hub), &watcher).unwrap_err();
    assert_eq!(fault.code, Code::Cancelled);
    let kept = fs::metadata(fixture.partial()).unwrap().len();
    assert_eq!(fixture.store.look(MODEL).unwrap().state, State::Partial(kept));
    assert!(kept > 0);

    fixture.store.pull(MODEL, &hub_only(&hub), &()).unwrap();
    assert_eq!(hub.starts()[1], Some(kept));
    fixture.assert_whole();
}
