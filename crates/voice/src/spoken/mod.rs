//! Text as it is said: numbers, money, dates, times, units and abbreviations in words, in English and in Tagalog.
//!
//! A voice reads letters; what `₱1,250.50` or `7:30 PM` is called only the language knows. What is not recognised stays as it
//! was written, and so does every other word.

mod english;
mod number;
mod tables;
mod tagalog;
#[cfg(test)]
mod tests;

use number::Number;
use tables::{ABBREVIATIONS, CURRENCIES, Currency, MONTHS, Unit, unit};

/// A language that numbers are said in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tongue {
    /// English.
    English,
    /// Tagalog.
    Tagalog,
}

/// The text in words. Several blanks become one.
pub fn spoken(text: &str, tongue: Tongue) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut said = Vec::with_capacity(words.len());
    let mut at = 0;
    while at < words.len() {
        let (words_said, taken) =
            Reader { tongue, words: &words[at..], before: at.checked_sub(1).map(|n| words[n]) }.next();
        said.push(words_said);
        at += taken;
    }
    said.join(" ")
}

/// A word without the marks around it.
struct Parts<'a> {
    lead: &'a str,
    core: &'a str,
    tail: &'a str,
}

fn parts(word: &str) -> Parts<'_> {
    let opens = |c: char| "([{\"'“‘«".contains(c);
    let closes = |c: char| ".,;:!?)]}\"'”’»…".contains(c);
    let core = word.trim_start_matches(opens);
    let lead = &word[..word.len() - core.len()];
    let trimmed = core.trim_end_matches(closes);
    Parts { lead, core: trimmed, tail: &core[trimmed.len()..] }
}

/// Reads from one word on.
struct Reader<'a> {
    tongue: Tongue,
    words: &'a [&'a str],
    before: Option<&'a str>,
}

impl Reader<'_> {
    /// What the next words are said as, and how many they are.
    fn next(&self) -> (String, usize) {
        let Parts { lead, core, tail } = parts(self.words[0]);
        let kept = |words: String, tail: &str| format!("{lead}{words}{tail}");
        if let Some((words, rest)) = self.abbreviation(core, tail) {
            return (kept(words, rest), 1);
        }
        // What goes on in the next word is not closed by a mark.
        let next = self.words.get(1).filter(|_| tail.is_empty()).map(|word| parts(word));
        let joined = self.money(core, next.as_ref());
        let joined = joined.or_else(|| self.time(core, next.as_ref())).or_else(|| self.measure(core, next.as_ref()));
        if let Some((words, with_next)) = joined {
            let tail = if with_next { next.as_ref().map_or("", |next| next.tail) } else { tail };
            return (kept(words, tail), if with_next { 2 } else { 1 });
        }
        if let Some((words, tail, taken)) = self.month(core, tail) {
            return (kept(words, &tail), taken);
        }
        let alone = self.date(core).or_else(|| self.ordinal(core)).or_else(|| digits(core, self.tongue));
        let alone = alone.or_else(|| self.range(core)).or_else(|| self.number(core));
        (kept(alone.unwrap_or_else(|| core.to_owned()), tail), 1)
    }

    fn pick(&self, english: &str, tagalog: &str) -> String {
        match self.tongue {
            Tongue::English => english.to_owned(),
            Tongue::Tagalog => tagalog.to_owned(),
        }
    }

    fn cardinal(&self, n: u64) -> String {
        match self.tongue {
            Tongue::English => english::cardinal(n),
            Tongue::Tagalog => tagalog::cardinal(n),
        }
    }

    /// So many of something.
    fn counted(&self, number: &Number<'_>, one: &str, many: &str, tagalog: &str) -> String {
        let words = number.words(self.tongue);
        match self.tongue {
            Tongue::English if number.is_one() => format!("{words} {one}"),
            Tongue::English => format!("{words} {many}"),
            Tongue::Tagalog if number.fraction.is_some() => format!("{words} {tagalog}"),
            Tongue::Tagalog => format!("{} {tagalog}", tagalog::linked(&words)),
        }
    }

    fn abbreviation<'t>(&self, core: &str, tail: &'t str) -> Option<(String, &'t str)> {
        let rest = tail.strip_prefix('.')?;
        let (_, english, tagalog) = ABBREVIATIONS.iter().find(|(short, ..)| *short == core)?;
        Some((self.pick(english, tagalog), rest))
    }

    /// `₱1,250.50`, `$5M`, `PHP 20`, `₱3 million`.
    fn money(&self, core: &str, next: Option<&Parts<'_>>) -> Option<(String, bool)> {
        let (currency, rest) = CURRENCIES
            .iter()
            .find_map(|currency| currency.signs.iter().find_map(|sign| Some((currency, core.strip_prefix(sign)?))))?;
        if rest.is_empty() {
            let next = next.filter(|next| next.lead.is_empty())?;
            return Some((self.amount(currency, &Number::parse(next.core)?), true));
        }
        let scale = |text: &str| tables::scale(text);
        let bare = rest.trim_end_matches(['K', 'k', 'M', 'B']);
        let number = Number::parse(bare)?;
        if let Some((_, english, tagalog)) = scale(&rest[bare.len()..]) {
            return Some((self.large(currency, &number, english, tagalog), false));
        }
        if bare.len() < rest.len() {
            return None;
        }
        match next.filter(|next| next.lead.is_empty()).and_then(|next| scale(next.core)) {
            Some((_, english, tagalog)) => Some((self.large(currency, &number, english, tagalog), true)),
            None => Some((self.amount(currency, &number), false)),
        }
    }

    fn large(&self, currency: &Currency, number: &Number<'_>, english: &str, tagalog: &str) -> String {
        match self.tongue {
            Tongue::English => format!("{} {english} {}", number.words(self.tongue), currency.many),
            Tongue::Tagalog => {
                let many = self.counted(number, "", "", tagalog);
                format!("{} {}", tagalog::linked(&many), currency.tagalog)
            }
        }
    }

    fn amount(&self, currency: &Currency, number: &Number<'_>) -> String {
        let whole = Number { fraction: None, ..*number };
        let units = self.counted(&whole, currency.one, currency.many, currency.tagalog);
        let Some(cents) = number.hundredths().filter(|cents| *cents > 0) else { return units };
        let cents = Number::whole(cents);
        let cents = self.counted(&cents, currency.cent, currency.cents, "sentimo");
        if number.whole == 0 { cents } else { format!("{units} {} {cents}", self.pick("and", "at")) }
    }

    /// `7:30`, `19:45`, `7:30 PM`, `8 am`.
    fn time(&self, core: &str, next: Option<&Parts<'_>>) -> Option<(String, bool)> {
        let half = |text: &str| match text.to_ascii_lowercase().replace('.', "").as_str() {
            "am" => Some(false),
            "pm" => Some(true),
            _ => None,
        };
        let (clock, mut after_noon) = match core.char_indices().find(|(_, c)| c.is_ascii_alphabetic()) {
            Some((at, _)) => (&core[..at], Some(half(&core[at..])?)),
            None => (core, None),
        };
        let (hour, minute) = match clock.split_once(':') {
            Some((hour, minute)) if minute.len() == 2 => (whole(hour)?, whole(minute)?),
            None if after_noon.is_some() || next.is_some_and(|next| half(next.core).is_some()) => (whole(clock)?, 0),
            _ => return None,
        };
        let with_next = after_noon.is_none() && next.is_some_and(|next| half(next.core).is_some());
        if with_next {
            after_noon = next.and_then(|next| half(next.core));
        }
        if minute > 59 || hour > 23 || (after_noon.is_some() && !(1..=12).contains(&hour)) {
            return None;
        }
        let after_noon = after_noon.or_else(|| (hour > 12 || hour == 0).then_some(hour > 12));
        let hour = if hour % 12 == 0 { 12 } else { hour % 12 };
        let words = match (self.tongue, after_noon) {
            (Tongue::English, Some(after_noon)) => {
                let clock = english::time(hour, minute).replace(" o'clock", "");
                format!("{clock} {}", if after_noon { "P M" } else { "A M" })
            }
            (Tongue::English, None) => english::time(hour, minute),
            (Tongue::Tagalog, half) => {
                let part = half.map(|after_noon| tables::part_of_day(hour % 12 + if after_noon { 12 } else { 0 }));
                let part = part.map(|part| format!(" ng {part}")).unwrap_or_default();
                format!("{}{part}", tagalog::time(hour, minute))
            }
        };
        Some((words, with_next))
    }

    /// `25%`, `5km`, `5 km`, `37.5°C`.
    fn measure(&self, core: &str, next: Option<&Parts<'_>>) -> Option<(String, bool)> {
        let is_number = |c: char| c.is_ascii_digit() || ",.-−".contains(c);
        let at = core.find(|c: char| !is_number(c)).unwrap_or(core.len());
        let number = Number::parse(&core[..at])?;
        let say = |unit: &Unit| self.counted(&number, unit.one, unit.many, unit.tagalog);
        if at < core.len() {
            return unit(&core[at..]).map(|unit| (say(unit), false));
        }
        let next = next.filter(|next| next.lead.is_empty())?;
        unit(next.core).filter(|unit| unit.stands_apart).map(|unit| (say(unit), true))
    }

    /// `Nov. 30, 2026`, `November 30`.
    fn month(&self, core: &str, tail: &str) -> Option<(String, String, usize)> {
        if !matches!(tail, "" | ".") {
            return None;
        }
        let (_, name, tagalog) = MONTHS.iter().find(|(short, name, tagalog)| {
            core == *short || (tail.is_empty() && (core == *name || core == *tagalog))
        })?;
        let day = parts(self.words.get(1)?);
        let number = day.lead.is_empty().then(|| whole(day.core)).flatten().filter(|day| (1..=31).contains(day))?;
        let year = self.words.get(2).filter(|_| day.tail == ",").map(|word| parts(word));
        let of_year = year.as_ref().filter(|year| year.core.len() == 4).and_then(|year| whole(year.core));
        let words = self.day(number, name, tagalog, of_year);
        Some(match (of_year, year) {
            (Some(_), Some(year)) => (words, year.tail.to_owned(), 3),
            _ => (words, day.tail.to_owned(), 2),
        })
    }

    /// `2026-11-30`.
    fn date(&self, core: &str) -> Option<String> {
        let mut fields = core.split('-');
        let (year, month, day) = (fields.next()?, fields.next()?, fields.next()?);
        if fields.next().is_some() || (year.len(), month.len(), day.len()) != (4, 2, 2) {
            return None;
        }
        let (year, month, day) = (whole(year)?, whole(month)?, whole(day)?);
        let (_, name, tagalog) = MONTHS.get(usize::try_from(month).ok()?.checked_sub(1)?)?;
        (1..=31).contains(&day).then(|| self.day(day, name, tagalog, Some(year)))
    }

    fn day(&self, day: u64, month: &str, tagalog: &str, year: Option<u64>) -> String {
        match self.tongue {
            Tongue::English => {
                let year = year.map(|year| format!(", {}", english::year(year))).unwrap_or_default();
                format!("{month} {}{year}", english::ordinal(day))
            }
            Tongue::Tagalog => {
                let year = year.map(|year| format!(", {}", tagalog::cardinal(year))).unwrap_or_default();
                format!("ika-{} ng {tagalog}{year}", tagalog::cardinal(day))
            }
        }
    }

    /// `3rd`, `ika-25`.
    fn ordinal(&self, core: &str) -> Option<String> {
        let lower = core.to_ascii_lowercase();
        if let Some(number) = lower.strip_prefix("ika-").and_then(whole) {
            return Some(match self.tongue {
                Tongue::English => english::ordinal(number),
                Tongue::Tagalog => tagalog::ordinal(number),
            });
        }
        let number = ["st", "nd", "rd", "th"].iter().find_map(|end| whole(lower.strip_suffix(end)?))?;
        Some(match self.tongue {
            Tongue::English => english::ordinal(number),
            Tongue::Tagalog => tagalog::ordinal(number),
        })
    }

    /// `5-10`.
    fn range(&self, core: &str) -> Option<String> {
        let (from, to) = core.split_once(['-', '–'])?;
        let (from, to) = (Number::parse(from)?, Number::parse(to)?);
        Some(format!("{} {} {}", from.words(self.tongue), self.pick("to", "hanggang"), to.words(self.tongue)))
    }

    fn number(&self, core: &str) -> Option<String> {
        let number = Number::parse(core)?;
        let says_year =
            self.before.is_some_and(|before| tables::YEAR_FOLLOWS.contains(&before.to_lowercase().as_str()));
        let is_year = core.len() == 4 && number.fraction.is_none() && (1_100..2_100).contains(&number.whole);
        match self.tongue {
            Tongue::English if says_year && is_year => Some(english::year(number.whole)),
            _ if number.fraction.is_none() && !number.negative => Some(self.cardinal(number.whole)),
            _ => Some(number.words(self.tongue)),
        }
    }
}

/// A number that is only digits.
fn whole(text: &str) -> Option<u64> {
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

/// Numbers that are names, digit by digit: `0917-123-4567`, `007`, `+63 2`.
fn digits(core: &str, tongue: Tongue) -> Option<String> {
    let bare = core.strip_prefix('+').unwrap_or(core);
    let groups: Vec<&str> = bare.split('-').collect();
    let all_digits = groups.iter().all(|group| !group.is_empty() && group.bytes().all(|b| b.is_ascii_digit()));
    let is_name =
        core.starts_with('+') || groups.len() > 2 || (bare.len() > 1 && bare.starts_with('0')) || bare.len() > 18;
    if !all_digits || !is_name {
        return None;
    }
    let group = |group: &&str| number::by_digit(group, tongue);
    Some(groups.iter().map(group).collect::<Vec<_>>().join(", "))
}
