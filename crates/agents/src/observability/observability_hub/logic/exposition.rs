//! Reads a page of metrics in the Prometheus text format, version 0.0.4
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>, "Text format details").

use std::collections::BTreeMap;

/// One line of the page.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
}

/// Why a page is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the metrics page: {problem}")]
pub(crate) struct Malformed {
    pub(crate) line: usize,
    pub(crate) problem: &'static str,
}

/// The values on a page. Time stamps are read over: what counts is when the page was fetched. Buckets of histograms are
/// left out, because a mean over time says nothing about them; their sums and counts are there.
pub(crate) fn read(page: &str) -> Result<Vec<Line>, Malformed> {
    let mut lines = Vec::new();
    let mut histograms: Vec<&str> = Vec::new();
    for (number, text) in page.lines().enumerate() {
        let text = text.trim_matches([' ', '\t', '\r']);
        if let Some(comment) = text.strip_prefix('#') {
            let mut words = comment.split_ascii_whitespace();
            if let (Some("TYPE"), Some(name), Some("histogram")) = (words.next(), words.next(), words.next()) {
                histograms.push(name);
            }
            continue;
        }
        if text.is_empty() {
            continue;
        }
        let line = Cursor { rest: text }.line().map_err(|problem| Malformed { line: number + 1, problem })?;
        let bucket = line.name.strip_suffix("_bucket").is_some_and(|base| histograms.contains(&base));
        if !bucket {
            lines.push(line);
        }
    }
    Ok(lines)
}

/// A line of a page in its parts: name, labels, and the value with what follows it as it stands there. None when it is
/// no line of values.
pub(super) fn parts(text: &str) -> Option<(&str, BTreeMap<String, String>, &str)> {
    let mut cursor = Cursor { rest: text };
    let (name, labels) = cursor.head().ok()?;
    let value = cursor.rest.split_ascii_whitespace().next()?;
    number(value).map(|_| (name, labels, cursor.rest))
}

struct Cursor<'a> {
    rest: &'a str,
}

impl<'a> Cursor<'a> {
    /// What stands before the value: name and labels.
    fn head(&mut self) -> Result<(&'a str, BTreeMap<String, String>), &'static str> {
        let name = self.word(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':').ok_or("there is no metric name")?;
        let labels = if self.take('{') { self.labels()? } else { BTreeMap::new() };
        Ok((name, labels))
    }

    fn line(mut self) -> Result<Line, &'static str> {
        let (name, labels) = self.head()?;
        let mut words = self.rest.split_ascii_whitespace();
        let value = words.next().ok_or("there is no value")?;
        let value = number(value).ok_or("the value is no number")?;
        if words.next().is_some_and(|time| time.parse::<i64>().is_err()) || words.next().is_some() {
            return Err("something other than a time stamp follows the value");
        }
        Ok(Line { name: name.to_owned(), labels, value })
    }

    fn labels(&mut self) -> Result<BTreeMap<String, String>, &'static str> {
        let mut labels = BTreeMap::new();
        loop {
            if self.take('}') {
                return Ok(labels);
            }
            let name = self.word(|c| c.is_ascii_alphanumeric() || c == '_').ok_or("there is no label name")?;
            // Blanks after the quote belong to the value.
            let value = self.take('=').then(|| self.rest.strip_prefix('"')).flatten();
            self.rest = value.ok_or("a label name is not followed by =\"")?;
            if labels.insert(name.to_owned(), self.quoted()?).is_some() {
                return Err("a label is there twice");
            }
            if !self.take(',') && !self.rest.starts_with('}') {
                return Err("labels are not separated by a comma");
            }
        }
    }

    /// The rest of a quoted text, its end included.
    fn quoted(&mut self) -> Result<String, &'static str> {
        let mut text = String::new();
        let mut chars = self.rest.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.rest = self.rest[at + 1..].trim_start_matches([' ', '\t']);
                    return Ok(text);
                }
                '\\' => match chars.next() {
                    Some((_, 'n')) => text.push('\n'),
                    Some((_, c @ ('"' | '\\'))) => text.push(c),
                    _ => return Err("a backslash is followed by neither n, \" nor a backslash"),
                },
                c => text.push(c),
            }
        }
        Err("a label value has no end")
    }

    fn word(&mut self, of: impl Fn(char) -> bool) -> Option<&'a str> {
        let end = self.rest.find(|c| !of(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest.trim_start_matches([' ', '\t']);
        (!word.is_empty() && !word.starts_with(|c: char| c.is_ascii_digit())).then_some(word)
    }

    fn take(&mut self, c: char) -> bool {
        match self.rest.strip_prefix(c) {
            Some(rest) => {
                self.rest = rest.trim_start_matches([' ', '\t']);
                true
            }
            None => false,
        }
    }
}

/// Numbers as Go writes them.
fn number(text: &str) -> Option<f64> {
    let plain = text.trim_start_matches(['+', '-']);
    match plain {
        "Inf" | "NaN" => text.replace("Inf", "inf").parse().ok(),
        _ if plain.starts_with(|c: char| c.is_ascii_digit() || c == '.') => text.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(name: &str, labels: &[(&str, &str)], value: f64) -> Line {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Line { name: name.into(), labels, value }
    }

    #[test]
    fn a_page_with_everything_in_it() {
        let page = "# HELP http_requests_total Requests.\n# TYPE http_requests_total counter\n\
                    http_requests_total{method=\"post\",code=\"200\"} 1027 1395066363000\n\n\
                    metric_without_labels 12.47\n  spaced { a = \"b\" , } 1e-3\r\n\
                    text{path=\"C:\\\\DIR\\\\FILE.TXT\",error=\"no\\n\\\"file\\\"\"} -Inf\n\
                    # TYPE took_seconds histogram\ntook_seconds_bucket{le=\"0.1\"} 3\ntook_seconds_sum 0.5\n\
                    a_bucket 7\nbig +Inf\n";
        assert_eq!(
            read(page).unwrap(),
            [
                line("http_requests_total", &[("method", "post"), ("code", "200")], 1027.0),
                line("metric_without_labels", &[], 12.47),
                line("spaced", &[("a", "b")], 0.001),
                line("text", &[("path", "C:\\DIR\\FILE.TXT"), ("error", "no\n\"file\"")], f64::NEG_INFINITY),
                line("took_seconds_sum", &[], 0.5),
                line("a_bucket", &[], 7.0),
                line("big", &[], f64::INFINITY),
            ]
        );
        assert!(read("nothing NaN").unwrap()[0].value.is_nan());
    }

    #[test]
    fn what_is_malformed_is_named_with_its_line() {
        for (page, at) in [
            ("ok 1\nno_value", 2),
            ("a{b=\"c\" 1", 1),
            ("a{b=\"c} 1", 1),
            ("a{b=c} 1", 1),
            ("a{b=\"c\" d=\"e\"} 1", 1),
            ("a{b=\"\\t\"} 1", 1),
            ("a{b=\"1\",b=\"2\"} 1", 1),
            ("a 1 2 3", 1),
            ("a 1 soon", 1),
            ("a one", 1),
            ("a infinity", 1),
            ("9a 1", 1),
            ("{a=\"b\"} 1", 1),
            ("<html>", 1),
        ] {
            assert_eq!(read(page).map_err(|e| e.line), Err(at), "{page}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            name in "[a-zA-Z_:][a-zA-Z0-9_:]{0,20}",
            labels in proptest::collection::btree_map("[a-zA-Z_][a-zA-Z0-9_]{0,8}", any::<String>(), 0..5),
            value in any::<f64>().prop_filter("finite", |v| v.is_finite()),
        ) {
            let escaped = |v: &String| v.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let quoted: Vec<String> = labels.iter().map(|(k, v)| format!("{k}=\"{}\"", escaped(v))).collect();
            let page = format!("{name}{{{}}} {value}", quoted.join(","));
            // A lone carriage return at the end of a line is taken for a line end, so values with one are another matter.
            prop_assume!(!labels.values().any(|v| v.contains('\r')));
            prop_assert_eq!(read(&page).unwrap(), [Line { name, labels, value }]);
        }

        #[test]
        fn nothing_makes_it_panic(page in any::<String>()) {
            let _ = read(&page);
        }
    }
}
