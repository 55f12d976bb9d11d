//! Connections to origins: names looked up, sockets tuned.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::{
    net::{TcpStream, lookup_host},
    time::{Instant, timeout},
};

use crate::error::{Error, Kind, Result};
use crate::sync::lock;

/// How long the addresses of a name are used before it is looked up again.
const FRESH: Duration = Duration::from_secs(5);
/// How many names are remembered.
const MAX_NAMES: usize = 1024;

/// Connects to origins, and remembers what their names stand for. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Dialer {
    names: Arc<Mutex<Names>>,
}

/// When each was looked up, and what it stands for.
type Names = HashMap<String, (Instant, Vec<IpAddr>)>;

impl Dialer {
    /// Connects to the first address of `host` that takes the connection, within `limit`, lookup
    /// included. All errors are of the origin's side.
    pub async fn connect(&self, host: &str, port: u16, limit: Duration) -> Result<TcpStream> {
        let failed = |what: &str, e: io::Error| Error::origin(Kind::Connect, format!("{what} {host}:{port}: {e}"));
        let connecting = async {
            let mut last = None;
            for ip in self.resolve(host).await.map_err(|e| failed("resolving", e))? {
                match TcpStream::connect(SocketAddr::new(ip, port)).await {
                    Ok(stream) => return Ok(stream),
                    Err(error) => last = Some(failed("connecting to", error)),
                }
            }
            // The name may have moved on.
            self.forget(host);
            Err(last.unwrap_or_else(|| Error::origin(Kind::Connect, format!("{host} has no address"))))
        };
        let stream = timeout(limit, connecting).await.unwrap_or_else(|_| {
            self.forget(host);
            let message = format!("connecting to {host}:{port}: no answer in {limit:?}");
            Err(Error::origin(Kind::Timeout, message))
        })?;
        tune(&stream).map_err(|e| failed("preparing the connection to", e))?;
        Ok(stream)
    }

    /// The addresses of `host`, looked up within `limit`; at least one. All errors are of the origin's
    /// side.
    pub async fn lookup(&self, host: &str, limit: Duration) -> Result<Vec<IpAddr>> {
        let failed = |why: String| Error::origin(Kind::Connect, format!("resolving {host}: {why}"));
        match timeout(limit, self.resolve(host)).await {
            Ok(Ok(addresses)) if !addresses.is_empty() => Ok(addresses),
            Ok(Ok(_)) => Err(failed("it has no address".into())),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(_) => Err(failed(format!("no answer in {limit:?}"))),
        }
    }

    async fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        if let Ok(ip) = host.parse() {
            return Ok(vec![ip]);
        }
        if let Some((_, addresses)) = self.names().get(host).filter(|(since, _)| since.elapsed() < FRESH) {
            return Ok(addresses.clone());
        }
        let addresses: Vec<_> = lookup_host((host, 0)).await?.map(|address| address.ip()).collect();
        let mut names = self.names();
        if names.len() >= MAX_NAMES {
            names.clear();
        }
        names.insert(host.to_owned(), (Instant::now(), addresses.clone()));
        Ok(addresses)
    }

    fn forget(&self, host: &str) {
        self.names().remove(host);
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        lock(&self.names)
    }
}

/// No Nagle: what goes out together is put together by hand. Keep-alive finds peers that vanished.
pub fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(10))
        .with_retries(3);
    socket2::SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn a_name_is_looked_up_once_for_many_connections_and_again_after_a_failure() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let dialer = Dialer::default();
        dialer.connect("localhost", port, LIMIT).await.unwrap();
        let since = dialer.names()["localhost"].0;
        dialer.connect("localhost", port, LIMIT).await.unwrap();
        assert_eq!(dialer.names()["localhost"].0, since);

        drop(listener);
        let error = dialer.connect("localhost", port, LIMIT).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Connect);
        assert!(error.is_retryable() && error.to_string().contains(&format!("localhost:{port}")), "{error}");
        assert!(dialer.names().is_empty());
    }

    #[tokio::test]
    async fn names_that_come_and_go_do_not_fill_memory() {
        let dialer = Dialer::default();
        for n in 0..3 * MAX_NAMES {
            dialer.names().insert(n.to_string(), (Instant::now(), Vec::new()));
            if n % 100 == 0 {
                dialer.resolve("localhost").await.unwrap();
                dialer.forget("localhost");
            }
        }
        assert!(dialer.names().len() <= MAX_NAMES + 100);
    }
}
