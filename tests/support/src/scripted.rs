//! A node in this process, and RTMP peers that say exactly what a test tells them to.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use srs_proxy::{
    balancer::{Balancer, memory::MemoryBalancer},
    codec::rtmp::{
        amf0::Value,
        chunk::{Action, Inspect, Interest, Scanner},
        command::Command,
        edits::Edits,
        handshake,
        message::{Header, kind},
    },
    config::{self, BalancerType, Listen, RealIp},
    metrics::{Metrics, balancer::Measured, scrape::Sources},
    origin::{Endpoint, Origin},
    relay::{buffer::Pool, workers::Workers},
    server::rtmp,
    session::Sessions,
    stream::Vhosts,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// No wait in a test takes longer.
pub const LIMIT: Duration = Duration::from_secs(10);

/// The RTMP server of a node, with the memory balancer.
pub struct Node {
    pub address: SocketAddr,
    pub balancer: Arc<MemoryBalancer>,
    pub sessions: Sessions,
    pub metrics: Metrics,
    pub closing: CancellationToken,
    pub context: Arc<rtmp::Context>,
    stop: CancellationToken,
}

/// The defaults, with waits that suit a test.
pub fn settings() -> (config::Rtmp, config::Upstream) {
    let rtmp = config::Rtmp {
        listen: Listen { host: Some("127.0.0.1".into()), port: 0 },
        real_ip: RealIp::Auto,
        handshake_timeout: LIMIT,
        command_timeout: LIMIT,
        idle_timeout: LIMIT,
        send_timeout: LIMIT,
        max_connections: 1000,
        max_connections_per_ip: 1000,
    };
    let upstream = config::Upstream {
        connect_timeout: Duration::from_secs(2),
        answer_timeout: Duration::from_secs(2),
        max_attempts: 3,
        probe_interval: Duration::from_millis(50),
        http_keepalive: Duration::from_secs(15),
        http_max_idle: 8,
    };
    (rtmp, upstream)
}

impl Node {
    pub async fn start() -> Self {
        Self::with(|_, _| {}).await
    }

    pub async fn with(adjust: impl FnOnce(&mut config::Rtmp, &mut config::Upstream)) -> Self {
        let (mut rtmp, mut upstream) = settings();
        adjust(&mut rtmp, &mut upstream);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let balancer = Arc::new(MemoryBalancer::new(&config::Balancer {
            max_origins: 10,
            max_streams: 1000,
            ..config::Balancer::default()
        }));
        let (sessions, closing, stop) = (Sessions::default(), CancellationToken::new(), CancellationToken::new());
        let metrics = Metrics::default();
        let context = Arc::new(rtmp::Context {
            balancer: Arc::new(Measured::new(balancer.clone(), metrics.clone())),
            sessions: sessions.clone(),
            vhosts: Vhosts::any(),
            rtmp,
            upstream,
            metrics: metrics.clone(),
            dialer: srs_proxy::relay::dial::Dialer::default(),
            workers: Arc::new(Workers::here()),
            pool: Pool::default(),
            closing: closing.clone(),
        });
        tokio::spawn(rtmp::serve(listener, Arc::clone(&context), stop.clone(), TaskTracker::new()));
        Self { address, balancer, sessions, metrics, closing, context, stop }
    }

    /// Registers an origin that listens on `address`. `software` is its User-Agent.
    pub async fn register(&self, name: &str, address: SocketAddr, software: &str) {
        self.balancer.register(origin(name, address, software)).await.unwrap();
    }

    /// Who knows the metrics of the node.
    pub fn sources(&self) -> Sources {
        Sources {
            metrics: self.metrics.clone(),
            balancer: Arc::clone(&self.context.balancer),
            kind: BalancerType::Memory,
            sessions: self.sessions.clone(),
            ready: tokio::sync::watch::channel(true).1,
            draining: self.stop.clone(),
        }
    }

    /// Waits until all sessions have ended.
    pub async fn until_idle(&self) {
        until("the sessions have ended", || self.sessions.is_empty()).await;
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.cancel();
        self.closing.cancel();
    }
}

pub fn origin(name: &str, address: SocketAddr, software: &str) -> Origin {
    Origin {
        server_id: name.into(),
        service_id: "service".into(),
        pid: "1".into(),
        device_id: String::new(),
        ip: address.ip().to_string(),
        rtmp: vec![Endpoint::parse(&address.port().to_string()).unwrap()],
        http: Vec::new(),
        api: Vec::new(),
        srt: Vec::new(),
        rtc: Vec::new(),
        software: software.into(),
        cpu: None,
    }
}

/// Waits for a condition, for [`LIMIT`] at the most.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LIMIT, "gave up waiting: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// One end of an RTMP connection.
pub struct Peer {
    pub stream: TcpStream,
    scanner: Scanner,
    bytes: Vec<u8>,
    seen: Collect,
    /// The chunk size in which this end writes.
    pub chunk_size: u32,
    /// Bytes that have been received, the handshake included.
    pub received: u64,
}

#[derive(Default)]
struct Collect(std::collections::VecDeque<(Header, Vec<u8>)>);

impl Inspect for Collect {
    fn interest(&self, _: &Header) -> Interest {
        Interest::Whole
    }

    fn whole(&mut self, header: &Header, payload: &mut [u8]) -> Action {
        self.0.push_back((*header, payload.to_vec()));
        Action::Drop
    }
}

/// The handshake of a client or an origin, for tests that then go on in raw bytes.
pub async fn client_handshake(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let hello = handshake::hello(0, |b| b.fill(7));
    stream.write_all(&hello[..]).await.unwrap();
    let mut answer = [0; handshake::S0S1S2];
    within(stream.read_exact(&mut answer)).await.unwrap();
    stream.write_all(handshake::acknowledge(&answer).unwrap()).await.unwrap();
    stream
}

pub async fn origin_handshake(listener: &TcpListener) -> TcpStream {
    let (mut stream, _) = within(listener.accept()).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut hello = [0; handshake::C0C1];
    within(stream.read_exact(&mut hello)).await.unwrap();
    let (answer, _) = handshake::answer(&hello, 0, |b| b.fill(9)).unwrap();
    stream.write_all(&answer[..]).await.unwrap();
    let mut c2 = [0; handshake::BLOCK];
    within(stream.read_exact(&mut c2)).await.unwrap();
    stream
}

pub async fn within<T>(work: impl Future<Output = T>) -> T {
    timeout(LIMIT, work).await.expect("took too long")
}

impl Peer {
    pub fn new(stream: TcpStream, received: usize) -> Self {
        Self {
            stream,
            scanner: Scanner::transparent(),
            bytes: Vec::new(),
            seen: Collect::default(),
            chunk_size: 128,
            received: received as u64,
        }
    }

    /// A client behind its handshake.
    pub async fn connect(address: SocketAddr) -> Self {
        Self::new(client_handshake(address).await, handshake::S0S1S2)
    }

    /// A client behind connect and createStream, both answered.
    pub async fn connect_app(address: SocketAddr, tc_url: &str) -> Self {
        let mut client = Self::connect(address).await;
        client
            .command(
                0,
                "connect",
                1.0,
                [Value::object([("app", Value::string("live")), ("tcUrl", Value::string(tc_url))])],
            )
            .await;
        client.expect("_result").await;
        client.command(0, "createStream", 2.0, [Value::Null]).await;
        client.expect("_result").await;
        client
    }

    /// A client that has asked to publish or play `name`, and has not been answered.
    pub async fn ask(address: SocketAddr, what: &str, name: &str) -> Self {
        let mut client = Self::connect_app(address, &format!("rtmp://{address}/live")).await;
        client.command(1, what, 3.0, [Value::Null, Value::string(name)]).await;
        client
    }

    /// An origin that has taken a connection.
    pub async fn accept(listener: &TcpListener) -> Self {
        Self::new(origin_handshake(listener).await, handshake::C0C1 + handshake::BLOCK)
    }

    /// An origin that has answered everything up to publish or play, with `stream_id` as the answer
    /// to createStream. Gives the last command.
    pub async fn accept_stream(listener: &TcpListener, stream_id: u32) -> (Self, Command) {
        let mut origin = Self::accept(listener).await;
        loop {
            let (header, command) = origin.next_command().await;
            let answer = match command.name.as_str() {
                "connect" => {
                    let info = Value::object([("code", Value::string("NetConnection.Connect.Success"))]);
                    [Value::object([]), info]
                }
                "createStream" => [Value::Null, Value::Number(f64::from(stream_id))],
                "publish" | "play" => {
                    assert_eq!(header.stream_id, stream_id, "on the stream that the origin made");
                    return (origin, command);
                }
                _ => continue,
            };
            origin.command(0, "_result", command.transaction, answer).await;
        }
    }

    /// An origin whose publish or play has started.
    pub async fn accept_started(listener: &TcpListener, stream_id: u32) -> Self {
        let (mut origin, command) = Self::accept_stream(listener, stream_id).await;
        let code = if command.name == "publish" { "NetStream.Publish.Start" } else { "NetStream.Play.Start" };
        origin.status(stream_id, "status", code).await;
        origin
    }

    pub async fn send(&mut self, header: Header, payload: &[u8]) {
        let mut bytes = Vec::new();
        header.encode_message(payload, self.chunk_size, &mut bytes);
        self.stream.write_all(&bytes).await.unwrap();
    }

    pub async fn command(
        &mut self,
        stream_id: u32,
        name: &str,
        transaction: f64,
        values: impl IntoIterator<Item = Value>,
    ) {
        let mut payload = Vec::new();
        Value::string(name).encode(&mut payload);
        Value::Number(transaction).encode(&mut payload);
        values.into_iter().for_each(|v| v.encode(&mut payload));
        let header = Header { chunk_stream: if stream_id == 0 { 3 } else { 8 }, stream_id, ..Header::command() };
        self.send(header, &payload).await;
    }

    pub async fn status(&mut self, stream_id: u32, level: &str, code: &str) {
        let info = Value::object([
            ("level", Value::string(level)),
            ("code", Value::string(code)),
            ("description", Value::string("in the origin's words")),
        ]);
        self.command(stream_id, "onStatus", 0.0, [Value::Null, info]).await;
    }

    pub async fn set_chunk_size(&mut self, size: u32) {
        self.send(Header::control(kind::SET_CHUNK_SIZE), &size.to_be_bytes()).await;
        self.chunk_size = size;
    }

    /// The next message; none if the other end has closed or reset the connection.
    pub async fn try_next(&mut self) -> Option<(Header, Vec<u8>)> {
        loop {
            if let Some(message) = self.seen.0.pop_front() {
                return Some(message);
            }
            let mut read = vec![0; 65_536];
            let n = within(self.stream.read(&mut read)).await.unwrap_or(0);
            if n == 0 {
                return None;
            }
            self.received += n as u64;
            self.bytes.extend_from_slice(&read[..n]);
            let scan = self.scanner.scan(&mut self.bytes, &mut Edits::default(), &mut self.seen);
            let consumed = scan.expect("the proxy writes valid chunks").consumed;
            self.bytes.drain(..consumed);
        }
    }

    pub async fn next(&mut self) -> (Header, Vec<u8>) {
        self.try_next().await.expect("the connection goes on")
    }

    /// The next message of a type.
    pub async fn next_of(&mut self, message_kind: u8) -> (Header, Vec<u8>) {
        loop {
            let message = self.next().await;
            if message.0.kind == message_kind {
                return message;
            }
        }
    }

    pub async fn next_command(&mut self) -> (Header, Command) {
        let (header, payload) = self.next_of(kind::COMMAND_AMF0).await;
        (header, Command::parse(header.kind, &payload).unwrap())
    }

    /// The next command of that name.
    pub async fn expect(&mut self, name: &str) -> (Header, Command) {
        loop {
            let (header, command) = self.next_command().await;
            if command.name == name {
                return (header, command);
            }
        }
    }

    /// The code of the next status.
    pub async fn expect_status(&mut self) -> (Header, String) {
        let (header, command) = self.expect("onStatus").await;
        (header, command.info_text("code").unwrap())
    }

    /// Reads to the end of the connection.
    pub async fn until_closed(&mut self) {
        while self.try_next().await.is_some() {}
    }

    /// Resets the connection.
    pub fn reset(self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }
}

pub fn video(timestamp: u32, stream_id: u32) -> Header {
    Header { chunk_stream: 6, timestamp, kind: kind::VIDEO, stream_id, ..Header::default() }
}

pub fn audio(timestamp: u32, stream_id: u32) -> Header {
    Header { chunk_stream: 4, timestamp, kind: kind::AUDIO, stream_id, ..Header::default() }
}
