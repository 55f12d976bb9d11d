//! The table of settings as a `.env` file with every line commented out: `deploy/srs-proxy.env`.

use std::fmt::Write;

use super::keys::{self, Spec};

/// Where a line of help is broken.
const WIDTH: usize = 98;

const HEAD: &str = "\
# Every setting of srs-proxy with its default. Made by: srs-proxy --print-env
#
# Take a line in by removing its #, and use the file as .env in the working directory, as
# EnvironmentFile= of a systemd unit, or with docker run --env-file. Each setting is a command-line
# flag as well: --rtmp-server for PROXY_RTMP_SERVER. A flag counts before the environment, the
# environment before .env, .env before the default. An empty value counts as unset.
";

/// The file's text.
pub fn render() -> String {
    let mut file = HEAD.to_owned();
    let mut group = "";
    for key in keys::ALL {
        if key.group != group {
            group = key.group;
            // Writing to a String cannot fail.
            let _ = write!(file, "\n# ---- {group} ----\n");
        }
        section(&mut file, key);
    }
    file
}

fn section(file: &mut String, key: &Spec) {
    file.push('\n');
    for line in wrap(key.help, WIDTH).iter().chain(&wrap(&format!("Allowed: {}.", key.allowed), WIDTH)) {
        let _ = writeln!(file, "# {line}");
    }
    let _ = writeln!(file, "#{}={}", key.name, key.default);
}

/// Breaks a paragraph into lines of at most `width` bytes, where its words allow.
pub(super) fn wrap(paragraph: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in paragraph.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_holds_the_table_and_nothing_else() {
        let file = render();
        let settings: Vec<_> = file
            .lines()
            .filter_map(|line| line.strip_prefix('#').filter(|line| line.starts_with(keys::PREFIX))?.split_once('='))
            .collect();
        let table: Vec<_> = keys::ALL.iter().map(|key| (key.name, key.default)).collect();
        assert_eq!(settings, table);
        assert!(file.lines().all(|line| line.is_empty() || line.starts_with('#')));
        assert!(file.lines().all(|line| line.len() <= 100));
    }

    #[test]
    fn a_paragraph_is_broken_between_words_only() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("incomprehensible word", 4), ["incomprehensible", "word"]);
        assert!(wrap(" ", 4).is_empty());
    }
}
