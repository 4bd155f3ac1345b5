//! Numbers in Tagalog words. Times and clock minutes are said in the Spanish way, as people do.

const UNITS: [&str; 10] = ["sero", "isa", "dalawa", "tatlo", "apat", "lima", "anim", "pito", "walo", "siyam"];
const TEENS: [&str; 10] = [
    "sampu",
    "labing-isa",
    "labindalawa",
    "labintatlo",
    "labing-apat",
    "labinlima",
    "labing-anim",
    "labimpito",
    "labingwalo",
    "labinsiyam",
];
const TENS: [&str; 10] =
    ["", "", "dalawampu", "tatlumpu", "apatnapu", "limampu", "animnapu", "pitumpu", "walumpu", "siyamnapu"];
const GROUPS: [(u64, &str); 4] =
    [(1_000_000_000_000, "trilyon"), (1_000_000_000, "bilyon"), (1_000_000, "milyon"), (1_000, "libo")];
const HOURS: [&str; 13] = [
    "",
    "ala-una",
    "alas-dos",
    "alas-tres",
    "alas-kuwatro",
    "alas-singko",
    "alas-sais",
    "alas-siyete",
    "alas-otso",
    "alas-nuwebe",
    "alas-diyes",
    "alas-onse",
    "alas-dose",
];
const MINUTES: [&str; 30] = [
    "",
    "uno",
    "dos",
    "tres",
    "kuwatro",
    "singko",
    "sais",
    "siyete",
    "otso",
    "nuwebe",
    "diyes",
    "onse",
    "dose",
    "trese",
    "katorse",
    "kinse",
    "disisais",
    "disisiyete",
    "disiotso",
    "disinuwebe",
    "beynte",
    "beynte-uno",
    "beynte-dos",
    "beynte-tres",
    "beynte-kuwatro",
    "beynte-singko",
    "beynte-sais",
    "beynte-siyete",
    "beynte-otso",
    "beynte-nuwebe",
];

/// `dalawampu't isa`, `sandaan at lima`, `dalawang libo't dalawampu't anim`.
pub(super) fn cardinal(n: u64) -> String {
    for (size, name) in GROUPS {
        if n >= size {
            let many = n / size;
            let head = match (many, name) {
                (1, "libo") => "sanlibo".to_owned(),
                _ => format!("{} {name}", linked(&cardinal(many))),
            };
            return joined(head, n % size);
        }
    }
    match n {
        0..=9 => UNITS[n as usize].to_owned(),
        10..=19 => TEENS[n as usize - 10].to_owned(),
        20..=99 => joined(TENS[n as usize / 10].to_owned(), n % 10),
        _ => {
            let head = match n / 100 {
                1 => "sandaan".to_owned(),
                // After a consonant the word begins with another one.
                hundreds @ (4 | 6 | 9) => format!("{} na raan", UNITS[hundreds as usize]),
                hundreds => format!("{} daan", linked(UNITS[hundreds as usize])),
            };
            joined(head, n % 100)
        }
    }
}

/// `at` between two parts, which melts into a vowel before it.
fn joined(head: String, rest: u64) -> String {
    if rest == 0 {
        return head;
    }
    let link = if ends_in_vowel(&head) { "'t" } else { " at" };
    format!("{head}{link} {}", cardinal(rest))
}

fn ends_in_vowel(word: &str) -> bool {
    word.ends_with(['a', 'e', 'i', 'o', 'u'])
}

/// A word with the linker before what it counts: `dalawang`, `apat na`, `milyong`.
pub(super) fn linked(word: &str) -> String {
    match word.chars().last() {
        Some('a' | 'e' | 'i' | 'o' | 'u') => format!("{word}ng"),
        Some('n') => format!("{word}g"),
        _ => format!("{word} na"),
    }
}

/// `una`, `ikalawa`, `ikadalawampu't lima`.
pub(super) fn ordinal(n: u64) -> String {
    match n {
        1 => "una".to_owned(),
        2 => "ikalawa".to_owned(),
        3 => "ikatlo".to_owned(),
        _ => {
            let words = cardinal(n);
            // A vowel is not run together with the one before it.
            if words.starts_with(['a', 'e', 'i', 'o', 'u']) { format!("ika-{words}") } else { format!("ika{words}") }
        }
    }
}

/// `alas-siyete y medya`, `ala-una y kinse`.
pub(super) fn time(hour: u64, minute: u64) -> String {
    let hour = HOURS[hour.clamp(1, 12) as usize];
    match minute {
        0 => hour.to_owned(),
        30 => format!("{hour} y medya"),
        1..=29 => format!("{hour} y {}", MINUTES[minute as usize]),
        _ => {
            let (tens, rest) =
                (["treynta", "kuwarenta", "singkuwenta"][(minute.min(59) as usize) / 10 - 3], minute % 10);
            let rest = if rest == 0 { String::new() } else { format!("'y {}", MINUTES[rest as usize]) };
            format!("{hour} y {tens}{rest}")
        }
    }
}
