//! Names of currencies, units, months, and what is written short.

/// Money.
pub(super) struct Currency {
    pub(super) signs: &'static [&'static str],
    pub(super) one: &'static str,
    pub(super) many: &'static str,
    pub(super) cent: &'static str,
    pub(super) cents: &'static str,
    pub(super) tagalog: &'static str,
}

pub(super) const CURRENCIES: [Currency; 3] = [
    Currency {
        signs: &["₱", "PHP", "Php"],
        one: "peso",
        many: "pesos",
        cent: "centavo",
        cents: "centavos",
        tagalog: "piso",
    },
    Currency {
        signs: &["$", "US$", "USD"],
        one: "dollar",
        many: "dollars",
        cent: "cent",
        cents: "cents",
        tagalog: "dolyar",
    },
    Currency { signs: &["€", "EUR"], one: "euro", many: "euros", cent: "cent", cents: "cents", tagalog: "euro" },
];

const SCALES: [(&str, &str, &str); 9] = [
    ("k", "thousand", "libo"),
    ("K", "thousand", "libo"),
    ("M", "million", "milyon"),
    ("B", "billion", "bilyon"),
    ("thousand", "thousand", "libo"),
    ("million", "million", "milyon"),
    ("billion", "billion", "bilyon"),
    ("milyon", "million", "milyon"),
    ("bilyon", "billion", "bilyon"),
];

pub(super) fn scale(text: &str) -> Option<(&'static str, &'static str, &'static str)> {
    SCALES.iter().find(|(short, ..)| *short == text).copied()
}

/// Something that is counted.
pub(super) struct Unit {
    short: &'static str,
    pub(super) one: &'static str,
    pub(super) many: &'static str,
    pub(super) tagalog: &'static str,
    /// Whether it is the unit also with a blank before it: a single letter may be anything.
    pub(super) stands_apart: bool,
}

const fn of(short: &'static str, one: &'static str, many: &'static str, tagalog: &'static str) -> Unit {
    Unit { short, one, many, tagalog, stands_apart: short.len() > 1 }
}

const UNITS: [Unit; 34] = [
    of("%", "percent", "percent", "porsiyento"),
    of("km", "kilometer", "kilometers", "kilometro"),
    of("m", "meter", "meters", "metro"),
    of("cm", "centimeter", "centimeters", "sentimetro"),
    of("mm", "millimeter", "millimeters", "milimetro"),
    of("km/h", "kilometer per hour", "kilometers per hour", "kilometro kada oras"),
    of("kph", "kilometer per hour", "kilometers per hour", "kilometro kada oras"),
    of("kg", "kilogram", "kilograms", "kilo"),
    of("g", "gram", "grams", "gramo"),
    of("mg", "milligram", "milligrams", "miligramo"),
    of("L", "liter", "liters", "litro"),
    of("l", "liter", "liters", "litro"),
    of("mL", "milliliter", "milliliters", "mililitro"),
    of("ml", "milliliter", "milliliters", "mililitro"),
    of("°", "degree", "degrees", "digri"),
    of("°C", "degree Celsius", "degrees Celsius", "digri Celsius"),
    of("°F", "degree Fahrenheit", "degrees Fahrenheit", "digri Fahrenheit"),
    of("kB", "kilobyte", "kilobytes", "kilobyte"),
    of("KB", "kilobyte", "kilobytes", "kilobyte"),
    of("MB", "megabyte", "megabytes", "megabyte"),
    of("GB", "gigabyte", "gigabytes", "gigabyte"),
    of("TB", "terabyte", "terabytes", "terabyte"),
    of("Hz", "hertz", "hertz", "hertz"),
    of("kHz", "kilohertz", "kilohertz", "kilohertz"),
    of("MHz", "megahertz", "megahertz", "megahertz"),
    of("GHz", "gigahertz", "gigahertz", "gigahertz"),
    of("W", "watt", "watts", "watt"),
    of("kW", "kilowatt", "kilowatts", "kilowatt"),
    of("kWh", "kilowatt hour", "kilowatt hours", "kilowatt hour"),
    of("V", "volt", "volts", "volt"),
    of("ms", "millisecond", "milliseconds", "milisegundo"),
    of("min", "minute", "minutes", "minuto"),
    of("hr", "hour", "hours", "oras"),
    of("hrs", "hour", "hours", "oras"),
];

pub(super) fn unit(short: &str) -> Option<&'static Unit> {
    UNITS.iter().find(|unit| unit.short == short)
}

/// Months: short, whole, in Tagalog.
pub(super) const MONTHS: [(&str, &str, &str); 12] = [
    ("Jan", "January", "Enero"),
    ("Feb", "February", "Pebrero"),
    ("Mar", "March", "Marso"),
    ("Apr", "April", "Abril"),
    ("May", "May", "Mayo"),
    ("Jun", "June", "Hunyo"),
    ("Jul", "July", "Hulyo"),
    ("Aug", "August", "Agosto"),
    ("Sept", "September", "Setyembre"),
    ("Oct", "October", "Oktubre"),
    ("Nov", "November", "Nobyembre"),
    ("Dec", "December", "Disyembre"),
];

/// What a point makes short, in English and in Tagalog.
pub(super) const ABBREVIATIONS: [(&str, &str, &str); 19] = [
    ("Mr", "Mister", "Mister"),
    ("Mrs", "Missis", "Misis"),
    ("Ms", "Miss", "Miss"),
    ("Dr", "Doctor", "Doktor"),
    ("Dra", "Doctor", "Doktora"),
    ("Prof", "Professor", "Propesor"),
    ("Engr", "Engineer", "Inhinyero"),
    ("Atty", "Attorney", "Abogado"),
    ("Jr", "Junior", "Junior"),
    ("Sr", "Senior", "Senior"),
    ("St", "Saint", "San"),
    ("Sta", "Santa", "Santa"),
    ("G", "Mister", "Ginoong"),
    ("Gng", "Missis", "Ginang"),
    ("Bb", "Miss", "Binibining"),
    ("Brgy", "Barangay", "Barangay"),
    ("vs", "versus", "laban sa"),
    ("approx", "approximately", "humigit-kumulang"),
    ("No", "number", "numero"),
];

/// Words before a year.
pub(super) const YEAR_FOLLOWS: [&str; 9] = ["in", "since", "of", "year", "until", "from", "by", "noong", "taong"];

/// The part of the day that an hour of 24 is in.
pub(super) fn part_of_day(hour: u64) -> &'static str {
    match hour {
        0..=11 => "umaga",
        12 => "tanghali",
        13..=17 => "hapon",
        _ => "gabi",
    }
}
