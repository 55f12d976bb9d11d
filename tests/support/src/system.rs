//! The system API, served on a real socket.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use serde_json::Value;
use srs_proxy::{
    balancer::{Balancer, memory::MemoryBalancer},
    config::{self, BalancerType, Secret},
    metrics::{Metrics, label::Listener, scrape::Sources},
    server::{
        exporter::Exporter,
        http::{self, Limits},
        system::{SystemState, router},
    },
    session::Sessions,
};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

use super::raw_http::{Answer, Client};

pub const REGISTER: &str = "/api/v1/srs/register";
pub const HEARTBEAT: &str = include_str!("../../fixtures/srs/heartbeat.json");
pub const MINIMAL: &str = r#"{"ip":"10.0.0.1","server":"a","service":"b","pid":"1","rtmp":["1935"]}"#;

/// A server that serves until it is dropped.
pub struct Server {
    pub address: SocketAddr,
    pub balancer: Arc<dyn Balancer>,
    pub sessions: Sessions,
    pub ready: watch::Sender<bool>,
    pub draining: CancellationToken,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub fn memory(max_origins: usize) -> Arc<dyn Balancer> {
    Arc::new(MemoryBalancer::new(&config::Balancer { max_origins, max_streams: 10_000, ..config::Balancer::default() }))
}

pub fn settings(timeout: Duration) -> config::System {
    let listen = config::Listen { host: Some("127.0.0.1".into()), port: 0 };
    config::System { listen, token: None, timeout, max_connections: 100 }
}

impl Server {
    pub async fn start() -> Self {
        Self::with(memory(100), None, settings(Duration::from_secs(30))).await
    }

    pub async fn with_token(token: &str) -> Self {
        Self::with(memory(100), Some(Secret::new(token)), settings(Duration::from_secs(30))).await
    }

    pub async fn with(balancer: Arc<dyn Balancer>, token: Option<Secret>, settings: config::System) -> Self {
        let sessions = Sessions::default();
        let (ready, is_ready) = watch::channel(true);
        let draining = CancellationToken::new();
        let metrics = Metrics::default();
        let exporter = Exporter::new(Sources {
            metrics: metrics.clone(),
            balancer: Arc::clone(&balancer),
            kind: BalancerType::Memory,
            sessions: sessions.clone(),
            ready: is_ready.clone(),
            draining: draining.clone(),
        });
        let state = SystemState {
            balancer: Arc::clone(&balancer),
            kind: BalancerType::Memory,
            sessions: sessions.clone(),
            metrics: metrics.clone(),
            exporter,
            token,
            ready: is_ready,
            draining: draining.clone(),
            started: Instant::now(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = http::Server {
            router: router(state),
            limits: Limits::from(&settings),
            metrics: metrics.listener(Listener::System),
            workers: None,
            stop: CancellationToken::new(),
            close: CancellationToken::new(),
        };
        let task = tokio::spawn(server.run(listener));
        Self { address, balancer, sessions, ready, draining, task }
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.address).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.client().await.get(path).await
    }

    pub async fn register(&self, body: impl AsRef<[u8]>) -> Answer {
        self.client().await.post(REGISTER, "", body).await
    }

    pub async fn origins(&self) -> Value {
        self.get("/api/v1/proxy/origins").await.json()
    }
}
