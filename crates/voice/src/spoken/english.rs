//! Numbers in English words.

const SMALL: [&str; 20] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
];
const TENS: [&str; 10] = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"];
const GROUPS: [(u64, &str); 6] = [
    (1_000_000_000_000_000_000, "quintillion"),
    (1_000_000_000_000_000, "quadrillion"),
    (1_000_000_000_000, "trillion"),
    (1_000_000_000, "billion"),
    (1_000_000, "million"),
    (1_000, "thousand"),
];
/// Ordinals that are not the cardinal with `th`.
const ORDINALS: [(&str, &str); 7] = [
    ("one", "first"),
    ("two", "second"),
    ("three", "third"),
    ("five", "fifth"),
    ("eight", "eighth"),
    ("nine", "ninth"),
    ("twelve", "twelfth"),
];

/// `twenty-one`, `one hundred five`.
pub(super) fn cardinal(n: u64) -> String {
    for (size, name) in GROUPS {
        if n >= size {
            let rest = if n.is_multiple_of(size) { String::new() } else { format!(" {}", cardinal(n % size)) };
            return format!("{} {name}{rest}", cardinal(n / size));
        }
    }
    match n {
        0..=19 => SMALL[n as usize].to_owned(),
        20..=99 if n.is_multiple_of(10) => TENS[n as usize / 10].to_owned(),
        20..=99 => format!("{}-{}", TENS[n as usize / 10], SMALL[n as usize % 10]),
        _ if n.is_multiple_of(100) => format!("{} hundred", SMALL[n as usize / 100]),
        _ => format!("{} hundred {}", SMALL[n as usize / 100], cardinal(n % 100)),
    }
}

/// `twenty-first`.
pub(super) fn ordinal(n: u64) -> String {
    let words = cardinal(n);
    let at = words.rfind([' ', '-']).map_or(0, |at| at + 1);
    let (before, last) = words.split_at(at);
    if let Some((_, ordinal)) = ORDINALS.iter().find(|(cardinal, _)| *cardinal == last) {
        return format!("{before}{ordinal}");
    }
    match last.strip_suffix('y') {
        Some(tens) => format!("{before}{tens}ieth"),
        None => format!("{before}{last}th"),
    }
}

/// `nineteen ninety-five`, `two thousand five`, `nineteen oh five`.
pub(super) fn year(n: u64) -> String {
    let (century, rest) = (n / 100, n % 100);
    match (n, rest) {
        (2000..=2009, _) | (..1000, _) | (10_000.., _) => cardinal(n),
        (_, 0) if century.is_multiple_of(10) => cardinal(n),
        (_, 0) => format!("{} hundred", cardinal(century)),
        (_, 1..=9) => format!("{} oh {}", cardinal(century), cardinal(rest)),
        _ => format!("{} {}", cardinal(century), cardinal(rest)),
    }
}

/// `seven thirty`, `twelve oh five`, `eight o'clock`.
pub(super) fn time(hour: u64, minute: u64) -> String {
    match minute {
        0 => format!("{} o'clock", cardinal(hour)),
        1..=9 => format!("{} oh {}", cardinal(hour), cardinal(minute)),
        _ => format!("{} {}", cardinal(hour), cardinal(minute)),
    }
}
