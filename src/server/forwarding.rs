//! Headers of a message that crosses this node: what stays behind, and what is said of whoever sent it.

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};

const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Headers that say something of one connection only (RFC 9110, section 7.6.1).
const HOP_BY_HOP: [HeaderName; 10] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::EXPECT,
];

/// Takes out what says something of one connection only.
pub(super) fn end_to_end(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|names| names.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// Writes into `to` whose request it is that came with the headers `from`. What other proxies said is
/// kept, but nobody can claim an address of his own.
pub(super) fn tell_address(peer: IpAddr, from: &HeaderMap, to: &mut HeaderMap) {
    let ip = peer.to_string();
    let so_far = from.get_all(X_FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok());
    let chain: Vec<_> = so_far.chain([ip.as_str()]).collect();
    if let Ok(chain) = HeaderValue::from_str(&chain.join(", ")) {
        to.insert(X_FORWARDED_FOR, chain);
    }
    if let Ok(ip) = HeaderValue::from_str(&ip) {
        to.insert(X_REAL_IP, ip);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_one_connection_is_removed_and_nothing_else() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Private"),
            ("x-private", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("content-type", "text/plain"),
            ("set-cookie", "a=1"),
        ] {
            headers.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        end_to_end(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-type", "set-cookie"]);
    }
}
