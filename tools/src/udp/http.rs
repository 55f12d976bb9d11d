//! The few requests that signalling needs.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::Result;

const TIMEOUT: Duration = Duration::from_secs(10);

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    head: String,
    /// The body.
    pub body: String,
}

impl Answer {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// Sends a request on a connection of its own.
pub async fn request(server: SocketAddr, method: &str, path: &str, body: &str) -> Result<Answer> {
    let exchange = async {
        let mut stream = TcpStream::connect(server).await?;
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\nContent-Type: application/sdp\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (head, body) = answer.split_once("\r\n\r\n").ok_or("not an answer of HTTP")?;
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or("an answer without status")?;
        Ok(Answer { status, head: head.to_owned(), body: body.to_owned() })
    };
    timeout(TIMEOUT, exchange).await.map_err(|_| format!("{method} {path}: no answer"))?
}
