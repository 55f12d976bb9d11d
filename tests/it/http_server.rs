//! The limits within which our HTTP servers serve, whatever they serve.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Extension, Router,
    extract::ConnectInfo,
    routing::{get, post},
};
use srs_proxy::{
    metrics::ListenerMetrics,
    server::{
        admission,
        http::{self, Limits, Takeover},
    },
};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use srs_proxy_test_support::raw_http::{Client, LIMIT};

const BIG: usize = 64 * 1024 * 1024;
const SHORT: Duration = Duration::from_millis(300);
const GET: &str = "GET / HTTP/1.1\r\nHost: test\r\n\r\n";

/// Limits that no test reaches but the one that shortens them.
const WIDE: Limits = Limits {
    header_timeout: Duration::from_mins(1),
    request_timeout: Duration::from_mins(1),
    idle_timeout: Duration::from_mins(1),
    send_timeout: Duration::from_mins(1),
    connections: up_to(100),
    linger: Duration::from_mins(2),
};

const fn up_to(max: usize) -> admission::Limits {
    admission::Limits { max, max_per_ip: max, settings: ["MAX"; 2] }
}

struct Server {
    address: SocketAddr,
    stop: CancellationToken,
    /// What `/wait` waits for.
    gate: Arc<Semaphore>,
    /// How many requests wait at it.
    waiting: Arc<Semaphore>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    async fn start(limits: Limits) -> Self {
        let (gate, waiting) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let (at_gate, arrived) = (Arc::clone(&gate), Arc::clone(&waiting));
        let wait = async move || {
            arrived.add_permits(1);
            at_gate.acquire().await.unwrap().forget();
            "waited"
        };
        let router = Router::new()
            .route("/", get(async || "hello"))
            .route("/peer", get(async |ConnectInfo(peer): ConnectInfo<SocketAddr>| peer.to_string()))
            .route("/big", get(async || vec![7u8; BIG]))
            .route("/echo", post(async |body: String| body))
            .route("/wait", get(wait))
            .route("/take", get(take));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let server = http::Server {
            router,
            limits,
            metrics: ListenerMetrics::default(),
            workers: None,
            stop: stop.clone(),
            close: CancellationToken::new(),
        };
        let task = tokio::spawn(server.run(listener));
        Self { address, stop, gate, waiting, task }
    }

    async fn client(&self) -> Client {
        Client::connect(self.address).await
    }
}

/// Takes the connection over and answers by hand, then echoes.
async fn take(Extension(takeover): Extension<Takeover>) -> &'static str {
    let successor = async |mut client: TcpStream| {
        client.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\ntaken").await.unwrap();
        let (mut from, mut to) = client.split();
        let _ = tokio::io::copy(&mut from, &mut to).await;
    };
    match takeover.by(successor).await {}
}

#[tokio::test]
async fn a_handler_can_take_the_connection_over() {
    let server = Server::start(WIDE).await;
    let mut client = server.client().await;
    assert_eq!(client.get("/").await.body, b"hello");
    assert_eq!(client.get("/take").await.body, b"taken");
    // No HTTP from here on, and none of its limits.
    client.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\necho").await;
    assert_eq!(client.answer().await.body, b"echo");
}

#[tokio::test]
async fn a_connection_is_taken_over_only_behind_the_answers_that_are_owed() {
    let server = Server::start(WIDE).await;
    let mut client = server.client().await;
    // Nobody reads before both requests are there, and the first answer fits no buffer.
    client.send(format!("{GET}GET /big HTTP/1.1\r\nHost: test\r\n\r\nGET /take HTTP/1.1\r\nHost: test\r\n\r\n")).await;
    assert_eq!(client.answer().await.body, b"hello");
    let big = client.answer().await.body;
    assert!(big.len() == BIG && big.iter().all(|byte| *byte == 7));
    assert_eq!(client.answer().await.body, b"taken");
}

#[tokio::test]
async fn a_connection_that_was_taken_over_outlives_the_server() {
    let server = Server::start(Limits { idle_timeout: SHORT, ..WIDE }).await;
    let mut client = server.client().await;
    assert_eq!(client.get("/take").await.body, b"taken");
    drop(server);
    client.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\necho").await;
    assert_eq!(client.answer().await.body, b"echo");
}

#[tokio::test]
async fn one_connection_serves_many_requests_also_when_they_come_at_once() {
    let server = Server::start(WIDE).await;
    let mut client = server.client().await;
    for _ in 0..3 {
        assert_eq!(client.get("/").await.body, b"hello");
    }
    client.send(GET.repeat(3)).await;
    for _ in 0..3 {
        assert_eq!(client.answer().await.body, b"hello");
    }
    client.send("GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 200);
    assert_eq!(client.until_closed().await, b"");
}

#[tokio::test]
async fn handlers_learn_the_address_of_the_client() {
    let server = Server::start(WIDE).await;
    let answer = server.client().await.get("/peer").await;
    assert!(answer.body.starts_with(b"127.0.0.1:"));
}

#[tokio::test]
async fn a_connection_that_sends_nothing_is_closed_after_the_header_timeout() {
    let server = Server::start(Limits { header_timeout: SHORT, ..WIDE }).await;
    let started = Instant::now();
    assert_eq!(server.client().await.until_closed().await, b"");
    assert!(started.elapsed() >= SHORT);
}

#[tokio::test]
async fn a_header_that_never_ends_is_cut_off_however_steadily_it_comes() {
    let server = Server::start(Limits { header_timeout: SHORT, ..WIDE }).await;
    for kept_alive in [false, true] {
        let mut client = server.client().await;
        if kept_alive {
            assert_eq!(client.get("/").await.status, 200);
        }
        let started = Instant::now();
        client.send("GET / HTTP/1.1\r\nHost: te").await;
        assert_eq!(client.dribble(b's').await, b"");
        assert!(started.elapsed() >= SHORT);
    }
}

#[tokio::test]
async fn a_body_that_never_ends_is_answered_with_408_and_closed() {
    let server = Server::start(Limits { request_timeout: SHORT, ..WIDE }).await;
    let mut client = server.client().await;
    let started = Instant::now();
    client.send("POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 100000\r\n\r\n").await;
    let received = String::from_utf8(client.dribble(b'x').await).unwrap();
    assert!(started.elapsed() >= SHORT);
    assert!(received.starts_with("HTTP/1.1 408 "), "{received}");
    assert!(received.contains("\r\nconnection: close\r\n"), "{received}");
    assert!(received.ends_with(r#"{"code":408,"error":"the request took too long"}"#), "{received}");
}

#[tokio::test]
async fn the_time_of_a_request_runs_from_its_first_byte() {
    let limits = Limits { request_timeout: SHORT * 5, ..WIDE };
    let server = Server::start(limits).await;
    let mut client = server.client().await;
    assert_eq!(client.get("/").await.status, 200);
    let started = Instant::now();
    client.send("GET /wait HTTP/1.1\r\n").await;
    tokio::time::sleep(SHORT * 4).await;
    client.send("Host: test\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 408);
    // From the end of the header it would be nine.
    assert!(started.elapsed() < SHORT * 8, "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_handler_that_hangs_is_answered_with_408() {
    let server = Server::start(Limits { request_timeout: SHORT, ..WIDE }).await;
    assert_eq!(server.client().await.get("/wait").await.status, 408);
}

#[tokio::test]
async fn a_connection_without_requests_is_closed_after_the_idle_timeout() {
    let server = Server::start(Limits { header_timeout: SHORT / 3, idle_timeout: SHORT, ..WIDE }).await;
    let mut client = server.client().await;
    assert_eq!(client.get("/").await.status, 200);
    let started = Instant::now();
    assert_eq!(client.until_closed().await, b"");
    assert!(started.elapsed() >= SHORT / 2, "not by the header timeout: {:?}", started.elapsed());
}

#[tokio::test]
async fn a_client_that_does_not_read_loses_its_connection() {
    let server = Server::start(Limits { send_timeout: SHORT, connections: up_to(1), ..WIDE }).await;
    let mut deaf = server.client().await;
    deaf.send("GET /big HTTP/1.1\r\nHost: test\r\n\r\n").await;
    // Its place is free once it is gone.
    let deadline = Instant::now() + LIMIT;
    loop {
        let mut client = server.client().await;
        client.send(GET).await;
        if client.head().await.is_some_and(|answer| answer.status == 200) {
            break;
        }
        assert!(Instant::now() < deadline, "the connection is still there");
    }
    assert!(deaf.until_closed().await.len() < BIG);
}

#[tokio::test]
async fn a_client_that_reads_gets_all_of_a_large_answer() {
    let server = Server::start(Limits { send_timeout: SHORT, ..WIDE }).await;
    assert_eq!(server.client().await.get("/big").await.body.len(), BIG);
}

#[tokio::test]
async fn a_client_that_reads_slowly_but_steadily_keeps_its_connection() {
    let server = Server::start(Limits { send_timeout: SHORT, ..WIDE }).await;
    let mut client = server.client().await;
    let started = Instant::now();
    client.send("GET /big HTTP/1.1\r\nHost: test\r\n\r\n").await;
    assert_eq!(client.head().await.unwrap().status, 200);
    let mut received = 0;
    while received < BIG {
        received += client.some(BIG / 32).await;
        tokio::time::sleep(SHORT / 10).await;
    }
    assert!(started.elapsed() > SHORT * 2, "too fast to tell: {:?}", started.elapsed());
}

#[tokio::test]
async fn a_body_may_take_longer_than_a_header() {
    let server = Server::start(Limits { header_timeout: SHORT, ..WIDE }).await;
    let mut client = server.client().await;
    client.send("POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\n").await;
    for _ in 0..10 {
        tokio::time::sleep(SHORT / 5).await;
        client.send("x").await;
    }
    assert_eq!(client.answer().await.body, b"xxxxxxxxxx");
}

#[tokio::test]
async fn connections_beyond_the_limit_are_told_so_and_closed() {
    let server = Server::start(Limits { connections: up_to(2), ..WIDE }).await;
    let mut first = server.client().await;
    let mut second = server.client().await;
    assert_eq!(first.get("/").await.status, 200);
    assert_eq!(second.get("/").await.status, 200);

    let mut third = server.client().await;
    let refused = third.answer().await;
    assert_eq!(refused.status, 503);
    assert_eq!(refused.error(), "too many connections");
    assert_eq!(third.until_closed().await, b"");

    assert_eq!(first.get("/").await.status, 200, "those within the limit do not notice");
    drop(first);
    let deadline = Instant::now() + LIMIT;
    loop {
        let mut next = server.client().await;
        next.send(GET).await;
        if next.head().await.is_some_and(|answer| answer.status == 200) {
            break;
        }
        assert!(Instant::now() < deadline, "the place did not become free");
    }
}

#[tokio::test]
async fn a_stop_lets_running_requests_end_and_closes_the_rest() {
    let mut server = Server::start(WIDE).await;
    let mut silent = server.client().await;
    let mut idle = server.client().await;
    assert_eq!(idle.get("/").await.status, 200);
    let mut busy = server.client().await;
    busy.send("GET /wait HTTP/1.1\r\nHost: test\r\n\r\n").await;
    tokio::time::timeout(LIMIT, server.waiting.acquire()).await.unwrap().unwrap().forget();

    server.stop.cancel();
    assert_eq!(idle.until_closed().await, b"");
    assert_eq!(silent.until_closed().await, b"");
    let refused = async {
        while TcpStream::connect(server.address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, refused).await.expect("no new connection is taken");

    assert!(!server.task.is_finished());
    server.gate.add_permits(1);
    assert_eq!(busy.answer().await.body, b"waited");
    assert_eq!(busy.until_closed().await, b"");
    tokio::time::timeout(LIMIT, &mut server.task).await.expect("the server ends").unwrap();
}

#[tokio::test]
async fn a_stop_does_not_wait_for_ever() {
    let limits = Limits { linger: SHORT, header_timeout: LIMIT * 2, ..WIDE };
    let mut server = Server::start(limits).await;
    let mut half = server.client().await;
    half.send("GET / HTTP/1.1\r\n").await;
    assert_eq!(server.client().await.get("/").await.status, 200);
    server.stop.cancel();
    tokio::time::timeout(LIMIT, &mut server.task).await.expect("the server ends").unwrap();
    assert_eq!(half.until_closed().await, b"");
}

#[tokio::test]
async fn what_is_not_http_costs_only_its_own_connection() {
    let server = Server::start(WIDE).await;
    let huge = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(100_000));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(1000));
    let garbage =
        [b"\x03\0\0\0\0\0\r\n\r\n".to_vec(), vec![0; 1537], huge.into(), many.into(), b"\r\n\r\n x\r\n\r\n".into()];
    for bytes in garbage {
        let mut client = server.client().await;
        client.send(&bytes).await;
        let answer = String::from_utf8_lossy(&client.until_closed().await).into_owned();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    assert_eq!(server.client().await.get("/").await.status, 200);
}
