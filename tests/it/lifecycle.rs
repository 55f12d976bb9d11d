//! Start and stop of the real binary.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
};

use srs_proxy_test_support::binary::{on_free_ports, script};

#[test]
fn the_documented_command_line_starts_a_node() {
    let mut proxy = script(
        "exec env PROXY_RTMP_SERVER=0 PROXY_HTTP_SERVER=0 PROXY_HTTP_API=0 PROXY_SYSTEM_API=0 \
         PROXY_WEBRTC_SERVER=0 PROXY_SRT_SERVER=0 PROXY_LOAD_BALANCER_TYPE=memory ./srs-proxy",
    )
    .start();
    let line = proxy.line("listening");
    let field = |name: &str| line.split_whitespace().find_map(|word| word.strip_prefix(name)).unwrap().to_owned();
    assert_eq!(field("version="), format!("{:?}", env!("CARGO_PKG_VERSION")));
    assert_eq!(field("balancer="), "\"memory\"");
    for name in ["rtmp=", "http=", "http_api=", "system_api="] {
        let port = field(name).rsplit_once(':').unwrap().1.parse().unwrap();
        TcpStream::connect(("127.0.0.1", port)).unwrap();
    }
}

#[test]
fn both_listeners_take_connections_and_end_with_the_process() {
    let mut proxy = on_free_ports().start();
    let (rtmp, system) = proxy.listening();
    assert_ne!(rtmp, system);
    drop((TcpStream::connect(rtmp).unwrap(), TcpStream::connect(system).unwrap()));
    proxy.signal("TERM");
    proxy.ended();
    assert!(TcpStream::connect(rtmp).is_err() && TcpStream::connect(system).is_err());
}

#[test]
fn the_default_backend_is_registered_and_shown() {
    let mut proxy = on_free_ports()
        .env("PROXY_DEFAULT_BACKEND_ENABLED", "on")
        .env("PROXY_DEFAULT_BACKEND_IP", "localhost")
        .env("PROXY_DEFAULT_BACKEND_RTMP", "tcp://:1936")
        .start();
    let (_, system) = proxy.listening();
    proxy.event("default backend registered");
    let mut connection = TcpStream::connect(system).unwrap();
    let request = "GET /api/v1/proxy/origins HTTP/1.1\r\nHost: proxy\r\nConnection: close\r\n\r\n";
    connection.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("default-localhost:1936-"), "{answer}");
}

#[test]
fn a_port_in_use_is_told_and_nothing_is_served() {
    let taken = (TcpListener::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
    let (tcp, udp) = (taken.0.local_addr().unwrap().to_string(), taken.1.local_addr().unwrap().to_string());
    for (name, address) in [
        ("PROXY_RTMP_SERVER", &tcp),
        ("PROXY_HTTP_SERVER", &tcp),
        ("PROXY_HTTP_API", &tcp),
        ("PROXY_SYSTEM_API", &tcp),
        ("PROXY_WEBRTC_SERVER", &udp),
        ("PROXY_SRT_SERVER", &udp),
    ] {
        let ended = on_free_ports().env(name, address).run();
        assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
        let told = format!(
            "cannot start: {name}: cannot listen on {address}: in use by another process: stop it or set {name} to \
             another port"
        );
        assert!(ended.stderr.contains(&told), "{}", ended.stderr);
        assert!(!ended.stderr.contains("listening"), "{}", ended.stderr);
    }
}

#[test]
fn either_signal_ends_an_idle_node_at_once_and_cleanly() {
    for signal in ["TERM", "INT"] {
        // With the default grace timeout of 20 s a drain that waits for nothing would be noticed.
        let mut proxy = on_free_ports().start();
        proxy.listening();
        let told = std::time::Instant::now();
        proxy.signal(signal);
        assert_eq!(proxy.ended().code(), Some(0), "{:#?}", proxy.said());
        assert!(told.elapsed().as_secs() < 10);
        assert!(proxy.said().iter().any(|line| line.contains(&format!("\"signal\":\"SIG{signal}\""))));
    }
}

#[test]
fn the_limit_on_open_files_is_raised_as_far_as_it_goes() {
    let limited = "ulimit -Sn 256; ulimit -Hn 4096; exec env PROXY_RTMP_SERVER=127.0.0.1:0 \
                   PROXY_HTTP_SERVER=127.0.0.1:0 PROXY_HTTP_API=127.0.0.1:0 PROXY_SYSTEM_API=127.0.0.1:0 \
                   PROXY_WEBRTC_SERVER=127.0.0.1:0 PROXY_SRT_SERVER=127.0.0.1:0 PROXY_LOG_FORMAT=json ./srs-proxy";
    let mut proxy = script(limited).start();
    let warned = proxy.event("the limit on open files");
    assert_eq!((&warned["limit"], &warned["needed"]), (&4096.into(), &122_112.into()));
    proxy.listening();
    let limits = fs::read_to_string(format!("/proc/{}/limits", proxy.pid())).unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(files.split_whitespace().skip(3).take(2).collect::<Vec<_>>(), ["4096", "4096"], "{limits}");
}

#[test]
fn a_limit_on_open_files_that_suffices_is_not_warned_about() {
    let few = ["RTMP", "HTTP", "HTTP_API", "SYSTEM_API"];
    let start = few.iter().fold(on_free_ports(), |s, of| s.env(&format!("PROXY_{of}_MAX_CONNECTIONS"), "8"));
    let start = ["WEBRTC", "SRT"].iter().fold(start, |s, of| s.env(&format!("PROXY_{of}_MAX_SESSIONS"), "8"));
    let mut proxy = start.start();
    proxy.listening();
    assert!(!proxy.said().iter().any(|line| line.contains("open files")), "{:#?}", proxy.said());
}
