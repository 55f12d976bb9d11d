//! Whole nodes in this process that share a balancer, and clients that offer WebRTC to them.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use srs_proxy::{
    app::App,
    balancer::{Balancer, memory::MemoryBalancer},
    config::{Config, load::load, sources::Sources},
    origin,
    shutdown::Shutdown,
};
use tokio::task::JoinHandle;

use super::{
    api::Origin,
    raw_http::{Answer, Client, LIMIT},
};

/// A node that serves until it is dropped.
pub struct Node {
    pub api: SocketAddr,
    pub system: SocketAddr,
    pub media: SocketAddr,
    pub shutdown: Shutdown,
    token: String,
    task: JoinHandle<()>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn config(settings: &[(&str, &str)]) -> Config {
    let listeners = ["RTMP_SERVER", "HTTP_SERVER", "HTTP_API", "SYSTEM_API", "WEBRTC_SERVER", "SRT_SERVER"];
    let local = listeners.map(|name| (format!("PROXY_{name}"), "127.0.0.1:0".to_owned()));
    let given = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let env: BTreeMap<_, _> =
        local.into_iter().chain([("PROXY_WORKER_THREADS".into(), "1".into())]).chain(given).collect();
    let none = BTreeMap::new();
    load(Sources { flags: &none, env: &env, dotenv: &none }).unwrap().config
}

/// What nodes agree through.
pub fn balancer() -> Arc<MemoryBalancer> {
    Arc::new(MemoryBalancer::new(&config(&[]).balancer))
}

/// Lets the nodes know an origin that serves WebRTC.
pub async fn register(balancer: &MemoryBalancer, origin: &Origin) {
    let (server, port) = (origin.id.strip_suffix("-run-1").unwrap(), origin.address.port().to_string());
    let heartbeat = json!({
        "ip": "127.0.0.1", "server": server, "service": "run", "pid": "1",
        "rtmp": [port], "api": [port], "rtc": [port],
    });
    let origin = origin::Origin::from_heartbeat(heartbeat.to_string().as_bytes(), "SRS/7").unwrap();
    balancer.register(origin).await.unwrap();
}

impl Node {
    pub async fn start(balancer: &Arc<MemoryBalancer>, settings: &[(&str, &str)]) -> Self {
        let config = config(settings);
        let shutdown = Shutdown::new(config.drain.clone());
        let balancer: Arc<dyn Balancer> = balancer.clone();
        let app = App::with_balancer(config, balancer).await.unwrap();
        let (api, system, media) = (app.api_addr(), app.system_addr(), app.webrtc_addr());
        let run = app.run(shutdown.clone());
        let task = tokio::spawn(async move {
            run.await;
        });
        let token = settings.iter().find(|(name, _)| name.ends_with("_AUTH_TOKEN")).map_or("", |(_, token)| token);
        Self { api, system, media, shutdown, token: token.to_owned(), task }
    }

    /// A node in front of these origins.
    pub async fn before(origins: &[&Origin], settings: &[(&str, &str)]) -> Self {
        let balancer = balancer();
        for origin in origins {
            register(&balancer, origin).await;
        }
        Self::start(&balancer, settings).await
    }

    /// Sends a request. Unless `headers` name one, its host is that of the node.
    pub async fn request(&self, method: &str, target: &str, headers: &str, body: impl AsRef<[u8]>) -> Answer {
        let mut client = Client::connect(self.api).await;
        let host = if headers.contains("Host:") { String::new() } else { format!("Host: {}\r\n", self.api) };
        let length = body.as_ref().len();
        client.send(format!("{method} {target} HTTP/1.1\r\n{host}Content-Length: {length}\r\n{headers}\r\n")).await;
        client.send(body).await;
        if method == "HEAD" { client.head().await.unwrap() } else { client.answer().await }
    }

    pub async fn post(&self, target: &str, body: impl AsRef<[u8]>) -> Answer {
        self.request("POST", target, "", body).await
    }

    /// The sessions of this node, as its system API lists them.
    pub async fn sessions(&self) -> Vec<Value> {
        let mut client = Client::connect(self.system).await;
        let token = &self.token;
        client
            .send(format!("GET /api/v1/proxy/sessions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n"))
            .await;
        let answer = client.answer().await;
        answer.json()["sessions"].as_array().unwrap().clone()
    }

    /// Waits until so many sessions are listed.
    pub async fn until_sessions(&self, count: usize) -> Vec<Value> {
        let start = Instant::now();
        loop {
            let sessions = self.sessions().await;
            if sessions.len() == count {
                return sessions;
            }
            assert!(start.elapsed() < LIMIT, "gave up waiting for {count} sessions: {sessions:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
