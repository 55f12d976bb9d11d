//! The yardstick: a relay that moves bytes and knows nothing of what they mean.
//!
//! A connection that waits holds no buffer: one is taken from the pool when there is something to
//! read, and is back in it before the next wait.

use std::{cell::RefCell, io, net::SocketAddr, time::Duration};

use tokio::{
    io::Interest,
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::Result;

/// The size of a buffer in bytes.
const BUFFER: usize = 64 * 1024;
/// Buffers that a thread keeps.
const MAX_POOLED: usize = 16;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

thread_local! {
    static POOL: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// Relays until it is killed. The arguments are the address to listen on and that of the origin.
pub fn run(args: &[String]) -> Result<()> {
    let [listen, origin] = args else { return Err("usage: bare-relay LISTEN ORIGIN".into()) };
    let (listen, origin): (SocketAddr, SocketAddr) = (listen.parse()?, origin.parse()?);
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(serve(listen, origin))
}

async fn serve(listen: SocketAddr, origin: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(listen).await?;
    loop {
        let (client, _) = listener.accept().await?;
        tokio::spawn(async move {
            if let Ok(Ok(origin)) = timeout(CONNECT_TIMEOUT, TcpStream::connect(origin)).await {
                let _ = relay(&client, &origin).await;
            }
        });
    }
}

async fn relay(client: &TcpStream, origin: &TcpStream) -> io::Result<()> {
    client.set_nodelay(true)?;
    origin.set_nodelay(true)?;
    // The first end of either direction ends both, as when a client or an origin goes.
    tokio::select! {
        end = forward(client, origin) => end,
        end = forward(origin, client) => end,
    }
}

async fn forward(from: &TcpStream, to: &TcpStream) -> io::Result<()> {
    loop {
        from.ready(Interest::READABLE).await?;
        let mut buffer = take();
        match from.try_read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => write_all(to, &buffer[..n]).await?,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        give_back(buffer);
    }
}

async fn write_all(to: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match to.try_write(bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => to.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn take() -> Box<[u8]> {
    POOL.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; BUFFER].into_boxed_slice())
}

fn give_back(buffer: Box<[u8]>) {
    POOL.with_borrow_mut(|pool| {
        if pool.len() < MAX_POOLED {
            pool.push(buffer);
        }
    });
}
