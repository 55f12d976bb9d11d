//! What a request says, and what origins learn of whoever sent it.

use std::net::{IpAddr, SocketAddr};

use axum::{
    extract::{ConnectInfo, FromRequestParts, Query},
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header, request::Parts},
    response::Response,
};

use crate::{
    balancer::Page,
    server::{forwarding::set_forwarded_for, http},
};

/// How many items are listed where nothing else is asked for, as in SRS.
const DEFAULT_COUNT: usize = 10;
/// How far into a list of the cluster one can look, in items: each origin gives as many.
pub(super) const MAX_ITEMS: usize = 100_000;

/// What a caller asks for.
pub(super) struct Caller {
    /// The headers for origins.
    pub(super) headers: HeaderMap,
    /// Which items.
    pub(super) page: Page,
    /// Whether the caller chose them.
    pub(super) paged: bool,
    /// The function to which the answer is given (JSONP), as in SRS.
    pub(super) callback: Option<String>,
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Response> {
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
        let bad = |message| http::error(StatusCode::BAD_REQUEST, message);
        let Query(query) = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri).map_err(|e| bad(e.to_string()))?;
        let value = |name: &str| query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let paged = value("start").is_some() || value("count").is_some();
        let page = page(value("start"), value("count")).map_err(bad)?;
        let callback = value("callback").filter(|name| !name.is_empty()).map(str::to_owned);
        if callback.as_ref().is_some_and(|name| !is_function(name)) {
            return Err(bad("parameter \"callback\" is no name of a function".into()));
        }
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(header::USER_AGENT, HeaderValue::from_static(concat!("srs-proxy/", env!("CARGO_PKG_VERSION"))));
        forward_credentials(&parts.headers, peer, &mut headers);
        Ok(Self { headers, page, paged, callback })
    }
}

/// As in SRS, what is no number, or none at all, stands for the default, and so does a count of 0.
fn page(start: Option<&str>, count: Option<&str>) -> Result<Page, String> {
    let number = |text: Option<&str>, default: usize| match text {
        Some(text) if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => {
            text.parse().unwrap_or(usize::MAX)
        }
        _ => default,
    };
    let (start, count) = (number(start, 0), number(count, DEFAULT_COUNT));
    let count = if count == 0 { DEFAULT_COUNT } else { count };
    if start.saturating_add(count) > MAX_ITEMS {
        return Err(format!("start and count reach beyond {MAX_ITEMS} items; ask one origin with ?origin=ID"));
    }
    Ok(Page { start, count })
}

fn is_function(name: &str) -> bool {
    name.len() <= 128 && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// Tells origins the address of the caller, and his name and password if they are for SRS's own
/// `http_api` (RFC 7617). The token of the proxy never goes on.
pub(super) fn forward_credentials(from: &HeaderMap, peer: Option<IpAddr>, to: &mut HeaderMap) {
    to.remove(header::AUTHORIZATION);
    if let Some(authorization) = from.get(header::AUTHORIZATION)
        && authorization.as_bytes().get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"basic "))
    {
        to.insert(header::AUTHORIZATION, authorization.clone());
    }
    if let Some(peer) = peer {
        set_forwarded_for(from, peer, to);
    }
}

/// The value of `?origin=`, and the target without it, with everything else as it was. Nothing if there
/// is no such parameter.
pub(super) fn origin(uri: &Uri) -> Result<Option<(String, Uri)>, String> {
    let is_origin = |pair: &&str| pair.split_once('=').map_or(*pair, |(name, _)| name) == "origin";
    let Some(query) = uri.query() else { return Ok(None) };
    let mut named = query.split('&').filter(is_origin);
    let Some(pair) = named.next() else { return Ok(None) };
    if named.next().is_some() {
        return Err("parameter \"origin\" is given twice".into());
    }
    let alone = Uri::try_from(format!("/?{pair}")).map_err(|error| error.to_string())?;
    let parsed = Query::<Vec<(String, String)>>::try_from_uri(&alone);
    let id = parsed.map_err(|error| error.to_string())?.0.pop().map(|(_, value)| value).unwrap_or_default();
    let rest: Vec<_> = query.split('&').filter(|pair| !is_origin(pair)).collect();
    let target = if rest.is_empty() { uri.path().to_owned() } else { format!("{}?{}", uri.path(), rest.join("&")) };
    let target = Uri::try_from(target).map_err(|error| error.to_string())?;
    Ok(Some((id, target)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(uri: &str) -> Option<(String, String)> {
        origin(&uri.parse().unwrap()).unwrap().map(|(id, rest)| (id, rest.to_string()))
    }

    #[test]
    fn the_origin_is_taken_out_of_the_query_and_nothing_else_is_changed() {
        for (uri, id, rest) in [
            ("/api/v1/raw?origin=a-b-1", "a-b-1", "/api/v1/raw"),
            ("/api/v1/raw?x=%2F&origin=a%20b&&y=1+2", "a b", "/api/v1/raw?x=%2F&&y=1+2"),
            ("/api/v1/raw?origin=&rpc=query", "", "/api/v1/raw?rpc=query"),
            ("/api/v1/raw?origin", "", "/api/v1/raw"),
        ] {
            assert_eq!(split(uri), Some((id.to_owned(), rest.to_owned())), "{uri}");
        }
        for uri in ["/api/v1/raw", "/api/v1/raw?", "/api/v1/raw?origins=a&my_origin=b"] {
            assert_eq!(split(uri), None, "{uri}");
        }
        assert!(origin(&"/?origin=a&origin=a".parse().unwrap()).is_err());
    }

    #[test]
    fn a_page_is_what_was_asked_for_and_what_makes_no_sense_is_the_default_as_in_srs() {
        let page = |start, count| page(start, count).map(|page| (page.start, page.count));
        assert_eq!(page(None, None), Ok((0, 10)));
        assert_eq!(page(Some("5"), Some("3")), Ok((5, 3)));
        assert_eq!(page(Some("-5"), Some("x")), Ok((0, 10)));
        assert_eq!(page(Some(""), Some("0")), Ok((0, 10)));
        assert_eq!(page(Some("99990"), None), Ok((99_990, 10)));
        for (start, count) in [("99991", "10"), ("0", "100001"), ("99999999999999999999999", "1")] {
            assert!(page(Some(start), Some(count)).is_err(), "{start} {count}");
        }
    }

    #[test]
    fn origins_get_what_is_for_them_and_never_the_token_of_the_proxy() {
        let told = |authorization: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, HeaderValue::from_static(authorization));
            headers.insert("x-forwarded-for", HeaderValue::from_static("10.0.0.1"));
            let mut to = headers.clone();
            forward_credentials(&headers, Some([10, 0, 0, 2].into()), &mut to);
            assert_eq!(to["x-real-ip"], "10.0.0.2");
            assert_eq!(to["x-forwarded-for"], "10.0.0.1, 10.0.0.2");
            to.get(header::AUTHORIZATION).map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(told("Basic dTpw"), Some("Basic dTpw".into()));
        for secret in ["Bearer s3cret", "bearer s3cret", "s3cret", "Digest s3cret"] {
            assert_eq!(told(secret), None, "{secret}");
        }
    }
}
