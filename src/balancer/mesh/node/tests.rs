use std::{collections::BTreeMap, collections::BTreeSet};

use async_trait::async_trait;

use super::*;
use crate::balancer::mesh::{
    model::origins::OriginFacts,
    model::record::{MAX_HISTORY, Stamp},
    traits::RequestHandler,
    wire::message::Renewal,
    wire::{self, MAX_BATCH, MAX_MESSAGE},
};

/// Gossips with nobody.
struct NoStore;

impl GossipStore for NoStore {
    fn set(&self, _: &str, _: &[u8]) {}

    fn delete(&self, _: &str) {}

    fn push(&self) {}
}

/// Reaches nobody.
struct NoPeers;

#[async_trait]
impl PeerClient for NoPeers {
    async fn call(&self, _: &Address, _: Stamp, _: Request) -> Result<(Stamp, Response), CallError> {
        Err(CallError::Unreachable("there is nobody".into()))
    }
}

fn node() -> Arc<Node<NoStore, NoPeers>> {
    let settings = Settings {
        me: Incarnation { node: "n0".into(), generation: 1 },
        grpc: "n0:1".into(),
        wall: Arc::new(|| 1_000_000),
        seed: 1,
        policy: Policy::PowerOfTwo,
        origin_ttl: Duration::from_secs(60),
        hold: Duration::from_secs(60),
        connecting: Duration::from_secs(60),
        max_origins: 10_000,
        max_streams: 100_000,
        renew: Duration::from_secs(60),
        rpc: Duration::from_secs(1),
        join: Duration::from_secs(1),
        fresh: Duration::from_secs(1),
        expects_others: false,
    };
    Node::new(settings, NoStore, NoPeers)
}

/// A name of `len` bytes.
fn long(name: &str, len: usize) -> String {
    format!("{name}{}", "x".repeat(len - name.len()))
}

fn stream(n: usize) -> StreamKey {
    StreamKey::from_shared(&long(&format!("v/live/{n}-"), 1024)).unwrap()
}

/// As large as a record can be.
fn record(writer: usize, epoch: u64) -> Record {
    let history = (0..MAX_HISTORY).map(|n| (NodeId::from(long(&format!("h{n}"), 256).as_str()), Stamp(n as u64 + 1)));
    Record {
        origin: long(&format!("o{writer}"), 1024).as_str().into(),
        epoch,
        since: Stamp(5),
        published: true,
        writer: long(&format!("w{writer}"), 256).as_str().into(),
        written: Stamp(1_000 + epoch),
        history: history.collect(),
    }
}

/// As large as an origin can be.
fn facts(n: usize) -> OriginFacts {
    let endpoints: Vec<_> = (0..16).map(|i| format!("tcp://10.0.{}.{}:{}", n / 250, n % 250 + 1, 10_000 + i)).collect();
    let body = serde_json::json!({
        "ip": long(&format!("o{n}."), 63), "server": long(&format!("{n}-"), 256), "service": long("s", 256),
        "pid": long("1", 256), "device_id": long("d", 256), "rtmp": endpoints, "http": endpoints, "api": endpoints,
        "srt": endpoints, "rtc": endpoints,
    });
    OriginFacts {
        origin: Origin::from_heartbeat(body.to_string().as_bytes(), &long("SRS/", 1024)).unwrap(),
        last_heartbeat: Stamp(10),
        failed: Some((Stamp(20), long("why", 512))),
        recovered_at: Stamp(5),
        replaced_at: Stamp(0),
    }
}

async fn ask(node: &Arc<Node<NoStore, NoPeers>>, request: Request) -> Response {
    node.handle("n1".into(), Stamp(1), request).await.1
}

#[tokio::test]
async fn whatever_a_node_holds_each_page_of_its_snapshot_fits_into_a_message_and_nothing_is_left_out() {
    const ORIGINS: usize = 1_500;
    const STREAMS: usize = 2_500;
    let node = node();
    node.with(|state, now| {
        for n in 0..ORIGINS {
            let State { origins, changes, .. } = state;
            origins.learn(&facts(n), Duration::ZERO, now, changes);
        }
    });
    for n in 0..STREAMS {
        // Every hundredth stream is in conflict, and has several records.
        let writers = if n % 100 == 0 { 5 } else { 1 };
        let records = (0..writers).map(|writer| (stream(n), record(writer, writer as u64 + 1))).collect();
        assert_eq!(ask(&node, Request::PushRecords { records, adopt: false }).await, Response::Done);
    }

    let (mut after, mut pages) = (None, 0);
    let (mut origins, mut records): (BTreeSet<OriginId>, BTreeMap<StreamKey, usize>) = Default::default();
    loop {
        let page = ask(&node, Request::Snapshot { after: after.clone() }).await;
        assert!(wire::encode_response(&page).len() <= MAX_MESSAGE / 2, "page {pages}");
        let Response::Page { records: more_records, origins: more_origins, next, .. } = page else {
            panic!("{page:?}")
        };
        assert!(!more_records.is_empty() || !more_origins.is_empty());
        origins.extend(more_origins.iter().map(|(facts, _)| facts.origin.id()));
        for (stream, _) in more_records {
            *records.entry(stream).or_default() += 1;
        }
        pages += 1;
        match next {
            None => break,
            Some(next) => assert_ne!(Some(&next), after.replace(next.clone()).as_ref()),
        }
    }
    assert!(pages > 5);
    assert_eq!(origins.len(), ORIGINS);
    assert_eq!(records.len(), STREAMS);
    assert!(
        records
            .iter()
            .all(|(key, count)| *count == if (0..STREAMS).step_by(100).any(|n| stream(n) == *key) { 5 } else { 1 })
    );
}

#[tokio::test]
async fn answers_about_many_streams_are_cut_to_a_message() {
    let node = node();
    let streams: Vec<_> = (0..2_000).map(stream).collect();
    for stream in &streams {
        let records = vec![(stream.clone(), record(0, 9))];
        assert_eq!(ask(&node, Request::PushRecords { records, adopt: false }).await, Response::Done);
    }
    let renewals = streams.iter().map(|stream| {
        let record = Record { history: BTreeMap::new(), ..record(0, 1) };
        Renewal { stream: stream.clone(), record, publishers: 0, players: 1 }
    });
    for request in [Request::GetRecords(streams.clone()), Request::RenewLeases(renewals.collect())] {
        let answer = ask(&node, request).await;
        assert!(wire::encode_response(&answer).len() <= MAX_BATCH);
        let Response::Records(records) = answer else { panic!("{answer:?}") };
        assert!(records.len() > 100);
    }
}

#[tokio::test]
async fn what_a_node_hands_over_is_cut_into_messages() {
    let records: Vec<_> = (0..2_000).map(|n| (stream(n), record(0, 9))).collect();
    let batches = renewals::batches(records.clone());
    for batch in &batches {
        let request = Request::PushRecords { records: batch.clone(), adopt: true };
        assert!(wire::encode_request(&request).len() <= MAX_BATCH);
    }
    assert_eq!(batches.concat(), records);
}
