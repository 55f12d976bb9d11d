//! Headers of messages that are passed on: what stays behind, and what the next server is told of who
//! asks (RFC 9110, section 7.6).

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};

const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Headers that say something of one connection only.
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
pub(super) fn strip_hop_by_hop(headers: &mut HeaderMap) {
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

/// Tells whose request this is, behind what proxies before this one have told in `from`. The address
/// cannot be claimed.
pub(super) fn set_forwarded_for(from: &HeaderMap, peer: IpAddr, to: &mut HeaderMap) {
    let peer = peer.to_string();
    let so_far = from.get_all(X_FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok());
    let chain: Vec<_> = so_far.chain([peer.as_str()]).collect();
    if let Ok(chain) = HeaderValue::from_str(&chain.join(", ")) {
        to.insert(X_FORWARDED_FOR, chain);
    }
    if let Ok(peer) = HeaderValue::from_str(&peer) {
        to.insert(X_REAL_IP, peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        list.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn what_belongs_to_one_connection_is_removed_and_nothing_else() {
        let mut headers = headers(&[
            ("connection", "close, X-Private"),
            ("x-private", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("content-type", "text/plain"),
            ("set-cookie", "a=1"),
        ]);
        strip_hop_by_hop(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-type", "set-cookie"]);
    }

    #[test]
    fn an_address_cannot_be_claimed_but_the_way_so_far_is_kept() {
        let from = headers(&[("x-forwarded-for", "1.1.1.1, 2.2.2.2"), ("x-real-ip", "1.1.1.1")]);
        let mut to = from.clone();
        set_forwarded_for(&from, [192, 0, 2, 7].into(), &mut to);
        assert_eq!(to["x-forwarded-for"], "1.1.1.1, 2.2.2.2, 192.0.2.7");
        assert_eq!(to["x-real-ip"], "192.0.2.7");
    }
}
