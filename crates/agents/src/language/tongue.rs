//! Which of the three languages served everywhere a text is in.
//!
//! The rule counts function words: words that are frequent, short of meaning and hardly ever borrowed. A text with words of
//! both languages is Taglish when the rarer one makes up a fifth or more of them; English content words that Taglish
//! borrows most count as English, and a Tagalog verb prefix before a hyphen (`i-check`, `mag-text`) as Tagalog. Words that
//! both languages write alike (`at`, `may`, `on`) count for neither. A text without any such word is in no language known.

use std::collections::HashSet;
use std::fmt;
use std::sync::LazyLock;

/// A language served in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Tongue {
    /// English.
    En,
    /// Tagalog.
    Tl,
    /// Both, mixed within an utterance.
    Taglish,
}

impl Tongue {
    /// Its tag.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::En => "en",
            Self::Tl => "tl",
            Self::Taglish => "taglish",
        }
    }

    /// The language a tag stands for; `fil` is Tagalog, regions and scripts make no difference.
    pub(crate) fn of_tag(tag: &str) -> Option<Self> {
        match tag.split(['-', '_']).next().unwrap_or_default().to_ascii_lowercase().as_str() {
            "en" => Some(Self::En),
            "tl" | "fil" => Some(Self::Tl),
            "taglish" => Some(Self::Taglish),
            _ => None,
        }
    }
}

impl fmt::Display for Tongue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The smaller language's share of the counted words from which a text counts as mixed.
const MIXED: f32 = 0.2;

const TAGALOG: &str = "ako akin akong ang ano anong ay ayaw ayos ba bakit daw dahil dapat dati din dito diyan doon eh \
    gabi ganda ganito ganoon ganun ganyan gawin gusto gustong ha hindi ho iba ikaw ilan ilang ito itong iyan \
    iyo iyon iyong ka kailan kailangan kami kanina kapag kasi kay kaya kayo ko kong kumain kumusta kung lahat lang \
    lamang lagi mabuti magandang magkano mahal man marami maraming mas masaya mayroon meron mga mo mong muna na nag naging \
    naman namin nandito nang natin ng nga ngayon ni nila nina ninyo nito niya niyan niyo nung nun nyo oo opo pa \
    pag paano paano pala palagi pano para pasensya pati pero po puwede pwede pwedeng raw rin sa saan salamat sana si sige \
    siguro sila sina sino siya tanghali talaga tayo tulungan tungkol umaga wag huwag wala walang yan yun yung yon";

const ENGLISH: &str = "a about after again all am an and any are aren't as be because been before being but by can can't could \
    couldn't did didn't do does doesn't doing don't down for from get give go going good had has have he hello help her here \
    hi him his how i i'd i'll i'm i've if in into is isn't it it's its just know let let's like long make me more much my need \
    no not of off or other our out over please really remember said say she should show so some tell than thank thanks that \
    that's the their them then there these they thing think this those to too until up us very want was we were what what's \
    when where which who why will with won't would yes you you're your \
    actually call check deadline email file friend happy later meeting message office password phone remind reminder \
    schedule sorry text time today tomorrow tonight update weekend work yesterday";

const PREFIXES: &str = "i ika ipa ka ma mag magpa maka maki na nag nagpa naka naki pa pag pang um";

static TL: LazyLock<HashSet<&str>> = LazyLock::new(|| TAGALOG.split_whitespace().collect());
static EN: LazyLock<HashSet<&str>> = LazyLock::new(|| ENGLISH.split_whitespace().collect());
static TL_PREFIX: LazyLock<HashSet<&str>> = LazyLock::new(|| PREFIXES.split_whitespace().collect());

/// The language of a text; none when no word gives it away.
pub(crate) fn detect(text: &str) -> Option<Tongue> {
    let (mut en, mut tl) = (0u32, 0u32);
    let text = text.to_lowercase().replace('’', "'");
    // Addresses are in no language.
    let prose = text.split_whitespace().filter(|word| !word.contains("://") && !word.contains('@'));
    for word in prose.flat_map(|word| word.split(|c: char| !c.is_alphabetic() && c != '\'' && c != '-')) {
        let word = word.trim_matches(['\'', '-']);
        match word.split_once('-') {
            Some((prefix, root)) if TL_PREFIX.contains(prefix) => {
                tl += 1;
                en += u32::from(EN.contains(root));
            }
            _ => {
                tl += u32::from(TL.contains(word));
                en += u32::from(EN.contains(word));
            }
        }
    }
    let (less, both) = (en.min(tl), en + tl);
    match (en, tl) {
        (0, 0) => None,
        _ if less as f32 >= MIXED * both as f32 && less > 0 => Some(Tongue::Taglish),
        _ if tl > en => Some(Tongue::Tl),
        _ => Some(Tongue::En),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_are_told_apart() {
        use Tongue::{En, Taglish, Tl};
        for (text, tongue) in [
            ("What can you do?", Some(En)),
            ("Please remind me to water the plants.", Some(En)),
            ("You may be at home.", Some(En)),
            ("Ano ang pangalan mo?", Some(Tl)),
            ("Kumusta ka na?", Some(Tl)),
            ("Magandang umaga po!", Some(Tl)),
            ("Nag-aral ako kagabi.", Some(Tl)),
            ("Saan tayo kakain mamaya?", Some(Tl)),
            ("Pwede mo ba i-check yung schedule ko tomorrow?", Some(Taglish)),
            ("Sorry, hindi ko alam kung what time yung meeting.", Some(Taglish)),
            ("I think okay naman siya, pero let me check muna.", Some(Taglish)),
            ("I don’t know", Some(En)),
            ("The file named sa is in the folder of my office on the desk, I think", Some(En)),
            ("ok", None),
            ("12345 !?", None),
            ("https://example.ph/ho ana@sa.ph", None),
            ("", None),
        ] {
            assert_eq!(detect(text), tongue, "{text}");
        }
    }

    #[test]
    fn tags_of_one_language_are_the_same() {
        for (tag, tongue) in [
            ("en-US", Some(Tongue::En)),
            ("EN", Some(Tongue::En)),
            ("fil", Some(Tongue::Tl)),
            ("tl_PH", Some(Tongue::Tl)),
            ("taglish", Some(Tongue::Taglish)),
            ("es", None),
            ("", None),
        ] {
            assert_eq!(Tongue::of_tag(tag), tongue, "{tag}");
        }
    }

    #[test]
    fn no_word_is_in_both_lists() {
        assert_eq!(TL.intersection(&EN).collect::<Vec<_>>(), Vec::<&&str>::new());
    }
}
