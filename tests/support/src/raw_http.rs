//! As much of an HTTP/1.1 client as the tests of our servers need: it sends any bytes, at any pace,
//! and notices when the server closes.

use std::{net::SocketAddr, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::timeout,
};

/// How long anything may take that is expected to happen.
pub const LIMIT: Duration = Duration::from_secs(10);

/// An answer. Header names are in lower case.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON; fails if the answer does not say that it is.
    pub fn json(&self) -> Value {
        assert_eq!(self.header("content-type"), Some("application/json"), "{self:?}");
        serde_json::from_slice(&self.body).unwrap()
    }

    /// `error` of the body; fails if its code is not the status.
    pub fn error(&self) -> String {
        let json = self.json();
        assert_eq!(json["code"], self.status, "{json}");
        json["error"].as_str().unwrap().to_owned()
    }
}

/// A connection.
pub struct Client(BufReader<TcpStream>);

impl Client {
    pub async fn connect(server: SocketAddr) -> Self {
        Self(BufReader::new(timeout(LIMIT, TcpStream::connect(server)).await.unwrap().unwrap()))
    }

    /// Sends bytes as they are. A server that has closed already is no failure here.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        timeout(LIMIT, self.0.write_all(bytes.as_ref())).await.unwrap().is_ok()
    }

    /// Sends a request without a body.
    pub async fn get(&mut self, path: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n")).await;
        self.answer().await
    }

    /// Sends a request with a body.
    pub async fn post(&mut self, path: &str, headers: &str, body: impl AsRef<[u8]>) -> Answer {
        let length = body.as_ref().len();
        self.send(format!("POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n{headers}\r\n")).await;
        self.send(body).await;
        self.answer().await
    }

    /// Reads an answer with its body.
    pub async fn answer(&mut self) -> Answer {
        timeout(LIMIT, async {
            let mut answer = self.head().await.expect("an answer, not the end of the connection");
            let length = answer.header("content-length").map_or(0, |length| length.parse().unwrap());
            assert_eq!(answer.header("transfer-encoding"), None, "{answer:?}");
            answer.body = vec![0; length];
            self.0.read_exact(&mut answer.body).await.unwrap();
            answer
        })
        .await
        .unwrap()
    }

    /// Reads an answer's header only, such as `HEAD` has. `None` if the server closed instead.
    pub async fn head(&mut self) -> Option<Answer> {
        let status = self.line().await?;
        let status = status.split(' ').nth(1).unwrap().parse().unwrap();
        let mut headers = Vec::new();
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Some(Answer { status, headers, body: Vec::new() });
            }
            let (name, value) = line.split_once(':').unwrap();
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = timeout(LIMIT, self.0.read_line(&mut line)).await.unwrap();
        // A reset is an end as well: the server closed while bytes were on their way to it.
        (read.unwrap_or(0) > 0).then(|| line.trim_end().to_owned())
    }

    /// Reads exactly `count` bytes of a body and throws them away.
    pub async fn some(&mut self, count: usize) -> usize {
        let mut bytes = vec![0; count];
        timeout(LIMIT, self.0.read_exact(&mut bytes)).await.unwrap().unwrap()
    }

    /// Reads exactly `count` bytes.
    pub async fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        timeout(LIMIT, self.0.read_exact(&mut bytes)).await.unwrap().unwrap();
        bytes
    }

    /// Waits until the server closes, and gives what it sent until then.
    pub async fn until_closed(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        let _ = timeout(LIMIT, self.0.read_to_end(&mut rest)).await.expect("the server closes");
        rest
    }

    /// Sends one byte after the other until the server closes, and gives what it sent until then.
    pub async fn dribble(&mut self, byte: u8) -> Vec<u8> {
        let mut received = Vec::new();
        timeout(LIMIT, async {
            loop {
                tokio::select! {
                    read = self.0.read_buf(&mut received) => {
                        if read.unwrap_or(0) == 0 {
                            return;
                        }
                    }
                    () = tokio::time::sleep(Duration::from_millis(10)) => {
                        let _ = self.0.get_mut().write_all(&[byte]).await;
                    }
                }
            }
        })
        .await
        .expect("the server closes");
        received
    }
}
