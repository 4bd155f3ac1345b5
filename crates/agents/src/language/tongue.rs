//! Which of the three languages served everywhere a text is in.
//!
//! Words are counted, not weighed: those that are frequent and hardly ever borrowed (`tongue.en.txt`, `tongue.tl.txt`), and
//! others by how they are spelled, since most words of meaning that Taglish borrows keep a spelling that Tagalog has not.
//! A Tagalog verb prefix before a hyphen (`i-check`, `mag-text`) counts as Tagalog and its root for what it is. Names are
//! in no language, so a word with a capital counts only when it is listed, and neither are abbreviations (`10:00 AM`): a
//! word in capitals counts only where all are. What both languages write alike (`at`, `may`, `internet`) counts for
//! neither. A text is Taglish when a tenth of the counted words or more are of the rarer language; one without any such
//! word is in no language known.

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
const MIXED: f32 = 0.1;

/// Written alike in both, or a loan that Tagalog has no other word for.
const ALIKE: &str = "app at cellphone chat chocolate computer doctor facebook google internet kuya lola lolo man may noon on pizza radio \
    tv video";

const PREFIXES: &str = "i ika ipa ka ma mag magpa maka maki na nag nagpa naka naki pa pag pang um";

/// Pairs of letters in English words that no Tagalog word has.
const ENGLISH_PAIRS: [&str; 20] = [
    "bb", "ck", "dd", "ff", "kk", "kn", "ll", "mm", "nn", "oa", "ou", "ph", "pp", "rr", "sh", "ss", "th", "tt", "wh",
    "wn",
];

/// How verbs and what is made of them begin in Tagalog.
const TAGALOG_BEGINNINGS: [&str; 12] =
    ["ipag", "kina", "mag", "maka", "mang", "mapag", "nag", "naka", "nang", "napaka", "pag", "pina"];

static TL: LazyLock<HashSet<&str>> = LazyLock::new(|| include_str!("tongue.tl.txt").split_whitespace().collect());
static EN: LazyLock<HashSet<&str>> = LazyLock::new(|| include_str!("tongue.en.txt").split_whitespace().collect());
static BOTH: LazyLock<HashSet<&str>> = LazyLock::new(|| ALIKE.split_whitespace().collect());
static TL_PREFIX: LazyLock<HashSet<&str>> = LazyLock::new(|| PREFIXES.split_whitespace().collect());

/// Words of each language in a text.
#[derive(Default)]
struct Counts {
    en: u32,
    tl: u32,
}

impl Counts {
    /// Counts a word, hyphens and all.
    fn add(&mut self, word: &str) {
        let lower = word.to_lowercase();
        match lower.split_once('-') {
            Some((prefix, root)) if TL_PREFIX.contains(prefix) => {
                self.tl += 1;
                self.en += u32::from(EN.contains(root) || is_spelled_english(root));
            }
            // Tagalog doubles words: `araw-araw`.
            Some((first, again)) if first == again && !EN.contains(first) => self.tl += 1,
            Some(_) => word.split('-').for_each(|part| self.add_one(part)),
            None => self.add_one(word),
        }
    }

    fn add_one(&mut self, word: &str) {
        let lower = word.to_lowercase();
        let lower = lower.as_str();
        if BOTH.contains(lower) {
            return;
        }
        let listed = TL.contains(lower) || EN.contains(lower);
        let spelled = !listed && !word.starts_with(char::is_uppercase);
        self.en += u32::from(EN.contains(lower) || spelled && is_spelled_english(lower));
        self.tl += u32::from(TL.contains(lower) || spelled && is_spelled_tagalog(lower));
    }
}

fn is_vowel(letter: char) -> bool {
    "aeiou".contains(letter)
}

/// Whether a word in small letters has letters or sounds that Tagalog spelling has not. Words without a vowel are sounds and
/// units.
fn is_spelled_english(word: &str) -> bool {
    let letters: Vec<char> = word.chars().collect();
    if letters.len() < 3 || !letters.iter().copied().any(is_vowel) {
        return false;
    }
    // `ea` ends Spanish loans.
    let inner_ea = word.find("ea").is_some_and(|at| !matches!(&word[at + 2..], "" | "n"));
    let (before, last) = (letters[letters.len() - 2], letters[letters.len() - 1]);
    let closed = |letter: char| letter.is_alphabetic() && !is_vowel(letter);
    letters.iter().any(|letter| "cfjqvxz".contains(*letter))
        || inner_ea
        || ENGLISH_PAIRS.iter().any(|pair| word.contains(pair))
        // A Tagalog syllable ends in one consonant at most; `ng` is one.
        || (closed(before) && closed(last) && !word.ends_with("ng"))
        || ["sk", "sl", "sm", "sn", "sp", "st"].iter().any(|begin| word.starts_with(begin))
}

/// Whether a longer word in small letters begins as Tagalog verbs do, or with a doubled syllable.
fn is_spelled_tagalog(word: &str) -> bool {
    let native = |letter: char| "abdeghiklmnoprstuwyñ'".contains(letter);
    let long = word.chars().count() >= 7 && word.chars().all(native) && !is_spelled_english(word);
    long && (TAGALOG_BEGINNINGS.iter().any(|begin| word.starts_with(begin)) || word.get(..2) == word.get(2..4))
}

fn is_in_capitals(word: &str) -> bool {
    !word.chars().any(char::is_lowercase)
}

/// The language of a text; none when no word gives it away.
pub(crate) fn detect(text: &str) -> Option<Tongue> {
    let mut counts = Counts::default();
    let text = text.replace('’', "'");
    // Addresses are in no language.
    let prose = text.split_whitespace().filter(|word| !word.contains("://") && !word.contains('@'));
    let words: Vec<&str> = prose
        .flat_map(|word| word.split(|c: char| !c.is_alphabetic() && c != '\'' && c != '-'))
        .map(|word| word.trim_matches(['\'', '-']))
        .collect();
    let shouted = words.iter().all(|word| is_in_capitals(word));
    let counted = words.into_iter().filter(|word| shouted || word.len() < 2 || !is_in_capitals(word));
    counted.for_each(|word| counts.add(word));
    let Counts { en, tl } = counts;
    let (less, both) = (en.min(tl), en + tl);
    match (en, tl) {
        (0, 0) => None,
        _ if less > 0 && less as f32 >= MIXED * both as f32 => Some(Tongue::Taglish),
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
            ("I don’t know", Some(En)),
            ("The file named sa is in the folder of my office on the desk, I think", Some(En)),
            ("How do I keep bread fresh?", Some(En)),
            ("I went to Cebu with my lola last summer and we ate adobo.", Some(En)),
            ("The weather is lovely, so take a walk and drink some water.", Some(En)),
            ("Mango and papaya taste best when they are ripe.", Some(En)),
            ("Magic tricks need practice and a magnet.", Some(En)),
            ("Adobo is pork or chicken cooked in vinegar and soy sauce.", Some(En)),
            ("Sounds good!", Some(En)),
            ("Nice try.", Some(En)),
            ("Bees see colours and smell flowers.", Some(En)),
            ("Cats purr, dogs bark, birds sing.", Some(En)),
            ("Paper bags keep bread fresh.", Some(En)),
            ("Manila has many malls, museums and parks.", Some(En)),
            ("Open the window, breathe deeply, relax.", Some(En)),
            ("My name is Kasandra and I work at a bank in Pasig.", Some(En)),
            ("Add a little salt, then stir.", Some(En)),
            ("Never mind, anyone makes mistakes sometimes.", Some(En)),
            ("Great! What kind of music?", Some(En)),
            ("You have no new messages, Paolo.", Some(En)),
            ("Nine minutes past ten.", Some(En)),
            ("WHERE IS MY DOG? I LOST IT.", Some(En)),
            ("Is it 10 AM?", Some(En)),
            ("Bukas ng 10:00 AM ang oras ng alis ng bus.", Some(Tl)),
            ("AM", Some(En)),
            ("Ano ang pangalan mo?", Some(Tl)),
            ("Kumusta ka na?", Some(Tl)),
            ("Magandang umaga po!", Some(Tl)),
            ("Nag-aral ako kagabi.", Some(Tl)),
            ("Saan tayo kakain mamaya?", Some(Tl)),
            ("Kumusta ka ngayong araw?", Some(Tl)),
            ("Bakit asul ang langit?", Some(Tl)),
            ("Ano ang masarap na ulam ngayong gabi?", Some(Tl)),
            ("Pagod na pagod ako ngayon.", Some(Tl)),
            ("Nagluto si nanay ng sinigang para sa hapunan.", Some(Tl)),
            ("Nasaan ang computer ko?", Some(Tl)),
            ("Tumawag si Chris kay Jennifer kahapon.", Some(Tl)),
            ("Maglakad-lakad ka muna sa tabing-dagat at huminga nang malalim.", Some(Tl)),
            ("Kailangan mong uminom ng maraming tubig at matulog nang maaga araw-araw.", Some(Tl)),
            ("Mas mabuting magpahinga ka muna bago ka magtrabaho ulit.", Some(Tl)),
            ("Masaya ako para sa iyo!", Some(Tl)),
            ("Nagtanim ng kamatis at sili ang kapitbahay namin.", Some(Tl)),
            ("Umuulan na naman.", Some(Tl)),
            ("Opo, naiintindihan ko po.", Some(Tl)),
            ("Isang klase, dalawang mesa at tatlong silya.", Some(Tl)),
            ("Nag-aaral siyang mabuti sa unibersidad.", Some(Tl)),
            ("Ang Facebook ay ginagamit ng maraming tao sa Pilipinas.", Some(Tl)),
            ("Malamig ang hangin at maliwanag ang buwan.", Some(Tl)),
            ("Diligan mo araw-araw ang mga halaman.", Some(Tl)),
            ("Sige, mag-ingat ka sa daan.", Some(Tl)),
            ("Sapagkat malayo ang araw, kumakalat ang liwanag sa himpapawid.", Some(Tl)),
            ("Ang pusa ay natutulog sa ilalim ng mesa.", Some(Tl)),
            ("Isa pang halimbawa: ang aso ng kapitbahay.", Some(Tl)),
            ("Tinapay, gatas at itlog.", Some(Tl)),
            ("Pinakamabilis lumaki ang kawayan.", Some(Tl)),
            ("Hindi ko alam, pasensya na.", Some(Tl)),
            ("Iwasan ang kape at magbasa ng libro bago matulog.", Some(Tl)),
            (
                "Marami akong gustong sabihin sa iyo, kaibigan, pero gabi na at kailangan ko nang umuwi, kaya bukas na lang ulit tayo mag-chat.",
                Some(Tl),
            ),
            ("Pwede mo ba i-check yung schedule ko tomorrow?", Some(Taglish)),
            ("Sorry, hindi ko alam kung what time yung meeting.", Some(Taglish)),
            ("I think okay naman siya, pero let me check muna.", Some(Taglish)),
            ("Pagod na ako sa work today, ano ang dapat kong gawin?", Some(Taglish)),
            ("Can you help me, hindi ko alam kung paano magluto?", Some(Taglish)),
            ("Ang init ng weather ngayon, ano ang magandang gawin?", Some(Taglish)),
            ("Gusto ko mag-swim pero natatakot ako, any tips?", Some(Taglish)),
            ("Nag-enjoy ako sa movie kagabi, ikaw ba mahilig ka sa movies?", Some(Taglish)),
            ("I'm so pagod today.", Some(Taglish)),
            ("Let's eat na, gutom na ako.", Some(Taglish)),
            ("Grabe, super traffic kanina sa EDSA!", Some(Taglish)),
            ("Try mo mag-walk every morning para ma-relax ka.", Some(Taglish)),
            ("Wow, congrats! Proud ako sa iyo.", Some(Taglish)),
            ("Ang hirap ng exam, pero I passed naman.", Some(Taglish)),
            ("Nakalimutan ko yung password ng email ko.", Some(Taglish)),
            ("Okay lang yan, take your time.", Some(Taglish)),
            ("Kumain ka ng healthy food at uminom ng maraming water.", Some(Taglish)),
            ("Happy birthday sa kapatid mo, sana mag-enjoy kayo!", Some(Taglish)),
            ("Ang cute ng dog mo, anong name niya?", Some(Taglish)),
            ("Hindi ako available bukas kasi may meeting kami.", Some(Taglish)),
            ("Masarap ang pizza, pero mas type ko ang pasta with cheese.", Some(Taglish)),
            ("Magpahinga ka muna, then drink water.", Some(Taglish)),
            ("Better kung maaga kang matulog tonight.", Some(Taglish)),
            ("Gusto mo bang manood ng comedy or horror?", Some(Taglish)),
            ("Actually, depende yan sa budget mo.", Some(Taglish)),
            ("Nag-text siya kagabi, sabi niya late daw siya.", Some(Taglish)),
            ("Sayang, sold out na yung tickets.", Some(Taglish)),
            ("First, hiwain mo ang sibuyas. Second, igisa mo sa oil.", Some(Taglish)),
            ("ok", None),
            ("12345 !?", None),
            ("https://example.ph/ho ana@sa.ph", None),
            ("", None),
            ("Manila", None),
            ("1.5 km", None),
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
    fn no_word_is_in_two_lists() {
        for (one, other) in [(&TL, &EN), (&TL, &BOTH), (&EN, &BOTH)] {
            assert_eq!(one.intersection(other).collect::<Vec<_>>(), Vec::<&&str>::new());
        }
    }
}
