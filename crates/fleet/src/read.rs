//! From text to [`Fleet`]: TOML with places, held against the schema, every problem collected.

use serde_json::{Map, Number, Value};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::finding::{Finding, Path, Report, Severity, Span, suggest};
use crate::model::Fleet;
use crate::schema::SCHEMA;

/// A fleet file as read: what could be understood, where it stood, and what could not.
#[derive(Debug, Clone)]
pub struct Document {
    pub(crate) fleet: Fleet,
    pub(crate) report: Report,
}

impl Document {
    /// Reads the text of a fleet file. Never fails: what is wrong becomes a finding, what is right is kept, so that
    /// one run shows problems of every kind.
    ///
    /// `file` is the name that findings give.
    pub fn read(file: &str, text: &str) -> Self {
        let (root, errors) = DeTable::parse_recoverable(text);
        let report = Report { file: file.to_owned(), text: text.to_owned(), ..Report::default() };
        let mut reader = Reader { report };
        for error in &errors {
            reader.syntax(error);
        }
        let values = reader.table(root.get_ref(), &SCHEMA, &Path::default());
        let fleet = serde_json::from_value(Value::Object(values)).unwrap_or_else(|error| {
            reader.report.error("unreadable", &Path::default(), error.to_string(), "correct the value");
            Fleet::default()
        });
        Self { fleet, report: reader.report }
    }

    /// The fleet as far as it could be read.
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// What the file means, as JSON: every shorthand and default written out. Equal for files that mean the same.
    pub fn meaning(&self) -> Value {
        serde_json::to_value(self.fleet.canonical()).expect("plain data whose maps have text keys is JSON")
    }

    /// What was found while reading: syntax, unknown keys, values of a wrong kind or out of range.
    pub fn findings(&self) -> &[Finding] {
        &self.report.findings
    }
}

impl From<Fleet> for Document {
    /// A fleet made by a program; its findings name keys and have no place in a text.
    fn from(fleet: Fleet) -> Self {
        Self { fleet, report: Report { file: "fleet".into(), ..Report::default() } }
    }
}

struct Reader {
    report: Report,
}

impl Reader {
    fn syntax(&mut self, error: &toml::de::Error) {
        let (code, fix) = match error.message() {
            "duplicate key" => ("duplicate-key", "keep one of them: a key or a name is given once"),
            _ => ("toml-syntax", "correct the TOML; names with `/` or `.` need quotes: [group.\"node/group\"]"),
        };
        self.report.findings.push(Finding {
            severity: Severity::Error,
            code,
            message: error.message().to_owned(),
            fix: fix.into(),
            file: self.report.file.clone(),
            key: String::new(),
            span: error.span().map(|range| Span::new(&self.report.text, range)),
        });
    }

    /// The value as JSON when it fits the schema; parts that do not fit are reported and left out.
    fn value(&mut self, value: &Spanned<DeValue<'_>>, schema: &Value, at: &Path) -> Option<Value> {
        if *schema == Value::Bool(true) {
            return self.free(value, at);
        }
        let options = options(schema);
        let of = |kind: &str| options.iter().copied().find(|o| is_kind(o, kind));
        match value.get_ref() {
            DeValue::Table(table) => {
                let Some(schema) = of("object") else { return self.wrong_kind("a table", &options, at) };
                Some(Value::Object(self.table(table, schema, at)))
            }
            DeValue::Array(items) => {
                let Some(schema) = of("array") else { return self.wrong_kind("a list", &options, at) };
                let mut list = Vec::new();
                for item in items {
                    // Places are kept under the index the item has after those before it were left out.
                    let at = at.index(list.len());
                    self.report.spans.insert(at.clone(), item.span());
                    list.extend(self.value(item, &schema["items"], &at));
                }
                Some(Value::Array(list))
            }
            DeValue::String(text) => {
                let text = text.as_ref();
                let known: Vec<&str> = options.iter().flat_map(|o| words(o)).collect();
                let free = options.iter().any(|o| is_kind(o, "string") && words(o).next().is_none());
                if free || known.contains(&text) {
                    return Some(Value::String(text.to_owned()));
                }
                if known.is_empty() {
                    return self.wrong_kind("text", &options, at);
                }
                let fix = suggest(text, known, format!("write {}", expected(&options)));
                self.report.error("bad-value", at, format!("{text:?} is not possible here"), fix);
                None
            }
            DeValue::Integer(number) => {
                let Some(schema) = of("integer").or_else(|| of("number")) else {
                    return self.wrong_kind("a number", &options, at);
                };
                let parsed = i64::from_str_radix(number.as_str(), number.radix()).ok();
                let fits = parsed.filter(|n| in_range(*n as f64, schema));
                if fits.is_none() {
                    self.out_of_range(number, schema, at);
                }
                fits.map(Value::from)
            }
            DeValue::Float(number) => {
                let Some(schema) = of("number") else { return self.wrong_kind("a number with a point", &options, at) };
                let parsed = number.as_str().parse().ok().filter(|n| in_range(*n, schema)).and_then(Number::from_f64);
                if parsed.is_none() {
                    self.out_of_range(number, schema, at);
                }
                parsed.map(Value::Number)
            }
            DeValue::Boolean(yes) => {
                if of("boolean").is_none() {
                    return self.wrong_kind("true or false", &options, at);
                }
                Some(Value::Bool(*yes))
            }
            DeValue::Datetime(_) => self.wrong_kind("a date", &options, at),
        }
    }

    fn table(&mut self, table: &DeTable<'_>, schema: &Value, at: &Path) -> Map<String, Value> {
        let pattern = schema["patternProperties"].as_object().and_then(|p| p.values().next());
        let mut out = Map::new();
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            let at = at.key(name);
            // What a header stands for is the key in it; what is written after `=` stands for itself.
            let range = if value.get_ref().is_table() { key.span() } else { value.span() };
            self.report.spans.insert(at.clone(), range);
            let known = schema["properties"].get(name).or(pattern).or(match &schema["additionalProperties"] {
                open @ (Value::Object(_) | Value::Bool(true)) => Some(open),
                _ => None,
            });
            match known {
                Some(schema) => out.extend(self.value(value, schema, &at).map(|v| (name.to_owned(), v))),
                None => self.unknown_key(key, schema, at),
            }
        }
        for key in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !table.contains_key(key) {
                let at = at.key(key);
                let expected = expected(&options(&schema["properties"][key]));
                self.report.error("missing-key", &at, format!("`{at}` is missing"), format!("add it: {expected}"));
            }
        }
        out
    }

    /// A value that the format says nothing about, as JSON; a date becomes its text.
    fn free(&mut self, value: &Spanned<DeValue<'_>>, at: &Path) -> Option<Value> {
        let mut number = |text: &str, read: Option<Value>| {
            if read.is_none() {
                self.report.error("out-of-range", at, format!("`{at}` cannot be {text}"), "write a smaller number");
            }
            read
        };
        match value.get_ref() {
            DeValue::Table(table) => {
                let open = serde_json::json!({ "additionalProperties": true });
                Some(Value::Object(self.table(table, &open, at)))
            }
            DeValue::Array(items) => {
                let item = |(i, item): (usize, &Spanned<DeValue<'_>>)| self.free(item, &at.index(i));
                items.iter().enumerate().map(item).collect()
            }
            DeValue::String(text) => Some(Value::String(text.to_string())),
            DeValue::Integer(n) => number(n.as_str(), i64::from_str_radix(n.as_str(), n.radix()).ok().map(Value::from)),
            DeValue::Float(n) => {
                let parsed = n.as_str().parse().ok().and_then(Number::from_f64);
                number(n.as_str(), parsed.map(Value::Number))
            }
            DeValue::Boolean(yes) => Some(Value::Bool(*yes)),
            DeValue::Datetime(date) => Some(Value::String(date.to_string())),
        }
    }

    fn unknown_key(&mut self, key: &Spanned<impl AsRef<str>>, schema: &Value, at: Path) {
        self.report.spans.insert(at.clone(), key.span());
        let name = key.get_ref().as_ref();
        let known: Vec<&str> =
            schema["properties"].as_object().into_iter().flatten().map(|(k, _)| k.as_str()).collect();
        let dotted = self.report.text.get(..key.span().start).is_some_and(|before| before.trim_end().ends_with('.'));
        let otherwise = match dotted {
            true => "if the dot belongs to the name, put the name in quotes".to_owned(),
            false => format!("remove it; known here: {}", known.join(", ")),
        };
        let fix = suggest(name, known, otherwise);
        self.report.error("unknown-key", &at, format!("`{name}` is not a key of the fleet file here"), fix);
    }

    fn wrong_kind<T>(&mut self, found: &str, options: &[&Value], at: &Path) -> Option<T> {
        let message = format!("`{at}` is {found}");
        self.report.error("wrong-type", at, message, format!("write {}", expected(options)));
        None
    }

    fn out_of_range(&mut self, found: &impl std::fmt::Display, schema: &Value, at: &Path) {
        let fix = format!("write {}", expected(&[schema]));
        self.report.error("out-of-range", at, format!("`{at}` cannot be {found}"), fix);
    }
}

/// The alternatives of a schema, nested ones included.
fn options(schema: &Value) -> Vec<&Value> {
    match schema.get("anyOf").or_else(|| schema.get("oneOf")).and_then(Value::as_array) {
        Some(list) => list.iter().flat_map(options).collect(),
        None => vec![schema],
    }
}

fn is_kind(schema: &Value, kind: &str) -> bool {
    match &schema["type"] {
        Value::String(one) => one == kind,
        Value::Array(many) => many.iter().any(|k| k == kind),
        _ => false,
    }
}

/// The words a schema allows; none when any text will do.
fn words(schema: &Value) -> impl Iterator<Item = &str> {
    schema["enum"].as_array().into_iter().flatten().chain(schema.get("const")).filter_map(Value::as_str)
}

fn in_range(number: f64, schema: &Value) -> bool {
    let bound = |key: &str| schema[key].as_f64();
    bound("minimum").is_none_or(|min| number >= min) && bound("maximum").is_none_or(|max| number <= max)
}

/// What the alternatives allow, in words.
fn expected(options: &[&Value]) -> String {
    let one = |schema: &Value| -> String {
        let kind = match schema["type"].as_str() {
            Some("integer") => "a whole number",
            Some("number") => "a number",
            Some("boolean") => "true or false",
            Some("array") => "a list",
            Some("object") => "a table",
            _ => "text in quotes",
        };
        let words: Vec<String> = words(schema).map(|w| format!("{w:?}")).collect();
        match (words.is_empty(), &schema["minimum"], &schema["maximum"]) {
            (false, ..) => words.join(" or "),
            (true, Value::Null, _) => kind.to_owned(),
            (true, min, Value::Null) => format!("{kind} from {min}"),
            (true, min, max) if min == max => min.to_string(),
            (true, min, max) => format!("{kind} from {min} to {max}"),
        }
    };
    options.iter().map(|o| one(o)).collect::<Vec<_>>().join(" or ")
}
