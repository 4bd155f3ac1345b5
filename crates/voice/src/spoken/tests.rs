use super::Tongue::{English, Tagalog};
use super::*;

fn all(tongue: Tongue, table: &[(&str, &str)]) {
    for (text, expected) in table {
        assert_eq!(spoken(text, tongue), *expected, "{text}");
    }
}

#[test]
fn english_is_said_as_people_say_it() {
    all(
        English,
        &[
            ("I have 1 cat and 21 dogs.", "I have one cat and twenty-one dogs."),
            (
                "0 100 105 1,000 12,345",
                "zero one hundred one hundred five one thousand twelve thousand three hundred forty-five",
            ),
            ("1000000 is 1,000,000", "one million is one million"),
            ("Pi is 3.14, almost", "Pi is three point one four, almost"),
            ("-5 and −2.5", "minus five and minus two point five"),
            ("the 1st, 2nd, 3rd, 12th and 20th", "the first, second, third, twelfth and twentieth"),
            ("21st 100th", "twenty-first one hundredth"),
            ("in 1995, since 2005, by 2026", "in nineteen ninety-five, since two thousand five, by twenty twenty-six"),
            ("in 1905 and of 1900", "in nineteen oh five and of nineteen hundred"),
            ("1995 people", "one thousand nine hundred ninety-five people"),
            ("$5", "five dollars"),
            ("It is $1.", "It is one dollar."),
            ("₱1,250.50!", "one thousand two hundred fifty pesos and fifty centavos!"),
            ("$0.99", "ninety-nine cents"),
            ("€3.5", "three euros and fifty cents"),
            ("PHP 20 each", "twenty pesos each"),
            ("₱5M or $3 billion", "five million pesos or three billion dollars"),
            ("$1.5 million.", "one point five million dollars."),
            ("25% (or 2.5%)", "twenty-five percent (or two point five percent)"),
            ("at 7:30 PM, 8 am", "at seven thirty P M, eight A M"),
            ("at 7:05pm.", "at seven oh five P M."),
            ("19:45 and 8:00", "seven forty-five P M and eight o'clock"),
            ("00:15", "twelve fifteen A M"),
            ("2026-11-30", "November thirtieth, twenty twenty-six"),
            ("on Nov. 30, 2026.", "on November thirtieth, twenty twenty-six."),
            ("December 25 is near", "December twenty-fifth is near"),
            ("May 3 apples", "May third apples"),
            ("you may 3", "you may three"),
            ("5 km, 5km, 1 kg", "five kilometers, five kilometers, one kilogram"),
            ("37.5°C at 60 km/h", "thirty-seven point five degrees Celsius at sixty kilometers per hour"),
            ("16 GB", "sixteen gigabytes"),
            ("3 m", "three m"),
            ("5-10 people", "five to ten people"),
            ("call 0917-123-4567", "call zero nine one seven, one two three, four five six seven"),
            ("agent 007", "agent zero zero seven"),
            ("Dr. Cruz vs. Mr. Reyes", "Doctor Cruz versus Mister Reyes"),
            ("Mr Reyes", "Mr Reyes"),
            ("B2B, x86, 3D, v1.2.3", "B2B, x86, 3D, v1.2.3"),
            ("1,00 and 1,2345", "1,00 and 1,2345"),
            ("$ and 12:99", "$ and 12:99"),
            ("\"42\"", "\"forty-two\""),
            ("", ""),
        ],
    );
}

#[test]
fn tagalog_is_said_as_people_say_it() {
    all(
        Tagalog,
        &[
            ("1 11 15 20 21 25", "isa labing-isa labinlima dalawampu dalawampu't isa dalawampu't lima"),
            ("100 105 200 400", "sandaan sandaan at lima dalawang daan apat na raan"),
            ("1,000 at 2026", "sanlibo at dalawang libo't dalawampu't anim"),
            ("10,000", "sampung libo"),
            ("1,000,000", "isang milyon"),
            ("₱50", "limampung piso"),
            ("₱1.25", "isang piso at dalawampu't limang sentimo"),
            ("₱5M", "limang milyong piso"),
            ("$4", "apat na dolyar"),
            ("25%", "dalawampu't limang porsiyento"),
            ("5 km", "limang kilometro"),
            ("37.5°C", "tatlumpu't pito punto lima digri Celsius"),
            ("7:30 PM", "alas-siyete y medya ng gabi"),
            ("1:15", "ala-una y kinse"),
            ("8 am", "alas-otso ng umaga"),
            ("15:40", "alas-tres y kuwarenta ng hapon"),
            ("2026-11-30", "ika-tatlumpu ng Nobyembre, dalawang libo't dalawampu't anim"),
            ("Nov. 30", "ika-tatlumpu ng Nobyembre"),
            ("ika-3 at ika-25", "ikatlo at ikadalawampu't lima"),
            ("1st", "una"),
            ("3.14", "tatlo punto isa apat"),
            ("5-10", "lima hanggang sampu"),
            ("0917", "sero siyam isa pito"),
            ("G. Reyes at Gng. Cruz", "Ginoong Reyes at Ginang Cruz"),
            ("Magandang umaga!", "Magandang umaga!"),
        ],
    );
}

proptest::proptest! {
    /// Whatever is written, it is read without a panic, and what has no digits and no short words stays.
    #[test]
    fn any_text_can_be_read(text in "\\PC{0,60}", tagalog in proptest::bool::ANY) {
        let said = spoken(&text, if tagalog { Tagalog } else { English });
        let plain = text.chars().all(|c| c.is_alphabetic() || c.is_whitespace());
        if plain {
            proptest::prop_assert_eq!(said, text.split_whitespace().collect::<Vec<_>>().join(" "));
        }
    }

    /// Numbers in words hold no digits.
    #[test]
    fn numbers_become_words(n in 0u64..1_000_000_000_000_000, tagalog in proptest::bool::ANY) {
        let said = spoken(&n.to_string(), if tagalog { Tagalog } else { English });
        proptest::prop_assert!(!said.is_empty() && !said.chars().any(|c| c.is_ascii_digit()), "{}", said);
    }
}
