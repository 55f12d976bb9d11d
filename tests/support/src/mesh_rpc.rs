//! Nodes that answer questions as they are told to.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use async_trait::async_trait;
use srs_proxy::{
    balancer::{
        Intent,
        mesh::{
            link::{
                Membership,
                client::Client,
                refusals::{Refusal, Refusals},
                server::{Limits, Server},
                tls::Credentials,
            },
            model::member::Address,
            model::origins::OriginFacts,
            model::record::{NodeId, Record, Stamp},
            traits::{PeerClient, RequestHandler},
            wire::message::{CallError, PlaceQuery, Request, Response},
        },
    },
    origin::{Origin, Protocol},
    stream::StreamKey,
};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

/// The deadline of calls that are expected to succeed, on a machine that may be busy.
pub const PATIENT: Duration = Duration::from_secs(10);
/// The deadline of calls that are expected to fail by it.
pub const SHORT: Duration = Duration::from_millis(300);
/// Much less than [`PATIENT`]: what comes within this time did not wait for the deadline.
pub const AT_ONCE: Duration = Duration::from_secs(5);
pub const KEY: &[u8] = b"the key of the cluster, 32 bytes";

pub fn stream(name: &str) -> StreamKey {
    StreamKey::from_shared(&format!("v/live/{name}")).unwrap()
}

pub fn record(epoch: u64) -> Record {
    Record {
        origin: "a-b-1".into(),
        epoch,
        since: Stamp(5),
        published: true,
        writer: "n1".into(),
        written: Stamp(6),
        history: BTreeMap::from([("n2".into(), Stamp(4))]),
    }
}

pub fn facts() -> OriginFacts {
    let body = br#"{"ip":"10.0.0.1","server":"a","service":"b","pid":"1","rtmp":["1935"],"srt":["udp://:10080"]}"#;
    OriginFacts {
        origin: Origin::from_heartbeat(body, "SRS/7").unwrap(),
        last_heartbeat: Stamp(7),
        failed: Some((Stamp(8), "connection refused".into())),
        recovered_at: Stamp(9),
        replaced_at: Stamp(0),
    }
}

pub fn place(name: &str) -> Request {
    let query = PlaceQuery {
        stream: stream(name),
        protocol: Protocol::Rtmp,
        intent: Intent::Publish,
        avoid: vec!["x-y-2".into()],
        unreachable: vec!["n3".into()],
        force: true,
    };
    Request::Place { query, known: vec![record(1)], min_epoch: 3 }
}

pub fn placed() -> Response {
    Response::Placed { record: record(4), origin: Box::new(facts()) }
}

/// Gives the answer that it is told to, after as long as it is told to.
#[derive(Default)]
pub struct Scripted {
    pub answer: Mutex<Option<Response>>,
    pub asked: Mutex<Vec<(NodeId, Stamp, Request)>>,
    /// Answers only once this has permits.
    gate: Option<Semaphore>,
    pub waiting: AtomicUsize,
}

impl Scripted {
    pub fn gated() -> Self {
        Self { gate: Some(Semaphore::new(0)), ..Self::default() }
    }

    pub fn open(&self) {
        self.gate.as_ref().unwrap().add_permits(1);
    }
}

#[async_trait]
impl RequestHandler for Scripted {
    async fn handle(&self, from: NodeId, clock: Stamp, request: Request) -> (Stamp, Response) {
        if let Some(gate) = &self.gate {
            self.waiting.fetch_add(1, SeqCst);
            drop(gate.acquire().await.unwrap());
        }
        let answer = self.answer.lock().unwrap().clone().unwrap_or(Response::NotServing);
        self.asked.lock().unwrap().push((from, clock, request));
        (Stamp(clock.0 + 1), answer)
    }
}

pub struct Node {
    pub address: Address,
    pub scripted: Arc<Scripted>,
    pub refusals: Arc<Refusals>,
    pub stop: CancellationToken,
    pub task: JoinHandle<()>,
}

impl Node {
    pub async fn start(membership: Membership) -> Self {
        Self::start_with(membership, Scripted::default(), Limits::default()).await
    }

    pub async fn start_with(membership: Membership, scripted: Scripted, limits: Limits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(listener, membership, scripted, limits)
    }

    pub fn on(listener: TcpListener, membership: Membership, scripted: Scripted, limits: Limits) -> Self {
        let grpc = listener.local_addr().unwrap().to_string();
        let address = Address { node: membership.node.clone(), grpc };
        let (scripted, refusals, stop) = (Arc::new(scripted), Arc::<Refusals>::default(), CancellationToken::new());
        scripted.answer.lock().unwrap().get_or_insert_with(placed);
        let handler: Arc<dyn RequestHandler> = Arc::clone(&scripted) as _;
        let server = Server { membership: Arc::new(membership), handler, limits, refusals: Arc::clone(&refusals) };
        let task = tokio::spawn(server.serve(listener, stop.clone()));
        Self { address, scripted, refusals, stop, task }
    }

    pub fn socket(&self) -> SocketAddr {
        self.address.grpc.parse().unwrap()
    }

    /// Waits until something was refused so often.
    pub async fn refused(&self, refusal: Refusal, times: u64) {
        wait_until(|| self.refusals.count(refusal) >= times).await;
        assert_eq!(self.refusals.count(refusal), times, "{refusal:?}");
    }

    pub async fn stop(self) {
        self.stop.cancel();
        timeout(PATIENT, self.task).await.unwrap().unwrap();
    }
}

pub async fn wait_until(condition: impl Fn() -> bool) {
    timeout(PATIENT, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await
    .expect("the condition holds in time");
}

pub fn open(node: &str) -> Membership {
    Membership { cluster: "c".into(), node: node.into(), credentials: None }
}

pub fn keyed(node: &str, key: &[u8], previous: Option<&[u8]>) -> Membership {
    Membership { credentials: Some(Credentials::derive(key, previous).unwrap()), ..open(node) }
}

pub fn client(membership: Membership, timeout: Duration) -> Client {
    Client::new(Arc::new(membership), timeout)
}

pub async fn ask(client: &Client, to: &Address) -> Result<Response, CallError> {
    client.call(to, Stamp(1), place("a")).await.map(|(_, response)| response)
}

#[track_caller]
pub fn assert_refused(answer: &Result<Response, CallError>, why: &str) {
    assert!(matches!(answer, Err(CallError::Refused(text)) if text.contains(why)), "{why}: {answer:?}");
}

#[track_caller]
pub fn assert_unreachable(answer: &Result<Response, CallError>, why: &str) {
    assert!(matches!(answer, Err(CallError::Unreachable(text)) if text.contains(why)), "{why}: {answer:?}");
}

/// Asks until the answer is there.
pub async fn wait_for_answer(client: &Client, to: &Address) {
    timeout(PATIENT, async { while ask(client, to).await != Ok(placed()) {} }).await.expect("an answer comes in time");
}
