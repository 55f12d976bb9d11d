//! `srs-proxy cluster status`, as people and scripts run it.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::Value;
use srs_proxy::{
    balancer::{Balancer, ClusterStatus, mesh::model::member::NodeState},
    config::Secret,
};
use srs_proxy_test_support::binary;
use srs_proxy_test_support::binary::{Ended, Start, on_free_ports};
use srs_proxy_test_support::in_cluster;
use srs_proxy_test_support::in_cluster::InCluster;
use srs_proxy_test_support::system::{Server, settings};
use tokio::net::TcpListener;

const TOKEN: &str = "PROXY_HTTP_API_AUTH_TOKEN";

fn status() -> Start {
    binary::binary().arg("cluster").arg("status")
}

/// Asks the node at `api`.
fn ask(api: SocketAddr) -> Start {
    status().arg("--api").arg(&format!("http://{api}"))
}

/// Runs a command beside the servers of the test.
async fn run(start: Start) -> Ended {
    tokio::task::spawn_blocking(|| start.run()).await.unwrap()
}

async fn node(token: Option<&str>, cluster: Option<ClusterStatus>) -> (Server, Arc<InCluster>) {
    let balancer = InCluster::new();
    if let Some(cluster) = cluster {
        balancer.say(cluster);
    }
    let shared = Arc::clone(&balancer) as Arc<dyn Balancer>;
    (Server::with(shared, token.map(Secret::new), settings(Duration::from_secs(30))).await, balancer)
}

#[tokio::test]
async fn members_are_printed_as_a_table_with_totals_below() {
    let (server, _) = node(None, Some(in_cluster::cluster())).await;
    let ended = run(ask(server.address)).await;
    assert_eq!((ended.status.code(), ended.stderr.as_str()), (Some(0), ""), "{}", ended.stdout);
    let words: Vec<Vec<_>> = ended.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words[0], ["NODE", "STATE", "LIVE", "VERSION", "STARTED", "GRPC", "HOMES", "LAG", "AGREES"]);
    assert_eq!(words[1][..4], ["proxy-0*", "serving", "yes", "0.1.0"]);
    assert_eq!(words[2][..2], ["proxy-1", "draining"]);
    assert_eq!(words[3], ["proxy-2", "left", "no", "-", "2026-11-22T08:43:20Z", "-", "0", "1m15s", "no"]);
    for total in ["placements  10", "conflicts   1 open, 4 resolved", "origins     0: 0 live, 0 suspect"] {
        assert!(ended.stdout.lines().any(|line| line == total), "{total}: {}", ended.stdout);
    }
    assert!(ended.stdout.is_ascii());
}

#[tokio::test]
async fn json_is_printed_as_the_node_gives_it() {
    let (server, _) = node(None, Some(in_cluster::cluster())).await;
    let ended = run(ask(server.address).arg("--json")).await;
    assert_eq!(ended.status.code(), Some(0));
    let printed: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(printed, server.get("/api/v1/proxy/cluster").await.json());
}

#[tokio::test]
async fn a_node_that_is_unwell_is_told_by_exit_code_1_and_in_the_table() {
    let joining = ClusterStatus { state: NodeState::Joining, ..in_cluster::cluster() };
    let unsettled = ClusterStatus { stable: false, ..in_cluster::cluster() };
    for (cluster, told) in [(joining, "proxy-0: joining"), (unsettled, "not stable")] {
        let (server, _) = node(None, Some(cluster)).await;
        let ended = run(ask(server.address)).await;
        assert_eq!(ended.status.code(), Some(1), "{told}");
        assert!(ended.stdout.contains(told), "{told}: {}", ended.stdout);
    }
    let (server, balancer) = node(None, None).await;
    balancer.refuse(Some("the store is gone"));
    let ended = run(ask(server.address)).await;
    assert_eq!(ended.status.code(), Some(1));
    assert!(ended.stdout.contains("not ready: placements are unavailable: the store is gone"), "{}", ended.stdout);
    balancer.refuse(None);
    server.draining.cancel();
    let ended = run(ask(server.address).arg("--json")).await;
    assert_eq!((ended.status.code(), ended.stdout.contains("\"draining\"")), (Some(1), true));
}

#[tokio::test]
async fn without_a_node_there_is_exit_code_69_and_one_line_that_says_whom_was_asked() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = listener.local_addr().unwrap();
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead = free.local_addr().unwrap();
    drop(free);
    for (address, told) in [(dead, "cannot be asked"), (silent, "has not answered within 300ms")] {
        let begun = Instant::now();
        let ended = run(ask(address).arg("--timeout").arg("300ms")).await;
        assert_eq!((ended.status.code(), ended.stdout.as_str()), (Some(69), ""), "{}", ended.stderr);
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
        assert!(ended.stderr.starts_with(&format!("srs-proxy: http://{address} {told}")), "{}", ended.stderr);
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
}

#[tokio::test]
async fn another_program_is_not_taken_for_a_node() {
    for (answer, told) in [
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "does not know the request"),
        ("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n", "answers 500"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "gives no status"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n\u{e9}", "gives no status"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n{}", "gives no status"),
        ("SSH-2.0-OpenSSH\r\n", "cannot be asked"),
        ("", "cannot be asked"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        });
        let ended = run(ask(address)).await;
        assert_eq!((ended.status.code(), ended.stdout.as_str()), (Some(69), ""), "{answer}");
        assert!(ended.stderr.contains(told), "{answer}: {}", ended.stderr);
        server.await.unwrap();
    }
}

#[tokio::test]
async fn the_token_comes_from_the_settings_or_a_flag_and_is_never_printed() {
    let (server, _) = node(Some("s3cret"), None).await;
    let api = server.address;
    for accepted in [
        ask(api).env(TOKEN, "s3cret"),
        ask(api).dotenv(&format!("{TOKEN}=s3cret\n")),
        ask(api).env(TOKEN, "wr0ng").arg("--token=s3cret"),
    ] {
        let ended = run(accepted).await;
        assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
        assert!(!ended.stdout.contains("s3cret") && ended.stderr.is_empty());
    }
    for (refused, told) in [
        (ask(api), "it asks for a token"),
        (ask(api).env(TOKEN, "wr0ng"), "it does not accept the token"),
        (ask(api).arg("--token").arg("wr0ng"), "it does not accept the token"),
    ] {
        let ended = run(refused).await;
        assert_eq!((ended.status.code(), ended.stdout.as_str()), (Some(69), ""));
        assert!(ended.stderr.contains(told) && !ended.stderr.contains("wr0ng"), "{}", ended.stderr);
    }
    for odd in [ask(api).arg("--token=s3cr\u{e9}t"), ask(api).env(TOKEN, "s3cr\tt")] {
        let ended = run(odd).await;
        assert_eq!(ended.status.code(), Some(64), "{}", ended.stderr);
        assert!(ended.stderr.contains(TOKEN) && !ended.stderr.contains("s3cr"), "{}", ended.stderr);
    }
}

#[tokio::test]
async fn a_bad_option_ends_with_64_and_one_line_without_values() {
    for (start, told) in [
        (status().arg("--api").arg("https://s3cret@localhost"), "--api: expected http://HOST"),
        (status().arg("--timeout").arg("5"), "--timeout: expected a duration"),
        (status().env("PROXY_SYSTEM_API", "0"), "say with --api whom to ask"),
        (status().env("PROXY_SYSTEM_API", "x"), "PROXY_SYSTEM_API=\"x\" (environment): expected PORT"),
        (binary::binary().arg("cluster"), "cluster needs a command: cluster status"),
    ] {
        let ended = run(start).await;
        assert_eq!((ended.status.code(), ended.stdout.as_str()), (Some(64), ""), "{told}");
        assert!(ended.stderr.contains(told) && ended.stderr.lines().count() == 1, "{}", ended.stderr);
        assert!(!ended.stderr.contains("s3cret"), "{}", ended.stderr);
    }
}

#[test]
fn the_node_of_this_machine_is_asked_where_its_settings_say_that_it_listens() {
    let mut proxy = on_free_ports().start();
    let (_, system) = proxy.listening();
    let port = system.port();
    for start in [
        status().env("PROXY_SYSTEM_API", &port.to_string()),
        status().dotenv(&format!("PROXY_SYSTEM_API=0.0.0.0:{port}\n")),
    ] {
        let ended = start.run();
        assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
        assert!(ended.stdout.contains("balancer    memory: stable"), "{}", ended.stdout);
        assert_eq!(ended.stdout.lines().filter(|line| line.contains(" serving ")).count(), 1, "{}", ended.stdout);
    }
    proxy.signal("TERM");
    assert_eq!(proxy.ended().code(), Some(0));
}
