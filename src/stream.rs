//! The name of a stream, and the one rule by which every protocol arrives at it.

use std::{borrow::Cow, collections::HashSet, fmt, net::IpAddr, sync::Arc};

use percent_encoding::percent_decode_str;

/// The vhost of everything that names no vhost of its own, as in SRS.
pub const DEFAULT_VHOST: &str = "__defaultVhost__";
/// The app of a stream whose URL has no app, as in SRS.
pub const DEFAULT_APP: &str = "__defaultApp__";
/// The longest key in bytes. Keys are shared between nodes, so their size is bounded.
pub const MAX_KEY_LEN: usize = 1024;

/// `vhost/app/stream`: what a stream is placed by. Cheap to clone.
///
/// Query strings never count, so neither tokens nor session ids are ever part of a key, and a key
/// may be logged.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamKey(Arc<str>);

/// Why a URL names no stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The URL ends without the name of a stream.
    #[error("the URL has no stream name: expected app/stream")]
    NoStream,
    /// The key would be longer than [`MAX_KEY_LEN`].
    #[error("vhost/app/stream is longer than {MAX_KEY_LEN} bytes")]
    TooLong,
    /// A name holds a control character.
    #[error("vhost/app/stream holds a control character")]
    ControlCharacter,
}

/// The vhosts that are told apart (`PROXY_VHOSTS`). Any other becomes [`DEFAULT_VHOST`], as SRS
/// itself treats a vhost that its configuration does not name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Vhosts(Option<HashSet<String>>);

impl Vhosts {
    /// Every vhost stands for itself.
    pub const fn any() -> Self {
        Self(None)
    }

    /// Only `names` stand for themselves.
    pub fn only<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> Self {
        Self(Some(names.into_iter().map(|n| normalize_host(n.as_ref())).collect()))
    }

    fn resolve<'a>(&self, vhost: Cow<'a, str>) -> Cow<'a, str> {
        match &self.0 {
            Some(known) if !known.contains(vhost.as_ref()) => Cow::Borrowed(DEFAULT_VHOST),
            _ => vhost,
        }
    }
}

impl StreamKey {
    /// The rule that all protocols share.
    ///
    /// `host` is the name by which the client reached the server, with or without a port; `path` is
    /// `app/stream`, percent-encoded or not; `queries` are the query strings of the URL, in the
    /// order in which they are searched for `vhost=` and then `domain=`.
    pub fn new(host: &str, path: &str, queries: &[&str], vhosts: &Vhosts) -> Result<Self, StreamError> {
        let path = percent_decode_str(path).decode_utf8_lossy().replace("/_definst_", "");
        let mut parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
        let stream = parts.pop().ok_or(StreamError::NoStream)?;
        let app = if parts.is_empty() { DEFAULT_APP.to_owned() } else { parts.join("/") };
        let vhost = vhosts.resolve(vhost_of(host, queries));

        let key = format!("{vhost}/{app}/{stream}");
        if key.len() > MAX_KEY_LEN {
            return Err(StreamError::TooLong);
        }
        if key.chars().any(char::is_control) {
            return Err(StreamError::ControlCharacter);
        }
        Ok(Self(key.into()))
    }

    /// The stream of an RTMP session: `tc_url` and `app` come from the connect object, `name` from
    /// publish or play. `app` counts only where there is no tcUrl.
    pub fn from_rtmp(tc_url: &str, app: &str, name: &str, vhosts: &Vhosts) -> Result<Self, StreamError> {
        // The old way to name a vhost, still understood by SRS: rtmp://ip/app...vhost...NAME/stream
        let tc_url = tc_url.replace("...vhost...", "?vhost=");
        let (host, base, tc_query) = split_url(&tc_url);
        let (app_path, app_query) = split_query(app);
        let base = if base.trim_matches('/').is_empty() { app_path } else { base };
        let (name, name_query) = split_query(name);

        if name.trim_matches('/').is_empty() && !base.trim_matches('/').contains('/') {
            return Err(StreamError::NoStream);
        }
        Self::new(host, &format!("{base}/{name}"), &[tc_query, app_query, name_query], vhosts)
    }

    /// The key as it is shared between nodes: `vhost/app/stream`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Takes back a key that [`Self::as_str`] gave, for example from a shared store.
    pub fn from_shared(key: &str) -> Result<Self, StreamError> {
        if key.len() > MAX_KEY_LEN {
            return Err(StreamError::TooLong);
        }
        if key.chars().any(char::is_control) {
            return Err(StreamError::ControlCharacter);
        }
        if key.split('/').filter(|p| !p.is_empty()).count() < 3 {
            return Err(StreamError::NoStream);
        }
        Ok(Self(key.into()))
    }
}

impl fmt::Display for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamKey({})", self.0)
    }
}

/// `scheme://host:port/path?query` → (`host:port`, `/path`, `query`). A URL without a scheme and
/// host is all path.
fn split_url(url: &str) -> (&str, &str, &str) {
    let Some((_, rest)) = url.split_once("://") else {
        let (path, query) = split_query(url);
        return ("", path, query);
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let authority = &rest[..end];
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let (path, query) = split_query(&rest[end..]);
    (host, path, query)
}

/// SRS takes `#` for `?` as well: some encoders cannot send a `?`.
fn split_query(path: &str) -> (&str, &str) {
    path.find(['?', '#']).map_or((path, ""), |at| (&path[..at], &path[at + 1..]))
}

fn vhost_of<'a>(host: &'a str, queries: &[&'a str]) -> Cow<'a, str> {
    let explicit = ["vhost", "domain"].iter().find_map(|key| {
        queries.iter().flat_map(|q| q.split(['&', '?', '#'])).find_map(|pair| {
            let (k, v) = pair.split_once('=')?;
            let v = v.split('/').next().unwrap_or_default();
            (k == *key && !v.is_empty() && v != DEFAULT_VHOST).then_some(v)
        })
    });
    if let Some(explicit) = explicit {
        let name = normalize_host(&percent_decode_str(explicit).decode_utf8_lossy());
        return if name.is_empty() || is_ip(&name) { Cow::Borrowed(DEFAULT_VHOST) } else { Cow::Owned(name) };
    }
    let name = normalize_host(without_port(host));
    if name.contains('.') && !is_ip(&name) { Cow::Owned(name) } else { Cow::Borrowed(DEFAULT_VHOST) }
}

fn normalize_host(name: &str) -> String {
    name.trim().trim_end_matches('.').to_ascii_lowercase()
}

fn without_port(host: &str) -> &str {
    if let Some(v6) = host.strip_prefix('[') {
        return v6.split(']').next().unwrap_or(v6);
    }
    match host.rsplit_once(':') {
        // More than one colon without brackets is an IPv6 address, not a name with a port.
        Some((name, _)) if !name.contains(':') => name,
        _ => host,
    }
}

fn is_ip(name: &str) -> bool {
    name.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rtmp(tc_url: &str, name: &str) -> String {
        StreamKey::from_rtmp(tc_url, "", name, &Vhosts::any()).map_or_else(|e| format!("{e:?}"), |k| k.to_string())
    }

    #[test]
    fn rtmp_urls_name_the_stream_that_srs_would_name() {
        for (tc_url, name, key) in [
            ("rtmp://127.0.0.1/live", "s", "__defaultVhost__/live/s"),
            ("rtmp://127.0.0.1:1935/live", "s", "__defaultVhost__/live/s"),
            ("rtmp://[::1]:1935/live", "s", "__defaultVhost__/live/s"),
            ("rtmp://[2001:db8::1]/live", "s", "__defaultVhost__/live/s"),
            ("rtmp://localhost/live", "s", "__defaultVhost__/live/s"),
            ("rtmp://origin/live", "s", "__defaultVhost__/live/s"),
            ("rtmp://example.com/live", "s", "example.com/live/s"),
            ("rtmp://Example.COM.:1935/live", "s", "example.com/live/s"),
            ("rtmps://example.com/live", "s", "example.com/live/s"),
            ("rtmp://user:pw@example.com/live", "s", "example.com/live/s"),
            // Tokens never count, wherever they stand.
            ("rtmp://example.com/live", "s?token=abc", "example.com/live/s"),
            ("rtmp://example.com/live?token=abc", "s", "example.com/live/s"),
            ("rtmp://example.com/live", "s?token=a/b", "example.com/live/s"),
            ("rtmp://example.com/live#token=abc", "s", "example.com/live/s"),
            // An explicit vhost.
            ("rtmp://127.0.0.1/live?vhost=a.com", "s", "a.com/live/s"),
            ("rtmp://127.0.0.1/live", "s?vhost=a.com&token=1", "a.com/live/s"),
            ("rtmp://127.0.0.1/live", "s?token=1&domain=a.com", "a.com/live/s"),
            ("rtmp://127.0.0.1/live?domain=b.com", "s?vhost=a.com", "a.com/live/s"),
            ("rtmp://127.0.0.1/live?vhost=bare", "s", "bare/live/s"),
            ("rtmp://127.0.0.1/live?vhost=10.0.0.1", "s", "__defaultVhost__/live/s"),
            ("rtmp://127.0.0.1/live?vhost=", "s", "__defaultVhost__/live/s"),
            ("rtmp://example.com/live?vhost=__defaultVhost__", "s", "example.com/live/s"),
            ("rtmp://127.0.0.1/live...vhost...a.com", "s", "a.com/live/s"),
            // Apps with several parts, and the odd slashes that clients add.
            ("rtmp://127.0.0.1/app/instance", "s", "__defaultVhost__/app/instance/s"),
            ("rtmp://127.0.0.1/app/instance/", "/s", "__defaultVhost__/app/instance/s"),
            ("rtmp://127.0.0.1/app", "a/b", "__defaultVhost__/app/a/b"),
            ("rtmp://127.0.0.1/app/_definst_", "s", "__defaultVhost__/app/s"),
            ("rtmp://127.0.0.1", "s", "__defaultVhost__/__defaultApp__/s"),
            ("rtmp://127.0.0.1/", "s", "__defaultVhost__/__defaultApp__/s"),
            // The whole URL given as server, the key left empty.
            ("rtmp://127.0.0.1/live/s", "", "__defaultVhost__/live/s"),
            ("rtmp://127.0.0.1/live", "", "NoStream"),
            ("rtmp://127.0.0.1/live", "?token=1", "NoStream"),
            // One stream, however its name is escaped.
            ("rtmp://127.0.0.1/live", "caf%C3%A9", "__defaultVhost__/live/café"),
            ("rtmp://127.0.0.1/live", "café", "__defaultVhost__/live/café"),
            ("rtmp://127.0.0.1/live", "a%2Fb", "__defaultVhost__/live/a/b"),
            ("rtmp://127.0.0.1/live", "100%", "__defaultVhost__/live/100%"),
            ("rtmp://127.0.0.1/live", "a%0Ab", "ControlCharacter"),
            ("rtmp://127.0.0.1/live", "a\nb", "ControlCharacter"),
        ] {
            assert_eq!(rtmp(tc_url, name), key, "tcUrl {tc_url}, name {name}");
        }
        assert_eq!(rtmp("rtmp://127.0.0.1/live", &"x".repeat(2000)), "TooLong");
    }

    #[test]
    fn without_a_tc_url_the_app_of_the_connect_object_counts() {
        let key = |tc_url, app| StreamKey::from_rtmp(tc_url, app, "s", &Vhosts::any()).unwrap().to_string();
        assert_eq!(key("", "live"), "__defaultVhost__/live/s");
        assert_eq!(key("", "live?vhost=a.com"), "a.com/live/s");
        assert_eq!(key("rtmp://example.com/", "live"), "example.com/live/s");
    }

    #[test]
    fn http_and_srt_style_paths_lead_to_the_same_key_as_rtmp() {
        let rtmp = StreamKey::from_rtmp("rtmp://example.com/live", "live", "s?token=1", &Vhosts::any());
        assert_eq!(StreamKey::new("example.com:8080", "/live/s", &["token=2"], &Vhosts::any()), rtmp);
        assert_eq!(StreamKey::new("10.0.0.1", "live/s", &["vhost=example.com"], &Vhosts::any()), rtmp);
    }

    #[test]
    fn a_vhost_that_is_not_listed_is_the_default_vhost() {
        let vhosts = Vhosts::only(["A.com"]);
        let key = |host| StreamKey::new(host, "live/s", &[], &vhosts).unwrap().to_string();
        assert_eq!(key("a.com"), "a.com/live/s");
        assert_eq!(key("b.com"), "__defaultVhost__/live/s");
        assert_eq!(
            StreamKey::new("x", "live/s", &["vhost=b.com"], &vhosts).unwrap().as_str(),
            "__defaultVhost__/live/s"
        );
    }

    #[test]
    fn a_shared_key_comes_back_as_it_was_and_a_foreign_one_is_refused() {
        let key = StreamKey::new("a.com", "live/x/s", &[], &Vhosts::any()).unwrap();
        assert_eq!(StreamKey::from_shared(key.as_str()), Ok(key));
        assert_eq!(StreamKey::from_shared("live/s"), Err(StreamError::NoStream));
        assert_eq!(StreamKey::from_shared("a/b/\u{1}"), Err(StreamError::ControlCharacter));
    }
}
