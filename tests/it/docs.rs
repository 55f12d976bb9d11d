//! The documentation leads where it says: its links, the files and the settings that it names.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Component, Path, PathBuf},
};

use srs_proxy::config::keys;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All pages, by their path from the root.
fn pages() -> BTreeMap<PathBuf, String> {
    let mut pages = BTreeMap::new();
    let mut directories = vec![root().to_owned(), root().join("docs"), root().join("src/balancer/mesh")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && directory.starts_with(root().join("docs")) {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                let text = fs::read_to_string(&path).unwrap();
                pages.insert(path.strip_prefix(root()).unwrap().to_owned(), text);
            }
        }
    }
    assert!(pages.len() > 20, "{:?}", pages.keys());
    pages
}

/// The lines outside of code blocks.
fn prose(page: &str) -> impl Iterator<Item = &str> {
    let mut code = false;
    page.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        !code && !fence
    })
}

/// What a repository's web page calls the headings of a page.
fn anchors(page: &str) -> BTreeSet<String> {
    let heading = |line: &str| line.starts_with('#').then(|| line.trim_start_matches('#').trim().to_lowercase());
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    prose(page)
        .filter_map(heading)
        .map(|title| title.chars().filter(kept).collect::<String>().replace(' ', "-"))
        .collect()
}

/// `path` without `.` and `..`.
fn normal(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut normal, component| {
        match component {
            Component::ParentDir => drop(normal.pop()),
            Component::CurDir => {}
            other => normal.push(other),
        }
        normal
    })
}

#[test]
fn every_link_leads_to_a_file_and_a_heading_that_are_there() {
    let pages = pages();
    let mut links = 0;
    for (page, text) in &pages {
        for line in prose(text) {
            for (_, rest) in line.match_indices("](").map(|(at, found)| line.split_at(at + found.len())) {
                let target = rest.split([')', ' ']).next().unwrap();
                if target.contains("://") {
                    continue;
                }
                links += 1;
                let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
                let file = match file {
                    "" => page.clone(),
                    file => normal(&page.parent().unwrap().join(file)),
                };
                assert!(root().join(&file).exists(), "{}: {target} leads nowhere", page.display());
                let heading_is_there = || pages.get(&file).is_some_and(|text| anchors(text).contains(anchor));
                assert!(anchor.is_empty() || heading_is_there(), "{}: {target} has no such heading", page.display());
            }
        }
    }
    assert!(links > 60, "{links}");
}

#[test]
fn every_setting_that_is_named_exists() {
    for (page, text) in pages() {
        for (at, _) in text.match_indices("PROXY_") {
            let is_part = text[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
            let name: String = text[at..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            // `PROXY_REDIS_*` stands for several; `PROXY_1` for a host.
            let is_family = name.ends_with('_') || name.bytes().any(|b| b.is_ascii_digit());
            let exists = keys::ALL.iter().any(|key| key.name == name);
            assert!(is_part || is_family || exists, "{}: {name} is no setting", page.display());
        }
    }
}

#[test]
fn every_file_that_is_named_exists() {
    for (page, text) in pages() {
        for quoted in text.split('`').skip(1).step_by(2) {
            let is_path = ["src/", "tests/", "tools/", "deploy/", "docs/", "benches/", "proto/"]
                .iter()
                .any(|folder| quoted.starts_with(folder));
            if is_path && !quoted.contains(['{', '*', ' ', '\n']) {
                assert!(root().join(quoted).exists(), "{}: there is no {quoted}", page.display());
            }
        }
    }
}
