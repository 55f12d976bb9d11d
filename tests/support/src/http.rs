//! As much of an HTTP/1.1 client as the tests need.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// An answer.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub head: String,
    /// The body as text, which it need not be.
    pub body: String,
    pub bytes: Vec<u8>,
}

impl Response {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }
}

/// Asks for a resource. `Err` if the server cannot be reached or breaks off.
pub fn get(server: SocketAddr, path: &str) -> std::io::Result<Response> {
    send(server, "GET", path, "", "")
}

/// Posts a JSON body.
pub fn post(server: SocketAddr, path: &str, json: &str) -> std::io::Result<Response> {
    send(server, "POST", path, "application/json", json)
}

/// Sends a request; without a body, `kind` says nothing.
pub fn send(server: SocketAddr, method: &str, path: &str, kind: &str, body: &str) -> std::io::Result<Response> {
    let limit = Duration::from_secs(5);
    let mut stream = TcpStream::connect_timeout(&server, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n");
    let entity = match body.len() {
        0 => String::new(),
        length => format!("Content-Type: {kind}\r\nContent-Length: {length}\r\n"),
    };
    stream.write_all(format!("{head}{entity}\r\n{body}").as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;

    let broken = || std::io::Error::other(format!("not an HTTP answer: {}", String::from_utf8_lossy(&answer)));
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").ok_or_else(broken)?;
    let (head, bytes) = (String::from_utf8_lossy(&answer[..end]), answer[end + 4..].to_vec());
    assert!(!head.to_ascii_lowercase().contains("transfer-encoding"), "chunked answers are not understood: {head}");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(broken)?;
    let body = String::from_utf8_lossy(&bytes).into_owned();
    Ok(Response { status, head: head.into(), body, bytes })
}
