//! An origin: a media server that holds streams, as it describes itself by heartbeat.

pub mod heartbeat;

use std::{fmt, net::IpAddr, sync::Arc};

/// The identity of one run of an origin: `{server_id}-{service_id}-{pid}`, as in the Go proxy's
/// Redis keys. A restart makes a new one. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OriginId(Arc<str>);

impl OriginId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for OriginId {
    fn from(id: &str) -> Self {
        Self(id.into())
    }
}

impl fmt::Display for OriginId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for OriginId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OriginId({})", self.0)
    }
}

/// A protocol that an origin can serve on endpoints of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// RTMP over TCP.
    Rtmp,
    /// HTTP streams and files: FLV, TS, HLS, DASH.
    Http,
    /// The origin's HTTP API, WHIP and WHEP signalling included.
    Api,
    /// SRT over UDP.
    Srt,
    /// WebRTC media over UDP.
    Rtc,
}

impl Protocol {
    /// All protocols, in the order in which a heartbeat names them.
    pub const ALL: [Self; 5] = [Self::Rtmp, Self::Http, Self::Api, Self::Srt, Self::Rtc];

    /// The name of the protocol, which is also the heartbeat's field.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rtmp => "rtmp",
            Self::Http => "http",
            Self::Api => "api",
            Self::Srt => "srt",
            Self::Rtc => "rtc",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where an origin listens: `port`, `proto://:port` or `proto://ip:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    text: String,
    host: Option<String>,
    port: u16,
}

/// Why a text is not an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an endpoint: expected PORT, PROTO://:PORT or PROTO://IP:PORT with a port from 1 to 65535")]
pub struct EndpointError(String);

impl Endpoint {
    /// Parses the forms that SRS sends. A wildcard address (`0.0.0.0`, `::`) names no host.
    pub fn parse(text: &str) -> Result<Self, EndpointError> {
        let bad = || EndpointError(text.chars().take(64).collect());
        let port = |digits: &str| match digits.parse::<u16>() {
            Ok(port) if port > 0 && digits.bytes().all(|b| b.is_ascii_digit()) => Ok(port),
            _ => Err(bad()),
        };
        let text = text.trim();
        let rest = match text.split_once("://") {
            Some((proto, rest)) if !proto.is_empty() && proto.bytes().all(|b| b.is_ascii_alphanumeric()) => rest,
            Some(_) => return Err(bad()),
            None if !text.contains(':') => return Ok(Self { text: text.into(), host: None, port: port(text)? }),
            None => text,
        };
        let (host, digits) = rest.rsplit_once(':').ok_or_else(bad)?;
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        let host = match host.parse::<IpAddr>() {
            Ok(ip) if ip.is_unspecified() => None,
            Ok(ip) => Some(ip.to_string()),
            Err(_) if host.is_empty() => None,
            Err(_) if is_host_name(host) => Some(host.to_owned()),
            Err(_) => return Err(bad()),
        };
        Ok(Self { text: text.into(), host, port: port(digits)? })
    }

    /// The text as the origin sent it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The port.
    pub const fn port(&self) -> u16 {
        self.port
    }
}

/// A media server that registered itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Origin {
    /// The server's own id; a restart keeps it.
    pub server_id: String,
    /// The id of this run of the server; a restart changes it.
    pub service_id: String,
    /// The process id.
    pub pid: String,
    /// A name that the operator gave, for people.
    pub device_id: String,
    /// The address or host name by which the proxy reaches the origin.
    pub ip: String,
    /// RTMP endpoints, never empty.
    pub rtmp: Vec<Endpoint>,
    /// HTTP stream endpoints.
    pub http: Vec<Endpoint>,
    /// HTTP API endpoints.
    pub api: Vec<Endpoint>,
    /// SRT endpoints.
    pub srt: Vec<Endpoint>,
    /// WebRTC endpoints.
    pub rtc: Vec<Endpoint>,
    /// `User-Agent` of the heartbeat, such as `SRS/7.0.18(Hang)`; empty if unknown.
    pub software: String,
    /// CPU use of the origin's machine, 0 to 1, where the heartbeat carries summaries.
    pub cpu: Option<f32>,
}

impl Origin {
    /// The identity of this run of the origin.
    pub fn id(&self) -> OriginId {
        OriginId(format!("{}-{}-{}", self.server_id, self.service_id, self.pid).into())
    }

    /// The endpoints that serve `protocol`.
    pub fn endpoints(&self, protocol: Protocol) -> &[Endpoint] {
        match protocol {
            Protocol::Rtmp => &self.rtmp,
            Protocol::Http => &self.http,
            Protocol::Api => &self.api,
            Protocol::Srt => &self.srt,
            Protocol::Rtc => &self.rtc,
        }
    }

    /// Whether the origin serves `protocol` at all.
    pub fn serves(&self, protocol: Protocol) -> bool {
        !self.endpoints(protocol).is_empty()
    }

    /// Host (address or name) and port of the first endpoint for `protocol`.
    pub fn address(&self, protocol: Protocol) -> Option<(&str, u16)> {
        let endpoint = self.endpoints(protocol).first()?;
        Some((endpoint.host.as_deref().unwrap_or(&self.ip), endpoint.port))
    }

    /// Whether the origin is SRS by its own word. Other servers do not know SRS's extensions.
    pub fn is_srs(&self) -> bool {
        self.software.starts_with("SRS/")
    }
}

/// Whether `name` can be a host name (RFC 1123, and `_` as container platforms use it).
pub(crate) fn is_host_name(name: &str) -> bool {
    (1..=253).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        && name.bytes().any(|b| b.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_in_every_form_that_srs_sends() {
        for (text, host, port) in [
            ("1935", None, 1935),
            (" 1935 ", None, 1935),
            ("tcp://:1935", None, 1935),
            ("tcp://0.0.0.0:1935", None, 1935),
            ("udp://[::]:8000", None, 8000),
            ("udp://10.0.0.2:8000", Some("10.0.0.2"), 8000),
            ("udp://[2001:db8::1]:8000", Some("2001:db8::1"), 8000),
            ("tcp://origin-1.local:1935", Some("origin-1.local"), 1935),
            ("127.0.0.1:1935", Some("127.0.0.1"), 1935),
            (":1935", None, 1935),
        ] {
            let endpoint = Endpoint::parse(text).unwrap();
            assert_eq!((endpoint.host.as_deref(), endpoint.port), (host, port), "{text}");
        }
    }

    #[test]
    fn what_is_no_endpoint_is_refused() {
        for text in
            ["", "notaport", "0", "65536", "-1", "+1935", "tcp://", "tcp://:", "tcp://:0", "://:1935", "tcp://a b:1935"]
        {
            assert!(Endpoint::parse(text).is_err(), "{text}");
        }
    }
}
