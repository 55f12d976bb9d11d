//! The answer of a node as a table.

use std::{
    fmt::Write,
    time::{Duration, UNIX_EPOCH},
};

use crate::server::system::cluster::{ClusterView, DecisionsView, MemberView};

const TITLES: [&str; 9] = ["NODE", "STATE", "LIVE", "VERSION", "STARTED", "GRPC", "HOMES", "LAG", "AGREES"];
/// Which columns are numbers, which stand to the right.
const RIGHT: [bool; 9] = [false, false, false, false, false, false, true, true, false];
/// The last millisecond of the year 9999, which is the last that has a date.
const LAST_DATE: u64 = 253_402_300_799_999;

/// The members first, a line each, then one line for each total.
pub(super) fn render(view: &ClusterView) -> String {
    let rows: Vec<_> = view.members.iter().map(|member| row(member, member.node == view.node)).collect();
    let titles = TITLES.map(str::to_owned);
    let widths: Vec<usize> = (0..TITLES.len())
        .map(|column| rows.iter().chain([&titles]).map(|row| row[column].len()).max().unwrap_or_default())
        .collect();

    let mut text = String::new();
    for row in [&titles].into_iter().chain(&rows) {
        let mut line = String::new();
        for ((cell, width), right) in row.iter().zip(&widths).zip(RIGHT) {
            // Writing to a String cannot fail.
            let _ = if right { write!(line, "{cell:>width$}  ") } else { write!(line, "{cell:<width$}  ") };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text.push('\n');
    for (name, total) in totals(view) {
        let _ = writeln!(text, "{name:<12}{total}");
    }
    text
}

fn row(member: &MemberView, is_this: bool) -> [String; 9] {
    let optional = |text: &Option<String>| text.as_deref().map_or_else(|| "-".to_owned(), ascii);
    let homes = member.homes.map_or_else(|| "-".to_owned(), |homes| homes.to_string());
    let mark = if is_this { "*" } else { "" };
    [
        ascii(&member.node) + mark,
        ascii(&member.state),
        yes(member.live).to_owned(),
        optional(&member.version),
        date(member.incarnation),
        optional(&member.grpc),
        homes,
        readable(Duration::from_millis(member.lag_ms)),
        yes(member.same_view).to_owned(),
    ]
}

fn totals(view: &ClusterView) -> Vec<(&'static str, String)> {
    let unknown = || "unknown".to_owned();
    let ready = match (&view.reason, view.ready) {
        (_, true) => "ready".to_owned(),
        (Some(reason), false) => format!("not ready: {}", ascii(reason)),
        (None, false) => "not ready".to_owned(),
    };
    let stable = if view.stable { "stable" } else { "not stable: nodes see different nodes serve" };
    let origins = view.origins.as_ref().map_or_else(unknown, |origins| {
        format!("{}: {} live, {} suspect", origins.total, origins.live, origins.suspect)
    });
    let mut totals = vec![
        ("this node*", format!("{}: {}, {ready}", ascii(&view.node), ascii(&view.state))),
        ("balancer", format!("{}: {stable}", ascii(&view.balancer))),
        ("origins", origins),
        ("placements", view.placements.map_or_else(unknown, |placements| placements.to_string())),
        ("conflicts", format!("{} open, {} resolved", view.conflicts.open, view.conflicts.resolved)),
    ];
    if let Some(counters) = &view.counters {
        let DecisionsView { placed, moved, adopted, claims, claims_lost, unanswered, bad_posts } = counters.decisions;
        totals.push((
            "decisions",
            format!(
                "{placed} placed, {moved} moved, {adopted} adopted, {claims} claims, {claims_lost} claims lost, \
                 {unanswered} unanswered, {bad_posts} bad posts"
            ),
        ));
        if let Some(gossip) = &counters.gossip {
            let dropped: u64 = gossip.dropped.values().sum();
            totals.push((
                "gossip",
                format!(
                    "{} packets ({} bytes) sent, {} packets ({} bytes) received, {dropped} dropped",
                    gossip.sent, gossip.sent_bytes, gossip.received, gossip.received_bytes
                ),
            ));
        }
    }
    totals
}

const fn yes(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

/// The text without anything that could upset a terminal or the columns.
fn ascii(text: &str) -> String {
    text.chars().map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' }).collect()
}

fn date(millis: u64) -> String {
    if millis > LAST_DATE {
        return millis.to_string();
    }
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(millis)).to_string()
}

/// The two largest units of a duration; milliseconds below a second.
fn readable(time: Duration) -> String {
    let seconds = time.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0 => format!("{}ms", time.as_millis()),
        1..60 => format!("{seconds}.{}s", time.subsec_millis() / 100),
        60..3600 => format!("{minutes}m{}s", seconds % 60),
        3600..86_400 => format!("{hours}h{}m", minutes % 60),
        _ => format!("{days}d{}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::system::cluster::{ConflictsView, CountersView, GossipView, OriginsView};

    fn member(node: &str, state: &str, lag_ms: u64) -> MemberView {
        MemberView {
            node: node.into(),
            state: state.into(),
            live: lag_ms < 5000,
            version: Some("0.1.0".into()),
            incarnation: 1_795_337_000_123,
            grpc: Some("10.0.0.1:12027".into()),
            homes: Some(3334),
            lag_ms,
            same_view: true,
        }
    }

    fn view() -> ClusterView {
        let unknown = MemberView {
            version: None,
            grpc: None,
            homes: Some(0),
            same_view: false,
            incarnation: u64::MAX,
            ..member("proxy-10", "joining", 61_000)
        };
        ClusterView {
            code: 0,
            balancer: "mesh".into(),
            node: "proxy-0".into(),
            state: "serving".into(),
            ready: true,
            reason: None,
            stable: true,
            members: vec![member("proxy-0", "serving", 0), member("proxy-1", "draining", 83), unknown],
            origins: Some(OriginsView { total: 3, live: 2, suspect: 1, list: Vec::new() }),
            placements: Some(10_000),
            conflicts: ConflictsView { open: 1, resolved: 2 },
            counters: Some(CountersView {
                decisions: DecisionsView {
                    placed: 1,
                    moved: 2,
                    adopted: 3,
                    claims: 4,
                    claims_lost: 5,
                    unanswered: 6,
                    bad_posts: 7,
                },
                gossip: Some(GossipView {
                    sent: 10,
                    sent_bytes: 1_000,
                    received: 20,
                    received_bytes: 2_000,
                    dropped: [("replay".to_owned(), 3)].into(),
                }),
                refused: None,
            }),
        }
    }

    #[test]
    fn members_stand_in_columns_and_totals_below_them() {
        let expected = "\
NODE      STATE     LIVE  VERSION  STARTED               GRPC            HOMES   LAG  AGREES
proxy-0*  serving   yes   0.1.0    2026-11-22T08:43:20Z  10.0.0.1:12027   3334   0ms  yes
proxy-1   draining  yes   0.1.0    2026-11-22T08:43:20Z  10.0.0.1:12027   3334  83ms  yes
proxy-10  joining   no    -        18446744073709551615  -                   0  1m1s  no

this node*  proxy-0: serving, ready
balancer    mesh: stable
origins     3: 2 live, 1 suspect
placements  10000
conflicts   1 open, 2 resolved
decisions   1 placed, 2 moved, 3 adopted, 4 claims, 5 claims lost, 6 unanswered, 7 bad posts
gossip      10 packets (1000 bytes) sent, 20 packets (2000 bytes) received, 3 dropped
";
        assert_eq!(render(&view()), expected);
    }

    #[test]
    fn what_is_not_known_and_what_is_wrong_is_said() {
        let reason = Some("placements are unavailable: gone".to_owned());
        let sick = ClusterView {
            ready: false,
            reason,
            stable: false,
            origins: None,
            placements: None,
            counters: None,
            ..view()
        };
        let text = render(&sick);
        for line in [
            "this node*  proxy-0: serving, not ready: placements are unavailable: gone\n",
            "balancer    mesh: not stable: nodes see different nodes serve\n",
            "origins     unknown\n",
            "placements  unknown\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
        assert!(!text.contains("decisions"), "{text}");
    }

    #[test]
    fn nothing_that_a_node_says_reaches_the_terminal_but_ascii() {
        let bad = "\u{1b}[31m\n\u{e9}\u{9b}";
        let mut odd = view();
        odd.node = bad.into();
        odd.reason = Some(bad.into());
        odd.ready = false;
        odd.members[0] = MemberView { grpc: Some(bad.into()), version: Some(bad.into()), ..member(bad, bad, 0) };
        let text = render(&odd);
        assert!(text.chars().all(|c| c == '\n' || c == ' ' || c.is_ascii_graphic()), "{text:?}");
        assert_eq!(text.lines().count(), render(&view()).lines().count());
    }

    #[test]
    fn durations_are_short() {
        for (millis, text) in [
            (0, "0ms"),
            (999, "999ms"),
            (1000, "1.0s"),
            (59_999, "59.9s"),
            (60_000, "1m0s"),
            (3_599_999, "59m59s"),
            (3_660_000, "1h1m"),
            (90_000_000, "1d1h"),
            (u64::MAX, "213503982334d14h"),
        ] {
            assert_eq!(readable(Duration::from_millis(millis)), text);
        }
    }
}
