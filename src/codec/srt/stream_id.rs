//! What a caller wants, in its stream id: the access control form (draft-sharabayko-srt appendix B)
//! with what SRS makes of it, the older forms that SRS still takes, and a plain `app/stream`.

use std::{borrow::Cow, fmt};

use percent_encoding::percent_decode_str;

/// How a stream id in the access control form begins.
const PREFIX: &str = "#!::";
/// The app of a stream that names none, as in SRS.
const DEFAULT_APP: &str = "live";
/// What SRS takes for the id of a caller that gives none.
pub const DEFAULT: &str = "#!::r=live/livestream,m=publish";

/// What a caller wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// To receive a stream (`m=request`, and if there is no `m`).
    Request,
    /// To send one (`m=publish`).
    Publish,
}

/// Why a stream id makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StreamIdError {
    /// It names no stream.
    #[error("the stream id names no stream: expected app/stream or #!::r=app/stream,m=publish|request")]
    NoStream,
    /// Its `m` is neither `publish` nor `request`.
    #[error("the stream id has an unknown mode: expected m=publish or m=request")]
    Mode,
}

/// A stream id, taken apart. It may hold tokens: [`Debug`](fmt::Debug) does not show the queries.
#[derive(Clone, PartialEq, Eq)]
pub struct StreamId {
    /// The host that it names; empty if it names none.
    pub host: String,
    /// `app/stream`.
    pub path: String,
    /// Everything else, each as `key=value`, in the order in which it came.
    pub queries: Vec<String>,
    /// What the caller wants to do.
    pub mode: Mode,
}

impl StreamId {
    /// Takes a stream id apart, whether or not it is percent-encoded as a whole.
    pub fn parse(id: &str) -> Result<Self, StreamIdError> {
        let decoded = percent_decode_str(id).decode_utf8_lossy();
        match id.strip_prefix(PREFIX).or_else(|| decoded.strip_prefix(PREFIX)) {
            Some(items) => Self::access_control(items),
            None => Self::plain(id),
        }
    }

    fn plain(id: &str) -> Result<Self, StreamIdError> {
        let (path, query) = id.split_once('?').unwrap_or((id, ""));
        let path = if path.contains('/') { Cow::Borrowed(path) } else { percent_decode_str(path).decode_utf8_lossy() };
        let queries = query.split('&').filter(|q| !q.is_empty()).map(str::to_owned).collect();
        Ok(Self { host: String::new(), path: with_app(&path)?, queries, mode: Mode::Request })
    }

    /// `key=value` with `,` in between. Before there was `r`, SRS took `h=app/stream?key=value`.
    fn access_control(items: &str) -> Result<Self, StreamIdError> {
        let (mut host, mut path, mut mode) = ("", "", Mode::Request);
        let (mut resource, mut queries) = (None, Vec::new());
        for item in items.split([',', '?', '&', ';']) {
            match item.split_once('=').unwrap_or((item, "")) {
                ("h", value) => (host, path) = split_host(value),
                ("r", value) => resource = Some(value),
                ("m", value) if value.eq_ignore_ascii_case("publish") => mode = Mode::Publish,
                ("m", value) if value.eq_ignore_ascii_case("request") => mode = Mode::Request,
                ("m", _) => return Err(StreamIdError::Mode),
                ("", "") => {}
                _ => queries.push(item.to_owned()),
            }
        }
        Ok(Self { host: host.to_owned(), path: with_app(resource.unwrap_or(path))?, queries, mode })
    }
}

impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamId")
            .field("host", &self.host)
            .field("path", &self.path)
            .field("queries", &self.queries.len())
            .field("mode", &self.mode)
            .finish()
    }
}

/// Host and path of an `h`: `host`, and from older days `app/stream` and `host/app/stream`.
fn split_host(value: &str) -> (&str, &str) {
    match value.split_once('/') {
        None => (value, ""),
        Some((_, rest)) if !rest.contains('/') => ("", value),
        Some((host, rest)) => (host, rest),
    }
}

fn with_app(path: &str) -> Result<String, StreamIdError> {
    let path = path.trim_matches('/');
    match path {
        "" => Err(StreamIdError::NoStream),
        _ if path.contains('/') => Ok(path.to_owned()),
        _ => Ok(format!("{DEFAULT_APP}/{path}")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::stream::{StreamKey, Vhosts};

    fn parse(id: &str) -> (String, Mode) {
        let id = StreamId::parse(id).unwrap();
        let queries: Vec<_> = id.queries.iter().map(String::as_str).collect();
        let key = StreamKey::new(&id.host, &id.path, &queries, &Vhosts::any()).unwrap();
        (key.to_string(), id.mode)
    }

    #[test]
    fn every_form_that_srs_takes_leads_to_the_stream_that_srs_takes_it_for() {
        use Mode::{Publish, Request};
        for (id, key, mode) in [
            ("#!::h=a.com,r=live/s,m=publish", "a.com/live/s", Publish),
            ("#!::m=publish,r=live/s,h=a.com", "a.com/live/s", Publish),
            ("#!::h=a.com,r=live/s,m=request", "a.com/live/s", Request),
            ("#!::h=a.com:20080,r=live/s,m=Publish", "a.com/live/s", Publish),
            ("#!::h=10.0.0.1,r=live/s", "__defaultVhost__/live/s", Request),
            ("#!::r=live/s", "__defaultVhost__/live/s", Request),
            ("#!::r=/live/s,m=publish", "__defaultVhost__/live/s", Publish),
            ("#!::r=app/instance/s", "__defaultVhost__/app/instance/s", Request),
            ("#!::r=s", "__defaultVhost__/live/s", Request),
            // Tokens and the like.
            ("#!::h=a.com,r=live/s,m=publish,secret=x=y,u=me", "a.com/live/s", Publish),
            ("#!::r=live/s?secret=x,m=publish", "__defaultVhost__/live/s", Publish),
            ("#!::r=live/s,vhost=a.com", "a.com/live/s", Request),
            ("#!::r=live/s,,m=publish,", "__defaultVhost__/live/s", Publish),
            // Before there was `r`.
            ("#!::h=live/s,m=publish", "__defaultVhost__/live/s", Publish),
            ("#!::h=live/s?secret=x,m=publish", "__defaultVhost__/live/s", Publish),
            ("#!::h=a.com/live/s,m=publish", "a.com/live/s", Publish),
            ("#!::h=a.com/live/s,r=live/t", "a.com/live/t", Request),
            // Plain.
            ("live/s", "__defaultVhost__/live/s", Request),
            ("/live/s", "__defaultVhost__/live/s", Request),
            ("s", "__defaultVhost__/live/s", Request),
            ("live/s?secret=x,m=publish", "__defaultVhost__/live/s", Request),
            ("live/s?vhost=a.com&secret=a/b", "a.com/live/s", Request),
            ("s?secret=a/b", "__defaultVhost__/live/s", Request),
            // URL-encoded.
            ("%23!%3A%3Ar%3Dlive%2Fs%2Cm%3Dpublish", "__defaultVhost__/live/s", Publish),
            ("%23%21%3a%3ah%3da.com%2cr%3dlive%2fs%2cm%3dpublish", "a.com/live/s", Publish),
            ("#!::r=live%2Fs,m=publish", "__defaultVhost__/live/live/s", Publish),
            ("live%2Fs", "__defaultVhost__/live/s", Request),
            ("live/caf%C3%A9", "__defaultVhost__/live/café", Request),
            (DEFAULT, "__defaultVhost__/live/livestream", Publish),
        ] {
            assert_eq!(parse(id), (key.to_owned(), mode), "{id}");
        }
    }

    #[test]
    fn what_names_no_stream_or_an_unknown_mode_is_an_error() {
        for (id, error) in [
            ("", StreamIdError::NoStream),
            ("/", StreamIdError::NoStream),
            ("?secret=x", StreamIdError::NoStream),
            ("#!::", StreamIdError::NoStream),
            ("#!::h=a.com,m=publish", StreamIdError::NoStream),
            ("#!::r=,m=publish", StreamIdError::NoStream),
            ("#!::r=live/s,m=bidirectional", StreamIdError::Mode),
            ("#!::r=live/s,m=", StreamIdError::Mode),
        ] {
            assert_eq!(StreamId::parse(id), Err(error), "{id}");
        }
    }

    #[test]
    fn a_token_is_not_shown_where_a_stream_id_is_logged() {
        for id in ["#!::r=live/s,secret=hush", "live/s?secret=hush", "#!::h=live/s?secret=hush"] {
            let id = StreamId::parse(id).unwrap();
            assert_eq!(id.queries, ["secret=hush"]);
            assert!(!format!("{id:?}").contains("hush"), "{id:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_taken_apart_or_refused(id in "(#!::)?\\PC{0,80}") {
            if let Ok(id) = StreamId::parse(&id) {
                prop_assert!(id.path.contains('/') && !id.path.starts_with('/') && !id.path.ends_with('/'));
            }
        }
    }
}
