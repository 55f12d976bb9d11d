//! An origin that sends one stream to whoever asks for any. It has a thread that receives, one that
//! sends and one for HTTP, so that it costs as little as can be beside a relay that is measured.

mod srt;
mod webrtc;

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use socket2::SockRef;

use super::{DATAGRAM, SOCKET_BUFFER};
use crate::Result;

/// How soon the threads notice that they are to end.
const TICK: Duration = Duration::from_millis(50);
const HTTP_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_REQUEST: usize = 64 * 1024;
/// An address is taken by its UDP port first, and TCP may have that one already.
const ATTEMPTS: usize = 20;

/// What it speaks, beside HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// WebRTC, with signalling by HTTP.
    Webrtc,
    /// SRT.
    Srt,
}

/// An origin, until it is dropped. HTTP and media have the same port.
pub struct Origin {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    socket: UdpSocket,
    kbps: u64,
    started: Instant,
    ended: AtomicBool,
    frozen: AtomicBool,
    received: AtomicU64,
    sent: AtomicU64,
    players: Players,
}

enum Players {
    Webrtc(webrtc::Players),
    Srt(srt::Players),
}

/// What is asked by HTTP.
struct Request<'a> {
    method: &'a str,
    path: &'a str,
    body: &'a str,
}

impl Origin {
    /// Starts one at `address`, whose port may be 0.
    pub fn start(protocol: Protocol, address: SocketAddr, kbps: u64) -> Result<Self> {
        let (socket, http) = bind(address)?;
        let address = socket.local_addr()?;
        let sock = SockRef::from(&socket);
        // The kernel's limit may be lower.
        let _ = sock.set_recv_buffer_size(SOCKET_BUFFER);
        let _ = sock.set_send_buffer_size(SOCKET_BUFFER);
        socket.set_read_timeout(Some(TICK))?;
        let players = match protocol {
            Protocol::Webrtc => Players::Webrtc(webrtc::Players::default()),
            Protocol::Srt => Players::Srt(srt::Players::default()),
        };
        let shared = Arc::new(Shared {
            socket,
            kbps,
            started: Instant::now(),
            ended: AtomicBool::new(false),
            frozen: AtomicBool::new(false),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            players,
        });
        http.set_nonblocking(true)?;
        for run in [receive as fn(&Shared), send] {
            let shared = Arc::clone(&shared);
            thread::spawn(move || run(&shared));
        }
        let serving = Arc::clone(&shared);
        thread::spawn(move || serve(&http, &serving));
        Ok(Self { address, shared })
    }

    /// How many players it sends to.
    pub fn players(&self) -> usize {
        self.shared.players.count()
    }

    /// Lets it neither read nor send any more, as if it hung, or takes that back.
    pub fn freeze(&self, frozen: bool) {
        self.shared.frozen.store(frozen, Relaxed);
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.ended.store(true, Relaxed);
    }
}

/// What an origin has received and sent so far, in datagrams.
#[derive(Debug, Clone, Copy)]
pub struct Moved {
    /// From players.
    pub received: u64,
    /// To players.
    pub sent: u64,
}

/// Asks an origin for what it has moved.
pub async fn moved(origin: SocketAddr) -> Result<Moved> {
    let answer = super::http::request(origin, "GET", "/moved", "").await?;
    let (received, sent) = answer.body.split_once(' ').ok_or("no counters")?;
    Ok(Moved { received: received.parse()?, sent: sent.parse()? })
}

fn bind(address: SocketAddr) -> Result<(UdpSocket, TcpListener)> {
    let mut failed = None;
    for _ in 0..ATTEMPTS {
        let socket = UdpSocket::bind(address)?;
        match TcpListener::bind(socket.local_addr()?) {
            Ok(listener) => return Ok((socket, listener)),
            Err(error) => failed = Some(error),
        }
    }
    Err(format!("an origin cannot listen on {address}: {failed:?}").into())
}

impl Shared {
    fn runs(&self) -> bool {
        while self.frozen.load(Relaxed) && !self.ended.load(Relaxed) {
            thread::sleep(TICK);
        }
        !self.ended.load(Relaxed)
    }

    /// Sends a datagram. A player that has gone is none of the origin's troubles.
    fn send_to(&self, datagram: &[u8], to: SocketAddr) {
        if self.socket.send_to(datagram, to).is_ok() {
            self.sent.fetch_add(1, Relaxed);
        }
    }

    /// Microseconds since the origin started.
    fn timestamp(&self) -> u32 {
        self.started.elapsed().as_micros() as u32
    }
}

impl Players {
    fn count(&self) -> usize {
        match self {
            Self::Webrtc(players) => players.count(),
            Self::Srt(players) => players.count(),
        }
    }
}

fn receive(origin: &Shared) {
    let mut buffer = [0; DATAGRAM];
    while origin.runs() {
        let Ok((len, from)) = origin.socket.recv_from(&mut buffer) else { continue };
        origin.received.fetch_add(1, Relaxed);
        match &origin.players {
            Players::Webrtc(players) => players.received(origin, &buffer[..len], from),
            Players::Srt(players) => players.received(origin, &buffer[..len], from),
        }
    }
}

fn send(origin: &Shared) {
    match &origin.players {
        Players::Webrtc(players) => players.send(origin),
        Players::Srt(players) => players.send(origin),
    }
}

fn serve(listener: &TcpListener, origin: &Shared) {
    while origin.runs() {
        match listener.accept() {
            // A request that breaks off is its client's affair.
            Ok((client, _)) => drop(answer(client, origin)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(2)),
            Err(_) => thread::sleep(TICK),
        }
    }
}

fn answer(mut client: TcpStream, origin: &Shared) -> Result<()> {
    client.set_nonblocking(false)?;
    client.set_read_timeout(Some(HTTP_TIMEOUT))?;
    let mut read = Vec::new();
    let mut piece = [0; 4096];
    let (head, body_at) = loop {
        let len = client.read(&mut piece)?;
        read.extend_from_slice(&piece[..len]);
        if let Some(end) = read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break (String::from_utf8_lossy(&read[..end]).into_owned(), end + 4);
        }
        if len == 0 || read.len() > MAX_REQUEST {
            return Ok(());
        }
    };
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let mut body = read.split_off(body_at);
    let have = body.len();
    body.resize(length.unwrap_or(0).min(MAX_REQUEST), 0);
    client.read_exact(body.get_mut(have..).unwrap_or_default())?;

    let body = String::from_utf8_lossy(&body);
    let mut words = head.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let request = Request { method, path, body: &body };
    let response = match &origin.players {
        _ if path == "/moved" => {
            let (received, sent) = (origin.received.load(Relaxed), origin.sent.load(Relaxed));
            response("200 OK", "", &format!("{received} {sent}"))
        }
        Players::Webrtc(players) => players.signalling(origin, &request),
        Players::Srt(_) => response("404 Not Found", "", ""),
    };
    Ok(client.write_all(response.as_bytes())?)
}

/// `headers` end with a line break each.
fn response(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
