//! The URL of a session. It carries the tag of the session's origin, so that any node finds it, and the
//! session's username, so that the node that has it can end it. Everything else in it is the origin's, and
//! reaches the origin again as it was, byte by byte: there may be a signature over it.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// The parameter that holds the tag of the origin.
pub(super) const ORIGIN: &str = "sporigin";
/// The parameter that holds the session's username.
pub(super) const SESSION: &str = "spsession";

/// All that is not unreserved (RFC 3986, section 2.3).
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What the query of a session's URL says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Split<'a> {
    /// The tag of the origin.
    pub origin: Option<Cow<'a, str>>,
    /// The session's username.
    pub session: Option<Cow<'a, str>>,
    /// The query that the origin gave.
    pub rest: Option<String>,
}

/// The raw value of the first parameter of this name.
pub(super) fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| value(pair, name))
}

/// Whether the query leads to the origin of a session.
pub(super) fn is_ours(query: Option<&str>) -> bool {
    query.is_some_and(|query| parameter(query, ORIGIN).is_some())
}

/// Takes our parameters out of a query. Where another proxy of this kind is behind this one, the last of
/// each is ours.
pub(super) fn split(query: Option<&str>) -> Split<'_> {
    let mut pairs: Vec<&str> = query.map(|query| query.split('&').collect()).unwrap_or_default();
    let mut take = |name: &str| {
        let at = pairs.iter().rposition(|pair| value(pair, name).is_some())?;
        value(pairs.remove(at), name).map(|value| percent_decode_str(value).decode_utf8_lossy())
    };
    let (session, origin) = (take(SESSION), take(ORIGIN));
    let rest = (!pairs.is_empty()).then(|| pairs.join("&"));
    Split { origin, session, rest }
}

/// The `Location` of an origin's answer as clients get it: a path, with our parameters behind its query.
/// `base` is the path of the request that was answered.
pub(super) fn rewrite(location: &str, base: &str, origin: &str, session: &str) -> String {
    let (location, fragment) = match location.find('#') {
        Some(at) => location.split_at(at),
        None => (location, ""),
    };
    let (path, query) = match location.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (location, None),
    };
    let path = resolve(path, base);
    let session = utf8_percent_encode(session, ENCODED);
    let query = query.map(|query| format!("{query}&")).unwrap_or_default();
    format!("{path}?{query}{ORIGIN}={origin}&{SESSION}={session}{fragment}")
}

/// The path of a reference (RFC 3986, section 5.2), without the authority that it may have.
fn resolve(reference: &str, base: &str) -> String {
    let behind_scheme = match reference.split_once("://") {
        Some((scheme, rest)) if scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()) => Some(rest),
        _ => reference.strip_prefix("//"),
    };
    if let Some(rest) = behind_scheme {
        return rest.find('/').map_or_else(|| "/".to_owned(), |at| without_dots(&rest[at..]));
    }
    match reference {
        "" => base.to_owned(),
        _ if reference.starts_with('/') => without_dots(reference),
        _ => without_dots(&format!("{}/{reference}", base.rsplit_once('/').map_or("", |(directory, _)| directory))),
    }
}

/// A path without `.` and `..` (RFC 3986, section 5.2.4).
fn without_dots(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let mut given = path.split('/').skip(1).peekable();
    while let Some(part) = given.next() {
        let last = given.peek().is_none();
        match part {
            "." | ".." => {
                if part == ".." {
                    parts.pop();
                }
                if last {
                    parts.push("");
                }
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// Whether a path leads upwards for anybody who resolves it, however that is written.
pub(super) fn leads_upwards(path: &str) -> bool {
    let path = percent_decode_str(path).decode_utf8_lossy();
    path.split(['/', '\\']).any(|part| part == "..")
}

fn value<'a>(pair: &'a str, name: &str) -> Option<&'a str> {
    let rest = pair.strip_prefix(name)?;
    if rest.is_empty() { Some("") } else { rest.strip_prefix('=') }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = "/rtc/v1/whip/";

    #[test]
    fn a_location_in_any_form_leads_to_this_node_and_names_origin_and_session() {
        for (location, expected) in [
            ("/rtc/v1/whip/?action=delete&token=t&session=a:b", "/rtc/v1/whip/?action=delete&token=t&session=a:b&"),
            ("http://10.0.0.1:1985/rtc/v1/whip/?token=%2F+x", "/rtc/v1/whip/?token=%2F+x&"),
            ("HTTPS://origin/rtc/v1/whip/1", "/rtc/v1/whip/1?"),
            ("//origin/rtc/v1/whip/1?", "/rtc/v1/whip/1?&"),
            ("http://origin", "/?"),
            ("?token=t", "/rtc/v1/whip/?token=t&"),
            ("1?x=http://a", "/rtc/v1/whip/1?x=http://a&"),
            ("../whep/2", "/rtc/v1/whep/2?"),
            ("./", "/rtc/v1/whip/?"),
            ("..", "/rtc/v1/?"),
            ("/../../x", "/x?"),
            ("", "/rtc/v1/whip/?"),
        ] {
            let rewritten = rewrite(location, BASE, "c1bb330ed1", "a+/:b");
            assert_eq!(rewritten, format!("{expected}sporigin=c1bb330ed1&spsession=a%2B%2F%3Ab"), "{location}");
        }
        assert_eq!(rewrite("/x?y#z", BASE, "o", "s"), "/x?y&sporigin=o&spsession=s#z");
        assert_eq!(rewrite("1", "/rtc/v1/whip", "o", "s"), "/rtc/v1/1?sporigin=o&spsession=s");
    }

    #[test]
    fn our_parameters_are_taken_out_and_the_rest_is_as_the_origin_gave_it() {
        for query in ["token=%2F+x&&session=a:b&y", "", "&", "x", "sporigins=1&xspsession=2", "SPORIGIN=1"] {
            let location = rewrite(&format!("/p?{query}"), BASE, "c1bb330ed1", "a+/:b");
            let (_, with_ours) = location.split_once('?').unwrap();
            let split = split(Some(with_ours));
            assert_eq!(split.rest.as_deref(), Some(query), "{location}");
            assert_eq!((split.origin.as_deref(), split.session.as_deref()), (Some("c1bb330ed1"), Some("a+/:b")));
        }
        let (none, only) = (split(None), split(Some("sporigin=1&spsession=2")));
        assert_eq!(none, Split { origin: None, session: None, rest: None });
        assert_eq!(only, Split { origin: Some("1".into()), session: Some("2".into()), rest: None });
        assert!(!is_ours(Some("x=sporigin=1")) && is_ours(Some("x&sporigin=1")));
    }

    #[test]
    fn of_two_proxies_in_a_row_each_takes_its_own() {
        let inner = rewrite("/p?x", BASE, "inner", "a:b");
        let outer = rewrite(&inner, BASE, "outer", "a:b");
        let at_outer = split(outer.split_once('?').map(|(_, query)| query));
        assert_eq!(at_outer.origin.as_deref(), Some("outer"));
        let at_inner = split(at_outer.rest.as_deref());
        assert_eq!((at_inner.origin.as_deref(), at_inner.rest.as_deref()), (Some("inner"), Some("x")));
    }

    #[test]
    fn a_path_that_leads_upwards_is_noticed_however_it_is_written() {
        for path in
            ["/rtc/v1/whip/../x", "/rtc/v1/whip/%2e%2E/x", "/rtc/v1/whip/.%2e%2fx", "/rtc/v1/whip/..%5cx", "/.."]
        {
            assert!(leads_upwards(path), "{path}");
        }
        for path in ["/rtc/v1/whip/", "/rtc/v1/whip/..x", "/rtc/v1/whip/x..", "/rtc/v1/whip/...", "/a/./b"] {
            assert!(!leads_upwards(path), "{path}");
        }
    }
}
