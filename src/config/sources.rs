//! Where the texts of settings come from, and which source counts before which.

use std::{
    collections::BTreeMap,
    env::{self, VarError},
    fmt,
    fs::File,
    io::{self, Read},
    path::Path,
};

use super::{
    ConfigError, dotenv,
    keys::{Key, Spec},
};

/// The largest `.env` file, in bytes.
const MAX_DOTENV: u64 = 1 << 20;
/// How much of a bad value is shown.
const MAX_SHOWN: usize = 100;

/// Settings as text, by name. Tests give theirs without touching the environment of the process.
pub trait Strings {
    /// The value of `name`.
    fn get(&self, name: &str) -> Result<String, VarError>;

    /// The names that have a value.
    fn names(&self) -> Vec<String>;
}

/// The environment of this process.
#[derive(Debug, Clone, Copy)]
pub struct ProcessEnv;

impl Strings for ProcessEnv {
    fn get(&self, name: &str) -> Result<String, VarError> {
        env::var(name)
    }

    fn names(&self) -> Vec<String> {
        env::vars_os().filter_map(|(name, _)| name.into_string().ok()).collect()
    }
}

impl Strings for BTreeMap<String, String> {
    fn get(&self, name: &str) -> Result<String, VarError> {
        self.get(name).cloned().ok_or(VarError::NotPresent)
    }

    fn names(&self) -> Vec<String> {
        self.keys().cloned().collect()
    }
}

/// Where settings come from, the strongest first.
#[derive(Clone, Copy)]
pub struct Sources<'a> {
    /// The command line.
    pub flags: &'a dyn Strings,
    /// The environment.
    pub env: &'a dyn Strings,
    /// The `.env` file.
    pub dotenv: &'a dyn Strings,
}

/// Which source a value came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettingSource {
    /// The command line.
    Flag,
    /// The environment.
    Env,
    /// The `.env` file.
    Dotenv,
    /// Nobody set it.
    Default,
}

impl fmt::Display for SettingSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flag => "flag",
            Self::Env => "environment",
            Self::Dotenv => ".env",
            Self::Default => "default",
        })
    }
}

impl Sources<'_> {
    /// The value of a setting, from the strongest source that has one.
    pub(super) fn value<T>(&self, key: &Key<T>) -> Result<T, ConfigError> {
        let spec = &key.spec;
        let (from, text) = self.text(spec);
        let value = text.as_deref().and_then(|text| (key.rule.parse)(text.trim()));
        value.ok_or_else(|| ConfigError::Value {
            name: spec.name,
            value: shown(text.as_deref(), spec.secret),
            from,
            allowed: spec.allowed,
        })
    }

    /// The value of a setting as it may be shown to people.
    pub(super) fn shown(&self, spec: &Spec) -> String {
        shown(self.text(spec).1.as_deref(), spec.secret)
    }

    /// The text of a setting and where it comes from; no text if it is not UTF-8.
    fn text(&self, spec: &Spec) -> (SettingSource, Option<String>) {
        let layers =
            [(SettingSource::Flag, self.flags), (SettingSource::Env, self.env), (SettingSource::Dotenv, self.dotenv)];
        layers
            .into_iter()
            .find_map(|(from, strings)| match strings.get(spec.name) {
                // An empty value counts as unset, as in the Go proxy; an empty flag is meant.
                Ok(text) if text.trim().is_empty() && from != SettingSource::Flag => None,
                Ok(text) => Some((from, Some(text))),
                Err(VarError::NotPresent) => None,
                Err(VarError::NotUnicode(_)) => Some((from, None)),
            })
            .unwrap_or_else(|| (SettingSource::Default, Some(spec.default.to_owned())))
    }
}

/// The settings in the `.env` file at `path`; none if there is no file.
pub(super) fn read_dotenv(path: &Path, warnings: &mut Vec<String>) -> Result<BTreeMap<String, String>, ConfigError> {
    let failed = |e: io::Error| ConfigError::Dotenv(e.to_string());
    match path.metadata() {
        Ok(file) if file.is_file() => {}
        // A container runtime makes a directory where a file to mount is missing, and some people
        // keep a Python environment under this name.
        Ok(_) => {
            warnings.push(".env is not a file and is ignored".into());
            return Ok(BTreeMap::new());
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(e) => return Err(failed(e)),
    }
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(MAX_DOTENV + 1).read_to_string(&mut text)).map_err(failed)?;
    if read as u64 > MAX_DOTENV {
        return Err(ConfigError::Dotenv(format!("larger than {MAX_DOTENV} bytes")));
    }
    Ok(dotenv::parse(&text))
}

/// A bad value as it may be shown: on one line, not longer than is useful, and never a secret.
fn shown(text: Option<&str>, secret: bool) -> String {
    match text {
        _ if secret => "***".into(),
        None => "(not UTF-8)".into(),
        Some(text) => {
            let mut shown: String = text.chars().take(MAX_SHOWN).collect();
            if shown.len() < text.len() {
                shown.push('\u{2026}');
            }
            format!("{shown:?}")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn map(settings: &[(&str, &str)]) -> BTreeMap<String, String> {
        settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn an_env_file_that_cannot_be_read_stops_the_start_and_a_directory_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".env");
        let mut warnings = Vec::new();
        assert_eq!(read_dotenv(&path, &mut warnings), Ok(map(&[])));
        fs::write(&path, [b'A', b'=', 0xff]).unwrap();
        assert!(read_dotenv(&path, &mut warnings).is_err());
        fs::write(&path, vec![b'#'; MAX_DOTENV as usize + 1]).unwrap();
        assert_eq!(read_dotenv(&path, &mut warnings), Err(ConfigError::Dotenv("larger than 1048576 bytes".into())));
        fs::write(&path, "A=1").unwrap();
        assert_eq!(read_dotenv(&path, &mut warnings), Ok(map(&[("A", "1")])));
        assert!(warnings.is_empty());

        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert_eq!(read_dotenv(&path, &mut warnings), Ok(map(&[])));
        assert_eq!(warnings, [".env is not a file and is ignored"]);
    }
}
