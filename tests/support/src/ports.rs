//! Ports for programs that cannot choose one themselves and tell it.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    ops::Range,
};

use rand::RngExt;

/// Below the range from which the system takes ports for outgoing connections, so that the port of
/// an origin that is down for a moment stays free for its return.
const PORTS: Range<u16> = 12_000..32_000;

/// An address on which nobody listens. Somebody may take it before it is used: try again then.
pub fn free_port() -> SocketAddr {
    let mut random = rand::rng();
    (0..1000)
        .map(|_| SocketAddr::from((Ipv4Addr::LOCALHOST, random.random_range(PORTS))))
        .find(|address| TcpListener::bind(address).is_ok())
        .expect("a free port")
}

/// Whether somebody listens on a loopback address. Does not connect: some servers take one client.
pub fn is_listening(address: SocketAddr) -> bool {
    const LISTEN: &str = "0A";
    let local = format!("0100007F:{:04X}", address.port());
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).any(|f| f[1] == local && f[3] == LISTEN)
}
