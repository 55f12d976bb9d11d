//! Finds what a PromQL query asks for.

/// A metric in a query.
#[derive(Debug, PartialEq)]
pub struct Selector {
    pub metric: String,
    /// Labels and the values, or the alternatives, that they are compared with.
    pub labels: Vec<(String, String)>,
    /// The labels by which the query groups.
    pub by: Vec<String>,
}

/// The metrics that a query names. What it groups by must be a label of at least one of them, so a query
/// should not group metrics with different labels in one expression.
pub fn selectors(query: &str) -> Vec<Selector> {
    let mut found: Vec<Selector> = Vec::new();
    let mut by = Vec::new();
    let mut rest = query;
    while let Some(start) = rest.find(|c: char| c.is_ascii_alphabetic() || c == '_' || c == '"' || c == '$') {
        rest = &rest[start..];
        if let Some(quoted) = rest.strip_prefix('"') {
            rest = &quoted[quoted.find('"').expect("a quotation that ends") + 1..];
            continue;
        }
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "_$:".contains(c))).unwrap_or(rest.len());
        let word;
        (word, rest) = rest.split_at(end);
        if word == "by" {
            let (labels, behind) = rest.trim_start()[1..].split_once(')').expect("labels to group by");
            by = labels.split(',').map(|label| label.trim().to_owned()).collect();
            rest = behind;
        } else if word == "up" || word.starts_with("srs_proxy_") || word.starts_with("process_") {
            let mut labels = Vec::new();
            if let Some(inner) = rest.strip_prefix('{') {
                let (inner, behind) = inner.split_once('}').expect("labels that end");
                rest = behind;
                for matcher in inner.split_inclusive("\",") {
                    // One of =, !=, =~ and !~ stands between them.
                    let (label, value) = matcher.split_once('"').expect("a value");
                    let value = value.trim_end_matches(',').trim_end_matches('"');
                    labels.push((label.trim_end_matches(['=', '!', '~']).to_owned(), value.to_owned()));
                }
            }
            found.push(Selector { metric: word.to_owned(), labels, by: by.clone() });
        }
    }
    found
}
