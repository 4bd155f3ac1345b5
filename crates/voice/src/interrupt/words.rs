//! What a text says, by its words. English and Tagalog, and both in one sentence.

use super::Said;

/// Edit similarity from which words count as the answer's own.
const ECHO: f64 = 0.8;
/// The same of the last of them alone, so that a word behind the echo does not go under in it.
const ENDING: f64 = 0.5;
/// Words of this many letters tolerate one edit.
const TOLERANT: usize = 5;

const STOP: &[&[&str]] = &[
    &["stop"],
    &["cancel"],
    &["enough"],
    &["shut", "up"],
    &["be", "quiet"],
    &["tama", "na"],
    &["tumigil"],
    &["hinto"],
    &["sapat", "na"],
];
const WAIT: &[&[&str]] = &[&["wait"], &["pause"], &["sandali"], &["teka"]];
const CONTINUE: &[&[&str]] = &[&["continue"], &["ituloy"]];

/// Words that say that one listens. Letters that are drawn out are written once, so that "hmmm" is "hm".
const BACK_CHANNEL: &[&str] = &[
    "m", "mm", "hm", "mhm", "mm-hm", "mm-hmm", "uh", "uh-huh", "uhuh", "huh", "ah", "oh", "ok", "okay", "yeah", "yes",
    "yep", "right", "sure", "o", "oo", "opo", "sige", "talaga", "ganun", "ganoon", "ayos",
];

/// Words that add nothing to a command: politeness, particles, how long to wait.
const FILLERS: &[&str] = &[
    "please", "just", "hey", "now", "um", "er", "a", "the", "for", "me", "it", "that", "that's", "minute", "second",
    "sec", "moment", "lang", "muna", "po", "ho", "na", "nga", "naman", "ha", "diyan", "dyan", "mo", "ka", "pa",
];

/// Words that are one edit away from a command and mean something else.
const NOT_MEANT: &[&str] = &[
    "pinto",
    "dapat",
    "cancer",
    "cancels",
    "cause",
    "paused",
    "pauses",
    "sandal",
    "sandals",
    "continued",
    "continues",
    "quilt",
];

/// The words of a text: lower case, with the marks inside a word, letters drawn out to three or more written once.
fn split(text: &str) -> Vec<String> {
    let inside = |c: char| c.is_alphanumeric() || c == '\'' || c == '-';
    let words = text.split(|c: char| !inside(if c == '’' { '\'' } else { c }));
    words.map(|word| shorten(&word.trim_matches(['\'', '-']).to_lowercase())).filter(|word| !word.is_empty()).collect()
}

fn shorten(word: &str) -> String {
    let mut runs: Vec<(char, usize)> = Vec::new();
    for c in word.chars().map(|c| if c == '’' { '\'' } else { c }) {
        match runs.last_mut() {
            Some((last, times)) if *last == c => *times += 1,
            _ => runs.push((c, 1)),
        }
    }
    let drawn_out = |(c, times): (char, usize)| if times > 2 && c.is_alphabetic() { (c, 1) } else { (c, times) };
    runs.into_iter().map(drawn_out).flat_map(|(c, times)| std::iter::repeat_n(c, times)).collect()
}

/// Whether a word is that of a command, misheard by at most one edit where it is long enough.
fn is(word: &str, of_command: &str) -> bool {
    let long = |word: &str| word.chars().count() >= TOLERANT;
    word == of_command
        || long(word) && long(of_command) && !NOT_MEANT.contains(&word) && strsim::levenshtein(word, of_command) <= 1
}

/// Where the last of these phrases begins in the words, and how many words it has.
fn find(words: &[String], phrases: &[&[&str]]) -> Option<(usize, usize)> {
    let at = |begin: usize, phrase: &[&str]| {
        words
            .get(begin..begin + phrase.len())
            .is_some_and(|there| there.iter().zip(phrase).all(|(word, of)| is(word, of)))
    };
    let begins = (0..words.len()).rev();
    begins.flat_map(|begin| phrases.iter().map(move |phrase| (begin, phrase))).find_map(|(begin, phrase)| {
        let there = at(begin, phrase);
        there.then_some((begin, phrase.len()))
    })
}

/// How many of the first words are the answer's own, come back. A command that the answer does not say itself is nobody's echo.
fn echo(heard: &[String], playing: &[String]) -> usize {
    let own_command = |words: &[String]| {
        [STOP, WAIT].iter().any(|phrases| find(words, phrases).is_some() && find(playing, phrases).is_none())
    };
    let like = |words: &[String], there: &[String]| {
        let ends_like = |(word, of): (&String, &String)| strsim::normalized_levenshtein(word, of) >= ENDING;
        strsim::normalized_levenshtein(&words.join(" "), &there.join(" ")) >= ECHO
            && words.last().zip(there.last()).is_some_and(ends_like)
    };
    let comes_back = |words: &[String]| {
        let mut lengths = words.len().saturating_sub(1).max(1)..=words.len() + 1;
        lengths.any(|length| playing.windows(length).any(|there| like(words, there)))
    };
    (1..=heard.len()).rev().find(|count| comes_back(&heard[..*count]) && !own_command(&heard[..*count])).unwrap_or(0)
}

/// What the stable words of an utterance say, while the loudspeaker says `playing`: the words of the last seconds, as far as
/// they may still come back.
///
/// A stop word counts wherever it stands, as a whole word. A word that asks to wait, or to go on, counts when little else is
/// said: "wait, what about tomorrow?" is a question.
pub fn read(stable: &str, playing: &str) -> Said {
    let all = split(stable);
    let heard = &all[echo(&all, &split(playing))..];
    if all.is_empty() {
        return Said::Nothing;
    }
    if heard.is_empty() {
        return Said::Echo;
    }
    if find(heard, STOP).is_some() {
        return Said::Stop;
    }
    let (wait, go_on) = (find(heard, WAIT), find(heard, CONTINUE));
    let idle = |word: &String| FILLERS.contains(&word.as_str()) || BACK_CHANNEL.contains(&word.as_str());
    let command =
        |word: &String| [WAIT, CONTINUE].iter().any(|phrases| find(std::slice::from_ref(word), phrases).is_some());
    let others = heard.iter().filter(|word| !idle(word) && !command(word)).count();
    if others < 2 && (wait.is_some() || go_on.is_some()) {
        return if wait > go_on { Said::Wait } else { Said::Continue };
    }
    if heard.iter().all(|word| BACK_CHANNEL.contains(&word.as_str())) {
        return Said::BackChannel;
    }
    // Somebody who says only fillers says something, if not much.
    Said::Other(u8::try_from(others.max(1)).unwrap_or(u8::MAX))
}
