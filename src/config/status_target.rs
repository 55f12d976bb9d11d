//! Where `cluster-status` sends its request. The command line decides, else the settings of the node
//! itself, so that the command needs no options on the machine of the node.

use std::{collections::BTreeMap, fmt, net::IpAddr, path::Path, time::Duration};

use hyper::Uri;

use super::{
    ConfigError, Listen, Secret, keys,
    sources::{ProcessEnv, Sources, read_dotenv},
};
use crate::authority::host_port;

/// How long the node may take to answer unless `--timeout` is given.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// The options of the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusOptions {
    /// The URL of the system API.
    pub api: Option<String>,
    /// The token to show.
    pub token: Option<Secret>,
    /// Whether the answer is printed as it came.
    pub json: bool,
    /// How long the node may take for its answer.
    pub timeout: Duration,
}

/// The node to query, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusTarget {
    /// The system API of the node.
    pub api: ApiAddress,
    /// The token to show, if any.
    pub token: Option<Secret>,
    /// Whether the answer is printed as it came.
    pub json: bool,
    /// How long the node may take for its answer.
    pub timeout: Duration,
}

/// A system API. Displays as its URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiAddress {
    /// The address or host name, IPv6 without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl StatusOptions {
    /// The node to query, by these options, the environment of this process and the `.env` file.
    pub fn resolve(self) -> Result<StatusTarget, ConfigError> {
        let dotenv = read_dotenv(Path::new(".env"), &mut Vec::new())?;
        let flags = self.token.iter().map(|token| (keys::PROXY_HTTP_API_AUTH_TOKEN.spec.name, token.expose()));
        let flags: BTreeMap<String, String> = flags.map(|(name, token)| (name.to_owned(), token.to_owned())).collect();
        self.from(Sources { flags: &flags, env: &ProcessEnv, dotenv: &dotenv })
    }

    fn from(self, sources: Sources<'_>) -> Result<StatusTarget, ConfigError> {
        let api = match &self.api {
            Some(url) => ApiAddress::parse(url).ok_or_else(|| {
                ConfigError::Together("--api: expected http://HOST or http://HOST:PORT; nothing else is spoken".into())
            })?,
            None => ApiAddress::of(&sources.value(&keys::PROXY_SYSTEM_API)?).ok_or_else(|| {
                let name = keys::PROXY_SYSTEM_API.spec.name;
                ConfigError::Together(format!("{name} lets the system choose the port: say with --api whom to ask"))
            })?,
        };
        let token = sources.value(&keys::PROXY_HTTP_API_AUTH_TOKEN)?;
        Ok(StatusTarget { api, token, json: self.json, timeout: self.timeout })
    }
}

impl ApiAddress {
    fn parse(url: &str) -> Option<Self> {
        let uri: Uri = url.trim().parse().ok()?;
        let authority = uri.authority()?;
        let plain = uri.scheme_str() == Some("http") && uri.path_and_query().is_none_or(|path| path == "/");
        let host = authority.host();
        // Not by `port()` alone, for which a port that is none is the same as one that is missing. A
        // user's name before the host is refused with the rest.
        let port = match authority.as_str().strip_prefix(host)? {
            "" => 80,
            _ => authority.port_u16().filter(|port| *port > 0)?,
        };
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        (plain && !host.is_empty()).then(|| Self { host: host.to_owned(), port })
    }

    /// The node that listens there, as this machine reaches it.
    fn of(listen: &Listen) -> Option<Self> {
        let local = || match listen.host.as_deref().map(str::parse) {
            Some(Ok(IpAddr::V6(_))) => "::1".to_owned(),
            _ => "127.0.0.1".to_owned(),
        };
        let host = listen.host.clone().filter(|_| !listen.is_wildcard()).unwrap_or_else(local);
        (listen.port > 0).then_some(Self { host, port: listen.port })
    }

    /// `HOST:PORT`, as the header `Host` has it.
    pub fn authority(&self) -> String {
        let Self { host, port } = self;
        host_port(host, port)
    }
}

impl fmt::Display for ApiAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.authority())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(api: Option<&str>, env: &[(&str, &str)]) -> Result<StatusTarget, ConfigError> {
        let none = BTreeMap::new();
        let env: BTreeMap<_, _> = env.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let options = StatusOptions { api: api.map(str::to_owned), token: None, json: false, timeout: DEFAULT_TIMEOUT };
        options.from(Sources { flags: &none, env: &env, dotenv: &none })
    }

    #[test]
    fn the_node_of_this_machine_is_asked_where_it_listens() {
        for (listen, api) in [
            ("", "http://127.0.0.1:12025"),
            ("7000", "http://127.0.0.1:7000"),
            ("0.0.0.0:7000", "http://127.0.0.1:7000"),
            ("[::]:7000", "http://127.0.0.1:7000"),
            ("10.0.0.7:7000", "http://10.0.0.7:7000"),
            ("[fd00::7]:7000", "http://[fd00::7]:7000"),
            ("node-0.local:7000", "http://node-0.local:7000"),
        ] {
            assert_eq!(target(None, &[("PROXY_SYSTEM_API", listen)]).unwrap().api.to_string(), api, "{listen}");
        }
        let refused = target(None, &[("PROXY_SYSTEM_API", "0")]).unwrap_err().to_string();
        assert!(refused.contains("--api"), "{refused}");
        assert!(target(None, &[("PROXY_SYSTEM_API", "x")]).is_err());
    }

    #[test]
    fn a_url_counts_before_the_settings_whatever_they_are() {
        let api =
            |url| target(Some(url), &[("PROXY_SYSTEM_API", "x")]).map(|target| (target.api.host, target.api.port));
        for (url, host, port) in [
            ("http://10.0.0.7:12025", "10.0.0.7", 12025),
            ("http://10.0.0.7:12025/", "10.0.0.7", 12025),
            ("http://node-0", "node-0", 80),
            ("HTTP://[fd00::7]:1", "fd00::7", 1),
        ] {
            assert_eq!(api(url).unwrap(), (host.to_owned(), port), "{url}");
        }
        for url in [
            "",
            "10.0.0.7:12025",
            "10.0.0.7",
            "https://10.0.0.7:12025",
            "http://10.0.0.7:12025/api",
            "http://10.0.0.7:12025/?a=b",
            "http://user:s3cret@10.0.0.7:12025",
            "http://10.0.0.7:0",
            "http://10.0.0.7:70000",
            "http://10.0.0.7:",
            "http://",
        ] {
            let refused = api(url).unwrap_err().to_string();
            assert!(
                refused.starts_with("--api: expected http://HOST") && !refused.contains("s3cret"),
                "{url}: {refused}"
            );
        }
    }

    #[test]
    fn the_token_of_the_settings_is_shown_even_where_this_node_asks_for_none() {
        let with = target(None, &[("PROXY_HTTP_API_AUTH_TOKEN", "s3cret")]).unwrap();
        assert_eq!(with.token, Some(Secret::new("s3cret")));
        assert!(!format!("{with:?}").contains("s3cret"));
        assert_eq!(target(None, &[]).unwrap().token, None);
        let refused = target(None, &[("PROXY_HTTP_API_AUTH_TOKEN", "s3cr\u{e9}t")]).unwrap_err().to_string();
        assert!(refused.starts_with("PROXY_HTTP_API_AUTH_TOKEN=***"), "{refused}");
    }
}
