//! What each origin says once, of itself or its machine, merged into one.
//!
//! Every object keeps the fields that one SRS gives, and has `origins` besides: what each origin said,
//! by its id. How a field of several origins becomes one:
//!
//! | object | summed | others |
//! |---|---|---|
//! | all | | `ok`: whether it is so for all; `sample_time`: the latest; what is not named here: as the first origin by id says |
//! | `summaries`, `self` | `mem_kbyte`, `cpu_percent` | `version`: the lowest; `mem_percent`: the mean, by RAM; `srs_uptime`: the least |
//! | `summaries`, `system` | `disk_*_KBps`, `mem_ram_kbyte`, `mem_swap_kbyte`, `cpus`, `cpus_online`, `ilde_time`, `load_*`, `net_*_bytes`, `srs_*_bytes`, `conn_*` | `cpu_percent`: the mean, by CPUs; `mem_ram_percent`, `mem_swap_percent`: the mean, by size; `disk_busy_percent`: the greatest; `uptime`: the least; `*_sample_time`: the latest |
//! | `summaries` | | `now_ms`: the time of this node |
//! | `rusages` | all of `ru_*` | |
//! | `self_proc_stats` | `percent`, faults, times, `num_threads`, `vsize`, `rss`, swaps | |
//! | `system_proc_stats` | the times | `percent`: the mean |
//! | `meminfos` | all sizes | `percent_ram`, `percent_swap`: the mean, by size |
//! | `features` | | each of `features`: whether all have it |
//! | `versions` | | all of the origin with the lowest version |
//!
//! Loads are summed because CPUs are: their ratio stays what it was. Origins that share a machine
//! count that machine once each.

use serde_json::{Map, Value, json};

use super::{merge::Part, number};

/// How a field of several origins becomes one.
#[derive(Debug, Clone, Copy)]
enum Rule {
    Sum,
    Min,
    Max,
    Mean,
    /// The mean, weighted by the field at this place.
    MeanBy(&'static str),
    /// Whether it is so for all.
    All,
    /// The lowest version.
    Lowest,
}

/// Objects that SRS gives under `data`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aggregate {
    /// The version of SRS.
    Versions,
    /// The process, the machine and the network at a glance.
    Summaries,
    /// `getrusage(2)` of the process.
    Rusages,
    /// `/proc/self/stat`.
    SelfProcStats,
    /// `/proc/stat`.
    SystemProcStats,
    /// `/proc/meminfo`.
    Meminfos,
    /// Licence and contributors.
    Authors,
    /// What SRS was built with.
    Features,
}

impl Aggregate {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Versions,
        Self::Summaries,
        Self::Rusages,
        Self::SelfProcStats,
        Self::SystemProcStats,
        Self::Meminfos,
        Self::Authors,
        Self::Features,
    ];

    /// The last part of the path.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Versions => "versions",
            Self::Summaries => "summaries",
            Self::Rusages => "rusages",
            Self::SelfProcStats => "self_proc_stats",
            Self::SystemProcStats => "system_proc_stats",
            Self::Meminfos => "meminfos",
            Self::Authors => "authors",
            Self::Features => "features",
        }
    }

    /// The fields, by the object that holds them.
    fn rules(self) -> &'static [(&'static str, &'static [&'static str], Rule)] {
        match self {
            Self::Versions | Self::Authors | Self::Features => &[],
            Self::Summaries => SUMMARIES,
            Self::Rusages => RUSAGES,
            Self::SelfProcStats => SELF_PROC_STATS,
            Self::SystemProcStats => SYSTEM_PROC_STATS,
            Self::Meminfos => MEMINFOS,
        }
    }
}

const OK: (&str, &[&str], Rule) = ("", &["ok"], Rule::All);
const SAMPLE_TIME: (&str, &[&str], Rule) = ("", &["sample_time"], Rule::Max);

const SUMMARIES: &[(&str, &[&str], Rule)] = &[
    OK,
    ("/self", &["mem_kbyte", "cpu_percent"], Rule::Sum),
    ("/self", &["version"], Rule::Lowest),
    ("/self", &["mem_percent"], Rule::MeanBy("/system/mem_ram_kbyte")),
    ("/self", &["srs_uptime"], Rule::Min),
    (
        "/system",
        &[
            "disk_read_KBps",
            "disk_write_KBps",
            "mem_ram_kbyte",
            "mem_swap_kbyte",
            "cpus",
            "cpus_online",
            "ilde_time",
            "load_1m",
            "load_5m",
            "load_15m",
            "net_recv_bytes",
            "net_send_bytes",
            "net_recvi_bytes",
            "net_sendi_bytes",
            "srs_recv_bytes",
            "srs_send_bytes",
            "conn_sys",
            "conn_sys_et",
            "conn_sys_tw",
            "conn_sys_udp",
            "conn_srs",
        ],
        Rule::Sum,
    ),
    ("/system", &["cpu_percent"], Rule::MeanBy("/system/cpus")),
    ("/system", &["mem_ram_percent"], Rule::MeanBy("/system/mem_ram_kbyte")),
    ("/system", &["mem_swap_percent"], Rule::MeanBy("/system/mem_swap_kbyte")),
    ("/system", &["disk_busy_percent", "net_sample_time", "srs_sample_time"], Rule::Max),
    ("/system", &["uptime"], Rule::Min),
];

const RUSAGES: &[(&str, &[&str], Rule)] = &[
    OK,
    SAMPLE_TIME,
    (
        "",
        &[
            "ru_utime",
            "ru_stime",
            "ru_maxrss",
            "ru_ixrss",
            "ru_idrss",
            "ru_isrss",
            "ru_minflt",
            "ru_majflt",
            "ru_nswap",
            "ru_inblock",
            "ru_oublock",
            "ru_msgsnd",
            "ru_msgrcv",
            "ru_nsignals",
            "ru_nvcsw",
            "ru_nivcsw",
        ],
        Rule::Sum,
    ),
];

const SELF_PROC_STATS: &[(&str, &[&str], Rule)] = &[
    OK,
    SAMPLE_TIME,
    (
        "",
        &[
            "percent",
            "minflt",
            "cminflt",
            "majflt",
            "cmajflt",
            "utime",
            "stime",
            "cutime",
            "cstime",
            "num_threads",
            "vsize",
            "rss",
            "nswap",
            "cnswap",
            "delayacct_blkio_ticks",
            "guest_time",
            "cguest_time",
        ],
        Rule::Sum,
    ),
];

const SYSTEM_PROC_STATS: &[(&str, &[&str], Rule)] = &[
    OK,
    SAMPLE_TIME,
    ("", &["percent"], Rule::Mean),
    ("", &["user", "nice", "sys", "idle", "iowait", "irq", "softirq", "steal", "guest"], Rule::Sum),
];

const MEMINFOS: &[(&str, &[&str], Rule)] = &[
    OK,
    SAMPLE_TIME,
    ("", &["percent_ram"], Rule::MeanBy("/MemTotal")),
    ("", &["percent_swap"], Rule::MeanBy("/SwapTotal")),
    (
        "",
        &["MemActive", "RealInUse", "NotInUse", "MemTotal", "MemFree", "Buffers", "Cached", "SwapTotal", "SwapFree"],
        Rule::Sum,
    ),
];

/// Merges what origins, ordered by id, have under `data`. `now_ms` is the time in milliseconds since
/// 1970.
pub fn merge(single: Aggregate, parts: &[Part], now_ms: u64) -> Value {
    let first = match single {
        Aggregate::Versions => parts.iter().min_by_key(|part| version(&part.value["version"])),
        _ => parts.first(),
    };
    let mut merged = first.map_or_else(|| json!({}), |part| part.value.clone());
    // One origin's numbers are shown as they are.
    if parts.len() > 1 {
        for (holder, fields, rule) in single.rules() {
            for field in *fields {
                apply(&mut merged, parts, holder, field, *rule);
            }
        }
        if single == Aggregate::Features
            && let Some(features) = merged.get_mut("features").and_then(Value::as_object_mut)
        {
            for (name, value) in features {
                *value = parts.iter().all(|part| part.value["features"][name.as_str()] == true).into();
            }
        }
    }
    if let Some(merged) = merged.as_object_mut() {
        if single == Aggregate::Summaries {
            merged.insert("now_ms".into(), now_ms.into());
        }
        let origins: Map<_, _> = parts.iter().map(|part| (part.origin.clone(), part.value.clone())).collect();
        merged.insert("origins".into(), origins.into());
    }
    merged
}

fn apply(merged: &mut Value, parts: &[Part], holder: &str, field: &str, rule: Rule) {
    let Some(Value::Object(target)) = merged.pointer_mut(holder) else { return };
    let values = || parts.iter().filter_map(|part| part.value.pointer(holder)?.get(field));
    let value = match rule {
        Rule::Sum => number::sum(values().collect::<Vec<_>>().into_iter()),
        Rule::Min => number::min(values()),
        Rule::Max => number::max(values()),
        Rule::Mean => number::mean(&values().map(|value| (value, None)).collect::<Vec<_>>()),
        Rule::MeanBy(weight) => {
            let weighted = parts.iter().filter_map(|part| {
                let value = part.value.pointer(holder)?.get(field)?;
                Some((value, part.value.pointer(weight).and_then(Value::as_f64)))
            });
            number::mean(&weighted.collect::<Vec<_>>())
        }
        Rule::All => Some(values().all(|value| *value == true).into()),
        Rule::Lowest => values().min_by_key(|value| version(value)).cloned(),
    };
    if let Some(value) = value {
        target.insert(field.to_owned(), value);
    }
}

/// `7.0.18` by its numbers. What is none comes after all that are.
fn version(value: &Value) -> (bool, Vec<u64>) {
    let numbers: Vec<_> = value.as_str().unwrap_or_default().split('.').map_while(|part| part.parse().ok()).collect();
    (numbers.is_empty(), numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(origin: &str, value: Value) -> Part {
        Part { origin: origin.into(), tag: String::new(), value }
    }

    fn data(fixture: &str) -> Value {
        serde_json::from_str::<Value>(fixture).unwrap()["data"].take()
    }

    #[test]
    fn one_origin_is_shown_as_it_is() {
        for (single, fixture) in [
            (Aggregate::Summaries, include_str!("../../../tests/fixtures/srs/api-summaries.json")),
            (Aggregate::Rusages, include_str!("../../../tests/fixtures/srs/api-rusages.json")),
            (Aggregate::Versions, include_str!("../../../tests/fixtures/srs/api-versions.json")),
        ] {
            let data = data(fixture);
            let mut merged = merge(single, &[part("a", data.clone())], 1_795_364_802_079);
            assert_eq!(merged["origins"].take(), json!({"a": data}));
            merged.as_object_mut().unwrap().remove("origins");
            assert_eq!(merged, data, "{single:?}");
        }
    }

    #[test]
    fn summaries_of_two_machines_are_those_of_one_as_large_as_both() {
        let one = data(include_str!("../../../tests/fixtures/srs/api-summaries.json"));
        let mut two = one.clone();
        two["ok"] = false.into();
        two["self"]["version"] = "6.0.157".into();
        two["self"]["srs_uptime"] = 5.into();
        for (field, value) in [("cpus", 6.0), ("cpu_percent", 0.55), ("load_1m", 5.5), ("disk_busy_percent", 0.7)] {
            two["system"][field] = value.into();
        }
        two["system"]["net_sample_time"] = 1_795_364_799_999_u64.into();
        let merged = merge(Aggregate::Summaries, &[part("a", one.clone()), part("b", two)], 42);
        let (own, system) = (&merged["self"], &merged["system"]);
        assert_eq!((&merged["ok"], &merged["now_ms"]), (&json!(false), &json!(42)));
        assert_eq!((&own["version"], &own["srs_uptime"]), (&json!("6.0.157"), &json!(5)));
        assert_eq!((&own["mem_kbyte"], &own["cpu_percent"]), (&json!(68528), &json!(0.06)));
        assert_eq!((&own["pid"], &own["argv"]), (&one["self"]["pid"], &one["self"]["argv"]));
        assert_eq!((&system["cpus"], &system["cpu_percent"]), (&json!(8.0), &json!(0.45)));
        assert_eq!((&system["load_1m"], &system["disk_busy_percent"]), (&json!(5.52), &json!(0.7)));
        assert_eq!((&system["conn_srs"], &system["srs_recv_bytes"]), (&json!(4), &json!(13_984_040)));
        assert_eq!(system["net_sample_time"], 1_795_364_799_999_u64);
        assert_eq!((&system["uptime"], &system["mem_ram_percent"]), (&json!(3814.37), &json!(0.01)));
        assert_eq!(merged["origins"]["a"], one);
    }

    #[test]
    fn the_lowest_version_counts_by_its_numbers() {
        let of = |version: &str| json!({"version": version, "major": 1});
        let parts = [part("a", of("7.0.9")), part("b", of("x")), part("c", of("7.0.10")), part("d", of("10.0.0"))];
        assert_eq!(merge(Aggregate::Versions, &parts, 0)["version"], "7.0.9");
        assert_eq!(merge(Aggregate::Versions, &parts[1..], 0)["version"], "7.0.10");
    }

    #[test]
    fn a_feature_is_there_if_all_origins_have_it() {
        let of = |hds: bool| json!({"features": {"hls": true, "hds": hds}});
        let merged = merge(Aggregate::Features, &[part("a", of(true)), part("b", of(false))], 0);
        assert_eq!(merged["features"], json!({"hls": true, "hds": false}));
    }

    #[test]
    fn every_field_that_an_origin_gives_and_no_rule_names_is_the_first_ones() {
        let merged = merge(Aggregate::Meminfos, &[part("a", json!({"new": 1})), part("b", json!({"new": 2}))], 0);
        assert_eq!(merged["new"], 1);
    }
}
