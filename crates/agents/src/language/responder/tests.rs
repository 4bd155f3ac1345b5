//! The composer, and the agent through its contract.

use proptest::prelude::*;
use tandem_contract::error_info;
use tandem_contract::pb::tandem::dialogue::v1::__buffa::oneof::compose_request::Part;
use tandem_contract::pb::tandem::dialogue::v1::{ComposeFor, ComposeRequest, ComposeResponse};
use tandem_contract::rpc::dialogue;
use tandem_testkit::Rig;
use tandem_types::{Code, Fault, reason};

use super::DEF;
use super::logic::Composer;

fn audience(language: &str) -> ComposeFor {
    ComposeFor {
        turn_id: "0123456789abcdef0123456789abcdef".into(),
        user_id: "ana".into(),
        language: language.into(),
        channel: "voice".into(),
        ..Default::default()
    }
}

fn compose(language: &str, deltas: &[&str]) -> Vec<ComposeResponse> {
    let mut composer = Composer::new(audience(language));
    let mut segments: Vec<_> = deltas.iter().flat_map(|delta| composer.delta(delta)).collect();
    segments.extend(composer.end());
    segments
}

#[test]
fn languages_follow_the_wish_or_the_text() {
    for (wanted, text, language) in [
        ("", "I can do that for you.", "en"),
        ("", "Kaya ko iyan para sa iyo.", "tl"),
        ("fil", "42", "tl"),
        ("es", "Puedo hacerlo.", "es"),
        ("", "42", "en"),
    ] {
        assert_eq!(compose(wanted, &[text])[0].language, language, "{text}");
    }
}

#[test]
fn an_answer_that_nobody_translates_is_shown_as_it_is_with_a_note() {
    for (wanted, text, language, note) in [
        ("tl", "I can do that for you.", "en", "wala pang nagsasalin"),
        ("en", "Kaya ko iyan para sa iyo.", "tl", "nothing here translates"),
    ] {
        let segments = compose(wanted, &[text]);
        let [said, under] = &segments[..] else { panic!("{segments:?}") };
        assert_eq!((said.display.as_str(), said.language.as_str()), (text, language));
        assert_eq!(said.skipped, ["FixedStreamingTranslation"]);
        assert!(under.display.contains(note) && under.speech_text.is_empty() && under.language == wanted, "{under:?}");
    }
    for (wanted, text) in
        [("tl", "42"), ("tl", "Okay naman, I think."), ("taglish", "I can do that."), ("es", "I can.")]
    {
        let segments = compose(wanted, &[text]);
        assert!(segments.len() == 1 && segments[0].skipped.is_empty(), "{wanted}: {segments:?}");
    }
}

#[test]
fn pauses_fit_what_was_said() {
    let text = "First of all, let us look at this one here, then rest. And so\n\nwe end";
    let pauses: Vec<(String, u32)> =
        compose("en", &[text]).into_iter().map(|s| (s.display.trim().to_owned(), s.pause_ms)).collect();
    assert_eq!(pauses[0], ("First of all, let us look at this one here,".to_owned(), 60));
    assert_eq!(pauses.last().unwrap().1, 150);
}

proptest! {
    #[test]
    fn what_is_shown_is_what_was_written(deltas in proptest::collection::vec("(?s).{0,30}|[a-z .,|`\n#*-]{0,30}", 0..20)) {
        let shown: String =
            compose("", &deltas.iter().map(String::as_str).collect::<Vec<_>>()).into_iter().map(|s| s.display).collect();
        prop_assert_eq!(shown, deltas.concat());
    }

    /// Numbers, names and links reach the display unchanged, and no address is spoken.
    #[test]
    fn addresses_are_shown_and_not_spoken(words in proptest::collection::vec("[A-Za-z]{1,8}|[0-9]{1,6}\\.[0-9]{2}|https://[a-z]{3,9}\\.ph/[a-z]{0,6}", 1..40)) {
        let text = words.join(" ");
        let segments = compose("en", &[&text]);
        let (shown, spoken): (Vec<_>, Vec<_>) = segments.into_iter().map(|s| (s.display, s.speech_text)).unzip();
        let spoken = spoken.join(" ");
        // A note about the language may follow.
        prop_assert!(shown.concat().starts_with(&text));
        prop_assert!(!spoken.contains("http"));
        for number in words.iter().filter(|w| w.starts_with(|c: char| c.is_ascii_digit())) {
            prop_assert!(spoken.contains(number.as_str()));
        }
    }
}

/// Sends the parts, then the end; what came out.
async fn through(parts: Vec<Part>) -> Result<Vec<ComposeResponse>, Fault> {
    let rig = Rig::new(&DEF).start().await;
    let mut call = rig.client().bidi(dialogue::COMPOSE, &rig.call()).await?;
    for part in parts {
        // A provider that has refused takes nothing more; its fault comes out below.
        let _ = call.sender.send(ComposeRequest { part: Some(part), ..Default::default() }).await;
    }
    drop(call.sender);
    let mut segments = Vec::new();
    while let Some(segment) = call.receiver.message().await? {
        segments.push(segment);
    }
    Ok(segments)
}

#[tokio::test]
async fn segments_come_while_the_answer_grows() {
    let rig = Rig::new(&DEF).start().await;
    let mut call = rig.client().bidi(dialogue::COMPOSE, &rig.call()).await.unwrap();
    let send = |part: Part| ComposeRequest { part: Some(part), ..Default::default() };
    call.sender.send(send(Part::from(audience("en")))).await.unwrap();
    call.sender.send(send(Part::Delta("Yes. I".into()))).await.unwrap();
    let first = call.receiver.message().await.unwrap().unwrap();
    assert_eq!((first.display.as_str(), first.speech_text.as_str()), ("Yes. ", "Yes."));
    assert_eq!(first.skipped, ["EmotionSynthesisAgent", "EmpathyAgent"]);
    call.sender.send(send(Part::Delta(" can.".into()))).await.unwrap();
    drop(call.sender);
    assert_eq!(call.receiver.message().await.unwrap().unwrap().display, "I can.");
    assert!(call.receiver.message().await.unwrap().is_none());
}

#[tokio::test]
async fn an_error_becomes_one_sentence_in_the_language() {
    let error = error_info(&Fault::unavailable(reason::ENGINE_LOST, "the engine ended"));
    let parts = vec![Part::from(audience("tl")), Part::Delta("Ang sagot".into()), Part::from(error)];
    let segments = through(parts).await.unwrap();
    assert_eq!(segments[0].display, "Ang sagot");
    assert_eq!(segments[1].speech_text, "Tumigil ang aking language model habang sumasagot ako.");
    assert_eq!(segments[1].display, "\n\nTumigil ang aking language model habang sumasagot ako. (`unavailable`)");
}

#[tokio::test]
async fn the_audience_comes_first_and_once() {
    for parts in
        [vec![], vec![Part::Delta("text".into())], vec![Part::from(audience("en")), Part::from(audience("en"))]]
    {
        let fault = through(parts).await.unwrap_err();
        assert_eq!((fault.code, fault.violations[0].field.as_str()), (Code::InvalidArgument, "audience"));
    }
}
