//! Many placements at once, in use or not.

use std::{net::SocketAddr, time::Duration};

use crate::{
    Result,
    client::{self, Client, Failure, Held, Role},
    fleet::each,
};

/// Sessions that begin at once.
const WIDTH: usize = 32;
/// How often a publisher that only keeps its place sends something. Less than the time after which
/// a silent session is ended.
const BREATH: Duration = Duration::from_secs(200);

/// Files that are not those of sessions.
const OTHER_FILES: u64 = 1000;

/// How many sessions this process can hold, of which each takes two files: the client's and the
/// origin's.
pub fn capacity() -> usize {
    let files = rlimit::Resource::NOFILE.get_soft().unwrap_or_default();
    (files.saturating_sub(OTHER_FILES) / 2) as usize
}

/// `count` publishers, spread over the nodes in turn.
pub async fn sessions(nodes: &[SocketAddr], prefix: &str, count: usize) -> Result<Vec<Held>> {
    let begun = each(count, WIDTH, |n| {
        let (node, name) = (nodes[n % nodes.len()], format!("{prefix}-{n}"));
        async move {
            let client = client::publisher(node, &name).await?;
            Ok::<_, Failure>(Held::new(client, &name, Role::Publisher(BREATH)))
        }
    })
    .await?;
    Ok(begun.into_iter().collect::<Result<_, _>>()?)
}

/// `count` placements that nobody uses, made through the nodes in turn: their players were told that
/// nobody publishes there.
pub async fn placements(nodes: &[SocketAddr], prefix: &str, count: usize) -> Result<()> {
    let made = each(count, WIDTH, |n| {
        let (node, name) = (nodes[n % nodes.len()], format!("{prefix}-{n}"));
        async move { Client::open(node).await?.play(&name).await }
    })
    .await?;
    match made
        .into_iter()
        .find(|made| !matches!(made, Err(failure) if failure.code() == "NetStream.Play.StreamNotFound"))
    {
        Some(other) => Err(format!("a player of a stream that nobody publishes: {other:?}").into()),
        None => Ok(()),
    }
}
