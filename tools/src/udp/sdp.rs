//! Offers and answers, with what signalling looks at.

use std::{fmt::Write, net::SocketAddr};

use rand::distr::{Alphanumeric, SampleString};

/// What ICE knows a side by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user name fragment.
    pub ufrag: String,
    /// The password.
    pub password: String,
}

impl Credentials {
    /// New ones, as long as those of SRS.
    pub fn random() -> Self {
        let text = |len| Alphanumeric.sample_string(&mut rand::rng(), len);
        Self { ufrag: text(8), password: text(32) }
    }

    /// The first that a description names.
    pub fn of(sdp: &str) -> Option<Self> {
        let value = |name: &str| sdp.lines().find_map(|line| line.strip_prefix(name)).map(|v| v.trim().to_owned());
        Some(Self { ufrag: value("a=ice-ufrag:")?, password: value("a=ice-pwd:")? })
    }
}

/// What a browser offers to play, or to publish.
pub fn offer(credentials: &Credentials, publishes: bool) -> String {
    let direction = if publishes { "sendonly" } else { "recvonly" };
    description("- 4611731400430051336 2 IN IP4 127.0.0.1", "-", credentials, "a=setup:actpass", direction, None)
}

/// What SRS answers.
pub fn answer(credentials: &Credentials, publishes: bool, candidate: SocketAddr) -> String {
    let direction = if publishes { "recvonly" } else { "sendonly" };
    let origin = "SRS/bench 107408542208384 2 IN IP4 0.0.0.0";
    description(origin, "SRSPlaySession", credentials, "a=setup:passive", direction, Some(candidate))
}

/// The candidates of an answer.
pub fn candidates(sdp: &str) -> Vec<SocketAddr> {
    let values = sdp.lines().filter_map(|line| line.strip_prefix("a=candidate:"));
    let addresses = values.filter_map(|value| {
        let mut words = value.split_whitespace().skip(4);
        let (ip, port) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some(SocketAddr::new(ip, port))
    });
    addresses.collect()
}

fn description(
    origin: &str,
    name: &str,
    credentials: &Credentials,
    setup: &str,
    direction: &str,
    candidate: Option<SocketAddr>,
) -> String {
    let mut sdp = format!("v=0\r\no={origin}\r\ns={name}\r\nt=0 0\r\n");
    let lite = if candidate.is_some() { "a=ice-lite\r\n" } else { "" };
    let _ = write!(sdp, "{lite}a=group:BUNDLE 0 1\r\na=msid-semantic: WMS live/s\r\n");
    for (mid, kind, payload, codec) in [(0, "audio", 111, "opus/48000/2"), (1, "video", 106, "H264/90000")] {
        let _ = write!(
            sdp,
            "m={kind} 9 UDP/TLS/RTP/SAVPF {payload}\r\nc=IN IP4 0.0.0.0\r\na=ice-ufrag:{}\r\na=ice-pwd:{}\r\n\
             a=fingerprint:sha-256 {}\r\n{setup}\r\na=mid:{mid}\r\na={direction}\r\na=rtcp-mux\r\na=rtcp-rsize\r\n\
             a=rtpmap:{payload} {codec}\r\na=ssrc:{payload} cname:bench\r\n",
            credentials.ufrag,
            credentials.password,
            ["AB"; 32].join(":"),
        );
        if let Some(at) = candidate {
            let _ = write!(sdp, "a=candidate:0 1 udp 2130706431 {} {} typ host generation 0\r\n", at.ip(), at.port());
        }
    }
    sdp
}
