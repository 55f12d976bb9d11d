use std::{collections::BTreeMap, time::Duration};

use proptest::{collection::vec, option, prelude::*, sample::select};

use super::*;
use crate::{
    balancer::{
        BalancerError, Intent,
        mesh::{
            model::member::{Address, NodeState},
            model::record::{MAX_HISTORY, NodeId, Stamp},
            wire::message::{Cursor, PlaceQuery, Renewal},
            wire::proto::request::Question,
        },
    },
    origin::{Endpoint, Origin, OriginId, Protocol},
    stream::StreamKey,
};

fn stream() -> impl Strategy<Value = StreamKey> {
    "[a-z.]{1,8}/[a-z]{1,8}/[^\\p{Cc}/]{1,40}".prop_map(|key| StreamKey::from_shared(&key).unwrap())
}

fn node() -> impl Strategy<Value = NodeId> {
    "\\PC{1,20}".prop_map(|id| NodeId::from(id.as_str()))
}

fn origin_id() -> impl Strategy<Value = OriginId> {
    "\\PC{1,30}".prop_map(|id| OriginId::from(id.as_str()))
}

fn stamp() -> impl Strategy<Value = Stamp> {
    any::<u64>().prop_map(Stamp)
}

fn millis() -> impl Strategy<Value = Duration> {
    any::<u64>().prop_map(Duration::from_millis)
}

fn address() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z]{1,9}(\\.[a-z]{1,9}){0,2}:[1-9][0-9]{0,3}", Just("[2001:db8::1]:12027".to_owned())]
}

fn reason() -> impl Strategy<Value = String> {
    "\\PC{0,60}"
}

fn protocol() -> impl Strategy<Value = Protocol> {
    select(Protocol::ALL.as_slice())
}

fn intent() -> impl Strategy<Value = Intent> {
    select([Intent::Publish, Intent::Play].as_slice())
}

prop_compose! {
    fn record()(
        origin in origin_id(),
        epoch: u64,
        since in stamp(),
        published: bool,
        writer in node(),
        written in stamp(),
        history in vec((node(), stamp()), 0..=MAX_HISTORY),
    ) -> Record {
        Record { origin, epoch, since, published, writer, written, history: history.into_iter().collect() }
    }
}

fn endpoints(min: usize) -> impl Strategy<Value = Vec<Endpoint>> {
    let text = prop_oneof!["[1-9][0-9]{0,3}", "udp://:[1-9][0-9]{0,3}", "tcp://10\\.0\\.0\\.[1-9]:[1-9][0-9]{0,3}"];
    vec(text.prop_map(|text| Endpoint::parse(&text).unwrap()), min..4)
}

prop_compose! {
    fn origin()(
        (server_id, service_id, pid, device_id) in ("\\PC{1,20}", "\\PC{1,20}", "[0-9]{1,5}", "\\PC{0,20}"),
        ip in select(vec!["10.0.0.1", "2001:db8::1", "origin-0.srs"]),
        rtmp in endpoints(1),
        (http, api, srt, rtc) in (endpoints(0), endpoints(0), endpoints(0), endpoints(0)),
        software in "\\PC{0,20}",
        cpu in option::of(0.0_f32..=1.0),
    ) -> Origin {
        Origin { server_id, service_id, pid, device_id, ip: ip.into(), rtmp, http, api, srt, rtc, software, cpu }
    }
}

prop_compose! {
    fn facts()(
        origin in origin(),
        beat in stamp(),
        failed in option::of((stamp(), reason())),
        cleared in stamp(),
        retired in stamp(),
    ) -> OriginFacts {
        OriginFacts { origin, last_heartbeat: beat, failed, recovered_at: cleared, replaced_at: retired }
    }
}

prop_compose! {
    fn info()(
        state in select(vec![NodeState::Joining, NodeState::Serving, NodeState::Draining, NodeState::Left]),
        grpc in address(),
        view: u64,
        version in "\\PC{0,15}",
    ) -> NodeInfo {
        NodeInfo { state, grpc, view, version }
    }
}

fn entries() -> impl Strategy<Value = Vec<(StreamKey, Record)>> {
    vec((stream(), record()), 0..4)
}

fn place() -> impl Strategy<Value = Request> {
    let lists = (vec(origin_id(), 0..3), vec(record(), 0..3), vec(node(), 0..3));
    (stream(), protocol(), intent(), lists, any::<u64>(), any::<bool>()).prop_map(
        |(stream, protocol, intent, (avoid, known, unreachable), min_epoch, force)| {
            let query = PlaceQuery { stream, protocol, intent, avoid, unreachable, force };
            Request::Place { query, known, min_epoch }
        },
    )
}

fn cursor() -> impl Strategy<Value = Cursor> {
    prop_oneof![origin_id().prop_map(Cursor::Origin), stream().prop_map(Cursor::Stream)]
}

fn request() -> impl Strategy<Value = Request> {
    let renewal = (stream(), record(), any::<u32>(), any::<u32>())
        .prop_map(|(stream, record, publishers, players)| Renewal { stream, record, publishers, players });
    prop_oneof![
        place(),
        (stream(), vec(record(), 0..3)).prop_map(|(stream, known)| Request::Claim { stream, known }),
        vec(renewal, 0..4).prop_map(Request::RenewLeases),
        (entries(), any::<bool>()).prop_map(|(records, adopt)| Request::PushRecords { records, adopt }),
        vec(stream(), 0..4).prop_map(Request::GetRecords),
        option::of(cursor()).prop_map(|after| Request::Snapshot { after }),
        (".{0,20}", stream(), millis()).prop_map(|(id, stream, ttl)| Request::PutUfrag { id, stream, ttl }),
        ".{0,20}".prop_map(|id| Request::StreamOfUfrag { id }),
    ]
}

fn refused() -> impl Strategy<Value = BalancerError> {
    prop_oneof![
        (protocol(), any::<u32>())
            .prop_map(|(protocol, n)| BalancerError::NoOrigin { protocol, registered: n as usize }),
        reason().prop_map(BalancerError::Full),
        reason().prop_map(BalancerError::Unavailable),
    ]
}

fn response() -> impl Strategy<Value = Response> {
    let page = (entries(), vec((facts(), millis()), 0..3), any::<u64>(), option::of(cursor()))
        .prop_map(|(records, origins, min_epoch, next)| Response::Page { records, origins, min_epoch, next });
    prop_oneof![
        (record(), facts()).prop_map(|(record, origin)| Response::Placed { record, origin: Box::new(origin) }),
        (node(), address()).prop_map(|(node, grpc)| Response::Redirect(Address { node, grpc })),
        refused().prop_map(Response::Refused),
        (vec(record(), 0..3), any::<u64>(), option::of((node(), address()))).prop_map(|(known, min_epoch, held)| {
            let held = held.map(|(node, grpc)| Address { node, grpc });
            Response::Claimed { known, min_epoch, held }
        }),
        entries().prop_map(Response::Records),
        page,
        option::of(stream()).prop_map(Response::StreamOfUfrag),
        Just(Response::Done),
        Just(Response::NotServing),
    ]
}

proptest! {
    #[test]
    fn gossip_values_are_read_as_they_were_written(record in record(), facts in facts(), info in info()) {
        prop_assert_eq!(decode_record(&encode_record(&record)), Ok(record));
        prop_assert_eq!(decode_origin(&encode_origin(&facts)), Ok(facts));
        prop_assert_eq!(decode_node(&encode_node(&info)), Ok(info));
    }

    #[test]
    fn questions_are_read_as_they_were_written(request in request()) {
        prop_assert_eq!(decode_request(&encode_request(&request)), Ok(request));
    }

    #[test]
    fn answers_are_read_as_they_were_written(response in response()) {
        prop_assert_eq!(decode_response(&encode_response(&response)), Ok(response));
    }

    #[test]
    fn batches_keep_the_order_and_each_fits_into_a_message(
        lens in vec(prop_oneof![1..2_000_usize, MAX_BATCH / 3..=MAX_BATCH + 10], 0..4_000),
    ) {
        let batches = batches(lens.clone(), |len| *len);
        for batch in &batches {
            let bytes = batch.iter().sum::<usize>();
            prop_assert!(!batch.is_empty() && (bytes <= MAX_BATCH && batch.len() <= MAX_BATCH_ENTRIES || batch.len() == 1));
        }
        prop_assert_eq!(batches.concat(), lens);
    }

    #[test]
    fn a_message_takes_no_more_than_was_reckoned_for_its_items(
        records in vec((stream(), record()), 1..4),
        origins in vec((facts(), millis()), 0..3),
        players: u32,
    ) {
        let reckoned: usize = records.iter().map(|(stream, record)| entry_len(stream, record)).sum();
        let tell = Request::PushRecords { records: records.clone(), adopt: true };
        prop_assert!(encode_request(&tell).len() <= reckoned);
        let renewal = |(stream, record)| Renewal { stream, record, publishers: players, players };
        let renew = Request::RenewLeases(records.iter().cloned().map(renewal).collect());
        prop_assert!(encode_request(&renew).len() <= reckoned);
        let reckoned = reckoned + origins.iter().map(|(facts, _)| origin_len(facts)).sum::<usize>();
        let page = Response::Page { records, origins, min_epoch: u64::MAX, next: None };
        prop_assert!(encode_response(&page).len() <= reckoned);
    }

    #[test]
    fn what_is_cut_short_is_refused_or_whole_in_itself(request in request(), at: prop::sample::Index) {
        let bytes = encode_request(&request);
        if let Ok(part) = decode_request(&bytes[..at.index(bytes.len() + 1)]) {
            prop_assert_eq!(decode_request(&encode_request(&part)), Ok(part));
        }
    }

    #[test]
    fn any_bytes_are_refused_or_read(bytes in vec(any::<u8>(), 0..200)) {
        if let Ok(record) = decode_record(&bytes) {
            prop_assert_eq!(decode_record(&encode_record(&record)), Ok(record));
        }
        if let Ok(facts) = decode_origin(&bytes) {
            prop_assert_eq!(decode_origin(&encode_origin(&facts)), Ok(facts));
        }
        if let Ok(info) = decode_node(&bytes) {
            prop_assert_eq!(decode_node(&encode_node(&info)), Ok(info));
        }
        if let Ok(request) = decode_request(&bytes) {
            prop_assert_eq!(decode_request(&encode_request(&request)), Ok(request));
        }
        if let Ok(response) = decode_response(&bytes) {
            prop_assert_eq!(decode_response(&encode_response(&response)), Ok(response));
        }
    }
}

fn a_record() -> Record {
    Record {
        origin: "a-b-1".into(),
        epoch: 1,
        since: Stamp(1),
        published: true,
        writer: "n1".into(),
        written: Stamp(2),
        history: BTreeMap::new(),
    }
}

fn refusal_of(change: impl FnOnce(&mut proto::Record)) -> String {
    let mut record = proto::Record::from(&a_record());
    change(&mut record);
    decode_record(&record.encode_to_vec()).unwrap_err().to_string()
}

#[test]
fn a_record_that_breaks_a_rule_is_refused_by_the_name_of_the_field() {
    let entry = |i| proto::HistoryEntry { node: format!("n{i}"), written: 1 };
    assert_eq!(refusal_of(|r| r.origin.clear()), "field origin: is empty");
    assert_eq!(refusal_of(|r| r.writer.clear()), "field writer: is empty");
    assert_eq!(refusal_of(|r| r.writer = "a\nb".into()), "field writer: holds a control character");
    assert_eq!(refusal_of(|r| r.writer = "x".repeat(257)), "field writer: has 257 bytes; the limit is 256");
    assert_eq!(refusal_of(|r| r.history = vec![entry(2), entry(2)]), "field history: names a node twice");
    assert_eq!(refusal_of(|r| r.history = (0..9).map(entry).collect()), "field history: has 9 items; the limit is 8");
}

#[test]
fn an_origin_that_breaks_a_rule_is_refused_by_the_name_of_the_field() {
    let body = br#"{"ip":"10.0.0.1","server":"a","service":"b","pid":"1","rtmp":["1935"]}"#;
    let origin = Origin::from_heartbeat(body, "SRS/7").unwrap();
    let facts = OriginFacts {
        origin,
        last_heartbeat: Stamp(1),
        failed: Some((Stamp(1), "refused".into())),
        recovered_at: Stamp(0),
        replaced_at: Stamp(0),
    };
    let refusal_of = |change: &dyn Fn(&mut proto::OriginFacts, &mut proto::Origin)| {
        let mut wire = proto::OriginFacts::from(&facts);
        let mut origin = wire.origin.take().unwrap();
        change(&mut wire, &mut origin);
        wire.origin.get_or_insert(origin);
        decode_origin(&wire.encode_to_vec()).unwrap_err().to_string()
    };
    assert_eq!(refusal_of(&|_, o| o.server_id.clear()), "field server_id: is empty");
    assert_eq!(refusal_of(&|_, o| o.ip = "0.0.0.0".into()), "field ip: is neither an address nor a host name");
    assert_eq!(refusal_of(&|_, o| o.ip = "a b".into()), "field ip: is neither an address nor a host name");
    assert_eq!(refusal_of(&|_, o| o.rtmp.clear()), "field rtmp: is empty");
    assert!(refusal_of(&|_, o| o.srt = vec!["x".into()]).starts_with("field srt: \"x\" is not an endpoint"));
    assert_eq!(refusal_of(&|_, o| o.rtc = vec!["1".into(); 17]), "field rtc: has 17 items; the limit is 16");
    assert_eq!(refusal_of(&|_, o| o.cpu = Some(f32::NAN)), "field cpu: is not between 0 and 1");
    assert_eq!(
        refusal_of(&|f, _| f.failed = Some(proto::Failure { at: 1, reason: "x".repeat(513) })),
        "field failed.reason: has 513 bytes; the limit is 512"
    );
    let none = proto::OriginFacts { origin: None, ..proto::OriginFacts::from(&facts) };
    assert_eq!(decode_origin(&none.encode_to_vec()).unwrap_err().to_string(), "field origin: is missing");
}

#[test]
fn a_node_that_breaks_a_rule_is_refused_by_the_name_of_the_field() {
    let refusal_of = |state, grpc: &str| {
        let info = proto::NodeInfo { state, grpc: grpc.into(), view: 1, version: String::new() };
        decode_node(&info.encode_to_vec()).unwrap_err().to_string()
    };
    assert_eq!(refusal_of(0, "n:1"), "field state: 0 is unknown");
    assert_eq!(refusal_of(9, "n:1"), "field state: 9 is unknown");
    for no_address in ["n", "n:0", "n:65536", "n:+1", ":1", "::1:1", "[n]:1", "a b:1"] {
        assert_eq!(refusal_of(1, no_address), "field grpc: is not host:port", "{no_address}");
    }
}

#[test]
fn a_question_that_breaks_a_rule_is_refused_by_the_name_of_the_field() {
    let refused = |question| {
        let request = proto::Request { question };
        decode_request(&request.encode_to_vec()).unwrap_err().to_string()
    };
    let place = proto::Place {
        stream: "v/live/s".into(),
        protocol: proto::Protocol::Rtmp.into(),
        intent: proto::Intent::Play.into(),
        ..Default::default()
    };
    let refusal_of = |change: &dyn Fn(&mut proto::Place)| {
        let mut place = place.clone();
        change(&mut place);
        refused(Some(Question::Place(place)))
    };
    let whole = proto::Request { question: Some(Question::Place(place.clone())) };
    assert!(decode_request(&whole.encode_to_vec()).is_ok());
    assert_eq!(
        refusal_of(&|p| p.stream = "live/s".into()),
        "field stream: the URL has no stream name: expected app/stream"
    );
    assert_eq!(refusal_of(&|p| p.protocol = 0), "field protocol: 0 is unknown");
    assert_eq!(refusal_of(&|p| p.intent = 7), "field intent: 7 is unknown");
    assert_eq!(refusal_of(&|p| p.avoid = vec!["o".into(); 257]), "field avoid: has 257 items; the limit is 256");
    assert_eq!(refusal_of(&|p| p.unreachable = vec![String::new()]), "field unreachable: is empty");

    let get = proto::GetRecords { streams: vec!["v/live/s".into(); MAX_ENTRIES + 1] };
    assert_eq!(refused(Some(Question::GetRecords(get))), "field streams: has 10001 items; the limit is 10000");
    let snapshot = proto::Snapshot { after: Some(proto::Cursor { last: None }) };
    assert_eq!(refused(Some(Question::Snapshot(snapshot))), "field last: is missing");
    // A question of a later version.
    assert_eq!(refused(None), "field question: is missing");
    assert_eq!(decode_response(&[]).unwrap_err().to_string(), "field answer: is missing");
}

#[test]
fn a_reason_is_cut_where_a_character_ends() {
    let text = format!("{}\n{}", "x".repeat(510), "é".repeat(9));
    let refused = Response::Refused(BalancerError::Full(text));
    let bytes = encode_response(&refused);
    let cut = format!("{} ", "x".repeat(510));
    assert_eq!(decode_response(&bytes), Ok(Response::Refused(BalancerError::Full(cut))));
}

#[test]
fn a_record_of_a_full_history_fits_where_it_is_posted() {
    let history =
        (0..MAX_HISTORY).map(|i| (NodeId::from(format!("srs-proxy-{i}").as_str()), Stamp(u64::MAX))).collect();
    assert!(encode_record(&Record { history, ..a_record() }).len() < 300);
}
