//! The system API of a node, as a person with curl uses it.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::Result;

const TIMEOUT: Duration = Duration::from_secs(10);
/// Items in a page, the most that the API gives.
const PAGE: usize = 1000;

/// A placement, as a node lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// The origin's id.
    pub origin: String,
    /// The epoch.
    pub epoch: u64,
}

/// Gets a resource, with its status.
pub async fn get(server: SocketAddr, path: &str) -> Result<(u16, Value)> {
    request(server, "GET", path, "").await
}

/// Registers an origin.
pub async fn register(server: SocketAddr, heartbeat: &str) -> Result<()> {
    let (status, answer) = request(server, "POST", "/api/v1/srs/register", heartbeat).await?;
    if status == 200 { Ok(()) } else { Err(format!("registration: {status} {answer}").into()) }
}

/// Whether a node takes clients.
pub async fn is_ready(server: SocketAddr) -> bool {
    get(server, "/readyz").await.is_ok_and(|(status, _)| status == 200)
}

/// How many items a list has.
pub async fn count(server: SocketAddr, list: &str) -> Result<usize> {
    let answer = ok(server, &format!("/api/v1/proxy/{list}?count=0")).await?;
    answer["total"].as_u64().map(|total| total as usize).ok_or_else(|| "no total".into())
}

/// All placements that a node knows, by stream.
pub async fn placements(server: SocketAddr) -> Result<BTreeMap<String, Placed>> {
    let mut all = BTreeMap::new();
    for start in (0..).step_by(PAGE) {
        let answer = ok(server, &format!("/api/v1/proxy/streams?start={start}&count={PAGE}")).await?;
        let page = answer["streams"].as_array().ok_or("no streams")?;
        for item in page {
            let text = |key: &str| item[key].as_str().map(str::to_owned).ok_or("no text");
            let epoch = item["epoch"].as_u64().ok_or("no epoch")?;
            all.insert(text("stream")?, Placed { origin: text("origin")?, epoch });
        }
        if page.len() < PAGE {
            break;
        }
    }
    Ok(all)
}

/// What a node says of the cluster.
pub async fn cluster(server: SocketAddr) -> Result<Value> {
    ok(server, "/api/v1/proxy/cluster").await
}

async fn ok(server: SocketAddr, path: &str) -> Result<Value> {
    let (status, answer) = get(server, path).await?;
    if status == 200 { Ok(answer) } else { Err(format!("{path}: {status} {answer}").into()) }
}

async fn request(server: SocketAddr, method: &str, path: &str, body: &str) -> Result<(u16, Value)> {
    timeout(TIMEOUT, exchange(server, method, path, body)).await.map_err(|_| format!("{path}: no answer"))?
}

async fn exchange(server: SocketAddr, method: &str, path: &str, body: &str) -> Result<(u16, Value)> {
    let mut stream = TcpStream::connect(server).await?;
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("not an HTTP answer")?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or("no status")?;
    Ok((status, serde_json::from_str(body)?))
}
