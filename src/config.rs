//! The configuration, as typed values. Where they come from is the loader.

use std::{fmt, net::IpAddr, path::PathBuf, time::Duration};

use crate::stream::Vhosts;

/// Everything that can be configured.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The RTMP server.
    pub rtmp: Rtmp,
    /// The system API.
    pub system: System,
    /// How connections to origins are made.
    pub upstream: Upstream,
    /// Placement of streams.
    pub balancer: Balancer,
    /// An origin that is registered by configuration.
    pub default_backend: Option<DefaultBackend>,
    /// The vhosts that are told apart.
    pub vhosts: Vhosts,
    /// Shutdown.
    pub drain: Drain,
    /// Logging.
    pub log: Log,
    /// Listeners of protocols that later versions serve; accepted, so that a configuration can be
    /// shared between versions.
    pub reserved: Reserved,
}

/// Where to listen: a port on all addresses, or one address and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// The address or host name; none means all addresses, IPv6 and IPv4.
    pub host: Option<String>,
    /// The port; 0 lets the system choose.
    pub port: u16,
}

/// Whether origins are told the address of the client (`PROXY_RTMP_REAL_IP`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RealIp {
    /// Only origins that say they are SRS.
    Auto,
    /// All origins.
    On,
    /// None.
    Off,
}

/// The RTMP server. All limits are per node.
#[derive(Debug, Clone, PartialEq)]
pub struct Rtmp {
    /// Where to listen.
    pub listen: Listen,
    /// Whether origins learn the client's address.
    pub real_ip: RealIp,
    /// How long a client may take for the handshake.
    pub handshake_timeout: Duration,
    /// How long a client may take from the handshake to publish or play.
    pub command_timeout: Duration,
    /// How long a session may go without one byte in either direction.
    pub idle_timeout: Duration,
    /// How long a peer may leave bytes waiting without taking any.
    pub send_timeout: Duration,
    /// Connections at once.
    pub max_connections: usize,
    /// Connections at once from one address.
    pub max_connections_per_ip: usize,
}

/// How connections to origins are made.
#[derive(Debug, Clone, PartialEq)]
pub struct Upstream {
    /// How long name resolution and connecting may take, for each origin tried.
    pub connect_timeout: Duration,
    /// How long an origin may take to answer the handshake, and again the first commands.
    pub answer_timeout: Duration,
    /// How many origins are tried for one client.
    pub max_attempts: usize,
    /// How often a suspect origin is probed.
    pub probe_interval: Duration,
}

/// The system API.
#[derive(Debug, Clone, PartialEq)]
pub struct System {
    /// Where to listen.
    pub listen: Listen,
    /// The bearer token that callers must show, if any.
    pub token: Option<Secret>,
    /// How long one request may take, its header and body included.
    pub timeout: Duration,
    /// Connections at once.
    pub max_connections: usize,
}

/// What nodes agree through (`PROXY_LOAD_BALANCER_TYPE`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BalancerType {
    /// One node, alone.
    Memory,
}

/// How an origin is chosen for a fresh stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// The less loaded of two chosen at random.
    PowerOfTwo,
    /// Any, at random.
    Random,
}

/// Placement of streams.
#[derive(Debug, Clone, PartialEq)]
pub struct Balancer {
    /// What nodes agree through.
    pub kind: BalancerType,
    /// How an origin is chosen.
    pub policy: Policy,
    /// How long an origin counts as registered after its last heartbeat.
    pub origin_ttl: Duration,
    /// How long a placement outlives its last session.
    pub placement_hold: Duration,
    /// Registered origins at once.
    pub max_origins: usize,
    /// Placed streams at once.
    pub max_streams: usize,
}

/// An origin that is registered by configuration (`PROXY_DEFAULT_BACKEND_*`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefaultBackend {
    /// Address or host name.
    pub ip: String,
    /// RTMP endpoint.
    pub rtmp: String,
    /// HTTP stream endpoint.
    pub http: Option<String>,
    /// HTTP API endpoint.
    pub api: Option<String>,
    /// WebRTC endpoint.
    pub rtc: Option<String>,
    /// SRT endpoint.
    pub srt: Option<String>,
}

/// Shutdown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drain {
    /// How long sessions may go on after the first signal.
    pub grace: Duration,
    /// When the process ends, whatever is left.
    pub force: Duration,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Logging.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// A level, or filter directives as `tracing` takes them.
    pub filter: String,
    /// How lines are written.
    pub format: LogFormat,
}

/// Listeners and settings that later versions serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reserved {
    /// HTTP API.
    pub http_api: Listen,
    /// HTTP streams.
    pub http_server: Listen,
    /// WebRTC media.
    pub webrtc_server: Listen,
    /// SRT.
    pub srt_server: Listen,
    /// Files served beside the streams.
    pub static_files: Option<PathBuf>,
}

/// A text that never appears in logs or debug output.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// The secret itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Listen {
    /// Whether the listener can be reached from this machine only.
    pub fn is_loopback(&self) -> bool {
        self.host.as_deref().is_some_and(|h| h == "localhost" || h.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()))
    }
}
