//! A node's server of HTTP streams in this process, and origins that say exactly what a test tells
//! them to.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use srs_proxy::{
    balancer::{Balancer, Intent, PlaceRequest, Placement, memory::MemoryBalancer},
    config::{self, Listen},
    metrics::{Metrics, label::Listener},
    origin::{Origin as Registered, Protocol},
    relay::{
        buffer::Pool,
        dial::Dialer,
        http::{Client as OriginClient, Settings},
    },
    server::{
        http::Server,
        streams::{self, Context, Segments, static_files::StaticFiles},
    },
    session::Sessions,
    stream::{StreamKey, Vhosts},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::raw_http::{Answer, Client, LIMIT};

/// A node with the memory balancer.
pub struct Node {
    pub address: SocketAddr,
    pub balancer: Arc<MemoryBalancer>,
    pub sessions: Sessions,
    /// Cancelled to begin a drain.
    pub draining: CancellationToken,
    /// Cancelled to end the drain's grace.
    pub closing: CancellationToken,
    task: JoinHandle<()>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.closing.cancel();
        self.task.abort();
    }
}

/// The defaults, with waits that no test reaches but the one that shortens them.
fn settings() -> (config::Http, config::Upstream) {
    let http = config::Http {
        listen: Listen { host: Some("127.0.0.1".into()), port: 0 },
        static_files: None,
        header_timeout: Duration::from_mins(1),
        answer_timeout: Duration::from_mins(1),
        idle_timeout: Duration::from_mins(1),
        send_timeout: Duration::from_mins(1),
        keepalive_timeout: Duration::from_mins(1),
        stream_idle: Duration::from_secs(30),
        max_connections: 1000,
        max_connections_per_ip: 1000,
    };
    let upstream = config::Upstream {
        connect_timeout: Duration::from_secs(2),
        answer_timeout: Duration::from_secs(2),
        max_attempts: 3,
        probe_interval: Duration::from_secs(5),
        http_keepalive: Duration::from_mins(1),
        http_max_idle: 8,
    };
    (http, upstream)
}

impl Node {
    pub async fn start() -> Self {
        Self::with(|_, _| {}).await
    }

    pub async fn with(adjust: impl FnOnce(&mut config::Http, &mut config::Upstream)) -> Self {
        let (mut http, mut upstream) = settings();
        adjust(&mut http, &mut upstream);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let balancer = Arc::new(MemoryBalancer::new(&config::Balancer {
            max_origins: 10,
            max_streams: 1000,
            ..config::Balancer::default()
        }));
        let (draining, closing) = (CancellationToken::new(), CancellationToken::new());
        let sessions = Sessions::default();
        let limits = streams::limits(&http, &upstream);
        let connections = Settings {
            connect_timeout: upstream.connect_timeout,
            keepalive: upstream.http_keepalive,
            max_idle: upstream.http_max_idle,
        };
        let metrics = Metrics::default();
        let context = Arc::new(Context {
            balancer: balancer.clone(),
            sessions: sessions.clone(),
            vhosts: Vhosts::any(),
            pieces: Segments::new(http.stream_idle, 1000),
            files: http.static_files.clone().map(StaticFiles::new),
            http,
            upstream,
            client: OriginClient::new(Dialer::default(), connections),
            pool: Pool::default(),
            closing: closing.clone(),
            metrics: metrics.clone(),
        });
        let server = Server {
            router: streams::router(context),
            limits,
            workers: None,
            stop: draining.clone(),
            close: closing.clone(),
            metrics: metrics.listener(Listener::Streams),
        };
        let task = tokio::spawn(server.run(listener));
        Self { address, balancer, sessions, draining, closing, task }
    }

    /// A node in front of one origin.
    pub async fn with_origin() -> (Self, Origin) {
        let (node, origin) = (Self::start().await, Origin::start().await);
        node.register(&origin).await;
        (node, origin)
    }

    pub async fn register(&self, origin: &Origin) {
        self.register_address(origin.address).await;
    }

    pub async fn register_address(&self, http: SocketAddr) {
        self.register_addresses(http, http.port()).await;
    }

    pub async fn register_addresses(&self, http: SocketAddr, rtmp: u16) {
        let (ip, port) = (http.ip(), http.port());
        let heartbeat = format!(
            r#"{{"ip":"{ip}","server":"vid-{port}","service":"run-1","pid":"1","rtmp":["{rtmp}"],"http":["{port}"]}}"#
        );
        self.balancer.register(Registered::from_heartbeat(heartbeat.as_bytes(), "").unwrap()).await.unwrap();
    }

    /// Where a stream is; it is placed if it is not yet.
    pub async fn place(&self, stream: &str) -> Placement {
        let stream = StreamKey::from_shared(stream).unwrap();
        let request = PlaceRequest { stream: &stream, protocol: Protocol::Rtmp, intent: Intent::Publish, avoid: &[] };
        self.balancer.place(request).await.unwrap()
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.address).await
    }

    /// A client that has asked for a path, with further header lines, each with its end.
    pub async fn asking(&self, path: &str, headers: &str) -> Client {
        let mut client = self.client().await;
        client.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n{headers}\r\n")).await;
        client
    }

    /// Waits until so many sessions run.
    pub async fn until_sessions(&self, count: usize) {
        until(&format!("{count} sessions"), || self.sessions.len() == count).await;
    }
}

/// An address that refuses connections for as long as the socket is held.
pub fn refusing() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// Waits for a condition, for [`LIMIT`] at the most.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LIMIT, "gave up waiting: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// An origin that the test plays.
pub struct Origin {
    pub address: SocketAddr,
    listener: TcpListener,
}

impl Origin {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { address: listener.local_addr().unwrap(), listener }
    }

    /// The next connection from the node.
    pub async fn accept(&self) -> Leg {
        let (stream, _) = timeout(LIMIT, self.listener.accept()).await.expect("a connection from the node").unwrap();
        stream.set_nodelay(true).unwrap();
        Leg(BufReader::new(stream))
    }

    /// The next connection, and the request that comes first on it.
    pub async fn request(&self) -> (Leg, Request) {
        let mut leg = self.accept().await;
        let request = leg.request().await.expect("a request");
        (leg, request)
    }

    /// Panics if the node has connected. What it did because of an answer that the test has is done.
    pub async fn assert_not_asked(&self) {
        let accepted = timeout(Duration::from_millis(50), self.listener.accept()).await;
        assert!(accepted.is_err(), "the origin was asked");
    }

    /// Answers every request on every connection with `answer`, of the request's path, for ever. The
    /// number of connections that were made so far is told to it.
    pub fn serve(self, answer: impl Fn(&Request, usize) -> Vec<u8> + Send + Sync + 'static) -> Serving {
        let answer = Arc::new(answer);
        let task = tokio::spawn(async move {
            let mut connections = 0;
            while let Ok((stream, _)) = self.listener.accept().await {
                connections += 1;
                let (answer, mut leg) = (Arc::clone(&answer), Leg(BufReader::new(stream)));
                tokio::spawn(async move {
                    while let Some(request) = leg.request().await {
                        let bytes = answer(&request, connections);
                        let close = bytes.is_empty() || contains(&bytes, b"Connection: close");
                        leg.send(&bytes).await;
                        if close {
                            return;
                        }
                    }
                });
            }
        });
        Serving { address: self.address, task }
    }
}

/// An origin that answers by itself, until it is dropped.
pub struct Serving {
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A request as the origin gets it.
#[derive(Debug, Clone)]
pub struct Request {
    /// Method, target and version.
    pub line: String,
    /// Header lines, names in lower case.
    pub headers: Vec<(String, String)>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(n, _)| n == name);
        let first = found.next();
        assert!(found.next().is_none(), "{name} came twice: {self:?}");
        first.map(|(_, value)| value.as_str())
    }

    pub fn target(&self) -> &str {
        self.line.split(' ').nth(1).unwrap()
    }
}

/// The node's connection to an origin, at the origin's end.
pub struct Leg(BufReader<TcpStream>);

impl Leg {
    /// The next request's header; none if the node has closed.
    pub async fn request(&mut self) -> Option<Request> {
        let first = self.line().await?;
        let mut headers = Vec::new();
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Some(Request { line: first, headers });
            }
            let (name, value) = line.split_once(':').unwrap();
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    /// A header as it came, with the empty line.
    pub async fn raw_header(&mut self) -> Vec<u8> {
        let mut header = Vec::new();
        while !header.ends_with(b"\r\n\r\n") {
            let byte = timeout(LIMIT, self.0.read_u8()).await.expect("a header").unwrap();
            header.push(byte);
        }
        header
    }

    async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = self.0.read_line(&mut line).await;
        (read.unwrap_or(0) > 0).then(|| line.trim_end().to_owned())
    }

    /// Sends bytes as they are; whether the node took them.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        timeout(LIMIT, self.0.write_all(bytes.as_ref())).await.expect("the node reads").is_ok()
    }

    /// Sends the bytes again and again until the node takes no more for a moment. Gives how many it took.
    pub async fn flood(&mut self, bytes: &[u8], most: usize) -> usize {
        let mut taken = 0;
        while taken < most {
            match timeout(Duration::from_millis(500), self.0.write(bytes)).await {
                Ok(Ok(n)) => taken += n,
                _ => break,
            }
        }
        taken
    }

    /// Waits until the node closes.
    pub async fn until_closed(&mut self) {
        let mut rest = Vec::new();
        let _ = timeout(LIMIT, self.0.read_to_end(&mut rest)).await.expect("the node closes");
        assert!(rest.is_empty(), "the node sent more: {}", String::from_utf8_lossy(&rest));
    }
}

/// An answer with a length.
pub fn answer(status: &str, headers: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let mut bytes = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n", body.len()).into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// A chunk (RFC 9112, section 7.1).
pub fn chunk(body: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", body.len()).as_bytes(), body, b"\r\n"].concat()
}

/// What is in chunks; none if the last one is missing.
pub fn unchunked(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
        let length = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).unwrap(), 16).unwrap();
        bytes = &bytes[end + 2..];
        if length == 0 {
            return Some(body);
        }
        body.extend_from_slice(bytes.get(..length)?);
        bytes = bytes.get(length + 2..)?;
    }
}

/// The text of an answer's body.
pub fn text(answer: &Answer) -> &str {
    std::str::from_utf8(&answer.body).unwrap()
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}
