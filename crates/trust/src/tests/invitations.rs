//! The line of text.

use std::sync::LazyLock;
use std::time::Duration;

use proptest::prelude::*;
use tandem_types::reason;

use super::{HOUR, founded, invite, node, start};
use crate::Invitation;

#[test]
fn a_line_carries_all_that_a_joiner_needs() {
    let (_machine, founder) = founded(start());
    let invitation = invite(&founder, "pc2", start());
    let line = invitation.text();
    assert!(line.starts_with("tandem1.") && line.lines().count() == 1 && line.len() < 700, "{} characters", line.len());
    assert!(line.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)), "a shell takes it as it is");
    assert_eq!(Invitation::read(&line, start()), Ok(invitation.clone()));
    assert_eq!((invitation.node, invitation.founder), (node("pc2"), node("mainpc")));
    // A terminal breaks long lines, and a paste brings what was around them.
    let broken = format!("  {}\r\n   {}\n", &line[..80], &line[80..]);
    assert!(Invitation::read(&broken, start()).is_ok());
}

#[test]
fn what_is_wrong_with_a_line_is_said() {
    let (_machine, founder) = founded(start());
    let line = invite(&founder, "pc2", start()).text();
    let changed = |at: usize| {
        let mut text = line.clone();
        let other = if &line[at..=at] == "A" { "B" } else { "A" };
        text.replace_range(at..=at, other);
        text
    };
    let (cut, wrong) = ("is cut off", "has a wrong character");
    let last = line.len() - 1;
    for (text, words, why) in [
        ("", "this is no invitation", "nothing"),
        ("hello", "this is no invitation", "something else"),
        ("tan", cut, "the first letters"),
        ("tandem1.", cut, "the beginning"),
        (&line[..9], cut, "a character of it"),
        (&line[..60], cut, "a fifth"),
        (&line[..last], cut, "all but the last character"),
        (&line[..last - 1], cut, "all but two"),
        (&line[..last - 2], cut, "all but three"),
        (&line[..last - 3], cut, "all but four"),
        (&changed(40), wrong, "one character changed"),
        (&changed(last - 8), wrong, "one of the last characters changed"),
        (&format!("{line}A"), wrong, "one too many"),
        (&line.replacen("tandem1.", "tandem1.!", 1), wrong, "a sign that it cannot have"),
        (&line.replacen("tandem1", "tandem2", 1), "is of version 2", "a later version"),
        (&line.replacen("tandem1.", "", 1), "this is no invitation", "without its beginning"),
        (&"A".repeat(10_000), "far too long", "a book"),
    ] {
        let fault = Invitation::read(text, start()).unwrap_err();
        assert_eq!(fault.reason, reason::BAD_INVITATION, "{why}: {fault}");
        assert!(fault.message.contains(words), "{why}: {fault}");
    }
}

#[test]
fn an_invitation_ends() {
    let (_machine, founder) = founded(start());
    let line = invite(&founder, "pc2", start()).text();
    assert!(Invitation::read(&line, start() + Duration::from_secs(15 * 60 - 1)).is_ok());
    let fault = Invitation::read(&line, start() + 3 * HOUR).unwrap_err();
    assert_eq!(fault.reason, reason::INVITATION_EXPIRED);
    assert!(
        fault.message.contains("expired 2 h ago") && fault.message.contains("`tandem invite pc2` on mainpc"),
        "{fault}"
    );
}

#[test]
fn a_line_that_is_whole_and_says_something_else_is_of_another_version() {
    let (_machine, founder) = founded(start());
    let invitation = invite(&founder, "pc2", start());
    let strange = Invitation { addresses: vec!["nowhere".into()], ..invitation };
    let fault = Invitation::read(&strange.text(), start()).unwrap_err();
    assert!(fault.message.contains("is whole") && fault.message.contains("same version"), "{fault}");
}

static LINE: LazyLock<String> = LazyLock::new(|| {
    let (_machine, founder) = founded(start());
    invite(&founder, "pc2", start()).text()
});

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in any::<String>(), body in "[A-Za-z0-9_-]{0,400}") {
        let (now, line) = (start(), format!("tandem1.{body}"));
        prop_assert!(Invitation::read(&text, now).is_err());
        prop_assert!(Invitation::read(&line, now).is_err());
    }

    #[test]
    fn no_single_change_goes_unnoticed(at in 0_usize..400, with in "[A-Za-z0-9_.-]") {
        let line = &*LINE;
        let at = at % line.len();
        prop_assume!(line[at..=at] != with);
        let mut changed = line.clone();
        changed.replace_range(at..=at, &with);
        // The last character of base64 may carry bits that mean nothing.
        let same = Invitation::read(&changed, start()).ok() == Invitation::read(line, start()).ok();
        prop_assert!(!same || at + 1 == line.len(), "{at}");
    }
}
