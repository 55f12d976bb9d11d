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
    pub body: String,
}

/// Asks for a resource. `Err` if the server cannot be reached or breaks off.
pub fn get(server: SocketAddr, path: &str) -> std::io::Result<Response> {
    request(server, "GET", path, "")
}

/// Posts a JSON body.
pub fn post(server: SocketAddr, path: &str, json: &str) -> std::io::Result<Response> {
    request(server, "POST", path, json)
}

fn request(server: SocketAddr, method: &str, path: &str, body: &str) -> std::io::Result<Response> {
    let limit = Duration::from_secs(5);
    let mut stream = TcpStream::connect_timeout(&server, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n");
    let entity = match body.len() {
        0 => String::new(),
        length => format!("Content-Type: application/json\r\nContent-Length: {length}\r\n"),
    };
    stream.write_all(format!("{head}{entity}\r\n{body}").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;

    let broken = || std::io::Error::other(format!("not an HTTP answer: {answer:?}"));
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(broken)?;
    assert!(!head.to_ascii_lowercase().contains("transfer-encoding"), "chunked answers are not understood: {head}");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(broken)?;
    Ok(Response { status, head: head.into(), body: body.into() })
}
