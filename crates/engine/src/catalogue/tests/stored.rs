use std::ffi::OsString;
use std::fs::{self, File};

use tandem_types::{Code, Fault, reason};

use super::fixture::{Fixture, MODEL, SIZE};
use crate::catalogue::hub::HUB_URL;
use crate::catalogue::store::cache_folder;
use crate::catalogue::{PullOptions, Source, State};

#[test]
fn a_store_tells_how_much_is_there_and_how_to_get_the_rest() {
    let fixture = Fixture::new("pip", &[]);
    let state = || fixture.store.list().unwrap().remove(0).state;
    let problem = || fixture.store.path_of(MODEL).unwrap_err();
    let pull = "get it with `tandem models pull small`";

    assert_eq!(state(), State::Absent);
    assert_eq!(problem().message, format!("model small is not on this machine: {pull}"));
    assert_eq!(problem().reason, reason::NO_MODEL);

    fixture.leave(&fixture.partial(), &fixture.content[..10]);
    assert_eq!(state(), State::Partial(10));
    assert_eq!(problem().message, format!("model small is not whole, 10 of {SIZE} bytes are here: {pull}"));

    fixture.leave(&fixture.file(), b"short");
    assert_eq!(state(), State::Corrupt(format!("has 5 bytes instead of {SIZE}")));

    fixture.leave(&fixture.file(), &fixture.content);
    assert_eq!(state(), State::Present);
    assert_eq!(fixture.store.path_of(MODEL).unwrap(), fixture.file());

    let entry = fixture.store.look(MODEL).unwrap();
    assert_eq!((entry.model.name.as_str(), entry.path), (MODEL, fixture.file()));
}

#[test]
fn a_checked_file_is_trusted_until_it_changes() {
    let fixture = Fixture::new("pip", &[]);
    fixture.leave(&fixture.file(), &fixture.content);
    assert_eq!(fixture.store.look(MODEL).unwrap().state, State::Present);
    let checked_at = fs::metadata(fixture.file()).unwrap().modified().unwrap();

    // A change that leaves size and time alone is seen only by a look at every byte.
    let set_time = |time| File::options().write(true).open(fixture.file()).unwrap().set_modified(time).unwrap();
    fs::write(fixture.file(), vec![7; SIZE]).unwrap();
    set_time(checked_at);
    assert_eq!(fixture.store.look(MODEL).unwrap().state, State::Present);
    assert!(matches!(fixture.store.verify(MODEL).unwrap().state, State::Corrupt(_)));

    set_time(checked_at + std::time::Duration::from_nanos(1));
    assert!(matches!(fixture.store.look(MODEL).unwrap().state, State::Corrupt(_)));
}

#[test]
fn a_removed_model_leaves_nothing_and_can_be_removed_again() {
    let fixture = Fixture::new("pip", &[]);
    fixture.leave(&fixture.file(), &fixture.content);
    fixture.leave(&fixture.aside(1), b"12345");
    assert_eq!(fixture.store.remove(MODEL), Ok(SIZE as u64 + 5));
    assert!(!fixture.file().parent().unwrap().exists());
    assert_eq!(fixture.store.remove(MODEL), Ok(0));
}

#[test]
fn an_unknown_model_is_answered_with_the_known_ones() {
    let fixture = Fixture::new("pip", &[]);
    let expected = Fault::not_found("no model `big` in the catalogue; known are small");
    assert_eq!(fixture.store.path_of("big"), Err(expected.clone()));
    assert_eq!(fixture.store.remove("big"), Err(expected.clone()));
    assert_eq!(fixture.store.pull("big", &PullOptions::default(), &()), Err(expected));
}

#[test]
fn the_cache_folder_follows_the_environment() {
    for (tandem, xdg, home, expected) in [
        (Some("/t"), Some("/x"), Some("/h"), Some("/t")),
        (Some(""), Some("/x"), Some("/h"), Some("/x/tandem")),
        (None, None, Some("/h"), Some("/h/.cache/tandem")),
        (None, None, None, None),
    ] {
        let variable = |name: &str| {
            let value = match name {
                "TANDEM_CACHE" => tandem,
                "XDG_CACHE_HOME" => xdg,
                "HOME" => home,
                _ => None,
            };
            value.map(OsString::from)
        };
        assert_eq!(cache_folder(variable), expected.map(Into::into));
    }
}

#[test]
fn the_sources_follow_the_environment() {
    use Source::{Mirror, Official};
    let options = |source: Option<&str>, hub: Option<&str>| {
        PullOptions::from_variables(|name| if name == "TANDEM_MODEL_SOURCE" { source } else { hub }.map(str::to_owned))
    };
    for (source, expected) in [
        (None, vec![Official, Mirror]),
        (Some("auto"), vec![Official, Mirror]),
        (Some("official"), vec![Official]),
        (Some("mirror"), vec![Mirror]),
    ] {
        let options = options(source, None).unwrap();
        assert_eq!((options.sources, options.hub_url.as_str()), (expected, HUB_URL));
    }
    assert_eq!(options(None, Some("http://hub.local")).unwrap().hub_url, "http://hub.local");
    for fault in [options(Some("both"), None).unwrap_err(), options(None, Some("hub.local")).unwrap_err()] {
        assert_eq!(fault.code, Code::InvalidArgument, "{fault}");
    }
}
