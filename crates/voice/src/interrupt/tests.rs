use std::time::Duration;

use proptest::prelude::*;

use super::Decision::{Hold, NewTurn, Resume, Stop, Undecided};
use super::*;

/// What is said while nothing of the kind is being played.
const SAID: &[(&str, Said)] = &[
    // Stop, English.
    ("stop", Said::Stop),
    ("Stop!", Said::Stop),
    ("STOP", Said::Stop),
    ("please stop", Said::Stop),
    ("okay stop", Said::Stop),
    ("stop it", Said::Stop),
    ("stooop", Said::Stop),
    ("cancel", Said::Stop),
    ("cancell that", Said::Stop),
    ("cancle", Said::Other(1)),
    ("enough", Said::Stop),
    ("that's enough", Said::Stop),
    ("that’s enuogh", Said::Other(1)),
    ("enogh", Said::Stop),
    ("shut up", Said::Stop),
    ("oh shut up please", Said::Stop),
    ("be quiet", Said::Stop),
    ("be quiett", Said::Stop),
    ("wait, stop", Said::Stop),
    ("stop, wait", Said::Stop),
    // Stop, Tagalog.
    ("tama na", Said::Stop),
    ("Tama na po.", Said::Stop),
    ("uy tama na yan", Said::Stop),
    ("tumigil", Said::Stop),
    ("tumigil ka", Said::Stop),
    ("tumigel ka", Said::Stop),
    ("hinto", Said::Stop),
    ("hintu", Said::Stop),
    ("sapat na", Said::Stop),
    ("sapat na po", Said::Stop),
    ("stop na", Said::Stop),
    // What only looks like it.
    ("he stopped at the store", Said::Other(4)),
    ("the bus stops here", Said::Other(3)),
    ("nonstop music", Said::Other(2)),
    ("hintayin mo ako", Said::Other(2)),
    ("hintayin natin sila", Said::Other(3)),
    ("tama ka", Said::Other(1)),
    ("tama ang sagot", Said::Other(3)),
    ("na tama", Said::Other(1)),
    ("isara mo ang pinto", Said::Other(3)),
    ("dapat na", Said::Other(1)),
    ("dapat na umalis", Said::Other(2)),
    ("into the woods", Said::Other(2)),
    ("is it cancer", Said::Other(2)),
    ("shut the door", Said::Other(2)),
    ("what's up", Said::Other(2)),
    ("be nice", Said::Other(2)),
    ("it is quiet here", Said::Other(3)),
    ("sapat", Said::Other(1)),
    // Wait.
    ("wait", Said::Wait),
    ("wait a minute", Said::Wait),
    ("okay wait", Said::Wait),
    ("pause", Said::Wait),
    ("pauze", Said::Wait),
    ("sandali", Said::Wait),
    ("sandali lang po", Said::Wait),
    ("sandale lang", Said::Wait),
    ("teka", Said::Wait),
    ("teka muna", Said::Wait),
    ("teka lang ha", Said::Wait),
    ("wait sandali", Said::Wait),
    ("because of that", Said::Other(2)),
    ("my sandals broke", Said::Other(3)),
    ("he paused", Said::Other(2)),
    ("wait, what about tomorrow?", Said::Other(3)),
    ("I can't wait to see it", Said::Other(4)),
    ("teka, anong oras na?", Said::Other(2)),
    ("waiter", Said::Other(1)),
    // Go on.
    ("continue", Said::Continue),
    ("please continue", Said::Continue),
    ("contnue", Said::Continue),
    ("ituloy", Said::Continue),
    ("ituloy mo", Said::Continue),
    ("sige ituloy mo na", Said::Continue),
    ("tuloy mo", Said::Continue),
    ("itulóy", Said::Continue),
    ("wait, okay, continue", Said::Continue),
    ("it continued for years", Said::Other(2)),
    // Signs of listening.
    ("mm", Said::BackChannel),
    ("mmmm", Said::BackChannel),
    ("hmmm", Said::BackChannel),
    ("uh-huh", Said::BackChannel),
    ("Uh-huh, okay.", Said::BackChannel),
    ("okaaay", Said::BackChannel),
    ("oo", Said::BackChannel),
    ("ooo", Said::BackChannel),
    ("opo", Said::BackChannel),
    ("oo sige", Said::BackChannel),
    ("talaga?", Said::BackChannel),
    // Words of their own.
    ("bakit", Said::Other(1)),
    ("why", Said::Other(1)),
    ("what time is it", Said::Other(3)),
    ("anong oras na", Said::Other(2)),
    ("i-play mo yung Eraserheads", Said::Other(3)),
    ("okay but what about Manila", Said::Other(4)),
    ("sige, pero bakit ganito", Said::Other(3)),
    ("please", Said::Other(1)),
    ("", Said::Nothing),
    (" ... !", Said::Nothing),
];

#[test]
fn words_say_what_they_say_in_english_and_tagalog() {
    let wrong: Vec<_> =
        SAID.iter().map(|(text, said)| (text, read(text, ""), said)).filter(|(_, got, said)| got != *said).collect();
    assert!(wrong.is_empty(), "of {} rows: text, read as, should be: {wrong:#?}", SAID.len());
}

/// What is said, what is being played, and what that says.
const OVER: &[(&str, &str, Said)] = &[
    ("the weather in manila", "and the weather in Manila is sunny today", Said::Echo),
    ("the whether in manila", "and the weather in Manila is sunny today", Said::Echo),
    ("sunny", "and the weather in Manila is sunny today", Said::Echo),
    ("maaraw ngayon sa maynila", "Maaraw ngayon sa Maynila, at mainit.", Said::Echo),
    ("maraw ngayon sa mainila", "Maaraw ngayon sa Maynila, at mainit.", Said::Echo),
    ("you should stop smoking", "you should stop smoking at once", Said::Echo),
    ("sandali lang ang biyahe", "sandali lang ang biyahe papunta doon", Said::Echo),
    ("and the weather is stop", "and the weather is sunny", Said::Stop),
    ("and the weather is tama na", "and the weather is sunny", Said::Stop),
    ("and the weather in manila is stop sunny", "and the weather in Manila is sunny today", Said::Stop),
    ("and the weather is wait", "and the weather is sunny", Said::Wait),
    ("stop and the weather", "and the weather is sunny", Said::Stop),
    ("the weather is uh-huh", "and the weather is sunny", Said::BackChannel),
    ("the weather is sunny but will it rain", "the weather is sunny", Said::Other(3)),
    ("will it rain tomorrow", "the weather is sunny today in Manila", Said::Other(3)),
    ("uulan ba bukas", "Maaraw ngayon sa Maynila.", Said::Other(3)),
    ("okay", "and that is okay with them", Said::Echo),
    ("mm", "the weather is sunny", Said::BackChannel),
];

#[test]
fn the_answers_own_words_are_echo_and_a_persons_words_are_not() {
    let read = OVER.iter().map(|(text, playing, said)| (text, read(text, playing), said));
    let wrong: Vec<_> = read.filter(|(_, got, said)| got != *said).collect();
    assert!(wrong.is_empty(), "of {} rows: text, read as, should be: {wrong:#?}", OVER.len());
}

#[test]
fn what_was_said_decides_by_how_long_it_took_and_what_went_before() {
    let ms = Duration::from_millis;
    for (said, speech, since_stop, held, decision) in [
        (Said::Nothing, 5_000, None, false, Undecided),
        (Said::Echo, 5_000, None, false, Undecided),
        (Said::BackChannel, 1_000, None, false, Undecided),
        (Said::BackChannel, 1_001, None, false, NewTurn),
        (Said::Stop, 100, None, false, Stop),
        (Said::Stop, 100, None, true, Stop),
        (Said::Stop, 100, Some(1_999), false, Undecided),
        (Said::Stop, 100, Some(2_000), false, Stop),
        (Said::Wait, 100, None, false, Hold),
        (Said::Wait, 100, Some(10), false, Hold),
        (Said::Wait, 100, None, true, Undecided),
        (Said::Continue, 100, None, true, Resume),
        (Said::Continue, 100, None, false, Undecided),
        (Said::Other(1), 699, None, false, Undecided),
        (Said::Other(1), 700, None, false, NewTurn),
        (Said::Other(1), 700, None, true, NewTurn),
        (Said::Other(2), 300, None, false, NewTurn),
        (Said::Other(9), 300, Some(10), true, NewTurn),
    ] {
        let got = decide(said, ms(speech), since_stop.map(ms), held);
        assert_eq!(got, decision, "{said:?} for {speech} ms, stopped {since_stop:?} ms ago, held: {held}");
    }
}

proptest! {
    #[test]
    fn any_text_can_be_read(text in any::<String>(), playing in any::<String>()) {
        read(&text, &playing);
    }

    /// However a sentence of the answer comes back in pieces, it stops nothing.
    #[test]
    fn an_answer_never_interrupts_itself(begin in 0..9_usize, length in 1..6_usize) {
        let playing = "you may stop or wait there and tama na means that it is enough";
        let words: Vec<&str> = playing.split(' ').collect();
        let heard = words[begin..(begin + length).min(words.len())].join(" ");
        prop_assert_eq!(read(&heard, playing), Said::Echo);
    }
}
