//! How an address is written (RFC 3986, section 3.2).

use std::fmt::Display;

/// `host:port`, with brackets around an IPv6 address.
pub(crate) fn host_port(host: &str, port: impl Display) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}
