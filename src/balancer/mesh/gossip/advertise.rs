//! Under which address the other nodes reach this one.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    net::UdpSocket,
    time::{Instant, sleep, timeout_at},
};
use tracing::{info, warn};

use super::seeds;
use crate::config::Seed;

/// How long to try to look up the configured name, which a cluster may publish a moment after the
/// start, and again the seeds.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait between two tries.
const RETRY_INTERVAL: Duration = Duration::from_millis(250);
/// Addresses that nobody has (RFC 5737, RFC 3849), but to which every default route leads.
const UNUSED_ADDRESSES: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];

/// Under which address and name other nodes reach this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advertised {
    /// The address for gossip.
    pub ip: IpAddr,
    /// The address or name for gRPC, in brackets if it is an IPv6 address.
    pub host: String,
}

impl Advertised {
    fn new(ip: IpAddr, host: Option<&str>) -> Self {
        let host = match ip {
            _ if let Some(host) = host => host.to_owned(),
            IpAddr::V4(v4) => v4.to_string(),
            IpAddr::V6(v6) => format!("[{v6}]"),
        };
        Self { ip, host }
    }
}

/// Finds out the address: the configured one, or the one that is listened on, or the one from which
/// the first seed is reached, or the primary one.
pub async fn advertised(configured: Option<&str>, listening: SocketAddr, own: &[Seed]) -> Advertised {
    let (advertised, because) = choose(configured, listening, own).await;
    info!(ip = %advertised.ip, host = advertised.host, because, "other nodes reach this one here");
    advertised
}

async fn choose(configured: Option<&str>, listening: SocketAddr, own: &[Seed]) -> (Advertised, &'static str) {
    if let Some(host) = configured {
        if let Ok(ip) = host.parse() {
            return (Advertised::new(ip, None), "PROXY_MESH_ADVERTISE_HOST");
        }
        let seed = Seed { host: host.to_owned(), port: listening.port() };
        if let Some(found) = first_address(&[seed], listening).await {
            return (Advertised::new(found.ip(), Some(host)), "PROXY_MESH_ADVERTISE_HOST");
        }
        warn!(host, "PROXY_MESH_ADVERTISE_HOST cannot be looked up; another address is used");
    }
    if !listening.ip().to_canonical().is_unspecified() {
        return (Advertised::new(listening.ip().to_canonical(), None), "the listener's address");
    }
    if let Some(seed) = first_address(own, listening).await
        && let Ok(ip) = source(seed).await
    {
        return (Advertised::new(ip, None), "the address from which the first seed is reached");
    }
    for elsewhere in UNUSED_ADDRESSES {
        if let Ok(ip) = source(SocketAddr::new(elsewhere, 9)).await {
            return (Advertised::new(ip, None), "the primary address");
        }
    }
    (Advertised::new(Ipv4Addr::LOCALHOST.into(), None), "no other address was found")
}

/// The first address of the first of these that has one. IPv4 comes first, and only what the listener
/// can serve counts.
async fn first_address(seeds: &[Seed], listening: SocketAddr) -> Option<SocketAddr> {
    if seeds.is_empty() {
        return None;
    }
    let deadline = Instant::now() + LOOKUP_TIMEOUT;
    loop {
        for seed in seeds {
            let Ok(Ok(mut found)) = timeout_at(deadline, seeds::lookup(seed)).await else { continue };
            found.retain(|address| address.is_ipv4() || listening.is_ipv6());
            if let Some(first) = found.into_iter().min_by_key(SocketAddr::is_ipv6) {
                return Some(first);
            }
        }
        if Instant::now() + RETRY_INTERVAL >= deadline {
            return None;
        }
        sleep(RETRY_INTERVAL).await;
    }
}

/// The address that the system would send from. Nothing is sent.
async fn source(to: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(to).await?;
    Ok(socket.local_addr()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn chosen(configured: Option<&str>, listening: &str, seeds: &[(&str, u16)]) -> (String, String) {
        let seeds: Vec<_> = seeds.iter().map(|(host, port)| Seed { host: (*host).into(), port: *port }).collect();
        let (advertised, _) = choose(configured, listening.parse().unwrap(), &seeds).await;
        (advertised.ip.to_string(), advertised.host)
    }

    fn both(ip: &str, host: &str) -> (String, String) {
        (ip.into(), host.into())
    }

    #[tokio::test]
    async fn what_is_configured_counts_before_what_is_listened_on_before_the_way_to_a_seed() {
        assert_eq!(chosen(Some("10.1.2.3"), "127.0.0.1:1", &[]).await, both("10.1.2.3", "10.1.2.3"));
        assert_eq!(chosen(Some("2001:db8::7"), "[::]:1", &[]).await, both("2001:db8::7", "[2001:db8::7]"));
        assert_eq!(chosen(Some("localhost"), "0.0.0.0:1", &[]).await, both("127.0.0.1", "localhost"));
        assert_eq!(chosen(None, "127.0.0.9:1", &[("127.0.0.1", 1)]).await, both("127.0.0.9", "127.0.0.9"));
        assert_eq!(chosen(None, "[::1]:1", &[]).await, both("::1", "[::1]"));
        assert_eq!(chosen(None, "0.0.0.0:1", &[("127.0.0.1", 1)]).await, both("127.0.0.1", "127.0.0.1"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_cannot_be_looked_up_gives_way_to_an_address_that_works() {
        let found = chosen(Some("no-such-host.invalid"), "127.0.0.1:1", &[]).await;
        assert_eq!(found, both("127.0.0.1", "127.0.0.1"));
    }
}
