//! Which headers cross this node, and which are its own (RFC 9110, section 7.6).

use std::{fmt::Write, net::SocketAddr, time::SystemTime};

use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header};

use crate::server::forwarding::{set_forwarded_for, strip_hop_by_hop};

const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const ANY: HeaderValue = HeaderValue::from_static("*");

/// The host that a request names; empty if it names none.
pub(super) fn host<B>(request: &Request<B>) -> &str {
    let header = || request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    request.uri().authority().map(axum::http::uri::Authority::as_str).or_else(header).unwrap_or_default()
}

/// The headers of a client's request as the origin gets them. Where the client names no host, the
/// origin gets its own, `address`.
pub(super) fn to_origin<B>(request: &Request<B>, peer: SocketAddr, address: &str) -> HeaderMap {
    let mut headers = request.headers().clone();
    strip_hop_by_hop(&mut headers);
    headers.remove(header::CONTENT_LENGTH);

    let name = match host(request) {
        "" => address,
        host => host,
    };
    if let Ok(host) = HeaderValue::from_str(name) {
        if !headers.contains_key(X_FORWARDED_HOST) {
            headers.insert(X_FORWARDED_HOST, host.clone());
        }
        headers.insert(header::HOST, host);
    }
    headers.entry(X_FORWARDED_PROTO).or_insert(HeaderValue::from_static("http"));
    set_forwarded_for(request.headers(), peer.ip(), &mut headers);
    headers
}

/// The body of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    /// It has a length.
    Measured,
    /// Its end is found by looking into it.
    Coded,
}

/// How the end of a body is found (RFC 9112, section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// By its length, or by the end of the connection.
    Plain,
    /// By the last chunk.
    Chunked,
    /// In a way that is not known here.
    Other,
}

/// How a request says that it has a body, if it does (RFC 9112, section 6.3).
pub(super) fn body(headers: &HeaderMap) -> Option<Body> {
    if headers.contains_key(header::TRANSFER_ENCODING) {
        return Some(Body::Coded);
    }
    let is_empty = |length: &HeaderValue| length.as_bytes().iter().all(|digit| *digit == b'0');
    (!headers.get_all(header::CONTENT_LENGTH).iter().all(is_empty)).then_some(Body::Measured)
}

/// How an answer's body is framed.
pub(super) fn framing(headers: &HeaderMap) -> Framing {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next().map(HeaderValue::as_bytes), codings.next()) {
        (None, _) => Framing::Plain,
        (Some(coding), None) if coding.trim_ascii().eq_ignore_ascii_case(b"chunked") => Framing::Chunked,
        _ => Framing::Other,
    }
}

/// The head of an answer whose body goes on until the connection ends.
pub(super) fn head(status: StatusCode, headers: &HeaderMap, framing: Framing) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {} {}\r\n", status.as_u16(), status.canonical_reason().unwrap_or_default());
    if !headers.contains_key(header::DATE) {
        let _ = write!(head, "date: {}\r\n", httpdate::HttpDate::from(SystemTime::now()));
    }
    if framing == Framing::Chunked {
        head.push_str("transfer-encoding: chunked\r\n");
    }
    head.push_str("connection: close\r\n");
    let mut head = head.into_bytes();
    for (name, value) in headers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            head.extend_from_slice(part);
        }
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// Lets pages of every site fetch this (CORS), as the Go proxy does, unless the origin has said who may.
pub(super) fn allow_every_origin(headers: &mut HeaderMap) {
    if headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN) {
        return;
    }
    for name in [
        header::ACCESS_CONTROL_ALLOW_ORIGIN,
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        header::ACCESS_CONTROL_ALLOW_METHODS,
        header::ACCESS_CONTROL_EXPOSE_HEADERS,
    ] {
        headers.insert(name, ANY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(&str, &str)]) -> Request<()> {
        let builder = headers.iter().fold(Request::get("/a"), |builder, (name, value)| builder.header(*name, *value));
        builder.body(()).unwrap()
    }

    fn peer() -> SocketAddr {
        ([192, 0, 2, 7], 4000).into()
    }

    #[test]
    fn the_origin_learns_who_asks_and_under_which_name() {
        let headers = to_origin(&request(&[("host", "a.com:8080"), ("cookie", "x")]), peer(), "10.0.0.1:80");
        for (name, value) in [
            ("host", "a.com:8080"),
            ("x-forwarded-host", "a.com:8080"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-for", "192.0.2.7"),
            ("x-real-ip", "192.0.2.7"),
            ("cookie", "x"),
        ] {
            assert_eq!(headers[name], value, "{name}");
        }
        assert_eq!(to_origin(&request(&[]), peer(), "10.0.0.1:80")["host"], "10.0.0.1:80");
    }

    #[test]
    fn what_proxies_before_this_one_said_is_kept_but_an_address_cannot_be_claimed() {
        let given = [("x-forwarded-for", "1.1.1.1, 2.2.2.2"), ("x-forwarded-proto", "https"), ("x-real-ip", "1.1.1.1")];
        let headers = to_origin(&request(&given), peer(), "o");
        assert_eq!(headers["x-forwarded-for"], "1.1.1.1, 2.2.2.2, 192.0.2.7");
        assert_eq!(headers["x-forwarded-proto"], "https");
        assert_eq!(headers["x-real-ip"], "192.0.2.7");
    }

    #[test]
    fn what_concerns_one_connection_only_stays_on_it() {
        let given = [("connection", "close, X-Mine"), ("x-mine", "1"), ("te", "trailers"), ("content-length", "0")];
        let headers = to_origin(&request(&given), peer(), "o");
        for name in ["connection", "x-mine", "te", "content-length"] {
            assert!(!headers.contains_key(name), "{name}");
        }
    }

    #[test]
    fn the_origins_own_word_on_who_may_fetch_counts() {
        let mut headers = HeaderMap::new();
        allow_every_origin(&mut headers);
        assert_eq!(headers["access-control-allow-origin"], "*");
        let mut own = HeaderMap::new();
        own.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("https://a.com"));
        allow_every_origin(&mut own);
        assert_eq!(own["access-control-allow-origin"], "https://a.com");
        assert_eq!(own.len(), 1);
    }
}
