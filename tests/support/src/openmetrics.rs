//! Reads the text format of OpenMetrics 1.0, as strictly as its specification is written, where it is
//! not more: what no metric of ours has, such as exemplars and timestamps, is refused.

use std::collections::{BTreeMap, BTreeSet};

pub type Labels = BTreeMap<String, String>;

/// What came of a scrape.
#[derive(Debug)]
pub struct Scrape {
    pub families: Vec<Family>,
}

/// Metrics of one name.
#[derive(Debug, Default)]
pub struct Family {
    pub name: String,
    pub kind: String,
    pub unit: Option<String>,
    pub help: String,
    pub samples: Vec<Sample>,
}

/// One line.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: Labels,
    pub value: f64,
}

impl Scrape {
    /// Reads an answer; says what is wrong with it and where.
    pub fn parse(text: &str) -> Result<Self, String> {
        let body = text.strip_suffix("# EOF\n").ok_or("the end is not marked")?;
        if !body.is_empty() && !body.ends_with('\n') {
            return Err("the end is not on a line of its own".into());
        }
        let mut families: Vec<Family> = Vec::new();
        for line in body.split_terminator('\n') {
            read_line(line, &mut families).map_err(|error| format!("{error}: {line:?}"))?;
        }
        let mut names = BTreeSet::new();
        for family in &families {
            check(family).map_err(|error| format!("{}: {error}", family.name))?;
            for sample in &family.samples {
                if !names.insert((sample.name.clone(), sample.labels.clone())) {
                    return Err(format!("twice: {sample:?}"));
                }
            }
        }
        Ok(Self { families })
    }

    /// Reads an answer that must be right.
    pub fn read(text: &str) -> Self {
        Self::parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
    }

    /// The value of a series.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let wanted: Labels = labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let found = self.samples().find(|sample| sample.name == name && sample.labels == wanted);
        found.unwrap_or_else(|| panic!("no series {name} {labels:?}")).value
    }

    /// The sum of all series of a name that have these labels among theirs.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        assert!(self.samples().any(|sample| sample.name == name), "no series {name}");
        let has = |sample: &Sample| labels.iter().all(|(k, v)| sample.labels.get(*k).is_some_and(|value| value == v));
        self.samples().filter(|sample| sample.name == name && has(sample)).map(|sample| sample.value).sum()
    }

    pub fn samples(&self) -> impl Iterator<Item = &Sample> {
        self.families.iter().flat_map(|family| &family.samples)
    }

    /// The names and labels of all series.
    pub fn series(&self) -> BTreeSet<(String, Labels)> {
        self.samples().map(|sample| (sample.name.clone(), sample.labels.clone())).collect()
    }

    /// What a query can name: every sample.
    pub fn names(&self) -> BTreeSet<String> {
        self.samples().map(|sample| sample.name.clone()).collect()
    }

    /// The series that went back since `before` although they count.
    pub fn went_back(&self, before: &Self) -> Vec<String> {
        let counts = |family: &&Family| family.kind == "counter" || family.kind == "histogram";
        let old: BTreeMap<_, _> = before
            .families
            .iter()
            .filter(counts)
            .flat_map(|family| &family.samples)
            .map(|sample| ((&sample.name, &sample.labels), sample.value))
            .collect();
        let samples = self.families.iter().filter(counts).flat_map(|family| &family.samples);
        samples
            .filter_map(|sample| {
                let before = *old.get(&(&sample.name, &sample.labels))?;
                (sample.value < before).then(|| format!("{before} -> {sample:?}"))
            })
            .collect()
    }
}

fn read_line(line: &str, families: &mut Vec<Family>) -> Result<(), String> {
    if line.is_empty() || line.contains('\r') || line != line.trim() {
        return Err("a line that is empty, or has space at its ends".into());
    }
    let Some(metadata) = line.strip_prefix("# ") else {
        if line.starts_with('#') {
            return Err("a comment".into());
        }
        let family = families.last_mut().ok_or("a sample before any family")?;
        let sample = read_sample(line)?;
        let suffixes: &[&str] = match family.kind.as_str() {
            "counter" => &["_total"],
            "gauge" => &[""],
            "histogram" => &["_bucket", "_sum", "_count"],
            "info" => &["_info"],
            kind => return Err(format!("a sample of a family whose type is {kind:?}")),
        };
        if !suffixes.iter().any(|suffix| sample.name.strip_suffix(suffix) == Some(&family.name)) {
            return Err(format!("a sample that is not of family {} ({})", family.name, family.kind));
        }
        family.samples.push(sample);
        return Ok(());
    };
    let mut parts = metadata.splitn(3, ' ');
    let (Some(what), Some(name), Some(value)) = (parts.next(), parts.next(), parts.next()) else {
        return Err("metadata that is cut off".into());
    };
    if !is_name(name, true) {
        return Err("a name that is none".into());
    }
    if families.last().is_none_or(|family| family.name != name) {
        if families.iter().any(|family| family.name == name) {
            return Err("a family that comes in two parts".into());
        }
        families.push(Family { name: name.into(), ..Family::default() });
    }
    let family = families.last_mut().ok_or("no family")?;
    if !family.samples.is_empty() {
        return Err("metadata behind samples".into());
    }
    let was_there = match what {
        "HELP" => !std::mem::replace(&mut family.help, unescape(value, false)?).is_empty(),
        "TYPE" => !std::mem::replace(&mut family.kind, value.into()).is_empty(),
        "UNIT" => family.unit.replace(value.into()).is_some(),
        _ => return Err("metadata of an unknown kind".into()),
    };
    if was_there { Err("metadata twice".into()) } else { Ok(()) }
}

fn check(family: &Family) -> Result<(), String> {
    if family.help.is_empty() || !family.help.ends_with('.') || family.kind.is_empty() {
        return Err("no help, or no type".into());
    }
    if let Some(unit) = &family.unit {
        if !family.name.ends_with(&format!("_{unit}")) {
            return Err("the name does not end in the unit".into());
        }
        if family.kind == "info" {
            return Err("an information has no unit".into());
        }
    }
    for suffix in ["_total", "_count", "_sum", "_bucket", "_info", "_created"] {
        if family.name.ends_with(suffix) {
            return Err("the name ends as the name of a sample does".into());
        }
    }
    for sample in &family.samples {
        let Sample { value, labels, .. } = sample;
        let keys: BTreeSet<_> = labels.keys().filter(|key| *key != "le").collect();
        let first: BTreeSet<_> = family.samples[0].labels.keys().filter(|key| *key != "le").collect();
        if keys != first {
            return Err(format!("labels that others do not have: {sample:?}"));
        }
        if family.kind != "gauge" && !(value.is_finite() && *value >= 0.0) {
            return Err(format!("no count: {sample:?}"));
        }
        if family.kind == "info" && *value != 1.0 {
            return Err(format!("an information that is not 1: {sample:?}"));
        }
        if labels.contains_key("le") != sample.name.ends_with("_bucket") {
            return Err(format!("a bucket without a bound, or the other way round: {sample:?}"));
        }
    }
    if family.kind == "histogram" { check_histogram(family) } else { Ok(()) }
}

fn check_histogram(family: &Family) -> Result<(), String> {
    let mut points: BTreeMap<Labels, Vec<&Sample>> = BTreeMap::new();
    let mut last = None;
    for sample in &family.samples {
        let mut labels = sample.labels.clone();
        labels.remove("le");
        if last.as_ref() != Some(&labels) && points.contains_key(&labels) {
            return Err(format!("a histogram that comes in two parts: {sample:?}"));
        }
        last = Some(labels.clone());
        points.entry(labels).or_default().push(sample);
    }
    for (labels, samples) in points {
        let one = |suffix: &str| {
            let mut found = samples.iter().filter(|sample| sample.name.ends_with(suffix));
            match (found.next(), found.next()) {
                (Some(only), None) => Ok(only.value),
                _ => Err(format!("not one {suffix}: {labels:?}")),
            }
        };
        let (sum, count) = (one("_sum")?, one("_count")?);
        let buckets: Vec<_> = samples.iter().filter(|sample| sample.name.ends_with("_bucket")).collect();
        let bounds = buckets.iter().map(|sample| number(&sample.labels["le"])).collect::<Result<Vec<_>, _>>()?;
        if !bounds.is_sorted_by(|a, b| a < b) || bounds.last() != Some(&f64::INFINITY) {
            return Err(format!("bounds that do not rise to +Inf: {labels:?}"));
        }
        if !buckets.is_sorted_by(|a, b| a.value <= b.value) || buckets.last().is_none_or(|last| last.value != count) {
            return Err(format!("buckets that do not rise to the count: {labels:?}"));
        }
        if count == 0.0 && sum != 0.0 {
            return Err(format!("a sum of nothing: {labels:?}"));
        }
    }
    Ok(())
}

fn read_sample(line: &str) -> Result<Sample, String> {
    let end = line.find(['{', ' ']).ok_or("no value")?;
    let (name, mut rest) = line.split_at(end);
    if !is_name(name, true) {
        return Err("a name that is none".into());
    }
    let mut labels = Labels::new();
    if let Some(mut inner) = rest.strip_prefix('{') {
        loop {
            let (key, value) = inner.split_once("=\"").ok_or("a label without a value")?;
            if !is_name(key, false) || key.starts_with("__") {
                return Err(format!("{key:?} is no name of a label"));
            }
            let mut escaped = false;
            let end = value.find(|c| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            });
            let (value, behind) = value.split_at(end.ok_or("a value without an end")?);
            if labels.insert(key.into(), unescape(value, true)?).is_some() {
                return Err(format!("label {key:?} twice"));
            }
            let behind = &behind[1..];
            if let Some(next) = behind.strip_prefix(',') {
                inner = next;
                continue;
            }
            rest = behind.strip_prefix('}').ok_or("labels without an end")?;
            break;
        }
    }
    let value = rest.strip_prefix(' ').ok_or("no space before the value")?;
    Ok(Sample { name: name.into(), labels, value: number(value)? })
}

fn number(text: &str) -> Result<f64, String> {
    let plain = !text.is_empty() && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'));
    match text {
        "+Inf" => Ok(f64::INFINITY),
        "-Inf" => Ok(f64::NEG_INFINITY),
        "NaN" => Ok(f64::NAN),
        _ if plain => text.parse().map_err(|_| format!("{text:?} is no number")),
        _ => Err(format!("{text:?} is no number")),
    }
}

fn is_name(name: &str, colon: bool) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || (colon && c == ':');
    !name.is_empty() && name.chars().all(allowed) && !name.starts_with(|c: char| c.is_ascii_digit())
}

fn unescape(text: &str, quoted: bool) -> Result<String, String> {
    let mut plain = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        plain.push(match c {
            '\\' => match chars.next() {
                Some('n') => '\n',
                Some('\\') => '\\',
                Some('"') if quoted => '"',
                _ => return Err(format!("an escape that is none in {text:?}")),
            },
            '"' if quoted => return Err(format!("a quotation mark in {text:?}")),
            c => c,
        });
    }
    Ok(plain)
}
