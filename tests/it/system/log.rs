//! What registration writes to the log.

use std::{
    io,
    sync::{Arc, Mutex},
};

use srs_proxy::{balancer::Reachability, origin::OriginId};

use srs_proxy_test_support::system::{HEARTBEAT, MINIMAL, REGISTER, Server};

/// Collects log lines.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// Takes the log of this thread, on which everything runs that such a test starts.
    fn start() -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::INFO)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    /// The lines that hold `text`.
    fn lines(&self, text: &str) -> Vec<String> {
        let log = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        log.lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
    }
}

#[tokio::test]
async fn a_refusal_is_logged_once_however_often_it_is_repeated() {
    let (log, _guard) = Log::start();
    let server = Server::with_token("s3cret").await;
    for _ in 0..20 {
        let token = "Authorization: Bearer s3cret\r\n";
        server.client().await.post(REGISTER, token, MINIMAL.replace("1935", "notaport")).await;
        server.client().await.post(REGISTER, token, "{").await;
        server.client().await.post(REGISTER, "Authorization: Bearer gu3ss\r\n", MINIMAL).await;
    }
    let refused = log.lines("registration refused");
    assert_eq!(refused.len(), 3, "{refused:#?}");
    assert!(refused.iter().all(|line| line.contains("WARN") && line.contains("peer=127.0.0.1")), "{refused:#?}");
    assert!(refused[0].contains("rtmp") && refused[0].contains("status=400"), "{refused:#?}");
    assert!(refused[2].contains("status=401"), "{refused:#?}");
    assert!(log.lines("s3cret").is_empty() && log.lines("gu3ss").is_empty());
}

#[tokio::test]
async fn a_change_of_an_origin_is_logged_once_and_its_heartbeats_are_not() {
    let (log, _guard) = Log::start();
    let server = Server::start().await;
    let id = OriginId::from("vid-548182a-w4cc4303-8789");
    let expect = |text: &str, count: usize| assert_eq!(log.lines(text).len(), count, "{text}");
    for round in 1..=3 {
        for _ in 0..5 {
            assert_eq!(server.register(HEARTBEAT).await.status, 200);
        }
        expect("origin registered", 1);
        expect("device=origin1", 1);
        expect("origin is no longer suspect", round - 1);
        for _ in 0..5 {
            server.balancer.report(&id, Reachability::Failed("connection refused".into())).await;
        }
        expect("origin is suspect", round);
    }
    server.register(HEARTBEAT.replace("8789", "8790")).await;
    expect("origin restarted", 1);
    expect("vid-548182a-w4cc4303-8790", 1);
}
