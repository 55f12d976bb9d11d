//! Listeners, and the files that they and their connections may take. All listeners are bound before
//! anything is served, so that a start either succeeds as a whole or leaves nothing behind.

use std::{
    io::{self, ErrorKind},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use rlimit::Resource;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, UdpSocket, lookup_host},
    time::timeout,
};
use tracing::warn;

use crate::config::{Config, Listen, keys::Spec};

/// Connections that the kernel keeps until they are accepted; it may cap this lower.
const BACKLOG: i32 = 4096;
/// How long the name of a listen address may take to resolve.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Files that are neither clients nor origins: the log, listeners, timers, lookups.
const OTHER_FILES: u64 = 64;

/// Why a listener could not be opened. The message names the setting and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{setting}: cannot listen on {address}: {why}", why = self.why())]
pub struct ListenError {
    /// The setting that holds the address.
    pub setting: &'static str,
    /// The address.
    pub address: String,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

impl ListenError {
    fn why(&self) -> String {
        let setting = self.setting;
        match self.source.kind() {
            ErrorKind::AddrInUse => {
                format!("in use by another process: stop it or set {setting} to another port")
            }
            ErrorKind::PermissionDenied => {
                format!("not permitted: set {setting} to a port from 1024 up or grant CAP_NET_BIND_SERVICE")
            }
            ErrorKind::AddrNotAvailable => {
                format!("this machine has no such address: set {setting} to one that it has or to a port alone")
            }
            _ => self.source.to_string(),
        }
    }
}

/// Opens a TCP listener, whose address `setting` holds. Must be called within a runtime.
pub async fn listen(listen: &Listen, setting: &Spec) -> Result<TcpListener, ListenError> {
    let socket = bind(listen, open).await;
    socket.and_then(|socket| TcpListener::from_std(socket.into())).map_err(|source| refused(listen, setting, source))
}

/// Opens a UDP socket, whose address `setting` holds, with buffers of `buffer` bytes in each
/// direction as far as the system lets it. Must be called within a runtime.
pub async fn listen_udp(listen: &Listen, setting: &Spec, buffer: usize) -> Result<UdpSocket, ListenError> {
    let socket = bind(listen, |address| open_udp(address, buffer)).await;
    socket.and_then(|socket| UdpSocket::from_std(socket.into())).map_err(|source| refused(listen, setting, source))
}

/// Opens `count` UDP sockets on one address, among which the system spreads the clients, with buffers
/// of `buffer` bytes in each direction as far as the system lets it. A client stays with its socket.
pub async fn listen_udp_group(
    listen: &Listen,
    setting: &Spec,
    buffer: usize,
    count: usize,
) -> Result<Vec<std::net::UdpSocket>, ListenError> {
    let sockets = bind(listen, |address| open_udp_group(address, buffer, count)).await;
    let sockets = sockets.map_err(|source| refused(listen, setting, source))?;
    if let Some(granted) = sockets.first().and_then(|socket| granted(socket).ok()).filter(|granted| *granted < buffer) {
        warn!(
            setting = setting.name,
            wanted = buffer,
            granted,
            "the system allows a smaller socket buffer than PROXY_UDP_BUFFER: bursts may lose datagrams; raise \
             net.core.rmem_max and net.core.wmem_max"
        );
    }
    Ok(sockets.into_iter().map(Into::into).collect())
}

/// The smaller of a socket's buffers. Linux tells twice of what may be used.
fn granted(socket: &Socket) -> io::Result<usize> {
    let told = socket.recv_buffer_size()?.min(socket.send_buffer_size()?);
    Ok(if cfg!(target_os = "linux") { told / 2 } else { told })
}

fn refused(listen: &Listen, setting: &Spec, source: io::Error) -> ListenError {
    ListenError { setting: setting.name, address: listen.to_string(), source }
}

async fn bind<S>(listen: &Listen, open: impl Fn(SocketAddr) -> io::Result<S>) -> io::Result<S> {
    match &listen.host {
        None => on_all_addresses(listen.port, open),
        Some(host) => on_host(host, listen.port, open).await,
    }
}

/// Raises the limit on open files as far as the system lets it, and warns if that is too low for the
/// connections that the configuration allows: two files for a client, its own and its origin's, and one
/// for a session by UDP.
pub fn raise_file_limit(config: &Config) {
    let raised = Resource::NOFILE.get().and_then(|(_, hard)| Resource::NOFILE.set(hard, hard).map(|()| hard));
    let clients = config.rtmp.max_connections + config.http.max_connections;
    let sessions = config.webrtc.max_sessions + config.srt.max_sessions;
    let callers = config.api.max_connections + config.system.max_connections;
    let needed = (2 * clients + sessions + callers) as u64 + OTHER_FILES;
    match raised {
        Ok(limit) if limit >= needed => {}
        Ok(limit) => {
            warn!(
                limit,
                needed,
                "the limit on open files (ulimit -Hn) is too low for PROXY_RTMP_MAX_CONNECTIONS, \
                 PROXY_HTTP_MAX_CONNECTIONS, PROXY_WEBRTC_MAX_SESSIONS and PROXY_SRT_MAX_SESSIONS"
            );
        }
        Err(error) => warn!(%error, needed, "the limit on open files cannot be raised"),
    }
}

/// An IPv4 client of a dual-stack listener under its IPv4 address.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// One IPv6 socket that takes IPv4 as well; an IPv4 socket where the machine has no IPv6.
fn on_all_addresses<S>(port: u16, open: impl Fn(SocketAddr) -> io::Result<S>) -> io::Result<S> {
    match open((Ipv6Addr::UNSPECIFIED, port).into()) {
        Err(e) if !matches!(e.kind(), ErrorKind::AddrInUse | ErrorKind::PermissionDenied) => {
            open((Ipv4Addr::UNSPECIFIED, port).into())
        }
        opened => opened,
    }
}

/// The first address of the host that can be had, IPv4 first, as in the Go proxy.
async fn on_host<S>(host: &str, port: u16, open: impl Fn(SocketAddr) -> io::Result<S>) -> io::Result<S> {
    let resolved = timeout(RESOLVE_TIMEOUT, lookup_host((host, port))).await.map_err(|_| {
        io::Error::new(ErrorKind::TimedOut, format!("the name did not resolve within {RESOLVE_TIMEOUT:?}"))
    })??;
    let mut addresses: Vec<SocketAddr> = resolved.collect();
    addresses.sort_by_key(SocketAddr::is_ipv6);
    let mut failed = io::Error::new(ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match open(address) {
            Ok(socket) => return Ok(socket),
            Err(e) => failed = e,
        }
    }
    Err(failed)
}

fn open(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if let SocketAddr::V6(v6) = address {
        socket.set_only_v6(!v6.ip().is_unspecified())?;
    }
    // Connections of the last run that still linger must not keep a new run from its port.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

fn open_udp(address: SocketAddr, buffer: usize) -> io::Result<Socket> {
    let socket = unbound_udp(address, buffer)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn open_udp_group(address: SocketAddr, buffer: usize, count: usize) -> io::Result<Vec<Socket>> {
    // Alone first: a socket that shares its address would share it with another process, too, which
    // would then get a part of our clients.
    let alone = open_udp(address, buffer)?;
    let address = alone.local_addr()?;
    drop(alone);
    let shared = |_| {
        let socket = unbound_udp(address.as_socket().unwrap_or((Ipv6Addr::UNSPECIFIED, 0).into()), buffer)?;
        socket.set_reuse_port(true)?;
        socket.bind(&address)?;
        Ok(socket)
    };
    (0..count.max(1)).map(shared).collect()
}

fn unbound_udp(address: SocketAddr, buffer: usize) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if let SocketAddr::V6(v6) = address {
        socket.set_only_v6(!v6.ip().is_unspecified())?;
    }
    // The kernel takes what it allows (net.core.rmem_max), and says nothing of the rest.
    socket.set_recv_buffer_size(buffer)?;
    socket.set_send_buffer_size(buffer)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;
    use crate::config::keys::PROXY_RTMP_SERVER;

    async fn listen_on(host: Option<&str>, port: u16) -> Result<TcpListener, ListenError> {
        listen(&Listen { host: host.map(str::to_owned), port }, &PROXY_RTMP_SERVER.spec).await
    }

    #[tokio::test]
    async fn a_port_alone_takes_connections_over_ipv4() {
        let listener = listen_on(None, 0).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (client, accepted) = tokio::join!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)), listener.accept());
        assert!(client.is_ok() && accepted.is_ok());
    }

    #[tokio::test]
    async fn a_host_name_is_resolved_and_ipv4_comes_first() {
        let listener = listen_on(Some("localhost"), 0).await.unwrap();
        assert!(listener.local_addr().unwrap().ip().is_loopback());
    }

    #[tokio::test]
    async fn a_port_in_use_is_told_with_the_setting_and_what_to_do() {
        let taken = listen_on(Some("127.0.0.1"), 0).await.unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = listen_on(Some("127.0.0.1"), port).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "PROXY_RTMP_SERVER: cannot listen on 127.0.0.1:{port}: in use by another process: stop it or set \
                 PROXY_RTMP_SERVER to another port"
            )
        );
        // Taken by IPv4 alone is taken: half of the clients would reach somebody else.
        let error = listen_on(None, port).await.unwrap_err();
        assert_eq!(error.source.kind(), ErrorKind::AddrInUse);
    }

    async fn listen_group(port: u16, count: usize) -> Result<Vec<std::net::UdpSocket>, ListenError> {
        let listen = Listen { host: Some("127.0.0.1".into()), port };
        listen_udp_group(&listen, &crate::config::keys::PROXY_SRT_SERVER.spec, 65_536, count).await
    }

    #[tokio::test]
    async fn a_group_of_udp_sockets_has_one_address_and_shares_it_with_no_other() {
        let group = listen_group(0, 3).await.unwrap();
        let address = group[0].local_addr().unwrap();
        assert!(group.iter().all(|socket| socket.local_addr().unwrap() == address));
        let error = listen_group(address.port(), 3).await.unwrap_err();
        assert_eq!(error.source.kind(), ErrorKind::AddrInUse, "{error}");
        assert!(error.to_string().starts_with("PROXY_SRT_SERVER: "), "{error}");
    }

    #[tokio::test]
    async fn an_address_of_another_machine_is_told_as_such() {
        let error = listen_on(Some("192.0.2.1"), 0).await.unwrap_err().to_string();
        assert!(error.contains("192.0.2.1:0: this machine has no such address: set PROXY_RTMP_SERVER"), "{error}");
    }

    #[test]
    fn a_machine_without_ipv6_listens_on_ipv4() {
        let no_ipv6 = |address: SocketAddr| {
            if address.is_ipv6() { Err(io::Error::from(ErrorKind::Unsupported)) } else { Ok(address) }
        };
        assert_eq!(on_all_addresses(7, no_ipv6).unwrap(), (Ipv4Addr::UNSPECIFIED, 7).into());

        let in_use = |address: SocketAddr| {
            if address.is_ipv6() { Err(io::Error::from(ErrorKind::AddrInUse)) } else { Ok(address) }
        };
        assert!(on_all_addresses(7, in_use).is_err());
    }
}
