//! Reads a TOML file field by field and keeps every problem with its line, so that all are reported at once.

use std::ops::Range;

use tandem_types::{Fault, Violation};
use toml::de::{DeTable, DeValue};

/// The problems found so far in one file.
pub(super) struct Report<'t> {
    file: &'static str,
    text: &'t str,
    problems: Vec<(usize, Violation)>,
}

impl<'t> Report<'t> {
    /// Reads the text as TOML; what cannot be read is the first entry of the report.
    pub(super) fn parse(file: &'static str, text: &'t str) -> (Self, DeTable<'t>) {
        let (table, errors) = DeTable::parse_recoverable(text);
        let mut report = Self { file, text, problems: Vec::new() };
        for error in errors {
            report.add(error.span().unwrap_or(0..0), "", error.message());
        }
        (report, table.into_inner())
    }

    /// Notes a problem with the field that starts at `at`.
    pub(super) fn add(&mut self, at: Range<usize>, field: &str, problem: impl Into<String>) {
        let line = 1 + self.text[..at.start].matches('\n').count();
        let field = format!("{}:{line} {field}", self.file).trim_end().to_owned();
        self.problems.push((line, Violation { field, problem: problem.into() }));
    }

    /// Notes every key of a table that is not one of `known`.
    pub(super) fn only(&mut self, table: &DeTable<'_>, known: &[&str]) {
        for key in table.keys().filter(|key| !known.contains(&key.get_ref().as_ref())) {
            self.add(key.span(), key.get_ref(), format!("unknown; known are {}", known.join(", ")));
        }
    }

    /// The rows of `[[key]]`; a file without any has none.
    pub(super) fn rows<'d>(&mut self, document: &'d DeTable<'t>, key: &str) -> Vec<(Range<usize>, &'d DeTable<'t>)> {
        document.get(key).map_or_else(Vec::new, |value| self.tables(value.span(), key, value.get_ref()))
    }

    fn tables<'d>(
        &mut self,
        at: Range<usize>,
        key: &str,
        value: &'d DeValue<'t>,
    ) -> Vec<(Range<usize>, &'d DeTable<'t>)> {
        let Some(items) = value.as_array() else {
            self.add(at, key, format!("is of type {}, not a list of tables", value.type_str()));
            return Vec::new();
        };
        let mut tables = Vec::with_capacity(items.len());
        for item in items {
            match item.get_ref().as_table() {
                Some(table) => tables.push((item.span(), table)),
                None => self.add(item.span(), key, format!("holds a value of type {}", item.get_ref().type_str())),
            }
        }
        tables
    }

    /// All problems in the order of the file, or nothing when there are none.
    pub(super) fn finish(mut self) -> Result<(), Fault> {
        if self.problems.is_empty() {
            return Ok(());
        }
        self.problems.sort_by_key(|(line, _)| *line);
        Err(Fault::invalid(self.problems.into_iter().map(|(_, problem)| problem).collect()))
    }
}

/// One table of the file. Every reading method answers `None` after it has noted what is wrong.
pub(super) struct Fields<'r, 't, 'd> {
    report: &'r mut Report<'t>,
    table: &'d DeTable<'t>,
    at: Range<usize>,
    asked: Vec<&'static str>,
}

impl<'r, 't, 'd> Fields<'r, 't, 'd> {
    /// The table that starts at `at`.
    pub(super) fn new(report: &'r mut Report<'t>, (at, table): (Range<usize>, &'d DeTable<'t>)) -> Self {
        Self { report, table, at, asked: Vec::new() }
    }

    /// Notes a problem with a field of this table, or with the table where the field is missing.
    pub(super) fn add(&mut self, key: &str, problem: impl Into<String>) {
        let at = self.table.get(key).map_or_else(|| self.at.clone(), |value| value.span());
        self.report.add(at, key, problem);
    }

    /// Whether the table has the key.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    fn value(&mut self, key: &'static str) -> Option<&'d DeValue<'t>> {
        self.asked.push(key);
        let value = self.table.get(key).map(|value| value.get_ref());
        if value.is_none() {
            self.add(key, "is missing");
        }
        value
    }

    /// A text that `rule` accepts; `rule` says in words what it wants instead.
    pub(super) fn text<T, E: ToString>(
        &mut self,
        key: &'static str,
        rule: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let value = self.value(key)?;
        match value.as_str().map(rule) {
            Some(Ok(read)) => return Some(read),
            Some(Err(problem)) => self.add(key, problem.to_string()),
            None => self.add(key, format!("is of type {}, not a text", value.type_str())),
        }
        None
    }

    /// A whole number of at least 1.
    pub(super) fn count(&mut self, key: &'static str) -> Option<u64> {
        let value = self.value(key)?;
        let read = value.as_integer().and_then(|n| u64::from_str_radix(n.as_str(), n.radix()).ok());
        if let Some(read @ 1..) = read {
            return Some(read);
        }
        self.add(key, "is not a whole number of at least 1");
        None
    }

    /// A list of at least one text, each accepted by `rule`.
    pub(super) fn texts<T, E: ToString>(
        &mut self,
        key: &'static str,
        rule: impl Fn(&str) -> Result<T, E>,
    ) -> Option<Vec<T>> {
        let value = self.value(key)?;
        let Some(items) = value.as_array().filter(|items| !items.is_empty()) else {
            self.add(key, "is not a list with at least one text");
            return None;
        };
        let mut read = Vec::with_capacity(items.len());
        for item in items {
            match item.get_ref().as_str().map(&rule) {
                Some(Ok(text)) => read.push(text),
                Some(Err(problem)) => self.report.add(item.span(), key, problem.to_string()),
                None => {
                    self.report.add(item.span(), key, format!("holds a value of type {}", item.get_ref().type_str()))
                }
            }
        }
        (read.len() == items.len()).then_some(read)
    }

    /// A table inside this one.
    pub(super) fn table(&mut self, key: &'static str) -> Option<Fields<'_, 't, 'd>> {
        let value = self.value(key)?;
        let Some(table) = value.as_table() else {
            self.add(key, format!("is of type {}, not a table", value.type_str()));
            return None;
        };
        let at = self.table.get(key).map_or_else(|| self.at.clone(), |value| value.span());
        Some(Fields::new(self.report, (at, table)))
    }

    /// A list of tables inside this one, each read by `row`; `None` when one of them is wrong.
    pub(super) fn rows<T>(
        &mut self,
        key: &'static str,
        mut row: impl FnMut(&mut Fields<'_, 't, 'd>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let value = self.value(key)?;
        let tables = self.report.tables(self.at.clone(), key, value);
        let mut read = Vec::with_capacity(tables.len());
        let expected = tables.len();
        for table in tables {
            let mut fields = Fields::new(self.report, table);
            read.extend(row(&mut fields));
            fields.no_others();
        }
        (read.len() == expected && expected > 0).then_some(read)
    }

    /// Notes every key of the table that was not asked for.
    pub(super) fn no_others(&mut self) {
        self.report.only(self.table, &self.asked);
    }
}

/// Any text that is not empty.
pub(super) fn not_empty(text: &str) -> Result<String, &'static str> {
    if text.trim().is_empty() { Err("is empty") } else { Ok(text.to_owned()) }
}

/// 64 hexadecimal digits in lower case.
pub(super) fn sha256(text: &str) -> Result<String, &'static str> {
    let hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    if text.len() == 64 && text.chars().all(hex) { Ok(text.to_owned()) } else { Err("is not 64 lower-case hex digits") }
}

/// A name that may stand in a path and in a command line: it cannot be an option, a folder or a way out of one.
pub(super) fn plain_name(text: &str) -> Result<String, &'static str> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._+-".contains(c);
    if text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(fits) {
        Ok(text.to_owned())
    } else {
        Err("is not made of letters, digits and `.`, `_`, `+`, `-`, a letter or digit first")
    }
}

/// Plain names joined by `/`.
pub(super) fn plain_path(text: &str) -> Result<String, &'static str> {
    if text.split('/').all(|segment| plain_name(segment).is_ok()) {
        Ok(text.to_owned())
    } else {
        Err("is not a relative path of letters, digits and `.`, `_`, `+`, `-`, each step a letter or digit first")
    }
}

/// The name of a package, with `@scope/` before it where it has one.
pub(super) fn package_name(text: &str) -> Result<String, &'static str> {
    text.strip_prefix('@').map_or_else(|| plain_name(text), plain_path).map(|_| text.to_owned())
}
