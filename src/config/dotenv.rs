//! The `.env` file, read as the Go proxy reads it. The dotenv crates expand `$` in values, which
//! would break tokens and passwords that hold one.

use std::collections::BTreeMap;

/// The settings in the text of a `.env` file.
///
/// `NAME=VALUE` a line, split at the first `=`, both trimmed; lines that begin with `#` and lines
/// without a `=` say nothing. Values stand for themselves: `$`, `#` and spaces are not special. An
/// `export` before the name and one pair of quotes around the value are taken off. Of two lines
/// with one name the first that is not empty counts.
pub fn parse(text: &str) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::new();
    for line in text.trim_start_matches('\u{feff}').lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        let Some((name, value)) = line.split_once('=') else { continue };
        let name = name.trim();
        let name = name.strip_prefix("export").filter(|rest| rest.starts_with([' ', '\t'])).unwrap_or(name).trim();
        if !name.is_empty() {
            let setting: &mut String = settings.entry(name.to_owned()).or_default();
            if setting.is_empty() {
                unquoted(value.trim()).clone_into(setting);
            }
        }
    }
    settings
}

fn unquoted(value: &str) -> &str {
    ['"', '\'']
        .into_iter()
        .find_map(|quote| value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote)))
        .unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_the_go_proxy_reads_them() {
        for (text, settings) in [
            ("A=1\nB=2", &[("A", "1"), ("B", "2")][..]),
            ("A=1\r\nB=2\r\n", &[("A", "1"), ("B", "2")]),
            ("  A =  1  ", &[("A", "1")]),
            ("# A=1\n  #B=2\nC=3", &[("C", "3")]),
            ("A=b=c", &[("A", "b=c")]),
            ("A=", &[("A", "")]),
            ("=1\nno equals sign\n\n", &[]),
            ("A=1\nA=2", &[("A", "1")]),
            ("A=\nA=2", &[("A", "2")]),
            // Nothing is special in a value.
            ("A=p$HOME ${x} `y` \\n", &[("A", "p$HOME ${x} `y` \\n")]),
            ("A=b # c", &[("A", "b # c")]),
            // What other programs write into such files.
            ("export A=1", &[("A", "1")]),
            ("exported=1", &[("exported", "1")]),
            ("A=\"b c\"\nB='d'", &[("A", "b c"), ("B", "d")]),
            ("A=\"\"b\"\"", &[("A", "\"b\"")]),
            ("A=\"b'\nB=\"", &[("A", "\"b'"), ("B", "\"")]),
            ("\u{feff}A=1", &[("A", "1")]),
        ] {
            let expected: BTreeMap<_, _> = settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            assert_eq!(parse(text), expected, "{text:?}");
        }
    }
}
