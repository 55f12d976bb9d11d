//! Answers of any shape from several origins: no panic, and what is merged is JSON, within the page,
//! with ids that say which origin they are from.

#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value, json};
use srs_proxy::{
    balancer::Page,
    origin::OriginId,
    server::api::{
        id,
        merge::{self, List, Part, Reading, Shape},
        single::{self, Single},
    },
};

/// What SRS has in its answers, so that the fuzzer need not find the names.
const NAMES: &[&str] = &[
    "id", "vhost", "stream", "name", "url", "publish", "cid", "enabled", "clients", "streams", "send_bytes",
    "recv_bytes", "kbps", "recv_30s", "send_30s", "origin", "origins", "ok", "now_ms", "self", "system", "version",
    "mem_kbyte", "mem_percent", "cpu_percent", "srs_uptime", "cpus", "load_1m", "uptime", "sample_time", "ru_maxrss",
    "features", "hls", "percent", "percent_ram", "MemTotal", "net_sample_time", "disk_busy_percent", "mem_ram_kbyte",
];
const TEXTS: &[&str] =
    &["", "a", "b", "7.0.18", "6.x", ".", "/live/s", "v.com/live/s", "rtmp://h/l", "a.0123456789", "\u{0}\u{e9}"];
/// How deep a value is nested at the most.
const DEPTH: usize = 5;

fuzz_target!(|input: &[u8]| {
    // As it comes from an origin: whatever is read can be merged.
    for (n, shape) in [Shape::Object("data"), Shape::Array("streams"), Shape::Done].into_iter().enumerate() {
        let read = input.split(|byte| *byte == b'\n').filter_map(|body| match merge::read(body, shape, &[2048]) {
            Ok(Reading::Found(value)) => Some(value),
            _ => None,
        });
        let found: Vec<_> = read.collect();
        if n < 2 && !found.is_empty() {
            check(&found, Page { start: 0, count: 10 });
        }
    }
    // As it would come if the fuzzer knew JSON.
    let mut bytes = input;
    let page = Page { start: usize::from(take(&mut bytes) % 8), count: usize::from(take(&mut bytes) % 8) };
    let origins = 1 + take(&mut bytes) % 4;
    let values: Vec<_> = (0..origins).map(|_| value(&mut bytes, DEPTH)).collect();
    check(&values, page);
    let lists: Vec<_> = values.into_iter().map(|value| json!([value, object(&mut bytes, DEPTH)])).collect();
    check(&lists, page);
});

fn check(values: &[Value], page: Page) {
    let parts = || -> Vec<Part> {
        let part = |(n, value): (usize, &Value)| {
            let origin = format!("origin-{n}");
            Part { tag: id::tag(&OriginId::from(origin.as_str())), origin, value: value.clone() }
        };
        values.iter().enumerate().map(part).collect()
    };
    for single in Single::ALL {
        is_json(&single::merge(single, &parts(), 42));
    }
    for list in List::ALL {
        let all = merge::list(list, parts(), None);
        let some = merge::list(list, parts(), Some(page));
        assert_eq!(some, all.iter().skip(page.start).take(page.count).cloned().collect::<Vec<_>>());
        for item in &all {
            is_json(item);
            match (list, item["id"].as_str(), item["origin"].as_str()) {
                (List::Vhosts, Some(id), Some(_)) => assert_eq!(id, id::vhost(item["name"].as_str().unwrap())),
                (List::Vhosts, ..) => panic!("a vhost without an id or an origin: {item}"),
                (_, Some(id), Some(origin)) if !id.is_empty() => {
                    assert_eq!(id::split(id).1, Some(id::tag(&OriginId::from(origin)).as_str()));
                }
                _ => {}
            }
        }
        if list == List::Vhosts {
            let mut ids: Vec<_> = all.iter().map(|item| item["id"].as_str().unwrap()).collect();
            for id in &ids {
                assert_eq!(merge::vhost(parts(), id).unwrap()["id"], *id);
            }
            ids.sort_unstable();
            assert!(ids.windows(2).all(|pair| pair[0] != pair[1]), "one vhost is there twice");
        }
    }
}

/// What is written can be read.
fn is_json(value: &Value) {
    serde_json::from_str::<Value>(&value.to_string()).expect("valid JSON");
}

/// Any value of JSON, from any bytes.
fn value(bytes: &mut &[u8], depth: usize) -> Value {
    match take(bytes) % 10 {
        1 => (take(bytes) < 128).into(),
        2 => take(bytes).into(),
        3 => u64::from_le_bytes(eight(bytes)).into(),
        4 => i64::from_le_bytes(eight(bytes)).into(),
        5 => f64::from_le_bytes(eight(bytes)).into(),
        6 => TEXTS[usize::from(take(bytes)) % TEXTS.len()].into(),
        7 if depth > 0 => (0..take(bytes) % 8).map(|_| value(bytes, depth - 1)).collect(),
        8 | 9 if depth > 0 => object(bytes, depth),
        _ => Value::Null,
    }
}

fn object(bytes: &mut &[u8], depth: usize) -> Value {
    let fields = (0..take(bytes) % 16).map(|_| {
        let name = NAMES[usize::from(take(bytes)) % NAMES.len()];
        (name.to_owned(), value(bytes, depth - 1))
    });
    Value::Object(fields.collect::<Map<_, _>>())
}

/// The next byte, or 0 after the last one.
fn take(bytes: &mut &[u8]) -> u8 {
    bytes.split_off_first().copied().unwrap_or_default()
}

fn eight(bytes: &mut &[u8]) -> [u8; 8] {
    std::array::from_fn(|_| take(bytes))
}
