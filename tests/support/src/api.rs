//! The HTTP API on a real socket, in front of origins that answer what a test tells them to.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::to_bytes,
    extract::{Query, Request},
    http::{HeaderMap, Uri},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use srs_proxy::{
    balancer::{Balancer, Reachability, memory::MemoryBalancer},
    config::{self, Secret},
    origin::{self, OriginId},
    relay::{self, dial::Dialer},
    server::{
        api::{ApiState, id, router},
        http::{self, Limits},
    },
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::raw_http::{Answer, Client};

pub const STREAMS: &str = include_str!("../../fixtures/srs/api-streams.json");
pub const CLIENTS: &str = include_str!("../../fixtures/srs/api-clients.json");
pub const VHOSTS: &str = include_str!("../../fixtures/srs/api-vhosts.json");
pub const VERSIONS: &str = include_str!("../../fixtures/srs/api-versions.json");
pub const SUMMARIES: &str = include_str!("../../fixtures/srs/api-summaries.json");
pub const RUSAGES: &str = include_str!("../../fixtures/srs/api-rusages.json");

/// A request that an origin got.
#[derive(Debug, Clone)]
pub struct Asked {
    pub method: String,
    pub target: String,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Asked {
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap()
    }

    /// `METHOD TARGET`.
    pub fn line(&self) -> String {
        format!("{} {}", self.method, self.target)
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    fn parameter(&self, name: &str) -> Option<String> {
        let uri: Uri = self.target.parse().unwrap();
        let Query(query) = Query::<Vec<(String, String)>>::try_from_uri(&uri).unwrap();
        query.into_iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }
}

/// A media server that answers until it is dropped.
pub struct Origin {
    pub id: String,
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    task: JoinHandle<()>,
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Origin {
    /// Answers by `script`. Its id begins with `name`.
    pub async fn scripted(name: &str, script: impl Fn(&Asked) -> Response + Clone + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let seen = Arc::clone(&asked);
        let router = Router::new().fallback(async move |request: Request| {
            let (head, body) = request.into_parts();
            let (method, target) = (head.method.to_string(), head.uri.to_string());
            let body = to_bytes(body, usize::MAX).await.unwrap().to_vec();
            let request = Asked { method, target, headers: head.headers, body };
            seen.lock().unwrap().push(request.clone());
            script(&request)
        });
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { id: format!("{name}-run-1"), address, asked, task }
    }

    /// An SRS with the streams, clients and vhosts of the fixtures.
    pub async fn srs(name: &str) -> Self {
        Self::scripted(name, |asked| srs(asked, &lists())).await
    }

    /// An SRS with so many clients, whose ids begin with `prefix`.
    pub async fn with_clients(name: &str, prefix: &str, count: usize) -> Self {
        let clients = (0..count).map(|n| json!({"id": format!("{prefix}{n:04}"), "url": "/live/s"})).collect();
        let lists = [("streams", Vec::new()), ("clients", clients), ("vhosts", Vec::new())];
        Self::scripted(name, move |asked| srs(asked, &lists)).await
    }

    /// Always the same.
    pub async fn fixed(name: &str, status: u16, body: &str) -> Self {
        let body = body.to_owned();
        Self::scripted(name, move |_| answer(status, &body)).await
    }

    /// Takes connections and never says anything.
    pub async fn frozen(name: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let mut taken = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                taken.push(stream);
            }
        });
        Self { id: format!("{name}-run-1"), address, asked: Arc::default(), task }
    }

    /// Nobody listens there any more.
    pub async fn dead(name: &str) -> Self {
        let origin = Self::frozen(name).await;
        origin.task.abort();
        while tokio::net::TcpStream::connect(origin.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        origin
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// What it was asked for, as `METHOD TARGET`.
    pub fn lines(&self) -> Vec<String> {
        self.asked().iter().map(Asked::line).collect()
    }

    /// The id in the cluster of what it calls `id`.
    pub fn tagged(&self, id: &str) -> String {
        id::tagged(id, &id::tag(&OriginId::from(self.id.as_str())))
    }
}

pub fn answer(status: u16, body: &str) -> Response {
    let status = axum::http::StatusCode::from_u16(status).unwrap();
    (status, [("content-type", "application/json")], body.to_owned()).into_response()
}

type Lists = [(&'static str, Vec<Value>); 3];

fn lists() -> Lists {
    [("streams", STREAMS), ("clients", CLIENTS), ("vhosts", VHOSTS)].map(|(name, fixture)| {
        let list = serde_json::from_str::<Value>(fixture).unwrap()[name].take();
        (name, list.as_array().unwrap().clone())
    })
}

/// Answers as SRS 7 does.
fn srs(asked: &Asked, lists: &Lists) -> Response {
    let head = |name: &str, value: Value| {
        let body = json!({"code": 0, "server": "vid-1", "service": "s", "pid": "1", name: value});
        answer(200, &body.to_string())
    };
    let path = asked.path().strip_prefix("/api/v1/").unwrap_or_default();
    match path {
        "versions" => return answer(200, VERSIONS),
        "summaries" => return answer(200, SUMMARIES),
        "rusages" => return answer(200, RUSAGES),
        "features" => return head("data", json!({"features": {"hls": true, "hds": false}, "build": "today"})),
        "authors" | "meminfos" | "self_proc_stats" | "system_proc_stats" => {
            return head("data", json!({"ok": true, "sample_time": 1}));
        }
        _ => {}
    }
    for ((name, items), code) in lists.iter().zip([2048, 2049, 2014]) {
        let Some(id) = path.strip_prefix(name).and_then(|rest| rest.strip_prefix('/')) else { continue };
        if !id.is_empty() {
            let Some(item) = items.iter().find(|item| item["id"] == id) else {
                return answer(200, &json!({"code": code}).to_string());
            };
            return head(name.strip_suffix('s').unwrap(), item.clone());
        }
        let number = |name: &str| asked.parameter(name).and_then(|text| text.parse().ok()).unwrap_or(0_usize);
        let (start, count) =
            if *name == "vhosts" { (0, usize::MAX) } else { (number("start"), number("count").max(10)) };
        return head(name, items.iter().skip(start).take(count).cloned().collect());
    }
    answer(404, "not found")
}

/// The HTTP API, served until it is dropped.
pub struct Api {
    pub address: SocketAddr,
    pub balancer: Arc<dyn Balancer>,
    task: JoinHandle<()>,
}

impl Drop for Api {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Api {
    /// In front of these origins, which have plenty of time.
    pub async fn before(origins: &[&Origin]) -> Self {
        Self::with(origins, None, Duration::from_secs(10)).await
    }

    pub async fn with(origins: &[&Origin], token: Option<&str>, timeout: Duration) -> Self {
        let balancer: Arc<dyn Balancer> = Arc::new(MemoryBalancer::new(&config::Balancer {
            max_origins: 100,
            max_streams: 100,
            ..config::Balancer::default()
        }));
        for origin in origins {
            let (server, address) = (origin.id.strip_suffix("-run-1").unwrap(), origin.address);
            let heartbeat = json!({
                "ip": "127.0.0.1", "server": server, "service": "run", "pid": "1",
                "rtmp": [address.port().to_string()], "api": [address.port().to_string()],
            });
            let heartbeat = heartbeat.to_string();
            balancer.register(origin::Origin::from_heartbeat(heartbeat.as_bytes(), "SRS/7").unwrap()).await.unwrap();
        }
        let settings = relay::http::Settings {
            connect_timeout: Duration::from_secs(5),
            keepalive: Duration::from_secs(15),
            max_idle: 8,
        };
        let listen = config::Listen { host: Some("127.0.0.1".into()), port: 0 };
        let config = config::Api { listen, token: token.map(Secret::new), timeout, max_connections: 100 };
        let limits = Limits::from(&config);
        let client = relay::http::Client::new(Dialer::default(), settings);
        let server = http::Server {
            router: router(ApiState { balancer: Arc::clone(&balancer), client, config, webrtc: Router::new() }),
            limits,
            metrics: srs_proxy::metrics::ListenerMetrics::default(),
            workers: None,
            stop: CancellationToken::new(),
            close: CancellationToken::new(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        Self { address, balancer, task: tokio::spawn(server.run(listener)) }
    }

    /// The data path could not reach the origin.
    pub async fn suspect(&self, origin: &Origin) {
        let failed = Reachability::Failed("refused".into());
        self.balancer.report(&OriginId::from(origin.id.as_str()), failed).await;
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.address).await
    }

    /// Sends a request without a body.
    pub async fn request(&self, method: &str, target: &str, headers: &str) -> Answer {
        let mut client = self.client().await;
        client.send(format!("{method} {target} HTTP/1.1\r\nHost: test\r\n{headers}\r\n")).await;
        client.answer().await
    }

    pub async fn get(&self, target: &str) -> Answer {
        self.request("GET", target, "").await
    }

    /// What is answered with status 200.
    pub async fn ok(&self, target: &str) -> Value {
        let answer = self.get(target).await;
        assert_eq!(answer.status, 200, "{target}: {answer:?}");
        answer.json()
    }

    /// The items of a list.
    pub async fn list(&self, target: &str) -> Vec<Value> {
        let name = ["streams", "clients", "vhosts"].into_iter().find(|name| target.contains(name)).unwrap();
        let mut answer = self.ok(target).await;
        assert_eq!((&answer["code"], &answer["unanswered"]), (&json!(0), &Value::Null), "{answer}");
        answer[name].as_array_mut().unwrap().split_off(0)
    }
}

/// Who did not answer, and why.
pub fn unanswered(answer: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let all = answer["unanswered"].as_array().unwrap();
    all.iter().map(|no| (text(&no["origin"]), text(&no["error"]))).collect()
}
